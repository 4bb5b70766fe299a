"""Guardrails as plain values: the policy makes them, the guardrail tests read them."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """The most that a guardrail may ask for."""

    HOLD = "hold"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True, slots=True)
class RateRatio:
    """The stream arm's rate of bad events over the control's must not be shown to exceed `margin`."""

    name: str
    weight: float
    """Its share of the error budget; those of all guardrails add up to 1."""
    limit_s: float | None = None
    """None: the guardrail counts requests without an answer. Otherwise: whole answers that take longer than
    this."""
    margin: float = 1.25
    """lambda0: up to this ratio there is no harm."""
    harm: float = 2.0
    """lambda1: safe is when a ratio of this or more is ruled out."""
    action: Action = Action.ROLL_BACK
    or_points: float | None = None
    """delta: with it harm is both a ratio of `harm` and so many percentage points more, or beyond, and either
    of them ruled out is safe."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A rate of the stream arm alone, since control has none to compare with."""

    name: str
    weight: float
    of: str
    """`fallback` (answers that fell back), `first_content` (later than `limit_s`), `unrecovered` (runs that
    lost their live text and gave no answer)."""
    at: float
    """p0: up to this rate there is no harm; above 0, below 1."""
    harm: float
    """p1 > p0: safe is when a rate of this or more is ruled out."""
    limit_s: float | None = None
    action: Action = Action.HOLD


@dataclass(frozen=True, slots=True)
class UsualTime:
    """Answers that took longer than is usual for their user must not be shown to be more than `margin` times
    as many in the stream arm."""

    name: str
    weight: float
    margin: float = 1.25
    """lambda0: up to this ratio there is no harm."""
    action: Action = Action.HOLD


@dataclass(frozen=True, slots=True)
class ZeroTolerance:
    """One such event rolls back: text was shown that the batch answer does not have."""

    name: str
    results: frozenset[str]
    """Results of `headgate_parity_total`."""
    action: Action = Action.ROLL_BACK


@dataclass(frozen=True, slots=True)
class EarlyGuard:
    """An exact limit to the failures among the first requests of the rollout, and of each step.

    By the exact chance of crossing at `rate`, at most `alpha` however often one looks; and only if
    the control arm has less.
    """

    name: str
    rate: float = 0.02
    of: int = 200
    alpha: float = 0.001
    action: Action = Action.ROLL_BACK
    min_users: int = 1
    """Different users who must have failed answers, at least; of one user only the first of an hour count. 1:
    all answers count, as before there was this bound."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Users met in each arm against the written share: a difference means that something measures wrongly."""

    name: str = "sample ratio"
    alpha: float = 0.001
    action: Action = Action.HOLD


Guardrail = RateRatio | Ceiling | UsualTime | ZeroTolerance | EarlyGuard | SampleRatio


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """The probability of a wrong verdict in a whole rollout, however often one looks."""

    roll_back: float = 0.01
    hold: float = 0.10
    missed: float = 0.05
    """Probability that a step counts as safe though the harm is there."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One step of the policy, as the guardrail tests need it."""

    share: int
    """Percent of users, 0 to 100. 0 is dark: the arms are those of the next step, and nothing is shown."""
    min_users: int = 20
    """Different users in each arm before the arms are compared."""
    min_samples: int = 200
    """Settled requests in each arm of this step before anything counts as safe."""
    compared: bool = True
    """True if a route's texts are compared in the dark. A dark step alone asks."""
    at_least_s: float = 12 * 3600.0
    """The shortest time in this step, by which some evidence is looked at now and then."""
