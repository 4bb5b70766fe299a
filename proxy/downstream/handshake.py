"""TLS of a port's connections: they count from the moment they are accepted, and the handshake has a bound.

An HTTP protocol learns of a connection when its handshake is over. Whoever opens many and says nothing would
take all file descriptors before any rule of the budget is asked.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from proxy.downstream.admission import Connections
from proxy.downstream.server import ServerProtocol

logger = logging.getLogger("headgate.tls")

HANDSHAKE_S = 10.0
"""Seconds until the handshake must be over; then the connection is closed."""

FAREWELL_S = 5.0
"""Seconds that a client has to confirm the end of a connection that we close."""


class Handshake(asyncio.Protocol):
    """A connection of which no byte has been read in clear.

    Args:
        tls: the port's certificate, and the authorities of its clients.
        budget: of the port's connections.
        made: makes the HTTP protocol that comes next.
    """

    def __init__(
        self, tls: ssl.SSLContext, budget: Connections, made: Callable[[], asyncio.Protocol]
    ) -> None:
        self._tls = tls
        self._budget = budget
        self._made = made
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        name = str(peer[0]) if peer else ""
        if self._budget.enter(name):
            self._task = asyncio.get_running_loop().create_task(
                self._secure(cast(asyncio.Transport, transport), name)
            )
        else:
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, _: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _secure(self, plain: asyncio.Transport, peer: str) -> None:
        early = _Early()
        try:
            secured = await asyncio.get_running_loop().start_tls(
                plain,
                early,
                self._tls,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=FAREWELL_S,
            )
        except (OSError, ssl.SSLError) as exc:
            logger.debug("no handshake", extra={"why": type(exc).__name__})
            secured = None
        finally:
            self._budget.leave(peer)
        if secured is None or secured.is_closing() or early.is_lost:
            (secured or plain).abort()
            return
        protocol = self._made()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)  # counts it anew
        if early.received:
            protocol.data_received(bytes(early.received))
        if early.has_ended and not protocol.eof_received():
            secured.close()


class _Early(asyncio.Protocol):
    """Keeps what comes right behind the handshake: the HTTP protocol is there a turn of the loop later."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.has_ended = self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.has_ended = True
        return True

    def connection_lost(self, _: Exception | None) -> None:
        self.is_lost = True


def secured(protocol: type[ServerProtocol], tls: ssl.SSLContext, budget: Connections) -> type[ServerProtocol]:
    """The protocol class that uvicorn is given for a port with TLS."""

    def made(**given: Any) -> asyncio.Protocol:
        return Handshake(tls, budget, partial(protocol, **given))

    return cast(type[ServerProtocol], made)
