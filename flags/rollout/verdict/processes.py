"""Evidence that may be looked at after every event: e-processes. Pure; the numbers are natural logarithms.

An e-process is a bet against a hypothesis with fair odds: if the hypothesis is true, the chance that it ever
reaches 1/alpha is at most alpha, however often one looks (Ville's inequality). So a controller may look each
minute, and stop the moment it has seen enough.

Sources: Lindon & Malek, "Anytime-valid inference for multinomial count data" (2022, arXiv 2011.03567) for the
mixture; Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" for one sample;
Turner & Grünwald, "Exact anytime-valid confidence intervals for contingency tables and beyond" (2023) for the
difference, of which the proof that is needed here stands at `PointsBet`.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Counts = float | NDArray[np.int64]
"""One, or those of many at once, with a last axis of 1 for the alternatives. Whole, but for averages."""

GRID = 48
"""Alternatives that a mixture bets on."""

MOST_RATIO = 30.0
"""The largest ratio that it bets on; harm beyond is seen at least as soon."""

MOST_POINTS = 10.0
"""Times the difference that is to be ruled out: who fails more often is better judged by the ratio."""

HUNDRED = 100.0
"""Percentage points in 1."""

SPREAD = 1.0
"""Of the half-normal weights, in the logarithm of the ratio: most of the bet is on the next factor of 3."""


@dataclass(slots=True)
class Mixture:
    """One bet on many alternatives at once: a weighted sum of likelihood ratios.

    Kept as one vector of logarithms, so that evidence which comes in parts adds up to the same.
    """

    weights: Vector
    """Logarithms; their exponentials add up to 1."""
    logs: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.logs = np.zeros_like(self.weights)

    def log(self, dispersion: float = 1.0) -> float:
        """The logarithm of the e-value; 0 is no evidence. Tempered by a dispersion of 1 or more."""
        return _log_sum(self.weights + self.logs / dispersion)


def _log_sum(terms: Vector) -> float:
    most = float(terms.max())
    return most + math.log(float(np.exp(terms - most).sum()))


def _half_normal(distance: Vector) -> Vector:
    """Logarithms of weights that are largest next to the hypothesis."""
    logs = -0.5 * (distance / SPREAD) ** 2
    return logs - _log_sum(logs)


@dataclass(frozen=True, slots=True)
class RatioBet:
    """Against: the stream arm's rate of bad events is at most (mirrored: at least) `null` times control's.

    Given that an event is bad, it is the stream arm's with a chance that depends on the ratio and on the
    arm's share of requests alone: a bad hour that hits both arms is no evidence of anything.
    """

    null: float
    ratios: Vector
    weights: Vector

    @classmethod
    def of_harm(cls, margin: float) -> "RatioBet":
        """Against a ratio of at most `margin`."""
        steps = np.linspace(0.0, math.log(MOST_RATIO / margin), GRID + 1)[1:]
        return cls(margin, margin * np.exp(steps), _half_normal(steps))

    @classmethod
    def of_safety(cls, harm: float) -> "RatioBet":
        """Against a ratio of at least `harm`."""
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID + 1)[1:]
        return cls(harm, harm * np.exp(-steps), _half_normal(steps))

    def start(self) -> Mixture:
        return Mixture(self.weights)

    def gain(
        self, stream_bad: Counts, control_bad: Counts, stream_share: float | NDArray[np.floating]
    ) -> Vector:
        """What these bad events add, where the stream arm had this share (0 to 1) of both arms' requests."""
        r = stream_share
        expected = np.log((self.ratios * r + 1 - r) / (self.null * r + 1 - r))
        of_stream: Vector = np.log(self.ratios / self.null)
        gained: Vector = stream_bad * of_stream - (stream_bad + control_bad) * expected
        return gained


@dataclass(frozen=True, slots=True)
class PointsBet:
    """Against: the stream arm's rate of bad events is at least `null` above control's, as a difference.

    Requests in which nothing fails are evidence here, and of a ratio they are none. Each request wins or
    loses: s and t are the stakes, c is the rate of control at which the hypothesis is hardest to rule out,

        stream: bad 1 - s (1 - c - null), good 1 + s (c + null);    control: bad 1 + t (1 - c), good 1 - t c

    with s times the requests of the stream arm equal to t times those of control. It is fair for any rates
    p >= q + null, also those that differ between requests and change with time: the logarithm of the product
    of all means is concave in the rates, is 0 where all are p = c + null and q = c, and has there a slope of
    -s in each p and t in each q, which adds up to -s (p - q - null) <= 0 for each request of the stream arm.

    c and s are nearly those of the likelihood ratio of a build that fails in both arms at the same one of
    `rates`, over the least favourable rates p = q + null: there is one bet for each.
    """

    null: float
    rates: Vector
    weights: Vector

    @classmethod
    def of_safety(cls, harm: float) -> "PointsBet":
        """Against a difference of at least `harm`, 0 to 0.5. The rarer failures are, the more is bet."""
        low = harm / MOST_RATIO
        high = min(MOST_POINTS * harm, (1 - harm) / 2)
        steps = np.linspace(0.0, math.log(high / low), GRID // 2)
        return cls(harm, low * np.exp(steps), _half_normal(steps / 2))

    def gain(
        self, stream_bad: Counts, stream_good: Counts, control_bad: Counts, control_good: Counts
    ) -> Vector:
        """What these requests add, of which there is at least one in each arm."""
        stream, control = stream_bad + stream_good, control_bad + control_good
        q, delta = self.rates, self.null
        c = (q - delta + np.sqrt((q - delta) ** 2 + 4 * q * delta * control / (stream + control))) / 2
        s = 1 - q / (c + delta)
        t = s * stream / control
        gained: Vector = (
            stream_bad * np.log1p(-s * (1 - c - delta))
            + stream_good * np.log1p(s * (c + delta))
            + control_bad * np.log1p(t * (1 - c))
            + control_good * np.log1p(-t * c)
        )
        return gained


@dataclass(frozen=True, slots=True)
class EitherBet:
    """Against: the ratio is at least `ratio`'s null, and the difference at least that of `points`.

    Half of the stake is on either. While both are so, both bets are fair, and so is their mean: to act on
    either one alone, each would have to come to twice the line, and the mean is there no later.
    """

    ratio: RatioBet
    points: PointsBet | None

    @classmethod
    def of_safety(cls, harm: float, points: float | None) -> "EitherBet":
        """Against a ratio of `harm` or more and, unless None, so many percentage points or more."""
        return cls(
            RatioBet.of_safety(harm), None if points is None else PointsBet.of_safety(points / HUNDRED)
        )

    @property
    def weights(self) -> Vector:
        if self.points is None:
            return self.ratio.weights
        return np.concatenate([self.ratio.weights, self.points.weights]) - math.log(2)

    def start(self) -> Mixture:
        return Mixture(self.weights)

    def gain(
        self, stream_bad: Counts, stream_good: Counts, control_bad: Counts, control_good: Counts
    ) -> Vector:
        """What these requests add, of which there is at least one in each arm."""
        stream, control = stream_bad + stream_good, control_bad + control_good
        of_ratio = self.ratio.gain(stream_bad, control_bad, stream / (stream + control))
        if self.points is None:
            return of_ratio
        of_points = self.points.gain(stream_bad, stream_good, control_bad, control_good)
        return np.concatenate([of_ratio, of_points], axis=-1)

    def clean(self, line: float, stream_share: float) -> float:
        """So many requests of the stream arm, which has this share of both arms', until evidence comes to the
        line though nothing fails in either; infinite without points."""
        if self.points is None:
            return math.inf
        each = self.gain(0, stream_share, 0, 1 - stream_share)
        low, high = 0.0, 1.0
        while _log_sum(self.weights + high * each) < line:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) / 2
            low, high = (low, middle) if _log_sum(self.weights + middle * each) >= line else (middle, high)
        return math.ceil(high) * stream_share


@dataclass(frozen=True, slots=True)
class RateBet:
    """Against: a rate is at most (or, mirrored, at least) `null`."""

    null: float
    rates: Vector
    weights: Vector

    @classmethod
    def of_harm(cls, ceiling: float) -> "RateBet":
        """Against a rate of at most `ceiling`."""
        odds = ceiling / (1 - ceiling)
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID + 1)[1:]
        return cls(ceiling, _rate(odds * np.exp(steps)), _half_normal(steps))

    @classmethod
    def of_safety(cls, harm: float) -> "RateBet":
        """Against a rate of at least `harm`."""
        odds = harm / (1 - harm)
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID + 1)[1:]
        return cls(harm, _rate(odds * np.exp(-steps)), _half_normal(steps))

    @classmethod
    def of_mismatch(cls, share: float) -> "RateBet":
        """Against a share that is just this, on either side."""
        odds = share / (1 - share)
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID // 2 + 1)[1:]
        both = np.concatenate([-steps, steps])
        half = _half_normal(steps) - math.log(2)
        return cls(share, _rate(odds * np.exp(both)), np.concatenate([half, half]))

    def start(self) -> Mixture:
        return Mixture(self.weights)

    def gain(self, bad: Counts, good: Counts) -> Vector:
        """What these events add."""
        of_bad: Vector = np.log(self.rates / self.null)
        of_good: Vector = np.log((1 - self.rates) / (1 - self.null))
        gained: Vector = bad * of_bad + good * of_good
        return gained


def _rate(odds: Vector) -> Vector:
    rates: Vector = odds / (1 + odds)
    return rates


def dispersion(bad: Vector, every: Vector) -> float:
    """How much more bad events differ between groups of users than chance makes them; at least 1.

    Pearson's statistic over its degrees of freedom, of all arms together and of each against its own rate:
    one row for each arm, one column for each group. Users differ, and one who always fails is one piece of
    evidence and not a hundred. Control alone does not show it: where the one is in the stream arm, all of
    control looks alike.

    Estimated from the very counts that are bet on, and harmless as such: 1 or more can add at most 1 to an
    e-value, since it only draws what each alternative has won or lost towards nothing.
    """
    pearson, free = 0.0, 0
    for failed, total in zip(np.atleast_2d(bad), np.atleast_2d(every), strict=True):
        seen = total > 0
        rate = failed.sum() / max(1.0, total.sum())
        if seen.sum() > 1 and 0 < rate < 1:
            expected = total[seen] * rate
            pearson += float((((failed[seen] - expected) ** 2) / (expected * (1 - rate))).sum())
            free += int(seen.sum()) - 1
    return max(1.0, pearson / free) if free else 1.0


@lru_cache(maxsize=16)  # it takes a tenth of a second, and a policy has one
def early_limits(rate: float, of: int, alpha: float) -> tuple[int, ...]:
    """For each number of requests from 1 to `of`, the fewest bad ones that are too many.

    By the exact chance that so many are bad at `rate`, with a level that makes the chance of ever crossing,
    however often one looks, at most `alpha`.
    """
    low, high = -60.0, math.log(alpha)
    for _ in range(20):  # to within a factor of 1.0001
        middle = (low + high) / 2
        if _crossing(rate, _limits(rate, of, math.exp(middle))) <= alpha:
            low = middle
        else:
            high = middle
    return _limits(rate, of, math.exp(low))


def _limits(rate: float, of: int, level: float) -> tuple[int, ...]:
    limits = []
    chances = np.zeros(of + 2)
    chances[0] = 1.0
    for number in range(1, of + 1):
        chances[1:] = chances[1:] * (1 - rate) + chances[:-1] * rate
        chances[0] *= 1 - rate
        tails = chances[::-1].cumsum()[::-1]
        limits.append(int(np.argmax(tails <= level)) if (tails <= level).any() else number + 1)
    return tuple(limits)


def _crossing(rate: float, limits: tuple[int, ...]) -> float:
    chances = np.zeros(len(limits) + 2)
    chances[0] = 1.0
    crossed = 0.0
    for limit in limits:
        chances[1:] = chances[1:] * (1 - rate) + chances[:-1] * rate
        chances[0] *= 1 - rate
        crossed += float(chances[limit:].sum())
        chances[limit:] = 0.0
    return crossed
