"""Forgotten runs: no run, text or body outlives its eviction, with the collector turned off.

A cycle would keep them until a full collection, which a server with a large heap makes seldom.
"""

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.followed_runs import IDLE_S
from proxy.replicas.run_copy import RunCopy
from proxy.runs.run import Run
from proxy.runs.shown import ShownTexts
from proxy.text.event_log import EventLog, LogReader
from proxy.text.events import Transcript
from proxy.text.live_text import LiveTexts
from proxy.upstream.client import Answer, Request
from proxy.upstream.exchange import Exchange
from proxy.viewers.viewer import Viewer
from tests.replicas.shared_run import same, say, watch, whole
from tests.replicas.sharing import Replica, claimed, replica
from tests.replicas.test_takeover import begun, followed, lose
from tests.servers.client import EITHER, PATIENCE_S, SSE, eventually
from tests.servers.scripted import Asked, Script, ScriptedUpstream, talking
from tests.servers.serving import Serving, headgate, token
from tests.servers.streaming import answer, route
from tests.servers.tapping import CALLS, Backend, Provider
from tests.servers.valkey_server import ValkeyServer, valkey

CONTENT = {Run, ShownTexts, EventLog, Answer, Request, Transcript, LiveTexts, RunCopy, FollowedRun, Exchange}
READERS = {Viewer, LogReader}
SECRET = b"Fever-of-this-very-patient"
TEXT = f"{SECRET.decode()} of 38.9 °C, and more of it. " * 5
ANSWER = answer(TEXT, TEXT)
ASKED = json.dumps({"text": SECRET.decode()}).encode()


@contextmanager
def uncollected() -> Iterator[Callable[[], Counter[str]]]:
    """Turn the collector off; the function says what is alive of all that was made since and has content."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield _alive
    finally:
        gc.enable()
        gc.unfreeze()


def _alive() -> Counter[str]:
    found = Counter[str]()
    for thing in gc.get_objects():
        if type(thing) in CONTENT | READERS:
            found[type(thing).__name__] += 1
        elif type(thing).__module__ not in _OF_THE_TEST:
            parts = (part for part in gc.get_referents(thing) if type(part) in (bytes, bytearray, str))
            found[f"text in {type(thing).__qualname__}"] += sum(
                (SECRET.decode() if isinstance(part, str) else SECRET) in part for part in parts
            )
    return +found


_OF_THE_TEST = {"httpx", "tests.servers.scripted"}


FATES = ("whole", "status", "malformed", "textless", "reset", "truncated", "held")
"""The ends of a call at the upstream; a call that is held has none until somebody ends it."""

SOURCES: dict[str, dict[str, Any]] = {
    "batch": {},
    "native": {
        "native": {
            "format": "sse",
            "events": [
                {"event": "say", "stage_at": "$.stage", "at": "$.text"},
                {"event": "end", "means": "done"},
            ],
            "answer": {
                "result": {"extraction": "{{ text $.extraction }}", "summary": "{{ text $.summary }}"}
            },
        }
    },
    "poll": {
        "poll": {
            "path": "/api/rows",
            "row": "$.rows[?@.stage == '{stage}']",
            "updated_at": ["$.at"],
            "every_ms": 100,
        }
    },
    "stages": {
        "stages": {
            "calls": [
                {"stage": "extraction", "request": "POST /api/one", "body": {"t": "{{ request $.text }}"}},
                {"stage": "summary", "request": "POST /api/one", "body": {"of": "{{ extraction $.text }}"}},
            ],
            "answer": {
                "result": {"extraction": "{{ extraction $.text }}", "summary": "{{ summary $.text }}"}
            },
        }
    },
    "tap": {"tap": CALLS},
}


def routes() -> list[dict[str, Any]]:
    sections = [
        {"stage": "extraction", "at": "$.result.extraction", "poll_at": "$.text"},
        {"stage": "summary", "panel": "chat", "at": "$.result.summary", "poll_at": "$.text"},
    ]
    return [
        route(
            name=source,
            match=f"POST /api/{source}",
            stream_path=None,
            sections=sections if source == "poll" else route()["sections"],
            source=source,
            commit_after=0,
            progress=True,
            **more,
        )
        for source, more in SOURCES.items()
    ]


class House:
    """An upstream for every source, and a client that keeps nothing."""

    def __init__(self, url: str, backend: Backend) -> None:
        self.url = url
        self.backend = backend

    async def end(self, source: str, fate: str, accept: str = SSE) -> bytes:
        """The whole answer of one call."""
        async with asyncio.timeout(PATIENCE_S), talking(self.url) as client:
            return (await client.ask(_post(source, fate, accept))).body

    async def leave(self, source: str, fate: str) -> None:
        async with asyncio.timeout(PATIENCE_S), talking(self.url) as client:
            await client.send(_post(source, fate))
            await client.head()

    async def cut_and_resume(self, source: str) -> None:
        async with asyncio.timeout(PATIENCE_S), talking(self.url) as client:
            await client.send(_post(source, "whole"))
            run = (await client.head()).header(b"headgate-run")
        assert run is not None
        async with asyncio.timeout(PATIENCE_S), talking(self.url) as client:
            assert (await client.ask(_get(run, b"/events"))).status == 200

    async def join_and_cancel(self, source: str) -> None:
        """Three who ask for the same, one of them for batch; a fourth ends it for all."""
        async with talking(self.url) as one, talking(self.url) as two, talking(self.url) as three:
            await one.send(_post(source, "held"))
            run = (await one.head()).header(b"headgate-run")
            await two.send(_post(source, "held", "*/*, text/event-stream"))
            await two.head()
            await three.send(_post(source, "held", "application/json"))
            assert run is not None
            async with asyncio.timeout(PATIENCE_S), talking(self.url) as other:
                assert (await other.ask(_get(run, b"", b"DELETE"))).status == 202
                async for _ in one.chunks():
                    pass


def _post(source: str, fate: str, accept: str = SSE) -> bytes:
    return (
        f"POST /api/{source} HTTP/1.1\r\nhost: h\r\naccept: {accept}\r\nx-fate: {fate}\r\n"
        f"authorization: Bearer {token()}\r\ncontent-length: {len(ASKED)}\r\n\r\n"
    ).encode() + ASKED


def _get(run: bytes, rest: bytes, method: bytes = b"GET") -> bytes:
    head = b"%b /_headgate/runs/%b%b HTTP/1.1\r\nhost: h\r\nauthorization: Bearer %b\r\n\r\n"
    return head % (method, run, rest, token().encode())


async def answered(backend: Script, asked: Asked) -> None:
    fate = (asked.header(b"x-fate") or b"whole").decode()
    path = asked.target.decode().removeprefix("/api/")
    if path == "tap" and fate == "whole":
        await backend(asked)
        return
    await asked.read_body()
    if path == "rows":
        rows = [{"stage": stage, "text": TEXT, "at": monotonic()} for stage in ("extraction", "summary")]
        await asked.answer(json.dumps({"rows": rows}).encode())
    elif fate == "held":
        await asyncio.Event().wait()
    elif path == "native" and fate in {"whole", "truncated"}:
        await _stream(asked, to_its_end=fate == "whole")
    else:
        await _answer(asked, json.dumps({"text": TEXT}).encode() if path == "one" else ANSWER, fate)


async def _stream(asked: Asked, *, to_its_end: bool) -> None:
    await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for stage in ("extraction", "summary"):
        said = json.dumps({"stage": stage, "text": TEXT}).encode()
        await asked.send(b"event: say\ndata: %b\n\n" % said)
    await asked.send(b"event: end\ndata: {}\n\n" if to_its_end else b"")
    asked.writer.close()


async def _answer(asked: Asked, body: bytes, fate: str) -> None:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    match fate:
        case "status":
            await asked.answer(body, b"500 No")
        case "malformed":
            await asked.answer(body[:-1])
        case "textless":
            await asked.answer(json.dumps({"said": SECRET.decode()}).encode())
        case "reset":
            asked.writer.transport.abort()
        case "truncated":
            await asked.send(head % (b"200 OK", len(body) + 1) + body)
            asked.writer.close()
        case _:
            await asked.answer(body)


@asynccontextmanager
async def house(directory: Path) -> AsyncIterator[tuple[House, Serving, ScriptedUpstream]]:
    provider = Provider({"extraction": TEXT, "summary": TEXT})
    backend = Backend()
    async with (
        provider.upstream.running() as model,
        ScriptedUpstream(lambda asked: answered(backend, asked)).running() as upstream,
        headgate(
            upstream.url,
            directory,
            routes=routes(),
            llm={"providers": [{"name": "models", "url": model.url}]},
            event_log={"memory": {"ttl_s": 1}},
        ) as serving,
    ):
        backend.model_url = serving.model_url
        yield House(serving.url, backend), serving, upstream


@pytest.mark.parametrize("source", SOURCES)
async def test_nothing_outlives_its_eviction(source: str, tmp_path: Path) -> None:
    """No object and no text of a run is alive afterwards, however it ended, and whoever watched it."""
    async with house(tmp_path) as (client, serving, upstream):
        await client.end(source, "whole")  # what is made once is made now
        kept = 0
        with uncollected() as alive:
            for fate in FATES[:-1]:
                await client.end(source, fate)
                kept += serving.app.runs.kept > 0  # now: on a slow machine it is forgotten before the next
                await client.end(source, fate, EITHER)
                kept += serving.app.runs.kept > 0
                await client.end(source, fate, "application/json")
            await client.leave(source, "whole")
            await client.cut_and_resume(source)
            await client.join_and_cancel(source)
            await eventually(lambda: not serving.app.runs.kept and not serving.app.runs.live_routes())
            upstream.asked.clear()
            client.backend.answers.clear()

            # What still ends, such as a connection, has a moment for it; a cycle would stay.
            await eventually(lambda: not alive())
    assert kept > len(FATES)


@pytest.fixture(scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ValkeyServer]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


async def test_nothing_outlives_its_replicas(store: ValkeyServer) -> None:
    """A run that was claimed and never begun, one that was followed to its end, one that was taken over."""
    async with replica(store) as old, replica(store) as new:
        with uncollected() as alive:
            await claimed(old, "never begun")
            await _followed_to_its_end(old, new)
            await _taken_over(old, new)

            await eventually(lambda: not alive())


async def _followed_to_its_end(old: Replica, new: Replica) -> None:
    run = await begun(old)
    copy = await followed(new, run)
    unwatch = watch(copy)
    await run.settle(whole())
    await same(copy, run)
    unwatch()
    copy.idle_since -= IDLE_S


async def _taken_over(old: Replica, new: Replica) -> None:
    run = await begun(old)
    copy = await followed(new, run)
    await lose(new, copy)
    say(run)
    await eventually(lambda: bool(old.parted_with))
    old.parted_with.clear()
    await new.taken.pop().settle(whole())
