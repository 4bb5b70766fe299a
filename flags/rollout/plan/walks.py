"""How long evidence needs to come to a line: the bets of `processes` on traffic drawn by chance. Pure.

Many rollouts at once, from one event to the next: looks at which nothing bad happened change no bet, so a
month costs no more than the events in it. Time is counted in looks, of which there is one a tick.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flags.rollout.verdict.processes import EitherBet, RateBet, RatioBet, Vector

BLOCK = 32
"""Events that are drawn at a time: each costs 48 alternatives for each rollout."""

SOME = 0.1
"""Of evidence that comes by itself, while nothing fails."""

NEVER = np.inf

Generator = np.random.Generator
Draw = Callable[[int], tuple[Vector, Vector]]
"""For so many rollouts, the next BLOCK events of each: looks since the one before, and what each adds to the
alternatives of the bet."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Requests between two looks, on average."""

    stream: float
    control: float


@dataclass(frozen=True, slots=True)
class Goal:
    """When a walk has arrived."""

    line: float
    """Natural logarithm of the evidence that is enough."""
    not_before: Vector
    """For each rollout, the look from which there are users and samples enough."""
    until: float
    """Later looks are not looked at."""
    tempering: Vector
    """For each rollout, by how much users differ beyond chance; 1 or more."""


def against_control(rng: Generator, bet: RatioBet, arms: Arms, stream_rate: float, rate: float) -> Draw:
    """Bad events in both arms, at these rates (0 to 1). Of two arms one is often empty when there is little
    traffic: a verdict waits for the other arm then, here such an event is lost, rather late than early."""
    stream_bad, control_bad = arms.stream * stream_rate, arms.control * rate
    bad = stream_bad + control_bad

    def draw(rollouts: int) -> tuple[Vector, Vector]:
        gaps, events = _looks(rng, bad, rollouts)
        in_stream = rng.binomial(events, stream_bad / bad)
        in_control = events - in_stream
        stream = in_stream + rng.poisson(arms.stream * (1 - stream_rate), events.shape)
        control = in_control + rng.poisson(arms.control * (1 - rate), events.shape)
        share = (stream / (stream + control))[..., None]
        return gaps, bet.gain(in_stream[..., None], in_control[..., None], share)

    return draw


def against_either(rng: Generator, bet: EitherBet, arms: Arms, rate: float) -> Draw:
    """All requests of both arms, at one rate (0 to 1): those in which nothing fails are evidence too. So many
    looks at a time as add a tenth of a nat or so."""
    assert bet.points is not None, "else only events count"
    looks = math.ceil(SOME / (bet.points.null * min(arms.stream, arms.control)))

    def draw(rollouts: int) -> tuple[Vector, Vector]:
        shape = (rollouts, BLOCK, 1)
        stream = 1 + rng.poisson(arms.stream * looks, shape)
        control = 1 + rng.poisson(arms.control * looks, shape)
        stream_bad, control_bad = rng.binomial(stream, rate), rng.binomial(control, rate)
        gains = bet.gain(stream_bad, stream - stream_bad, control_bad, control - control_bad)
        return np.full(shape[:2], float(looks)), gains

    return draw


def against_ceiling(rng: Generator, bet: RateBet, requests: float, rate: float) -> Draw:
    """So many requests between two looks, of which this part (0 to 1) is bad."""

    def draw(rollouts: int) -> tuple[Vector, Vector]:
        gaps, every = _looks(rng, requests, rollouts)
        bad = rng.binomial(every, rate)
        return gaps, bet.gain(bad[..., None], (every - bad)[..., None])

    return draw


def _looks(rng: Generator, mean: float, rollouts: int) -> tuple[Vector, NDArray[np.int64]]:
    """Until the next look that finds an event, and how many it finds: the first, and what comes after it."""
    first = rng.exponential(1 / mean, (rollouts, BLOCK))
    gaps = np.ceil(first)
    return gaps, 1 + rng.poisson(mean * (gaps - first))


def arrivals(draw: Draw, weights: Vector, goal: Goal) -> Vector:
    """For each rollout, the look at which its evidence has come to the line; NEVER where it does not."""
    number = len(goal.not_before)
    if goal.not_before.min() > goal.until:
        return np.full(number, NEVER)
    found = np.full(number, NEVER)
    on = np.arange(number)
    logs, look, evidence = np.zeros((number, len(weights))), np.zeros(number), np.zeros(number)
    while len(on):
        gaps, gains = draw(len(on))
        walked = logs[on, None, :] + np.cumsum(gains, axis=1)
        looks = np.column_stack([look[on], look[on, None] + np.cumsum(gaps, axis=1)])
        so_far = np.column_stack([evidence[on], _log_sums(weights + walked / goal.tempering[on, None, None])])
        # What stands at a look stands until the next one; of the last it is not known yet how long.
        stood = (so_far[:, :-1] >= goal.line) & (looks[:, 1:] > goal.not_before[on, None])
        arrived, first = stood.any(axis=1), stood.argmax(axis=1)
        times = np.maximum(looks[np.arange(len(on)), first], goal.not_before[on])
        found[on[arrived]] = times[arrived]
        logs[on], look[on], evidence[on] = walked[:, -1], looks[:, -1], so_far[:, -1]
        on = on[~arrived & (looks[:, -1] <= goal.until)]
    found[found > goal.until] = NEVER
    return found


def _log_sums(terms: Vector) -> Vector:
    most = terms.max(axis=-1)
    sums: Vector = most + np.log(np.exp(terms - most[..., None]).sum(axis=-1))
    return sums


def early_arrivals(
    rng: Generator, limits: tuple[int, ...], requests: float, rate: float, number: int
) -> Vector:
    """The look at which the first requests of a step are too bad, as `EarlyJudge` counts; else NEVER."""
    looks = np.ceil(np.cumsum(rng.exponential(1 / requests, (number, len(limits) + 1)), axis=1))
    bad = np.cumsum(rng.random((number, len(limits))) < rate, axis=1)
    is_last_of_look = looks[:, :-1] < looks[:, 1:]
    too_bad = is_last_of_look & (bad >= np.array(limits))
    times: Vector = np.where(too_bad.any(axis=1), looks[np.arange(number), too_bad.argmax(axis=1)], NEVER)
    return times
