"""Requests on their way to an app: it is offered each as it is, and one that must be becomes an ASGI call."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from proxy.downstream.client_request import ClientRequest
from proxy.http.asgi import App

SPOKEN = frozenset({"1.0", "1.1"})


_logger = logging.getLogger("uvicorn.error")

NO_REQUESTS = cast("deque[ClientRequest]", ())
"""The requests that wait behind the one that is answered. A queue takes 700 bytes, and few need one."""


class Flow(FlowControl):
    """uvicorn's, with an event only while the client is waited for: an event takes 700 bytes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False
        self._writable: asyncio.Event | None = None

    async def drain(self) -> None:
        if self._writable is not None:
            await self._writable.wait()

    def pause_writing(self) -> None:
        if not self.write_paused:
            self.write_paused = True
            self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self.write_paused = False
            self._writable.set()
            self._writable = None


class AnsweringProtocol(HttpToolsProtocol):
    """One client connection, and what it offers an app to answer with.

    In slots is what it has beside uvicorn's own: Python reads an object of over 30 attributes slowly, and it
    takes 1,300 bytes more, also for an idle connection.
    """

    __slots__ = ("_answering", "_front")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """What is used of uvicorn's own, which looks up loggers and addresses for each connection: that takes
        as long as half a relayed request, before the first byte of it is read."""
        self.config = config
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.logger = _logger
        self.parser = new_parser(self)
        self.app_state = app_state
        self.timeout_keep_alive = config.timeout_keep_alive
        self.server_state = server_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.headers: list[tuple[bytes, bytes]] = []
        self.expect_100_continue = False
        self.cycle: ClientRequest | None = None  # type: ignore[assignment]
        self.pipeline: deque[ClientRequest] = NO_REQUESTS  # type: ignore[assignment]
        self._answering: ClientRequest | None = None
        self._front: Callable[[ClientRequest], App | None] | None = getattr(self.app, "begin", None)
        """Takes a request as it is, if the app does so. Else it returns the app that is to be called."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.flow = Flow(transport)
        self.client = peer_of(transport)
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        pending, last = self._pending(), self.cycle
        self._tell_left()
        if last is not None and last is not pending:
            if not last.response_complete:
                last.disconnected = True
            last.set()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        # One that has no answer still holds this protocol: its text would wait for the collector.
        self.cycle = self._answering = None
        self.pipeline = NO_REQUESTS
        self.parser = None  # type: ignore[assignment] # it holds this protocol, too

    def _tell_left(self) -> None:
        """To the request that is answered, which need not be the one that was read last."""
        pending = self._pending()
        if pending is not None:
            pending.disconnected = True
            pending.waiting_for_100_continue = False  # nobody is asked any more
            pending.set()

    def _pending(self) -> ClientRequest | None:
        """The request that is being answered, if there is one."""
        request = self._answering
        return None if request is None or request.response_complete else request

    def resume_writing(self) -> None:
        super().resume_writing()
        pending = self._pending()
        if pending is not None and pending.watcher is not None:
            pending.watcher.client_changed()

    def give_up(self) -> None:
        """The process ends: so does a relayed request that is not answered yet."""
        pending = self._pending()
        if pending is not None and pending.watcher is not None:
            pending.watcher.cut()

    def _begin(self, request: ClientRequest) -> None:
        """Hand a request to the app: as it is, or else as an ASGI call."""
        if self.transport.is_closing():
            return
        if request.version not in SPOKEN:
            request.refuse(505, "HTTP/1.1 and 1.0 are spoken here.")
            return
        try:
            app = cast(App, self.app) if self._front is None else self._front(request)
        except Exception:
            self.logger.exception("Exception in the app")
            request.fail()
            return
        if app is not None:
            request.as_call(self, is_whole=self._front is None)
            self._start_asgi_task(request, cast(ASGI3Application, app))


def new_parser(protocol: HttpToolsProtocol) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
    return parser


def peer_of(transport: asyncio.Transport) -> tuple[str, int] | None:
    """The peer's address. None: there is none, as at a Unix socket, or it left before it was asked for."""
    peer = transport.get_extra_info("peername")  # which the transport has; a socket would be asked for it
    if not isinstance(peer, tuple) or (len(peer) > 3 and peer[3]):
        return get_remote_addr(transport)  # it names the link of an address that holds on its link alone
    return str(peer[0]), int(peer[1])
