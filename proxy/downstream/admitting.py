"""The protocol of a port whose connections are counted. One over the budget gets a 503 and is closed."""

import asyncio
import contextlib
import os
import socket
from asyncio import Transport
from collections.abc import Callable
from typing import Any, Final

from uvicorn import Config
from uvicorn.server import ServerState

from proxy.downstream.admission import Connections
from proxy.downstream.client_answer import last_answer
from proxy.downstream.client_request import ClientRequest
from proxy.downstream.server import MakeProtocol, ServerProtocol
from proxy.errors import problem
from proxy.http.forwarded import UNIX, Named

REFUSED_S: Final = 1.0
"""Seconds until a refused connection is closed: closed at once, its client might not see why."""

MAX_LINGERING = 32
"""Connections that are refused at a time: half of the reserved descriptors. Any more are closed at once."""

DROP_BYTES: Final = 64 * 1024
"""Of what a client sends before it is refused, so much is read: unread, it would reset the connection, and
some clients would not see why."""

RETRY_AFTER_S = b"5"

_HEADERS, _BODY = problem(
    503, "Service Unavailable", "This proxy has as many connections as it may have. Please try again."
)
_HEADERS.append((b"retry-after", RETRY_AFTER_S))


_lingering: set["AdmittingProtocol"] = set()
"""Refused connections whose clients have a moment to read why."""


class AdmittingProtocol(ServerProtocol):
    """One client connection, if the budget admits it."""

    __slots__ = (
        "_budget",
        "_holder",
        "_is_admitted",
        "_named",
        "_names_users",
        "_peer",
        "_peer_names_users",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        budget: Connections,
        named: Named,
        names_users: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._budget = budget
        self._named = named
        self._names_users = names_users
        self._peer_names_users = True
        self._is_admitted = False
        self._peer = ""
        self._holder: str | None = None

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else _without_address(transport)
        if self._names_users is not None:
            self._peer_names_users = self._names_users(self._peer)
        self._is_admitted = self._budget.enter(self._peer)
        if self._is_admitted:
            self._holder = self._peer
        else:
            self._turn_away(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_admitted:
            self._is_admitted = False
            self._budget.leave(self._holder)
        _lingering.discard(self)
        super().connection_lost(exc)

    def _turn_away(self, transport: Transport) -> None:
        transport.write(last_answer(503, _HEADERS, _BODY))
        if len(_lingering) < MAX_LINGERING:
            _lingering.add(self)
            self.linger(REFUSED_S)
        else:
            self._is_over = True
            _drop_unread(transport)
            transport.close()

    def _begin(self, request: ClientRequest) -> None:
        request.headers, client = self._named(request.headers, self._peer)
        if client != self._holder:
            holder = self._budget.begin(self._holder, client)
            if holder is None:
                request.answer(503, b"Service Unavailable", _HEADERS, _BODY, last=True)
                return
            self._holder = holder
        if not self._peer_names_users:
            request.names_its_user = False
        ServerProtocol._begin(self, request)  # `super()` would take as long as three calls, for each request

    def on_response_complete(self) -> None:
        if self._is_admitted and self._holder != self._peer:
            self._budget.end(self._holder)
            self._holder = None
        ServerProtocol.on_response_complete(self)


def _drop_unread(transport: Transport) -> None:
    """Most requests are here before their connection is accepted, and no loop has read them yet."""
    connection = transport.get_extra_info("socket")
    if connection is not None and transport.can_write_eof():  # else they are TLS's
        with contextlib.suppress(OSError):  # nothing has come, or the client has left
            os.read(connection.fileno(), DROP_BYTES)


def _without_address(transport: Transport) -> str:
    """The peer of a Unix socket; or nobody, where a peer has left before it could be asked for."""
    connection = transport.get_extra_info("socket")
    return UNIX if connection is not None and connection.family == socket.AF_UNIX else ""


def admitting(
    budget: Connections, named: Named, names_users: Callable[[str], bool] | None = None
) -> MakeProtocol:
    """What uvicorn is given for a protocol class.

    Args:
        budget: of the port's connections.
        named: each request counts for the client that it returns.
        names_users: whether a peer, an address or `UNIX`, may say in a header who the user is. None: all may.
    """

    # No `partial`: with a class it would have each connection's arguments parsed by name.
    def made(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> ServerProtocol:
        return AdmittingProtocol(
            config, server_state, app_state, _loop, budget=budget, named=named, names_users=names_users
        )

    return made
