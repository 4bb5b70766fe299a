"""One request of a client: its head, its body as it comes, and its answer's bytes.

The relay takes the body from here, is told of each change, and writes the answer here. A request that must
be waited for before it is known what becomes of it, or that gets a stream, is an ASGI call first: it has a
scope and a task then, and may still be handed to the relay as it is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE
from uvicorn.protocols.utils import get_local_addr

from proxy.downstream.client_answer import CONTINUE, ClientAnswer, ClientConnection, write_fields
from proxy.http.asgi import TARGET, App, Message
from proxy.http.headers import BODILESS_STATUS, Headers
from proxy.observe.spans.ports import RequestSpan
from proxy.observe.spans.request_ids import RequestIds, ids_of

logger = logging.getLogger("uvicorn.error")

BODY_PAUSE_BYTES: Final = 64 * 1024
"""Bytes of a body that may wait here before the socket is paused."""

_NO_BODY: Final = b""

CopyBody = Callable[[bytes], None]


class RequestWatcher(Protocol):
    """Is told of a request's changes. A compiled class that derives from it is told sooner."""

    __slots__ = ()

    def client_changed(self) -> None:
        """More of the body is here, or its end; or the client has left, or takes bytes again."""

    def cut(self) -> None:
        """The process ends: give the request up."""


class ClientRequest(ClientAnswer):
    """One request; an ASGI call if it must be."""

    __slots__ = (
        "_ids",
        "_is_changed",
        "_unsent",
        "_waited",
        "address",
        "body",
        "copy_body",
        "headers",
        "names_its_user",
        "scheme",
        "scope",
        "span",
        "target",
        "trailers",
        "watcher",
    )

    def __init__(self, connection: ClientConnection, method: bytes, version: str, keep_alive: bool) -> None:
        super().__init__(connection, method, version, keep_alive)
        self.target = connection.url
        self.headers: Headers = connection.headers
        peer = connection.client
        self.address: str | None = None if peer is None else peer[0]
        self.scheme: str = connection.scheme
        self.body: bytes | bytearray = _NO_BODY
        """The part of it that is here and was not taken yet."""
        self.trailers: Headers | None = None
        """What came behind a body in chunks, once that has come to its end."""
        self.names_its_user = True
        """False if the peer may not say who the user is, in a header that is for proxies in front."""
        self.span: RequestSpan | None = None
        self.watcher: RequestWatcher | None = None
        self.copy_body: CopyBody | None = None
        """Is given each part of the body that the relay takes."""
        self._ids: RequestIds | None = None
        self.scope: Any = None
        """An ASGI call's; it has a task then."""
        self._is_changed = False
        self._waited: asyncio.Event | None = None
        """For a call that waits for a change, and only meanwhile: an event takes 700 bytes."""
        self._unsent = 0
        """Bytes of a call's answer that are still to come, if it has a length."""

    # The protocol's side.

    def add(self, body: bytes) -> None:
        """More of the body is here. The socket is paused once that is much."""
        held = self.body
        if not held:
            self.body = body
        elif isinstance(held, bytearray):
            held += body
        else:
            self.body = bytearray(held + body)
        if len(self.body) > BODY_PAUSE_BYTES:
            self.flow.pause_reading()

    def set(self) -> None:
        """Something has changed: tell whoever takes the request."""
        self._set_changed()
        if self.watcher is not None:
            self.watcher.client_changed()

    def _set_changed(self) -> None:
        self._is_changed = True
        if self._waited is not None:
            self._waited.set()
            self._waited = None

    # The relay's side.

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
        held, self.body = self.body, _NO_BODY
        body = held if isinstance(held, bytes) else bytes(held)
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.copy_body is not None:
            self.copy_body(body)
        return body

    def unread(self, body: bytes) -> None:
        """Put back what was read of the body, to be read once more."""
        self.body = body + bytes(self.body)
        self._set_changed()

    def ask_for_body(self) -> None:
        """Ask a client that waits for it; the socket is read, so that its leaving is noticed.

        One whose body comes unasked gets its 100, too, as from uvicorn and nginx: it may have sent a part and
        wait with the rest. RFC 9110 10.1.1 allows to omit it, and 15.2 wants the upstream's passed on.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(CONTINUE)
            self.waiting_for_100_continue = False
        self.flow.resume_reading()

    # An ASGI call.

    def as_call(self) -> None:
        """Become an ASGI call. An app that takes requests as they are has this one, and reads little of its
        scope."""
        self._is_changed = self.has_arrived or self.disconnected
        self.scope = {"type": "http", "method": self.method, "headers": self.headers}

    def as_whole_call(self, client: tuple[str, int] | None, asgi_version: str, state: dict[str, Any]) -> None:
        """Become a call of an app that knows nothing of requests as they are."""
        self.as_call()
        parsed: Any = httptools.parse_url(self.target)  # its types say that there is always a query
        path = parsed.path.decode("ascii")
        self.scope |= {
            "asgi": {"version": asgi_version, "spec_version": "2.3"},
            "http_version": self.version,
            "server": get_local_addr(self.transport),
            "client": client,
            "scheme": self.scheme,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": parsed.path,
            "query_string": parsed.query or b"",
            "state": state.copy(),
            TARGET: self.target,
        }

    async def run_asgi(self, app: App) -> None:
        """Call an app, and make an end of an answer that it leaves without one."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as exc:
            logger.error("Exception in ASGI application\n", exc_info=exc)
        else:
            if not (self.response_complete or self.disconnected):
                what = "completing" if self.response_started else "starting"
                logger.error("ASGI callable returned without %s response.", what)
        finally:
            if not self.disconnected:
                self.fail()
            self.connection = None
            self.scope = None  # it holds this request

    async def receive(self) -> Message:
        """ASGI's: what has come of the body since the last time, or that the client has left."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(CONTINUE)
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            if not self._is_changed:
                if self._waited is None:
                    self._waited = asyncio.Event()
                await self._waited.wait()
            self._is_changed = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), _NO_BODY
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def send(self, message: Any) -> Awaitable[None]:
        """ASGI's: send the answer's head, or more of its body. What is sent to nobody is dropped."""
        if message["type"] == "http.response.start":
            if self.edit_head is not None:
                message["headers"] = self.edit_head(message["status"], list(message["headers"]))
            if self.waiting_for_100_continue:
                self.withhold_body()
        return self._send(message)

    async def _send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._send_head(message["status"], message.get("headers", []))
        elif self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        elif kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
        else:
            self._send_body(message.get("body", b""), message.get("more_body", False))

    def _send_head(self, status: int, headers: Any) -> None:
        """Send what an app gives as a head, which may be anything."""
        self.response_started = True
        self.waiting_for_100_continue = False
        fields = [_checked(name, value) for name, value in headers]
        parts: list[bytes] = [STATUS_LINE[status]]
        has_length = write_fields(parts, fields)
        self.ends_with_connection = self.version == "1.0" and not has_length  # RFC 9112 7.1: no chunks for it
        if any(name == b"connection" and _says_close(value) for name, value in fields):
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close\r\n")
        self.chunked_encoding = any(
            name == b"transfer-encoding" and value.lower() == b"chunked" for name, value in fields
        )
        if self.chunked_encoding:
            pass  # an app may say so by itself
        elif has_length:
            self._unsent = next(int(value.decode()) for name, value in fields if name == b"content-length")
        elif not (self.ends_with_connection or self.method == "HEAD" or status in BODILESS_STATUS):
            self.chunked_encoding = True
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        self.transport.write(b"".join(parts))

    def _send_body(self, body: Any, more_body: bool) -> None:
        if self.method == "HEAD":
            self._unsent = 0
        elif self.chunked_encoding:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.transport.write(framed if more_body else framed + b"0\r\n\r\n")
        elif self.ends_with_connection:
            self.transport.write(body)
        else:
            if len(body) > self._unsent:
                raise RuntimeError("Response content longer than Content-Length")
            self._unsent -= len(body)
            self.transport.write(body)
        if not more_body:
            if self._unsent:
                raise RuntimeError("Response content shorter than Content-Length")
            self.response_complete = True
            self.set()
            self.complete()


def _checked(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header of an app's: nothing in it may begin another line."""
    if HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if HEADER_VALUE_RE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    return name.lower(), value


def _says_close(value: bytes) -> bool:
    return b"close" in [token.strip() for token in value.lower().split(b",")]
