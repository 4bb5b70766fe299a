"""A call that failed is sent again where the table allows it: over sockets, counted at the upstream."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.runs.recovery import PAUSES_S
from proxy.sources.repeat import JITTER
from tests.servers.client import EITHER, browser, eventually, opened, read, scrape, signed
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, Script, ScriptedUpstream, raw
from tests.servers.serving import Serving, headgate
from tests.servers.streaming import EXTRACTION, START, SUMMARY, WHOLE, answer, answering, route

SAFE = {"replay": "safe"}
SOON_S = 0.3
SOON = {"timeouts": {"first_byte_s": SOON_S}}
IN_A_SECOND = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
"""`Retry-After` in its other form, which is as long as the upstream's clock says."""
ONCE, TWICE, THREE_TIMES = 1, 2, 3
FIRST_S, SECOND_S = PAUSES_S
SLACK_S = 2.0
"""Seconds by which a pause may be longer than it should be, on a busy machine."""


def busy(retry_after: str | None, status: bytes = b"503 Service Unavailable") -> Script:
    """An upstream that refuses; with `retry_after`, for now."""
    extra = b"" if retry_after is None else b"retry-after: %b\r\n" % retry_after.encode()
    return answering(b'{"detail": "later"}', status, extra)


async def resets(asked: Asked) -> None:
    """Takes the whole request, and breaks off without a word."""
    await asked.read_body()
    asked.writer.transport.abort()


async def breaks_off(asked: Asked) -> None:
    """Half of the answer: the first text is whole."""
    await asked.read_body()
    body = answer()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    await asked.send(head + body[: body.index(b'"summary"')])
    asked.writer.close()


async def hangs(asked: Asked) -> None:
    """Says nothing until its peer leaves."""
    await asked.read_body()
    await asked.reader.read()
    asked.writer.close()


good = answering(answer())


@dataclass
class InTurn:
    """An upstream that plays one script a call, the last one for ever; when each came is kept."""

    scripts: list[Script]

    def __post_init__(self) -> None:
        self.came_at: list[float] = []

    async def __call__(self, asked: Asked) -> None:
        self.came_at.append(asyncio.get_running_loop().time())
        await self.scripts[min(len(self.came_at), len(self.scripts)) - 1](asked)

    @property
    def calls(self) -> int:
        return len(self.came_at)

    @property
    def pauses_s(self) -> list[float]:
        return [later - sooner for sooner, later in zip(self.came_at, self.came_at[1:], strict=False)]


@dataclass
class House:
    """A Headgate, and its client."""

    serving: Serving
    client: httpx.AsyncClient

    async def counted(self, name: str) -> dict[str, float]:
        """The samples of a counter that are not 0, by its fault and its other label: `connect/nothing`."""
        found: dict[str, float] = {}
        for sample, value in (await scrape(self.client, self.serving.admin_url)).items():
            if value and sample.startswith(f"headgate_{name}_total{{"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', sample))
                del labels["route"]
                found[f"{labels.pop('fault')}/{''.join(labels.values())}"] = value
        return found

    async def faults(self) -> dict[str, float]:
        return await self.counted("faults")

    async def recovered(self) -> dict[str, bool]:
        """Return whether each fault that hit the run was overcome."""
        recoveries = await self.counted("recoveries")
        assert set(recoveries.values()) <= {1.0}
        return {key.split("/")[0]: not key.endswith("/failed") for key in recoveries}


@asynccontextmanager
async def house(upstream_url: str, directory: Path, **more: Any) -> AsyncIterator[House]:
    async with (
        headgate(upstream_url, directory, routes=[route(**more)], upstream=SOON) as serving,
        browser(serving.url) as client,
    ):
        yield House(serving, client)


@asynccontextmanager
async def before(script: Script, directory: Path, **more: Any) -> AsyncIterator[House]:
    async with (
        ScriptedUpstream(script).running() as upstream,
        house(upstream.url, directory, **more) as found,
    ):
        yield found


# Overcome: the user sees nothing of it


OVERCOME: dict[str, tuple[Script, dict[str, Any], str, float]] = {
    "503, later": (busy("1"), {}, "status", 1.0),
    "429, later": (busy("1", b"429 Slow Down"), {}, "status", 1.0),
    "503, at once": (busy("0"), {}, "status", FIRST_S),
    "503, safe": (busy(None), SAFE, "status", FIRST_S),
    "500, safe": (busy(None, b"500 Oops"), SAFE, "status", FIRST_S),
    "reset, safe": (resets, SAFE, "reset", FIRST_S),
    "no HTTP, safe": (raw(b"what?\r\n\r\n"), SAFE, "malformed", FIRST_S),
    "no answer in time, safe": (hangs, SAFE, "first_byte_timeout", SOON_S + FIRST_S),
}


@pytest.mark.parametrize("name", OVERCOME)
async def test_a_failure_that_passes_is_not_seen(name: str, tmp_path: Path) -> None:
    """The stream is the one of a call that never failed; metrics and `recovered` tell of it."""
    fails, more, fault, pause_s = OVERCOME[name]
    script = InTurn([fails, good])
    async with before(script, tmp_path, **more) as at:
        stream = await read(at.client, START, signed())
        undisturbed = await read(at.client, START, signed(), content=b"another")
        faults, recovered = await at.faults(), await at.recovered()

    assert stream.texts() == WHOLE
    assert stream.types == undisturbed.types
    assert (stream.last["metadata"]["recovered"], undisturbed.last["metadata"]["recovered"]) == (True, False)
    assert script.calls == 2 + 1
    assert pause_s <= script.pauses_s[0] <= pause_s * (1 + JITTER) + SLACK_S
    assert faults == {f"{fault}/nothing": 1}
    assert recovered == {fault: True}


async def test_an_upstream_that_is_started_late_is_waited_for(tmp_path: Path) -> None:
    """Refused connections cost nothing: the call is sent once, when somebody takes it."""
    port = free_port()
    script = InTurn([good])
    async with house(f"http://127.0.0.1:{port}", tmp_path) as at:

        async def refused() -> bool:
            return "connect/nothing" in await at.faults()

        reading = asyncio.create_task(read(at.client, START, signed()))
        await eventually(refused)
        async with ScriptedUpstream(script, port).running():
            stream = await reading
        recovered = await at.recovered()

    assert stream.texts() == WHOLE
    assert stream.last["metadata"]["recovered"] is True
    assert script.calls == ONCE
    assert recovered == {"connect": True}


async def test_text_that_was_shown_is_not_shown_again(tmp_path: Path) -> None:
    """The answer breaks off behind its first text: a safe call is repeated, and the stream goes on."""
    script = InTurn([breaks_off, good])
    async with before(script, tmp_path, **SAFE) as at:
        stream = await read(at.client, START, signed())
        faults, recovered = await at.faults(), await at.recovered()

    assert stream.texts() == WHOLE
    assert "content_replace" not in stream.types
    assert stream.last["type"] == "stream_done"
    assert script.calls == TWICE
    assert faults == {"truncated/content": 1}
    assert recovered == {"truncated": True}


async def test_who_takes_no_stream_gets_the_answer_of_the_repetition(tmp_path: Path) -> None:
    """Byte for byte, with its status, as if nothing had been."""
    script = InTurn([busy("0"), good])
    async with before(script, tmp_path, batch_heartbeat_s=5) as at:
        response = await at.client.post(START, headers=signed(accept=None))

    assert (response.status_code, response.content) == (200, answer())
    assert script.calls == TWICE


# Not overcome: one call, or three, and the truth


TOLD: dict[str, tuple[Script, dict[str, Any], int, str, int]] = {
    "503, much later": (busy("11"), {}, ONCE, "status", 503),
    "503, much later, safe": (busy("11"), SAFE, ONCE, "status", 503),
    "429, by a date": (busy(IN_A_SECOND, b"429 Slow Down"), {}, ONCE, "status", 429),
    "429, by a date, safe": (busy(IN_A_SECOND, b"429 Slow Down"), SAFE, ONCE, "status", 429),
    "429, nonsense, safe": (busy("-1", b"429 Slow Down"), SAFE, ONCE, "status", 429),
    "503, without a word": (busy(None), {}, ONCE, "status", 503),
    "500, later": (busy("1", b"500 Oops"), {}, ONCE, "status", 500),
    "404, safe": (busy("1", b"404 Nothing"), SAFE, ONCE, "status", 404),
    "reset": (resets, {}, ONCE, "reset", 502),
    "no HTTP": (raw(b"what?\r\n\r\n"), {}, ONCE, "malformed", 502),
    "no answer in time": (hangs, {}, ONCE, "first_byte_timeout", 504),
    "503, again and again": (busy("0"), {}, THREE_TIMES, "status", 503),
    "reset, again and again, safe": (resets, SAFE, THREE_TIMES, "reset", 502),
}


@pytest.mark.parametrize("name", TOLD)
async def test_a_failure_that_stays_is_told(name: str, tmp_path: Path) -> None:
    """With its own status, after so many calls and not one more; each of their failures is counted."""
    fails, more, calls, fault, status = TOLD[name]
    script = InTurn([fails])
    async with before(script, tmp_path, commit_after=10, **more) as at:
        response = await at.client.post(START, headers=signed(accept=EITHER))
        faults, recovered = await at.faults(), await at.recovered()

    assert response.status_code == status
    assert script.calls == calls
    if fault == "status":
        assert response.json() == {"detail": "later"}
    assert faults == {f"{fault}/nothing": calls}
    assert recovered == {fault: False}


async def test_the_upstreams_own_date_reaches_the_client(tmp_path: Path) -> None:
    """A client that is told to come later is told when, in the upstream's words."""
    async with before(busy(IN_A_SECOND), tmp_path) as at:
        response = await at.client.post(START, headers=signed(accept=EITHER))

    assert response.headers["retry-after"] == IN_A_SECOND


async def test_pauses_grow_and_there_are_two(tmp_path: Path) -> None:
    """Each up to a fifth longer than it must be, so that what failed together does not come back together."""
    script = InTurn([resets])
    async with before(script, tmp_path, commit_after=0, **SAFE) as at:
        stream = await read(at.client, START, signed())

    assert stream.types == ["error"]
    assert len(script.pauses_s) == 2
    for pause_s, least_s in zip(script.pauses_s, PAUSES_S, strict=True):
        assert least_s <= pause_s <= least_s * (1 + JITTER) + SLACK_S


async def test_nobody_there_is_told_after_the_third_look(tmp_path: Path) -> None:
    """502: three refused connections, and nothing was sent."""
    async with house(f"http://127.0.0.1:{free_port()}", tmp_path) as at:
        begun = asyncio.get_running_loop().time()
        response = await at.client.post(START, headers=signed(accept=EITHER))
        took_s = asyncio.get_running_loop().time() - begun
        faults, recovered = await at.faults(), await at.recovered()

    assert response.status_code == 502
    assert sum(PAUSES_S) <= took_s <= sum(PAUSES_S) * (1 + JITTER) + SLACK_S
    assert faults == {"connect/nothing": 3}
    assert recovered == {"connect": False}


async def test_an_answer_that_breaks_off_is_not_asked_for_again_unless_it_is_safe(tmp_path: Path) -> None:
    """The text that was shown stays, the end says that it is partial, and the upstream has worked once."""
    script = InTurn([breaks_off])
    async with before(script, tmp_path) as at:
        stream = await read(at.client, START, signed())
        faults, recovered = await at.faults(), await at.recovered()

    assert stream.texts() == {"extraction": EXTRACTION}
    assert stream.last["metadata"]["error_code"] == "truncated"
    assert stream.last["metadata"]["partial"] is True
    assert script.calls == ONCE
    assert faults == {"truncated/content": 1}
    assert recovered == {"truncated": False}


# A run that is not to go on


async def test_a_run_that_was_ended_meanwhile_is_not_repeated(tmp_path: Path) -> None:
    """Its viewers were told to ask again: the upstream must not do the same work twice."""
    script = InTurn([busy("1")])
    async with before(script, tmp_path) as at:

        async def failed() -> bool:
            return bool(await at.faults())

        reading = asyncio.create_task(read(at.client, START, signed()))
        await eventually(failed)
        at.serving.app.runs.end_all()
        await reading
        await at.serving.app.runs.settled(5)

    assert script.calls == ONCE


async def test_a_run_that_is_cancelled_in_its_pause_is_over(tmp_path: Path) -> None:
    """At once, and without another call."""
    script = InTurn([busy("9")])
    async with (
        before(script, tmp_path, commit_after=0) as at,
        opened(at.client, START, signed()) as stream,
    ):
        await eventually(lambda: script.calls == ONCE)
        await at.client.delete(f"/_headgate/runs/{stream.run}", headers=signed())
        async with asyncio.timeout(6):
            await stream.rest()
            await at.serving.app.runs.settled(6)

    assert stream.last["metadata"]["error_code"] == "cancelled"
    assert script.calls == ONCE


# Several calls, one run


STAGES = {
    "source": "stages",
    "stages": {
        "calls": [
            {"stage": "extraction", "request": "POST /one"},
            {"stage": "summary", "request": "POST /two", "body": {"of": "{{ extraction $.text }}"}},
        ],
        "answer": {"result": {"extraction": "{{ extraction $.text }}", "summary": "{{ summary $.text }}"}},
    },
}
ONE = answering(json.dumps({"text": EXTRACTION}).encode())
TWO = answering(json.dumps({"text": SUMMARY}).encode())


@dataclass
class ByPath:
    """An upstream with a script for each path."""

    scripts: dict[bytes, InTurn]

    async def __call__(self, asked: Asked) -> None:
        await self.scripts[asked.target](asked)

    @property
    def calls(self) -> list[int]:
        return [script.calls for script in self.scripts.values()]


@pytest.mark.parametrize(
    ("one", "two", "more", "calls", "phase"),
    [
        ([busy("0"), ONE], [TWO], {}, [2, 1], "nothing"),
        ([ONE], [busy("0"), TWO], {}, [1, 2], "content"),
        ([ONE], [resets, TWO], SAFE, [1, 2], "content"),
    ],
    ids=["the first, busy", "the second, busy", "the second, reset"],
)
async def test_of_a_group_only_the_call_that_failed_is_repeated(
    one: list[Script], two: list[Script], more: dict[str, Any], calls: list[int], phase: str, tmp_path: Path
) -> None:
    """The other stages have done their work once."""
    script = ByPath({b"/one": InTurn(one), b"/two": InTurn(two)})
    async with before(script, tmp_path, **STAGES, **more) as at:
        stream = await read(at.client, START, signed())
        faults, recovered = await at.faults(), await at.recovered()

    assert stream.texts() == WHOLE
    assert stream.types.count("stage_start") == 2
    assert script.calls == calls
    assert [key.split("/")[1] for key in faults] == [phase]
    assert list(faults.values()) == [1]
    assert list(recovered.values()) == [True]


async def test_a_group_whose_stage_stays_broken_ends_with_what_it_has(tmp_path: Path) -> None:
    """Not safe, so the second stage is asked once; the first one's text stays."""
    script = ByPath({b"/one": InTurn([ONE]), b"/two": InTurn([resets])})
    async with before(script, tmp_path, **STAGES) as at:
        stream = await read(at.client, START, signed())

    assert stream.texts() == {"extraction": EXTRACTION, "summary": ""}
    assert stream.last["metadata"]["error_code"] == "reset"
    assert script.calls == [1, 1]
