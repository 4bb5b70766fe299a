"""The upstream of the bench: quicker than any proxy in front of it. Not an HTTP server.

One uvloop protocol that understands what proxies and load generators send: keep-alive, `Content-Length` or
chunked bodies, whole heads of at most `MAX_HEAD_BYTES`. Paths: `/2k`, `/64k` (JSON from prebuilt bytes),
`/sse/paced` (an event every 20 ms), `/sse/idle` (one event, then silence), `/sse/flood` (events without end).
"""

import asyncio
import gc
import time
from itertools import count
from typing import cast

import click
import uvloop

MAX_HEAD_BYTES = 65_536
END_OF_HEAD = b"\r\n\r\n"
END_OF_CHUNKS = b"0\r\n\r\n"

END_OF_JSON = b'"end": true}'
"""By this the load generator knows that an answer is complete, whatever its framing."""

EVENT_BYTES = 60
EVENT_EVERY_S = 0.02
NANOSECOND_DIGITS = 20

SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

_streams = count()


def json_answer(size: int) -> bytes:
    """A whole response whose body is a JSON object of `size` bytes."""
    start, end = b'{"text": "', b'", ' + END_OF_JSON
    body = start + b"x" * (size - len(start) - len(end)) + end
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size
    return head + body


def event() -> bytes:
    """One event of 60 bytes that says when it was made, as one HTTP chunk."""
    stamp = b"data: %0*d" % (NANOSECOND_DIGITS, time.monotonic_ns())
    return b"%x\r\n%b\n\n\r\n" % (EVENT_BYTES, stamp.ljust(EVENT_BYTES - 2, b"."))


ANSWERS = {b"/2k": json_answer(2_048), b"/64k": json_answer(65_536)}
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client connection, and the stream on it if there is one."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._unread = b""
        self._streaming = False
        self._paused = False
        self._timer: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which is not registered

    def connection_lost(self, exc: Exception | None) -> None:
        self._streaming = False
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread + data
        while data and (end := _end_of_request(data)) is not None:
            self._answer(data[:end].split(b" ", 2)[1])
            data = data[end:]
        self._unread = data
        if len(data) > MAX_HEAD_BYTES:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._streaming:
            self._flood()

    def _answer(self, path: bytes) -> None:
        answer = ANSWERS.get(path)
        if answer is not None:
            self._transport.write(answer)
        elif path.startswith(b"/sse/"):
            self._transport.write(SSE_HEAD + event())
            self._start(path)
        else:
            self._transport.write(NOT_FOUND)

    def _start(self, path: bytes) -> None:
        if path == b"/sse/paced":
            # Streams that start together would all send in the same millisecond of each 20.
            phase_s = next(_streams) % 20 / 1000
            self._timer = self._loop.call_at(self._loop.time() + EVENT_EVERY_S + phase_s, self._pace)
        elif path == b"/sse/flood":
            self._streaming = True
            self._flood()

    def _pace(self) -> None:
        self._transport.write(event())
        self._timer = self._loop.call_later(EVENT_EVERY_S, self._pace)

    def _flood(self) -> None:
        # One event for each turn of the loop: its writes are flushed between turns, so that events travel
        # one by one, as a model's tokens do, for as long as the reader keeps up.
        if self._streaming and not self._paused:
            self._transport.write(event())
            self._timer = self._loop.call_soon(self._flood)


def _end_of_request(data: bytes) -> int | None:
    """Return where the first request in `data` ends; None if it is not all there."""
    end = data.find(END_OF_HEAD)
    if end < 0:
        return None
    end += len(END_OF_HEAD)
    head = data[:end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        end += int(head[at + 15 : head.index(b"\r\n", at)])
        return end if len(data) >= end else None
    if b"transfer-encoding: chunked" in head:
        found = data.find(END_OF_CHUNKS, end)
        return found + len(END_OF_CHUNKS) if found >= 0 else None
    return end


async def serve(port: int) -> None:
    """Serve until the process is told to stop."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=2048)
    gc.freeze()
    await server.serve_forever()


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """Run the upstream on a loopback port."""
    uvloop.run(serve(port))


if __name__ == "__main__":
    main()
