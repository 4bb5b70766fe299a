"""The answer of a client's request, as the relay gives it: its bytes, and what becomes of the connection.

A connection is here as far as a request knows it.
"""

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.downstream.methods import NAMES
from proxy.errors import problem
from proxy.http.asgi import TITLES
from proxy.http.framing import last_chunk
from proxy.http.headers import BODILESS_STATUS, Headers, end_to_end
from proxy.http.http_date import date_line, http_date
from proxy.http.upgrade import UpgradeOffer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

STATUS_LINES: Final[dict[int, bytes]] = STATUS_LINE
REASON: Final[dict[int, bytes]] = {status: line[13:-2] for status, line in STATUS_LINE.items()}

EditHead = Callable[[int, Headers], Headers]


class Flow:
    """Which direction of a connection is held up: what comes is not read, or what is written is not taken."""

    __slots__ = ("_transport", "_writable", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._writable: asyncio.Event | None = None
        """Here only while the client is waited for: an event takes 700 bytes."""

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self._writable is not None:
            await self._writable.wait()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        if not self.write_paused:
            self.write_paused = True
            self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self.write_paused = False
            self._writable.set()
            self._writable = None


class ClientConnection(ABC):
    """What a request takes from the connection that it has come by."""

    __slots__ = ("client", "flow", "headers", "scheme", "transport", "url")

    transport: asyncio.Transport
    flow: Flow
    client: tuple[str, int] | None
    """The peer's address, if it has one."""
    scheme: str
    url: bytes
    """The target of the request whose head has been read, as it came."""
    headers: Headers
    """Its headers, names in lower case."""

    @abstractmethod
    def on_response_complete(self) -> None:
        """The answer that is due is out."""

    @abstractmethod
    def end_of_answers(self) -> None:
        """It was the last one: see `ClientAnswer.is_last`."""


class ClientAnswer:
    """The part of a `ClientRequest` that is answered."""

    __slots__ = (
        "answer_trailers",
        "chunked_encoding",
        "connection",
        "disconnected",
        "edit_head",
        "ends_with_connection",
        "flow",
        "is_last",
        "keep_alive",
        "method",
        "more_body",
        "offer",
        "response_complete",
        "response_started",
        "transport",
        "version",
        "waiting_for_100_continue",
    )

    def __init__(self, connection: ClientConnection, method: bytes, version: str, keep_alive: bool) -> None:
        self.method = NAMES.get(method) or method.decode("ascii")
        self.version = version
        self.keep_alive = keep_alive
        self.transport: asyncio.Transport = connection.transport
        self.flow: Flow = connection.flow
        self.connection: ClientConnection | None = connection
        """Is told once, when the answer is out."""
        self.is_last = False
        """True if the connection ends behind this answer, or a refusal follows: it is told of that, too."""
        self.disconnected = False
        self.more_body = True
        """False once the request is here whole."""
        self.waiting_for_100_continue = False
        self.offer: UpgradeOffer | None = None
        self.response_started = False
        self.response_complete = False
        self.chunked_encoding = False
        """True if the answer's body goes out in chunks."""
        self.ends_with_connection = False
        """True if the answer's end is the connection's: HTTP/1.0 knows no chunks."""
        self.answer_trailers: Headers | None = None
        """To be sent behind the answer's body, if that goes out in chunks."""
        self.edit_head: EditHead | None = None
        """Returns the headers of the answer, of a status, whoever gives it."""

    @property
    def takes_chunks(self) -> bool:
        """True if the answer's body may go out in chunks, with trailers behind it."""
        return self.version == "1.1" and self.method != "HEAD"

    @property
    def is_slow(self) -> bool:
        """True if the client must be waited for before more is written."""
        return self.flow.write_paused

    def interim(self, status: int, reason: bytes, headers: Headers) -> None:
        """Send an interim answer; there is none for HTTP/1.0 (RFC 9110 15.2)."""
        if not (self.response_started or self.disconnected) and self.version == "1.1":
            self.transport.write(interim_answer(status, reason, headers))

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        """Begin the answer: its head and the first bytes of its body, in one write.

        Args:
            status: from 200 to 599.
            reason: the upstream's own.
            headers: without framing but `Content-Length`; from a parser that refuses CR, LF and NUL.
            body: its first bytes, of any number.
            last: whether these are all.
        """
        if self.edit_head is not None:
            headers = self.edit_head(status, headers)
        if self.waiting_for_100_continue:
            self.withhold_body()
        self.response_started = True
        parts = [STATUS_LINES[status] if REASON[status] == reason else status_line(status, reason)]
        has_length = write_fields(parts, headers)
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        if self.method == "HEAD":
            parts.append(b"\r\n")
        elif has_length or status in BODILESS_STATUS:
            parts.append(b"\r\n")
            parts.append(body)
        else:
            self._frame(parts, body, last)
        self.transport.write(b"".join(parts))
        if last:
            self.complete()

    def withhold_body(self) -> None:
        """The answer begins before the client, which waits for that, was asked for its body."""
        self.waiting_for_100_continue = False
        # Not asked for it, the client may send its next request, which would be read as one.
        self.keep_alive = self.keep_alive and not self.more_body

    def _frame(self, parts: list[bytes], body: bytes, last: bool) -> None:
        """The end of the head, and the first bytes of a body that has no length."""
        if self.version == "1.0":
            self.ends_with_connection = True
            parts += (b"\r\n", body)
            return
        self.chunked_encoding = True
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
        if body:
            parts += (b"%x\r\n" % len(body), body, b"\r\n")
        if last:
            parts.append(last_chunk(self.answer_trailers))

    def answer_more(self, body: bytes, *, last: bool) -> None:
        """Send more of the answer's body."""
        if self.chunked_encoding:
            end = last_chunk(self.answer_trailers) if last else b""
            self.transport.write(b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end)
        elif body and self.method != "HEAD":
            self.transport.write(body)
        if last:
            self.complete()

    def write_chunk(self, chunk: bytes) -> bool:
        """Send one chunk more of a body that goes out in chunks; the same bytes as by a message.

        Returns False if it has to be a message: the client must be waited for, or the answer is no such one.
        """
        if not self.chunked_encoding or self.response_complete or self.disconnected:
            return False
        if self.flow.write_paused:
            return False
        self.transport.write(chunk)
        return True

    def refuse(self, status: int, detail: str, *, close: bool = False) -> None:
        """Answer with an RFC 9457 problem; `close` also ends the connection."""
        headers, body = problem(status, TITLES[status], detail)
        if close:
            self.keep_alive = False
        self.answer(status, REASON[status], headers, body, last=True)

    def fail(self) -> None:
        """Answer that something failed here; in the middle of an answer, cut it. A whole one stays."""
        if self.response_started:
            if not self.response_complete:
                self.cut()
            return
        self.keep_alive = False
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        self.answer(500, body, headers, body, last=True)

    def cut(self) -> None:
        """End the connection in the middle of the answer: it must not look complete."""
        if self.disconnected:
            return
        if self.ends_with_connection:
            # A plain close would be taken for the answer's end.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                protocol: Any = self.transport.get_protocol()
                protocol.close()  # it does not wait for ever for that

    def complete(self) -> None:
        """The answer is out."""
        self.response_complete = True
        if not self.keep_alive:
            self._end_connection()
        connection, self.connection = self.connection, None  # which holds this request
        if connection is not None:
            connection.on_response_complete()
            if self.is_last:
                connection.end_of_answers()

    def _end_connection(self) -> None:
        """Bytes may be here, or come, that nobody reads: of the body, or of what is behind it."""
        if self.more_body or self.flow.read_paused or self.offer is not None:
            connection: Any = self.transport.get_protocol()
            connection.linger()
        else:
            self.transport.close()


def write_fields(parts: list[bytes], headers: Headers) -> bool:
    """Add the lines of an answer's headers, `Date` among them. Returns whether they say its length."""
    has_date = has_length = False
    for name, value in headers:
        if name == b"date":
            has_date = True
        elif name == b"content-length":
            has_length = True
        parts.append(b"%b: %b\r\n" % (name, value))
    if not has_date:
        parts.append(date_line())
    return has_length


def status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def interim_answer(status: int, reason: bytes, headers: Headers) -> bytes:
    """A 1xx answer, whole."""
    lines = [name + b": " + value + b"\r\n" for name, value in end_to_end(headers)]
    return b"".join((status_line(status, reason), *lines, b"\r\n"))


def last_answer(status: int, headers: Headers, body: bytes) -> bytes:
    """A whole answer, after which the connection is closed."""
    headers = [*headers, (b"date", http_date()), (b"connection", b"close")]
    return b"".join((STATUS_LINE[status], *[b"%b: %b\r\n" % pair for pair in headers], b"\r\n", body))
