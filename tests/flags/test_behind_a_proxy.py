"""A house behind a corporate proxy and a private authority: whoever asks a server outside goes that way."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from flags.errors import EvidenceError, FlagAdminError, RolloutError
from flags.rollout.reporting.notices import Notice
from flags.rollout.running import opened_admin, opened_readings, opened_webhook
from proxy.cli import main
from proxy.doctor.examination import Wishes, examine
from proxy.doctor.findings.diagnosis import Grade
from proxy.settings.file import load
from tests.rollout.rolling import policy
from tests.servers.authority import certificates
from tests.servers.corporate_proxy import CorporateProxy
from tests.servers.scripted import Asked, ScriptedUpstream, until
from tests.servers.serving import flag_document, headgate
from tests.servers.streaming import route

NAMES = ("unleash.test", "keys.test", "model.test", "prometheus.test", "hook.test", "app.test")
CREDENTIAL = "house:a word"


async def outside(asked: Asked) -> None:
    """Unleash, an issuer, a model, Prometheus and a webhook in one."""
    await asked.read_body()
    answers: dict[bytes, Any] = {b"/api/client/features": flag_document(), b"/keys": {"keys": []}}
    await asked.answer(json.dumps(answers.get(asked.target, {"asked": True})).encode())


@asynccontextmanager
async def house(
    directory: Path, *, proxy_tls: bool = False
) -> AsyncIterator[tuple[CorporateProxy, ScriptedUpstream, Path]]:
    """The proxy, all servers of `NAMES` in one, and the authority's file."""
    ca_file, served = certificates(directory, names=NAMES)
    proxy = CorporateProxy(credential=CREDENTIAL, tls=served if proxy_tls else None)
    async with ScriptedUpstream(outside, tls=served).running() as servers, proxy.running():
        proxy.places = {f"{name}:443": servers.port for name in NAMES}
        yield proxy, servers, ca_file


def settings_of(ca_file: Path, upstream: str) -> dict[str, Any]:
    return {
        "upstream": {"url": upstream, "pool": {"keep_alive_s": 0.1}},
        "tls": {"ca_file": str(ca_file)},
        "flags": {"unleash": {"url": "https://unleash.test", "token": "t", "timeout_s": 30}, "stale_s": 300},
        "identity": {"jwt": {"jwks_url": "https://keys.test/keys"}},
        "llm": {
            "providers": [{"name": "openai", "url": "https://model.test", "timeouts": {"connect_s": 30}}]
        },
    }


def by_settings(proxy: CorporateProxy) -> tuple[dict[str, Any], dict[str, str]]:
    username, _, password = CREDENTIAL.partition(":")
    return {"proxy": {"url": proxy.url, "username": username, "password": password}}, {}


def by_environment(proxy: CorporateProxy) -> tuple[dict[str, Any], dict[str, str]]:
    return {}, {"HTTPS_PROXY": proxy.url.replace("//", "//house:a%20word@")}


WAYS = pytest.mark.parametrize("way", [by_settings, by_environment])


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@WAYS
@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
async def test_flags_keys_and_models_are_reached_through_the_proxy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way: Any,
    proxy_tls: bool,
) -> None:
    """By settings or environment; the upstream, which stands beside Headgate, is reached straight."""
    async with AsyncExitStack() as stack:
        proxy, servers, ca_file = await stack.enter_async_context(house(tmp_path, proxy_tls=proxy_tls))
        app = await stack.enter_async_context(ScriptedUpstream(outside).running())
        settings, environment = way(proxy)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        given = settings_of(ca_file, app.url) | settings
        flags = given.pop("flags")
        given.pop("upstream")
        gate = await stack.enter_async_context(
            headgate(app.url, tmp_path, routes=[route()], flag_settings=flags, **given)
        )
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        page = await client.get(f"{gate.url}/page")
        call = await client.post(f"{gate.model_url}/openai/v1/chat/completions", json={"model": "m"})
        await until(lambda: "CONNECT keys.test:443" in proxy.asked, within_s=30)

        assert (page.status_code, call.json()) == (200, {"asked": True})
        assert set(proxy.asked) == {
            f"CONNECT {name}:443" for name in ("unleash.test", "keys.test", "model.test")
        }
        assert not any(asked.header(b"proxy-authorization") for asked in (*servers.asked, *app.asked))
    assert "word" not in caplog.text


async def test_the_upstream_is_behind_the_proxy_only_if_the_settings_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment alone never moves it: its connections carry the users' answers."""
    async with house(tmp_path) as (proxy, _, ca_file):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//house:a%20word@"))
        for goes, status in ((True, 200), (False, 502)):
            block = {"proxy": {"upstream": goes}, "tls": {"ca_file": str(ca_file)}}
            async with (
                headgate(
                    "https://app.test", tmp_path, upstream={"timeouts": {"connect_s": 30}}, **block
                ) as gate,
                httpx.AsyncClient(trust_env=False, timeout=60) as client,
            ):
                assert (await client.get(f"{gate.url}/page")).status_code == status

        assert proxy.asked == ["CONNECT app.test:443"]


@WAYS
async def test_doctor_and_check_go_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Any
) -> None:
    """And say who is behind the proxy."""
    async with house(tmp_path) as (proxy, _, ca_file), ScriptedUpstream(outside).running() as app:
        block, environment = way(proxy)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = tmp_path / "headgate.yaml"
        config.write_text(yaml.safe_dump(settings_of(ca_file, app.url) | block | {"routes": [route()]}))
        settings = load(config)
        wishes = Wishes(prometheus="https://prometheus.test")
        found = {each.check: each for each in await examine(settings, wishes, lambda _: None)}

        assert (found["flags"].status, found["provider openai"].status) == (Grade.OK, Grade.OK)
        assert f"through the proxy 127.0.0.1:{proxy.port}" in found["provider openai"].seen
        assert set(proxy.asked) == {
            f"CONNECT {name}:443" for name in ("unleash.test", "model.test", "prometheus.test")
        }
        checked = await asyncio.to_thread(CliRunner().invoke, main, ["check", "--config", str(config)])
    assert f"through the proxy 127.0.0.1:{proxy.port}" in checked.output
    assert "word" not in checked.output


@WAYS
async def test_the_controller_goes_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Any
) -> None:
    """To Unleash's Admin API, to Prometheus and to the webhook; a proxy's own page it reads straight."""
    async with house(tmp_path) as (proxy, servers, ca_file):
        block, environment = way(proxy)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        def ruled(**more: Any) -> Any:
            return policy(tmp_path, tls={"ca_file": str(ca_file)}, **block, **more)

        rollout = ruled(
            where={"unleash": {"url": "https://unleash.test", "token": "t"}},
            evidence={"prometheus": {"url": "https://prometheus.test", "selector": 'job="headgate"'}},
            notify={"webhook": "https://hook.test/hidden"},
        )
        async with opened_admin(rollout) as admin:
            with pytest.raises(FlagAdminError):
                await admin.read()
        async with opened_readings(rollout) as readings:
            with pytest.raises(EvidenceError):
                await readings.read(0)
        async with opened_webhook(rollout) as send:
            assert await send(Notice("r", 1, 0.0, "holding", "", "", 0, 0))
        pages = ruled(evidence={"pages": ["https://app.test/metrics"]})
        async with opened_readings(pages) as readings:
            with pytest.raises(EvidenceError):
                await readings.read(0)

        assert set(proxy.asked) == {
            f"CONNECT {name}:443" for name in ("unleash.test", "prometheus.test", "hook.test")
        }
        assert len({asked.target.split(b"?")[0] for asked in servers.asked}) == 3


async def test_an_environment_that_names_no_proxy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the proxies' command before they start, and by the controller; `environment: false` looks away."""
    monkeypatch.setenv("ALL_PROXY", "socks5://hidden@corp:1080")
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    config = tmp_path / "headgate.yaml"

    async def checked(block: Mapping[str, Any]) -> Any:
        config.write_text(yaml.safe_dump({"upstream": {"url": "http://127.0.0.1:9"}, **block}))
        return await asyncio.to_thread(CliRunner().invoke, main, ["check", "--config", str(config)])

    refused, taken = await checked({}), await checked({"proxy": {"environment": False}})
    with pytest.raises(RolloutError, match="ALL_PROXY"):
        async with opened_webhook(policy(tmp_path, notify={"webhook": "https://hook.test"})):
            pass

    assert refused.exit_code == 1 and "proxy: ALL_PROXY of the environment must be" in refused.output
    assert "hidden" not in refused.output
    assert taken.exit_code == 0
