"""Answers as an app gives them: what uvicorn lacks for a proxy.

An answer that is here whole goes out in one write, with the upstream's own reason phrase, and interim answers
pass. What need not be an ASGI call is offered to the app as it is, before.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from proxy.downstream.answer_head import FirstLine, interim_answer, status_line
from proxy.downstream.client_request import ClientRequest
from proxy.downstream.compatibility import CompatibleApp
from proxy.http.asgi import ANSWER, INTERIM, REASON, REQUEST, TARGET, WRITE
from proxy.http.headers import Headers
from proxy.http.upgrade import UPGRADE

SPOKEN = frozenset({"1.0", "1.1"})


class AnsweringProtocol(HttpToolsProtocol):
    """One client connection, and what it offers an app to answer with."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.cycle: ClientRequest | None  # type: ignore[assignment]
        self.pipeline: deque[ClientRequest]  # type: ignore[assignment]
        self._answering: ClientRequest | None = None
        self._front: Callable[[ClientRequest], bool] | None = getattr(self.app, "begin", None)
        """Takes a request as it is, if the app does so. False: it becomes an ASGI call."""

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn notifies the request that it read last, which need not be the one it answers.
        cycle = self._pending()
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

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
            is_taken = self._front is not None and self._front(request)
        except Exception:
            self.logger.exception("Exception in the app")
            request.fail()
            return
        if not is_taken:
            self._call(request, self.app)

    def _call(self, request: ClientRequest, app: ASGI3Application) -> None:
        """Make an ASGI call of a request."""
        scope = request.as_call(self)
        scope[REQUEST] = request
        scope[TARGET] = request.target
        scope[ANSWER] = self._answer
        scope[WRITE] = self._write_more
        scope[REASON] = self._set_reason
        scope[INTERIM] = self._send_interim
        if request.offer is not None:
            scope[UPGRADE] = request.offer
        if request.waiting_for_100_continue or request.version != "1.1":
            app = cast(ASGI3Application, CompatibleApp(request, app))
        self._start_asgi_task(request, app)

    def _answer(self, status: int, reason: bytes, headers: Headers, body: bytes) -> bool:
        """Send an answer that is here whole; the same bytes as by two messages, in one write.

        To the request being answered: not bound to it, since its scope holds this, and a request that
        holds itself is garbage only a collector finds. That cost a tenth of the rate, and milliseconds.

        `headers` must say the body's length, and come from a parser that refuses CR, LF and NUL. Returns
        False if the client must be waited for: then nothing was done.
        """
        request = self._answering
        assert request is not None, "an app asks, so it was started"
        if request.is_slow:
            return False
        if not request.disconnected:
            request.answer(status, reason, headers, body, last=True)
            request.message_event.set()
        return True

    def _set_reason(self, status: int, reason: bytes) -> None:
        """Call it before the message that begins the answer."""
        cycle = self._answering
        if (
            cycle is not None
            and not cycle.response_started
            and status_line(status, reason) != STATUS_LINE[status]
        ):
            cycle.transport = cast(asyncio.Transport, FirstLine(cycle, status, reason))

    def _send_interim(self, status: int, reason: bytes, headers: Headers) -> None:
        cycle = self._answering
        if cycle is not None and not (cycle.response_started or cycle.disconnected):
            self.transport.write(interim_answer(status, reason, headers))

    def _write_more(self, data: bytes) -> bool:
        """Send more of a body that goes out in chunks; the same bytes as by a message.

        Returns False if it has to be a message: the client must be waited for, or the answer is no such one.
        Not to be called once the answer is complete: the next one may be under way.
        """
        cycle = self._answering
        if cycle is None or cycle.disconnected or self.flow.write_paused:
            return False
        if not (cycle.response_started and cycle.chunked_encoding) or cycle.response_complete:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True
