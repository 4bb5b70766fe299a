"""The upstream's timeouts on a streamed run: each fires at its time, and nothing that we send touches it.

All are measured at the upstream's own connection, from its own last sign of life to the end of the
connection, and not by what the viewer sees.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers.client import EITHER, PATIENCE_S, Stream, browser, eventually, opened, scrape, signed
from tests.servers.ports import free_socket
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import headgate
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, route

pytestmark = pytest.mark.alone

WAIT_S = 1.0
"""The timeout under test; all others are out of reach."""

FAR_S = 60.0
BUSY_S = 0.03
"""Heartbeats thirty times while a timeout is waited for, and progress five times; quiet streams have none."""

QUIET_S = 15.0
HEARTBEAT = b": hb\n"
BODY = answer()
FIRST_TEXT = BODY[: BODY.index(b'"summary"')]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)


def now() -> float:
    return asyncio.get_running_loop().time()


def on_time(seconds: float) -> Any:
    """From a twentieth before, for the clocks and the way, to half as long again on a busy machine."""
    return pytest.approx(1.225 * seconds, abs=0.275 * seconds)


async def gone(asked: Asked, within_s: float = PATIENCE_S) -> bool:
    """Wait for the peer to close, so long at most; whether it has."""
    try:
        async with asyncio.timeout(within_s):
            await asked.reader.read()
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def silent(asked: Asked) -> None:
    """Takes the request, and says nothing."""


async def stops_at_once(asked: Asked) -> None:
    """A head, and nothing behind it."""
    await asked.send(HEAD)


async def stops_in_the_body(asked: Asked) -> None:
    """The first text, and nothing behind it."""
    await asked.send(HEAD + FIRST_TEXT)


async def drips(asked: Asked) -> None:
    """White space for ever: alive, and never done."""
    await asked.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    while not await gone(asked, WAIT_S / 20):
        await asked.send(b"1\r\n \r\n")


@dataclass
class Timed:
    """An upstream that plays a script, and takes the time from then on until its peer closes."""

    script: Callable[[Asked], Awaitable[None]]
    from_the_request: bool = False
    """Take it from the request on."""
    waits_s: dict[bytes, list[float]] = field(default_factory=dict)
    """By target."""

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        came_at = now()
        await self.script(asked)
        since = came_at if self.from_the_request else now()
        assert await gone(asked)
        self.waits_s.setdefault(asked.target, []).append(now() - since)
        asked.writer.close()


BUSY, QUIET, HELD = "/busy", "/quiet", "/held"


def routes() -> list[dict[str, Any]]:
    """The same three times: with many heartbeats, with one, and before anything is sent."""
    chosen: dict[str, dict[str, Any]] = {
        BUSY: {"commit_after": 0, "heartbeat_s": BUSY_S, "progress": True, "progress_s": WAIT_S / 5},
        QUIET: {"commit_after": 0, "heartbeat_s": QUIET_S},
        HELD: {"commit_after": 10, "heartbeat_s": BUSY_S},
    }
    return [
        {**route(name=path[1:], match=f"POST {path}", **more), "stream_path": None}
        for path, more in chosen.items()
    ]


def assert_busy(stream: Stream) -> None:
    """A busy machine may have left some out."""
    assert stream.raw.count(HEARTBEAT) > 10
    assert stream.types.count("progress") >= 3


@dataclass
class Ended:
    """One request as its client saw it end."""

    path: str
    took_s: float
    status: int
    stream: Stream


async def ask(client: Any, path: str) -> Ended:
    begun = now()
    async with opened(client, path, signed(accept=EITHER), content=path.encode()) as stream:
        await stream.rest()
    return Ended(path, now() - begun, stream.status, stream)


@asynccontextmanager
async def house(upstream: ScriptedUpstream, directory: Path, **timeouts: float) -> AsyncIterator[Any]:
    far = {"connect_s": FAR_S, "first_byte_s": FAR_S, "idle_s": FAR_S, "total_s": FAR_S}
    of_upstream = {"timeouts": {**far, **timeouts}}
    async with (
        upstream.running(),
        headgate(upstream.url, directory, routes=routes(), upstream=of_upstream) as serving,
        browser(serving.url) as client,
    ):
        yield serving, client


CASES: dict[str, tuple[str, Callable[[], Timed], str]] = {
    "first byte": ("first_byte_s", lambda: Timed(silent), "first_byte_timeout"),
    "idle before the body": ("idle_s", lambda: Timed(stops_at_once), "idle_timeout"),
    "idle in the body": ("idle_s", lambda: Timed(stops_in_the_body), "idle_timeout"),
    "total without an answer": ("total_s", lambda: Timed(silent), "total_timeout"),
    "total in a silent body": ("total_s", lambda: Timed(stops_in_the_body, True), "total_timeout"),
    "total in a live body": ("total_s", lambda: Timed(drips, True), "total_timeout"),
}


@pytest.mark.parametrize("name", CASES)
async def test_each_timeout_fires_at_its_time(name: str, tmp_path: Path) -> None:
    """With many heartbeats or none: ours neither reset it nor bring it about."""
    setting, made, fault = CASES[name]
    timed = made()
    async with house(ScriptedUpstream(timed), tmp_path, **{setting: WAIT_S}) as (serving, client):
        busy, quiet, held = await asyncio.gather(*(ask(client, path) for path in (BUSY, QUIET, HELD)))
        samples = await scrape(client, serving.admin_url)

    assert timed.waits_s == {path.encode(): [on_time(WAIT_S)] for path in (BUSY, QUIET, HELD)}
    assert [ended.took_s for ended in (busy, quiet, held)] == [on_time(WAIT_S)] * 3
    assert_busy(busy.stream)
    assert quiet.stream.raw.count(HEARTBEAT) == 1
    for ended in (busy, quiet):
        assert ended.stream.last["type"] == "error"
        assert ended.stream.last["metadata"]["error_code"] == fault
        assert ended.stream.last["metadata"]["status"] == 504
    for path in (BUSY, QUIET, HELD):
        counted = {
            key: value
            for key, value in samples.items()
            if key.startswith("headgate_faults_total{") and f'route="{path[1:]}"' in key and value
        }
        assert list(counted.values()) == [1]
        assert f'fault="{fault}"' in next(iter(counted))


@pytest.mark.parametrize("name", ["first byte", "idle before the body", "total without an answer"])
async def test_before_anything_is_sent_a_timeout_has_its_own_status(name: str, tmp_path: Path) -> None:
    """504 at its time: the headers wait for the first text, and the timeout does not wait for them."""
    setting, made, _ = CASES[name]
    async with house(ScriptedUpstream(made()), tmp_path, **{setting: WAIT_S}) as (_, client):
        held = await ask(client, HELD)

    assert held.status == 504
    assert held.took_s == on_time(WAIT_S)
    assert held.stream.headers["content-type"] == "application/problem+json"


async def test_text_that_was_shown_stays_when_the_rest_does_not_come(tmp_path: Path) -> None:
    """Partial, and said so, a tenth of the timeout after its time at the latest."""
    timed = Timed(stops_in_the_body)
    async with house(ScriptedUpstream(timed), tmp_path, idle_s=WAIT_S) as (_, client):
        busy = await ask(client, BUSY)

    assert busy.stream.texts() == {"extraction": EXTRACTION}
    assert busy.stream.last["metadata"]["partial"] is True
    assert timed.waits_s == {BUSY.encode(): [on_time(WAIT_S)]}


async def test_a_connection_that_does_not_come_about_is_given_up(tmp_path: Path) -> None:
    """Its TLS is never answered: each of the attempts ends after `connect_s`, whatever we send meanwhile."""
    waits_s: list[float] = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = now()
        while await reader.read(1024):
            pass
        waits_s.append(now() - begun)
        writer.close()

    server = await asyncio.start_server(mute, sock=free_socket())
    of_upstream = {"timeouts": {"connect_s": WAIT_S}, "tls": {"verify": False}}
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        headgate(url, tmp_path, routes=routes(), upstream=of_upstream) as serving,
        browser(serving.url) as client,
    ):
        busy, quiet, held = await asyncio.gather(*(ask(client, path) for path in (BUSY, QUIET, HELD)))
        await eventually(lambda: len(waits_s) == 9)
    server.close()

    assert waits_s == [on_time(WAIT_S)] * 9
    assert_busy(busy.stream)
    assert [ended.stream.last["metadata"]["error_code"] for ended in (busy, quiet)] == ["connect", "connect"]
    assert held.status == 502


# What is slow and alive is left alone


async def slow_to_begin(asked: Asked) -> None:
    """Its head comes just in time."""
    await asked.read_body()
    assert not await gone(asked, WAIT_S * 0.8)
    await asked.send(HEAD + BODY)


async def slow_throughout(asked: Asked) -> None:
    """A few bytes at a time, for several times as long as it may be silent."""
    await asked.read_body()
    await asked.send(HEAD)
    step = len(BODY) // 12
    for start in range(0, len(BODY), step):
        assert not await gone(asked, WAIT_S / 4)
        await asked.send(BODY[start : start + step])


async def slow_twice(asked: Asked) -> None:
    """Almost too late with its head, and with its body: each phase has its own time."""
    await asked.read_body()
    assert not await gone(asked, WAIT_S * 0.8)
    await asked.send(HEAD + FIRST_TEXT)
    assert not await gone(asked, WAIT_S * 0.8)
    await asked.send(BODY[len(FIRST_TEXT) :])


@pytest.mark.parametrize("script", [slow_to_begin, slow_throughout, slow_twice])
async def test_a_slow_upstream_that_lives_is_never_cut(script: Any, tmp_path: Path) -> None:
    """The answer is complete, however often we have said that we wait, and however long the whole takes."""
    upstream = ScriptedUpstream(script)
    async with house(upstream, tmp_path, first_byte_s=WAIT_S, idle_s=WAIT_S) as (_, client):
        busy, quiet, held = await asyncio.gather(*(ask(client, path) for path in (BUSY, QUIET, HELD)))

    for ended in (busy, quiet, held):
        assert ended.stream.last["type"] == "stream_done"
        assert ended.stream.texts() == {"extraction": EXTRACTION, "summary": SUMMARY}
        assert ended.stream.last["metadata"]["recovered"] is False
    assert_busy(busy.stream)
    assert len(upstream.asked) == 3
