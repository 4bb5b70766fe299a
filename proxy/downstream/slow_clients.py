"""Slow clients: how long one may take for a request's head, for its body, and to take its answer."""

import asyncio
from asyncio.events import TimerHandle

from proxy.downstream.answering import AnsweringProtocol

HEAD_S = 30.0
"""Seconds a client has for its request's head, from the connection's or the head's first byte."""

BODY_S = 60.0
"""Seconds between two reads of a request's body, while this side is reading. Then the client is cut: it
would hold an upstream connection for as long as it likes."""

WRITE_S = 60.0
"""Seconds for which a client may read nothing of its answer; then it is cut for the same reason."""


class TimedProtocol(AnsweringProtocol):
    """One client connection, which is cut when its client is too slow."""

    __slots__ = ("_body_timer", "_head_timer", "_idle_since", "_idle_timer", "_read_at", "_write_timer")

    head_s = HEAD_S
    body_s = BODY_S
    write_s = WRITE_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._write_timer: TimerHandle | None = None
        self._body_timer: TimerHandle | None = None
        self._read_at = 0.0
        self._idle_timer: TimerHandle | None = None
        self._idle_since = 0.0
        self._head_timer: TimerHandle | None = self.loop.call_later(self.head_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        self._stop_body_timer()
        self._stop_idle_timer()
        super().connection_lost(exc)

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
        """Cut a client whose body has stopped. One timer serves a whole body, however many reads it takes."""
        self._body_timer = None
        if self.cycle is None or not self.cycle.more_body:
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

    def _wait_for_request(self) -> None:
        """All requests are answered. One timer serves a kept connection, however many requests come on it."""
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_for_request)

    def _look_for_request(self) -> None:
        """Close a connection on which no request came within the time that it is kept."""
        self._idle_timer = None
        if not self._idle_since:
            return
        due_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if due_s > 0:
            self._idle_timer = self.loop.call_later(due_s, self._look_for_request)
        elif not self.transport.is_closing():
            self.transport.close()

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._pending() is not None:
            # The answer must not be cut for a request that comes too early.
            self._head_timer = self.loop.call_later(self.head_s, self._head_is_late)
        elif not self.transport.is_closing():
            self.transport.close()
