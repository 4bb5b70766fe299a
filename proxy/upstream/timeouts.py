"""The timeouts of an exchange with the upstream, all kept by one timer of the loop."""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import Fault, UpstreamError, UpstreamSilent, UpstreamStalled
from proxy.upstream.response import UpstreamResponse

SLOW_S = 0.05
"""Seconds after which an exchange counts as slow. It shares the timer of the timeouts: most answers come
sooner, and a second timer for each would cost a twentieth of a relayed request."""

LONG_S = 0.1
"""Seconds after which an answer that is not whole counts as long, and its worker as busy; see
`proxy.upstream.pool`."""

TIMER_SLACK_S = 0.002
"""A loop's timers count in milliseconds and may fire one early."""

LATE_S = 0.02
"""A timer that fires so late finds a loop that was held up, by its own work or by the machine's. What came
meanwhile is not read yet, since a loop runs its timers first: until it is, nobody can say who was silent."""


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


class ExchangeTimer:
    """One connection's timer, for one exchange after another.

    It is armed again only when it fires or would fire too late, so that a stream of a thousand chunks costs
    no timer a chunk.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts, response: UpstreamResponse
    ) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._response = response
        self._timed: Timed | None = None
        self._timer: TimerHandle | None = None
        self._timer_due = 0.0
        self._total_due = 0.0
        self.idle_s = timeouts.idle_s
        """The idle timeout of this exchange."""
        self.is_sent = False
        """Whether the request is out whole."""
        self._sent_at = 0.0
        self.waiting_since = 0.0
        """Since when a reader waits for more of the body; 0 while none does."""
        self.on_slow: Callable[[], None] | None = None
        self.on_long: Callable[[], None] | None = None

    def begin(self, timed: Timed) -> None:
        """An exchange begins: its request is about to be written."""
        self._timed = timed
        self.idle_s = self._timeouts.idle_s
        self.is_sent = False
        self._total_due = self._sent_at = self.waiting_since = 0.0

    def sending(self) -> None:
        """The request is on its way, in parts: until it is out, `total_s` alone counts."""
        now = self._loop.time()
        self._total_due = now + self._timeouts.total_s
        self._fire_by(self._total_due, now)

    def sent(self, on_slow: Callable[[], None] | None = None) -> None:
        """The request is out whole: from now on the upstream has `first_byte_s`.

        `on_slow` is called once, if the exchange is not over within `SLOW_S`, and `on_long` after `LONG_S`.
        """
        self.is_sent = True
        self.on_slow = on_slow
        now = self._sent_at = self._loop.time()
        total_due = self._total_due
        if not total_due:
            total_due = self._total_due = now + self._timeouts.total_s
        if on_slow is not None:
            due = now + SLOW_S
        else:
            due = now + (self._timeouts.first_byte_s if self.on_long is None else LONG_S)
        if self._timer is None or self._timer_due > due or self._timer_due > total_due:
            self._fire_by(due, now)

    def begin_to_wait(self) -> None:
        """A reader waits for the body: more of it must come within `idle_s`."""
        if not self.waiting_since:
            now = self.waiting_since = self._loop.time()
            self._fire_by(now + self.idle_s, now)

    def wait_on(self) -> None:
        """More of the body came, and its reader, who has it, waits on."""
        now = self.waiting_since = self._loop.time()
        if now + self.idle_s < self._timer_due:
            self._fire_by(now + self.idle_s, now)

    def end(self) -> None:
        """The exchange is over."""
        self._timed = self.on_slow = self.on_long = None  # they hold on to the request
        if self._timer is not None and self._timer_due > self._sent_at + SLOW_S:
            # A timer that fires soon is left to the next exchange: arming one for each is expensive.
            self.stop()

    def stop(self) -> None:
        """The connection carries no exchange any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire_by(self, due: float, now: float) -> None:
        """Make sure that the timer fires by `due`; if it fires sooner, it looks again."""
        due = min(due, self._total_due)
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(due - now, self._fired)

    def _fired(self) -> None:
        """Fail what is due, or sleep until something can be."""
        self._timer = None
        timed = self._timed
        if timed is None:
            return
        now = self._loop.time()
        if now > self._timer_due + LATE_S:
            self._timer_due = now + TIMER_SLACK_S
            self._timer = self._loop.call_later(TIMER_SLACK_S, self._fired)
            return
        if self.on_slow is not None:
            if self._sent_at + SLOW_S > now + TIMER_SLACK_S:  # the exchange before armed the timer
                self._fire_by(self._sent_at + SLOW_S, now)
                return
            on_slow, self.on_slow = self.on_slow, None
            on_slow()
            if self._response.status:
                timed.wake()
        if self.on_long is not None and self.is_sent and self._sent_at + LONG_S <= now + TIMER_SLACK_S:
            on_long, self.on_long = self.on_long, None
            on_long()
        due, failure = self._next_due(now)
        if self._total_due <= due:
            due, failure = self._total_due, UpstreamStalled("total_s is over", Fault.TOTAL_TIMEOUT)
        if due <= now + TIMER_SLACK_S:
            timed.fail(failure)
        elif self.on_long is not None and self.is_sent:
            self._fire_by(min(due, self._sent_at + LONG_S), now)
        else:
            self._fire_by(due, now)

    def _next_due(self, now: float) -> tuple[float, UpstreamError]:
        if not self.is_sent:
            return self._total_due, UpstreamStalled("total_s is over", Fault.TOTAL_TIMEOUT)
        if not self._response.status:
            return self._sent_at + self._timeouts.first_byte_s, UpstreamSilent("first_byte_s is over")
        # While nobody reads, it is not the upstream that is slow.
        since = self.waiting_since or now
        return since + self.idle_s, UpstreamStalled("idle_s is over")
