"""The evidence of one user beside the history: weights of failures, a run of failures, slow answers. Pure.

Evidence is about users: a hundred failures of one user are one user's. So three things are about one user.

* A request weighs less, the more failures were expected of its user since the arms are compared: a user who
  makes half of the traffic is not half of the evidence.
* A user who fails far more often than before counts once for each of `LIMITS`, in whichever arm. Under "no
  harm" it is chance, by the share of the flag, which arm has this user.
* An answer is slow if it took `SLOWER` times what is usual for its user.

No clock, no I/O, no user: a user has a keyed hash.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from flags.decision import Arm
from proxy.observe.histories import AT_ONCE, CANDIDATES, FORGOTTEN_S, MAX_HISTORIES, MOST_REQUESTS, UNIT

MAX_WATCHED = MAX_HISTORIES
"""Users of one route, about 8 MB."""

HALF_AFTER = 2.0
"""Expected failures of a user after which a request weighs half. By generalised least squares that is best
where what is left unexplained of users' rates has a squared coefficient of variation of its inverse."""

TIMES = 8.0
"""Times as many failures as before, of a user who counts as worse."""

LIMITS = (5.0, 7.0)
"""Natural logarithms of the odds at which a user counts: `TIMES` as many failures as before, and as many."""

KEPT = 0.8
"""The chance that a failure of the stream arm counts for a user: up to 1/KEPT times as many failures are then
no more than those of the other arms."""

QUIET_S = 24 * 3600.0
"""After so long without a request of a compared arm a rollout is a new one, in which users count anew."""

SLOWER = 1.5
"""Times a user's usual time."""

USUAL_ANSWERS = 5.0
"""Answers that the usual time of all is worth, beside a user's own."""


@dataclass(slots=True)
class _Watched:
    seen_s: float
    failed: int = 0
    """As is usual for the user, among `requests`."""
    requests: int = 0
    run_failed: int = 0
    """Failures since they were last as usual, among `run_requests`."""
    run_requests: int = 0
    rollout: int = 0
    passed: int = 0
    """Limits that were passed in that rollout."""
    expected: float = 0.0
    """Failures, since the user came into a compared arm."""
    answers: int = 0
    log_seconds: float = 0.0
    """Sum of the logarithms of their seconds."""


class WatchedUsers:
    """Users of one route, the one that was seen longest ago first.

    Args:
        chance: gives random numbers from 0 to 1.
    """

    def __init__(self, chance: random.Random | None = None, *, max_users: int = MAX_WATCHED) -> None:
        self._chance = random.Random() if chance is None else chance
        self._max = max_users
        self._by_user: dict[bytes, _Watched] = {}
        self._rollout = 1
        self._compared_s = -math.inf
        self._answers, self._log_seconds = 0, 0.0

    def __len__(self) -> int:
        return len(self._by_user)

    def weight(self, user: bytes, now_s: float, expected: float) -> float:
        """The weight of a request of a compared arm, above 0 and at most 1. What is expected of it makes that
        of the next one smaller."""
        watched = self._watched(user, now_s)
        weight = HALF_AFTER / (HALF_AFTER + watched.expected)
        watched.expected += expected
        return exact(weight)

    def passes(
        self, user: bytes, now_s: float, arm: Arm, prior: tuple[float, float], *, failed: bool
    ) -> Iterator[float]:
        """Yield the limits that the user passes by this request, each once in a rollout. Times are Unix's.

        The same rule holds in all arms, whatever the arm: else the arm of who passes would not be chance.

        Args:
            prior: failures, and requests, that what is known of all users is worth.
        """
        watched = self._watched(user, now_s)
        if arm is not Arm.REST:
            if now_s - self._compared_s > QUIET_S:
                self._rollout += 1
            self._compared_s = now_s
        if watched.rollout != self._rollout:
            watched.rollout, watched.passed = self._rollout, 0
        watched.run_requests += 1
        if failed and (arm is not Arm.STREAM or self._chance.random() < KEPT):
            watched.run_failed += 1
        odds = _odds(watched, prior)
        if not 0 < odds < LIMITS[-1]:
            _settle(watched)
        while watched.passed < len(LIMITS) and odds >= LIMITS[watched.passed]:
            watched.passed += 1
            yield LIMITS[watched.passed - 1]

    def is_slow(self, user: bytes, now_s: float, arm: Arm, seconds: float) -> bool:
        """True if an answer took longer than is usual for its user. The usual time is learned in the rest, as
        histories are: of neither compared arm."""
        watched = self._watched(user, now_s)
        took = math.log(max(seconds, 1e-6))
        slow = False
        if self._answers:
            usual = USUAL_ANSWERS * self._log_seconds / self._answers
            usual = (watched.log_seconds + usual) / (watched.answers + USUAL_ANSWERS)
            slow = took > usual + math.log(SLOWER)
        if arm is Arm.REST:
            watched.answers, watched.log_seconds = watched.answers + 1, watched.log_seconds + took
            self._answers, self._log_seconds = self._answers + 1, self._log_seconds + took
        return slow

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's."""
        old = [user for user, watched in self._by_user.items() if now_s - watched.seen_s > FORGOTTEN_S]
        for user in old:
            del self._by_user[user]

    def _watched(self, user: bytes, now_s: float) -> _Watched:
        watched = self._by_user.pop(user, None)
        if watched is None:
            if len(self._by_user) >= self._max:
                self._make_room()
            watched = _Watched(now_s)
        watched.seen_s = now_s
        self._by_user[user] = watched
        return watched

    def _make_room(self) -> None:
        # As with histories: a flood of names that ask once drives out names that asked once.
        number = max(1, int(self._max * AT_ONCE))
        oldest = list(islice(self._by_user, number * CANDIDATES))
        shortest = set(sorted(oldest, key=lambda user: self._by_user[user].requests)[:number])
        for user in oldest:
            watched = self._by_user.pop(user)
            if user not in shortest:
                self._by_user[user] = watched


def exact(amount: float) -> float:
    """The amount as a multiple of `UNIT`, and at least one: sums are exact, whatever process adds them up."""
    return max(1.0, round(amount / UNIT)) * UNIT


def _odds(watched: _Watched, prior: tuple[float, float]) -> float:
    """The logarithm of the odds of a run of failures: `TIMES` as many as is usual for the user, and as many.

    The user's rate is unknown, and has the gamma distribution of what was usual so far.
    """
    failed, requests = watched.failed + prior[0], watched.requests + prior[1]
    run = watched.run_requests
    at_most = math.log((requests + TIMES * run) / (requests + run))
    return watched.run_failed * math.log(TIMES) - (failed + watched.run_failed) * at_most


def _settle(watched: _Watched) -> None:
    """The run was as usual, or has counted: it is a part of what is usual from now on."""
    watched.failed += watched.run_failed
    watched.requests += watched.run_requests
    watched.run_failed = watched.run_requests = 0
    if watched.requests >= MOST_REQUESTS:
        watched.requests, watched.failed = watched.requests // 2, watched.failed // 2
