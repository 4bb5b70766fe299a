"""ASGI calls that uvicorn would answer wrongly: of HTTP/1.0, or with `Expect`."""

import socket
import struct
from collections.abc import Iterable
from functools import partial
from typing import Any

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

from proxy.downstream.client_request import ClientRequest
from proxy.http.asgi import ANSWER, INTERIM, WRITE


class CompatibleApp:
    """An app, for a request that waits to be asked for its body, or is not of HTTP/1.1."""

    def __init__(self, cycle: ClientRequest, app: ASGI3Application) -> None:
        self._cycle = cycle
        self._app = app
        self._until_close = False

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        del scope[ANSWER], scope[WRITE]
        if self._cycle.version == "1.0":
            del scope[INTERIM]
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
            if cycle.version == "1.0" and not _has_length(message["headers"]):
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
