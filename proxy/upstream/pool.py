"""The connections to one origin: which of them carry an exchange, and which are idle, to be used again.

A kept connection belongs to one worker of the upstream, and a request on it waits while that one is busy,
though another is free. So a pool that `avoids_busy` workers uses no kept connection while an answer takes
long, except one that has answered just now.
"""

import asyncio
import ssl
from asyncio.events import TimerHandle
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, cast

from flags.egress import ProxyServer
from proxy.errors import UpstreamBusy, UpstreamError, UpstreamUnreachable
from proxy.upstream.addresses import Addresses
from proxy.upstream.at_once import Asking, Connecting, connected_here
from proxy.upstream.connecting import connect, connect_to_path
from proxy.upstream.connection import Connection
from proxy.upstream.hedging import Hedging
from proxy.upstream.timeouts import TIMER_SLACK_S, Timeouts

JUST_ANSWERED_S: Final = 0.01
"""A worker that has answered within this time counts as free. Without it, an upstream at its limit, whose
answers are all long, would be asked on nothing but fresh connections, and then be over it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The upstream's address, and the number of connections to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_connections: int = 2048
    max_idle: int = 512
    keep_alive_s: float = 4.0
    """Idle connections older than this are closed; uvicorn, the usual upstream, closes its side after 5."""
    via: ProxyServer | None = None
    """The proxy on the way there."""
    path: str | None = None
    """The Unix socket at which it listens; None: it is reached by host and port."""

    @property
    def authority(self) -> bytes:
        """`Host` for a request that has none of its own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default_port = 443 if self.tls else 80
        return (host if self.port == default_port else f"{host}:{self.port}").encode()

    @property
    def url(self) -> str:
        """The scheme and authority by which it is asked."""
        return f"{'https' if self.tls else 'http'}://{self.authority.decode()}"

    @property
    def asked_by_proxy(self) -> ProxyServer | None:
        """The proxy that reads each request, and asks for us. None: requests reach the origin as they are."""
        return self.via if self.tls is None else None


class ConnectionPool:
    """The pool of one origin. `aclose` closes idle connections; one in use belongs to its exchange."""

    def __init__(self, origin: Origin, *, avoids_busy: bool = False) -> None:
        self.origin = origin
        self.asked_by_proxy = origin.asked_by_proxy
        self.avoids_busy = avoids_busy
        self._keep_alive_s, self._max_idle = origin.keep_alive_s, origin.max_idle
        self.hedging = Hedging()
        self._long_exchanges = 0
        self._last_long_at = 0.0
        self._idle: list[Connection] = []
        self._in_use = 0
        self._reaper: TimerHandle | None = None
        self._addresses = Addresses((origin.via or origin).host)
        self._is_plain = origin.path is None and origin.tls is None and origin.via is None

    def __repr__(self) -> str:
        return f"<Upstream {self._in_use} in use, {len(self._idle)} idle>"

    @property
    def in_use(self) -> int:
        return self._in_use

    def begin_long(self, *, known: bool) -> None:
        """An answer takes long, or is known to take long before it is asked for."""
        self._long_exchanges += 1
        if known:
            self._last_long_at = monotonic()

    def end_long(self) -> None:
        self._long_exchanges -= 1

    def reuse(self, *, also_busy: bool = False) -> Connection | None:
        """The idle connection used last, for one exchange; None if a new one must be made.

        `also_busy`: it may be one whose worker is busy with another request.
        """
        idle = self._idle
        if self._long_exchanges and self.avoids_busy and not (also_busy or self._has_free_worker()):
            return None
        oldest = monotonic() - self._keep_alive_s
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.idle_since >= oldest:
                self._in_use += 1
                return connection
            connection.abort()
        return None

    def _has_free_worker(self) -> bool:
        """True if a kept connection leads to a worker that is not busy with another request."""
        free_since = max(monotonic() - JUST_ANSWERED_S, self._last_long_at)
        return bool(self._idle) and self._idle[-1].idle_since >= free_since

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

    def connect_at_once(self, asking: Asking, data: bytes = b"") -> Connecting | None:
        """Begin a new connection for an exchange, without a task. None: `connect` must make it, if there is
        more to it than one known address, or must say why it cannot. Some of `data` may be out then."""
        origin = self.origin
        host = self._addresses.known() if self._is_plain else None
        if host is None or self._in_use >= origin.max_connections:
            return None
        loop = asyncio.get_running_loop()
        here = connected_here(loop, host, origin.port, data)  # first: the upstream goes on beside us
        connecting = Connecting(loop, Connection(loop, origin.timeouts), asking, self._not_connected)
        if here is not None:
            connecting.begin_with(here)
        elif not connecting.begin(host, origin.port):
            return None
        self._in_use += 1
        return connecting

    def _not_connected(self, is_refused: bool) -> None:
        self._in_use -= 1
        if is_refused:
            self._addresses.forget()

    def give_up_one(self) -> None:
        """A connection in use does not count towards `max_connections` any more."""
        self._in_use -= 1

    async def connect_or_keep(self) -> Connection:
        """A new connection, or a kept one after all if none can be made: out of ports, for example."""
        try:
            return await self.connect()
        except UpstreamError:
            kept = self.reuse(also_busy=True)
            if kept is None:
                raise
            return kept

    def release(self, connection: Connection) -> None:
        """The exchange is over: keep its connection for the next one, or close it."""
        self._in_use -= 1
        idle = self._idle
        if connection.end() and len(idle) < self._max_idle:
            connection.idle_since = monotonic()
            idle.append(connection)
            if self._reaper is None:
                loop = asyncio.get_running_loop()
                self._reaper = loop.call_later(self.origin.keep_alive_s, self._reap)
        else:
            connection.abort()

    async def _connect(self) -> Connection:
        origin = self.origin
        connection = Connection(asyncio.get_running_loop(), origin.timeouts)
        protocol = cast(asyncio.Protocol, connection)
        try:
            async with asyncio.timeout(origin.timeouts.connect_s):
                if origin.path is not None:
                    await connect_to_path(protocol, origin.path)
                else:
                    await connect(protocol, origin.host, origin.port, origin.tls, origin.via, self._addresses)
        except TimeoutError as exc:
            through = "" if origin.via is None else f", through the proxy {origin.via}"
            raise UpstreamUnreachable(f"TimeoutError{through}") from exc
        except BaseException:
            connection.abort()
            raise
        return connection

    def _reap(self) -> None:
        """Close what has been idle for too long; the oldest is on the left."""
        loop = asyncio.get_running_loop()
        oldest = monotonic() - self.origin.keep_alive_s
        while self._idle and (self._idle[0].closed or self._idle[0].idle_since <= oldest + TIMER_SLACK_S):
            self._idle.pop(0).abort()
        self._reaper = None
        if self._idle:
            self._reaper = loop.call_later(self._idle[0].idle_since - oldest, self._reap)

    async def aclose(self) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        while self._idle:
            self._idle.pop().abort()
