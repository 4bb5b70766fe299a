"""`headgate doctor` on the upstream and on flags."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flags.egress import STRAIGHT
from proxy.doctor import flag_server, upstream
from proxy.doctor.findings.clock import compared
from proxy.doctor.findings.diagnosis import Grade
from proxy.settings.blocks.flags import UnleashSettings
from proxy.upstream.pool import Origin
from tests.doctor.deployments import date, examined, saying, settings_of
from tests.servers.authority import certificates
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import flag_document

TOKEN = "default:development.not-to-be-seen-by-anybody"
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
    """uvicorn's 5 seconds outlive the 4 of `keep_alive_s`."""
    assert upstream.keep_alive(upstream.Kept(False, closed_after_s), 4.0).status is grade


async def test_a_clock_is_compared_with_the_time_of_the_answer() -> None:
    """Slow checks in between make no difference."""
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
