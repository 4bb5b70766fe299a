"""Counts of the last minutes, from counters that only grow. Pure: the time is passed in."""

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

WINDOW_S, LOOK_S = 300.0, 10.0
"""Seconds of the window, and between two looks at the counters."""


class RecentCounts(Generic[Key]):
    """The counts of the last `WINDOW_S` seconds, or of all time if the process is younger.

    Args:
        totals: reads the counters. Those that are 0 may be left out.
        now_s: the time at which they are all 0.
    """

    def __init__(self, totals: Callable[[], Mapping[Key, float]], now_s: float) -> None:
        self._totals = totals
        self._read: deque[tuple[float, Mapping[Key, float]]] = deque([(now_s, {})])

    def look(self, now_s: float) -> None:
        """Read the counters, if it is time. At most `WINDOW_S / LOOK_S + 2` readings are kept."""
        if now_s - self._read[-1][0] < LOOK_S:
            return
        self._read.append((now_s, self._totals()))
        while len(self._read) > 1 and self._read[1][0] <= now_s - WINDOW_S:
            self._read.popleft()

    def counts(self) -> dict[Key, int]:
        """Return the counts since the oldest reading, without zeros."""
        before = self._read[0][1]
        grown = {key: round(value - before.get(key, 0.0)) for key, value in self._totals().items()}
        return {key: count for key, count in grown.items() if count > 0}
