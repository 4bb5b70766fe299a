"""Ask the upstream, own its answer: HTTP/1.1 over asyncio, with a bounded pool of idle connections.

Not a general client: one origin, no redirects, no cookies, no retries but the one that RFC 9112 9.3.1
allows. Why not a library: a request costs about 20 µs here and 100 to 3,000 µs in the common ones.

Giving a connection back is synchronous (`Exchange.close`): a cancelled task needs no shield for it,
and there is no moment in which a connection belongs to nobody.
"""

import asyncio
import logging
import ssl
from asyncio.events import TimerHandle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Self, cast

import httptools

from proxy.errors import (
    Fault,
    UpstreamAborted,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamError,
    UpstreamMalformed,
    UpstreamSilent,
    UpstreamStalled,
    UpstreamUnreachable,
)
from proxy.headers import BODILESS_STATUS, Headers, write_head

logger = logging.getLogger("headgate.upstream")

READ_PAUSE_BYTES = 64 * 1024
"""Body bytes that may wait for the reader before the socket is left alone."""

MAX_HEAD_BYTES = 64 * 1024
"""Status line and headers of an answer, interim answers included; and its trailers."""

SLOW_S = 0.05
"""When `Connection.sent` says that an exchange is slow. It shares the timer of the timeouts: most answers
come sooner, and a second timer for each would cost a twentieth of a relayed request."""

TIMER_SLACK_S = 0.002
"""A loop's timers count in milliseconds and may come one early."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods sent again on a fresh connection if a reused one closed before any answer (RFC 9110 9.2.2)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, each measured at the upstream's own connection."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    idle_s: float = 120.0
    total_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the upstream is, and how many connections to it there may be."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_connections: int = 2048
    max_idle: int = 512
    keep_alive_s: float = 4.0
    """Idle connections older than this are closed; uvicorn, the usual upstream, closes its side after 5."""

    @property
    def authority(self) -> bytes:
        """`Host` for a request that has none of its own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default_port = 443 if self.tls else 80
        return (host if self.port == default_port else f"{host}:{self.port}").encode()


def _size(headers: Headers) -> int:
    """Bytes of header lines."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole. `target` is the path with its query, as it goes on the wire."""

    method: str
    target: bytes
    headers: Headers
    body: bytes = b""

    def wire(self) -> bytes:
        headers = self.headers
        if self.body or self.method in {"POST", "PUT", "PATCH"}:
            headers = [*headers, (b"content-length", b"%d" % len(self.body))]
        return write_head(self.method.encode(), self.target, headers) + self.body


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whole; header names in lower case, in the order they came."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return next((value for n, value in self.headers if n == name), None)

    @property
    def flaw(self) -> Fault:
        """What a body that cannot be read is. One that ends with its connection may have been cut anywhere:
        nothing else said where it ends.
        """
        framed = (self.header(b"content-length"), self.header(b"transfer-encoding"))
        says_its_end = self.status in BODILESS_STATUS or any(value is not None for value in framed)
        return Fault.MALFORMED if says_its_end else Fault.TRUNCATED


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    __slots__ = (
        "_active",
        "_buffered",
        "_chunks",
        "_complete",
        "_each",
        "_failure",
        "_field_bytes",
        "_interim",
        "_is_head",
        "_keep_alive",
        "_loop",
        "_parser",
        "_read_bytes",
        "_read_paused",
        "_sent",
        "_sent_at",
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
        "idle_since",
        "on_slow",
        "status",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._each: Callable[[bytes], None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._timer: TimerHandle | None = None
        self._timer_due = 0.0
        self._read_bytes = 0
        self.closed = True  # until it is made: nothing to abort yet
        self.used = False
        self.idle_since = 0.0
        self._active = False
        self._prepare(is_head=False)

    def _prepare(self, *, is_head: bool) -> None:
        self.status = 0
        self.headers: Headers = []
        self.has_length = False
        self.heard = False
        self.continued = False
        self._is_head = is_head
        self._interim = False
        self._field_bytes = 0
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

    # The exchange's side.

    def begin(self, *, is_head: bool) -> None:
        if self.used:
            self._prepare(is_head=is_head)
        else:
            self._is_head = is_head
        self._active = True
        self._total_due = monotonic() + self._timeouts.total_s

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
        self._fire_by(self._total_due, monotonic())

    def sent(self, on_slow: Callable[[], None] | None = None) -> None:
        """The request is out whole: from now on the upstream has `first_byte_s`.

        `on_slow` is called once, if the exchange is not over within `SLOW_S`.
        """
        self._sent = True
        self.on_slow = on_slow
        now = self._sent_at = monotonic()
        self._fire_by(now + (self._timeouts.first_byte_s if on_slow is None else SLOW_S), now)

    def leave_unsent(self) -> None:
        """The rest of the request will not come: the upstream has answered without it.

        It may still wait for it, and would read the next request as that rest.
        """
        self._spoiled = True
        self.sent()

    async def head(self) -> None:
        """Wait for status and headers of the final answer."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait()

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
        """Give the body to `take`, as much at a time as is here, to its end. Raises what `take` raises.

        That is done as the bytes come, and costs no turn of the task.
        """
        self._each = take
        try:
            while data := await self.read():
                take(data)
        finally:
            self._each = None

    def _begin_to_wait(self) -> None:
        if not self._waiting_since:
            now = self._waiting_since = monotonic()
            self._fire_by(now + self._timeouts.idle_s, now)

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
        self.on_slow = None  # it holds on to the request
        if self._timer is not None and self._timer_due > self._sent_at + SLOW_S:
            # A timer that fires soon is left to the next exchange: to arm one for each is dear.
            self._timer.cancel()
            self._timer = None
        return self._complete and self._sent and self._keep_alive and not (self._spoiled or self.closed)

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
        now = monotonic()
        if self.on_slow is not None:
            if self._sent_at + SLOW_S > now + TIMER_SLACK_S:  # the timer was the exchange's before
                self._fire_by(self._sent_at + SLOW_S, now)
                return
            on_slow, self.on_slow = self.on_slow, None
            on_slow()
            if self.status:
                self._wake()
        due, failure = self._next_due(now)
        if self._total_due <= due:
            due, failure = self._total_due, UpstreamStalled("total_s is over", Fault.TOTAL_TIMEOUT)
        if due <= now + TIMER_SLACK_S:
            self.fail(failure)
        else:
            self._fire_by(due, now)

    def _next_due(self, now: float) -> tuple[float, UpstreamError]:
        if not self._sent:
            return self._total_due, UpstreamStalled("total_s is over", Fault.TOTAL_TIMEOUT)
        if not self.status:
            return self._sent_at + self._timeouts.first_byte_s, UpstreamSilent("first_byte_s is over")
        # While nobody reads it is not the upstream that is slow.
        since = self._waiting_since or now
        return since + self._timeouts.idle_s, UpstreamStalled("idle_s is over")

    # The socket's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.closed = False

    def data_received(self, data: bytes) -> None:
        if not self._active:
            # Bytes that nobody asked for: an answer to come would be taken for another one's.
            self.abort()
            return
        self.heard = True
        self._read_bytes = len(data)
        buffered = self._buffered
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            # What a callback raised is the context of what the parser raises.
            ours = exc.__context__
            self.fail(ours if isinstance(ours, UpstreamError) else UpstreamMalformed(f"not HTTP/1.1: {exc}"))
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
        if self._each is None or self._complete or not self._chunks or not self._give(self._each):
            self._wake()

    def _give(self, take: Callable[[bytes], None]) -> bool:
        """Give what is here to a reader that waits for it; else it is for its task, and in order."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return False
        try:
            take(self.take())
        except Exception as exc:  # noqa: BLE001 - it is the reader's own, and is raised in its task
            waiter.set_exception(exc)
        else:
            self._begin_to_wait()
        return True

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.resume_writing()
        if not self._active or self._complete or self._failure is not None:
            self._wake()
            return
        if self.status and exc is None and not self._framed():
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
        if status < 100 or status == 101:
            raise UpstreamMalformed(f"status {status}, which nobody asked for")
        if status < 200:
            self._interim = True
            self.continued = self.continued or status == 100
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


class Exchange:
    """One request and its answer: `with upstream.exchange("GET") as exchange`. The block owns it."""

    __slots__ = ("_aborted", "_connection", "_fresh", "_replay", "_upstream", "method")

    def __init__(self, upstream: "Upstream", method: str, *, fresh: bool) -> None:
        self.method = method
        self._fresh = fresh
        self._upstream = upstream
        self._connection: Connection | None = None
        self._replay: bytes | None = None
        self._aborted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connection(self) -> Connection:
        assert self._connection is not None, "send() comes first"
        return self._connection

    async def send(self, data: bytes, *, whole: bool, on_slow: Callable[[], None] | None = None) -> None:
        """Take a connection and write the head, and the body with it if `whole`.

        `on_slow` is called once, if the exchange lasts longer than `SLOW_S` from then on.

        Raises:
            UpstreamUnreachable: no connection within `connect_s`.
            UpstreamBusy: `max_connections` are in use.
        """
        connection = (None if self._fresh else self._upstream.reuse()) or await self._upstream.connect()
        self._take(connection)
        connection.write(data)
        if whole:
            connection.sent(on_slow)
            if connection.used and self.method in IDEMPOTENT:
                self._replay = data
        else:
            connection.sending()

    async def head(self) -> None:
        """Wait for the head of the answer; `status` and `headers` are set then."""
        try:
            await self.connection.head()
        except UpstreamBroke:
            if self._replay is None or self.connection.heard or self._aborted:
                raise
            # The upstream closed an idle connection just as we wrote to it: its right, and no answer.
            await self._send_again(self._replay)
            await self.connection.head()

    async def _send_again(self, data: bytes) -> None:
        self._replay = None
        on_slow = self.connection.on_slow
        self.close()
        connection = await self._upstream.connect()
        self._take(connection)
        connection.write(data)
        connection.sent(on_slow)

    def _take(self, connection: Connection) -> None:
        self._connection = connection
        connection.begin(is_head=self.method == "HEAD")
        if self._aborted:
            connection.fail(UpstreamAborted("the client left"))

    @property
    def status(self) -> int:
        return self.connection.status

    @property
    def headers(self) -> Headers:
        return self.connection.headers

    async def read(self) -> bytes:
        return await self.connection.read()

    async def each(self, take: Callable[[bytes], None]) -> None:
        await self.connection.each(take)

    def abort(self) -> None:
        """Close the connection now; whoever waits on this exchange gets `UpstreamAborted`."""
        self._aborted = True
        if self._connection is not None:
            self._connection.fail(UpstreamAborted("the client left"))

    def close(self) -> None:
        """Give the connection back, to be used again if it can be. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._upstream.release(connection)


class Upstream:
    """The pool of one origin. `aclose` closes what is idle; what is in use belongs to its exchange."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._idle: deque[Connection] = deque()
        self._in_use = 0
        self._reaper: TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Upstream {self._in_use} in use, {len(self._idle)} idle>"

    @property
    def in_use(self) -> int:
        return self._in_use

    def exchange(self, method: str, *, fresh: bool = False) -> Exchange:
        """One exchange; `fresh` on a connection of its own making.

        The upstream may close a kept connection just as it is written to. A call that has effects, and
        must not be sent again, is lost then; beside one that takes a minute a connection costs nothing.
        """
        return Exchange(self, method, fresh=fresh)

    async def fetch(self, request: Request, *, max_bytes: int, fresh: bool = False) -> Answer:
        """The whole answer to a whole request.

        Raises:
            UpstreamError: as the tree in `proxy.errors` says; a body over `max_bytes` is malformed.
        """
        with self.exchange(request.method, fresh=fresh) as exchange:
            await exchange.send(request.wire(), whole=True)
            await exchange.head()
            parts: list[bytes] = []
            size = 0
            while data := await exchange.read():
                size += len(data)
                if size > max_bytes:
                    raise UpstreamMalformed(f"the body is over {max_bytes} bytes", Fault.TOO_LARGE)
                parts.append(data)
            return Answer(exchange.status, exchange.headers, b"".join(parts))

    def reuse(self) -> Connection | None:
        """The idle connection used last, for one exchange; None if a new one must be made."""
        oldest = monotonic() - self.origin.keep_alive_s
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and connection.idle_since >= oldest:
                self._in_use += 1
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """A new connection for one exchange."""
        if self._in_use >= self.origin.max_connections:
            raise UpstreamBusy(f"{self._in_use} connections are in use")
        self._in_use += 1
        try:
            return await self._connect()
        except BaseException:
            self._in_use -= 1
            raise

    def release(self, connection: Connection) -> None:
        """The exchange is over: keep its connection for the next one, or close it."""
        self._in_use -= 1
        if connection.end() and len(self._idle) < self.origin.max_idle:
            connection.idle_since = monotonic()
            self._idle.append(connection)
            if self._reaper is None:
                loop = asyncio.get_running_loop()
                self._reaper = loop.call_later(self.origin.keep_alive_s, self._reap)
        else:
            connection.abort()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        origin = self.origin
        connection = Connection(loop, origin.timeouts)
        try:
            async with asyncio.timeout(origin.timeouts.connect_s):
                await loop.create_connection(
                    lambda: connection,
                    origin.host,
                    origin.port,
                    ssl=origin.tls,
                    server_hostname=origin.host if origin.tls else None,
                )
        except (OSError, ssl.SSLError) as exc:  # TimeoutError is an OSError
            raise UpstreamUnreachable(f"{type(exc).__name__}") from exc
        except BaseException:
            connection.abort()
            raise
        return connection

    def _reap(self) -> None:
        """Close what has been idle for too long; the oldest is on the left."""
        loop = asyncio.get_running_loop()
        oldest = monotonic() - self.origin.keep_alive_s
        while self._idle and (self._idle[0].closed or self._idle[0].idle_since <= oldest + TIMER_SLACK_S):
            self._idle.popleft().abort()
        self._reaper = None
        if self._idle:
            self._reaper = loop.call_later(self._idle[0].idle_since - oldest, self._reap)

    async def aclose(self) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        while self._idle:
            self._idle.pop().abort()
