"""The timeouts of an exchange with the upstream, all kept by one timer in the loop's wheel.

Each is over at its time or a little later, never before: the wheel's `TICK_S` and `COARSE_S` are the bounds.
If the loop was held up, what came meanwhile has been read when a timer is called; see `HELD_UP_S` there.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.errors import Fault, UpstreamError, UpstreamSilent, UpstreamStalled
from proxy.timers.wheel import Timer, stop, wheel_of
from proxy.upstream.response import UpstreamResponse

SLOW_S: Final = 0.05
"""Seconds after which an exchange counts as slow. It shares the timer of the timeouts: most answers come
sooner, and a second timer for each would cost a twentieth of a relayed request."""

LONG_S: Final = 0.1
"""Seconds after which an answer that is not whole counts as long, and its worker as busy; see
`proxy.upstream.pool`."""

TIMER_SLACK_S: Final = 0.002
"""A loop's timers count in milliseconds and may fire one early."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, each measured at the upstream's own connection."""

    connect_s: float = 5.0
    first_byte_s: float = 900.0
    idle_s: float = 120.0
    total_s: float = 900.0


class Timed(Protocol):
    """The exchange that the timer ends."""

    def fail(self, failure: UpstreamError) -> None: ...

    def wake(self) -> None:
        """Let the waiting task look again."""

    def tell_slow(self) -> None:
        """The exchange is not over within `SLOW_S`."""

    def tell_long(self) -> None:
        """Nor within `LONG_S`."""


class ExchangeTimer:
    """One connection's timer, for one exchange after another.

    It is set again only when it is called or would be called too late, so that a stream of a thousand chunks
    costs no timer a chunk.
    """

    __slots__ = (
        "_begun_at",
        "_connect_due",
        "_loop",
        "_on_late",
        "_response",
        "_sent_at",
        "_soonest_s",
        "_timed",
        "_timeouts",
        "_wheel",
        "idle_s",
        "is_sent",
        "slot",
        "tells_long",
        "tells_slow",
        "waiting_since",
        "wake_at",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts, response: UpstreamResponse
    ) -> None:
        self._loop = loop
        self._wheel = wheel_of(loop)
        self._timeouts = timeouts
        self._soonest_s = min(SLOW_S, min(timeouts.first_byte_s, timeouts.total_s))
        self._response = response
        self._timed: Timed | None = None
        self._on_late: Callable[[], None] | None = None
        self._connect_due = 0.0
        self.slot: set[Timer] | None = None
        self.wake_at = 0.0
        self._begun_at = 0.0
        """When the first of the request was written; 0: it was not."""
        self.idle_s = timeouts.idle_s
        """The idle timeout of this exchange."""
        self.is_sent = False
        """Whether the request is out whole."""
        self._sent_at = 0.0
        self.waiting_since = 0.0
        """Since when a reader waits for more of the body; 0 while none does."""
        self.tells_slow = False
        """Whether the exchange is still to be told once when it is slow."""
        self.tells_long = False
        """The same, when it is long."""

    def connecting(self, on_late: Callable[[], None]) -> None:
        """A connection is being made. `on_late` is called after `connect_s`, unless `connected` is before."""
        now = self._loop.time()
        self._on_late = on_late
        self._connect_due = now + self._timeouts.connect_s
        # So soon that the exchange, which begins when it is made, need not set it again.
        self._wheel.wake(self, min(now + self._soonest_s, self._connect_due), now)

    def connected(self) -> None:
        self._on_late = None

    def begin(self, timed: Timed) -> None:
        """An exchange begins: its request is about to be written."""
        self._timed = timed
        self.idle_s = self._timeouts.idle_s
        self.is_sent = False
        self._begun_at = self._sent_at = self.waiting_since = 0.0

    def sending(self) -> None:
        """The request is on its way, in parts: until it is out, `total_s` alone counts."""
        now = self._begun_at = self._loop.time()
        self._wake_by(now + self._timeouts.total_s, now)

    def sent(self, tells_slow: bool = False) -> None:
        """The request is out whole: from now on the upstream has `first_byte_s`."""
        self.is_sent = True
        self.tells_slow = tells_slow
        now = self._sent_at = self._loop.time()
        if not self._begun_at:
            self._begun_at = now
        due = now + self._soonest_s
        if self.slot is None or self.wake_at > due:
            self._wheel.wake(self, due, now)

    def begin_to_wait(self) -> None:
        """A reader waits for the body: more of it must come within `idle_s`."""
        if not self.waiting_since:
            self.wait_on()

    def wait_on(self) -> None:
        """More of the body came, and its reader, who has it, waits on."""
        now = self.waiting_since = self._loop.time()
        if self.wake_at > now + self.idle_s or self.slot is None:
            self._wheel.wake(self, now + self.idle_s, now)

    def end(self) -> None:
        """The exchange is over."""
        self._timed = None
        self.tells_slow = self.tells_long = False
        if self.wake_at > self._sent_at + SLOW_S:
            # One that is called soon is left to the next exchange, which need not set it then.
            stop(self)

    def stop(self) -> None:
        """The connection carries no exchange any more, or was never made."""
        self._on_late = None
        stop(self)

    def _wake_by(self, due: float, now: float) -> None:
        """Make sure that the timer is called at `due`; if it is called sooner, it looks again."""
        if self.slot is None or self.wake_at > due:
            self._wheel.wake(self, due, now)

    def on_time(self, now: float) -> None:
        """Fail what is due, or wait until something can be."""
        if self._on_late is not None:
            self._look_for_connection(self._on_late, now)
            return
        timed = self._timed
        if timed is None or not self._begun_at:
            return
        if self.tells_slow and now >= self._sent_at + SLOW_S:
            self.tells_slow = False
            timed.tell_slow()
            if self._response.status:
                timed.wake()
        if self.tells_long and self.is_sent and now >= self._sent_at + LONG_S:
            self.tells_long = False
            timed.tell_long()
        if self._timed is not None:  # it may be over by now
            self._look_for_failure(timed, now)

    def _look_for_connection(self, on_late: Callable[[], None], now: float) -> None:
        if now < self._connect_due:
            self._wake_by(self._connect_due, now)
        else:
            self._on_late = None
            on_late()

    def _look_for_failure(self, timed: Timed, now: float) -> None:
        total_due = self._begun_at + self._timeouts.total_s
        if not self.is_sent:
            silent_due = total_due
        elif not self._response.status:
            silent_due = self._sent_at + self._timeouts.first_byte_s
        else:
            # While nobody reads, it is not the upstream that is slow.
            silent_due = (self.waiting_since or now) + self.idle_s
        if now < min(total_due, silent_due):
            self._wake_by(self._next_look(min(total_due, silent_due)), now)
        elif total_due <= silent_due:
            timed.fail(UpstreamStalled("total_s is over", Fault.TOTAL_TIMEOUT))
        elif not self._response.status:
            timed.fail(UpstreamSilent("first_byte_s is over"))
        else:
            timed.fail(UpstreamStalled("idle_s is over"))

    def _next_look(self, due: float) -> float:
        """`due`, or before it when the exchange counts as slow or long."""
        if self.tells_slow:
            return min(due, self._sent_at + SLOW_S)
        if self.tells_long and self.is_sent:
            return min(due, self._sent_at + LONG_S)
        return due
