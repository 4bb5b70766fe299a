"""How late text was sent to viewers: it is kept as it is, and in the metrics a little later.

To observe a histogram takes as long as to send an event. Here deliveries wait as requests do in
`unmatched.py`: they go into the metrics together, at once when somebody reads these, and else by a timer.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from prometheus_client import Histogram

from proxy.timers.wheel import Timer, stop, wheel_of

FLUSH_S: Final = 0.1
"""Seconds for which a delivery waits at most to be added, in a loop that is not held up."""


class Deliveries:
    """Those of one route and source. The thread of the loop counts; the maker flushes at the end.

    It is itself the timer that flushes, see `proxy.timers`: it waits only while something is to be added.
    """

    __slots__ = (
        "_add_to_sum",
        "_bounds",
        "_buckets",
        "_counts",
        "_first_bound",
        "_in_first",
        "_sum",
        "slot",
        "wake_at",
    )

    def __init__(self, histogram: Histogram) -> None:
        self._add_to_sum: Callable[[float], None] = histogram._sum.inc
        self._buckets: list[Callable[[float], None]] = [bucket.inc for bucket in histogram._buckets]
        self._bounds: list[float] = list(histogram._upper_bounds)
        self._counts = [0] * len(self._bounds)
        """By bucket, except those of the first."""
        self._first_bound = self._bounds[0]
        self._in_first = 0
        """Nearly all are: they need not be looked for."""
        self._sum = 0.0
        self.slot: set[Timer] | None = None
        self.wake_at = 0.0

    def add(self, late_s: float) -> None:
        """Count one that came so many seconds late; from 0."""
        if late_s <= self._first_bound:
            self._in_first += 1
        else:
            at = 1
            while late_s > self._bounds[at]:  # the last is infinite
                at += 1
            self._counts[at] += 1
        self._sum += late_s
        if self.slot is None:
            loop = asyncio.get_running_loop()
            now = loop.time()
            wheel_of(loop).wake(self, now + FLUSH_S, now)

    def on_time(self, now: float) -> None:
        self._add_what_waits()

    def flush(self) -> None:
        """Add to the metrics what they do not have yet: before somebody reads them, and when all is over."""
        if self.slot is not None:
            stop(self)
            self._add_what_waits()

    def _add_what_waits(self) -> None:
        self._counts[0], self._in_first = self._in_first, 0
        for at, count in enumerate(self._counts):
            if count:
                self._buckets[at](count)
                self._counts[at] = 0
        self._add_to_sum(self._sum)
        self._sum = 0.0
