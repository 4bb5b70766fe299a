"""What requests say at one process, until the log that processes share has it. No I/O.

It is in the order in which it was said, but that of one user what is alike, one after another, is one entry.
"""

from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from proxy.observe.users.histories import MAX_CHANGED

MAX_WAITING = MAX_CHANGED
"""Entries of one route, about 3 MB."""

MOST_ALIKE = 10_000
"""Requests that are one entry."""

Entry = TypeVar("Entry")


class Waiting(Generic[Entry]):
    """Entries that wait, and those on their way into the log.

    Args:
        join: adds the second entry to the first one; False: they are not alike, or are too many.
    """

    def __init__(self, join: Callable[[Entry, Entry], bool]) -> None:
        self._join = join
        self._waiting: list[tuple[bytes, Entry]] = []
        self._taken: list[Entry] = []
        """Not read in the log yet."""
        self._last: dict[bytes, Entry] = {}
        """Of a user, what waits and may still become more."""

    def add(self, user: bytes, entry: Entry) -> bool:
        """Let an entry wait; False: there is no room."""
        last = self._last.get(user)
        if last is not None and self._join(last, entry):
            return True
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append((user, entry))
        self._last[user] = entry
        return True

    def take(self, most: int) -> list[Entry]:
        """So many entries, at most, that were not taken before."""
        taken = list(islice(self._waiting, most))
        del self._waiting[: len(taken)]
        for user, entry in taken:
            if self._last.get(user) is entry:
                del self._last[user]
        entries = [entry for _, entry in taken]
        self._taken += entries
        return entries

    def arrived(self, number: int) -> None:
        """So many of what was taken have been read in the log."""
        del self._taken[:number]

    def begin_again(self) -> None:
        """What was taken is in the log, or is lost."""
        self._taken.clear()

    def leave(self) -> list[Entry]:
        """There is no log now: give back all."""
        left = [*self._taken, *(entry for _, entry in self._waiting)]
        self._taken, self._waiting = [], []
        self._last.clear()
        return left
