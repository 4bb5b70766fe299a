"""A plan from live traffic: two readings, what was counted between them, and the plan as tables."""

import asyncio
import math
import statistics
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flags.errors import EvidenceError, ReadingProblem
from flags.rollout.evidence.evidence import BAD, ELIGIBLE, Batch
from flags.rollout.evidence.growth import between
from flags.rollout.evidence.readings import Reading
from flags.rollout.plan.plan import BETWEEN, FEW_EVENTS, MAX_PROOF_S, Harm, Plan, Rate, StepPlan, Traffic
from flags.rollout.plan.planner import plan
from flags.rollout.plan.refusals import duration, percent
from flags.rollout.policy.policy import Policy
from flags.rollout.running import opened_readings
from flags.rollout.verdict.buckets import BUCKETS
from flags.rollout.verdict.e_processes import Vector, dispersion


async def plan_from_traffic(policy: Policy, seconds: float, users: int | None) -> Plan:
    """Read the policy's evidence, wait, read again, and plan.

    Args:
        policy: its evidence source is read, with everybody's requests; nothing is written.
        seconds: between the readings. With Prometheus more than a scrape interval.
        users: different ones of the policy's routes; None: not known.

    Raises EvidenceError if there is no reading, or if the second one is no newer.
    """
    async with opened_readings(policy) as source:
        before = await source.read(time.time())
        await asyncio.sleep(seconds)
        after = await source.read(time.time())
    return await asyncio.to_thread(plan, policy, traffic(before, after, users))


def traffic(before: Reading, after: Reading, users: int | None) -> Traffic:
    """Return the counts between two readings, of all arms together. Raises EvidenceError."""
    batch = between(before, after, 0, rest_by_bucket=True)
    # Counts are of the time between scrapes, which is not the time between questions.
    looked = [at_s - before.seen[i] for i, at_s in after.seen.items() if at_s > before.seen.get(i, at_s)]
    if not looked:
        sentence = "no proxy was scraped between the two readings: look for longer than a scrape interval"
        raise EvidenceError(ReadingProblem.STALE, f"{sentence} (--seconds)")
    bad, every = _by_bucket(batch)
    failed = Rate(int(bad.sum()), int(every.sum()))
    over: dict[float, list[int]] = {}
    for (_, limit_s), tail in batch.seconds.items():
        sums = over.setdefault(limit_s, [0, 0])
        over[limit_s] = [sums[0] + tail.over, sums[1] + tail.all]
    return Traffic(
        statistics.mean(looked),
        failed,
        tuple(Rate(bad, of, limit_s) for limit_s, (bad, of) in sorted(over.items())),
        users,
        1.0 if failed.bad < FEW_EVENTS else dispersion(bad, every),
        len(after.missing),
        tuple(after.unverified),
        after.users_cv2,
    )


def _by_bucket(batch: Batch) -> tuple[Vector, Vector]:
    bad, every = np.zeros(BUCKETS), np.zeros(BUCKETS)
    for (_, bucket, outcome), count in batch.outcomes.items():
        bad[bucket] += count if outcome in BAD else 0
        every[bucket] += count if outcome in ELIGIBLE else 0
    return bad, every


def shown(plan: Plan) -> RenderableType:
    """The plan for a terminal of 100 columns or more; without traffic only that there is none."""
    parts: list[RenderableType] = [_seen(plan.traffic)]
    if plan.traffic.failed.of:
        parts += [_table(plan), _notes("Taken for granted", plan.assumptions)]
    if plan.refusals:
        parts.append(_notes("Do not begin like this", plan.refusals))
    return Group(*parts)


def _seen(traffic: Traffic) -> Text:
    failed, per_minute = traffic.failed, _number(traffic.requests_per_s * 60)
    text = f"Seen in {duration(traffic.looked_s)}: {failed.of:,} answers ({per_minute} a minute)"
    text += f", {failed.bad:,} failed"
    for rate in traffic.slow:
        text += f", {rate.bad:,} of {rate.of:,} whole ones took over {rate.limit_s:g} s"
    return Text(f"{text}.\n")


def _table(plan: Plan) -> Table:
    table = Table(title=f"{plan.flag}: what each step takes and risks", show_lines=True)
    harms = [f"if {harm.ratio:g}\u00d7 as many fail: back" for harm in _clear(plan.steps[0])]
    widths = {"step": 7, "in each arm": 17, "a clean build is proved in": 18} | dict.fromkeys(harms, 13)
    for heading, width in widths.items():
        table.add_column(heading, max_width=width)
    for step in plan.steps:
        table.add_row(_step(step), _arms(step), _proof(step), *(_harm(harm, step) for harm in _clear(step)))
    return table


def _clear(step: StepPlan) -> list[Harm]:
    """Harms that must be found; the one that may count as safe has its sentence."""
    return [harm for harm in step.harms if harm.ratio != BETWEEN]


def _step(step: StepPlan) -> str:
    return f"{step.index + 1}: {f'{step.share} %' if step.share else 'dark'}"


def _arms(step: StepPlan) -> str:
    each = "" if step.stream_per_h == step.control_per_h else f"\nand {_number(step.control_per_h)}"
    users = "users unknown" if step.users is None else f"{step.users:,} users"
    return f"{_number(step.stream_per_h)}{each} answers/h\n{users}\n(needs {step.users_needed:,})"


def _proof(step: StepPlan) -> str:
    if step.proof is None:
        approval = "\na person approves" if step.approve else ""
        return f"not asked for{approval}\nsamples: {_hours(step.ready.p50)}"
    limit = f"\nat most: {_hours(step.at_most_h)}" if step.at_most_h else ""
    return f"half: {_hours(step.proof.p50)}\n9 of 10: {_hours(step.proof.p90)}{limit}"


def _harm(harm: Harm, step: StepPlan) -> str:
    """The time until half of such builds go back, the part that does, and the answers and users it costs."""
    time = f"not in {_hours(step.limit_h)}" if harm.hours is None else f"in {_hours(harm.hours)}"
    users = "" if harm.users is None else f"\n{math.ceil(harm.users):,} users"
    return f"{time}\nfound: {percent(harm.found)}\n{math.ceil(harm.answers):,} answers{users}"


def _hours(hours: float | None) -> str:
    return f"over {duration(MAX_PROOF_S)}" if hours is None else duration(hours * 3600)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _notes(title: str, sentences: Sequence[str]) -> Table:
    notes = Table(title=f"\n{title}", title_justify="left", box=None, show_header=False)
    for sentence in sentences:
        notes.add_row("-", sentence)
    return notes
