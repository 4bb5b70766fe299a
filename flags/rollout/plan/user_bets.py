"""The bets that look at simulated users one by one: on those who are worse, and on the flag's draw. Pure.

The same failures befall users in both. A rollout goes on in its step as far as it is asked for, and no
further.
"""

import math
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flags.rollout.plan.user_draws import UserDraws
from flags.rollout.plan.user_passes import UserPasses
from flags.rollout.verdict.draw_evidence import time_of
from flags.rollout.verdict.e_processes import Vector
from flags.rollout.verdict.failure_evidence import STAKES

NEAR = 0.12
"""Of times, by their logarithms."""

MOST_LOOKS = 6
"""At the draw, in a step: later ones have less than 1/32 of its stake."""


@dataclass(frozen=True, slots=True)
class WatchedStep:
    """A step, and what is true in it."""

    stream: NDArray[np.bool_]
    """Who is in the stream arm."""
    share: float
    """Its part of all users, 0 to 1."""
    shortest: float
    """Its shortest time, in looks."""
    prior: tuple[Vector, Vector]
    """Failures, and requests, that what is known of all users is worth."""
    ratio: float
    """Times as many of the stream arm's requests fail."""


class UserBets:
    """Both bets, of many rollouts at once, from the first step on."""

    _step: WatchedStep
    _look: int  # the next one at the draw
    _drawn: list[float]  # when there are looks at the draw in this step
    _ahead: list[float]  # when there are looks at anything, still to come

    def __init__(self, passes: UserPasses, draws: UserDraws) -> None:
        self._passes, self._draws = passes, draws
        self._began = 0.0  # looks of the rollout before this step
        self._seen, self._logs = [0.0], [self._log]

    def entered(self, step: WatchedStep, times: Vector) -> "UserBets":
        """Return what is when a step begins.

        Args:
            times: in looks since the step began, at which users who are worse are counted.
        """
        looks = [time_of(look) * step.shortest for look in range(MOST_LOOKS)]
        then = copy(self)
        then._step, then._look, then._began = step, 0, self._began + self._seen[-1]
        then._draws = self._draws.entered(
            step.stream, step.share, step.prior, then._began, self._passes.counted
        )
        then._seen, then._logs = [0.0], [self._log]
        then._drawn = [at for at in looks if at <= times[-1]]
        # A look at the draw takes the place of times near it.
        apart = [at for at in times if all(abs(math.log(at / look)) > NEAR for look in then._drawn)]
        then._ahead = sorted({*apart, *then._drawn, times[-1]})
        return then

    def won(self, times: Vector) -> Vector:
        """Go on to the last of these times, in looks since the step began; return the logarithm of what both
        bets have won with their stakes, by rollout and time."""
        while self._ahead and self._ahead[0] <= times[-1]:
            until = min([float(times[-1]), *self._drawn[self._look : self._look + 1]])
            self._go_on([at for at in self._ahead if at <= until])
            self._ahead = [at for at in self._ahead if at > until]
        logs: Vector = np.stack(self._logs, axis=1)[:, np.searchsorted(self._seen, times, side="right") - 1]
        return logs

    def _go_on(self, times: list[float]) -> None:
        """Go on to a look at the draw, or less far."""
        step, since = self._step, np.array(times) - self._seen[-1]
        self._passes, logs = self._passes.passed(step.stream, step.share, step.prior, step.ratio, since)
        won = np.logaddexp(math.log(STAKES.by_users) + logs, self.by_draw[:, None])
        self._seen += times
        self._logs += list(won.T)
        if times[-1] in self._drawn:
            self._draws = self._draws.looked(self._look, self._began + times[-1], self._passes.counted)
            self._look += 1
            self._logs[-1] = self._log

    @property
    def by_draw(self) -> Vector:
        """The logarithm of what the draw has won with its stake; minus infinity before it is looked at."""
        found: Vector = math.log(STAKES.by_draw) + self._draws.log
        return found

    @property
    def _log(self) -> Vector:
        by_users: Vector = math.log(STAKES.by_users) + self._passes.log
        return np.logaddexp(by_users, self.by_draw)
