"""Finished runs that can still be replayed, within bounds that principals share. No I/O, no clock.

Over a bound, the oldest run of the principal with the largest share goes: one user's large answers cost
another user nothing. An idempotency key outlives the run's body: a request that repeats it is refused, and no
work is done twice.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from proxy.runs.run import Run
from proxy.settings.settings import MemoryLogSettings
from proxy.shares import Shares

MAX_SPENT = 20_000
"""Keys of runs that had to go before their time, with about 200 bytes each; the oldest go first."""


@dataclass(frozen=True, slots=True)
class _Finished:
    run: Run
    place: Hashable
    at: float
    keys: Sequence[str]
    """Keys by which requests can still join the run."""
    size_bytes: int


class KeptRuns:
    """The kept runs of one process."""

    def __init__(self, bounds: MemoryLogSettings) -> None:
        self._bounds = bounds
        self._finished: OrderedDict[Hashable, _Finished] = OrderedDict()
        """By their places."""
        self._of: dict[str | None, deque[_Finished]] = {}
        """The same by principal, the oldest first."""
        self._bytes: Shares[str | None] = Shares(latest_first=True)
        self._runs: Shares[str | None] = Shares(latest_first=True)
        self._spent: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._finished)

    def __iter__(self) -> Iterator[Run]:
        return (finished.run for finished in self._finished.values())

    def get(self, place: Hashable) -> Run | None:
        finished = self._finished.get(place)
        return None if finished is None else finished.run

    def put(self, run: Run, place: Hashable, keys: Sequence[str], now: float) -> None:
        """Keep a run that has just ended.

        Args:
            place: where it is found; no other run has it.
            keys: those that requests can join it by.
        """
        finished = _Finished(run, place, now, keys, run.size_bytes)
        self._finished[place] = finished
        self._of.setdefault(run.principal, deque()).append(finished)
        self._bytes.add(run.principal, finished.size_bytes)
        self._runs.add(run.principal, 1)

    def evict(self, now: float) -> Iterator[tuple[Run, Sequence[str]]]:
        """Drop the runs that are too old, or over a bound."""
        while (gone := self._next(now)) is not None:
            self._drop(gone)
            if gone.at > now - self._bounds.ttl_s:
                self._spent.update(dict.fromkeys(gone.keys, gone.at + self._bounds.ttl_s))
            yield gone.run, gone.keys
        while self._spent and (len(self._spent) > MAX_SPENT or next(iter(self._spent.values())) <= now):
            self._spent.popitem(last=False)

    def drop(self, place: Hashable) -> Sequence[str]:
        """Drop a kept run; returns the keys that requests could join it by."""
        gone = self._finished[place]
        self._drop(gone)
        return gone.keys

    def is_spent(self, key: str, now: float) -> bool:
        """True if the run of this key is over, and its answer had to go before its time."""
        return self._spent.get(key, now) > now

    def _next(self, now: float) -> _Finished | None:
        oldest = next(iter(self._finished.values()), None)
        if oldest is None or oldest.at <= now - self._bounds.ttl_s:
            return oldest
        if self._bytes.total > self._bounds.bytes:
            return self._of[self._bytes.largest()][0]
        return self._of[self._runs.largest()][0] if self._runs.total > self._bounds.runs else None

    def _drop(self, gone: _Finished) -> None:
        principal = gone.run.principal
        del self._finished[gone.place]
        self._of[principal].remove(gone)  # mostly its principal's oldest, and so the first
        if not self._of[principal]:
            del self._of[principal]
        self._bytes.add(principal, -gone.size_bytes)
        self._runs.add(principal, -1)
