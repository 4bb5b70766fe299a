"""A corporate proxy: CONNECT, and plain HTTP by whole addresses; with Basic credentials if wanted.

It alone knows the names of the servers behind it, as in a network without DNS for the outside.
"""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from tests.servers.connections import serving_connections

Mood = Literal["willing", "silent", "dead", "babbling", "slow-spoken"]


@dataclass
class CorporateProxy:
    """Reaches `places` for whoever has the credential; a connection lives until one side closes it."""

    places: Mapping[str, int] = field(default_factory=dict)
    """Loopback ports by `HOST:PORT`; every other place is refused with 502."""
    credential: str = ""
    """`USER:PASSWORD`; "" for none."""
    tls: ssl.SSLContext | None = None
    mood: Mood = "willing"
    """`silent`: never answers. `dead`: closes each connection. `babbling`: its answer's head has no end.
    `slow-spoken`: begins its answer, and leaves it at that."""
    status: bytes = b""
    """Answers everything with this, for example `403 Forbidden`."""
    port: int = 0
    asked: list[str] = field(default_factory=list)
    """`METHOD TARGET` of each request."""
    open: int = 0
    """Connections."""

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["CorporateProxy"]:
        async with serving_connections(self._serve, port=self.port, tls=self.tls) as self.port:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.open -= 1

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False after the last one of a connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = line.split(" ")
        self.asked.append(f"{method} {target}")
        if self.mood != "willing":
            return await self._moody(reader, writer)
        refused = self.status or self._refused(fields)
        place = target if method == "CONNECT" else _place(target)
        if refused or place not in self.places:
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % (refused or b"502 Bad Gateway"))
            await writer.drain()
            return not refused
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.places[place])
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 corporate\r\n\r\n")
                await _both(reader, writer, to_reader, to_writer)
                return False
            await _forwarded(method, target, fields, reader, to_writer)
            return await _answered(to_reader, writer)
        finally:
            to_writer.close()

    def _refused(self, fields: list[str]) -> bytes:
        wanted = base64.b64encode(self.credential.encode()).decode()
        if not self.credential or f"proxy-authorization: basic {wanted}".lower() in map(str.lower, fields):
            return b""
        return b"407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=corporate"

    async def _moody(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self.mood == "dead":
            return False
        if self.mood == "babbling":
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while not writer.is_closing():
                writer.write(b"x-word: " + b"la" * 500 + b"\r\n")
                await writer.drain()
        if self.mood == "slow-spoken":
            writer.write(b"HTTP/1.1 200 Conn")
        await reader.read()  # until the other side gives up
        return False


def _place(target: str) -> str:
    parts = urlsplit(target)
    return f"{parts.hostname}:{parts.port or 80}"


async def _both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    to_reader: asyncio.StreamReader,
    to_writer: asyncio.StreamWriter,
) -> None:
    async with asyncio.TaskGroup() as pipes:
        pipes.create_task(_pipe(reader, to_writer))
        pipes.create_task(_pipe(to_reader, writer))


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def _forwarded(
    method: str, target: str, fields: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Pass on a request, as its origin wants it."""
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kept = [each for each in fields if not each.lower().startswith(("proxy-", "host:"))]
    writer.write("\r\n".join([f"{method} {path} HTTP/1.1", f"host: {parts.netloc}", *kept, "", ""]).encode())
    length = next(
        (each.partition(":")[2] for each in fields if each.lower().startswith("content-length")), "0"
    )
    writer.write(await reader.readexactly(int(length)))
    await writer.drain()


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Pass on an answer; True if its end is not that of its connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(head)
    lower = head.lower()
    if b"\r\ncontent-length:" in lower:
        length = int(lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        writer.write(await reader.readexactly(length))
    elif b"\r\ntransfer-encoding:" in lower:
        piece = b""
        while piece != b"0\r\n":
            piece = await reader.readuntil(b"\n")
            writer.write(piece)
            writer.write(await reader.readexactly(int(piece, 16) + 2))
            await writer.drain()
    else:
        await _pipe(reader, writer)
        return False
    await writer.drain()
    return True


@asynccontextmanager
async def behind_tls(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A loopback port that speaks TLS for the server at another one, as an ingress does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
            await _both(reader, writer, to_reader, to_writer)

    async with serving_connections(serve, tls=context) as listening:
        yield listening
