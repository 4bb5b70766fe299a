"""Clients in bytes, their manners and their faults. Each says what it saw, and judges nothing.

They read the wire by themselves and strictly: one written form of an event, nothing else between them.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers.scripted import Talker

PATIENCE_S = 12.0
"""Seconds that a viewer waits for the end of what it reads; longer than any timeout of the upstream."""

USER = "X-User"
TERMINAL = frozenset({"stream_done", "error"})
CONTENT = frozenset({"content_chunk", "content_replace"})

_BLOCK = re.compile(rb"(?:id: ([0-9a-f-]{36}):([1-9][0-9]*)\n)?(?:retry: [0-9]+\n)?data: (\{[^\r\n]*\})")
_HEARTBEAT = b": hb\n"


@dataclass
class Saw:
    """One answer, as one client saw it."""

    status: int = 0
    """0: it left before there was one."""
    headers: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    """Payloads, each with its `run` and `seq`; those without an id have `None`."""
    body: bytes = b""
    """Of an answer that is no stream."""
    is_clean: bool = False
    """True if the framing said that this is all."""
    has_left: bool = False
    """True if it left by itself."""
    problems: list[str] = field(default_factory=list)

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def terminals(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] in TERMINAL]

    @property
    def cursor(self) -> str | None:
        """Return what this client would send as `Last-Event-ID`."""
        ids = [f"{event['run']}:{event['seq']}" for event in self.events if event["seq"] is not None]
        return ids[-1] if ids else None


class Reader:
    """Cuts a stream into events, and refuses what is not exactly as it is written."""

    def __init__(self, saw: Saw) -> None:
        self._saw = saw
        self._rest = b""

    def feed(self, data: bytes) -> None:
        self._rest += data
        while True:
            self._rest = self._without_heartbeats(self._rest)
            block, blank, rest = self._rest.partition(b"\n\n")
            if not blank:
                return
            self._rest = rest
            self._take(block)

    def close(self) -> None:
        """The end has come, which may not be within an event."""
        if self._rest and not self._saw.has_left:
            self._saw.problems.append(f"the stream ended within {self._rest[:80]!r}")

    def _without_heartbeats(self, data: bytes) -> bytes:
        while data.startswith(_HEARTBEAT):
            data = data[len(_HEARTBEAT) :]
            if self._saw.terminals:
                self._saw.problems.append("a heartbeat after the terminal event")
        return data

    def _take(self, block: bytes) -> None:
        found = _BLOCK.fullmatch(block)
        if found is None:
            self._saw.problems.append(f"no event: {block[:120]!r}")
            return
        run, seq = (None, None) if found[1] is None else (found[1].decode(), int(found[2]))
        self._saw.events.append({"run": run, "seq": seq, **json.loads(found[3])})


Heard = Callable[[Saw], None]
"""Called with all that was seen, whenever there is more."""


def nobody(_: Saw) -> None:
    """Nobody wants to know."""


@dataclass
class Stay:
    """The part of a stream that a client reads before it leaves; None: all."""

    body_bytes: int | None = None
    """May end within an event, which is then lost to the client."""
    events: int | None = None

    def left(self, saw: Saw) -> bool:
        return (self.events is not None and len(saw.events) >= self.events) or self.body_bytes == 0

    def take(self, data: bytes) -> bytes:
        """Return the part of these bytes that it still reads."""
        if self.body_bytes is None:
            return data
        taken = data[: self.body_bytes]
        self.body_bytes -= len(taken)
        return taken


@dataclass(frozen=True)
class Client:
    """Somebody at a Headgate."""

    url: str
    user: str = "ann"

    def request(self, method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
        lines = {"Host": "headgate", USER: self.user, "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body

    def start(self, prefix: str, run: str, **headers: str) -> bytes:
        """The POST that starts a run with this id."""
        own = {"Accept": "text/event-stream", "Headgate-Run": run, **headers}
        return self.request("POST", f"{prefix}/{run}/start", b'{"case": "%b"}' % run.encode(), **own)

    def resume(self, run: str, cursor: str | None) -> bytes:
        headers = {"Accept": "text/event-stream", **({} if cursor is None else {"Last-Event-ID": cursor})}
        return self.request("GET", f"/_headgate/runs/{run}/events", **headers)

    async def view(self, request: bytes, heard: Heard = nobody, stay: Stay | None = None) -> Saw:
        """Send, and read to the end, or as long as it stays."""
        async with asyncio.timeout(PATIENCE_S), self.connected() as talker:
            await talker.send(request)
            return await read(talker, heard, stay or Stay())

    async def cancel(self, run: str) -> int:
        """The status of a DELETE."""
        return (await self.view(self.request("DELETE", f"/_headgate/runs/{run}"))).status

    @asynccontextmanager
    async def connected(self, receive_bytes: int | None = None) -> AsyncIterator[Talker]:
        """A connection that is reset when the block is left. `receive_bytes` is what the kernel may hold."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        made = socket.socket()
        made.setblocking(False)
        if receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(made, (host, int(port)))
            reader, writer = await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise
        try:
            yield Talker(reader, writer)
        finally:
            writer.transport.abort()


async def read(talker: Talker, heard: Heard, stay: Stay) -> Saw:
    """Read one answer to its end, or as long as the client stays."""
    saw = Saw()
    try:
        answered = await talker.head()
        saw.status = answered.status
        saw.headers = {name.decode().lower(): value.decode() for name, value in answered.headers}
        heard(saw)
        if saw.is_stream:
            await _read_stream(talker, saw, heard, stay)
        else:
            saw.body = await talker.reader.readexactly(int(saw.headers.get("content-length", "0")))
            saw.is_clean = True
    except (asyncio.IncompleteReadError, ConnectionError):
        saw.is_clean = False
    return saw


async def _read_stream(talker: Talker, saw: Saw, heard: Heard, stay: Stay) -> None:
    reader = Reader(saw)
    saw.has_left = stay.left(saw)
    chunks = talker.chunks()
    while not saw.has_left:
        chunk = await anext(chunks, None)
        if chunk is None:
            saw.is_clean = True
            break
        if saw.terminals:
            saw.problems.append(f"after the terminal event: {chunk[:80]!r}")
        reader.feed(stay.take(chunk))
        heard(saw)
        saw.has_left = stay.left(saw)
    reader.close()
