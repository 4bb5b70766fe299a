"""Simulated draws of users by a flag, and how much likelier harm makes them. Pure.

It is the bet of the proxies' `draws` and of `verdict.draw_evidence`, of many rollouts at once. Requests are
as many as are expected, so what a user asked since some time is in proportion to that time.
"""

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flags.rollout.verdict.draw_evidence import HARMS as STAKES
from flags.rollout.verdict.draw_evidence import stake_of
from flags.rollout.verdict.e_processes import Vector

HARMS: Mapping[str, tuple[float, float, bool]] = {
    "few": (0.1, 12.0, False),
    "all": (1.0, 2.4, False),
    "late": (1.0, 2.4, True),
}
"""What streaming may do: to which part of users, how many times as many failures these have then, and whether
since the latest share only, as the proxies' `draws` has it."""

TRUSTED = 0.6
"""The part of users whose rate is taken to be still what it was, likewise."""

Single = NDArray[np.float32]
"""So exact that what hundreds of users add is exact to a thousandth, for half of the time."""

_MOST = 80.0  # of a logarithm: its exponential is a number, in single precision


@dataclass(frozen=True, slots=True)
class _Rates:
    """Gamma distributions that users' rates may have, by what was known before the rollout."""

    likely: Vector
    """All of the logarithm of how likely each is that does not depend on the rollout."""
    shape: Vector
    requests: Vector

    @classmethod
    def of(cls, trusted: float, shape: Vector, requests: Vector) -> "_Rates":
        likely = math.log(trusted) - _log_gamma(shape) + shape * np.log(requests)
        return cls(likely, shape, requests)

    def after(self, requests: Vector, failed: Vector) -> "_Rates":
        """Return what they are by so many requests and failures more."""
        shape, every = self.shape + failed, self.requests + requests
        return _Rates(self.likely + _log_gamma(shape) - shape * np.log(every), shape, every)


@dataclass
class UserDraws:
    """Users by rollout, each with a history and with the share at which the flag drew the user."""

    asks: Vector
    """Requests of each user between two looks."""
    failed: Vector
    """Before the rollout, among `requests`."""
    requests: Vector
    steps: int
    """Of the policy. They have the same part of the stake."""
    together: float = 1.0
    """How many rollouts of these users are one of all users."""
    log: Vector = field(init=False)
    """The logarithm of all that looks have won in each rollout; minus infinity before the first one."""

    def __post_init__(self) -> None:
        self.log = np.full(len(self.asks), -np.inf)
        self._shares: list[float] = []
        self._began: list[tuple[float, Vector]] = []  # looks and each user's failures until then, by share
        self._drew: list[NDArray[np.bool_]] = []  # whom the flag drew at this share
        self._before: list[_Rates] = []

    def entered(
        self,
        stream: NDArray[np.bool_],
        share: float,
        prior: tuple[Vector, Vector],
        at: float,
        failed: Vector,
    ) -> "UserDraws":
        """Return what is when a step begins, so many looks and failures after the rollout began.

        Args:
            stream: who is in the stream arm, whose part of all users is `share`.
            prior: failures, and requests, that what is known of all users is worth.
            failed: those of each user that count.
        """
        then = copy(self)
        then._before = [
            _Rates.of(TRUSTED, self.failed + prior[0], self.requests + prior[1]),
            _Rates.of(1 - TRUSTED, *prior),
        ]
        if not self._shares or share > self._shares[-1]:
            new = stream & ~np.any(self._drew, axis=0) if self._drew else stream
            then._shares, then._drew = [*self._shares, share], [*self._drew, new]
            then._began = [*self._began, (at, failed)]
        return then

    def looked(self, look: int, at: float, failed: Vector) -> "UserDraws":
        """Return what is after this look of the step, so many looks and failures after the rollout began."""
        then = copy(self)
        of_look = stake_of(look) / self.steps
        for harm, found in self.evidence(at, failed).items():
            log = added_up(found, self.together)
            then.log = np.logaddexp(then.log, math.log(of_look * STAKES[harm]) + log)
        return then

    def evidence(self, at: float, failed: Vector) -> dict[str, Vector]:
        """Return the log likelihood ratio of each rollout, by harm."""
        rates = [before.after(self.asks * at, failed) for before in self._before]
        every = np.logaddexp(rates[0].likely, rates[1].likely)
        known = [
            (_single(rate.likely - every), _single(rate.shape), _single(self.asks / rate.requests))
            for rate in rates
        ]
        since = [(at - began, _single(failed - before)) for began, before in self._began]
        parts = [each - before for before, each in pairwise((0.0, *self._shares))]
        found = {}
        for harm, (part, times, is_late) in HARMS.items():
            own, mean = _single(np.ones_like(every)), _single(np.full_like(every, 1 - self._shares[-1]))
            cases = list(zip(since, parts, self._drew, strict=True))
            if is_late:
                cases = [(since[-1], self._shares[-1], np.any(self._drew, axis=0))]
            for (looks, failed_after), of_all, drew in cases:
                more = failed_after * np.float32(math.log(times)) + np.float32(math.log(part))
                ratio = np.full_like(own, 1 - part)
                for likely, shape, asks in known:
                    log = asks * np.float32((times - 1) * looks)
                    log += 1
                    np.log(log, out=log)
                    log *= shape
                    np.subtract(likely, log, out=log)
                    log += more
                    ratio += np.exp(np.minimum(log, np.float32(_MOST), out=log), out=log)
                mean += np.float32(of_all) * ratio
                np.copyto(own, ratio, where=drew)
            with np.errstate(divide="ignore"):  # of a user whom harm makes as good as impossible
                found[harm] = np.log(own / mean).sum(axis=1, dtype=float)
        return found


def added_up(each: Vector, together: float, axis: int = 0) -> Vector:
    """Return the sums of so many rollouts: of each one, of those before it, and a part of the last one."""
    whole, part = divmod(together, 1)
    parts = [1.0] * int(whole) + [part] * (part > 0)
    found: Vector = np.sum([of * np.roll(each, number, axis) for number, of in enumerate(parts)], axis=0)
    return found


def _single(of: Vector) -> Single:
    return of.astype(np.float32)


def _log_gamma(x: Vector) -> Vector:
    """The logarithm of the gamma function above 0, by Stirling's series four further on: to 1e-7."""
    far = x + 4
    series = (1 / 12 - (1 / 360 - 1 / (1260 * far**2)) / far**2) / far
    found: Vector = (far - 0.5) * np.log(far) - far + math.log(2 * math.pi) / 2 + series
    return found - np.log(x * (x + 1) * (x + 2) * (x + 3))
