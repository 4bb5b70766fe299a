"""A plan from live traffic: two readings, and what lies between them. And how a plan is shown."""

import asyncio
import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flags.rollout.evidence import BAD, ELIGIBLE
from flags.rollout.plan import Harm, Plan, StepPlan, Traffic, plan
from flags.rollout.policy import Policy
from flags.rollout.readings import between
from flags.rollout.running import opened_readings


async def look(policy: Policy, seconds: float, users: int | None) -> Plan:
    """Look for so long, then plan. Raises EvidenceError where there is nothing to look at."""
    async with opened_readings(policy) as readings:
        before = await readings.read(time.time())
        await asyncio.sleep(seconds)
        after = await readings.read(time.time())
    batch = between(before, after, 0)
    arms = {arm for arm, _, _ in batch.outcomes}
    limit_s = policy.guardrails.slow.limit_s
    tails = [tail for (_, limit), tail in batch.seconds.items() if limit == limit_s]
    traffic = Traffic(
        seconds=batch.until_s - batch.since_s,
        requests=sum(batch.total(arm, ELIGIBLE) for arm in arms),
        failed=sum(batch.total(arm, BAD) for arm in arms),
        answered=sum(tail.all for tail in tails),
        slow=sum(tail.over for tail in tails),
        users=users,
    )
    return plan(policy, traffic)


def shown(found: Plan) -> RenderableType:
    """For a terminal."""
    traffic = found.traffic
    seen = (
        f"Seen in {traffic.seconds:.0f} s: {traffic.requests:,} answers, {traffic.failed:,} failed, "
        f"{traffic.slow:,} of {traffic.answered:,} slow."
    )
    table = Table()
    for heading in ("step", "answers an hour", "users", "proof: half by", "nine in ten by"):
        table.add_column(heading, justify="right")
    for harm in found.steps[-1].harms if found.steps else ():
        table.add_column(f"{harm.times:g} times: harmed, after", justify="right")
    for step in found.steps:
        table.add_row(*_row(step))
    lines = [Text(seen), *(Text(each, style="yellow") for each in found.assumed)]
    refused = [Text(f"Refused: {each}", style="red") for each in found.refusals]
    return Group(*lines, *([table] if found.steps else []), *refused)


def _row(step: StepPlan) -> list[str]:
    proof = (
        [_span(step.proof_hours), _span(step.proof_hours_most)] if step.proves else ["a person", "decides"]
    )
    users = "?" if step.users is None else f"{step.users:,}"
    share = f"{step.share} %" if step.share else "dark"
    return [share, f"{step.answers_per_hour:,.0f}", users, *proof, *map(_harm, step.harms)]


def _harm(harm: Harm) -> str:
    return "not seen" if harm.hours is None else f"{harm.harmed:,}, {_span(harm.hours)}"


def _span(hours: float | None) -> str:
    if hours is None:
        return "never"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} d"
