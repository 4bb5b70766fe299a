"""Null hypotheses, and the e-processes against them: evidence that may be looked at after every event. Pure.

If the null hypothesis is true, the chance that its e-process ever reaches 1/alpha is at most alpha, however
often one looks (Ville's inequality). So a controller may look each minute, and stop the moment it has seen
enough. All numbers are natural logarithms.

Sources: Lindon & Malek, "Anytime-valid inference for multinomial count data" (2022, arXiv 2011.03567) for the
mixture; Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" for one sample;
Turner & Grünwald, "Exact anytime-valid confidence intervals for contingency tables and beyond" (2023) for the
difference, of which the proof that is needed here stands at `DifferenceNull`.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Counts = float | NDArray[np.int64] | Vector
"""One, or those of many at once, with a last axis of 1 for the alternatives. Whole, but for averages."""

GRID = 48
"""Alternatives in a mixture."""

MOST_RATIO = 30.0
"""The largest ratio among them; larger harm is found at least as soon."""

MOST_POINTS = 10.0
"""Times the difference that is to be ruled out: at a higher rate of failures the ratio is the better test."""

HUNDRED = 100.0
"""Percentage points in 1."""

MANY_TIMES = 20.0
"""The ratio of users who got worse, stream arm to control, that harm to few users is thought to make."""

SPREAD = 1.0
"""Width of the half-normal weights, in the logarithm of the ratio: most weight is on the next factor of 3."""


@dataclass(slots=True)
class EProcess:
    """The weighted mean of the likelihood ratios of many alternatives to one null hypothesis.

    One logarithm for each alternative, so that evidence in parts adds up to the evidence of the whole.
    """

    weights: Vector
    """Logarithms; their exponentials add up to 1."""
    logs: Vector = field(init=False)
    """Log likelihood ratios so far, one for each alternative."""

    def __post_init__(self) -> None:
        self.logs = np.zeros_like(self.weights)

    def log(self, dispersion: float = 1.0) -> float:
        """The logarithm of the e-value; 0 is no evidence. Tempered by a dispersion of 1 or more."""
        return _log_sum(self.weights + self.logs / dispersion)


def _log_sum(terms: Vector) -> float:
    most = float(terms.max())
    return most + math.log(float(np.exp(terms - most).sum()))


def _half_normal(distance: Vector) -> Vector:
    """Logarithms of weights that are largest next to the null hypothesis."""
    logs = -0.5 * (distance / SPREAD) ** 2
    return logs - _log_sum(logs)


@dataclass(frozen=True, slots=True)
class RatioNull:
    """The stream arm's rate of bad events is at most (mirrored: at least) `bound` times control's.

    Given that an event is bad, it is the stream arm's with a chance that depends on the ratio and on the
    arm's share of requests alone: a bad hour that hits both arms is no evidence of anything.
    """

    bound: float
    ratios: Vector
    weights: Vector

    @classmethod
    def at_most(cls, margin: float) -> "RatioNull":
        """The ratio is at most `margin`."""
        steps = np.linspace(0.0, math.log(MOST_RATIO / margin), GRID + 1)[1:]
        return cls(margin, margin * np.exp(steps), _half_normal(steps))

    @classmethod
    def of_few(cls) -> "RatioNull":
        """The ratio is at most 1, of users who are worse than before. Most weight is on about 20 times: harm
        to few makes users worse whom nothing else does."""
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID + 1)[1:]
        return cls(1.0, np.exp(steps), _half_normal(math.log(MANY_TIMES) - steps))

    @classmethod
    def at_least(cls, harm: float) -> "RatioNull":
        """The ratio is at least `harm`."""
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID + 1)[1:]
        return cls(harm, harm * np.exp(-steps), _half_normal(steps))

    def e_process(self) -> EProcess:
        return EProcess(self.weights)

    def log_increments(
        self, stream_bad: Counts, control_bad: Counts, stream_share: float | NDArray[np.floating]
    ) -> Vector:
        """Return what these bad events add to each alternative; the stream arm had this part of all
        requests."""
        r = stream_share
        expected = np.log((self.ratios * r + 1 - r) / (self.bound * r + 1 - r))
        of_stream: Vector = np.log(self.ratios / self.bound)
        increments: Vector = stream_bad * of_stream - (stream_bad + control_bad) * expected
        return increments


@dataclass(frozen=True, slots=True)
class DifferenceNull:
    """The stream arm's rate of bad events is at least `bound` above control's, as a difference.

    Requests in which nothing fails are evidence here, and of a ratio they are none. Each request multiplies
    the e-value, by stakes s and t; c is the rate of control at which the hypothesis is hardest to rule out:

        stream: bad 1 - s (1 - c - bound), good 1 + s (c + bound);    control: bad 1 + t (1 - c), good 1 - t c

    with s times the requests of the stream arm equal to t times those of control. Its mean is at most 1 for
    any rates p >= q + bound, also those that differ between requests and change with time: the logarithm of
    the product of all means is concave in the rates, is 0 where all are p = c + bound and q = c, and has a
    slope there of -s in each p and t in each q, so -s (p - q - bound) <= 0 for each of the stream arm.

    c and s are nearly those of the likelihood ratio of a build that fails in both arms at the same one of
    `rates`, over the least favourable rates p = q + bound: each is one alternative.
    """

    bound: float
    rates: Vector
    weights: Vector

    @classmethod
    def at_least(cls, harm: float) -> "DifferenceNull":
        """The difference is at least `harm`, 0 to 0.5. Rare failures have the most weight."""
        low = harm / MOST_RATIO
        high = min(MOST_POINTS * harm, (1 - harm) / 2)
        steps = np.linspace(0.0, math.log(high / low), GRID // 2)
        return cls(harm, low * np.exp(steps), _half_normal(steps / 2))

    def log_increments(
        self, stream_bad: Counts, stream_good: Counts, control_bad: Counts, control_good: Counts
    ) -> Vector:
        """Return what these requests add to each alternative; each arm has at least one of them."""
        stream, control = stream_bad + stream_good, control_bad + control_good
        q, delta = self.rates, self.bound
        c = (q - delta + np.sqrt((q - delta) ** 2 + 4 * q * delta * control / (stream + control))) / 2
        s = 1 - q / (c + delta)
        t = s * stream / control
        of_stream_bad: Vector = np.log1p(-s * (1 - c - delta))
        of_stream_good: Vector = np.log1p(s * (c + delta))
        of_control_bad: Vector = np.log1p(t * (1 - c))
        of_control_good: Vector = np.log1p(-t * c)
        increments: Vector = (
            stream_bad * of_stream_bad
            + stream_good * of_stream_good
            + control_bad * of_control_bad
            + control_good * of_control_good
        )
        return increments


@dataclass(frozen=True, slots=True)
class JointNull:
    """The null that both hypotheses hold: the ratio is at least its bound, and the difference is at least its
    own.

    Half of the weight is on either. While both hold, both are e-processes, and so is their mean. A test of
    each alone would need twice the threshold, which the mean reaches no later.
    """

    ratio: RatioNull
    difference: DifferenceNull | None

    @classmethod
    def at_least(cls, harm: float, points: float | None) -> "JointNull":
        """The ratio is at least `harm` and, unless None, the difference is at least `points` in percent."""
        return cls(
            RatioNull.at_least(harm), None if points is None else DifferenceNull.at_least(points / HUNDRED)
        )

    @property
    def weights(self) -> Vector:
        if self.difference is None:
            return self.ratio.weights
        return np.concatenate([self.ratio.weights, self.difference.weights]) - math.log(2)

    def e_process(self) -> EProcess:
        return EProcess(self.weights)

    def log_increments(
        self, stream_bad: Counts, stream_good: Counts, control_bad: Counts, control_good: Counts
    ) -> Vector:
        """Return what these requests add to each alternative; each arm has at least one of them."""
        stream, control = stream_bad + stream_good, control_bad + control_good
        of_ratio = self.ratio.log_increments(stream_bad, control_bad, stream / (stream + control))
        if self.difference is None:
            return of_ratio
        of_points = self.difference.log_increments(stream_bad, stream_good, control_bad, control_good)
        return np.concatenate([of_ratio, of_points], axis=-1)

    def clean(self, threshold: float, stream_share: float) -> float:
        """Requests of the stream arm until the e-process reaches the threshold, if nothing fails at all.

        `stream_share` is the stream arm's part of all requests, 0 to 1. Infinite without a difference.
        """
        if self.difference is None:
            return math.inf
        each = self.log_increments(0, stream_share, 0, 1 - stream_share)
        low, high = 0.0, 1.0
        while _log_sum(self.weights + high * each) < threshold:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) / 2
            low, high = (
                (low, middle) if _log_sum(self.weights + middle * each) >= threshold else (middle, high)
            )
        return math.ceil(high) * stream_share


@dataclass(frozen=True, slots=True)
class RateNull:
    """A rate is at most (mirrored: at least) `bound`."""

    bound: float
    rates: Vector
    weights: Vector

    @classmethod
    def at_most(cls, ceiling: float) -> "RateNull":
        """The rate is at most `ceiling`."""
        odds = ceiling / (1 - ceiling)
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID + 1)[1:]
        return cls(ceiling, _rate(odds * np.exp(steps)), _half_normal(steps))

    @classmethod
    def at_least(cls, harm: float) -> "RateNull":
        """The rate is at least `harm`."""
        odds = harm / (1 - harm)
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID + 1)[1:]
        return cls(harm, _rate(odds * np.exp(-steps)), _half_normal(steps))

    @classmethod
    def of_mismatch(cls, share: float) -> "RateNull":
        """The share is exactly this; alternatives are on either side."""
        odds = share / (1 - share)
        steps = np.linspace(0.0, math.log(MOST_RATIO), GRID // 2 + 1)[1:]
        both = np.concatenate([-steps, steps])
        half = _half_normal(steps) - math.log(2)
        return cls(share, _rate(odds * np.exp(both)), np.concatenate([half, half]))

    def e_process(self) -> EProcess:
        return EProcess(self.weights)

    def log_increments(self, bad: Counts, good: Counts) -> Vector:
        """Return what these events add to each alternative."""
        of_bad: Vector = np.log(self.rates / self.bound)
        of_good: Vector = np.log((1 - self.rates) / (1 - self.bound))
        increments: Vector = bad * of_bad + good * of_good
        return increments


def _rate(odds: Vector) -> Vector:
    rates: Vector = odds / (1 + odds)
    return rates


def dispersion(bad: Vector, every: Vector, weights: Vector | None = None) -> float:
    """Return the factor by which groups of users differ more than by chance in their bad events; at least 1.

    Pearson's statistic over its degrees of freedom, of all arms together and of each against its own rate:
    one row for each arm, one column for each group. Users differ, and one who always fails is one piece of
    evidence and not a hundred. Control alone does not show it: where the one is in the stream arm, all of
    control looks alike.

    It is estimated from the same counts that the e-processes use. That is harmless: a dispersion of 1 or more
    adds at most 1 to an e-value, since it only shrinks each log likelihood ratio towards 0.

    Args:
        bad: events of each group, a row for each arm.
        every: the requests among which they are.
        weights: what was expected of each group, in any unit; None: as many as it has requests.
    """
    pearson, free = 0.0, 0
    rows = (np.atleast_2d(counts) for counts in (bad, every, every if weights is None else weights))
    for failed, total, weight in zip(*rows, strict=True):
        seen = weight > 0
        rate = failed.sum() / max(1.0, total.sum())
        if seen.sum() > 1 and 0 < rate < 1:
            expected = weight[seen] * (failed.sum() / weight.sum())
            pearson += float((((failed[seen] - expected) ** 2) / (expected * (1 - rate))).sum())
            free += int(seen.sum()) - 1
    return max(1.0, pearson / free) if free else 1.0


MOST_LEVERAGE = 0.95
"""Of one group: beyond it what its arm has beside it is too little to tell what to expect."""


def clustered_dispersion(bad: Vector, every: Vector) -> float:
    """Return the factor by which the arms' sums of bad events differ more than by chance; at least 1.

    `dispersion` is a mean over groups. Where one group has most of an arm's requests, the arm's sum differs
    as that group does. So this one is a ratio of sums, as a cluster-robust variance is (jackknife, HC3): what
    a group with a part h of the arm differs by is divided by 1 - h, since the arm's rate is drawn towards it.

    Args:
        bad: events of each group, a row for each arm.
        every: the requests among which they are.
    """
    squares, chance = 0.0, 0.0
    for failed, total in zip(np.atleast_2d(bad), np.atleast_2d(every), strict=True):
        part = total / max(1.0, total.sum())
        expected = part * failed.sum()
        others = 1 - np.minimum(part, MOST_LEVERAGE)
        squares += float((((failed - expected) / others) ** 2).sum())
        chance += float((expected / others).sum())
    return max(1.0, squares / chance) if chance else 1.0
