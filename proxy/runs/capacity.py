"""Bounds of runs in flight: their number on a route, and of one principal there; the bytes of all.

No I/O.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from proxy.downstream.bodies import KEPT_FOR_OTHERS
from proxy.settings.routes import Route

RUN_ANSWER_BYTES = 256 * 1024 * 1024
"""The default budget for the answers of all runs in flight."""

LAST = 8
"""With one in so many of these bytes left, no run begins: those in flight will want them."""

SHARE_OF_OTHERS = 4
"""One in so many of a route's `max_runs` is not for a principal that has all the others."""


class AnswerBudget:
    """The bytes of the answers that runs in flight have read, and of the live text that they have shown.

    A run that finds no room reads on when there is some: its upstream's call was made, and its answer must
    not be lost. One run at a time goes on without room, so that always one of them ends. In sum there are at
    most `max_bytes` and one answer.

    Args:
        max_bytes: of all of them; beyond three quarters a principal has no room.
        on_over: is called whenever there is no room.
    """

    def __init__(self, max_bytes: int = RUN_ANSWER_BYTES, on_over: Callable[[], None] = lambda: None) -> None:
        self._max_bytes = max_bytes
        self._on_over = on_over
        self._held_by: Counter[str | None] = Counter()
        self._waiting: dict[asyncio.Future[None], tuple[AnswerShare, int]] = {}
        """The shares that wait, in their order, and the bytes that each asks for. Then one is over."""
        self._least = 0
        """None of them asks for less."""
        self._over: AnswerShare | None = None
        """The one that goes on without room."""
        self.held = 0

    def share(self, principal: str | None) -> "AnswerShare":
        """A share of the budget for one run. The run's owner closes it."""
        return AnswerShare(self, principal)

    def has_room_for_run(self, principal: str | None) -> bool:
        """True if another run may begin."""
        return self.has_room(principal, self._max_bytes // LAST)

    def has_room(self, principal: str | None, size: int) -> bool:
        """True if so many bytes more fit in."""
        share = self._max_bytes - self._max_bytes // KEPT_FOR_OTHERS
        return self.held + size <= self._max_bytes and self._held_by[principal] + size <= share

    def take(self, share: "AnswerShare", size: int) -> bool:
        """Count the bytes, if they fit in."""
        if size and share is not self._over and not self.has_room(share.principal, size):
            self._on_over()
            return False
        self._add(share, size)
        return True

    async def wait(self, share: "AnswerShare", size: int) -> None:
        """Count the bytes, as soon as they fit in or it is this share's turn to go on without room."""
        if self._over is None:
            self._over = share
            self._add(share, size)
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._least = min(size, self._least) if self._waiting else size
        self._waiting[admitted] = (share, size)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.give_back(share, size)
            raise
        finally:
            self._waiting.pop(admitted, None)

    def give_back(self, share: "AnswerShare", size: int) -> None:
        self._add(share, -size)
        self._admit()

    def close(self, share: "AnswerShare") -> None:
        if self._over is share:
            self._over = None
        self.give_back(share, share.held)

    def _add(self, share: "AnswerShare", size: int) -> None:
        share.held += size
        self.held += size
        self._held_by[share.principal] += size
        if not self._held_by[share.principal]:
            del self._held_by[share.principal]

    def _admit(self) -> None:
        """Let those go on that can, in their order. They are looked at only while there is room for any."""
        going: list[asyncio.Future[None]] = []
        for admitted, (share, size) in self._waiting.items():
            if self._over is not None and self.held + self._least > self._max_bytes:
                break
            if admitted.done():  # its run has ended, and is about to say so
                continue
            if not self.has_room(share.principal, size):
                if self._over is not None:
                    continue
                self._over = share
            self._add(share, size)
            going.append(admitted)
        for admitted in going:
            del self._waiting[admitted]
            admitted.set_result(None)


class AnswerShare:
    """One run's share of the budget."""

    __slots__ = ("_budget", "held", "principal")

    def __init__(self, budget: AnswerBudget, principal: str | None) -> None:
        self._budget = budget
        self.principal = principal
        self.held = 0

    async def take(self, size: int) -> None:
        """Count bytes of an answer, which must be read. Waits until there is room for them."""
        if not self._budget.take(self, size):
            await self._budget.wait(self, size)

    def take_now(self, size: int) -> bool:
        """Count bytes that the run can do without. False: there is no room, and nothing was counted."""
        return self._budget.take(self, size)

    def give_back(self, size: int) -> None:
        self._budget.give_back(self, size)

    def close(self) -> None:
        """Give all bytes back. Idempotent."""
        self._budget.close(self)


class Capacity:
    """The runs of this process that are in flight, or about to begin. None as a principal is nobody."""

    def __init__(self, answers: AnswerBudget) -> None:
        self.answers = answers
        self._on_route: Counter[str] = Counter()
        self._of_principal: Counter[tuple[str | None, str]] = Counter()

    def take(self, route: str, principal: str | None) -> None:
        """One more run."""
        self._on_route[route] += 1
        self._of_principal[principal, route] += 1

    def give_back(self, route: str, principal: str | None) -> None:
        """Give the place back: the run is over, or did not begin."""
        _decrease(self._on_route, route)
        _decrease(self._of_principal, (principal, route))

    def has_room(self, route: Route, principal: str | None) -> bool:
        """True if the route may have another one, of any principal, and there is room for its answer."""
        return self._on_route[route.name] < route.settings.max_runs and self.answers.has_room_for_run(
            principal
        )

    def has_share(self, route: Route, principal: str | None) -> bool:
        """True if the principal may have another one there. It leaves some of the room to the others."""
        most = route.settings.max_runs
        return self._of_principal[principal, route.name] < most - most // SHARE_OF_OTHERS

    def is_used_by(self, principal: str, route: str) -> bool:
        """True if the principal has any there."""
        return (principal, route) in self._of_principal


def _decrease(counts: Counter[Any], key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
