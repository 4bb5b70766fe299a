"""Answers as the app gives them: what uvicorn lacks for a proxy.

An answer that is here whole goes out in one write, with the upstream's own reason phrase, and interim answers
pass.
"""

import asyncio
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from proxy.downstream.answer_head import FirstLine, interim_answer, status_line
from proxy.downstream.compatibility import CompatibleApp
from proxy.http.asgi import ANSWER, INTERIM, REASON, WRITE
from proxy.http.headers import Headers
from proxy.http.http_date import Dated, http_date

DATED = Dated()
"""Headers that uvicorn adds to each answer."""


class AnsweringProtocol(HttpToolsProtocol):
    """One client connection, and what it offers an app to answer with."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answering: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn notifies the request that it read last, which need not be the one it answers.
        cycle = self._pending()
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _pending(self) -> RequestResponseCycle | None:
        """The request that is being answered, if there is one."""
        cycle = self._answering
        return None if cycle is None or cycle.response_complete else cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if cycle.waiting_for_100_continue or cycle.scope["http_version"] != "1.1":
            app = CompatibleApp(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _offer_answers(self, scope: dict[str, object]) -> None:
        self.cycle.default_headers = DATED
        scope[ANSWER] = self._answer
        scope[WRITE] = self._write_more
        scope[REASON] = self._set_reason
        scope[INTERIM] = self._send_interim

    def _answer(self, status: int, reason: bytes, headers: Headers, body: bytes) -> bool:
        """Send an answer that is here whole; the same bytes as by two messages, in one write.

        To the request being answered: not bound to it, since its scope holds this, and a request that
        holds itself is garbage only a collector finds. That cost a tenth of the rate, and milliseconds.

        `headers` must say the body's length, and come from a parser that refuses CR, LF and NUL. Returns
        False if the client must be waited for: then nothing was done.
        """
        cycle = self._answering
        assert cycle is not None, "an app asks, so it was started"
        if self.flow.write_paused:
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.response_complete = True
        line = STATUS_LINE[status]
        parts = [line if line[13:-2] == reason else status_line(status, reason)]
        has_date = False
        for name, value in headers:
            if name == b"date":
                has_date = True
            parts += (name, b": ", value, b"\r\n")
        if not has_date:
            parts += (b"date: ", http_date(), b"\r\n")
        parts += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(parts))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
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
