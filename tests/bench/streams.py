"""Readers of event streams: how soon the first event comes, how late the others are, how many at most."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import httptools
import uvloop

from tests.bench.paced import percentile
from tests.bench.results import Measured
from tests.bench.upstream import EVENT_BYTES, NANOSECOND_DIGITS

TIMEOUT_S = 10.0
SETTLE_S = 0.3
"""Streams open one after the other; events before this are not counted."""
STAMP = slice(len("data: "), len("data: ") + NANOSECOND_DIGITS)


def first_events(port: int, *, times: int) -> Measured:
    """From `connect` to the first event (`p50`, `p99`, in µs), one stream after the other."""
    delays = []
    for _ in range(times):
        start = time.perf_counter()
        with _opened(port, "/sse/idle"):
            delays.append(time.perf_counter() - start)
    delays.sort()
    return Measured(
        figures={"p50": percentile(delays, 0.5) * 1e6, "p99": percentile(delays, 0.99) * 1e6},
        operations=times,
    )


@contextmanager
def open_streams(port: int, count: int) -> Iterator[None]:
    """`count` streams that have had their first event and wait for the next."""
    with ExitStack() as streams:
        for _ in range(count):
            streams.enter_context(_opened(port, "/sse/idle"))
        yield


def paced(port: int, *, streams: int, run_s: float) -> Measured:
    """Delays of events from the upstream's clock to ours (`p50`, `p99`, in µs), and their `rate`."""
    readers = _read(port, "/sse/paced", streams=streams, run_s=run_s, timed=True)
    delays = sorted(delay / 1000 for reader in readers for delay in reader.delays_ns)
    return Measured(
        figures={
            "p50": percentile(delays, 0.5),
            "p99": percentile(delays, 0.99),
            "rate": len(delays) / run_s,
        },
        operations=sum(reader.events for reader in readers),
        errors=sum(reader.broken for reader in readers),
    )


def flood(port: int, *, streams: int, run_s: float) -> Measured:
    """Events a second (`rate`) from an upstream that never waits. Several may come in one read."""
    readers = _read(port, "/sse/flood", streams=streams, run_s=run_s, timed=False)
    events = sum(reader.body_bytes for reader in readers) // EVENT_BYTES
    return Measured(
        figures={"rate": events / run_s},
        operations=events,
        errors=sum(reader.broken for reader in readers),
    )


class Reader(asyncio.Protocol):
    """One stream. Counts body bytes, and takes the time of each event if it is to."""

    def __init__(self, path: str, *, timed: bool) -> None:
        self._request = _request(path)
        self._timed = timed
        self._parser = httptools.HttpResponseParser(self)
        self._unread = b""
        self._closing = False
        self.counting = False
        self.broken = False
        self.body_bytes = 0
        self.events = 0
        self.delays_ns: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which is not registered
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = not self._closing

    def on_body(self, body: bytes) -> None:
        """Called by the parser with what is left of the body when the framing is gone."""
        if self.counting:
            self.body_bytes += len(body)
        if self._timed:
            self._time(body)

    def close(self) -> None:
        self._closing = True
        self._transport.abort()

    def _time(self, body: bytes) -> None:
        now = time.monotonic_ns()
        events = (self._unread + body).split(b"\n\n")
        self._unread = events.pop()
        self.events += len(events)
        if self.counting:
            self.delays_ns.extend(now - int(event[STAMP]) for event in events)


def _read(port: int, path: str, *, streams: int, run_s: float, timed: bool) -> list[Reader]:
    gc.collect()
    gc.disable()
    try:
        return uvloop.run(_read_all(port, path, streams=streams, run_s=run_s, timed=timed))
    finally:
        gc.enable()


async def _read_all(port: int, path: str, *, streams: int, run_s: float, timed: bool) -> list[Reader]:
    loop = asyncio.get_running_loop()
    readers = []
    try:
        for _ in range(streams):
            reader = Reader(path, timed=timed)
            await loop.create_connection(lambda made=reader: made, "127.0.0.1", port)  # type: ignore[misc]
            readers.append(reader)
        await asyncio.sleep(SETTLE_S)
        for reader in readers:
            reader.counting = True
        await asyncio.sleep(run_s)
        for reader in readers:
            reader.counting = False
    finally:
        for reader in readers:
            reader.close()
    return readers


@contextmanager
def _opened(port: int, path: str) -> Iterator[None]:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_request(path))
        received = b""
        while b"data: " not in received:
            data = connection.recv(65_536)
            if not data:
                raise ConnectionError(f"port {port} closed a stream before its first event")
            received += data
        yield


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode()
