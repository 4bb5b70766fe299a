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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from flags.decision import Arm
from proxy.observe.users.histories import AT_ONCE, CANDIDATES, FORGOTTEN_S, MAX_HISTORIES, MOST_REQUESTS, UNIT

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
class Ended:
    """Requests of one user that ended alike, one after another."""

    user: bytes
    """The user's keyed hash."""
    arm: Arm
    failed: bool
    """They count as failures."""
    requests: int
    expected: float
    """Failures that were expected of them, as requests of a compared arm."""
    answers: int
    """Of the rest, whose seconds are usual."""
    log_seconds: float
    """Sum of the logarithms of these."""


@dataclass(slots=True)
class Watched:
    """One user."""

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


@dataclass(slots=True)
class OfAll:
    """What is known beside single users."""

    rollout: int = 1
    compared_s: float = -math.inf
    """Unix time of the last request of a compared arm."""
    answers: int = 0
    log_seconds: float = 0.0


class WatchedUsers:
    """Users of one route, the one that was seen longest ago first.

    The same requests in the same order give the same, in whatever process.
    """

    def __init__(self, *, max_users: int = MAX_WATCHED) -> None:
        self._max = max_users
        self._by_user: dict[bytes, Watched] = {}
        self.of_all = OfAll()

    def __len__(self) -> int:
        return len(self._by_user)

    def __iter__(self) -> Iterator[tuple[bytes, Watched]]:
        return iter(self._by_user.items())

    def begin_again(self, of_all: OfAll, users: Iterable[tuple[bytes, Watched]]) -> Iterator[None]:
        """Forget all, and take over these, in steps."""
        self._by_user.clear()
        self.of_all = of_all
        for user, watched in users:
            self._by_user[user] = watched
            yield

    def weight(self, user: bytes, waiting: float = 0.0) -> float:
        """The weight of a request of a compared arm, above 0 and at most 1.

        Args:
            waiting: failures that were expected of the user's requests which were not added yet.
        """
        watched = self._by_user.get(user)
        expected = waiting if watched is None else waiting + watched.expected
        return exact(HALF_AFTER / (HALF_AFTER + expected))

    def is_slow(self, user: bytes, seconds: float) -> bool:
        """True if an answer took longer than is usual for its user. The usual time is learned in the rest, as
        histories are: of neither compared arm."""
        of_all, watched = self.of_all, self._by_user.get(user)
        if not of_all.answers:
            return False
        usual, answers = USUAL_ANSWERS * of_all.log_seconds / of_all.answers, USUAL_ANSWERS
        if watched is not None:
            usual, answers = usual + watched.log_seconds, answers + watched.answers
        return log_of(seconds) > usual / answers + math.log(SLOWER)

    def add(self, ended: Ended, now_s: float, prior: tuple[float, float]) -> Iterator[float]:
        """Add requests; yield the limits that their user passes by them, each once in a rollout.

        The same rule holds in all arms, whatever the arm: else the arm of who passes would not be chance.

        Args:
            now_s: Unix time.
            prior: failures, and requests, that what is known of all users is worth.
        """
        watched, of_all = self._watched(ended.user, now_s), self.of_all
        if ended.arm is not Arm.REST:
            if now_s - of_all.compared_s > QUIET_S:
                of_all.rollout += 1
            of_all.compared_s = now_s
        if watched.rollout != of_all.rollout:
            watched.rollout, watched.passed = of_all.rollout, 0
        watched.expected += ended.expected
        watched.answers, watched.log_seconds = (
            watched.answers + ended.answers,
            watched.log_seconds + ended.log_seconds,
        )
        of_all.answers, of_all.log_seconds = (
            of_all.answers + ended.answers,
            of_all.log_seconds + ended.log_seconds,
        )
        for _ in range(ended.requests):
            watched.run_requests += 1
            watched.run_failed += ended.failed
            odds = _odds(watched, prior)
            if not 0 < odds < LIMITS[-1]:
                _settle(watched)
            while watched.passed < len(LIMITS) and odds >= LIMITS[watched.passed]:
                watched.passed += 1
                yield LIMITS[watched.passed - 1]

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's. Nobody was seen later than now."""
        for user, watched in list(self._by_user.items()):
            watched.seen_s = min(watched.seen_s, now_s)
            if now_s - watched.seen_s > FORGOTTEN_S:
                del self._by_user[user]

    def _watched(self, user: bytes, now_s: float) -> Watched:
        watched = self._by_user.pop(user, None)
        if watched is None:
            if len(self._by_user) >= self._max:
                self._make_room()
            watched = Watched(now_s)
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


def log_of(seconds: float) -> float:
    """The logarithm of a time, which may be 0."""
    return math.log(max(seconds, 1e-6))


def exact(amount: float) -> float:
    """The amount as a multiple of `UNIT`, and at least one: sums are exact, whatever process adds them up."""
    return max(1.0, round(amount / UNIT)) * UNIT


def _odds(watched: Watched, prior: tuple[float, float]) -> float:
    """The logarithm of the odds of a run of failures: `TIMES` as many as is usual for the user, and as many.

    The user's rate is unknown, and has the gamma distribution of what was usual so far.
    """
    failed, requests = watched.failed + prior[0], watched.requests + prior[1]
    run = watched.run_requests
    at_most = math.log((requests + TIMES * run) / (requests + run))
    return watched.run_failed * math.log(TIMES) - (failed + watched.run_failed) * at_most


def _settle(watched: Watched) -> None:
    """The run was as usual, or has counted: it is a part of what is usual from now on."""
    watched.failed += watched.run_failed
    watched.requests += watched.run_requests
    watched.run_failed = watched.run_requests = 0
    while watched.requests >= MOST_REQUESTS:
        watched.requests, watched.failed = watched.requests // 2, watched.failed // 2
