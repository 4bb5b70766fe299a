"""TLS of a port's connections: they count from the moment they are accepted, and the handshake has a bound.

An HTTP protocol learns of a connection when its handshake is over. Whoever opens many and says nothing would
take all file descriptors before any rule of the budget is asked.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

from proxy.downstream.admission import Connections
from proxy.downstream.certificate import PortTls
from proxy.downstream.server import MakePort, MakeProtocol

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

    _secured: ClassVar[set[asyncio.Task[None]]] = set()
    """Handshakes under way; nothing else holds their tasks."""

    def __init__(self, tls: PortTls, budget: Connections, made: Callable[[], asyncio.Protocol]) -> None:
        self._tls = tls
        self._budget = budget
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket from its transport, which could read the client's first bytes at any moment: with
        uvloop it does so before anything else runs, and `start_tls` would wait for them in vain."""
        plain = cast(asyncio.Transport, transport)
        peer = plain.get_extra_info("peername")
        name = str(peer[0]) if peer else ""
        if self._budget.enter(name):
            try:
                connection = socket.socket(fileno=os.dup(plain.get_extra_info("socket").fileno()))
            except OSError:  # no descriptor is free, or the client has left
                self._budget.leave(name)
            else:
                connection.setblocking(False)
                task = asyncio.get_running_loop().create_task(self._secure(connection, name))
                self._secured.add(task)
                task.add_done_callback(self._secured.discard)
        plain.abort()

    async def _secure(self, connection: socket.socket, peer: str) -> None:
        next_one = _Next(self._made, partial(self._budget.leave, peer))
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: next_one,
                connection,
                ssl=self._tls.context(),
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=FAREWELL_S,
            )
        except (OSError, ssl.SSLError) as exc:
            logger.debug("no handshake", extra={"why": type(exc).__name__})
        finally:
            next_one.leave()


class _Next(asyncio.Protocol):
    """Gives a connection whose handshake is over to the HTTP protocol, which counts it anew."""

    def __init__(self, made: Callable[[], asyncio.Protocol], leave: Callable[[], None]) -> None:
        self._made = made
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """The handshake is over, whatever became of it. Idempotent."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.leave()
        protocol = self._made()
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)


def secured(port: MakePort, tls: PortTls, budget: Connections) -> MakePort:
    """Makes a port with TLS before it."""

    def made(*given: Any) -> MakeProtocol:
        return partial(Handshake, tls, budget, port(*given))

    return made
