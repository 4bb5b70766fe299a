"""The clients of the bench's runs: viewers that look at the time of each token, and starters of whole runs.

Every tenth viewer is looked at. The others read too, but seldom and much at a time: a load that reads each
event of a thousand streams fills its core, and what is measured then is the load.
"""

import asyncio
import re
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

from tests.bench.paced import BODY
from tests.bench.run_servers import GO, STAMP_DIGITS, STAMP_WRAP, TAPPED, clock_us
from tests.bench.servers import Server
from tests.bench.upstream import END_OF_CHUNKS, END_OF_HEAD

STARTERS = 20
"""Clients that start whole runs, one after the other."""

STAMP = re.compile(rb" (\d{9}) ")
LOOKED_AT = 10
"""One viewer in so many."""
SELDOM_BYTES = 16 * 1024
"""Of which the others are told at a time."""

OPEN_S = 30.0
START_S = 0.02
"""More that a whole run may take, of many."""
TAIL_BYTES = 2048  # the last event of a whole run is shorter


@dataclass(frozen=True, slots=True)
class Viewing:
    """Runs of one kind, and how many view each."""

    kind: str
    runs: int
    viewers: int = 1


async def start_runs(port: int, runs: int) -> None:
    """Whole runs, each begun by a client that has the end of its last one."""
    loop = asyncio.get_running_loop()
    requests = iter([_post("whole", uuid.uuid4(), 0) for _ in range(runs)])
    starters = []
    for _ in range(STARTERS):
        _, starter = await loop.create_connection(partial(Starter, requests), "127.0.0.1", port)
        starters.append(starter)
    async with asyncio.timeout(OPEN_S + runs * START_S):
        await asyncio.gather(*(starter.done for starter in starters))


async def go(model_port: int) -> None:
    """Let the model's streams go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", model_port)
    writer.write(b"GET %b HTTP/1.1\r\n\r\n" % GO)
    await reader.readuntil(END_OF_HEAD)
    writer.close()


@asynccontextmanager
async def viewers_of(server: Server, viewing: Viewing) -> AsyncIterator[list["Viewer"]]:
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
        now_us = clock_us()
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
