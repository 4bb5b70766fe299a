"""Requests are counted when they settle: a fixed time after their start, when quick and slow ones have ended.

If requests counted at their end, a minute's failures would be in before its long answers, and the slower arm
would look worse than it is. So requests that began together are counted together, unless they last longer.

What settles together is kept as counts, and as 8 bytes for each duration.
"""

import asyncio
import logging
from array import array
from asyncio.events import TimerHandle
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

logger = logging.getLogger("headgate.outcomes")

SLOT_S = 0.25
"""Requests that are due within one slot are counted at its end."""

MAX_PENDING = 500_000
"""Requests that wait: 3,000 per second with the default `flags.settle_s`, in a few megabytes."""


@dataclass(slots=True)
class _Slot:
    requests: int = 0
    amounts: dict[Counter, float] = field(default_factory=dict)
    durations: dict[Histogram, "array[float]"] = field(default_factory=dict)

    def settle(self) -> None:
        for counter, amount in self.amounts.items():
            counter.inc(amount)
        for histogram, durations in self.durations.items():
            for duration_s in durations:
                histogram.observe(duration_s)


class Settling:
    """Requests that have ended and are not counted yet. Its maker closes it.

    Args:
        settle_s: seconds from a request's start until it is counted; 0: it is counted when it ends.
        max_pending: over it the oldest are counted early.
    """

    def __init__(self, settle_s: float, *, max_pending: int = MAX_PENDING) -> None:
        self._settle_s = settle_s
        self._max_pending = max_pending
        self._slots: dict[int, _Slot] = {}
        self._timer: TimerHandle | None = None
        self._was_full = False
        self._closed = False
        self.pending = 0

    def add(
        self,
        amounts: Mapping[Counter, float],
        histogram: Histogram | None,
        began_at: float,
        ended_at: float,
    ) -> None:
        """A request has ended, and adds these amounts. Times are the loop's. A histogram also observes the
        duration."""
        due_at = began_at + self._settle_s
        if due_at <= ended_at or self._closed:
            for counter, amount in amounts.items():
                counter.inc(amount)
            if histogram is not None:
                histogram.observe(ended_at - began_at)
            return
        if self.pending >= self._max_pending:
            self._make_room()
        number = int(due_at / SLOT_S) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = _Slot()
            self._wait()
        slot.requests += 1
        for counter, amount in amounts.items():
            slot.amounts[counter] = slot.amounts.get(counter, 0.0) + amount
        if histogram is not None:
            slot.durations.setdefault(histogram, array("d")).append(ended_at - began_at)
        self.pending += 1

    def settle(self, now: float) -> None:
        """Count the requests that are due."""
        for number in sorted(number for number in self._slots if number * SLOT_S <= now):
            self._settle(number)

    def close(self) -> None:
        """The process ends: count all pending requests now, and later ones at their end."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for number in sorted(self._slots):
            self._settle(number)

    def _settle(self, number: int) -> None:
        slot = self._slots.pop(number)
        self.pending -= slot.requests
        slot.settle()

    def _make_room(self) -> None:
        if not self._was_full:
            self._was_full = True
            logger.warning("outcomes settle early", extra={"pending": self.pending})
        self._settle(min(self._slots))

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SLOT_S, self._tick, context=Context())

    def _tick(self) -> None:
        self._timer = None
        self.settle(asyncio.get_running_loop().time())
        if self._slots:
            self._wait()
