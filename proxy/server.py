"""What uvicorn's HTTP protocol lacks for a proxy: the target as it came, bounds on a request's head, and
one system call for an answer that is here whole.
"""

import asyncio
from asyncio.events import TimerHandle
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TARGET = "headgate.target"
"""Scope key: the request target, byte for byte (ASGI's `raw_path` loses an empty query)."""

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together; nginx's default is 32 KiB."""

HEAD_S = 30.0
"""Seconds a client has for its request's head, from the connection's or the head's first byte."""


class HeadFirst:
    """A transport on which the head of an answer waits for the first bytes of its body.

    uvicorn writes the two apart, which costs a relayed request a tenth more. Whoever starts an answer here
    goes on with its body at once, so nothing waits: `on_response_complete` is the last chance.
    """

    __slots__ = ("_head", "_transport", "write_through")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.write_through = transport.write

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:10] != b"1":
            self._head = data
            return
        self.write_through(data)

    def flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self.write_through(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ServerProtocol(HttpToolsProtocol):
    """One client connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, HeadFirst(transport)))
        self._head_bytes = 0
        self._reading_head = False
        self._head_timer: TimerHandle | None = self.loop.call_later(HEAD_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reading_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("Request head too large.")
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_S, self._head_is_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading_head = True

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._head_bytes = 0
        self._stop_head_timer()
        cast(dict[str, object], self.scope)[TARGET] = self.url
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        cast(HeadFirst, self.transport).flush()
        super().on_response_complete()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """The relay answers upgrades; uvicorn's advice to install a library is not for us."""
