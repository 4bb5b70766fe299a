"""Viewers that wait for a run which is not there yet: a page may ask for its events first."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

MAX_WAITING = 1000
"""Viewers that may wait; all others are told at once that there is no such run."""

MAX_WAITING_OF_ONE = 20
"""Waiting viewers of one principal: nobody can take all places, or keep the store busy."""


class Waiters:
    """Viewers by the run of this process they wait for. A run of another replica has to be polled for.

    An id is that of one principal: who waits for its own run is told of no other one's.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], set[asyncio.Future[bool]]] = {}
        """Waiters by their principal and the run's id."""
        self._places: Counter[str] = Counter()
        self._taken = 0

    def __len__(self) -> int:
        return self._taken

    def has_room(self, principal: str) -> bool:
        """True if one more of this principal may wait."""
        return len(self) < MAX_WAITING and self._places[principal] < MAX_WAITING_OF_ONE

    @contextmanager
    def awaited(self, run_id: str, principal: str) -> Iterator[asyncio.Future[bool]]:
        """Wait for a run, by a future that is done when it begins here; False: it does not begin at all."""
        arrived: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault((principal, run_id), set())
        waiting.add(arrived)
        self._places[principal] += 1
        self._taken += 1
        try:
            yield arrived
        finally:
            self._taken -= 1
            self._places[principal] -= 1
            if not self._places[principal]:
                del self._places[principal]
            waiting.discard(arrived)
            if not waiting and self._waiting.get((principal, run_id)) is waiting:
                del self._waiting[principal, run_id]

    def announce(self, run_id: str, principal: str) -> None:
        """The run of this principal begins here."""
        for arrived in self._waiting.pop((principal, run_id), ()):
            if not arrived.done():
                arrived.set_result(True)

    def call_off(self, run_id: str, principal: str) -> None:
        """The run of this principal does not begin."""
        for arrived in self._waiting.get((principal, run_id), ()):
            if not arrived.done():
                arrived.set_result(False)
