"""A client that has ended its side of the connection: whether it still waits for its answer, or has left.

Both look the same until something is written: a client that has left answers with a reset. So the answer is
waited for a moment, and then the client is probed with a `100 Continue`, which every client of HTTP/1.1 skips
(RFC 9110 15.2). A client that has not ended its side gets none.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from proxy.downstream.client_answer import CONTINUE

CHECK_S = 0.2
"""Seconds between two checks."""

LEFT_S = 0.8
"""Seconds to wait for a client that cannot be probed: one of HTTP/1.0, or in the middle of an answer. A
client that has left frees the upstream within a second."""

PROBE_S = 15.0
"""Seconds between two probes."""


class PendingAnswer(Protocol):
    """The answer that the client waits for: a `ClientRequest`."""

    response_started: bool


class HalfClosed:
    """Watches one client from the end of its side on.

    Args:
        transport: is aborted when the client has left.
        pending: gives the answer that the client waits for; None closes the connection.
        may_probe: whether it speaks HTTP/1.1.
    """

    def __init__(
        self, transport: asyncio.Transport, pending: Callable[[], PendingAnswer | None], *, may_probe: bool
    ) -> None:
        now = pending()
        self._transport = transport
        self._pending = pending
        self._may_probe = may_probe and now is not None and not now.response_started
        self._loop = asyncio.get_running_loop()
        self._left_at = self._loop.time() + LEFT_S
        self._probe_at = 0.0
        self._timer = self._loop.call_later(CHECK_S, self._check)

    def stop(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        pending = self._pending()
        if pending is None:
            self._transport.close()
        elif self._has_left():
            self._transport.abort()
        else:
            if self._may_probe and not pending.response_started and self._loop.time() >= self._probe_at:
                self._transport.write(CONTINUE)
                self._probe_at = self._loop.time() + PROBE_S
            self._timer = self._loop.call_later(CHECK_S, self._check)

    def _has_left(self) -> bool:
        if not self._may_probe and self._loop.time() >= self._left_at:
            return True
        # The socket is not read any more, so the transport does not notice a reset.
        connection: socket.socket = self._transport.get_extra_info("socket")
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
