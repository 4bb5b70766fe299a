"""A client connection, as uvicorn's server and the loop have it: answers in their order, and its ends.

How requests are read is in `reading.py`, and what is waited for in `slow_clients.py`.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from uvicorn import Config
from uvicorn.server import ServerState

from proxy.downstream.answering import Port, logger
from proxy.downstream.client_answer import last_answer
from proxy.downstream.client_request import ClientRequest
from proxy.downstream.half_closed import HalfClosed
from proxy.downstream.reading import ReadingProtocol
from proxy.errors import RequestRefused, problem
from proxy.http.upgrade import Lost

MakeProtocol = Callable[[], Any]
"""Makes a new connection's protocol."""

MakePort = Callable[[Config, ServerState, dict[str, Any], asyncio.AbstractEventLoop], MakeProtocol]
"""Makes a `Port`, and what may stand before it, of what uvicorn gives to each of its own protocols."""

LAST_S: Final = 5.0
"""Seconds that an idle connection is kept by a process that hands over to another."""


class ServerProtocol(ReadingProtocol):
    """One client connection, as the public port has it."""

    __slots__ = ("_half_closed", "_refusal")

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._refusal: RequestRefused | None = None
        self._half_closed: HalfClosed | None = None

    def close_after_next(self) -> None:
        """End the connection after one more answer, which announces the end; no request on its way is lost.

        An idle connection waits `LAST_S` for one more request, and is closed then.
        """
        if self._next_is_last:
            return
        self._next_is_last = True
        self.timeout_keep_alive = LAST_S
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False
        if self._idle_since:
            self._wait_for_request()

    def shutdown(self) -> None:
        """The process ends: so does a connection that is idle, or the next answer is its last."""
        last = self.cycle
        if self._lingers:
            self.close_after_next()
        elif last is not None and last.response_complete and last.more_body:
            self.linger(LAST_S)  # it was answered early, and may not have read that yet
        elif last is None or last.response_complete:
            self.transport.close()
        else:
            last.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._half_closed is not None:
            self._half_closed.stop()
            self._half_closed = None  # it holds this protocol
        self._offer = None  # and so does the offer
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        """A client may end its side once it has asked, and still gets its answer. True: not closed yet."""
        if self._half_closed is not None:
            return True
        pending = self._pending()
        if pending is None or pending.more_body:
            return False
        if pending.response_started and pending.chunked_encoding:
            return False  # the viewer of a stream has left: that must be known at once
        last = self._last_whole(pending)
        last.keep_alive = False
        last.is_last = True
        may_probe = pending.version == "1.1"
        self._half_closed = HalfClosed(self.transport, self._pending, may_probe=may_probe)
        return True

    def _last_whole(self, pending: ClientRequest) -> ClientRequest:
        """The last request that gets an answer. One without an end, which waits behind it, is dropped."""
        if self.pipeline and self.pipeline[0] is self.cycle and self.cycle.more_body:
            self.pipeline.popleft()
            self.cycle = self.pipeline[0] if self.pipeline else pending
        return self.cycle or pending

    def _refuse(self, refusal: RequestRefused) -> None:
        """Answer with a refusal and read no further: at once, or when the requests before are answered.

        Sent earlier, it would be taken for another request's answer. In the middle of an answer nothing can
        be said, and the connection is closed.
        """
        pending = self._pending()
        self._refusal = refusal
        self._is_over = True
        logger.warning("Invalid HTTP request received.")
        if pending is None or (pending is self.cycle and pending.more_body and not pending.response_started):
            self._write_refusal(refusal)
        elif pending.more_body:
            self.close()
        else:
            self._last_whole(pending).is_last = True

    def _write_refusal(self, refusal: RequestRefused) -> None:
        headers, body = problem(refusal.status, HTTPStatus(refusal.status).phrase, refusal.detail)
        self.transport.write(last_answer(refusal.status, headers, body))
        self.linger()

    def end_of_answers(self) -> None:
        """Every request has been answered: the refusal is next, if there is one, and then the end."""
        if self._lingers or self.transport.is_closing():
            return
        if self._refusal is not None:
            self._write_refusal(self._refusal)
        else:
            self.close()

    def on_response_complete(self) -> None:
        """An answer is out: begin the next request, or wait for it."""
        self.port.server_state.total_requests += 1
        if self.transport.is_closing():
            self._wait_for_end()
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            request = self._answering = self.pipeline.pop()
            self.loop.call_soon(self._begin_next, request)  # not within the one before
        else:
            self._wait_for_request()

    def _begin_next(self, request: ClientRequest) -> None:
        """In the loop's next turn: by then its body may have turned out to be malformed, and been refused."""
        if not self._lingers:
            self._begin(request)

    def _switch(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, Lost]:
        """The client's connection, which is another protocol's from now on."""
        cycle = self._answering
        assert cycle is not None, "an app switches, so it was started"
        cycle.response_started = True
        self._offer = None
        self._stop_waiting()
        self.transport.set_protocol(protocol)
        if self._half_closed is not None:
            self._half_closed.stop()
            self.loop.call_soon(protocol.eof_received)
        self.flow.resume_reading()
        return self.transport, self.connection_lost


class ServerPort(Port):
    """A port whose connections are not counted."""

    def connect(self) -> ServerProtocol:
        """One more connection's protocol."""
        return ServerProtocol(self)


def uncounted(
    config: Config, server_state: ServerState, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
) -> MakeProtocol:
    """Makes a port whose connections are not counted."""
    return ServerPort(config, server_state, app_state, loop).connect
