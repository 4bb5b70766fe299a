"""What a policy's steps will take and cost, from traffic as it is: the answer before a rollout begins. Pure.

Not a promise: it is what the verdict's own bets come to on traffic drawn by chance, in many rollouts of a
build that is clean, and of builds that fail 2, 3 and 5 times as often. `plan_refusals` says what cannot work.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from flags.rollout.plan.plan import HOUR_S, MAX_PROOF_S, Harm, Hours, Plan, Rate, StepPlan, Traffic
from flags.rollout.plan.refusals import assumptions, refusals
from flags.rollout.plan.walks import (
    NEVER,
    Arms,
    Generator,
    Goal,
    against_ceiling,
    against_control,
    against_either,
    arrivals,
    early_arrivals,
)
from flags.rollout.policy.guardrails import Action, Ceiling, EarlyGuard, RateRatio
from flags.rollout.policy.policy import Policy, Step
from flags.rollout.verdict.comparisons import CUMULATIVE, FEW_FAULTS, Thresholds
from flags.rollout.verdict.evaluator import BUCKETS
from flags.rollout.verdict.processes import EitherBet, RateBet, RatioBet, Vector, early_limits

ROLLOUTS = 200
"""Drawn for each figure: the tenth, half and nine tenths of them are known to a few in a hundred."""

SEED = 2205_14762
"""The same policy and traffic give the same plan."""

HARMS = (2, 3, 5)
"""So many times as often answers fail, in the builds that a rollout is for."""

LAG_S = 180.0
"""From an answer to what follows from it: 150 until it settles, and as defaults are 15 each for a scrape and
until proxies have heard of the flag."""

FREE = 2 * (BUCKETS - 1)
"""Degrees of freedom of what is measured of how users differ: two arms of so many groups."""


@dataclass(frozen=True, slots=True)
class _SimulatedStep:
    """One step in its traffic, and the chance by which its rollouts are drawn. Times are looks."""

    policy: Policy
    traffic: Traffic
    index: int
    rng: Generator
    ready: Vector
    tempering: Vector

    @property
    def step(self) -> Step:
        return self.policy.steps[self.index]

    @property
    def limit(self) -> float:
        at_most = self.step.at_most
        return (MAX_PROOF_S if at_most is None else at_most.total_seconds()) / self.policy.tick_s

    @property
    def harm_from(self) -> Vector:
        """The look from which harm is judged: it may stand on the users and samples of the steps before."""
        here, before = self.step, self.policy.steps[: self.index]
        stands = any(s.min_samples >= here.min_samples and s.min_users >= here.min_users for s in before)
        return np.ones_like(self.ready) if stands else self.ready

    def arms(self, requests: int) -> Arms:
        """Of so many seen in the whole look."""
        stream, control = shares(self.step.share_written(self.policy))
        each = requests / self.traffic.looked_s * self.policy.tick_s
        return Arms(each * stream, each * control)

    def goal(self, line: float, until: float, tempering: Vector | None = None) -> Goal:
        return Goal(line, self.ready, until, np.ones_like(self.ready) if tempering is None else tempering)


def shares(written: int) -> tuple[float, float]:
    """Of users, in the stream arm and in its control; 0 to 1."""
    return written / 100, min(written, 100 - written) / 100


def plan(policy: Policy, traffic: Traffic, rollouts: int = ROLLOUTS) -> Plan:
    """What each step takes, costs and lacks. Seconds of computing, and the same each time."""
    limits = {
        rail.name: early_limits(rail.rate, rail.of, rail.alpha)
        for rail in policy.guardrail_values()
        if isinstance(rail, EarlyGuard)
    }
    steps = tuple(_planned(policy, traffic, i, limits, rollouts) for i in range(len(policy.steps)))
    made = Plan(policy.flag, traffic, steps)
    return replace(made, assumptions=tuple(assumptions(policy, made)), refusals=tuple(refusals(policy, made)))


def _planned(
    policy: Policy, traffic: Traffic, index: int, limits: Mapping[str, tuple[int, ...]], rollouts: int
) -> StepPlan:
    step, tick_s = policy.steps[index], policy.tick_s
    stream, control = shares(step.share_written(policy))
    users = None if traffic.users is None else int(traffic.users * min(stream, control))
    rng = np.random.default_rng([SEED, index])
    per_look = traffic.requests_per_s * tick_s
    place = _SimulatedStep(
        policy,
        traffic,
        index,
        rng,
        ready=_ready(rng, step, Arms(per_look * stream, per_look * control), users, rollouts),
        tempering=np.maximum(1.0, traffic.dispersion * rng.chisquare(FREE, rollouts) / FREE),
    )
    proofs = dict(_proofs(place)) if step.prove else {}
    proof = np.max([place.ready, *proofs.values()], axis=0)
    in_stream = None if traffic.users is None else traffic.users * stream
    return StepPlan(
        index,
        step.share,
        round(traffic.requests_per_s * stream * HOUR_S, 3),
        round(traffic.requests_per_s * control * HOUR_S, 3),
        users,
        step.min_users,
        at_least_h=step.at_least.total_seconds() / HOUR_S,
        at_most_h=None if step.at_most is None else step.at_most.total_seconds() / HOUR_S,
        prove=step.prove,
        approve=step.approve,
        ready=Hours.of(place.ready * tick_s),
        proof=Hours.of(proof * tick_s) if step.prove else None,
        proved=float((proof <= place.limit).mean()) if step.prove else None,
        slowest=_slowest(place.ready, proofs),
        harms=tuple(_harm(place, ratio, limits, in_stream) for ratio in HARMS),
    )


def _ready(rng: Generator, step: Step, arms: Arms, users: int | None, rollouts: int) -> Vector:
    """The look at which there are samples and users enough in both arms."""
    smaller = min(arms.stream, arms.control)
    if not smaller or (users is not None and users < step.min_users):
        return np.full(rollouts, NEVER)
    samples = [rng.gamma(step.min_samples, 1 / arm, rollouts) for arm in (arms.stream, arms.control)]
    # Users who ask alike are met like cards that are collected; the smaller arm has the fewer.
    waits = 0.0 if users is None else float((users / (users - np.arange(step.min_users))).sum() / smaller)
    ready: Vector = np.ceil(np.maximum(np.max(samples, axis=0), waits))
    return ready


def _proofs(place: _SimulatedStep) -> Iterator[tuple[str, Vector]]:
    """By guardrail, the look at which a clean build is shown to be safe; without those that need none."""
    for rail in place.policy.guardrail_values():
        prove = _PROOFS.get(type(rail))
        found = None if prove is None else prove(place, rail)
        if found is not None:
            yield rail.name, found


def _rate_of(place: _SimulatedStep, rail: RateRatio) -> Rate:
    seen = [rate for rate in place.traffic.slow if rate.limit_s == rail.limit_s]
    return place.traffic.failed if rail.limit_s is None else seen[0] if seen else Rate(0, 0, rail.limit_s)


def _until(place: _SimulatedStep) -> float:
    return max(place.limit, MAX_PROOF_S / place.policy.tick_s)


def _ratio_proof(place: _SimulatedStep, rail: RateRatio) -> Vector:
    rate, bet = _rate_of(place, rail), EitherBet.of_safety(rail.harm, rail.or_points)
    if not rate.of:
        return np.full(len(place.ready), NEVER)
    line = Thresholds.of(place.policy.budget_value(), rail.weight).safe
    arms = place.arms(rate.of)
    if bet.points is None:
        draw = against_control(place.rng, bet.ratio, arms, rate.at, rate.at)
    else:
        draw = against_either(place.rng, bet, arms, rate.at)
    return arrivals(draw, bet.weights, place.goal(line, _until(place), place.tempering))


def _ceiling_proof(place: _SimulatedStep, rail: Ceiling) -> Vector | None:
    """Of a rate that is just still fine. Nothing streams in the dark."""
    if not place.step.share:
        return None
    bet, requests = RateBet.of_safety(rail.harm), place.arms(place.traffic.failed.of).stream
    if rail.of == "unrecovered":
        requests *= place.traffic.failed.at
    if not requests:
        return place.ready
    line = Thresholds.of(place.policy.budget_value(), rail.weight).safe
    draw = against_ceiling(place.rng, bet, requests, rail.at)
    found = arrivals(draw, bet.weights, place.goal(line, _until(place)))
    if rail.of == "unrecovered":
        # A few prove nothing, and are no reason to wait.
        many = place.rng.gamma(FEW_FAULTS, 1 / requests, len(found))
        found = np.where(place.ready < many, place.ready, found)
    return found


_PROOFS: Mapping[type, Callable[..., Vector | None]] = {RateRatio: _ratio_proof, Ceiling: _ceiling_proof}


def _slowest(ready: Vector, proofs: Mapping[str, Vector]) -> str:
    """The last one in most rollouts."""
    if not proofs:
        return ""
    times = np.array([ready, *proofs.values()])
    return ["", *proofs][np.bincount(times.argmax(axis=0), minlength=len(times)).argmax()]


def _harm(
    place: _SimulatedStep, ratio: int, limits: Mapping[str, tuple[int, ...]], in_stream: float | None
) -> Harm:
    """As much worse from this step on; before it everything was well."""
    traffic, tick_s = place.traffic, place.policy.tick_s
    rate = min(1.0, ratio * traffic.failed.at)
    back = np.full(len(place.ready), NEVER)
    for rail in place.policy.guardrail_values():
        if rail.action is Action.ROLL_BACK and traffic.failed.of:
            back = np.minimum(back, _back(place, rail, rate, limits))
    back[back > place.limit] = NEVER
    exposed_h = (np.minimum(back, place.limit) * tick_s + LAG_S) / HOUR_S
    per_h = traffic.requests_per_s * place.step.share_written(place.policy) / 100 * HOUR_S
    answers = float(exposed_h.mean()) * per_h * (rate - traffic.failed.at)
    return Harm(
        ratio,
        float((back < NEVER).mean()),
        Hours.of(back * tick_s + LAG_S).p50,
        answers,
        in_stream * -math.expm1(-answers / in_stream) if in_stream else in_stream,
    )


def _back(place: _SimulatedStep, rail: object, rate: float, limits: Mapping[str, tuple[int, ...]]) -> Vector:
    """The look at which this guardrail goes back for answers that fail at this rate."""
    arms, number = place.arms(place.traffic.failed.of), len(place.ready)
    match rail:
        case EarlyGuard():
            return early_arrivals(place.rng, limits[rail.name], arms.stream, rate, number)
        case RateRatio(limit_s=None) if rate > rail.margin * place.traffic.failed.at:
            bet = RatioBet.of_harm(rail.margin)
            draw = against_control(place.rng, bet, arms, rate, place.traffic.failed.at)
            goal = Goal(_line_back(place, rail), place.harm_from, place.limit, place.tempering)
            return arrivals(draw, bet.weights, goal)
    return np.full(number, NEVER)


def _line_back(place: _SimulatedStep, rail: RateRatio) -> float:
    """What the bet on this step alone must come to, as `comparisons` weighs it with those on others: the one
    on all steps is lost to what was well before, and those that wait stand at 1."""
    steps = len(place.policy.steps)
    each = (1 - CUMULATIVE) / steps
    own = each + (0 if place.index else CUMULATIVE)
    waiting = each * (steps - place.index - 1)
    line = Thresholds.of(place.policy.budget_value(), rail.weight).roll_back
    return math.log((math.exp(line) - waiting) / own)
