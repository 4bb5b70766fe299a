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
from proxy.downstream.answering import Port
from proxy.downstream.client_answer import last_answer
from proxy.downstream.client_request import ClientRequest
from proxy.downstream.server import MakePort, MakeProtocol, ServerProtocol
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


_lingering: Final[set["AdmittingProtocol"]] = set()
"""Refused connections whose clients have a moment to read why."""


class Admission:
    """Who may connect to a port, and for whom a request counts.

    Args:
        budget: of the port's connections.
        named: each request counts for the client that it returns.
        names_users: whether a peer, an address or `UNIX`, may say in a header who the user is. None: all may.
    """

    def __init__(
        self, budget: Connections, named: Named, names_users: Callable[[str], bool] | None = None
    ) -> None:
        self.budget = budget
        self.named = named
        self.names_users = names_users


class AdmittingProtocol(ServerProtocol):
    """One client connection, if the budget admits it."""

    __slots__ = ("_admission", "_holder", "_is_admitted", "_peer", "_peer_names_users")

    def __init__(self, port: Port, admission: Admission) -> None:
        super().__init__(port)
        self._admission = admission
        self._peer_names_users = True
        self._is_admitted = False
        self._peer = ""
        self._holder: str | None = None

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        admission = self._admission
        self._peer = self.client[0] if self.client else _without_address(transport)
        if admission.names_users is not None:
            self._peer_names_users = admission.names_users(self._peer)
        self._is_admitted = admission.budget.enter(self._peer)
        if self._is_admitted:
            self._holder = self._peer
        else:
            self._turn_away(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_admitted:
            self._is_admitted = False
            self._admission.budget.leave(self._holder)
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
        admission = self._admission
        request.headers, client = admission.named(request.headers, self._peer)
        if client != self._holder:
            holder = admission.budget.begin(self._holder, client)
            if holder is None:
                request.answer(503, b"Service Unavailable", _HEADERS, _BODY, last=True)
                return
            self._holder = holder
        if not self._peer_names_users:
            request.names_its_user = False
        ServerProtocol._begin(self, request)  # `super()` would take as long as three calls, for each request

    def on_response_complete(self) -> None:
        if self._is_admitted and self._holder != self._peer:
            self._admission.budget.end(self._holder)
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


class AdmittingPort(Port):
    """A port whose connections are counted."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._admission = admission

    def connect(self) -> AdmittingProtocol:
        """One more connection's protocol."""
        return AdmittingProtocol(self, self._admission)


def admitting(
    budget: Connections, named: Named, names_users: Callable[[str], bool] | None = None
) -> MakePort:
    """Makes a port whose connections are counted; for the arguments see `Admission`."""
    admission = Admission(budget, named, names_users)

    def made(
        config: Config, server_state: ServerState, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> MakeProtocol:
        return AdmittingPort(config, server_state, app_state, loop, admission).connect

    return made
