"""One request of a client: its head, its body as it comes, and its answer's bytes.

The relay takes the body from here, is told of each change, and writes the answer here. A request that must
be waited for before it is known what becomes of it, or that gets a stream, is an ASGI call first: it has a
scope, an event and a task then, and may still be handed to the relay as it is.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr

from proxy.downstream.answer_head import CONTINUE, interim_answer, status_line
from proxy.downstream.methods import NAMES
from proxy.errors import problem
from proxy.http.asgi import TARGET, TITLES
from proxy.http.framing import last_chunk
from proxy.http.headers import BODILESS_STATUS, Headers
from proxy.http.http_date import Dated, date_line
from proxy.http.upgrade import UpgradeOffer
from proxy.observe.spans.ports import RequestSpan
from proxy.observe.spans.request_ids import RequestIds, ids_of

_NO_BODY = b""

_REASON = {status: line[13:-2] for status, line in STATUS_LINE.items()}

EditHead = Callable[[int, Headers], Headers]
CopyBody = Callable[[bytes], None]


class _Changed:
    """As `asyncio.Event`, whose queue of 700 bytes is here only while somebody waits."""

    __slots__ = ("_is_set", "_waited")

    def __init__(self) -> None:
        self._is_set = False
        self._waited: asyncio.Event | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waited is not None:
            self._waited.set()
            self._waited = None

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        if not self._is_set:
            if self._waited is None:
                self._waited = asyncio.Event()
            await self._waited.wait()


class RequestWatcher(Protocol):
    """Is told of a request's changes."""

    def client_changed(self) -> None:
        """More of the body is here, or its end; or the client has left, or takes bytes again."""

    def cut(self) -> None:
        """The process ends: give the request up."""


class ClientRequest(RequestResponseCycle):
    """One request; a cycle of uvicorn's as far as its protocol and its ASGI apps go.

    What few requests change is in attributes of the class until then.
    """

    disconnected = False
    trailers: Headers | None = None
    """What came behind a body in chunks, once that has come to its end."""
    answer_trailers: Headers | None = None
    """To be sent behind the answer's body, if that goes out in chunks."""
    response_started = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    access_log = False
    default_headers: ClassVar[Dated] = Dated()  # type: ignore[misc]
    names_its_user = True
    """False if the peer may not say who the user is, in a header that is for proxies in front."""
    ends_with_connection = False
    """True if the answer's end is the connection's: HTTP/1.0 knows no chunks."""
    scope: Any = None
    _event: _Changed | None = None
    _ids: RequestIds | None = None

    def __init__(self, protocol: HttpToolsProtocol, method: bytes, version: str, keep_alive: bool) -> None:
        self.method = NAMES.get(method) or method.decode("ascii")
        self.version = version
        self.target = protocol.url
        self.headers: Headers = protocol.headers
        self.keep_alive = keep_alive
        self.transport = protocol.transport
        self.flow: FlowControl = protocol.flow
        self.on_response = protocol.on_response_complete
        peer = protocol.client
        self.address = peer[0] if peer else None
        self.scheme: str = protocol.scheme  # type: ignore[assignment] # it is connected
        # Read for each request: read from the class, each takes several times as long as it takes to set it.
        self.body: bytes | bytearray = _NO_BODY  # type: ignore[assignment]
        self.more_body = True
        self.response_complete = self.waiting_for_100_continue = False
        self.offer: UpgradeOffer | None = None
        self.span: RequestSpan | None = None
        self.watcher: RequestWatcher | None = None
        self.edit_head: EditHead | None = None
        """Returns the headers of the answer, of a status, whoever gives it."""
        self.copy_body: CopyBody | None = None
        """Is given each part of the body that the relay takes."""

    # What uvicorn takes for the event that is set when something has changed.

    @property
    def message_event(self) -> Any:  # type: ignore[override]
        return self

    def set(self) -> None:
        if self._event is not None:
            self._event.set()
        if self.watcher is not None:
            self.watcher.client_changed()

    def clear(self) -> None:
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        assert self._event is not None, "an ASGI call waits"
        await self._event.wait()

    # An ASGI call.

    def as_call(self, protocol: HttpToolsProtocol, *, is_whole: bool) -> None:
        """Become an ASGI call. An app that takes requests as they are has this one, and reads little of its
        scope."""
        event = self._event = _Changed()
        if self.body or not self.more_body or self.disconnected:
            event.set()
        self.logger = protocol.logger
        self.scope = {"type": "http", "method": self.method, "headers": self.headers}
        if is_whole:
            self._fill_scope(protocol)

    def _fill_scope(self, protocol: HttpToolsProtocol) -> None:
        parsed: Any = httptools.parse_url(self.target)  # its types say that there is always a query
        path = parsed.path.decode("ascii")
        self.scope |= {
            "asgi": {"version": protocol.config.asgi_version, "spec_version": "2.3"},
            "http_version": self.version,
            "server": get_local_addr(protocol.transport),
            "client": protocol.client,
            "scheme": self.scheme,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": parsed.path,
            "query_string": parsed.query or b"",
            "state": protocol.app_state.copy(),
            TARGET: self.target,
        }

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Call an app, and make an end of an answer that it leaves without one."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as exc:
            self.logger.error("Exception in ASGI application\n", exc_info=exc)
        else:
            if not (self.response_complete or self.disconnected):
                what = "completing" if self.response_started else "starting"
                self.logger.error("ASGI callable returned without %s response.", what)
        finally:
            if not self.disconnected:
                self.fail()
            self.on_response = _nothing
            self.scope = None  # it holds this request

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]
        if message["type"] == "http.response.start":
            if self.edit_head is not None:
                message["headers"] = self.edit_head(message["status"], list(message["headers"]))
            if self.waiting_for_100_continue:
                self._withhold_body()
            if self.version == "1.0" and all(name != b"content-length" for name, _ in message["headers"]):
                # RFC 9112 7.1: no chunks for HTTP/1.0; the body ends with the connection.
                self.ends_with_connection = True
                self.chunked_encoding = False
        else:
            if self.ends_with_connection:
                self.expected_content_length = len(message["body"])
            if not (self.keep_alive or message.get("more_body", False)) and self._may_be_unread:
                self.keep_alive = True  # or uvicorn closes the connection at once
                self.on_response = partial(self._end_before, self.on_response)
        return super().send(message)

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

    def unread(self, body: bytes) -> None:
        """Put back what was read of the body, to be read once more."""
        self.body = body + bytes(self.body)
        if self._event is not None:
            self._event.set()

    # The relay's side: the request.

    @property
    def ids(self) -> RequestIds:
        """By which its log lines are found."""
        return self._ids or ids_of(self.headers)

    @ids.setter
    def ids(self, ids: RequestIds) -> None:
        self._ids = ids

    @property
    def has_arrived(self) -> bool:
        """True if something of the body is here, or its end."""
        return bool(self.body) or not self.more_body

    def take_body(self) -> bytes:
        """The part of the body that is here; the socket is read again."""
        body, self.body = bytes(self.body), _NO_BODY
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.copy_body is not None:
            self.copy_body(body)
        return body

    def ask_for_body(self) -> None:
        """Ask a client that waits for it; the socket is read, so that its leaving is noticed.

        One whose body comes unasked gets its 100, too, as from uvicorn and nginx: it may have sent a part and
        wait with the rest. RFC 9110 10.1.1 allows to omit it, and 15.2 wants the upstream's passed on.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(CONTINUE)
            self.waiting_for_100_continue = False
        self.flow.resume_reading()

    # The relay's side: the answer.

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
            self._withhold_body()
        self.response_started = True
        parts = [STATUS_LINE[status] if _REASON[status] == reason else status_line(status, reason)]
        has_length = _write_fields(parts, headers)
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        if self.method == "HEAD":
            parts.append(b"\r\n")
        elif has_length or status in BODILESS_STATUS:
            parts += (b"\r\n", body)
        else:
            self._frame(parts, body, last)
        self.transport.write(b"".join(parts))
        if last:
            self._complete()

    def _withhold_body(self) -> None:
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
            self._complete()

    def refuse(self, status: int, detail: str, *, close: bool = False) -> None:
        """Answer with an RFC 9457 problem; `close` also ends the connection."""
        headers, body = problem(status, TITLES[status], detail)
        if close:
            self.keep_alive = False
        self.answer(status, _REASON[status], headers, body, last=True)

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

    @property
    def _may_be_unread(self) -> bool:
        """True if bytes may be here, or come, that nobody reads: of the body, or of what is behind it."""
        return self.more_body or self.flow.read_paused or self.offer is not None

    def _end_connection(self) -> None:
        if self._may_be_unread:
            connection: Any = self.transport.get_protocol()
            connection.linger()
        else:
            self.transport.close()

    def _end_before(self, on_response: Callable[[], None]) -> None:
        self._end_connection()
        on_response()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._end_connection()
        on_response: Callable[[], None] = self.on_response
        self.on_response = _nothing  # it holds the protocol, which holds this request
        on_response()


def _write_fields(parts: list[bytes], headers: Headers) -> bool:
    """Add the lines of an answer's headers, `Date` among them. Returns whether they say its length."""
    has_date = has_length = False
    for name, value in headers:
        if name == b"date":
            has_date = True
        elif name == b"content-length":
            has_length = True
        parts += (name, b": ", value, b"\r\n")
    if not has_date:
        parts.append(date_line())
    return has_length


def _nothing() -> None:
    pass
