"""Rows of runs: what it costs to read a stream of tokens, log it, and send it to viewers as events.

The relay's rows cannot tell: a run parses what it gets. As there, three processes: a model that streams
tokens (`python -m tests.bench.runs model`); Headgate, whose source `native` reads them, or nginx on a core of
its own; and the viewers, here. Each token carries the time when it was written, so that a delay is the whole
way to a viewer's read. nginx passes the same bytes on.

Every tenth viewer is looked at. The others read too, but seldom and much at a time: a load that reads each
event of a thousand streams fills its core, and what is measured then is the load.
"""

import asyncio
import gc
import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import click
import uvloop

from tests.bench import cores, servers, upstream, wrk
from tests.bench.cores import LOAD_CORE, PROXY_CORE, Gauge
from tests.bench.paced import BODY, percentile
from tests.bench.results import Goal, Plan, Results, Row, Sample, Target, added_goal
from tests.bench.rounds import settle
from tests.bench.servers import NotStarted, Server
from tests.bench.upstream import END_OF_CHUNKS, END_OF_HEAD, SSE_HEAD

MODULE = "tests.bench.runs"
ROUTE = "runs"
HZ = 10
"""Events a second of each run, except in the ramp: about a person's reading speed."""
FAST_HZ = 100
"""In the ramp, as fast as a quick model; at 30 flushes a second, one carries three or four."""
WHOLE_EVENTS = 20
"""Of a run that comes at once and ends."""
KINDS = {"paced": HZ, "fast": FAST_HZ, "idle": 0, "whole": 0}
"""Of runs, as the request's path names them, with events a second."""
TAPPED = "tapped"
"""A run whose upstream asks its model by the model port; the model is as one that is `paced`."""
COMPLETIONS = b"/v1/chat/completions"
RELAYED_S = 2
RELAYED_CONNECTIONS = 32

SHARED_RUNS = 100
VIEWERS = 10
KEPT_RUNS = 5000
FEW_KEPT = 1
STARTERS = 20
"""Clients that start whole runs, one after the other."""
STARTED_RUNS = 500
"""Of which the cost of one is taken."""
WARM_UP = 50
"""Runs opened and closed before, so that what is allocated once is not counted."""

RAMP = (50, 100, 150, 175, 200, 225, 250, 275, 300, 350, 400, 450, 500)
"""Fast runs at once."""
RAMP_P99_US = 100_000
"""Beyond it events come too late: what a person is to be shown waits no longer (design, section 7)."""
RAMP_DELIVERED = 0.95
"""Share of the events that must arrive while they are counted."""

GO = b"/go"
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"

STAMP_DIGITS = 9
STAMP_WRAP: int = 10**STAMP_DIGITS  # in µs: a quarter of an hour
STAMP = re.compile(rb" (\d{9}) ")
GOLDEN_RATIO = 0.618034

LOOKED_AT = 10
"""One viewer in so many."""
SELDOM_BYTES = 16 * 1024
"""Of which the others are told at a time."""

NATIVE = {
    "format": "sse",
    "events": [{"data": "[DONE]", "means": "done"}, {"at": "$.choices[0].delta.content"}],
    "answer": {"text": "{{ text $.text }}"},
}
END = b"data: [DONE]\n\n"

OPEN_S = 30.0
START_S = 0.02
"""More that a whole run may take, of many."""
SETTLE_S = 0.5
"""After the last run has begun; events before are not counted."""
GRACE_S = 0.05
"""A run whose viewer has left is cancelled so soon, so that none goes on into the next measurement."""
MAX_RUNS = 10_000
KEPT_BYTES = 4 * 1024**3
TAIL_BYTES = 2048  # the last event of a whole run is shorter
BACKLOG = 2048


def _at_most(most: float, text: str, shown: str) -> Goal:
    """Headgate's figure is at most this."""
    return Goal(text, shown, (Target.HEADGATE,), lambda row: row.value(Target.HEADGATE), at_most=most)


P99_GOAL = Goal(
    "≤ 5 × nginx", "{:.1f} ×", (Target.HEADGATE, Target.NGINX), lambda row: row.ratio(Target.NGINX), at_most=5
)
ADDED_GOAL = added_goal(10_000, "≤ 10 ms added")
CPU_GOAL = _at_most(60, "≤ 60 µs", "{:.0f} µs")
TOP_GOAL = Goal(
    "≥ 20,000/s",
    "{:,.0f}/s",
    (Target.HEADGATE,),
    lambda row: row.value(Target.HEADGATE),
    at_least=20_000,
)
MEMORY_GOAL = _at_most(40, "≤ 40 KB", "{:.0f} KB")
SHARED_GOAL = _at_most(3, "≤ 3 × one viewer", "{:.2f} ×")
UNTAPPED_GOAL = _at_most(1.1, "≤ 1.1 ×", "{:.2f} ×")
KEPT_GOAL = _at_most(1.1, "≤ 1.1 ×", "{:.2f} ×")


def measure(directory: Path, plan: Plan, results: Results) -> Iterator[Row]:
    """All rows. Each part has processes of its own, so that none has another one's garbage."""
    with _model(directory) as model:
        bench = Bench(directory, plan, model, Gauge(plan.watch_s))
        try:
            yield from _paced(bench)
            yield from _ramp(bench)
            yield from _memory(bench)
            yield from _shared(bench)
            yield from _kept(bench)
            yield from _tapped(bench)
        except NotStarted as exc:
            results.absent[Target.HEADGATE] = str(exc)


# The rows.


def _paced(bench: "Bench") -> Iterator[Row]:
    viewing = Viewing("paced", bench.plan.open_runs)
    with bench.proxies() as proxies:
        proxied: dict[Target, list[Sample]] = {target: [] for target in proxies}
        samples = {Target.DIRECT: [], **proxied}
        for _ in range(bench.plan.run_rounds):
            for target, series in samples.items():
                server = proxies.get(target, Server(bench.model.port, None))
                series.append(bench.view(server, viewing))
    name = f"{viewing.runs:,} runs at {HZ}/s"
    yield Row(f"{name}, p50", "µs", "p50", samples)
    yield Row(f"{name}, p99", "µs", "p99", samples, goals=(P99_GOAL,))
    yield Row(f"{name}, added p99", "µs", "p99", samples, goals=(ADDED_GOAL,), added=True)
    yield Row(f"{name}, CPU of an event", "µs", "cpu_us", proxied, goals=(CPU_GOAL,))


def _ramp(bench: "Bench") -> Iterator[Row]:
    with bench.proxies() as proxies:
        samples = {target: [_top(bench, server)] for target, server in proxies.items()}
    name = f"runs at {FAST_HZ}/s, at most"
    yield Row(name, "events/s", "rate", samples, goals=(TOP_GOAL,), saturating=True)


def _top(bench: "Bench", server: Server) -> Sample:
    """The last step of the ramp on which events still came in time; a step that fails has a second try."""
    best: Sample | None = None
    for runs in RAMP:
        for _ in range(2):
            taken = bench.view(server, Viewing("fast", runs))
            in_time = taken.figures["p99"] < RAMP_P99_US
            if in_time and taken.figures["rate"] >= RAMP_DELIVERED * runs * FAST_HZ:
                best = taken
                break
        if best is not taken:
            return best or taken
    assert best is not None
    return best


def _memory(bench: "Bench") -> Iterator[Row]:
    runs = bench.plan.open_runs
    with bench.proxies() as proxies:
        samples = {target: [_held(server, runs)] for target, server in proxies.items()}
    yield Row(f"memory of one of {runs:,} idle runs", "KB", "kb", samples, goals=(MEMORY_GOAL,))


def _held(server: Server, runs: int) -> Sample:
    """Resident memory with idle runs, less what it was before, for each run with its viewer."""
    assert server.pid is not None
    pids = cores.tree(server.pid)
    uvloop.run(_held_kb(server, WARM_UP, pids))
    settle(pids)
    before_kb = cores.rss_kb(pids)
    with_kb = uvloop.run(_held_kb(server, runs, pids))
    return Sample(figures={"kb": (with_kb - before_kb) / runs, "before_kb": before_kb, "with_kb": with_kb})


async def _held_kb(server: Server, runs: int, pids: list[int]) -> int:
    async with _viewers(server, Viewing("idle", runs)):
        return cores.rss_kb(pids)


def _shared(bench: "Bench") -> Iterator[Row]:
    """Beside the same runs with one viewer, and beside as many viewers with a run each.

    An event costs more while there are few: each wakes the process. So the first comparison flatters.
    """
    bases = {
        "1, the same runs": (Viewing("paced", SHARED_RUNS), (SHARED_GOAL,)),
        "1, as many viewers": (Viewing("paced", SHARED_RUNS * VIEWERS), ()),
    }
    pairs: dict[str, list[Sample]] = {name: [] for name in bases}
    with bench.headgate() as server:
        for _ in range(bench.plan.run_rounds):
            many = bench.view(server, Viewing("paced", SHARED_RUNS, VIEWERS))
            for name, (base, _) in bases.items():
                pairs[name].append(_times(many, bench.view(server, base), VIEWERS))
    for name, (_, goals) in bases.items():
        samples = {Target.HEADGATE: pairs[name]}
        yield Row(f"CPU of an event, {VIEWERS} viewers : {name}", "×", "times", samples, goals=goals)


def _kept(bench: "Bench") -> Iterator[Row]:
    with bench.headgate(kept=FEW_KEPT) as few, bench.headgate(kept=KEPT_RUNS) as many:
        for server in (few, many):
            uvloop.run(_start_runs(server.port, KEPT_RUNS))
        whats: dict[str, Callable[[Server], Sample]] = {
            "an event": lambda server: bench.view(server, Viewing("paced", SHARED_RUNS)),
            "a whole run": bench.start_runs,
        }
        for what, measure_it in whats.items():
            pairs = [(measure_it(many), measure_it(few)) for _ in range(bench.plan.run_rounds)]
            samples = {Target.HEADGATE: [_times(*pair) for pair in pairs]}
            name = f"CPU of {what}, {KEPT_RUNS:,} runs kept : {FEW_KEPT}"
            yield Row(name, "×", "times", samples, goals=(KEPT_GOAL,))


def _tapped(bench: "Bench") -> Iterator[Row]:
    """A token through the model port, and a call of no run beside the same one relayed."""
    viewing = Viewing(TAPPED, bench.plan.open_runs)
    with bench.headgate() as server:
        tokens = [bench.view(server, viewing) for _ in range(bench.plan.run_rounds)]
        pairs = [
            (_relayed(server, server.model_port, "/models/2k"), _relayed(server, server.port, "/2k"))
            for _ in range(bench.plan.run_rounds)
        ]
    samples = {Target.HEADGATE: tokens}
    name = f"{viewing.runs:,} tapped runs at {HZ}/s, CPU of a token"
    yield Row(name, "µs", "cpu_us", samples, goals=(CPU_GOAL,))
    samples = {Target.HEADGATE: [_times(*pair) for pair in pairs]}
    name = "CPU of a model call of no run : relayed request"
    yield Row(name, "×", "times", samples, goals=(UNTAPPED_GOAL,))


def _relayed(server: Server, port: int, path: str) -> Sample:
    """Send as many requests as possible, and measure the cost of each."""
    assert server.pid is not None
    pids = cores.tree(server.pid)
    settle(pids)
    meter = Meter(pids, [])
    done = wrk.post(port, path, connections=RELAYED_CONNECTIONS, run_s=RELAYED_S)
    return meter.sample(done.figures, done.operations, done.errors)


def _times(one: Sample, other: Sample, weight: int = 1) -> Sample:
    """Return the ratio of CPU time of two samples, as a sample as bad as the worse of both."""
    one_us, other_us = one.cpu_us * weight, other.cpu_us
    worse = max(one, other, key=lambda sample: (sample.disturbance, -sample.speed))
    figures = {"times": one_us / other_us, "one_us": one_us, "other_us": other_us}
    return replace(
        worse,
        figures=figures,
        errors=one.errors + other.errors,
        cpu_us=one_us,
        speed=min(one.speed, other.speed),
    )


# Measuring.


@dataclass(frozen=True, slots=True)
class Viewing:
    """Runs of one kind, and how many view each."""

    kind: str
    runs: int
    viewers: int = 1


class Meter:
    """The CPU time of a proxy and of the load in a window that begins when everything is open.

    The ticks of /proc/stat cannot say it here: tokens come at whole milliseconds, in step with the ticks.
    """

    def __init__(self, proxy: list[int], load: list[int]) -> None:
        self._proxy = proxy
        self._load = load
        self.start()

    def start(self) -> None:
        self._spent = self._spend()
        self._started = time.monotonic()

    @property
    def took_s(self) -> float:
        return time.monotonic() - self._started

    def sample(self, figures: Mapping[str, float], operations: int, errors: int = 0) -> Sample:
        """`operations` are what the CPU time is shared among."""
        took_s = self.took_s
        ran_s, waited_s, load_s = (now - then for now, then in zip(self._spend(), self._spent, strict=True))
        cpu_us = ran_s * 1e6 / max(1, operations)
        return Sample(
            figures={**figures, "cpu_us": cpu_us},
            errors=errors,
            cpu_us=cpu_us,
            proxy_core=(ran_s + waited_s) / took_s,
            proxy_share=ran_s / took_s,
            load_core=load_s / took_s,
        )

    def _spend(self) -> tuple[float, float, float]:
        return cores.cpu_s(self._proxy), _waited_s(self._proxy), cores.cpu_s(self._load)


def _waited_s(pids: list[int]) -> float:
    """Return the seconds for which threads of these processes were ready to run while something else ran."""
    threads = (path for pid in pids for path in (cores.PROC / str(pid) / "task").iterdir())
    return sum(int((path / "schedstat").read_text().split()[1]) for path in threads) / 1e9


@dataclass(frozen=True, slots=True)
class Bench:
    """The state that all rows share."""

    directory: Path
    plan: Plan
    model: Server
    gauge: Gauge

    @contextmanager
    def proxies(self) -> Iterator[dict[Target, Server]]:
        with self.headgate() as headgate, servers.nginx(self.directory, self.model.port) as nginx:
            yield {Target.NGINX: nginx[Target.NGINX], Target.HEADGATE: headgate}

    def headgate(self, *, kept: int = KEPT_RUNS) -> AbstractContextManager[Server]:
        return _headgate(self.directory, self.model.port, kept)

    def view(self, server: Server, viewing: "Viewing") -> Sample:
        """Views for some seconds."""
        window_s = self.plan.run_window_s
        return self._sample(server, lambda meter: _view(server, self.model.port, viewing, window_s, meter))

    def start_runs(self, server: Server) -> Sample:
        """Whole runs."""
        return self._sample(server, lambda meter: _start_counted(server.port, meter))

    def _sample(self, server: Server, run: Callable[["Meter"], Coroutine[None, None, Sample]]) -> Sample:
        """Measure once; the proxy is quiet before, and its core's speed is taken before and after."""
        assert self.model.pid is not None
        pids = cores.tree(server.pid) if server.pid is not None else []
        settle(pids)
        speed = self.gauge.speed()
        gc.collect()
        gc.disable()
        try:
            taken = uvloop.run(run(Meter(pids, [self.model.pid, os.getpid()])))
        finally:
            gc.enable()
        settle(pids)
        if not pids:  # no proxy between: what keeps its core busy is no matter
            return replace(taken, proxy_core=0.0)
        return replace(taken, speed=(speed + self.gauge.speed()) / 2)


async def _view(server: Server, model_port: int, viewing: Viewing, window_s: float, meter: Meter) -> Sample:
    """Delays of tokens from the model's clock to ours (`p50`, `p99`, in µs), and their `rate`."""
    async with _viewers(server, viewing) as viewers:
        await _go(model_port)
        await asyncio.sleep(SETTLE_S)
        for viewer in viewers:
            viewer.delays_us = []
        meter.start()
        await asyncio.sleep(window_s)
        looked_at = [viewer for viewer in viewers if viewer.is_looked_at]
        delays = [delay for viewer in looked_at for delay in viewer.delays_us]
        silent = sum(not viewer.delays_us for viewer in looked_at)
        broken = sum(viewer.broken for viewer in viewers)
        ordered = sorted(map(float, delays))
        events = len(delays) * len(viewers) / len(looked_at)
        rate = events / meter.took_s
        return meter.sample(
            {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99), "rate": rate},
            int(events),
            silent + broken,
        )


async def _start_counted(port: int, meter: Meter) -> Sample:
    meter.start()
    await _start_runs(port, STARTED_RUNS)
    return meter.sample({}, STARTED_RUNS)


async def _start_runs(port: int, runs: int) -> None:
    """Whole runs, each begun by a client that has the end of its last one."""
    loop = asyncio.get_running_loop()
    requests = iter([_post("whole", uuid.uuid4(), 0) for _ in range(runs)])
    starters = []
    for _ in range(STARTERS):
        _, starter = await loop.create_connection(partial(Starter, requests), "127.0.0.1", port)
        starters.append(starter)
    async with asyncio.timeout(OPEN_S + runs * START_S):
        await asyncio.gather(*(starter.done for starter in starters))


async def _go(model_port: int) -> None:
    """Let the model's streams go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", model_port)
    writer.write(b"GET %b HTTP/1.1\r\n\r\n" % GO)
    await reader.readuntil(END_OF_HEAD)
    writer.close()


@asynccontextmanager
async def _viewers(server: Server, viewing: Viewing) -> AsyncIterator[list["Viewer"]]:
    """All viewers, each with its first event."""
    loop = asyncio.get_running_loop()
    viewers: list[Viewer] = []
    try:
        for _ in range(viewing.runs):
            run_id = uuid.uuid4()
            requests = [
                _post(viewing.kind, run_id, server.model_port),
                *[_get(run_id)] * (viewing.viewers - 1),
            ]
            for request in requests:
                made = partial(Viewer, request, is_looked_at=len(viewers) % LOOKED_AT == 0)
                _, viewer = await loop.create_connection(made, "127.0.0.1", server.port)
                viewers.append(viewer)
        async with asyncio.timeout(OPEN_S):
            await asyncio.gather(*(viewer.first for viewer in viewers))
        yield viewers
    finally:
        for viewer in viewers:
            viewer.close()


class Viewer(asyncio.Protocol):
    """One view of a run. Looks for the stamps alone: the framing around them is not its business."""

    def __init__(self, request: bytes, *, is_looked_at: bool) -> None:
        self._request = request
        self.is_looked_at = is_looked_at
        self._transport: asyncio.Transport
        self._unread = b""
        self._closing = False
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broken = False
        self.delays_us: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which is not registered
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.first.done() and not self.is_looked_at:
            return
        now_us = _now_us()
        data = self._unread + data
        end = 0
        for found in STAMP.finditer(data):
            self.delays_us.append((now_us - int(found[1])) % STAMP_WRAP)
            end = found.end()
        self._unread = data[max(end, len(data) - STAMP_DIGITS - 1) :]
        if end and not self.first.done():
            self.first.set_result(None)
            if not self.is_looked_at:
                connection = self._transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, SELDOM_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = not self._closing
        if not self.first.done():
            self.first.set_exception(ConnectionError("a view ended before its first event"))

    def close(self) -> None:
        self._closing = True
        self.first.cancel()
        self._transport.abort()


class Starter(asyncio.Protocol):
    """A client that begins a run, reads it to its end, and begins the next, on one connection."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._transport: asyncio.Transport
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        tail = (self._tail + data)[-TAIL_BYTES:]
        if tail.endswith(END_OF_CHUNKS):
            assert b"stream_done" in tail, "a run has failed"
            self._next()
        else:
            self._tail = tail

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("a run was cut"))

    def _next(self) -> None:
        self._tail = b""
        request = next(self._requests, None)
        if request is not None:
            self._transport.write(request)
        else:
            self.done.set_result(None)
            self._transport.abort()


def _post(kind: str, run_id: uuid.UUID, model_port: int) -> bytes:
    """Of a user of its own, as runs mostly are."""
    path = f"/{TAPPED}/{model_port}/{run_id}" if kind == TAPPED else f"/runs/{kind}/{run_id}"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        f"X-User: {run_id}\r\nHeadgate-Run: {run_id}\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY


def _get(run_id: uuid.UUID) -> bytes:
    head = f"GET /_headgate/runs/{run_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    return f"{head}Accept: text/event-stream\r\nX-User: {run_id}\r\n\r\n".encode()


def _now_us() -> int:
    return time.monotonic_ns() // 1000 % STAMP_WRAP


# The model: streams tokens in the shape that most models have.


def token() -> bytes:
    """One event with the time it was made, as one HTTP chunk.

    The stamp is a word of its own with the beginning of the next one behind it: a chunk of the run is
    complete with each token, and none waits for the next to see where its word ends.
    """
    event = b'data: {"id":"c-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":%b}]}\n\n'
    event %= b'{"content":" %0*d ab"}' % (STAMP_DIGITS, _now_us())
    return chunk(event)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_waiting: list["Model"] = []


class Model(upstream.Connection):
    """One connection to the model. Its stream goes on after the first token when all are told to.

    Else those that are open would keep a proxy too busy to open the others.
    """

    _head = b""
    _asking: asyncio.Task[None] | None = None

    def _answer(self, path: bytes) -> None:
        if path == GO:
            self._transport.write(DONE)
            for number, model in enumerate(_waiting):
                model.go_on(number)
            _waiting.clear()
            return
        if path.startswith(b"/" + TAPPED.encode()):
            self._asking = self._loop.create_task(self._ask(int(path.split(b"/")[2])))
            return
        if path == b"/2k":
            self._transport.write(upstream.ANSWERS[path])
            return
        kind = "paced" if path == COMPLETIONS else path.split(b"/")[2].decode()
        if kind == "whole":
            tokens = b"".join([token() for _ in range(WHOLE_EVENTS)])
            self._transport.write(SSE_HEAD + tokens + chunk(END) + END_OF_CHUNKS)
            return
        self._transport.write(SSE_HEAD + token())
        if KINDS[kind]:
            self._every_s = 1 / KINDS[kind]
            _waiting.append(self)

    def data_received(self, data: bytes) -> None:
        self._head = data  # it comes in one read, or the trace context is missed and the run has no text
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self, model_port: int) -> None:
        """Call the model in batch as a backend does, with the trace context that it was given."""
        context = [line for line in self._head.split(b"\r\n") if line.startswith(b"trace")]
        body = b'{"model":"m","messages":[]}'
        head = b"POST /models%b HTTP/1.1\r\nhost: model\r\ncontent-length: %d\r\n" % (COMPLETIONS, len(body))
        reader, writer = await asyncio.open_connection("127.0.0.1", model_port)
        try:
            writer.write(head + b"".join(line + b"\r\n" for line in context) + b"\r\n" + body)
            await reader.read()  # the model goes on for ever: until the run is ended
        finally:
            writer.close()

    def go_on(self, number: int) -> None:
        """Speak from now on, out of step with the others: steps of the golden ratio spread any number."""
        if not self._transport.is_closing():
            self._due = self._loop.time() + self._every_s * (number * GOLDEN_RATIO % 1)
            self._timer = self._loop.call_at(self._due, self._speak)

    def _speak(self) -> None:
        now = self._loop.time()
        while self._due <= now:  # timers have steps of a millisecond
            self._transport.write(token())
            self._due += self._every_s
        self._timer = self._loop.call_at(self._due, self._speak)


async def _serve_model(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Model, "127.0.0.1", port, backlog=BACKLOG)
    gc.freeze()
    await server.serve_forever()


# The processes.


@contextmanager
def _model(directory: Path) -> Iterator[Server]:
    port = servers.free_port()
    argv = [sys.executable, "-m", MODULE, "model", "--port", str(port)]
    ready = partial(servers._accepts, port)
    with servers._process("model", argv, directory, core=LOAD_CORE, ready=ready) as pid:
        yield Server(port, pid)


@contextmanager
def _headgate(directory: Path, model_port: int, kept: int) -> Iterator[Server]:
    port, admin, models = (servers.free_port() for _ in range(3))
    name = f"headgate-{port}"
    config = directory / f"{name}.yaml"
    config.write_text(
        json.dumps(_settings(directory, (port, admin, models, model_port), kept))
    )  # JSON is YAML
    argv = [sys.executable, "-m", "proxy", "serve", "--config", str(config)]
    ready = partial(servers._answers, admin)
    with servers._process(name, argv, directory, core=PROXY_CORE, ready=ready) as pid:
        yield Server(port, pid, models)


def _settings(directory: Path, ports: tuple[int, int, int, int], kept: int) -> dict[str, object]:
    flags = directory / "flags-runs.json"
    everybody = {"name": "headgate.streaming", "enabled": True, "strategies": [{"name": "default"}]}
    flags.write_text(json.dumps({"version": 2, "features": [everybody]}))
    port, admin, models, model = ports
    by_user = {"max_runs": MAX_RUNS, "unwatched": "cancel", "grace_s": GRACE_S}
    sections = [{"stage": "text", "at": "$.text"}]
    return {
        "listen": f"127.0.0.1:{port}",
        "admin": f"127.0.0.1:{admin}",
        "upstream": {"url": f"http://127.0.0.1:{model}"},
        "flags": {"file": str(flags)},
        "identity": {"jwt": None, "header": "x-user"},
        "event_log": {"memory": {"runs": kept, "bytes": KEPT_BYTES}},
        "drain_s": 0,
        "llm": {
            "listen": f"127.0.0.1:{models}",
            "providers": [{"name": "models", "url": f"http://127.0.0.1:{model}"}],
        },
        "routes": [
            {
                "name": ROUTE,
                "match": "POST /runs/{kind}/{id}",
                "source": "native",
                "native": NATIVE,
                "sections": sections,
                **by_user,
            },
            {
                "name": TAPPED,
                "match": f"POST /{TAPPED}/{{port}}/{{id}}",
                "source": "tap",
                "tap": {"calls": [{"stage": "text"}]},
                "sections": sections,
                **by_user,
            },
        ],
    }


@click.group()
def main() -> None:
    """The servers of this part of the bench."""


@main.command("model")
@click.option("--port", type=int, required=True)
def _run_model(port: int) -> None:
    uvloop.run(_serve_model(port))


if __name__ == "__main__":
    main()
