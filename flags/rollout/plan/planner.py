"""The time and the cost of a policy's steps in the traffic of today, before a rollout begins. Pure.

A simulation, and no promise: the verdict's own tests run on random traffic, in many rollouts of a clean build
(their power), and of builds that fail 2, 3 and 5 times as often. Failures are those of users who differ as
their histories say (`user_rollouts`). `refusals` says what cannot work.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from flags.rollout.plan.plan import BETWEEN, HOUR_S, MAX_PROOF_S, Harm, Hours, Plan, Rate, StepPlan, Traffic
from flags.rollout.plan.refusals import assumptions, refusals
from flags.rollout.plan.stopping_times import (
    NEVER,
    Arms,
    EarlyRule,
    Generator,
    StoppingRule,
    early_stopping_times,
    joint_events,
    rate_events,
    ratio_events,
    stopping_times,
)
from flags.rollout.plan.user_rollouts import Population, UserRollouts
from flags.rollout.policy.guardrails import Action, Ceiling, EarlyGuard, RateRatio
from flags.rollout.policy.policy import Policy, Step
from flags.rollout.verdict.binomial_limits import early_limits
from flags.rollout.verdict.buckets import BUCKETS
from flags.rollout.verdict.draw_evidence import SHORTEST_S
from flags.rollout.verdict.e_processes import JointNull, RateNull, Vector
from flags.rollout.verdict.rate_evidence import Thresholds
from flags.rollout.verdict.rate_tests import FEW_FAULTS

ROLLOUTS = 200
"""Simulated for each result: enough to know its quantiles to within a few in a hundred."""

SEED = 2205_14762
"""The same policy and traffic give the same plan."""

HARMS = (2, 3, 5)
"""The factors by which answers fail more often, in the simulated builds that must be found."""

ASSUMED_USERS = 1000
"""Where their number is not known."""

HISTORY_S = 24 * 3600.0
"""Proxies that know users' histories are taken to have known them for so long."""

LAG_S = 180.0
"""From an answer to its effect: 150 until it settles and, by the defaults, 15 each for a scrape and for the
proxies' poll of the flag."""

FREE = 2 * (BUCKETS - 1)
"""Degrees of freedom of the measured dispersion: two arms of so many groups."""


@dataclass(frozen=True, slots=True)
class _SimulatedStep:
    """One step in its traffic, for which rollouts are simulated. Times are in looks."""

    policy: Policy
    traffic: Traffic
    index: int
    rng: Generator
    ready: Vector
    dispersion: Vector
    users: UserRollouts | None
    """At this step; None: no guardrail compares failed answers."""

    @property
    def step(self) -> Step:
        return self.policy.steps[self.index]

    @property
    def limit(self) -> float:
        at_most = self.step.at_most
        return (MAX_PROOF_S if at_most is None else at_most.total_seconds()) / self.policy.tick_s

    @property
    def harm_from(self) -> Vector:
        """The first look that can find harm, which may rest on the users and samples of the steps before."""
        here, before = self.step, self.policy.steps[: self.index]
        has_enough = any(s.min_samples >= here.min_samples and s.min_users >= here.min_users for s in before)
        return np.ones_like(self.ready) if has_enough else self.ready

    def arms(self, requests: int) -> Arms:
        """The arms' parts of so many requests seen in the whole reading."""
        stream, control = shares(self.step.share_written(self.policy))
        each = requests / self.traffic.looked_s * self.policy.tick_s
        return Arms(each * stream, each * control)

    def rule(self, threshold: float, until: float, dispersion: Vector | None = None) -> StoppingRule:
        no_dispersion = np.ones_like(self.ready)
        return StoppingRule(threshold, self.ready, until, no_dispersion if dispersion is None else dispersion)


def shares(written: int) -> tuple[float, float]:
    """The parts of users in the stream arm and in its control, 0 to 1, at a share written in percent."""
    return written / 100, min(written, 100 - written) / 100


def plan(policy: Policy, traffic: Traffic, rollouts: int = ROLLOUTS) -> Plan:
    """The time, the cost and the gaps of each step. It computes for seconds, and gives the same each time."""
    limits = {
        rail.name: early_limits(rail.rate, rail.of, rail.alpha / 2)  # of two windows
        for rail in policy.guardrail_values()
        if isinstance(rail, EarlyGuard)
    }
    users = _user_rollouts(policy, traffic, rollouts)
    steps = []
    for index, step in enumerate(policy.steps):
        made = _step_plan(policy, traffic, index, users, limits, rollouts)
        steps.append(made)
        if users is not None:
            users.pass_step(shares(step.share_written(policy)), _expected_h(made) * HOUR_S / policy.tick_s)
    unchecked = Plan(policy.flag, traffic, tuple(steps))
    return replace(
        unchecked,
        assumptions=tuple(assumptions(policy, unchecked)),
        refusals=tuple(refusals(policy, unchecked)),
    )


def _user_rollouts(policy: Policy, traffic: Traffic, rollouts: int) -> UserRollouts | None:
    """At the first step. None: nothing compares failed answers, or there are none to compare."""
    rails = [rail for rail in policy.guardrail_values() if isinstance(rail, RateRatio) and not rail.limit_s]
    if not rails or not traffic.failed.of:
        return None
    population = Population(
        ASSUMED_USERS if traffic.users is None else traffic.users,
        traffic.requests_per_s * policy.tick_s,
        traffic.failed.at,
        traffic.cv2 or 0.0,
        known_looks=0.0 if traffic.cv2 is None else HISTORY_S / policy.tick_s,
    )
    at_least = [max(SHORTEST_S, step.at_least.total_seconds()) / policy.tick_s for step in policy.steps]
    rng = np.random.default_rng([SEED, len(policy.steps)])
    return UserRollouts(rng, population, rails[0], rollouts, at_least)


def _expected_h(step: StepPlan) -> float:
    """Hours that a clean build stays in a step."""
    proof = None if step.proof is None else step.proof.p50
    return min(step.limit_h, max(step.at_least_h, proof or 0.0))


def _step_plan(
    policy: Policy,
    traffic: Traffic,
    index: int,
    users_of: UserRollouts | None,
    limits: Mapping[str, tuple[int, ...]],
    rollouts: int,
) -> StepPlan:
    step, tick_s = policy.steps[index], policy.tick_s
    stream, control = shares(step.share_written(policy))
    users = None if traffic.users is None else int(traffic.users * min(stream, control))
    rng = np.random.default_rng([SEED, index])
    per_look = traffic.requests_per_s * tick_s
    simulated = _SimulatedStep(
        policy,
        traffic,
        index,
        rng,
        ready=_ready(rng, step, Arms(per_look * stream, per_look * control), users, rollouts),
        dispersion=np.maximum(1.0, traffic.dispersion * rng.chisquare(FREE, rollouts) / FREE),
        users=users_of,
    )
    proofs = dict(_proofs(simulated)) if step.prove else {}
    proof = np.max([simulated.ready, *proofs.values()], axis=0)
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
        ready=Hours.of(simulated.ready * tick_s),
        proof=Hours.of(proof * tick_s) if step.prove else None,
        proved=float((proof <= simulated.limit).mean()) if step.prove else None,
        slowest=_slowest(simulated.ready, proofs),
        harms=tuple(_harm(simulated, ratio, limits) for ratio in (BETWEEN, *HARMS)),
    )


def _ready(rng: Generator, step: Step, arms: Arms, users: int | None, rollouts: int) -> Vector:
    """The first look with enough samples and users in both arms."""
    smaller = min(arms.stream, arms.control)
    if not smaller or (users is not None and users < step.min_users):
        return np.full(rollouts, NEVER)
    samples = [rng.gamma(step.min_samples, 1 / arm, rollouts) for arm in (arms.stream, arms.control)]
    # Users who ask equally often are met as in the coupon collector's problem; the smaller arm has fewer.
    waits = 0.0 if users is None else float((users / (users - np.arange(step.min_users))).sum() / smaller)
    ready: Vector = np.ceil(np.maximum(np.max(samples, axis=0), waits))
    return ready


def _proofs(simulated: _SimulatedStep) -> Iterator[tuple[str, Vector]]:
    """By guardrail, the look at which a clean build is shown to be safe; without those that need none."""
    for rail in simulated.policy.guardrail_values():
        prove = _PROOFS.get(type(rail))
        found = None if prove is None else prove(simulated, rail)
        if found is not None:
            yield rail.name, found


def _rate_of(simulated: _SimulatedStep, rail: RateRatio) -> Rate:
    seen = [rate for rate in simulated.traffic.slow if rate.limit_s == rail.limit_s]
    return simulated.traffic.failed if rail.limit_s is None else seen[0] if seen else Rate(0, 0, rail.limit_s)


def _until(simulated: _SimulatedStep) -> float:
    return max(simulated.limit, MAX_PROOF_S / simulated.policy.tick_s)


def _ratio_proof(simulated: _SimulatedStep, rail: RateRatio) -> Vector:
    rate, null = _rate_of(simulated, rail), JointNull.at_least(rail.harm, rail.or_points)
    if not rate.of:
        return np.full(len(simulated.ready), NEVER)
    thresholds = Thresholds.of(simulated.policy.budget_value(), rail.weight)
    if rail.limit_s is None and simulated.users is not None:
        written = shares(simulated.step.share_written(simulated.policy))
        return simulated.users.safe(written, _until(simulated), thresholds.safe, simulated.ready)
    threshold = thresholds.safe
    arms = simulated.arms(rate.of)
    if null.difference is None:
        draw = ratio_events(simulated.rng, null.ratio, arms, rate.at, rate.at)
    else:
        draw = joint_events(simulated.rng, null, arms, rate.at)
    return stopping_times(
        draw, null.weights, simulated.rule(threshold, _until(simulated), simulated.dispersion)
    )


def _ceiling_proof(simulated: _SimulatedStep, rail: Ceiling) -> Vector | None:
    """Proof that a rate at its ceiling is safe; None for a dark step, in which nothing streams."""
    if not simulated.step.share:
        return None
    null, requests = RateNull.at_least(rail.harm), simulated.arms(simulated.traffic.failed.of).stream
    if rail.of == "unrecovered":
        requests *= simulated.traffic.failed.at
    if not requests:
        return simulated.ready
    threshold = Thresholds.of(simulated.policy.budget_value(), rail.weight).safe
    draw = rate_events(simulated.rng, null, requests, rail.at)
    found = stopping_times(draw, null.weights, simulated.rule(threshold, _until(simulated)))
    if rail.of == "unrecovered":
        # So few events prove nothing, and are no reason to wait.
        many = simulated.rng.gamma(FEW_FAULTS, 1 / requests, len(found))
        found = np.where(simulated.ready < many, simulated.ready, found)
    return found


_PROOFS: Mapping[type, Callable[..., Vector | None]] = {RateRatio: _ratio_proof, Ceiling: _ceiling_proof}


def _slowest(ready: Vector, proofs: Mapping[str, Vector]) -> str:
    """The guardrail that is proved last in most rollouts."""
    if not proofs:
        return ""
    times = np.array([ready, *proofs.values()])
    return ["", *proofs][np.bincount(times.argmax(axis=0), minlength=len(times)).argmax()]


def _harm(simulated: _SimulatedStep, ratio: float, limits: Mapping[str, tuple[int, ...]]) -> Harm:
    """The cost of a build that is so many times worse from this step on, and clean before it."""
    traffic, tick_s = simulated.traffic, simulated.policy.tick_s
    rate = min(1.0, ratio * traffic.failed.at)
    back = np.full(len(simulated.ready), NEVER)
    for rail in simulated.policy.guardrail_values():
        if rail.action is Action.ROLL_BACK and traffic.failed.of:
            # The same failures are what each guardrail sees: were their times independent, the first of them
            # would come too soon.
            back = np.minimum(back, np.sort(_back(simulated, rail, ratio, limits)))
    back[back > simulated.limit] = NEVER
    exposed = np.minimum(back, simulated.limit) + LAG_S / tick_s
    share = simulated.step.share_written(simulated.policy) / 100
    hit = None
    if simulated.users is not None and traffic.users is not None:
        hit = float(simulated.users.users_harmed(shares(round(100 * share)), ratio, exposed).mean())
    return Harm(
        ratio,
        float((back < NEVER).mean()),
        Hours.of(back * tick_s + LAG_S).p50,
        float(exposed.mean()) * tick_s * traffic.requests_per_s * share * (rate - traffic.failed.at),
        hit,
    )


def _back(
    simulated: _SimulatedStep, rail: object, ratio: float, limits: Mapping[str, tuple[int, ...]]
) -> Vector:
    """The look at which this guardrail asks for a rollback, when so many times as many answers fail."""
    arms, number = simulated.arms(simulated.traffic.failed.of), len(simulated.ready)
    rate = min(1.0, ratio * simulated.traffic.failed.at)
    match rail:
        case EarlyGuard():
            first = EarlyRule(limits[rail.name], rail.min_users, simulated.dispersion)
            return early_stopping_times(simulated.rng, first, arms, rate, simulated.traffic.failed.at)
        case RateRatio(limit_s=None) if simulated.users is not None and ratio > rail.margin:
            written = shares(simulated.step.share_written(simulated.policy))
            threshold = Thresholds.of(simulated.policy.budget_value(), rail.weight).roll_back
            return simulated.users.back(written, ratio, simulated.limit, threshold, simulated.harm_from)
    return np.full(number, NEVER)
