"""Upgraded connections: after the upstream's 101, bytes go both ways and are not looked at.

A client's offer goes to the upstream on a connection of its own. Until the upstream answers, nothing that the
client sends after its request is read; and only a 101 that accepts the offer makes a tunnel of the two.
"""

import asyncio
import socket
import struct
from typing import Self, cast

from prometheus_client import Counter, Gauge

from proxy.errors import UpstreamAborted, UpstreamBusy
from proxy.http.headers import Headers, end_to_end
from proxy.http.upgrade import Lost, UpgradeOffer, listed
from proxy.settings.blocks.upstream import UpgradeSettings
from proxy.upstream.exchange import Exchange


class _End(asyncio.Protocol):
    """One of a tunnel's two ends: what is read here is written at the other."""

    __slots__ = ("_lost", "_transport", "_tunnel", "closed", "is_at_eof", "other")

    def __init__(self, tunnel: "Tunnel") -> None:
        self._tunnel = tunnel
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.other: Self = cast(Self, None)
        self._lost: Lost | None = None
        self.closed = True
        self.is_at_eof = False

    def begin(self, transport: asyncio.Transport, lost: Lost | None = None) -> None:
        self._transport = transport
        self._lost = lost
        self.closed = False

    @property
    def _is_open(self) -> bool:
        return not (self.closed or self._transport.is_closing())

    def data_received(self, data: bytes) -> None:
        self._tunnel.note_activity()
        self.other.write(data)

    def write(self, data: bytes) -> None:
        if self._is_open:
            self._transport.write(data)

    def eof_received(self) -> bool:
        self.is_at_eof = True
        self.other.write_eof()
        return True  # the other direction goes on

    def write_eof(self) -> None:
        if not self._is_open:
            return
        if self.is_at_eof or not self._transport.can_write_eof():  # TLS has no half-close
            self.close()
            self.other.close()
        else:
            self._transport.write_eof()

    def pause_writing(self) -> None:
        if self.other._is_open:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other._is_open:
            self.other._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        lost, self._lost = self._lost, None  # it holds on to the request
        if lost is not None:
            lost(exc)
        if exc is None:
            self.other.close()
        else:
            self.other.reset()
        self._tunnel.note_closed()

    def close(self) -> None:
        """Close when everything is written."""
        if self._is_open:
            self._transport.close()

    def reset(self) -> None:
        """Close with a TCP reset: a protocol without an end of its own takes a plain close for one."""
        if not self.closed:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()


class Tunnel:
    """Two connections, and the bytes between them. A side that is slow slows the other."""

    def __init__(self, bounds: UpgradeSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self._bounds = bounds
        self.client, self.upstream = _End(self), _End(self)
        self.client.other, self.upstream.other = self.upstream, self.client
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._active_at = self._loop.time()
        self._total = self._loop.call_later(bounds.total_s, self.cut)
        self._idle = self._loop.call_later(bounds.idle_s, self._check_idle)

    def note_activity(self) -> None:
        self._active_at = self._loop.time()

    def _check_idle(self) -> None:
        """Cut the tunnel if it is idle. One timer serves it, however many bytes come."""
        due = self._active_at + self._bounds.idle_s
        if due <= self._loop.time():
            self.cut()
        else:
            self._idle = self._loop.call_at(due, self._check_idle)

    def note_closed(self) -> None:
        """One end is closed: the tunnel is over if the other one is, too."""
        if self.client.closed and self.upstream.closed and not self.over.done():
            self._total.cancel()
            self._idle.cancel()
            self.over.set_result(None)

    def cut(self) -> None:
        self.client.reset()
        self.upstream.reset()
        self.note_closed()


class Upgrades:
    """All tunnels of one process."""

    def __init__(self, bounds: UpgradeSettings, counted: Counter, gauge: Gauge) -> None:
        self._bounds = bounds
        self._counted = counted
        self._gauge = gauge
        self._open: set[Tunnel] = set()

    def check_room(self) -> None:
        """Raises UpstreamBusy if `max_open` tunnels are open."""
        if len(self._open) >= self._bounds.max_open:
            raise UpstreamBusy(f"{len(self._open)} upgraded connections are open")

    async def carry(self, offer: UpgradeOffer, exchange: Exchange) -> None:
        """Pass the 101 on, and bytes both ways until both sides are closed.

        Raises:
            UpstreamAborted: the client left before it could have the 101.
            UpstreamBroke: the upstream did.
        """
        if offer.left():
            raise UpstreamAborted("the client left before its protocol was switched")
        head = _switching(exchange.headers)
        tunnel = Tunnel(self._bounds)
        self._open.add(tunnel)
        try:
            upstream, first = exchange.detach(tunnel.upstream)
            tunnel.upstream.begin(upstream)
            tunnel.client.begin(*offer.switch(tunnel.client))
            tunnel.client.write(head + first)
            if offer.early:
                tunnel.upstream.write(bytes(offer.early))
            upstream.resume_reading()
            self._counted.inc()
            with self._gauge.track_inprogress():
                await tunnel.over
        finally:
            tunnel.cut()
            self._open.discard(tunnel)

    def cut_all(self) -> None:
        """End all tunnels: the time to drain is over."""
        for tunnel in list(self._open):
            tunnel.cut()


def _switching(headers: Headers) -> bytes:
    """The head of the client's 101."""
    protocols = b", ".join(listed(headers, b"upgrade"))
    kept = [*end_to_end(headers), (b"connection", b"Upgrade"), (b"upgrade", protocols)]
    lines = [b"HTTP/1.1 101 Switching Protocols", *(name + b": " + value for name, value in kept)]
    return b"\r\n".join([*lines, b"", b""])
