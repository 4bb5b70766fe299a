"""The two ends in bytes: an upstream that plays a script, and a client that says what it is told."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.connections import serving_connections

DATE = b"date: Sat, 01 Nov 2025 08:00:00 GMT\r\n"
"""Without one, an upstream's answer would get another one on its way."""


@dataclass
class Asked:
    """One request as it came over the wire, and the means to answer it."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)
    """Lines behind a body in chunks, without their ends."""

    @property
    def target(self) -> bytes:
        return self.head.split(b" ", 2)[1]

    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:-2]
        return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers() if key.lower() == name), None)

    async def read_body(self) -> bytes:
        """The rest of the request, without its framing."""
        length = self.header(b"content-length")
        if length is not None:
            self.body = await self.reader.readexactly(int(length))
        elif self.header(b"transfer-encoding"):
            while size := int(await self.reader.readuntil(b"\n"), 16):
                self.body += await self.reader.readexactly(size)
                await self.reader.readuntil(b"\n")
            self.trailers = await trailers_of(self.reader)
        return self.body

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError("the peer has left")
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, status: bytes = b"200 OK", extra: bytes = b"") -> None:
        """A whole answer in JSON; `extra` is header lines, each with its CRLF."""
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
        if b"date:" not in extra:
            extra += DATE
        await self.send(head % (status, len(body), extra) + body)


Script = Callable[[Asked], Awaitable[None]]


@dataclass
class ScriptedUpstream:
    """Plays `script` for each request; a connection lives until its peer or the script closes it."""

    script: Script
    port: int = 0
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    path: Path | None = None
    """Of a Unix socket, at which it listens instead."""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a peer has closed a connection while the script was at work, or after."""

    @property
    def url(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ScriptedUpstream"]:
        async with serving_connections(
            self._serve, host=self.host, port=self.port, path=self.path, tls=self.tls
        ) as self.port:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                asked = Asked(head, reader, writer)
                self.asked.append(asked)
                await self.script(asked)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            self.open -= 1


async def trailers_of(reader: asyncio.StreamReader) -> list[bytes]:
    """What follows the last chunk, up to the empty line."""
    found: list[bytes] = []
    while line := (await reader.readuntil(b"\r\n"))[:-2]:
        found.append(line)
    return found


@dataclass
class Answered:
    """One answer as a client saw it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = True
    """True if the framing says that this is all; an answer that ends with its connection never says so."""
    trailers: list[bytes] = field(default_factory=list)
    """Lines behind a body in chunks, without their ends."""

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Talker:
    """A client that speaks bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    interim: list[int] = field(default_factory=list)
    """Statuses of interim answers."""
    trailers: list[bytes] = field(default_factory=list)
    """Those of the last answer in chunks."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answered:
        """The next final answer, without its body."""
        while True:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
            pairs = (line.partition(b":") for line in lines[1:])
            answered = Answered(int(lines[0].split(b" ")[1]), [(n, v.strip()) for n, _, v in pairs])
            if answered.status >= 200:
                return answered
            self.interim.append(answered.status)

    async def answer(self, *, to_head: bool = False) -> Answered:
        """The next final answer, with as much of its body as comes."""
        answered = await self.head()
        length = answered.header(b"content-length")
        if to_head or answered.status in {204, 304}:
            return answered
        try:
            if length is not None:
                answered.body = await self.reader.readexactly(int(length))
            elif answered.header(b"transfer-encoding"):
                async for chunk in self.chunks():
                    answered.body += chunk
                answered.trailers = self.trailers
            else:
                answered.body, answered.complete = await self.reader.read(), False
        except asyncio.IncompleteReadError as cut:
            answered.body, answered.complete = answered.body + cut.partial, False
        return answered

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        self.trailers = await trailers_of(self.reader)

    async def ask(self, request: bytes, *, to_head: bool = False) -> Answered:
        await self.send(request)
        return await self.answer(to_head=to_head)

    def leave(self) -> None:
        """Close without a word, and without reading what is still to come."""
        self.writer.transport.abort()


@asynccontextmanager
async def talking(
    url: str, *, from_host: str | None = None, within_s: float | None = None
) -> AsyncIterator[Talker]:
    """A connection to an http URL, from an address of this machine; or to a Unix socket, `unix:/PATH`. What
    takes longer than `within_s` in all is a `TimeoutError`."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(within_s):
        if host == "unix":
            reader, writer = await asyncio.open_unix_connection(port)
        else:
            local = (from_host, 0) if from_host else None
            reader, writer = await asyncio.open_connection(host, int(port), local_addr=local)
        try:
            yield Talker(reader, writer)
        finally:
            writer.transport.abort()


async def ask(url: str, request: bytes, *, to_head: bool = False) -> Answered:
    """One request on a connection of its own."""
    async with talking(url, within_s=10) as client:
        return await client.ask(request, to_head=to_head)


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Look again and again. Raises `TimeoutError` if it does not come true."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is on the far side of a socket
            await asyncio.sleep(0.005)


async def ok(asked: Asked) -> None:
    """A script: a small answer in JSON."""
    await asked.read_body()
    await asked.answer(b'{"ok": true}')


async def silent(asked: Asked) -> None:
    """A script: no answer, until the peer leaves."""
    await asked.reader.read()


def raw(answer: bytes) -> Script:
    """A script that answers every request with these bytes."""

    async def play(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(answer)

    return play
