"""`headgate doctor`: each server that a deployment needs, well and with a fault."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from flags.egress import STRAIGHT
from proxy.doctor import flag_server, providers, store, upstream
from proxy.doctor.clock import compared
from proxy.doctor.diagnosis import Grade
from proxy.settings.flags import UnleashSettings
from proxy.settings.upstream import ProviderSettings
from proxy.upstream.pool import Origin
from tests.doctor.deployments import date, examined, saying, settings_of
from tests.servers.authority import certificates
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import flag_document
from tests.servers.streaming import free_port
from tests.servers.tapping import Provider, completion, whole
from tests.servers.valkey_server import ValkeyServer, valkey

pytestmark = pytest.mark.anyio

TOKEN = "default:development.not-to-be-seen-by-anybody"
KEY = "a key of a model provider, not to be seen"
FLAGS = {"headgate.streaming", "headgate.kill"}


async def test_a_deployment_that_is_well_has_nothing_to_do(tmp_path: Path) -> None:
    """All is ok or was not asked for."""
    async with (
        ScriptedUpstream(saying({})).running() as app,
        ScriptedUpstream(saying({}, b"404 Not Found")).running() as model,
    ):
        llm = {"providers": [{"name": "openai", "url": model.url}]}
        found = await examined(settings_of(tmp_path, app.url, llm=llm))

    assert {name: each.status.value for name, each in found.items()} == {
        "upstream": "ok",
        "upstream clock": "ok",
        "upstream keep-alive": "ok",
        "flags": "ok",
        "store": "skipped",
        "provider openai": "ok",
        "prometheus": "skipped",
    }
    assert {asked.target for asked in [*app.asked, *model.asked]} == {b"/"}


# The upstream.


async def test_an_upstream_that_is_away(tmp_path: Path) -> None:
    found = await examined(settings_of(tmp_path, f"http://127.0.0.1:{free_port()}"))

    assert found["upstream"].status is Grade.FAIL
    assert "refused" in found["upstream"].seen
    assert found["upstream keep-alive"].status is Grade.SKIPPED


async def test_an_upstream_that_nobody_is_behind(tmp_path: Path) -> None:
    """A proxy answers for it."""
    async with ScriptedUpstream(saying({}, b"502 Bad Gateway")).running() as app:
        found = await examined(settings_of(tmp_path, app.url))

    assert found["upstream"].status is Grade.WARN


async def test_an_upstream_whose_authority_nobody_trusts(tmp_path: Path) -> None:
    """The same TLS as Headgate's: with `ca_file` it is well."""
    ca_file, side = certificates(tmp_path)
    async with ScriptedUpstream(saying({}), tls=side).running() as app:
        strange = await examined(settings_of(tmp_path, app.url))
        known = await examined(settings_of(tmp_path, app.url, upstream={"tls": {"ca_file": str(ca_file)}}))

    assert strange["upstream"].status is Grade.FAIL
    assert "certificate" in strange["upstream"].seen
    assert known["upstream"].status is Grade.OK


@pytest.mark.parametrize(("behind_s", "says"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_wrong_clock(tmp_path: Path, behind_s: float, says: str) -> None:
    async with ScriptedUpstream(saying({}, behind_s=behind_s)).running() as app:
        found = await examined(settings_of(tmp_path, app.url))

    assert found["upstream clock"].status is Grade.WARN
    assert says in found["upstream clock"].seen


@pytest.mark.parametrize("date_field", [None, "", "yesterday"])
def test_a_clock_that_cannot_be_told(date_field: str | None) -> None:
    assert compared("clock", date_field, datetime.now(UTC), 0.1).status is Grade.SKIPPED


async def closing(asked: Asked) -> None:
    """It keeps no connection after its answer, and does not say so."""
    await asked.answer(b"{}", extra=date())
    asked.writer.close()


async def announcing(asked: Asked) -> None:
    await asked.answer(b"{}", extra=date() + b"connection: close\r\n")
    asked.writer.close()


async def old(asked: Asked) -> None:
    await asked.send(b"HTTP/1.0 200 OK\r\n\r\n{}")
    asked.writer.close()


@pytest.mark.parametrize(
    ("script", "says"),
    [(closing, "Headgate keeps one for"), (announcing, "closes each connection"), (old, "closes each")],
)
async def test_an_upstream_that_keeps_connections_for_less_long_than_headgate(
    tmp_path: Path, script: Any, says: str
) -> None:
    """A request could come just then, and be lost."""
    async with ScriptedUpstream(script).running() as app:
        found = await examined(settings_of(tmp_path, app.url))

    assert found["upstream keep-alive"].status is Grade.WARN
    assert says in found["upstream keep-alive"].seen


@pytest.mark.parametrize(
    ("closed_after_s", "grade"), [(None, Grade.OK), (5.0, Grade.OK), (4.0, Grade.WARN), (0.0, Grade.WARN)]
)
def test_a_connection_need_only_outlive_headgates_use_of_it(
    closed_after_s: float | None, grade: Grade
) -> None:
    """As uvicorn's 5 seconds outlive the 4 of `keep_alive_s`."""
    assert upstream.keep_alive(upstream.Kept(False, closed_after_s), 4.0).status is grade


async def test_a_clock_is_compared_with_the_time_of_the_answer() -> None:
    """However long the checks take that come between."""
    async with ScriptedUpstream(saying({})).running() as app:
        found, _ = await upstream.look(app.url, Origin("127.0.0.1", 0, keep_alive_s=1.6))

    assert [each.status for each in found] == [Grade.OK] * 3


async def test_an_upstream_that_breaks_the_connection_is_no_answer() -> None:
    async def breaking(asked: Asked) -> None:
        asked.writer.close()

    async with ScriptedUpstream(breaking).running() as app:
        assert await upstream.keeps(app.url, None, 5) is None
        found, _ = await upstream.look(app.url, Origin("127.0.0.1", 0, keep_alive_s=0.1))

    assert found[0].status is Grade.FAIL


# Flags.


def unleash(url: str) -> UnleashSettings:
    return UnleashSettings.model_validate({"url": url, "token": TOKEN})


@pytest.mark.parametrize(
    ("body", "status", "grade", "says"),
    [
        (flag_document(), b"200 OK", Grade.OK, "project default, environment development"),
        ({}, b"401 Unauthorized", Grade.FAIL, "refuses the token"),
        ({}, b"403 Forbidden", Grade.FAIL, "refuses the token"),
        ({}, b"404 Not Found", Grade.FAIL, "answers 404"),
        ("a page", b"200 OK", Grade.FAIL, "no flags"),
        (
            {"version": 1, "features": [{"name": "headgate.kill"}]},
            b"200 OK",
            Grade.WARN,
            "no headgate.streaming",
        ),
    ],
)
async def test_a_flag_server(body: Any, status: bytes, grade: Grade, says: str) -> None:
    """It is asked once, and told of nothing; the token is in no word."""
    async with ScriptedUpstream(saying(body, status)).running() as server:
        found, clock = await flag_server.look_at_server(unleash(server.url), FLAGS, STRAIGHT, strict=True)

    assert (found.status, clock.status) == (grade, Grade.OK)
    assert says in found.seen
    assert "not-to-be-seen" not in repr(found)
    [asked] = server.asked
    assert asked.target == b"/api/client/features" and asked.header(b"authorization") == TOKEN.encode()


async def test_a_flag_server_that_is_away_or_has_another_time() -> None:
    found, clock = await flag_server.look_at_server(
        unleash("http://127.0.0.1:9"), FLAGS, STRAIGHT, strict=True
    )
    async with ScriptedUpstream(saying(flag_document(), behind_s=600)).running() as server:
        _, late = await flag_server.look_at_server(unleash(server.url), FLAGS, STRAIGHT, strict=True)

    assert (found.status, clock.status) == (Grade.FAIL, Grade.SKIPPED)
    assert late.status is Grade.WARN


@pytest.mark.parametrize("token", ["no-scope", "a-secret.with-a-dot", "x" * 300 + ":y.z", ""])
def test_a_token_without_a_scope_says_none(token: str) -> None:
    """Nothing of it is shown that may be secret."""
    assert flag_server.scope(token) == ""


def test_a_flag_file(tmp_path: Path) -> None:
    """Good, without a flag, broken, and away."""
    path = tmp_path / "flags.json"
    grades = []
    for text in (json.dumps(flag_document()), '{"features": []}', "{", None):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        grades.append(flag_server.look_at_file(path, FLAGS).status)

    assert grades == [Grade.OK, Grade.WARN, Grade.FAIL, Grade.FAIL]


# The store.


@pytest.fixture(scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ValkeyServer]:
    """A store with a password, which evicts what was used least."""
    options = ("--requirepass", "secret", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    async with valkey(tmp_path_factory.mktemp("valkey"), *options) as server:
        yield server


async def test_a_store_that_is_well(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server:
        served, evicting = await store.look(server.url, strict=True)

    assert (served.status, evicting.status) == (Grade.OK, Grade.OK)
    assert "version" in served.seen and evicting.seen == "noeviction"


@pytest.mark.parametrize(
    ("login", "grade", "says"),
    [
        ("", Grade.FAIL, "or wants one"),
        (":wrong@", Grade.FAIL, "or wants one"),
        (":secret@", Grade.OK, "login"),
    ],
)
async def test_a_store_with_a_password(locked: ValkeyServer, login: str, grade: Grade, says: str) -> None:
    url = f"redis://{login}127.0.0.1:{locked.port}"
    served, evicting = await store.look(url, strict=True)

    assert served.status is grade and says in served.seen
    assert evicting.status is (Grade.WARN if grade is Grade.OK else Grade.SKIPPED)
    assert not any(word in repr(served) + repr(evicting) for word in ("secret", "wrong"))


async def test_a_store_that_lets_its_user_do_nothing(tmp_path: Path) -> None:
    async with valkey(tmp_path, "--user", "ada", "on", ">secret", "~*", "-@all") as server:
        served, _ = await store.look(f"redis://ada:secret@127.0.0.1:{server.port}", strict=True)

    assert served.status is Grade.FAIL and "does not let this user ask" in served.seen
    assert "secret" not in repr(served)


async def test_a_store_that_is_away() -> None:
    served, evicting = await store.look(f"redis://:secret@127.0.0.1:{free_port()}", strict=True)

    assert (served.status, evicting.status) == (Grade.FAIL, Grade.SKIPPED)
    assert "secret" not in repr(served)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"role": "slave"}, "replica"),
        ({"redis_mode": "cluster"}, "cluster"),
        ({"redis_version": "5.0.14"}, "5.0.14"),
    ],
)
def test_a_store_that_cannot_keep_runs(info: dict[str, str], says: str) -> None:
    found = store.served(info)

    assert found.status is Grade.FAIL and says in found.seen


def test_a_store_that_says_nothing_of_eviction() -> None:
    """Managed ones forbid to ask; and without a limit nothing is evicted."""
    assert store.evicting(None, None).status is Grade.SKIPPED
    assert store.evicting("allkeys-lru", "0").status is Grade.OK


# Providers.


async def test_a_provider_that_cannot_be_reached(tmp_path: Path) -> None:
    llm = {"providers": [{"name": "openai", "url": f"http://127.0.0.1:{free_port()}"}]}
    async with ScriptedUpstream(saying({})).running() as app:
        found = await examined(settings_of(tmp_path, app.url, llm=llm))

    assert found["provider openai"].status is Grade.FAIL
    assert "url" in found["provider openai"].advice


def model_provider(url: str) -> ProviderSettings:
    return ProviderSettings.model_validate({"name": "models", "url": url})


TEXTS = {"Say hello.": "Hello"}


@pytest.mark.parametrize(
    ("batch", "grade", "says"),
    [
        ({}, Grade.OK, "makes its batch answer"),
        ({"Say hello.": completion("Hello") | {"billing": {"cost": 1}}}, Grade.WARN, "billing.cost"),
    ],
)
async def test_a_models_stream_beside_its_batch_answer(batch: Any, grade: Grade, says: str) -> None:
    """Two calls of one token, with the key, which no word has."""
    provider = Provider(TEXTS, batch=batch)
    async with provider.upstream.running() as model:
        found = await providers.compare(model_provider(model.url), STRAIGHT, "small", KEY, strict=True)

    assert (found.status, says in found.seen) == (grade, True)
    assert [(body["max_tokens"], body.get("stream", False)) for body in provider.bodies] == [
        (1, False),
        (1, True),
    ]
    assert {asked.header(b"authorization") for asked in provider.upstream.asked} == {f"Bearer {KEY}".encode()}
    assert KEY not in repr(found)


async def refusing(asked: Asked, events: list[bytes]) -> None:
    await asked.answer(b'{"error": {"message": "' + KEY.encode() + b'"}}', b"403 Forbidden")


async def unknown(asked: Asked, events: list[bytes]) -> None:
    await whole(asked, [b'data: {"choices": [{"delta": {"words": "Hel"}}]}\n\n', *events])


async def cut(asked: Asked, events: list[bytes]) -> None:
    await whole(asked, events[:2])


async def failing(asked: Asked, events: list[bytes]) -> None:
    await whole(asked, [b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'])


@pytest.mark.parametrize(
    ("stream", "grade"),
    [(refusing, Grade.FAIL), (unknown, Grade.WARN), (cut, Grade.WARN), (failing, Grade.FAIL)],
)
async def test_a_model_whose_stream_makes_no_batch_answer(stream: Any, grade: Grade) -> None:
    provider = Provider(TEXTS, stream=stream)
    async with provider.upstream.running() as model:
        found = await providers.compare(model_provider(model.url), STRAIGHT, "small", KEY, strict=True)

    assert found.status is grade
    assert KEY not in repr(found)


async def test_a_model_that_refuses_the_key() -> None:
    async with ScriptedUpstream(saying({}, b"401 Unauthorized")).running() as model:
        found = await providers.compare(model_provider(model.url), STRAIGHT, "small", "", strict=True)

    assert found.status is Grade.FAIL
    assert "HEADGATE_PROBE_KEY" in found.advice


async def test_calls_of_bedrock_are_not_made() -> None:
    """They would have to be signed."""
    provider = model_provider("https://bedrock-runtime.eu-central-1.amazonaws.com")
    found = await providers.compare(
        provider.model_copy(update={"api": "bedrock"}), STRAIGHT, "m", KEY, strict=True
    )

    assert found.status is Grade.SKIPPED


# Prometheus.


def sample(value: float, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [0, str(value)]}


WELL: dict[str, list[dict[str, Any]]] = {
    "count(headgate_build_info)": [sample(2)],
    "max(time()": [sample(8)],
    "count by": [sample(9, route="start"), sample(9, route="unmatched")],
    "count(process": [sample(2)],
}


@pytest.mark.parametrize(
    ("fault", "grade", "says"),
    [
        ({}, Grade.OK, "scrapes 2 admin ports"),
        ({"count(headgate_build_info)": []}, Grade.FAIL, "does not scrape"),
        ({"max(time()": [sample(3000)]}, Grade.WARN, "3000 s ago"),
        ({"count by": [sample(1, route="other")]}, Grade.WARN, "routes start"),
        ({"count(process": []}, Grade.WARN, "process_start_time_seconds"),
    ],
)
async def test_a_prometheus(tmp_path: Path, fault: dict[str, Any], grade: Grade, says: str) -> None:
    results = {**WELL, **fault}

    async def answering(asked: Asked) -> None:
        [query] = parse_qs(urlsplit(asked.target.decode()).query)["query"]
        result = next(result for start, result in results.items() if query.startswith(start))
        await asked.answer(json.dumps({"status": "success", "data": {"result": result}}).encode())

    async with (
        ScriptedUpstream(saying({})).running() as app,
        ScriptedUpstream(answering).running() as server,
    ):
        found = await examined(settings_of(tmp_path, app.url), prometheus=server.url)

    assert found["prometheus"].status is grade
    assert says in found["prometheus"].seen


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
async def test_what_is_no_prometheus(tmp_path: Path, status: bytes) -> None:
    async with ScriptedUpstream(saying([], status)).running() as app:
        found = await examined(settings_of(tmp_path, app.url), prometheus=app.url)

    assert found["prometheus"].status is Grade.FAIL


async def test_a_server_that_says_nothing_holds_nobody_up() -> None:
    """Each request has a bound in time."""
    said = asyncio.Event()

    async def silent(asked: Asked) -> None:
        await said.wait()

    async with ScriptedUpstream(silent).running() as app:
        found, _ = await upstream.look(app.url, Origin("127.0.0.1", 0), within_s=0.2)
        said.set()

    assert found[0].status is Grade.FAIL
    assert "no whole answer within 0.2 s" in found[0].seen
