"""Ask the upstream, own its answer: HTTP/1.1 over asyncio, with a bounded pool of idle connections.

Not a general client: one origin, no redirects, no cookies, no retries but the one that RFC 9112 9.3.1
allows. Why not a library: a request costs about 20 µs here and 100 to 3,000 µs in the common ones.

Giving a connection back is synchronous (`Exchange.close`): a cancelled task needs no shield for it,
and there is no moment in which a connection belongs to nobody.

A kept connection belongs to one worker of the upstream, and a request on it waits while that one is busy,
though another is free. So a `wary` pool uses no kept connection while an answer is long in coming, but one
that has answered just now; and a safe request that meets silence all the same is sent on a fresh one, too.
"""

import asyncio
import logging
import ssl
from asyncio.events import TimerHandle
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Self

from flags.tls import why
from proxy.errors import (
    Fault,
    UpstreamAborted,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamError,
    UpstreamMalformed,
    UpstreamUnreachable,
)
from proxy.http.headers import BODILESS_STATUS, Headers, write_head
from proxy.upstream.connection import LONG_S, TIMER_SLACK_S, Connection, OnInterim, Timeouts
from proxy.upstream.patience import Patience

logger = logging.getLogger("headgate.upstream")

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods sent again on a fresh connection if a reused one closed before any answer (RFC 9110 9.2.2)."""

SILENT_S = 1.0
"""A safe request whose kept connection has said nothing for so long is sent on a fresh one, too."""

JUST_ANSWERED_S = 0.01
"""A worker that has answered within this time is taken for free. Without it, an upstream at its limit, whose
answers are all long, would be asked on nothing but fresh connections, and then be over it."""


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


class Exchange:
    """One request and its answer: `with upstream.exchange("GET") as exchange`. The block owns it."""

    __slots__ = (
        "_aborted",
        "_connection",
        "_fresh",
        "_is_counted",
        "_long",
        "_repeats",
        "_replay",
        "_second",
        "_silence",
        "_upstream",
        "method",
        "on_interim",
    )

    def __init__(self, upstream: "Upstream", method: str, *, fresh: bool, long: bool, repeats: bool) -> None:
        self.method = method
        self._fresh = fresh
        self._long = long or fresh
        self._repeats = repeats or method in IDEMPOTENT
        self._is_counted = False
        self._upstream = upstream
        self._connection: Connection | None = None
        self._second: Connection | None = None
        self._silence: TimerHandle | None = None
        self._replay: bytes | None = None
        self._aborted = False
        self.on_interim: OnInterim | None = None
        """Is told of interim answers but 100."""

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
        if self._long:
            self._count()
        connection = None if self._long else self._upstream.reuse()
        if connection is None:
            connection = await self._connect()
        self._take(connection)
        connection.write(data)
        if whole:
            connection.sent(on_slow)
            if connection.used and self._repeats:
                self._replay = data
        else:
            connection.sending()

    async def _connect(self) -> Connection:
        return await (self._upstream.connect() if self._fresh else self._upstream.connect_or_keep())

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
        if self.connection.is_silent:
            await self._ask_twice()

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
        connection.on_interim = self.on_interim
        if self._upstream.wary and not self._is_counted:
            connection.on_long = self._turns_long
        if self._aborted:
            connection.fail(UpstreamAborted("the client left"))

    # An upstream that is busy.

    def _turns_long(self) -> None:
        self._count()
        if self._replay is not None:
            self._silence = asyncio.get_running_loop().call_later(SILENT_S - LONG_S, self._look_elsewhere)

    def _look_elsewhere(self) -> None:
        self._silence = None
        if self._replay is not None and self._upstream.patience.is_lost_on(self._replay, monotonic()):
            self.connection.fall_silent()

    async def _ask_twice(self) -> None:
        """Ask on a fresh connection as well. Whichever answers first is the answer, the other is closed."""
        first, request = self.connection, self._replay
        assert request is not None, "nothing else falls silent"
        self._replay = None
        first.is_silent = False
        asked_at = monotonic()
        loop = asyncio.get_running_loop()
        asking = [loop.create_task(first.head()), loop.create_task(self._ask_second(request))]
        try:
            await _one_succeeds(asking)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if not first.status and self._second is not None and self._second.status:
            self._connection, self._second = self._second, first
        self._give_back_second()
        now = monotonic()
        if self.connection is first or now - asked_at > SILENT_S:
            self._upstream.patience.learn(request, now)
        await self.connection.head()

    async def _ask_second(self, request: bytes) -> None:
        self._second = second = await self._upstream.connect()
        second.begin(is_head=self.method == "HEAD")
        if self._aborted:
            raise UpstreamAborted("the client left")
        second.write(request)
        second.sent()
        await second.head()

    def _count(self) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._upstream.long_begins(known=self._long)

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
        for connection in (self._connection, self._second):
            if connection is not None:
                connection.fail(UpstreamAborted("the client left"))

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """The upgraded connection, which is neither this exchange's any more nor the pool's."""
        connection = self.connection
        self._connection = None
        self._upstream.part_with_one()
        self.close()
        return connection.hand_over(protocol)

    def close(self) -> None:
        """Give the connection back, to be used again if it can be. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._upstream.release(connection)
        if self._is_counted:
            self._end_long()

    def _end_long(self) -> None:
        self._is_counted = False
        self._upstream.long_ends()
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._give_back_second()

    def _give_back_second(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            second.abort()  # also one that has answered: nobody has read it
            self._upstream.release(second)


async def _one_succeeds(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait until one has, or all have failed."""
    pending: set[asyncio.Task[None]] = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if any(task.exception() is None for task in done):
            return


class Upstream:
    """The pool of one origin. `aclose` closes what is idle; what is in use belongs to its exchange.

    A `wary` one never lets a request wait behind a worker that is busy with another.
    """

    def __init__(self, origin: Origin, *, wary: bool = False) -> None:
        self.origin = origin
        self.wary = wary
        self.patience = Patience()
        self._long = 0
        self._long_since = 0.0
        self._idle: deque[Connection] = deque()
        self._in_use = 0
        self._reaper: TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Upstream {self._in_use} in use, {len(self._idle)} idle>"

    @property
    def in_use(self) -> int:
        return self._in_use

    def exchange(
        self, method: str, *, fresh: bool = False, long: bool = False, repeats: bool = False
    ) -> Exchange:
        """One exchange; `fresh` on a connection of its own making.

        The upstream may close a kept connection just as it is written to. A call that has effects, and
        must not be sent again, is lost then; beside one that takes a minute a connection costs nothing.

        One that is `long`, as a fresh one is, is known to take its time: it has a connection of its own if
        one can be made, and as long as it lasts its worker counts as busy.

        Args:
            repeats: a whole request that was written to a kept connection, and had not a byte of an answer
                when that broke, is sent again on a fresh one, whatever its method. Clients of models do so.
        """
        return Exchange(self, method, fresh=fresh, long=long, repeats=repeats)

    def long_begins(self, *, known: bool) -> None:
        """An answer is long in coming, or is known to be before it is asked for."""
        self._long += 1
        if known:
            self._long_since = monotonic()

    def long_ends(self) -> None:
        self._long -= 1

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
        if self._long and self.wary and not self._has_a_free_one():
            return None
        return self._kept()

    def _has_a_free_one(self) -> bool:
        """Whether a kept connection is to a worker that nothing which is under way keeps busy."""
        free_since = max(monotonic() - JUST_ANSWERED_S, self._long_since)
        return bool(self._idle) and self._idle[-1].idle_since >= free_since

    def _kept(self) -> Connection | None:
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

    def part_with_one(self) -> None:
        """A connection in use is no longer the pool's to bound."""
        self._in_use -= 1

    async def connect_or_keep(self) -> Connection:
        """A new connection, or a kept one after all if none can be made: out of ports, for example."""
        try:
            return await self.connect()
        except UpstreamError:
            kept = self._kept()
            if kept is None:
                raise
            return kept

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
            raise UpstreamUnreachable(why(exc)) from exc
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
