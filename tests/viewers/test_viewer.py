"""One viewer of a run: signs of life, bounds, and what it is told when."""

import asyncio
import json
import re
import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from proxy.downstream.client_request import RequestWatcher
from proxy.observe.metrics import Metrics
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.text.events import Transcript
from proxy.text.sse import HEARTBEAT, Decoder
from proxy.upstream.client import Answer, Request
from proxy.viewers.batch_viewer import BatchViewer
from proxy.viewers.viewer import FLUSH_BYTES, MAX_SNAPSHOTS, ViewEnd, Viewer
from tests.runs.test_runs import ANN, STREAM, good, said
from tests.servers.client import PATIENCE_S, eventually, opened, signed, texts
from tests.servers.streaming import EXTRACTION, START, SUMMARY, Held, answer, answering, house, route
from tests.viewers.test_catch_up import after_reading


class Client:
    """A client's request: remembers what it was sent and when, and leaves when told.

    It offers to write at once while `takes_chunks`; `chunks` are those that it has taken.
    """

    def __init__(self, *, takes_chunks: bool = False) -> None:
        self.messages: list[tuple[float, Any]] = []
        self.disconnected = False
        self.watcher: RequestWatcher | None = None
        self.body = b""
        self.takes_chunks = takes_chunks
        self.chunks: list[bytes] = []
        self.may_read = asyncio.Event()
        self.may_read.set()

    def leave(self) -> None:
        self.disconnected = True
        if self.watcher is not None:
            self.watcher.client_changed()

    def ask_for_body(self) -> None:
        pass

    def take_body(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def write_chunk(self, chunk: bytes) -> bool:
        if self.takes_chunks:
            self.chunks.append(chunk)
            size, _, rest = chunk.partition(b"\r\n")
            assert rest.endswith(b"\r\n")
            body = rest.removesuffix(b"\r\n")
            assert int(size, 16) == len(body)
            message = {"type": "http.response.body", "body": body, "more_body": True}
            self.messages.append((asyncio.get_running_loop().time(), message))
        return self.takes_chunks

    async def send(self, message: Any) -> None:
        await self.may_read.wait()
        self.messages.append((asyncio.get_running_loop().time(), message))

    @property
    def status(self) -> int:
        return int(self.messages[0][1]["status"])

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for _, message in self.messages[1:]]

    @property
    def events(self) -> list[dict[str, Any]]:
        decoder = Decoder(max_event_bytes=1 << 20)
        return [json.loads(event.data) for event in decoder.feed(b"".join(self.bodies))]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.messages]


class Bench:
    def __init__(self, **more: Any) -> None:
        settings = RouteSettings.model_validate(route(**more))
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, [settings]).by_route["start"]
        call = Call(Route.compile(settings), {"case_id": "7"}, Request("POST", START.encode(), []))
        self.run = Run(call, STREAM, ANN, self.metrics, deque())
        self.run.begun()

    def viewer(self, client: Client) -> Viewer:
        return Viewer(self.run, self.metrics, client, client.send)


async def ended(task: "asyncio.Task[ViewEnd]") -> ViewEnd:
    async with asyncio.timeout(PATIENCE_S):
        return await task


def watching(viewer: Viewer, **how: Any) -> "asyncio.Task[ViewEnd]":
    return asyncio.get_running_loop().create_task(viewer.serve(**how))


async def test_a_heartbeat_comes_at_once_and_then_within_its_interval() -> None:
    """Signs of life from second 0, none inside an event, none after the end."""
    bench, client = Bench(commit_after=0, heartbeat_s=0.05), Client()
    task = watching(bench.viewer(client))
    await eventually(lambda: len(client.bodies) >= 5)
    await bench.run.settle(good(answer()))

    assert await ended(task) is ViewEnd.TOLD
    assert client.bodies[:5] == [HEARTBEAT] * 5
    gaps = [late - early for early, late in pairwise(client.times[1:])]
    assert min(gaps[:4]) >= 0.045
    assert b"".join(client.bodies).endswith(b"\n\n")
    assert [message["more_body"] for _, message in client.messages[1:]].index(False) == len(client.bodies) - 1


async def test_others_that_come_and_go_do_not_starve_the_heartbeat() -> None:
    """The interval counts from the last byte: a log that wakes its readers for nothing changes nothing."""
    bench, client = Bench(commit_after=0, heartbeat_s=0.05), Client()
    task = watching(bench.viewer(client))
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + 0.4:
        other = Client()
        leaving = watching(bench.viewer(other))
        other.leave()
        assert await ended(leaving) is ViewEnd.LEFT
        await asyncio.sleep(0.01)  # much more often than the heartbeat
    bench.run.shut_down()
    await ended(task)

    assert client.bodies.count(HEARTBEAT) >= 5


async def test_a_slow_flush_does_not_stretch_the_heartbeat() -> None:
    """At one write a second, a stream of a fiftieth of that in heartbeats still shows life."""
    bench, client = Bench(commit_after=0, heartbeat_s=0.02, flush_hz=1), Client()
    bench.run.begin(bench.run.sections[0])
    task = watching(bench.viewer(client))
    await eventually(lambda: client.bodies.count(HEARTBEAT) >= 20, within_s=10)  # half as many, if stretched
    bench.run.shut_down()
    await ended(task)


async def test_headers_wait_for_text_or_for_commit_after() -> None:
    """Nothing is sent before there is text, an end or `commit_after`; then the headers, then a heartbeat."""
    waiting, first = Bench(commit_after=0.1), Client()
    loop = asyncio.get_running_loop()
    began = loop.time()
    task = watching(waiting.viewer(first))
    await eventually(lambda: len(first.messages) >= 2)
    waiting.run.shut_down()
    await ended(task)

    prompt, second = Bench(commit_after=15), Client()
    task = watching(prompt.viewer(second))
    prompt.run.begin(prompt.run.sections[0])
    await asyncio.sleep(0)
    assert second.messages == []
    await prompt.run.show(prompt.run.sections[0], "text")
    await eventually(lambda: len(second.messages) >= 2)
    prompt.run.shut_down()
    await ended(task)

    assert first.times[0] - began >= 0.095
    assert first.status == second.status == 200


async def test_writes_are_bounded_in_number() -> None:
    """At most `flush_hz` writes a second to one viewer; what came in between goes out together."""
    bench, client, transcript = Bench(commit_after=0, flush_hz=20), Client(), Transcript()
    task = watching(bench.viewer(client))
    await eventually(lambda: len(client.bodies) == 1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    bench.run.log.append(transcript.stage_start("chat", "s", index=0, total_expected=1), began)
    for number in range(40):
        bench.run.log.append(transcript.chunk("s", f"word {number} "), loop.time())
        await asyncio.sleep(0.005)
    took = loop.time() - began
    writes = len(client.bodies) - 1
    bench.run.shut_down()
    await ended(task)

    assert writes <= took * 20 + 2
    assert b"".join(client.bodies).count(b"data: ") == 42


async def test_a_long_replay_takes_several_writes() -> None:
    """So that a viewer far behind is not given megabytes at once."""
    bench, client = Bench(result=False), Client()
    await bench.run.settle(good(answer("word " * 4000)))

    await ended(watching(bench.viewer(client)))

    assert len(client.bodies) > 5
    assert max(map(len, client.bodies)) <= FLUSH_BYTES


async def test_a_viewer_that_reads_slowly_misses_nothing() -> None:
    """It gets everything, in order, when it reads again; others are not held up by it."""
    bench, slow, quick = Bench(commit_after=0), Client(), Client()
    tasks = [watching(bench.viewer(slow)), watching(bench.viewer(quick))]
    await eventually(lambda: len(slow.bodies) == 1 and len(quick.bodies) == 1)
    slow.may_read.clear()
    await bench.run.settle(good(answer()))
    assert await ended(tasks[1]) is ViewEnd.TOLD
    assert not tasks[0].done()
    slow.may_read.set()

    assert await ended(tasks[0]) is ViewEnd.TOLD
    assert b"".join(slow.bodies) == b"".join(quick.bodies)


async def stalled(client: Client, seconds: float) -> None:
    """The client takes nothing for so long; what is waited for is time itself."""
    client.may_read.clear()
    await asyncio.sleep(seconds)
    client.may_read.set()


def speaking(bench: Bench, transcript: Transcript, words: int) -> None:
    for number in range(words):
        bench.run.log.append(transcript.chunk("s", f"word {number} "), asyncio.get_running_loop().time())


async def test_chunks_grow_for_a_viewer_that_falls_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the same text in fewer events, and the others are not touched by it."""
    monkeypatch.setattr("proxy.viewers.viewer.GROW_S", 0.04)
    bench, slow, quick = Bench(commit_after=0, flush_hz=1000), Client(), Client()
    transcript = Transcript()
    bench.run.log.append(transcript.stage_start("chat", "s", index=0, total_expected=1), 0.0)
    tasks = [watching(bench.viewer(client)) for client in (slow, quick)]
    await eventually(lambda: len(slow.bodies) == len(quick.bodies) == 2)
    slow.may_read.clear()
    speaking(bench, transcript, 1)
    await eventually(lambda: len(quick.bodies) == 3)
    speaking(bench, transcript, 50)
    await stalled(slow, 0.1)
    bench.run.log.append(transcript.stage_complete("s"), 0.0)
    bench.run.log.append(transcript.error("reset", retry_available=True, status=502), 0.0)
    assert [await ended(task) for task in tasks] == [ViewEnd.TOLD] * 2

    assert after_reading(*slow.bodies) == after_reading(*quick.bodies)
    assert b"".join(slow.bodies).count(b"content_chunk") < 5
    assert b"".join(quick.bodies).count(b"content_chunk") == 51


async def test_a_viewer_far_behind_gets_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One `content_replace` for all it has missed; one that is so slow again and again is sent away."""
    monkeypatch.setattr("proxy.viewers.viewer.SNAPSHOT_S", 0.02)
    bench, client, transcript = Bench(commit_after=0), Client(), Transcript()
    bench.run.log.append(transcript.stage_start("chat", "s", index=0, total_expected=1), 0.0)
    viewer = bench.viewer(client)
    task = watching(viewer)
    await eventually(lambda: viewer.lag_events == 0)
    while not task.done():
        client.may_read.clear()
        speaking(bench, transcript, 1)
        await asyncio.sleep(1.5 / bench.run.route.settings.flush_hz)
        speaking(bench, transcript, 20)
        await stalled(client, 0.04)
        await eventually(lambda: task.done() or viewer.lag_events == 0)

    assert await ended(task) is ViewEnd.SENT_AWAY
    wire = b"".join(client.bodies)
    assert wire.count(b"content_replace") == MAX_SNAPSHOTS
    assert re.search(rb"\nretry: \d{4}\n$", wire)
    assert [message["more_body"] for _, message in client.messages[1:]] == [True] * len(client.bodies)


async def test_a_process_that_was_held_up_takes_no_viewer_for_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends every event as it is, and nobody away: the viewers could have taken them all the time."""
    monkeypatch.setattr("proxy.viewers.viewer.GROW_S", 0.01)
    monkeypatch.setattr("proxy.viewers.viewer.SNAPSHOT_S", 0.02)
    bench, client, transcript = Bench(commit_after=0, flush_hz=1000), Client(), Transcript()
    bench.run.log.append(transcript.stage_start("chat", "s", index=0, total_expected=1), 0.0)
    viewer = bench.viewer(client)
    task = watching(viewer)
    for _ in range(MAX_SNAPSHOTS + 2):
        await eventually(lambda: viewer.lag_events == 0)
        speaking(bench, transcript, 20)
        time.sleep(0.05)  # noqa: ASYNC251 - the loop stands still, as where the machine does something else
    bench.run.log.append(transcript.error("reset", retry_available=True, status=502), 0.0)

    assert await ended(task) is ViewEnd.TOLD
    wire = b"".join(client.bodies)
    assert (wire.count(b"content_chunk"), wire.count(b"content_replace")) == (20 * (MAX_SNAPSHOTS + 2), 0)


async def test_a_viewer_that_is_sent_away_can_come_back() -> None:
    """Between two events, with a `retry:`, and without an end: its cursor is where it stands."""
    bench, client = Bench(commit_after=0), Client()
    await bench.run.show(bench.run.sections[0], EXTRACTION)
    viewer = bench.viewer(client)
    task = watching(viewer)
    await eventually(lambda: len(client.bodies) >= 2)
    viewer.say_goodbye()
    assert await ended(task) is ViewEnd.SENT_AWAY
    again = Client()
    await bench.run.settle(good(answer()))
    cursor = int(re.findall(rb"id: [^:]+:(\d+)\n", b"".join(client.bodies))[-1])
    assert await ended(watching(bench.viewer(again), after=cursor)) is ViewEnd.TOLD

    events = Decoder(max_event_bytes=1 << 20).feed(b"".join([*client.bodies[:-1], *again.bodies]))
    assert texts([json.loads(event.data) for event in events]) == {
        "extraction": EXTRACTION,
        "summary": SUMMARY,
    }


async def test_a_viewer_counts_while_it_is_there() -> None:
    """The gauge goes up and down, also for those that leave."""
    bench, clients = Bench(commit_after=0), [Client() for _ in range(3)]
    tasks = [watching(bench.viewer(client)) for client in clients]

    def viewers() -> float | None:
        return bench.registry.get_sample_value("headgate_viewers", {"route": "start"})

    await eventually(lambda: viewers() == 3)
    clients[0].leave()
    assert await ended(tasks[0]) is ViewEnd.LEFT
    assert viewers() == 2
    bench.run.shut_down()
    assert [await ended(task) for task in tasks[1:]] == [ViewEnd.TOLD] * 2
    assert viewers() == 0


async def test_a_viewer_that_leaves_before_the_headers_is_sent_nothing() -> None:
    """It is not answered, and the run goes on."""
    bench, client = Bench(commit_after=15), Client()
    task = watching(bench.viewer(client))
    client.leave()

    assert await ended(task) is ViewEnd.LEFT
    assert client.messages == []
    assert not bench.run.ended


async def test_a_late_viewer_does_not_spoil_the_delivery_times() -> None:
    """Delivery counts from the moment there was somebody to deliver to: a replay is not a delay."""
    bench, client = Bench(commit_after=0), Client()
    await bench.run.settle(good(answer()))
    await asyncio.sleep(0.15)  # the text is that old when its viewer comes

    assert await ended(watching(bench.viewer(client))) is ViewEnd.TOLD

    labels = {"route": "start", "source": "batch"}
    count = bench.registry.get_sample_value("headgate_delivery_seconds_count", labels)
    total = bench.registry.get_sample_value("headgate_delivery_seconds_sum", labels)
    assert count is not None
    assert total is not None
    assert count > 0
    assert total / count < 0.1


async def test_a_failure_before_the_headers_is_for_the_requester_alone() -> None:
    """Once somebody has headers, the others are told by an event too."""
    bench, early, late = Bench(commit_after=15), Client(), Client()
    first = watching(bench.viewer(early))
    await asyncio.sleep(0)
    await bench.run.settle(Answer(503, [(b"retry-after", b"3")], b"busy"))
    assert await ended(first) is ViewEnd.ANSWERED
    bench.run.headers_sent = True
    assert await ended(watching(bench.viewer(late))) is ViewEnd.TOLD

    assert early.status == 503
    assert (b"retry-after", b"3") in early.messages[0][1]["headers"]
    assert early.bodies == [b"busy"]
    assert late.status == 200


async def test_a_viewer_begins_where_it_stands() -> None:
    """Everything beyond `after`, nothing before it."""
    bench, client = Bench(), Client()
    await bench.run.settle(good(answer()))

    await ended(watching(bench.viewer(client), after=4))

    wire = b"".join(client.bodies).removeprefix(HEARTBEAT)
    assert wire == b"".join(entry.wire for entry in bench.run.log.after(4))
    assert texts(said(bench.run))


class RunningTime:
    """The loop's time without the moments in which a busy machine let it not run."""

    TICK_S = 0.01
    LATE_S = 0.02
    """Seconds by which a timer may be late on any machine; it counts as running time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lost_s = 0.0
        self._due = self._loop.time()
        self._tick()

    def time(self) -> float:
        return self._loop.time() - self._lost_s

    def _tick(self) -> None:
        late_s = self._loop.time() - self._due
        self._lost_s += late_s if late_s > self.LATE_S else 0.0
        self._due = self._loop.time() + self.TICK_S
        self._loop.call_at(self._due, self._tick)


async def test_progress_and_heartbeats_keep_a_silent_stream_alive(tmp_path: Path) -> None:
    """Over a real socket: honest progress from second 0, and no gap longer than the heartbeat."""
    held = Held(answering(answer()))
    routes = [route(commit_after=0, heartbeat_s=0.1, progress=True, progress_s=0.25)]
    async with house(held, tmp_path, routes=routes) as (_, _, client):
        clock = RunningTime()
        times = [clock.time()]
        async with opened(client, START, signed()) as stream:
            while stream.types.count("progress") < 4:
                await stream.piece()
                times.append(clock.time())
            held.release.set()
            await stream.rest()

    elapsed = [e["metadata"]["elapsed_s"] for e in stream.events if e["type"] == "progress"]
    assert elapsed[0] == 0.0
    assert elapsed == sorted(elapsed)
    assert max(late - early for early, late in pairwise(times)) < 0.1 + 0.25
    assert stream.raw.count(HEARTBEAT) >= 4
    assert re.fullmatch(rb"(?:: hb\n|id: [^\n]+\n(?:retry: \d+\n)?data: [^\n]+\n\n)*", stream.raw)


async def test_an_event_is_written_by_who_says_it_where_the_client_keeps_up() -> None:
    """It is there when `stream` returns, and took no turn of the task. What comes within a flush waits."""
    bench = Bench(commit_after=0, flush_hz=10, chunk={"min": 1, "max": 5})
    client = Client(takes_chunks=True)
    viewer = bench.viewer(client)
    task = watching(viewer)
    await eventually(lambda: bool(client.bodies))
    await asyncio.sleep(0)
    bench.run.stream(bench.run.sections[0], "word more words ")

    assert len(client.chunks) == 2  # that the stage begins, and its first chunk
    assert b"word" in client.bodies[-1]
    assert viewer.lag_events == len(bench.run.log) - 2 > 0
    await eventually(lambda: viewer.lag_events == 0)
    gaps = [late - early for early, late in pairwise(client.times[1:])]
    assert gaps[-1] >= 0.09
    await bench.run.settle(good(answer()))
    assert await ended(task) is ViewEnd.TOLD
    assert texts(client.events) == {"extraction": EXTRACTION, "summary": SUMMARY}


async def test_what_a_client_sends_while_it_views_is_dropped() -> None:
    """Else its request would not be read on, and that it leaves would not be noticed."""
    bench, client = Bench(commit_after=0), Client()
    client.body = b"before"
    task = watching(bench.viewer(client))
    await eventually(lambda: bool(client.bodies))
    assert client.watcher is not None
    assert not client.body
    client.body = b"more"
    client.watcher.client_changed()

    assert not client.body
    client.leave()
    assert await ended(task) is ViewEnd.LEFT
    assert client.watcher is None


async def test_an_event_is_made_once_for_all_who_are_sent_it_at_once() -> None:
    bench = Bench(commit_after=0, flush_hz=10, chunk={"min": 1, "max": 5})
    clients = [Client(takes_chunks=True) for _ in range(3)]
    tasks = [watching(bench.viewer(client)) for client in clients]
    await eventually(lambda: all(client.bodies for client in clients))
    await asyncio.sleep(0)
    bench.run.stream(bench.run.sections[0], "word more words ")

    first, *others = clients
    assert len(first.chunks) == 2
    assert all(list(map(id, other.chunks)) == list(map(id, first.chunks)) for other in others)
    bench.run.cancel()
    assert [await ended(task) for task in tasks] == [ViewEnd.TOLD] * 3


async def test_a_client_that_has_to_be_waited_for_gets_its_events_all_the_same() -> None:
    bench, client = Bench(commit_after=0, flush_hz=1000), Client()
    task = watching(bench.viewer(client))
    await eventually(lambda: bool(client.bodies))
    for number, piece in enumerate(EXTRACTION.split(" ")):
        client.takes_chunks = number % 3 != 0
        bench.run.stream(bench.run.sections[0], piece + " ")
        await asyncio.sleep(0.003)
    await bench.run.settle(good(answer()))

    assert await ended(task) is ViewEnd.TOLD
    assert client.chunks
    assert texts(client.events) == {"extraction": EXTRACTION, "summary": SUMMARY}


async def test_what_may_be_nobodys_is_not_shown_until_that_is_known() -> None:
    """A process that was held up asks the store whether its runs are its own; so long nothing is sent."""
    bench, client = Bench(commit_after=0), Client()
    run, viewer = bench.run, bench.viewer(client)
    task = watching(viewer)
    await run.show(run.sections[0], "before ")
    await eventually(lambda: b"before" in b"".join(client.bodies))
    looks: list[bool] = []
    run.log.doubt = lambda: not looks.append(len(looks) < 2) and looks[-1]
    await run.show(run.sections[1], "doubtful ")
    await eventually(lambda: len(looks) == 2)
    assert b"doubtful" not in b"".join(client.bodies)
    await eventually(lambda: b"doubtful" in b"".join(client.bodies))
    viewer.move_to(None)

    assert await ended(task) is ViewEnd.SENT_AWAY


async def test_a_batch_answer_comes_from_where_the_run_is() -> None:
    """One that waits for a run which another replica has taken over gets that one's answer, or is told."""
    other = Bench().run
    await other.settle(good(answer()))
    for copy, status, body in ((other, 200, answer()), (None, 502, b"cannot be seen here")):
        run, client = Bench().run, Client()
        viewer = BatchViewer(run, client, client.send)
        task = asyncio.create_task(viewer.serve())
        await asyncio.sleep(0)
        run.leave()
        viewer.move_to(copy)
        async with asyncio.timeout(PATIENCE_S):
            assert await task == status
        assert body in b"".join(client.bodies)
