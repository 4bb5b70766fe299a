"""One connection to the upstream: HTTP/1.1 over asyncio, an exchange at a time, each wait with its bound.

What comes is handed on as it comes; the socket is left alone while nobody takes it.
"""

import asyncio
import socket
from asyncio.events import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from proxy.errors import (
    Fault,
    UpstreamBroke,
    UpstreamError,
    UpstreamMalformed,
    UpstreamSilent,
    UpstreamStalled,
)
from proxy.http.headers import Headers
from proxy.http.repeated_length import final_head, with_one_length
from proxy.http.upgrade import SWITCHING_PROTOCOLS, is_accepted
from proxy.turns import Turns

READ_PAUSE_BYTES = 64 * 1024
"""Body bytes that may wait for the reader before the socket is left alone."""

EACH_BYTES = 4096
"""Of a body that is given to its reader at a time: of the shortest events, five hundred."""

MAX_HEAD_BYTES = 64 * 1024
"""Status line and headers of an answer, interim answers included; and its trailers."""

SLOW_S = 0.05
"""When `Connection.sent` says that an exchange is slow. It shares the timer of the timeouts: most answers
come sooner, and a second timer for each would cost a twentieth of a relayed request."""

LONG_S = 0.1
"""When an answer that is not whole counts as long, and its worker as busy; see `proxy.upstream.client`."""

QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Acknowledge at once; of Linux alone."""

OnInterim = Callable[[int, bytes, Headers], None]
"""Is told of an interim answer: status, reason and headers."""

TIMER_SLACK_S = 0.002
"""A loop's timers count in milliseconds and may come one early."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, each measured at the upstream's own connection."""

    connect_s: float = 5.0
    first_byte_s: float = 900.0
    idle_s: float = 120.0
    total_s: float = 900.0


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Of an interim answer, which has no body, they say nothing."""


def _size(headers: Headers) -> int:
    """Bytes of header lines."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    __slots__ = (
        "_active",
        "_beyond",
        "_buffered",
        "_chunks",
        "_complete",
        "_each",
        "_eof",
        "_failure",
        "_field_bytes",
        "_head",
        "_interim",
        "_is_head",
        "_keep_alive",
        "_loop",
        "_parser",
        "_read_bytes",
        "_read_paused",
        "_sent",
        "_sent_at",
        "_socket",
        "_spoiled",
        "_timeouts",
        "_timer",
        "_timer_due",
        "_total_due",
        "_transport",
        "_waiter",
        "_waiting_since",
        "_writable",
        "_write_paused",
        "closed",
        "continued",
        "has_length",
        "headers",
        "heard",
        "idle_s",
        "idle_since",
        "is_silent",
        "offered",
        "on_interim",
        "on_long",
        "on_slow",
        "reason",
        "status",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._socket: socket.socket | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._each: Callable[[bytes], None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._timer: TimerHandle | None = None
        self._timer_due = 0.0
        self._read_bytes = 0
        self._eof = False
        self.closed = True  # until it is made: nothing to abort yet
        self.used = False
        self.idle_since = 0.0
        self._active = False
        self._prepare(is_head=False)

    def _prepare(self, *, is_head: bool) -> None:
        self.idle_s = self._timeouts.idle_s
        """As this exchange wants it."""
        self.status = 0
        self.reason = b""
        self.headers: Headers = []
        self.has_length = False
        self.heard = False
        self.continued = False
        self._is_head = is_head
        self._interim = False
        self._field_bytes = 0
        self._head = b""
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._read_paused = False
        self._sent = False
        self._complete = False
        self._keep_alive = False
        self._spoiled = False
        self._failure: UpstreamError | None = None
        self._waiting_since = 0.0
        self._total_due = 0.0
        self._sent_at = 0.0
        self.on_slow: Callable[[], None] | None = None
        self.on_long: Callable[[], None] | None = None
        self.on_interim: OnInterim | None = None
        self.is_silent = False
        self.offered = b""
        self._beyond = b""

    # The exchange's side.

    def begin(self, *, is_head: bool) -> None:
        if self.used:
            self._prepare(is_head=is_head)
        else:
            self._is_head = is_head
        self._active = True
        self._total_due = self._loop.time() + self._timeouts.total_s

    def write(self, data: bytes) -> None:
        if not self.closed:  # uvloop raises if it is
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the socket takes more; returns at once when the connection is lost."""
        while self._write_paused and not self.closed:
            self._writable = self._loop.create_future()
            await self._writable

    def sending(self) -> None:
        """The request is on its way, in parts: until it is out, `total_s` alone counts."""
        self._fire_by(self._total_due, self._loop.time())

    def sent(self, on_slow: Callable[[], None] | None = None) -> None:
        """The request is out whole: from now on the upstream has `first_byte_s`.

        `on_slow` is called once, if the exchange is not over within `SLOW_S`, and `on_long` after `LONG_S`.
        """
        self._sent = True
        self.on_slow = on_slow
        now = self._sent_at = self._loop.time()
        if on_slow is not None:
            due = now + SLOW_S
        else:
            due = now + (self._timeouts.first_byte_s if self.on_long is None else LONG_S)
        self._fire_by(due, now)

    def leave_unsent(self) -> None:
        """The rest of the request will not come: the upstream has answered without it.

        It may still wait for it, and would read the next request as that rest.
        """
        self._spoiled = True
        self.sent()

    async def head(self) -> None:
        """Wait for status and headers of the final answer, or for `fall_silent`."""
        while not (self.status or self.is_silent):
            if self._failure is not None:
                raise self._failure
            await self._wait()

    def fall_silent(self) -> None:
        """Whoever waits for the head may look elsewhere, if no byte of an answer has come."""
        if not self.heard and self._failure is None:
            self.is_silent = True
            self._wake()

    async def until_continued(self, wait_s: float) -> None:
        """Wait for a 100, the final answer or a failure, at most `wait_s`."""
        try:
            async with asyncio.timeout(wait_s):
                while not (self.continued or self.status or self._failure):
                    await self._wait()
        except TimeoutError:
            return

    async def read(self) -> bytes:
        """The next bytes of the body, as many as are here; `b""` at its end."""
        while not self._chunks:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._failure
            self._begin_to_wait()
            await self._wait()
        return self.take()

    async def each(self, take: Callable[[bytes], None]) -> None:
        """Give the body to `take`, at most `EACH_BYTES` at a time, to its end. Raises what `take` raises.

        Few bytes are given as they come, which costs no turn of the task.
        """
        self._each = take
        turns = Turns()
        try:
            while data := await self.read():
                for at in range(0, len(data), EACH_BYTES):
                    take(data[at : at + EACH_BYTES])
                    await turns.breathe()
        finally:
            self._each = None

    def _begin_to_wait(self) -> None:
        if not self._waiting_since:
            now = self._waiting_since = self._loop.time()
            self._fire_by(now + self.idle_s, now)

    @property
    def has_more(self) -> bool:
        """Bytes of the body are here."""
        return bool(self._chunks)

    def take(self) -> bytes:
        """The bytes of the body that are here; there must be some."""
        self._waiting_since = 0.0
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._read_paused:
            self._read_paused = False
            if not self.closed:
                self._transport.resume_reading()
        return data

    async def first(self) -> bytes:
        """The body's first bytes, to go out with the head; `b""` if they are slow, and it goes alone."""
        while self.on_slow is not None and not (self._chunks or self._complete or self._failure):
            await self._wait()
        return await self.read() if self._chunks or self._failure else b""

    @property
    def at_end(self) -> bool:
        """The body is complete and nothing of it is left to read."""
        return self._complete and not self._chunks

    @property
    def whole(self) -> bool:
        """The body is complete, and its length was announced."""
        return self._complete and self.has_length

    def end(self) -> bool:
        """The exchange is over. True if the connection may carry another."""
        self._active = False
        self.used = True
        self.on_slow = self.on_long = self.on_interim = None  # they hold on to the request
        self._failure = self._waiter = None  # and so do the frames that an error was raised through
        if self._timer is not None and self._timer_due > self._sent_at + SLOW_S:
            # A timer that fires soon is left to the next exchange: to arm one for each is dear.
            self._timer.cancel()
            self._timer = None
        return self._complete and self._sent and self._keep_alive and not (self._spoiled or self.closed)

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """The socket, which is another protocol's from now on and is not read yet; and what it has said
        beyond the 101.
        """
        self.end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.closed:
            raise UpstreamBroke("closed after its protocol was switched")
        self._transport.set_protocol(protocol)
        self.closed = True  # for whoever had it
        return self._transport, self._beyond

    def fail(self, failure: UpstreamError) -> None:
        """End the exchange for good; the first failure is the one that is told."""
        if self._failure is None:
            self._failure = failure
        self.abort()
        self._wake()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True  # the loop says so only later, and nobody may take it until then
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Time.

    def _fire_by(self, due: float, now: float) -> None:
        """See to it that the timer fires by `due`; one that fires sooner looks again."""
        due = min(due, self._total_due)
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(due - now, self._timer_fired)

    def _timer_fired(self) -> None:
        """Fail what is due, or sleep until something can be.

        One timer serves all phases and is armed again only when it fires or comes too late, so that a
        stream of a thousand chunks costs no timer a chunk.
        """
        self._timer = None
        if not self._active:
            return
        now = self._loop.time()
        if self.on_slow is not None:
            if self._sent_at + SLOW_S > now + TIMER_SLACK_S:  # the timer was the exchange's before
                self._fire_by(self._sent_at + SLOW_S, now)
                return
            on_slow, self.on_slow = self.on_slow, None
            on_slow()
            if self.status:
                self._wake()
        if self.on_long is not None and self._sent and self._sent_at + LONG_S <= now + TIMER_SLACK_S:
            on_long, self.on_long = self.on_long, None
            on_long()
        due, failure = self._next_due(now)
        if self._total_due <= due:
            due, failure = self._total_due, UpstreamStalled("total_s is over", Fault.TOTAL_TIMEOUT)
        if due <= now + TIMER_SLACK_S:
            self.fail(failure)
        elif self.on_long is not None and self._sent:
            self._fire_by(min(due, self._sent_at + LONG_S), now)
        else:
            self._fire_by(due, now)

    def _next_due(self, now: float) -> tuple[float, UpstreamError]:
        if not self._sent:
            return self._total_due, UpstreamStalled("total_s is over", Fault.TOTAL_TIMEOUT)
        if not self.status:
            return self._sent_at + self._timeouts.first_byte_s, UpstreamSilent("first_byte_s is over")
        # While nobody reads it is not the upstream that is slow.
        since = self._waiting_since or now
        return since + self.idle_s, UpstreamStalled("idle_s is over")

    # The socket's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        self.closed = False

    def data_received(self, data: bytes) -> None:
        if not self._active:
            # Bytes that nobody asked for: an answer to come would be taken for another one's.
            self.abort()
            return
        self.heard = True
        self._read_bytes = len(data)
        buffered = self._buffered
        if not self._is_read(data):
            return
        if self._buffered != buffered:
            self._field_bytes = 0
        elif not self._complete:
            # A head that goes on, or trailers, or the lines between chunks: nobody else bounds them.
            self._field_bytes += len(data)
            if self._field_bytes > MAX_HEAD_BYTES:
                self.fail(UpstreamMalformed("the head is too large", Fault.TOO_LARGE))
                return
        if not self.status and not self.continued:
            return
        if self._buffered > READ_PAUSE_BYTES and not self._read_paused and not self._complete:
            self._read_paused = True
            self._transport.pause_reading()
        if not self._complete:
            self._acknowledge()
        if self._each is None or self._complete or not self._chunks or not self._give(self._each):
            self._wake()

    def _is_read(self, data: bytes) -> bool:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if not self._read_again(data, exc):
                self._stop_parsing(data, exc)
                return False
        else:
            if not self.status:
                self._head += data
        return True

    def _stop_parsing(self, data: bytes, exc: Exception) -> None:
        """It is no HTTP, or no more HTTP; then it is for whom the connection is handed over to."""
        if self.status == SWITCHING_PROTOCOLS and isinstance(exc, httptools.HttpParserUpgrade):
            self._transport.pause_reading()
            self._beyond = data[exc.args[0] :]
            self._wake()
            return
        # What a callback raised is the context of what the parser raises.
        ours = exc.__context__
        self.fail(ours if isinstance(ours, UpstreamError) else UpstreamMalformed(f"not HTTP/1.1: {exc}"))

    def _read_again(self, data: bytes, exc: Exception) -> bool:
        """Whether what cannot be read was a length that is said twice alike, and is read without it."""
        if self.status or "Content-Length" not in str(exc):
            return False
        self._head += data
        head = final_head(self._head)
        if head is None:
            return True  # it comes here again with the rest
        mended = with_one_length(head)
        if mended is None:
            return False
        self._parser = httptools.HttpResponseParser(self)
        self.reason, self.headers, self.has_length = b"", [], False
        try:
            self._parser.feed_data(mended)
        except httptools.HttpParserError:
            return False
        return True

    def _acknowledge(self) -> None:
        """Acknowledge what came now, since more is to come.

        An upstream that writes head and body apart, and lets the second wait for the first's acknowledgement
        (without TCP_NODELAY, as with `uvicorn --workers`), would wait 40 ms for one on a kept connection.
        """
        if QUICKACK is not None and self._socket is not None and not self.closed:
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def _give(self, take: Callable[[bytes], None]) -> bool:
        """Give what is here to a reader that waits for it; else it is for its task, and in order."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self._buffered > EACH_BYTES:
            return False
        try:
            take(self.take())
        except Exception as exc:  # noqa: BLE001 - it is the reader's own, and is raised in its task
            waiter.set_exception(exc)
            del waiter  # of the frames that it was raised through, this one would hold on to it
        else:
            self._begin_to_wait()
        return True

    def eof_received(self) -> None:
        # Of TLS it comes with the peer's farewell alone, so a connection that somebody cut lacks it.
        self._eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.resume_writing()
        if not self._active or self._complete or self._failure is not None:
            self._wake()
            return
        if self.status and exc is None and self._eof and not self._framed():
            self._complete = True
        elif self.status:
            self._failure = UpstreamBroke("closed in the middle of the body", Fault.TRUNCATED)
        else:
            self._failure = UpstreamBroke("closed before the answer's head")
        self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _framed(self) -> bool:
        """Whether the answer itself says where it ends; if not, the connection's end is its end."""
        return self.has_length or any(name == b"transfer-encoding" for name, _ in self.headers)

    # The parser's side.

    def on_message_begin(self) -> None:
        if self._complete:
            self._spoiled = True

    def on_status(self, reason: bytes) -> None:
        if not self.status:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # later ones are trailers, and those are dropped
            name = name.lower()
            if name == b"content-length":
                self.has_length = True
            elif name == b"transfer-encoding":
                self._check_coding(value)
            self.headers.append((name, value))

    def _check_coding(self, value: bytes) -> None:
        """`chunked` is undone here and nothing else is, so a body in another coding cannot be passed on."""
        if value.strip().lower() != b"chunked" or any(n == b"transfer-encoding" for n, _ in self.headers):
            raise UpstreamMalformed("a transfer coding other than 'chunked'")

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        # Counted only if it can be too large: it came in several reads, or with much of its body.
        if self._field_bytes + self._read_bytes > MAX_HEAD_BYTES and _size(self.headers) > MAX_HEAD_BYTES:
            raise UpstreamMalformed("the head is too large", Fault.TOO_LARGE)
        if status < 100 or (status == SWITCHING_PROTOCOLS and not is_accepted(self.offered, self.headers)):
            raise UpstreamMalformed(f"status {status}, which nobody asked for")
        if status < 200 and status != SWITCHING_PROTOCOLS:
            self._interim = True
            self.continued = self.continued or status == 100
            if status != 100 and self.on_interim is not None:
                self.on_interim(
                    status, self.reason, [pair for pair in self.headers if pair[0] not in _FRAMING]
                )
            self.reason = b""
            self.headers = []
            self.has_length = False
            return
        self.status = status
        if self._is_head:
            self._finish()
            # The parser cannot know that no body follows, so it is not asked again.
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._spoiled = True
            return
        self._chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._complete:
            self._finish()

    def _finish(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()
