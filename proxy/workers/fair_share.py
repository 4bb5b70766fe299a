"""How many connections each worker has, in memory that all of them see, and who is over its share.

All workers accept on one socket, and the kernel gives a connection to whoever is awake first. So a worker
that is over its share leaves new ones to the others, for a moment: see `servers.py`. Nobody waits for one
that is blocked, dead or about to start: no connection is meant for it.
"""

import heapq
import mmap
from collections.abc import Callable, Iterator
from typing import Final

MAX_PROCESSES = 256
"""Workers, candidates of a reload, and those that drain; more of them are not counted."""

PORTS: Final = 2
"""The public port, and the model port."""

SLACK: Final = 0.125
"""Of the mean, that a worker may have more than the mean; and one connection."""

_USED: Final = -1
"""The last cell: how many numbers were ever given out at a time. No cell behind these need be looked at."""

_ABSENT: Final = -1
"""The process does not accept, or there is none."""


class FairShare:
    """One process's connections on one port, beside those of the others."""

    def __init__(self, cells: memoryview, at: int) -> None:
        self._cells = cells
        self._at = at

    def has(self, connections: int | None) -> None:
        """Show how many there are; None: the process does not accept any more."""
        self._cells[self._at] = _ABSENT if connections is None else connections

    def is_over(self, connections: int) -> bool:
        """True if the process would have more than its share, with so many."""
        if self._cells[_USED] < 2:
            return False  # it is alone
        end = PORTS * self._cells[_USED]
        others = [count for count in self._cells[self._at % PORTS : end : PORTS] if count != _ABSENT]
        mean = sum(others) / len(others) if others else 0
        return len(others) > 1 and connections - mean > max(1, SLACK * mean)


class ShownConnections:
    """One process's open connections on one port, whose number the others see while it accepts.

    uvicorn's server takes it for its own set of them.

    Args:
        on_over: is called for each new connection with which the process has more than its share.
    """

    __slots__ = ("_is_shown", "_on_over", "_open", "_share")

    def __init__(self, share: FairShare, on_over: Callable[[], None]) -> None:
        self._share = share
        self._on_over = on_over
        self._open: set[object] = set()
        self._is_shown = True

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[object]:
        return iter(self._open)

    def add(self, connection: object) -> None:
        self._open.add(connection)
        if self._is_shown:
            count = len(self._open)
            self._share.has(count)
            if self._share.is_over(count):
                self._on_over()

    def discard(self, connection: object) -> None:
        self._open.discard(connection)
        if self._is_shown:
            self._share.has(len(self._open))

    def show(self) -> None:
        """The process has begun to accept."""
        self._share.has(len(self._open))

    def hide(self) -> None:
        """It does not accept any more. Idempotent."""
        self._is_shown = False
        self._share.has(None)


class FairShares:
    """Those of all processes; made before the first one is forked."""

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, 4 * (PORTS * MAX_PROCESSES + 1))).cast("i")
        self._free = list(range(MAX_PROCESSES))
        for at in range(PORTS * MAX_PROCESSES):
            self._cells[at] = _ABSENT

    def take(self) -> int | None:
        """A number for a process, until `give_back`; None: there are too many."""
        if not self._free:
            return None
        number = heapq.heappop(self._free)
        self._cells[_USED] = max(self._cells[_USED], number + 1)
        return number

    def give_back(self, number: int | None) -> None:
        """The process is dead."""
        if number is not None:
            for share in self.of(number):
                share.has(None)
            heapq.heappush(self._free, number)

    def of(self, number: int) -> list[FairShare]:
        """The shares of a process, of each port."""
        return [FairShare(self._cells, number * PORTS + port) for port in range(PORTS)]
