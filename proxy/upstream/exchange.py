"""One request to the upstream and its answer, on a connection of the pool.

Giving a connection back is synchronous (`Exchange.close`): a cancelled task needs no shield for it, and there
is no moment in which a connection belongs to nobody.

A safe request that meets silence on a kept connection is hedged: it is sent on a fresh one, too.
"""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Final, Self

from proxy.errors import UpstreamAborted, UpstreamBroke, UpstreamError, UpstreamUnreachable
from proxy.http.headers import Headers
from proxy.upstream.at_once import Asking, Connecting
from proxy.upstream.connecting import PROXY_AUTHENTICATION_REQUIRED, absolute
from proxy.upstream.connection import Carried, Connection
from proxy.upstream.hedging import first_success
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.timeouts import LONG_S

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods sent again on a fresh connection if a reused one closed before any answer (RFC 9110 9.2.2)."""

SILENT_S: Final = 1.0
"""Seconds of silence on a kept connection after which a safe request is sent on a fresh one, too."""


class Exchange(Carried):
    """One request and its answer: `with upstream.exchange("GET") as exchange`. The block owns it."""

    __slots__ = (
        "_aborted",
        "_fresh",
        "_is_counted",
        "_is_long",
        "_pool",
        "_repeats",
        "_replay",
        "_second",
        "_silence",
        "current",
        "method",
    )

    def __init__(self, pool: ConnectionPool, method: str, fresh: bool, long: bool, repeats: bool) -> None:
        self.method = method
        self.current: Connection | None = None
        """The connection that it is on; None: there is none yet, or it has been given back."""
        self._second: Connection | None = None
        self._silence: TimerHandle | None = None
        self._replay: bytes | None = None
        self._is_counted = self._aborted = False
        self._fresh = fresh
        self._is_long = long or fresh
        self._repeats = repeats or method in IDEMPOTENT
        self._pool = pool

    # What its connection tells it; see `Carried`. A task that waits for the answer looks for itself.

    def upstream_changed(self) -> None:
        pass

    def upstream_interim(self, of: Connection, status: int, reason: bytes, headers: Headers) -> None:
        pass

    def upstream_is_slow(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connection(self) -> Connection:
        assert self.current is not None, "send() comes first"
        return self.current

    async def send(self, data: bytes, *, whole: bool, tells_slow: bool = False) -> None:
        """Take a connection and write the head, and the body with it if `whole`.

        `tells_slow`: `upstream_is_slow` is called once, if the exchange lasts longer than `SLOW_S` then.

        Raises:
            UpstreamUnreachable: no connection within `connect_s`.
            UpstreamBusy: `max_connections` are in use.
        """
        if not self.send_at_once(data, whole, tells_slow):
            if self._is_long:
                self._count_as_long()
            pool = self._pool
            connection = await (pool.connect() if self._fresh else pool.connect_or_keep())
            self._ask(connection, data, whole, tells_slow)

    def send_at_once(self, data: bytes, whole: bool, tells_slow: bool) -> bool:
        """Do the same on a kept connection. False: there is none, and nothing was sent."""
        connection = None if self._is_long else self._pool.reuse()
        if connection is None:
            return False
        self._ask(connection, data, whole, tells_slow)
        return True

    def begin_to_connect(self, asking: Asking, data: bytes) -> Connecting | None:
        """Begin to make a connection, of which `asking` is told later; it asks for `data` then, of which some
        may be out. None: `send` must make it."""
        if self._is_long:
            self._count_as_long()
        return self._pool.connect_at_once(asking, data)

    def send_on_kept(self, data: bytes, whole: bool, tells_slow: bool) -> bool:
        """No new connection can be made: send on a kept one after all. False: there is none, or it must be
        new."""
        connection = None if self._fresh else self._pool.reuse(also_busy=True)
        if connection is None:
            return False
        self._ask(connection, data, whole, tells_slow)
        return True

    def _ask(self, connection: Connection, data: bytes, whole: bool, tells_slow: bool) -> None:
        self.current = connection
        if whole and self._repeats and connection.used:
            self._replay = data
        pool = self._pool
        if pool.asked_by_proxy is not None:
            data = absolute(data, pool.origin.authority, pool.asked_by_proxy)
        if self._aborted:
            connection.fail(UpstreamAborted("the client left"))
        connection.carry(self, data, whole, tells_slow, pool.avoids_busy and not self._is_counted)

    @property
    def may_go_on(self) -> bool:
        """True if a failure or silence before the head is not the end: `head` asks again, or hedges."""
        connection = self.connection
        return connection.is_silent or (
            self._replay is not None
            and isinstance(connection.failure, UpstreamBroke)
            and not connection.response.has_begun
            and not self._aborted
        )

    @property
    def refusal_of_proxy(self) -> UpstreamError | None:
        """The failure that an answer's head stands for if it is not the upstream's own, but a proxy's."""
        if self.status != PROXY_AUTHENTICATION_REQUIRED or self._pool.asked_by_proxy is None:
            return None
        return UpstreamUnreachable(f"the proxy {self._pool.origin.via} answers {self.status}")

    async def head(self) -> None:
        """Wait for the head of the answer; `status` and `headers` are set then."""
        again: bytes | None = None
        try:
            await self.connection.head()
        except UpstreamBroke:
            if self._replay is None or self.connection.response.has_begun or self._aborted:
                raise
            again = self._replay
        if again is not None:
            # The upstream closed an idle connection just as it was written to (RFC 9112 9.3.1).
            await self._send_again(again)
            await self.connection.head()
        if self.connection.is_silent:
            await self._hedge()
        if (refusal := self.refusal_of_proxy) is not None:
            raise refusal

    async def _send_again(self, data: bytes) -> None:
        self._replay = None
        tells_slow = self.connection.timer.tells_slow
        self.close()
        self._ask(await self._pool.connect(), data, True, tells_slow)

    # An upstream that is busy.

    def upstream_is_long(self) -> None:
        self._count_as_long()
        if self._replay is not None:
            self._silence = asyncio.get_running_loop().call_later(SILENT_S - LONG_S, self._hedge_if_useful)

    def _hedge_if_useful(self) -> None:
        self._silence = None
        if self._replay is not None and self._pool.hedging.should_hedge(self._replay, monotonic()):
            self.connection.fall_silent()

    async def _hedge(self) -> None:
        """Ask on a fresh connection as well. Whichever answers first is the answer, the other is closed."""
        first, request = self.connection, self._replay
        assert request is not None, "nothing else falls silent"
        self._replay = None
        first.is_silent = False
        asked_at = monotonic()
        loop = asyncio.get_running_loop()
        attempts = [loop.create_task(first.head()), loop.create_task(self._send_second(request))]
        await first_success(attempts)
        if not first.response.status and self._second is not None and self._second.response.status:
            self.current, self._second = self._second, first
        self._give_back_second()
        now = monotonic()
        if self.connection is first or now - asked_at > SILENT_S:
            self._pool.hedging.note_slow(request, now)
        await self.connection.head()

    async def _send_second(self, request: bytes) -> None:
        pool = self._pool
        self._second = second = await pool.connect()
        if self._aborted:
            raise UpstreamAborted("the client left")
        if pool.asked_by_proxy is not None:
            request = absolute(request, pool.origin.authority, pool.asked_by_proxy)
        second.carry(self, request, True)
        await second.head()

    def _count_as_long(self) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._pool.begin_long(known=self._is_long)

    @property
    def status(self) -> int:
        return self.connection.response.status

    @property
    def headers(self) -> Headers:
        return self.connection.response.headers

    def read(self, serve: Callable[[bytes], bool] | None = None) -> Awaitable[bytes]:
        return self.connection.read(serve)

    def each(self, take: Callable[[bytes], None]) -> Awaitable[None]:
        return self.connection.each(take)

    def abort(self) -> None:
        """Close the connection now; the task that waits on this exchange gets `UpstreamAborted`."""
        self._aborted = True
        for connection in (self.current, self._second):
            if connection is not None:
                connection.fail(UpstreamAborted("the client left"))

    def detach(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Give the upgraded connection to `protocol`: neither this exchange nor the pool has it any more."""
        connection = self.connection
        self.current = None
        self._pool.give_up_one()
        self.close()
        return connection.detach(protocol)

    def close(self) -> None:
        """Give the connection back, to be used again if it can be. Idempotent."""
        connection, self.current = self.current, None
        if connection is not None:
            self._pool.release(connection)
        if self._is_counted:
            self._stop_counting()

    def _stop_counting(self) -> None:
        self._is_counted = False
        self._pool.end_long()
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._give_back_second()

    def _give_back_second(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            second.abort()  # also one that has answered, for its answer was not read
            self._pool.release(second)
