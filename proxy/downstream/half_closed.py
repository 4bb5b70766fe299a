"""A client that has ended its side of the connection: whether it still waits for its answer, or has left.

Both look the same, until something is written: to who has left it is answered with a reset. So what is owed
is waited for a moment, and then the client is asked with a `100 Continue`, which every client of HTTP/1.1
reads over (RFC 9110 15.2) and which is sent to none that has not ended its side.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

LOOK_S = 0.2
"""Between two looks."""

LEFT_S = 0.8
"""How long those are waited for that cannot be asked: clients of HTTP/1.0, and those in the middle of an
answer. A client that has left frees the upstream within a second."""

ASK_S = 15.0
"""Between two questions."""

QUESTION = b"HTTP/1.1 100 Continue\r\n\r\n"


class PendingAnswer(Protocol):
    """The answer that the client waits for: `RequestResponseCycle` of the server below."""

    response_started: bool


class HalfClosed:
    """Watches one client from the end of its side on.

    Args:
        transport: is aborted when the client has left.
        owed: the answer it waits for, now; None: nothing more, which closes the connection.
        may_ask: whether it speaks HTTP/1.1.
    """

    def __init__(
        self, transport: asyncio.Transport, owed: Callable[[], PendingAnswer | None], *, may_ask: bool
    ) -> None:
        now = owed()
        self._transport = transport
        self._owed = owed
        self._may_ask = may_ask and now is not None and not now.response_started
        self._loop = asyncio.get_running_loop()
        self._left_at = self._loop.time() + LEFT_S
        self._ask_at = 0.0
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        owed = self._owed()
        if owed is None:
            self._transport.close()
        elif self._has_left():
            self._transport.abort()
        else:
            if self._may_ask and not owed.response_started and self._loop.time() >= self._ask_at:
                self._transport.write(QUESTION)
                self._ask_at = self._loop.time() + ASK_S
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _has_left(self) -> bool:
        if not self._may_ask and self._loop.time() >= self._left_at:
            return True
        # Nobody reads the socket any more, so nobody else is told of a reset.
        connection: socket.socket = self._transport.get_extra_info("socket")
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
