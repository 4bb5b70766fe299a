"""The watched users of one route, of this process or of all that share a store. No I/O.

Whether a user has become worse depends on the order of the user's requests. So processes that share a store
put what requests say into a log, and add it in the order of the log: all of them come to the same. A user who
passes a limit is counted by the process whose request it was, and by no other one.

By itself a process adds a request when it ends. It does so without a store, and when the store was away for
`ALONE_S`: as if there were none.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from flags.decision import Arm
from proxy.observe.users.waiting import MOST_ALIKE, Waiting
from proxy.observe.users.watched_users import (
    KEPT,
    LIMITS,
    MAX_WATCHED,
    Ended,
    OfAll,
    Watched,
    WatchedUsers,
    log_of,
)

ALONE_S = 60.0
"""The store is away for so long before users are counted by each process."""

ALONE_SHOWN_S = 3600.0
"""For so long afterwards it is said, so that each look at the metrics meets it."""

Count = Callable[[Arm, float], None]
"""Counts a user of this arm who has passed this limit."""


class EndedBatch(NamedTuple):
    """What ended at one process, one after another."""

    prior: tuple[float, float]
    """Failures and requests that what it knows of all users is worth."""
    ended: Sequence[Ended]


class Said(NamedTuple):
    """What a request says, once it has ended."""

    weight: float
    """Above 0, at most 1."""
    slow: bool
    """Its answer took longer than is usual for its user."""
    passed: Sequence[float]
    """Limits that its user passes by it, where this process counts alone."""


class Known(NamedTuple):
    """All that the log says up to one of its entries."""

    group: int
    """A number by chance, other than 0: of the processes that go by this log."""
    of_all: OfAll
    users: Iterable[tuple[bytes, Watched]]


class UserWatch:
    """Watches users.

    Args:
        count: is told of each user who passes a limit by a request of this process, as the log has it.
        chance: gives random numbers from 0 to 1.
    """

    def __init__(self, count: Count, chance: random.Random | None = None) -> None:
        self._count = count
        self._chance = random.Random() if chance is None else chance
        self._users = WatchedUsers()
        self._prior = (1.0, 100.0)
        self._group = 0
        self._alone = True
        self._alone_until = 0.0
        self._waiting = Waiting(_join)
        """Where there is no room requests count in no run of failures, whatever their arm."""
        self._expected: dict[bytes, float] = {}
        """Of requests that ended here and were not added yet."""
        self._counted: dict[bytes, int] = {}
        """Users who were counted alone, though a log may be there: so many limits, in this rollout."""
        self._rollout = 0

    def __len__(self) -> int:
        return len(self._users)

    def ended(
        self,
        user: bytes,
        now_s: float,
        arm: Arm,
        prior: tuple[float, float],
        *,
        failed: bool,
        seconds: float,
        expected: float,
    ) -> Said:
        """A request has ended.

        Args:
            now_s: Unix time.
            prior: failures, and requests, that what is known of all users is worth.
            seconds: until its end.
            expected: the chance that it fails.
        """
        self._prior = prior
        weight = self._users.weight(user, self._expected.get(user, 0.0))
        slow = not failed and self._users.is_slow(user, seconds)
        learned = arm is Arm.REST and not failed
        ended = Ended(
            user,
            arm,
            failed and (arm is not Arm.STREAM or self._chance.random() < KEPT),
            1,
            0.0 if arm is Arm.REST else expected,
            int(learned),
            log_of(seconds) if learned else 0.0,
        )
        if self._alone:
            return Said(weight, slow, tuple(self._add_alone(ended, now_s)))
        self._wait(ended)
        return Said(weight, slow, ())

    def group(self, now_s: float) -> int:
        """The number of those who count users together; 0: this process counts alone, or did so lately."""
        return 0 if self._alone or now_s < self._alone_until else self._group

    def share(self) -> None:
        """What ends from now on waits for the log."""
        self._alone = False

    def leave(self, now_s: float) -> None:
        """There is no log now: go on alone, with what has waited. Times are Unix's."""
        self._alone, self._alone_until = True, now_s + ALONE_SHOWN_S
        self._expected.clear()
        for ended in self._waiting.leave():
            for limit in self._add_alone(ended, now_s):
                self._count(ended.arm, limit)

    def take(self, most: int) -> EndedBatch:
        """So much, at most, of what ended here and was not taken before."""
        return EndedBatch(self._prior, self._waiting.take(most))

    def merge(self, batch: EndedBatch, at_s: float, *, mine: bool) -> Iterator[None]:
        """Add the next batch of the log, in steps. `at_s` is its Unix time, the same for all."""
        if mine:
            self._waiting.arrived(len(batch.ended))
        for ended in batch.ended:
            for limit in self._users.add(ended, at_s, batch.prior):
                if mine and LIMITS.index(limit) >= self._counted_alone(ended.user):
                    self._count(ended.arm, limit)
            if mine and ended.expected:
                left = self._expected.pop(ended.user, 0.0) - ended.expected
                if left > 0:
                    self._expected[ended.user] = left
            yield

    def begin_again(self, known: Known) -> Iterator[None]:
        """Go by the log, of which this is known; merge what follows. What waits goes on waiting."""
        self._alone, self._group = False, known.group
        self._waiting.begin_again()  # what the log has of it is merged now
        yield from self._users.begin_again(known.of_all, known.users)

    def known(self) -> Known:
        """All that was added by now. Whoever knows of no log begins one."""
        self._group = self._group or self._chance.randrange(1, 1 << 32)
        return Known(self._group, self._users.of_all, self._users)

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's."""
        self._users.forget(now_s)

    def _add_alone(self, ended: Ended, now_s: float) -> Iterator[float]:
        for limit in self._users.add(ended, now_s, self._prior):
            if self._counted_alone(ended.user) or len(self._counted) < MAX_WATCHED:
                self._counted[ended.user] = LIMITS.index(limit) + 1
            yield limit

    def _counted_alone(self, user: bytes) -> int:
        if self._rollout != self._users.of_all.rollout:
            self._rollout = self._users.of_all.rollout
            self._counted.clear()
        return self._counted.get(user, 0)

    def _wait(self, ended: Ended) -> None:
        if self._waiting.add(ended.user, ended) and ended.expected:
            self._expected[ended.user] = self._expected.get(ended.user, 0.0) + ended.expected


def _join(last: Ended, ended: Ended) -> bool:
    if (last.arm, last.failed) != (ended.arm, ended.failed) or last.requests >= MOST_ALIKE:
        return False
    last.requests += 1
    last.expected += ended.expected
    last.answers += ended.answers
    last.log_seconds += ended.log_seconds
    return True
