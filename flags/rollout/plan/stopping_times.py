"""The tests' stopping times: a simulation of when e-processes reach their thresholds in random traffic. Pure.

Many rollouts at once, from one event to the next: looks in which nothing bad happened change no e-process, so
a month costs no more than the events in it. The unit of time is a look, of which there is one in each tick.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flags.rollout.verdict.buckets import BUCKETS
from flags.rollout.verdict.count_tests import NO_WORSE, WORSE
from flags.rollout.verdict.e_processes import JointNull, RateNull, RatioNull, Vector

BLOCK = 32
"""Events that are drawn at a time: each costs 48 alternatives in each rollout."""

CLEAN_NATS = 0.1
"""Evidence in a group of looks in which nothing fails, about."""

NEVER = np.inf

_NO_WORSE = RatioNull.at_most(NO_WORSE)

Generator = np.random.Generator
Draw = Callable[[int], tuple[Vector, Vector]]
"""A function from the number of rollouts to the next BLOCK events of each: the looks since the event before,
and what it adds to the alternatives of the null."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Requests between two looks, on average."""

    stream: float
    control: float


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """The rule by which a test stops."""

    threshold: float
    """Evidence that is enough, as a natural logarithm."""
    not_before: Vector
    """The first look with enough users and samples, for each rollout."""
    until: float
    """The last look that counts."""
    dispersion: Vector
    """The factor by which users differ more than by chance, for each rollout; 1 or more."""


def ratio_events(rng: Generator, null: RatioNull, arms: Arms, stream_rate: float, rate: float) -> Draw:
    """Bad events in both arms, at these rates (0 to 1). With little traffic one arm is often empty: then the
    verdict waits for it, and the simulation loses the event, so that it is late rather than early."""
    stream_bad, control_bad = arms.stream * stream_rate, arms.control * rate
    bad = stream_bad + control_bad

    def draw(rollouts: int) -> tuple[Vector, Vector]:
        gaps, events = _looks(rng, bad, rollouts)
        in_stream = rng.binomial(events, stream_bad / bad)
        in_control = events - in_stream
        stream = in_stream + rng.poisson(arms.stream * (1 - stream_rate), events.shape)
        control = in_control + rng.poisson(arms.control * (1 - rate), events.shape)
        share = (stream / (stream + control))[..., None]
        return gaps, null.log_increments(in_stream[..., None], in_control[..., None], share)

    return draw


def joint_events(rng: Generator, null: JointNull, arms: Arms, rate: float) -> Draw:
    """All requests of both arms, at one rate (0 to 1), since those in which nothing fails are evidence too.
    Looks are grouped, so that a group adds about CLEAN_NATS."""
    assert null.difference is not None, "else only events count"
    looks = math.ceil(CLEAN_NATS / (null.difference.bound * min(arms.stream, arms.control)))

    def draw(rollouts: int) -> tuple[Vector, Vector]:
        shape = (rollouts, BLOCK, 1)
        stream = 1 + rng.poisson(arms.stream * looks, shape)
        control = 1 + rng.poisson(arms.control * looks, shape)
        stream_bad, control_bad = rng.binomial(stream, rate), rng.binomial(control, rate)
        gains = null.log_increments(stream_bad, stream - stream_bad, control_bad, control - control_bad)
        return np.full(shape[:2], float(looks)), gains

    return draw


def rate_events(rng: Generator, null: RateNull, requests: float, rate: float) -> Draw:
    """Bad ones among so many requests between two looks, at this rate (0 to 1)."""

    def draw(rollouts: int) -> tuple[Vector, Vector]:
        gaps, every = _looks(rng, requests, rollouts)
        bad = rng.binomial(every, rate)
        return gaps, null.log_increments(bad[..., None], (every - bad)[..., None])

    return draw


def _looks(rng: Generator, mean: float, rollouts: int) -> tuple[Vector, NDArray[np.int64]]:
    """Looks until the next one that finds an event, and how many events it finds."""
    first = rng.exponential(1 / mean, (rollouts, BLOCK))
    gaps = np.ceil(first)
    return gaps, 1 + rng.poisson(mean * (gaps - first))


def stopping_times(draw: Draw, weights: Vector, rule: StoppingRule) -> Vector:
    """Return the look at which each rollout's evidence reaches the threshold; NEVER where it does not."""
    number = len(rule.not_before)
    if rule.not_before.min() > rule.until:
        return np.full(number, NEVER)
    found = np.full(number, NEVER)
    on = np.arange(number)
    logs, look, evidence = np.zeros((number, len(weights))), np.zeros(number), np.zeros(number)
    while len(on):
        gaps, gains = draw(len(on))
        summed = logs[on, None, :] + np.cumsum(gains, axis=1)
        looks = np.column_stack([look[on], look[on, None] + np.cumsum(gaps, axis=1)])
        so_far = np.column_stack(
            [evidence[on], _log_sums(weights + summed / rule.dispersion[on, None, None])]
        )
        # Evidence holds from its look until the next one, which is not known yet for the last look.
        held = (so_far[:, :-1] >= rule.threshold) & (looks[:, 1:] > rule.not_before[on, None])
        stopped, first = held.any(axis=1), held.argmax(axis=1)
        times = np.maximum(looks[np.arange(len(on)), first], rule.not_before[on])
        found[on[stopped]] = times[stopped]
        logs[on], look[on], evidence[on] = summed[:, -1], looks[:, -1], so_far[:, -1]
        on = on[~stopped & (looks[:, -1] <= rule.until)]
    found[found > rule.until] = NEVER
    return found


def _log_sums(terms: Vector) -> Vector:
    most = terms.max(axis=-1)
    sums: Vector = most + np.log(np.exp(terms - most[..., None]).sum(axis=-1))
    return sums


@dataclass(frozen=True, slots=True)
class EarlyRule:
    """The rule by which the test of the first requests stops, as `EarlyTest` has it."""

    limits: tuple[int, ...]
    """The fewest failures that are too many, by the number of requests."""
    min_users: int
    dispersion: Vector
    """The factor by which users differ more than by chance, for each rollout; 1 or more."""


def early_stopping_times(
    rng: Generator, rule: EarlyRule, arms: Arms, stream_rate: float, rate: float
) -> Vector:
    """The look at which the first requests of a step are too bad, and worse than control's; else NEVER."""
    number, of = len(rule.dispersion), len(rule.limits)
    looks = np.ceil(np.cumsum(rng.exponential(1 / arms.stream, (number, of + 1)), axis=1))
    bad = rng.random((number, of)) < stream_rate
    groups = rng.integers(0, BUCKETS, (number, of))
    control = np.cumsum(rng.poisson(arms.control / arms.stream, (number, of)), axis=1)
    control_bad = np.cumsum(rng.poisson(rate * arms.control / arms.stream, (number, of)), axis=1)
    found = np.full(number, NEVER)
    for at in range(number):  # one at a time: all groups of all requests of all rollouts are many
        by_group = np.cumsum(np.eye(BUCKETS, dtype=np.int64)[groups[at]] * bad[at][:, None], axis=0)
        most = np.partition(by_group, BUCKETS - rule.min_users, axis=1)[:, BUCKETS - rule.min_users]
        counted = np.minimum(by_group, most[:, None]).sum(axis=1)
        is_last_of_look = looks[at, :-1] < looks[at, 1:]
        too_many = np.logical_or.accumulate(is_last_of_look & (counted >= np.array(rule.limits)))
        asked = np.flatnonzero(too_many & is_last_of_look)
        share = (1 + asked) / (1 + asked + control[at, asked])
        gains = _NO_WORSE.log_increments(
            counted[asked, None], control_bad[at, asked, None], share[:, None]
        ) / float(rule.dispersion[at])
        worse = asked[_log_sums(_NO_WORSE.weights + gains) >= WORSE] if len(asked) else asked
        if len(worse):
            found[at] = looks[at, worse[0]]
    return found
