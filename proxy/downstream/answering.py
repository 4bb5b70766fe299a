"""Requests on their way to an app: it is offered each as it is, and one that must be becomes an ASGI call."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from proxy.downstream.client_answer import ClientConnection, Flow
from proxy.downstream.client_request import ClientRequest
from proxy.http.asgi import App
from proxy.timers.wheel import wheel_of

SPOKEN: Final = frozenset({"1.0", "1.1"})

logger = logging.getLogger("uvicorn.error")

NO_REQUESTS: Final = cast("deque[ClientRequest]", ())
"""The requests that wait behind the one that is answered. A queue takes 700 bytes, and few need one."""


class Port:
    """What all connections of a port share: its app, its loop, and what uvicorn's server keeps of them."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app: Any = config.loaded_app
        self.front: Callable[[ClientRequest], App | None] | None = getattr(self.app, "begin", None)
        """Takes a request as it is, if the app does so. Else it returns the app that is to be called."""
        self.asgi_version = config.asgi_version
        self.app_state = app_state
        self.keep_alive_s = float(config.timeout_keep_alive)
        self.server_state = server_state
        self.connections: Any = cast(Any, server_state).connections  # no set, whatever its type says
        self.loop = loop or asyncio.get_running_loop()
        self.wheel = wheel_of(self.loop)


class AnsweringProtocol(ClientConnection):
    """One client connection, and what it offers an app to answer with.

    To uvicorn's server it is one of its protocols, and to the loop an `asyncio.Protocol`. It derives from
    neither, so that it can be compiled.
    """

    __slots__ = ("_answering", "cycle", "loop", "parser", "pipeline", "port", "timeout_keep_alive")

    def __init__(self, port: Port) -> None:
        self.port = port
        self.loop = port.loop
        self.parser: Any = new_parser(self)
        """None when the connection is lost: the parser holds this protocol, too."""
        self.timeout_keep_alive = port.keep_alive_s
        self.url = b""
        self.headers = []
        self.cycle: ClientRequest | None = None
        """The request that was read last."""
        self.pipeline: deque[ClientRequest] = NO_REQUESTS
        self._answering: ClientRequest | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.flow = Flow(transport)
        self.client = peer_of(transport)
        self.scheme = "http" if transport.can_write_eof() else "https"  # TLS has no half-close
        self.port.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.port.connections.discard(self)
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
        self.parser = None

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

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
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
        port = self.port
        try:
            app = cast(App, port.app) if port.front is None else port.front(request)
        except Exception:
            logger.exception("Exception in the app")
            request.fail()
            return
        if app is not None:
            if port.front is None:
                request.as_whole_call(self.client, port.asgi_version, port.app_state)
            else:
                request.as_call()
            task = self.loop.create_task(request.run_asgi(app))
            tasks = port.server_state.tasks
            task.add_done_callback(tasks.discard)
            tasks.add(task)


def new_parser(protocol: AnsweringProtocol) -> Any:
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
    return parser


def peer_of(transport: asyncio.Transport) -> tuple[str, int] | None:
    """The peer's address. None: there is none, as at a Unix socket, or it left before it was asked for."""
    peer = transport.get_extra_info("peername")  # which the transport has; a socket would be asked for it
    if isinstance(peer, tuple) and len(peer) == 2:
        return peer  # an IPv4 address is as it is to be
    if not isinstance(peer, tuple) or (len(peer) > 3 and peer[3]):
        return get_remote_addr(transport)  # it names the link of an address that holds on its link alone
    return str(peer[0]), int(peer[1])
