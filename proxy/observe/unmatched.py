"""What is counted of requests that match no route: it is kept as it is, and in the metrics a little later.

A number of a metric is in a file that all workers read, and a relayed request would write five. Here its two
durations wait with those of others. They go into the metrics together: at once when somebody reads these, and
else by a timer. So another worker's page lacks at most what was counted in the last `FLUSH_S`, and a killed
process loses it.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import Counter, Histogram

from flags.decision import Mode, Reason
from proxy.settings.blocks.values import UNMATCHED
from proxy.timers.wheel import Timer, stop, wheel_of

FLUSH_S: Final = 0.1
"""Seconds for which a request waits at most to be added, in a loop that is not held up."""

MOST_WAITING: Final = 1024
"""Requests that wait at most: more are added at once. A tenth of a second has a few hundred."""


class UnmatchedMetrics:
    """Children for requests that match no route. The thread of the loop counts; the maker flushes at the end.

    It is itself the timer that flushes, see `proxy.timers`: it waits only while something is to be added.

    Args:
        requests: the family, as are the others.
    """

    def __init__(self, requests: Counter, seconds: Histogram, overhead: Histogram) -> None:
        self.upgrades: Counter = requests.labels(UNMATCHED, Mode.UPGRADE, Reason.NO_ROUTE)
        relayed: Counter = requests.labels(UNMATCHED, Mode.RELAY, Reason.NO_ROUTE)
        self._add_requests: Callable[[float], None] = relayed._value.inc
        self._add_seconds: Callable[[list[float]], None] = _adder(seconds.labels(UNMATCHED, Mode.RELAY))
        self._add_overhead: Callable[[list[float]], None] = _adder(overhead.labels(UNMATCHED))
        self._seconds: list[float] = []
        self._overhead: list[float] = []
        self.slot: set[Timer] | None = None
        self.wake_at: float = 0.0

    def count_relayed(self, took_s: float, overhead_s: float) -> None:
        """Count a relayed request at its end."""
        self._seconds.append(took_s)
        self._overhead.append(overhead_s)
        if self.slot is None:
            loop = asyncio.get_running_loop()
            now = loop.time()
            wheel_of(loop).wake(self, now + FLUSH_S, now)
        elif len(self._seconds) >= MOST_WAITING:
            self.flush()

    def on_time(self, now: float) -> None:
        self.flush()

    def flush(self) -> None:
        """Add to the metrics what they do not have yet: before somebody reads them, and when all is over."""
        stop(self)
        if self._seconds:
            self._add_requests(len(self._seconds))
            self._add_seconds(self._seconds)
            self._add_overhead(self._overhead)
            self._seconds.clear()
            self._overhead.clear()


def _adder(histogram: Histogram) -> Callable[[list[float]], None]:
    """As `observe` of each amount, without checks of what is known here. It sorts the amounts."""
    add_to_sum: Callable[[float], None] = histogram._sum.inc
    buckets: list[Callable[[float], None]] = [bucket.inc for bucket in histogram._buckets]
    bounds: Sequence[float] = histogram._upper_bounds

    def add(amounts: list[float]) -> None:
        add_to_sum(sum(amounts))
        amounts.sort()
        at = 0
        while at < len(amounts):
            bucket = bisect_left(bounds, amounts[at])
            upto = bisect_right(amounts, bounds[bucket], at)
            buckets[bucket](upto - at)
            at = upto

    return add
