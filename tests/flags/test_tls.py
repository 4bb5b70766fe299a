"""TLS to real servers over loopback: what strictness refuses, how that is said, and what nothing relaxes."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flags.errors import EvidenceError, FlagAdminError, LeaseError
from flags.rollout.leases.kubernetes_api import ApiServer
from flags.rollout.reporting.notices import Notice
from flags.rollout.running import opened_admin, opened_readings, opened_webhook
from flags.tls import strictly, why
from proxy.settings.settings import Settings
from tests.rollout.rolling import policy
from tests.servers.authority import LACKS, certificates
from tests.servers.ports import free_socket
from tests.servers.scripted import until
from tests.servers.serving import headgate
from tests.servers.streaming import route

AKI = "Authority Key Identifier"
SAID = (
    "certificate refused of 127.0.0.1: Missing Authority Key Identifier of CN=upstream; "
    "tls.strict: false trusts certificates that are valid but for this"
)


@dataclass
class Secure:
    """A server with TLS that hears what it is asked, says 503, and hangs up."""

    context: ssl.SSLContext
    heard: list[bytes] = field(default_factory=list)
    port: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Secure"]:
        server = await asyncio.start_server(self._hear, sock=free_socket(), ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.read(100))
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()


async def refusal(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """Return why a connection of the one to the other is refused; "" if it is made."""
    async with Secure(server).running() as secure:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", secure.port, ssl=client)
        except ssl.SSLError as exc:
            return why(exc)
        writer.write(b"hello")
        await until(lambda: secure.heard == [b"hello"])
        writer.close()
        return ""


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of what was logged, what says so."""
    records = (json.dumps(vars(record), default=str) for record in caplog.records)
    return [record for record in records if SAID in record]


@pytest.mark.parametrize("lack", LACKS)
async def test_a_certificate_that_lacks_something_is_named_and_trusted_on_request(
    tmp_path: Path, lack: str
) -> None:
    """Strict: whose it is, and which setting relaxes that. Not strict: it is good, on every Python."""
    ca_file, server = certificates(tmp_path, without=lack)
    refused = await refusal(strictly(ssl.create_default_context(cafile=ca_file), True), server)
    trusted = await refusal(strictly(ssl.create_default_context(cafile=ca_file), False), server)

    assert refused.startswith("certificate refused of 127.0.0.1: ")
    assert refused.endswith(
        f" of CN={LACKS[lack]}; tls.strict: false trusts certificates that are valid but for this"
    )
    assert trusted == ""


async def test_a_complete_certificate_is_good_in_any_case(tmp_path: Path) -> None:
    """With strictness and without."""
    ca_file, server = certificates(tmp_path)
    for strict in (True, False):
        assert await refusal(strictly(ssl.create_default_context(cafile=ca_file), strict), server) == ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": "127.0.0.2"}, "'127.0.0.1'; the settings must name the server as its certificate does"),
        (
            {"days": -1},
            "certificate has expired; the server needs a new one, or this machine's clock is ahead",
        ),
        (
            {},
            "unable to get local issuer certificate; nobody here trusts who signed it: "
            "the authority belongs into the ca_file of this server, or of all",
        ),
    ],
    ids=["name", "dates", "chain"],
)
async def test_nothing_else_is_ever_relaxed(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    """Another server's name, a date that is over and an unknown authority are refused all the same, and the
    error says whose certificate it is, and what mends it."""
    ca_file, server = certificates(tmp_path, without=AKI, **wrong)
    client = ssl.create_default_context(cafile=ca_file) if wrong else ssl.create_default_context()
    refused = await refusal(strictly(client, False), server)

    assert refused.startswith("certificate refused of 127.0.0.1: ")
    assert refused.endswith(said)
    assert "tls.strict" not in refused


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
async def test_the_setting_holds_for_everything_that_the_proxy_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    """Upstream, provider, Unleash, keys and store: strict, none is asked, and the log says why of each."""
    ca_file, context = certificates(tmp_path, without=AKI)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))  # as the keys' issuer has no `ca_file` of its own
    names = ("upstream", "provider", "unleash", "issuer", "store")
    async with AsyncExitStack() as stack:
        served = {name: await stack.enter_async_context(Secure(context).running()) for name in names}
        url = {name: f"https://127.0.0.1:{secure.port}" for name, secure in served.items()}
        tls = {"ca_file": str(ca_file)}
        settings = {
            "upstream": {"tls": tls},
            "flag_settings": {"unleash": {"url": url["unleash"], "token": "t", "ca_file": str(ca_file)}},
            "identity": {"jwt": {"jwks_url": f"{url['issuer']}/keys"}},
            "event_log": {
                "valkey": {
                    "url": f"rediss://127.0.0.1:{served['store'].port}?ssl_ca_certs={ca_file}",
                    "key": "k" * 32,
                }
            },
            "llm": {"providers": [{"name": "openai", "url": url["provider"], "tls": tls}]},
        }
        gate = await stack.enter_async_context(
            headgate(url["upstream"], tmp_path, tls={"strict": strict}, routes=[route()], **settings)
        )
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        await client.get(f"{gate.url}/page")
        await client.post(f"{gate.model_url}/openai/v1/chat/completions", json={"model": "m"})
        if strict:
            await until(lambda: len(refusals(caplog)) >= len(names), within_s=10)
        else:
            await until(lambda: all(secure.heard for secure in served.values()), within_s=10)

    assert {name for name, secure in served.items() if secure.heard} == (set() if strict else set(names))
    assert bool(refusals(caplog)) is strict


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
async def test_the_policy_says_the_same_for_everything_that_the_controller_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    """Unleash's Admin API, Prometheus, the webhook and Kubernetes, each with the same words for why not."""
    ca_file, context = certificates(tmp_path, without=AKI)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    (tmp_path / "token").write_text("t")
    async with Secure(context).running() as secure:
        url = f"https://127.0.0.1:{secure.port}"
        rollout = policy(
            tmp_path,
            where={"unleash": {"url": url, "token": "t"}},
            evidence={"prometheus": {"url": url, "selector": 'job="headgate"'}},
            notify={"webhook": url},
            tls={"strict": strict},
        )
        async with opened_admin(rollout) as admin:
            with pytest.raises(FlagAdminError) as unleash:
                await admin.read()
        async with opened_readings(rollout) as readings:
            with pytest.raises(EvidenceError) as prometheus:
                await readings.read(0)
        async with opened_webhook(rollout) as send:
            await send(Notice("r", 1, 0.0, "holding", "", "", 0, 0))
        async with ApiServer(
            url, token_file=tmp_path / "token", ca_file=ca_file, strict_tls=rollout.tls.strict
        ) as kubernetes:
            with pytest.raises(LeaseError) as lease:
                await kubernetes.ask("GET", "/version", expects=frozenset())

    reasons = [str(unleash.value), str(prometheus.value), caplog.text, str(lease.value)]
    assert [SAID in reason for reason in reasons] == [strict] * 4
    asked = {request.split(b" ")[1].split(b"?")[0] for request in secure.heard}
    assert len(asked) == (0 if strict else 4)


WAYS = pytest.mark.parametrize("way", ["one for all", "one for each"])
"""Of naming private authorities: the two of `tls.ca_file` and `ca_file`."""


@WAYS
async def test_private_authorities_are_trusted_by_everything_that_the_proxy_asks(
    tmp_path: Path, way: str
) -> None:
    """Upstream, provider, Unleash, keys and store; the system's authorities know none of them."""
    ca_file, context = certificates(tmp_path)
    own: dict[str, Any] = {} if way == "one for all" else {"ca_file": str(ca_file)}
    names = ("upstream", "provider", "unleash", "issuer", "store")
    async with AsyncExitStack() as stack:
        served = {name: await stack.enter_async_context(Secure(context).running()) for name in names}
        url = {name: f"https://127.0.0.1:{secure.port}" for name, secure in served.items()}
        settings: dict[str, Any] = {
            "tls": {} if own else {"ca_file": str(ca_file)},
            "upstream": {"tls": own},
            "flag_settings": {"unleash": {"url": url["unleash"], "token": "t", **own}},
            "identity": {"jwt": {"jwks_url": f"{url['issuer']}/keys", **own}},
            "event_log": {
                "valkey": {"url": f"rediss://127.0.0.1:{served['store'].port}", "key": "k" * 32, **own}
            },
            "llm": {"providers": [{"name": "openai", "url": url["provider"], "tls": own}]},
        }
        gate = await stack.enter_async_context(
            headgate(url["upstream"], tmp_path, routes=[route()], **settings)
        )
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        await client.get(f"{gate.url}/page")
        await client.post(f"{gate.model_url}/openai/v1/chat/completions", json={"model": "m"})

        await until(lambda: all(secure.heard for secure in served.values()), within_s=30)


@WAYS
async def test_private_authorities_are_trusted_by_everything_that_the_controller_asks(
    tmp_path: Path, way: str
) -> None:
    """Unleash's Admin API, Prometheus and the webhook."""
    ca_file, context = certificates(tmp_path)
    own: dict[str, Any] = {} if way == "one for all" else {"ca_file": str(ca_file)}
    async with Secure(context).running() as secure:
        url = f"https://127.0.0.1:{secure.port}"
        rollout = policy(
            tmp_path,
            where={"unleash": {"url": url, "token": "t", **own}},
            evidence={"prometheus": {"url": url, "selector": 'job="headgate"', **own}},
            notify={"webhook": url, **own},
            tls={} if own else {"ca_file": str(ca_file)},
        )
        async with opened_admin(rollout) as admin:
            with pytest.raises(FlagAdminError):
                await admin.read()
        async with opened_readings(rollout) as readings:
            with pytest.raises(EvidenceError):
                await readings.read(0)
        async with opened_webhook(rollout) as send:
            await send(Notice("r", 1, 0.0, "holding", "", "", 0, 0))

    asked = {request.split(b" ")[1].split(b"?")[0] for request in secure.heard}
    assert len(asked) == 3


def test_a_servers_own_authorities_take_precedence(tmp_path: Path) -> None:
    """A server without its own gets those of all, and nothing else of the settings changes."""
    ca_file, _ = certificates(tmp_path)
    (tmp_path / "own").mkdir()
    own, _ = certificates(tmp_path / "own")
    document = {
        "upstream": {"url": "https://ehr", "tls": {"ca_file": str(own)}},
        "llm": {"providers": [{"name": "openai", "url": "https://api"}]},
        "flags": {"unleash": {"url": "https://unleash", "token": "t"}},
        "tls": {"ca_file": str(ca_file)},
    }

    settings = Settings.model_validate(document)

    assert settings.llm is not None
    assert settings.flags.unleash is not None
    assert settings.upstream.tls.ca_file == own
    assert settings.llm.providers[0].tls.ca_file == settings.flags.unleash.ca_file == ca_file
    assert "breaker" not in settings.upstream.model_fields_set
    assert "limits" not in settings.model_fields_set
