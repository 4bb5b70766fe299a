"""What uvicorn's HTTP protocol lacks for a proxy: the target as it came, bounds on a request's head, answers
that HTTP/1.0 can read, and an answer that is here whole in one write.
"""

import asyncio
import socket
import struct
import sys
from asyncio.events import TimerHandle
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from proxy.downstream.answer_head import FirstLine, interim_answer, status_line
from proxy.downstream.half_closed import HalfClosed
from proxy.errors import RequestRefused, problem
from proxy.http.asgi import ANSWER, ARRIVED, INTERIM, REASON, TARGET, WRITE
from proxy.http.headers import Headers
from proxy.http.http_date import Dated, http_date
from proxy.http.request_rules import authority_of, put_host
from proxy.http.upgrade import EARLY_BYTES, UPGRADE, Lost, UpgradeOffer, offered

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together; nginx's default is 32 KiB."""

HEAD_S = 30.0
"""Seconds a client has for its request's head, from the connection's or the head's first byte."""

BODY_S = 60.0
"""Seconds between two reads of a request's body, while this side is reading. Then the client is cut: it
would hold an upstream connection for as long as it likes."""

WRITE_S = 60.0
"""Seconds a client may take nothing of what waits for it; cut for the same reason."""

LAST_S = 5
"""Seconds that an idle connection is kept by a process that hands over to another."""


DATED = Dated()
"""What the server below puts to each answer."""


class ServerProtocol(HttpToolsProtocol):
    """One client connection."""

    head_s = HEAD_S
    body_s = BODY_S
    write_s = WRITE_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answering: RequestResponseCycle | None = None
        self._write_timer: TimerHandle | None = None
        self._body_timer: TimerHandle | None = None
        self._read_at = 0.0
        self._field_bytes = 0
        self._read = b""
        self._again = b""
        self._offer: UpgradeOffer | None = None
        self._begun_in_read = False
        self._only_fields = False
        self._reading_head = False
        self._next_is_last = False
        self._refusal: RequestRefused | None = None
        self._half_closed: HalfClosed | None = None
        self._head_timer: TimerHandle | None = self.loop.call_later(self.head_s, self._head_is_late)

    def hand_over(self) -> None:
        """Others serve here from now on: let the client go there, and lose no request that is on its way.

        Only an answer may say that the connection ends, so an idle one is kept for another request, if that
        comes soon.
        """
        if self._next_is_last:
            return
        self._next_is_last = True
        self.timeout_keep_alive = LAST_S
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(LAST_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        self._stop_body_timer()
        if self._half_closed is not None:
            self._half_closed.stop()
            self._half_closed = None  # it holds this
        self._offer = None  # so does this
        # uvicorn tells the request that it read last, which need not be the one it answers.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's own may say so
        """A client may end its side when it has asked, and is to have its answer. True: not closed yet."""
        if self._half_closed is not None:
            return True
        owed = self._owed()
        if owed is None or owed.more_body:
            return False
        if owed.response_started and owed.chunked_encoding:
            return False  # a stream, which is for who looks on: whether they do is to be known at once
        self._leave_unfinished()
        self.cycle.keep_alive = False
        self.cycle.on_response = self._end_of_answers
        may_ask = owed.scope["http_version"] == "1.1"
        self._half_closed = HalfClosed(self.transport, self._owed, may_ask=may_ask)
        return True

    def _owed(self) -> RequestResponseCycle | None:
        """The request that is being answered."""
        cycle = self._answering
        return None if cycle is None or cycle.response_complete else cycle

    def _leave_unfinished(self) -> None:
        """The request that was read last has no end, and waits for the one before to be answered."""
        if self.pipeline and self.pipeline[0][0] is self.cycle and self.cycle.more_body:
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else cast(RequestResponseCycle, self._answering)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return  # what comes after nonsense is none the better
        if self._offer is not None and self._holds(self._offer, data):
            return
        self._take(data)
        while self._again:
            again, self._again = self._again, b""
            self._take(again)

    def _take(self, data: bytes) -> None:
        self._read = data
        self._begun_in_read = False
        self._only_fields = True
        super().data_received(data)
        self._read = b""
        if not self._only_fields:
            self._field_bytes = 0
        else:
            # A head that goes on, or trailers, or the lines between chunks: nobody else bounds them.
            self._field_bytes += len(data)
            if self._field_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(_too_large(self.url if self._reading_head else b""))
        if self._awaits_head() and self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_s, self._head_is_late)
        if self.cycle is not None and self.cycle.more_body:
            self._read_at = self.loop.time()
            if self._body_timer is None and not self.transport.is_closing():
                self._body_timer = self.loop.call_later(self.body_s, self._look_for_body)

    def _awaits_head(self) -> bool:
        """Whether what came leads to a request. Empty lines before one do: they have ended the time for which
        an idle connection is kept, and begin nothing that would end.
        """
        if self._reading_head:
            return True
        is_idle = self._answering is None or self._answering.response_complete
        return is_idle and not (self.cycle is not None and self.cycle.more_body)

    def send_400_response(self, msg: str) -> None:
        """Say that a request cannot be read. What a callback raised is the context of the parser's own."""
        exc = sys.exc_info()[1]
        ours = None if exc is None else exc.__context__
        self._refuse(ours if isinstance(ours, RequestRefused) else RequestRefused(400, msg))

    def _refuse(self, refusal: RequestRefused) -> None:
        """Answer with a refusal and read no further: at once, or when what came before it is answered.

        It would be taken for another request's answer. In the middle of an answer it cannot be said.
        """
        owed = self._owed()
        self._refusal = refusal
        if owed is None or (owed is self.cycle and owed.more_body and not owed.response_started):
            self._write_refusal(refusal)
        elif owed.more_body:
            self.transport.close()
        else:
            self._leave_unfinished()
            self.cycle.on_response = self._end_of_answers

    def _write_refusal(self, refusal: RequestRefused) -> None:
        headers, body = problem(refusal.status, HTTPStatus(refusal.status).phrase, refusal.detail)
        headers += [(b"date", http_date()), (b"connection", b"close")]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join((STATUS_LINE[refusal.status], *lines, b"\r\n", body)))
        self.transport.close()

    def _end_of_answers(self) -> None:
        """All that is owed has been answered: the refusal is next, if there is one, and then nothing."""
        self.on_response_complete()
        if self.transport.is_closing():
            return
        if self._refusal is not None:
            self._write_refusal(self._refusal)
        else:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading_head = True
        self._begun_in_read = True
        self._only_fields = False

    def on_body(self, body: bytes) -> None:
        self._only_fields = False
        super().on_body(body)

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/") and self.parser.get_method() != b"CONNECT":
            authority = authority_of(self.parser.get_method(), self.url)
            if authority is not None:
                put_host(self.headers, authority)
        if b"#" in self.url:
            raise RequestRefused(400, "A fragment is no part of a request's target.")
        if not self._begun_in_read or len(self._read) > MAX_HEAD_BYTES:
            _check_size(self.url, self.headers)
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        self.cycle.default_headers = DATED
        if self._next_is_last:
            self.cycle.keep_alive = False
        self._reading_head = False
        self._only_fields = False
        self._stop_head_timer()
        # The app's task was made just now and has not begun.
        scope = cast(dict[str, object], self.scope)
        scope[TARGET] = self.url
        scope[ANSWER] = self._answer
        scope[WRITE] = self._write_more
        scope[REASON] = self._say_reason
        scope[INTERIM] = self._send_interim
        scope[ARRIVED] = self.cycle.message_event.is_set
        if self._offer is not None:
            scope[UPGRADE] = self._offer
            self.cycle.keep_alive = self.cycle.keep_alive and not self._offer.early
        # Trailers come by the same callback, and would be headers to an app that has not begun.
        self.headers = []

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if cycle.waiting_for_100_continue or cycle.scope["http_version"] != "1.1":
            app = _Unusual(cycle, app)
        super()._start_asgi_task(cycle, app)

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

    def _say_reason(self, status: int, reason: bytes) -> None:
        """To be called before the message that begins the answer."""
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

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _look_for_body(self) -> None:
        """Cut a client whose body has stopped; one timer a body, however many reads it takes."""
        self._body_timer = None
        if not self.cycle.more_body:
            return
        ours_to_read = self.flow.read_paused or self.cycle.waiting_for_100_continue
        due_s = self.body_s if ours_to_read else self._read_at + self.body_s - self.loop.time()
        if due_s > 0:
            self._body_timer = self.loop.call_later(due_s, self._look_for_body)
        else:
            self.transport.abort()

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._answering is not None and not self._answering.response_complete:
            # It is for us to go on, and the answer must not be cut for a request that comes too early.
            self._head_timer = self.loop.call_later(self.head_s, self._head_is_late)
        elif not self.transport.is_closing():
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return True  # leaves all of them to `handle_websocket_upgrade`

    def handle_websocket_upgrade(self) -> None:
        """Begin a request that asks for an upgrade, to WebSocket or not, again as one that asks for none.

        The parser takes what follows such a head for another protocol's; a body would be lost, or be read
        as the next request. An upgrade that can be passed on is offered beside the request, see
        `proxy.http.upgrade`; what follows waits for the answer then. CONNECT is an upgrade to the parser,
        too, whatever it asks for, and cannot be begun again.
        """
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("CONNECT is for forward proxies; this is a reverse proxy.")
            return
        upgrade = cast(httptools.HttpParserUpgrade, sys.exc_info()[1])
        rest = self._read[upgrade.args[0] :]
        version = self.parser.get_http_version()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version.encode())]
        for name, value in self.headers:
            tokens = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
            lines.append(name + b": " + (b",".join(tokens) if name == b"connection" else value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        if self._owed() is None and (protocols := offered(version, self.headers)):
            self._offer = UpgradeOffer(protocols, self._switch, self.transport.is_closing, bytearray(rest))
            rest = b""
        self._again = b"\r\n".join([*lines, b"", rest])

    def _holds(self, offer: UpgradeOffer, data: bytes) -> bool:
        """Keep what a client sends before its offer is answered: it is another protocol's, or nobody's.

        If the offer is refused it is never read: the connection ends with the answer.
        """
        cycle = self._answering
        if cycle is not None and cycle.response_complete:
            self._offer = None
            return False
        if self.transport.is_closing():
            return True
        offer.early += data
        self.cycle.keep_alive = False
        if len(offer.early) > EARLY_BYTES:
            self.flow.pause_reading()
        return True

    def _switch(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, Lost]:
        """The client's connection, which is another protocol's from now on."""
        cycle = self._answering
        assert cycle is not None, "an app switches, so it was started"
        cycle.response_started = True
        self._offer = None
        self._stop_head_timer()
        self._stop_write_timer()
        self.transport.set_protocol(protocol)
        if self._half_closed is not None:
            self._half_closed.stop()
            self.loop.call_soon(protocol.eof_received)
        self.flow.resume_reading()
        return self.transport, self.connection_lost


class _Unusual:
    """An app, for a request with which uvicorn is not left alone: it waits to be asked for its body, or is
    not of HTTP/1.1.
    """

    def __init__(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._cycle = cycle
        self._app = app
        self._until_close = False

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        del scope[ANSWER], scope[WRITE]
        version = scope["http_version"]
        if version not in ("1.0", "1.1"):
            headers, body = problem(505, "HTTP Version Not Supported", "HTTP/1.1 and 1.0 are spoken here.")
            await send({"type": "http.response.start", "status": 505, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return
        if version == "1.0":
            del scope[INTERIM]
            self._cycle.waiting_for_100_continue = False  # RFC 9110 10.1.1: such a client cannot mean it
        try:
            await self._app(scope, receive, partial(self._send, send))
        finally:
            if self._until_close and not self._cycle.response_complete and not self._cycle.disconnected:
                self._reset()

    async def _send(self, send: ASGISendCallable, message: ASGISendEvent) -> None:
        cycle = self._cycle
        if message["type"] == "http.response.start":
            if cycle.waiting_for_100_continue and cycle.more_body:
                # Not asked for its body, the client may send its next request, which would be read as one.
                cycle.keep_alive = False
            if cycle.scope["http_version"] == "1.0" and not _has_length(message["headers"]):
                # RFC 9112 7.1: no chunks for HTTP/1.0; the body ends with the connection.
                self._until_close = True
                cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and self._until_close:
            cycle.expected_content_length = len(message["body"])
        await send(message)

    def _reset(self) -> None:
        """A plain close would make a cut answer look complete."""
        connection = self._cycle.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._cycle.transport.abort()


def _has_length(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-length" for name, _ in headers)


def _check_size(target: bytes, headers: Headers) -> None:
    if len(target) + sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEAD_BYTES:
        raise _too_large(target)


def _too_large(target: bytes) -> RequestRefused:
    """A head is too large, by its target alone or as a whole."""
    if len(target) > MAX_HEAD_BYTES:
        return RequestRefused(414, f"The request's target has more than {MAX_HEAD_BYTES} bytes.")
    return RequestRefused(400, "The request's head is too large.")
