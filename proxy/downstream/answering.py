"""Requests on their way to an app: it is offered each as it is, and one that must be becomes an ASGI call."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.downstream.client_request import ClientRequest
from proxy.http.asgi import App

SPOKEN = frozenset({"1.0", "1.1"})


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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)
        self.cycle: ClientRequest | None  # type: ignore[assignment]
        self.pipeline: deque[ClientRequest] = NO_REQUESTS  # type: ignore[assignment]
        self._answering: ClientRequest | None = None
        self._front: Callable[[ClientRequest], App | None] | None = getattr(self.app, "begin", None)
        """Takes a request as it is, if the app does so. Else it returns the app that is to be called."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell_left()
        super().connection_lost(exc)
        # One that has no answer still holds this protocol: its text would wait for the collector.
        self.cycle = self._answering = None
        self.pipeline = NO_REQUESTS

    def _tell_left(self) -> None:
        """To the request that is answered; uvicorn tells the one it read last, which need not be the same."""
        pending = self._pending()
        if pending is not None:
            pending.disconnected = True
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
