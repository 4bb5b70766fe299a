"""How long each step needs, and whom harm would hit before it is seen: the verdict's bets on drawn traffic.

Pure: the same traffic, the same plan. Each step is taken by itself, without what was learnt in those before,
so that harm is rather seen sooner.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flags.rollout.comparisons import CUMULATIVE, Lines
from flags.rollout.guardrails import RateRatio
from flags.rollout.policy import Policy, Step
from flags.rollout.processes import RatioBet, Vector

Looks = NDArray[np.int64]

HARMS = (2.0, 3.0, 5.0)
"""Ratios of failures that the plan tells of."""

PATHS = 200
"""Rollouts that are drawn for each figure."""

BLOCKS = 240
EVENTS_A_BLOCK = 2.5
"""Failures of both arms between two looks of a drawn rollout; so its end is after 600 of them."""

FEWEST = 5
"""With fewer failures seen their rate is not known, and the most that it may be is taken."""

RULE_OF_THREE = 3.0
"""So many failures are missed with a chance of one in twenty."""

LONGEST_DAYS = 30
"""A step that needs longer for its proof is no step, where the policy sets no `at_most`."""

SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was seen of the routes, in all arms together."""

    seconds: float
    requests: int
    failed: int
    answered: int
    slow: int
    """Of those that were answered."""
    users: int | None = None
    """Different ones, as far as anybody knows."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What so many times the failures would come to before the rollout goes back. None: it is not seen."""

    times: float
    hours: float | None
    harmed: int | None
    """Users' answers that fail and would not have: the middle one of the rollouts drawn."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step."""

    share: int
    answers_per_hour: float
    """In the smaller arm."""
    users: int | None
    """In the smaller arm."""
    proof_hours: float | None
    """Until half of such rollouts have proved it, where it is safe; None: none is asked, or comes."""
    proof_hours_most: float | None
    """Nine in ten of them."""
    proves: bool
    harms: tuple[Harm, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, and why it must not be begun as it is."""

    traffic: Traffic
    assumed: tuple[str, ...]
    """What was too seldom to be known, and what is taken for it."""
    steps: tuple[StepPlan, ...]
    refusals: tuple[str, ...]


def plan(policy: Policy, traffic: Traffic) -> Plan:
    """What this policy comes to with such traffic."""
    if not traffic.requests:
        why = (
            f"no request of the policy's routes settled in {traffic.seconds:g} s: look longer, or at `routes`"
        )
        return Plan(traffic, (), (), (why,))
    rails = [rail for rail in policy.guardrail_values() if isinstance(rail, RateRatio)]
    rates, assumed = _rates(rails, traffic)
    steps = tuple(_step(step, policy, rails, rates, traffic) for step in policy.steps)
    return Plan(traffic, tuple(assumed), steps, tuple(_refusals(policy, steps)))


def _rates(rails: Sequence[RateRatio], traffic: Traffic) -> tuple[dict[str, float], list[str]]:
    rates, assumed = {}, []
    for rail in rails:
        bad, every = (traffic.failed, traffic.requests)
        if rail.limit_s is not None:
            bad, every = traffic.slow, max(1, traffic.answered)
        rates[rail.name] = min(0.5, bad / every)
        if bad < FEWEST:
            rates[rail.name] = min(0.5, (bad + RULE_OF_THREE) / every)
            assumed.append(
                f"`{rail.name}`: {bad} of {every:,} seen, which says little; the most that it may be, "
                f"{rates[rail.name]:.2%}, is taken. The rarer it is, the longer the proof takes."
            )
    return rates, assumed


def _step(
    step: Step, policy: Policy, rails: Sequence[RateRatio], rates: dict[str, float], traffic: Traffic
) -> StepPlan:
    share = step.share_written(policy)
    smaller = min(share, 100 - share)
    per_hour = traffic.requests / traffic.seconds * 3600
    arms = per_hour * share / 100, per_hour * smaller / 100
    draws = [_Draw.of(rail, rates[rail.name], arms, policy) for rail in rails]
    proofs = [draw.proof_hours() for draw in draws] if step.prove else []
    middle, most = ([found[at] for found in proofs] for at in (0, 1))
    errors = next((draw for draw in draws if draw.rail.limit_s is None), None)
    return StepPlan(
        share=step.share,
        answers_per_hour=arms[1],
        users=None if traffic.users is None else traffic.users * smaller // 100,
        proof_hours=_slowest(middle),
        proof_hours_most=_slowest(most),
        proves=step.prove,
        harms=tuple(errors.harm(times) for times in HARMS) if errors and step.share else (),
    )


def _slowest(hours: Sequence[float | None]) -> float | None:
    known = [each for each in hours if each is not None]
    return max(known) if known and len(known) == len(hours) else None


@dataclass(frozen=True, slots=True)
class _Draw:
    """Rollouts of one step and one guardrail, drawn at random from a fixed seed."""

    rail: RateRatio
    lines: Lines
    steps: int
    stream: float
    """Bad events of the stream arm in an hour, were it no worse."""
    control: float
    share: float
    """The stream arm's part of both arms' requests."""

    @classmethod
    def of(cls, rail: RateRatio, rate: float, arms: tuple[float, float], policy: Policy) -> "_Draw":
        stream, control = arms
        lines = Lines.of(policy.budget_value(), rail.weight)
        return cls(rail, lines, len(policy.steps), stream * rate, control * rate, stream / (stream + control))

    def proof_hours(self) -> tuple[float | None, float | None]:
        """Of a build without harm: the middle one and the ninth of ten."""
        bet = RatioBet.of_safety(self.rail.harm)
        hours, at, _ = self._crossings(bet, 1.0, self.lines.safe, lambda log: log)
        return _at(hours, at, 0.5), _at(hours, at, 0.9)

    def harm(self, times: float) -> Harm:
        """Of a build that fails so many times as often."""
        bet, each = RatioBet.of_harm(self.rail.margin), (1 - CUMULATIVE) / self.steps

        def mixed(log: Vector) -> Vector:
            # As the verdict mixes them, with all other steps at 1.
            found: Vector = np.logaddexp(
                math.log(CUMULATIVE + each) + log, math.log(1 - CUMULATIVE - each + 1e-12)
            )
            return found

        hours, at, bad = self._crossings(bet, times, self.lines.roll_back, mixed)
        middle = _at(hours, at, 0.5)
        if middle is None:
            return Harm(times, None, None)
        harmed = np.median(bad[at >= 0]) * (1 - 1 / times)
        return Harm(times, middle, round(float(harmed)))

    def _crossings(
        self, bet: RatioBet, times: float, line: float, mixed: Callable[[Vector], Vector]
    ) -> tuple[Vector, Looks, Looks]:
        """Hours of each look; by path, which of them crosses the line (-1: none), and the bad ones then."""
        random = np.random.default_rng(SEED)
        hour = EVENTS_A_BLOCK / (self.stream * times + self.control)
        bad = random.poisson(self.stream * times * hour, (PATHS, BLOCKS)).cumsum(axis=1)
        others = random.poisson(self.control * hour, (PATHS, BLOCKS)).cumsum(axis=1)
        r = self.share
        expected = np.log((bet.ratios * r + 1 - r) / (bet.null * r + 1 - r))
        logs = bad[..., None] * np.log(bet.ratios / bet.null) - (bad + others)[..., None] * expected
        over = mixed(np.logaddexp.reduce(bet.weights + logs, axis=2)) >= line
        at = np.where(over.any(axis=1), over.argmax(axis=1), -1)
        hours = hour * np.arange(1, BLOCKS + 1)
        by_then: Looks = bad[np.arange(PATHS), at]
        return np.asarray(hours), at.astype(np.int64), by_then


def _at(hours: Vector, at: Looks, part: float) -> float | None:
    """When so many of the paths have crossed; None: they do not."""
    crossed = np.sort(hours[at[at >= 0]])
    wanted = math.ceil(part * PATHS) - 1
    return float(crossed[wanted]) if wanted < len(crossed) else None


def _refusals(policy: Policy, steps: Sequence[StepPlan]) -> Iterator[str]:
    for step, planned in zip(policy.steps, steps, strict=True):
        where = f"the step of {step.share} %"
        most = step.at_most.total_seconds() / 3600 if step.at_most else LONGEST_DAYS * 24.0
        needs = planned.proof_hours_most
        if step.prove and (needs is None or needs > most):
            found = "comes to no proof" if needs is None else f"needs up to {needs:,.0f} h for its proof"
            bound = "`at_most`" if step.at_most else f"{LONGEST_DAYS} days"
            yield (
                f"{where} {found}, over {bound} ({most:,.0f} h): give its smaller arm more users, a wider "
                "`harm`, more time, or `prove: false` with `approve: true`"
            )
        if planned.users is not None and planned.users < step.min_users:
            yield (
                f"{where} has {planned.users} users in its smaller arm, and `min_users` is {step.min_users}: "
                "give it a larger share, or fewer users"
            )
