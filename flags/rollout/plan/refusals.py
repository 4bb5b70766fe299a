"""Objections to a policy as it is, and the assumptions of its plan: sentences. Pure."""

from collections.abc import Callable, Iterator

from flags.rollout.plan.plan import BETWEEN, HOUR_S, Plan, Rate, StepPlan
from flags.rollout.policy import believable
from flags.rollout.policy.guardrails import Action, Ceiling, EarlyGuard, RateRatio
from flags.rollout.policy.policy import Policy
from flags.rollout.verdict.e_processes import JointNull
from flags.rollout.verdict.rate_evidence import Thresholds

SURE = 0.9
"""The power that a step needs: nine in ten clean builds are proved in time."""

MOST_COMPARED = 50
"""Percent. Above it the control arm shrinks, and a larger share does not help."""

UNITS = (("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86_400.0))


def duration(seconds: float) -> str:
    """With the largest unit of which there are 2 or more: `45 min`, `5.4 h`, `3.1 d`."""
    name, size = next((unit for unit in reversed(UNITS) if seconds >= 2 * unit[1]), UNITS[0])
    return f"{seconds / size:.2g} {name}" if seconds < 10 * size else f"{seconds / size:.0f} {name}"


def percent(part: float) -> str:
    return f"{100 * part:.2g} %" if part < 0.995 else "100 %"


def step_name(plan: Plan, step: StepPlan) -> str:
    """The step in words, counted from 1."""
    return f"step {step.index + 1} of {len(plan.steps)} ({f'{step.share} %' if step.share else 'dark'})"


def refusals(policy: Policy, plan: Plan) -> Iterator[str]:
    """Every reason not to begin; without traffic that is the only one."""
    no_traffic = list(_no_traffic(policy, plan))
    yield from no_traffic
    for check in () if no_traffic else _CHECKS:
        yield from check(policy, plan)


def _no_traffic(policy: Policy, plan: Plan) -> Iterator[str]:
    if not plan.traffic.failed.of:
        routes = ", ".join(sorted(policy.routes))
        yield (
            f"No request of {routes} settled in {duration(plan.traffic.looked_s)}: look longer "
            "(--seconds), at a busier time, or correct `routes`."
        )


def _unknown_rates(policy: Policy, plan: Plan) -> Iterator[str]:
    """Rates that are guesses: at a lower rate everything takes longer."""
    rates = [plan.traffic.failed, *(rate for rate in plan.traffic.slow if _is_compared(policy, rate))]
    for rate in rates:
        if rate.is_guess:
            what = "failed" if rate.limit_s is None else f"took over {rate.limit_s:g} s"
            looked = plan.traffic.looked_s
            longer = looked * 10 / rate.bad if rate.bad else looked * 10
            yield (
                f"Only {rate.bad} of {rate.of:,} answers {what} in {duration(looked)}, too few to know how "
                f"often they do: the plan takes the most that fits, {percent(rate.at)}, and if it is less "
                f"all is seen later; look for {duration(longer)} or more (--seconds {longer:.0f})."
            )


def _is_compared(policy: Policy, rate: Rate) -> bool:
    rails = [rail for rail in policy.guardrail_values() if isinstance(rail, RateRatio)]
    return any(rail.limit_s == rate.limit_s for rail in rails)


def _too_few_users(policy: Policy, plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        if step.users is None or step.users >= step.users_needed:
            continue
        ways = [f"it `min_users: {step.users}` or less"] if step.users else []
        share = -(-100 * step.users_needed // max(1, plan.traffic.users or 0))
        if share <= MOST_COMPARED:
            ways.insert(0, f"{'it' if step.share else 'the next step'} a share of {_share(step, share)}")
        yield (
            f"{step_name(plan, step).capitalize()} needs {step.users_needed:,} users in each arm, and of "
            f"{plan.traffic.users:,} users the smaller arm has about {step.users:,}: "
            + (f"give {', or '.join(ways)}." if ways else "there are too few users for any comparison.")
        )


def _share(step: StepPlan, needed: int) -> str:
    """The share that a step needs: above 50 % a smaller one, since then the control arm is the small one."""
    return f"{needed} % or more" if step.share < needed else f"{needed} to {100 - needed} %"


def _too_slow(policy: Policy, plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        if step.users is not None and step.users < step.users_needed:
            continue  # `_too_few_users` has it
        if step.proved is None or step.proof is None:
            if step.ready.p90 is None or step.ready.p90 > step.limit_h:
                yield (
                    f"{step_name(plan, step).capitalize()} has too few requests: "
                    f"{policy.steps[step.index].min_samples:,} in each arm take longer than "
                    f"{duration(step.limit_h * 3600)}; give it a larger share, or a smaller `min_samples`."
                )
        elif step.proved < SURE:
            yield _unproved(policy, plan, step)


def _unproved(policy: Policy, plan: Plan, step: StepPlan) -> str:
    limit = duration(step.limit_h * 3600)
    within = f"its `at_most` of {limit}" if step.at_most_h else f"{limit} (no step should need more)"
    assert step.proof is not None and step.proved is not None
    waits = f" (it waits for `{step.slowest}`)" if step.slowest else ""
    return (
        f"{step_name(plan, step).capitalize()} is shown to be safe within {within} in only "
        f"{percent(step.proved)} of clean builds{waits}: {_ways_out(policy, step)}."
    )


def _ways_out(policy: Policy, step: StepPlan) -> str:
    assert step.proof is not None
    ways, p90 = [], step.proof.p90
    if p90 is not None and step.at_most_h is not None:
        ways.append(f"`at_most: {_as_policy(p90)}`")
    share = None if p90 is None else int(-(-step.share * p90 // step.limit_h))
    if share is None:
        ways.append(f"a share much nearer to {MOST_COMPARED} %")
    elif step.share < share <= MOST_COMPARED:
        ways.append(f"a share of about {share} %")
    slow = [rail for rail in policy.guardrail_values() if isinstance(rail, RateRatio) and rail.limit_s]
    if step.slowest in {rail.name for rail in slow}:
        ways.append(f"`guardrails.{step.slowest}` a lower `limit_s`, which more answers exceed")
    compared = [rail for rail in policy.guardrail_values() if isinstance(rail, RateRatio)]
    if step.slowest in {rail.name for rail in compared if rail.or_points is None}:
        ways.append(f"`guardrails.{step.slowest}.harm` an `or_points`, where that is rare")
    ways.append("a person's approval in place of proof (`prove: false`, `approve: true`)")
    return f"give it {', or '.join(ways)}"


def _as_policy(hours: float) -> str:
    """A duration as the policy writes it, rounded up."""
    return f"{-(-hours // 24):.0f}d" if hours > 48 else f"{-(-hours // 1):.0f}h"


def _noisy_early_guard(policy: Policy, plan: Plan) -> Iterator[str]:
    failed = plan.traffic.failed
    for rail in policy.guardrail_values():
        if isinstance(rail, EarlyGuard) and not failed.is_guess and failed.at > rail.rate:
            yield (
                f"{percent(failed.at)} of answers fail without any streams, and `guardrails.{rail.name}` "
                f"goes back for more than {percent(rail.rate)}: raise its `rate`, or mend the upstream first."
            )


def _made_up(policy: Policy, plan: Plan) -> Iterator[str]:
    if problem := believable.problem(policy, plan.traffic.unverified):
        yield f"{problem[0].upper()}{problem[1:]}."


_CHECKS: tuple[Callable[[Policy, Plan], Iterator[str]], ...] = (
    _made_up,
    _unknown_rates,
    _noisy_early_guard,
    _too_few_users,
    _too_slow,
)


def assumptions(policy: Policy, plan: Plan) -> Iterator[str]:
    """The assumptions of the plan: where one of these is not so, its numbers are wrong."""
    traffic = plan.traffic
    if traffic.failed.of:
        yield (
            f"Day and night there is as much traffic as in the {duration(traffic.looked_s)} that were looked "
            f"at, and {percent(traffic.failed.at)} of a clean build's answers fail, in both arms."
        )
    if traffic.missing:
        yield f"No reading came from {traffic.missing} of the proxies: their traffic comes on top."
    if traffic.unverified:
        yield f"Nobody makes evidence up, though identity is not verified: {believable.RISK}."
    if traffic.users is None:
        yield "How many users there are is not known (--users): whether they suffice is not checked."
    else:
        yield f"{traffic.users:,} users ask, some of them much more than others."
    if traffic.cv2 is None:
        yield "The proxies do not say how users' failures differ: as if alike. If not, all takes longer."
    else:
        yield (
            f"How often users fail differs as in their histories (a squared coefficient of variation of "
            f"{traffic.cv2:.2g}), and the proxies have known these for a day."
        )
    if traffic.dispersion > 1.0:
        yield f"Groups of users differ {traffic.dispersion:.1f} times as much as by chance, as was seen."
    ceilings = [rail for rail in policy.guardrail_values() if isinstance(rail, Ceiling)]
    if ceilings:
        fine = ", ".join(f"{rail.name} {percent(rail.at)}" for rail in ceilings)
        yield f"What only streams have is just as bad as the policy calls fine: {fine}."
    yield "A harm begins with its step, in answers that fail; harmed are those that would not have failed."
    yield from _between(policy, plan)
    if policy.mode != "auto":
        yield f"Somebody goes back at once when told to: with `mode: {policy.mode}` the controller does not."
    yield from _never_fails(policy, plan)
    yield from _never_back(policy)


def _between(policy: Policy, plan: Plan) -> Iterator[str]:
    """Say what a build costs whose failures are above what counts as no harm, and below what proof of safety
    excludes."""
    for rail in policy.guardrail_values():
        if not isinstance(rail, RateRatio) or rail.limit_s or not rail.margin < BETWEEN < rail.harm:
            continue
        harms = [(step, harm) for step in plan.steps for harm in step.harms if harm.ratio == BETWEEN]
        costs = [
            f"{step_name(plan, step)} {harm.answers:,.0f} answers until {duration(step.limit_h * 3600)}"
            for step, harm in harms
        ]
        yield (
            f"A build whose answers fail {BETWEEN:g} times as often is between what is no harm "
            f"({rail.margin:g}) and what `guardrails.{rail.name}` rules out ({rail.harm:g}): it may count as "
            f"safe. About so many would be harmed: {'; '.join(costs)}."
        )


def _never_fails(policy: Policy, plan: Plan) -> Iterator[str]:
    """Say how soon a service in which nothing fails is proved by its percentage points."""
    for rail in policy.guardrail_values():
        if not isinstance(rail, RateRatio) or rail.or_points is None:
            continue
        threshold = Thresholds.of(policy.budget_value(), rail.weight).safe
        null = JointNull.at_least(rail.harm, rail.or_points)
        times = []
        for step in plan.steps:
            both = step.stream_per_h + step.control_per_h
            if step.proof is not None and both:
                answers = null.clean(threshold, step.stream_per_h / both)
                hours = duration(answers / step.stream_per_h * HOUR_S)
                times.append(f"{step_name(plan, step)} {answers:,.0f} answers of the stream arm, in {hours}")
        if times:
            what = "fails" if rail.limit_s is None else f"takes over {rail.limit_s:g} s"
            yield (
                f"Where nothing {what} in either arm, `guardrails.{rail.name}` is safe by `or_points: "
                f"{rail.or_points:g}` after: {'; '.join(times)}."
            )


def _never_back(policy: Policy) -> Iterator[str]:
    rails = [rail for rail in policy.guardrail_values() if isinstance(rail, RateRatio) and not rail.limit_s]
    if not any(rail.action is Action.ROLL_BACK for rail in rails):
        yield "No guardrail goes back for failed answers but the early one: `guardrails.errors` does not."
