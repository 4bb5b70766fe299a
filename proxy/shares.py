"""The shares that principals have of something bounded, and whose is the largest. No I/O, no clock.

To find the largest takes as long for ten principals as for ten thousand: a flood of users must not make each
of them cost more.
"""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Principal = TypeVar("Principal", bound=Hashable)


class Shares(Generic[Principal]):
    """Each principal's amount of what all share.

    Args:
        latest_first: whose share counts as the largest of several that are equal: that of the principal who
            came last. Else of the one who came first.
    """

    def __init__(self, *, latest_first: bool) -> None:
        self._sign = -1 if latest_first else 1
        self._entries: dict[Principal, tuple[int, int, Principal]] = {}
        """Minus the amount, the turn at which the principal came, and the principal: the smallest entry is
        the largest share. No two principals have the same turn."""
        self._heap: list[tuple[int, int, Principal]] = []
        """All entries, and at most as many that are outdated."""
        self._turns = 0
        self.total = 0

    def add(self, principal: Principal, amount: int) -> None:
        """A share grows, or shrinks by a negative amount. With nothing left, its principal is forgotten."""
        self.total += amount
        before = self._entries.get(principal)
        if before is None:
            self._turns += 1
            before = (0, self._sign * self._turns, principal)
        after = (before[0] - amount, *before[1:])
        if after[0]:
            self._entries[principal] = after
            heappush(self._heap, after)
        else:
            self._entries.pop(principal, None)
        if len(self._heap) > 2 * len(self._entries):
            self._heap = list(self._entries.values())
            heapify(self._heap)

    def largest(self) -> Principal:
        """The principal with the largest share. Somebody must have one."""
        while (first := self._heap[0]) is not self._entries.get(first[2]):
            heappop(self._heap)
        return first[2]
