"""Simulated users who come to fail far more often than before, and the bet on the arm that has them. Pure.

It is that of the proxies' `watched_users`, of many rollouts at once and on a grid of times, and of
`verdict.failure_evidence`.
"""

import math
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flags.rollout.plan.stopping_times import Generator
from flags.rollout.plan.user_draws import added_up
from flags.rollout.verdict.e_processes import RatioNull, Vector

TIMES = 8.0
"""Times as many failures as before, of a user who counts, as the proxies' `watched_users` has it."""

KEPT = 0.8
"""The chance that a failure of the stream arm counts, likewise."""

LIMITS = (5.0, 7.0)
"""Natural logarithms of the odds at which a user counts, likewise."""

FEW = 0.1
"""Failures of a user between two times of the grid, on average: with fewer, each of them is drawn."""

_NULL = RatioNull.of_few()


@dataclass
class UserPasses:
    """Users by rollout, each with what is usual, a run of requests since, and the limits that were passed.

    Requests are as many as are expected; failures come by chance.
    """

    rng: Generator
    asks: Vector
    """Requests of each user between two looks."""
    fails: Vector
    """The part of them that fails, in no stream arm."""
    failed: Vector
    """As is usual, among `requests`: the history, at first."""
    requests: Vector
    together: float = 1.0
    """How many rollouts of these users are one of all users."""

    def __post_init__(self) -> None:
        self._run_failed, self._run = np.zeros_like(self.asks), np.zeros_like(self.asks)
        self._passed = np.zeros(self.asks.shape, dtype=int)
        self._logs = np.zeros((len(LIMITS), len(self.asks), len(_NULL.weights)))
        self.counted = np.zeros_like(self.asks)
        """Failures of each user that count, in all steps so far."""

    def passed(
        self,
        stream: NDArray[np.bool_],
        share: float,
        prior: tuple[Vector, Vector],
        ratio: float,
        times: Vector,
    ) -> tuple["UserPasses", Vector]:
        """Go on through a step; return what is then, and the log e-value by rollout and time.

        Args:
            stream: who is in the stream arm, whose part of all users is `share`.
            prior: failures, and requests, that what is known of all users is worth.
            ratio: times as many of the stream arm's requests fail.
            times: in looks since the step began, in order.
        """
        then = copy(self)
        then._logs = self._logs.copy()
        rate = self.asks * np.where(stream, KEPT * np.minimum(1.0, ratio * self.fails), self.fails)
        logs = [then._pass(stream, share, prior, rate, float(took)) for took in np.diff(times, prepend=0.0)]
        return then, np.stack(logs, axis=1)

    def _pass(
        self,
        stream: NDArray[np.bool_],
        share: float,
        prior: tuple[Vector, Vector],
        rate: Vector,
        looks: float,
    ) -> Vector:
        """Pass so many looks, and return the log e-value of each rollout."""
        self._run = self._run + self.asks * looks
        failed = _poisson(self.rng, rate * looks)
        self._run_failed, self.counted = self._run_failed + failed, self.counted + failed
        some = np.nonzero(self._run_failed)
        run, run_failed = self._run[some], self._run_failed[some]
        usual_failed, requests = (
            known[some] + of_all[some[0], 0] for known, of_all in zip(self._usual, prior, strict=True)
        )
        odds = run_failed * math.log(TIMES)
        odds -= (usual_failed + run_failed) * np.log((requests + TIMES * run) / (requests + run))
        self._count(stream, share, some, odds)
        as_usual = np.ones(self.asks.shape, dtype=bool)
        as_usual[some] = (odds <= 0) | (odds >= LIMITS[-1])
        self.failed = self.failed + self._run_failed * as_usual
        self.requests = self.requests + self._run * as_usual
        self._run_failed, self._run = self._run_failed * ~as_usual, self._run * ~as_usual
        return self.log

    @property
    def log(self) -> Vector:
        """The log e-value of each rollout now."""
        means = added_up(self._logs, self.together, axis=1) + _NULL.weights
        most = means.max(axis=(0, 2))
        found: Vector = most + np.log(np.exp(means - most[:, None]).sum(axis=(0, 2)) / len(LIMITS))
        return found

    @property
    def _usual(self) -> tuple[Vector, Vector]:
        return self.failed, self.requests

    def _count(
        self,
        stream: NDArray[np.bool_],
        share: float,
        some: tuple[NDArray[np.intp], ...],
        odds: Vector,
    ) -> None:
        """Count who passes a limit now, in which arm."""
        self._passed = self._passed.copy()
        for number, limit in enumerate(LIMITS):
            now = (odds >= limit) & (self._passed[some] <= number)
            if not now.any():
                continue
            rollout, user = (of[now] for of in some)
            self._passed[rollout, user] = number + 1
            counts = [
                np.bincount(rollout[of_arm], minlength=len(self.asks))[:, None]
                for of_arm in (stream[rollout, user], ~stream[rollout, user])
            ]
            self._logs[number] += _NULL.log_increments(counts[0], counts[1], share)


def _poisson(rng: Generator, means: Vector) -> Vector:
    """Return numbers of failures that have these means."""
    sums = means.cumsum()
    if sums[-1] > FEW * len(sums):
        found: Vector = rng.poisson(means).astype(float)
        return found
    where = np.searchsorted(sums, rng.random(rng.poisson(sums[-1])) * sums[-1], side="right")
    return np.bincount(where, minlength=len(sums))[: len(sums)].reshape(means.shape).astype(float)
