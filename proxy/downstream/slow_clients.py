"""Slow clients: how long one may take for a request's head, for its body, and to take its answer."""

import asyncio
import math

from proxy.downstream.answering import NO_REQUESTS, AnsweringProtocol
from proxy.timers.wheel import Timer, stop

HEAD_S = 30.0
"""Seconds a client has for its request's head, from the connection's or the head's first byte."""

BODY_S = 60.0
"""Seconds between two reads of a request's body, while this side is reading. Then the client is cut: it
would hold an upstream connection for as long as it likes."""

WRITE_S = 60.0
"""Seconds for which a client may read nothing of its answer; then it is cut for the same reason."""

LINGER_S = 30.0
"""Seconds for which what a client still sends is read and dropped behind its last answer, as in nginx."""


class TimedProtocol(AnsweringProtocol):
    """One client connection, which is cut when its client is too slow.

    It waits in the loop's wheel for whatever is due first: a time is over when it is, or as much later as a
    wheel is. What came while the loop was held up is read before.
    """

    __slots__ = (
        "_body_due",
        "_head_due",
        "_idle_since",
        "_is_over",
        "_lingers",
        "_read_at",
        "_write_due",
        "slot",
        "wake_at",
    )

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.slot: set[Timer] | None = None
        self.wake_at = self._read_at = self._idle_since = 0.0
        # The loop's time at which each is over; 0: it is not waited for.
        self._write_due = self._body_due = self._head_due = 0.0
        self._is_over = False
        """True if what comes is dropped: after a malformed request nothing can be trusted."""
        self._lingers = False
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        stop(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._write_due:
            self._write_due = self._wake_in(WRITE_S)

    def resume_writing(self) -> None:
        self._write_due = 0.0  # first: whoever is told writes more, and may have to wait at once
        super().resume_writing()
        if self.transport.is_closing():
            self._wait_for_end()

    def _wait_for_head(self) -> None:
        """A request's head is due, or the rest of it."""
        if not self._head_due:
            self._head_due = self._wake_in(HEAD_S)

    def _wait_for_body(self) -> None:
        """More of a body is due. One wait serves a whole body, however many reads it takes."""
        self._read_at = self.loop.time()
        if not self._body_due:
            self._body_due = self._wake_in(BODY_S)

    def _wait_for_request(self) -> None:
        """All requests are answered. One wait serves a kept connection, however many requests come on it."""
        now = self._idle_since = self.loop.time()
        due = now + self.timeout_keep_alive
        if self.slot is None or self.wake_at > due:
            self.port.wheel.wake(self, due, now)

    def linger(self, most_s: float = LINGER_S) -> None:
        """Close the connection once the client does, or `most_s` are over. What it sends is dropped.

        Closed with bytes unread, a socket is reset, and the client loses what it has not read of its answer
        (RFC 9112 9.6). TLS has an end of its own, which waits for the client's.
        """
        if self._lingers or self.transport.is_closing():
            return
        self._lingers = self._is_over = True
        self.pipeline = NO_REQUESTS
        self._tell_left()  # a request that is given up in the middle of its body
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()  # it goes out behind what is written
        self._head_due = self._body_due = 0.0
        self.timeout_keep_alive = most_s
        self.flow.resume_reading()
        self._wait_for_request()

    def close(self) -> None:
        """Close the connection once the client has taken what is written, for which it has `WRITE_S`."""
        self.transport.close()
        self._wait_for_end()

    def _wait_for_end(self) -> None:
        """It closes. Few bytes that are left have paused no writing, so nothing else bounds them."""
        if not self._write_due and self.transport.get_write_buffer_size():
            self._write_due = self._wake_in(WRITE_S)

    def _wake_in(self, wait_s: float) -> float:
        now = self.loop.time()
        self._wake_by(now + wait_s, now)
        return now + wait_s

    def _wake_by(self, due: float, now: float) -> None:
        if self.slot is None or self.wake_at > due:
            self.port.wheel.wake(self, due, now)

    def _stop_waiting(self) -> None:
        """The connection is another's from now on."""
        self._write_due = self._body_due = self._head_due = self._idle_since = 0.0
        stop(self)

    def on_time(self, now: float) -> None:
        """Something may be over: look for all that is waited for."""
        self._look_for_head(now)
        self._look_for_body(now)
        self._look_for_request(now)
        if self._write_due and now >= self._write_due:
            self._write_due = 0.0
            self.transport.abort()
        due = self._next_due()
        if due < math.inf:
            self._wake_by(due, now)

    def _next_due(self) -> float:
        """When something is over next; infinite if nothing is waited for."""
        dues = [self._write_due]
        if not self.transport.is_closing():  # it closes when the client has taken what was written
            idle_due = self._idle_since + self.timeout_keep_alive if self._idle_since else 0.0
            dues += (self._head_due, self._body_due, idle_due)
        return min((due for due in dues if due), default=math.inf)

    def _look_for_head(self, now: float) -> None:
        if not self._head_due or now < self._head_due:
            return
        if self._pending() is not None:
            # The answer must not be cut for a request that comes too early.
            self._head_due = now + HEAD_S
        else:
            self._head_due = 0.0
            self.close()

    def _look_for_body(self, now: float) -> None:
        if not self._body_due or now < self._body_due:
            return
        if self.cycle is None or not self.cycle.more_body:
            self._body_due = 0.0
            return
        ours_to_read = self.flow.read_paused or self.cycle.waiting_for_100_continue
        self._body_due = (now if ours_to_read else self._read_at) + BODY_S
        if now >= self._body_due:
            self.transport.abort()

    def _look_for_request(self, now: float) -> None:
        """Close a connection on which no request came within the time that it is kept."""
        if self._idle_since and now >= self._idle_since + self.timeout_keep_alive:
            self._idle_since = 0.0
            self.close()
