"""The table of the plan beside simulation: what `plan` says of a harm, and what came of it in rollouts."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial

import click
import numpy as np
from rich.table import Table

from flags.rollout.plan.plan import Harm, Plan, Rate, Traffic
from flags.rollout.plan.planner import ROLLOUTS, plan
from flags.rollout.policy.guardrails import ErrorBudget
from flags.rollout.policy.policy import Policy
from tests.simulate.rollouts import POLICY
from tests.simulate.users import (
    BEGINS,
    LOOK_MIN,
    LOOKS,
    MIN_SAMPLES,
    MIN_USERS,
    STEPS,
    Among,
    Rollout,
    evidence,
)

NOT_HERE = {"disabled": "not simulated among users who differ"}


@dataclass(frozen=True)
class Course:
    """One rollout, from the step in which the harm begins to that step's end."""

    hours: float
    """Until it goes back; infinite: it does not in this step."""
    answers: float
    """Failures that the build caused until then."""
    users: float
    """Users whom they hit."""


@dataclass(frozen=True)
class Harmed:
    """Many of them, as a plan says it."""

    found: float
    hours: float
    answers: float
    users: float

    @classmethod
    def of(cls, courses: Sequence[Course]) -> "Harmed":
        hours, answers, users = np.array([(one.hours, one.answers, one.users) for one in courses]).T
        middle = float(np.quantile(hours, 0.5, method="higher"))
        return cls(float(np.isfinite(hours).mean()), middle, float(answers.mean()), float(users.mean()))

    @classmethod
    def planned(cls, harm: Harm) -> "Harmed":
        assert harm.users is not None
        hours = float("inf") if harm.hours is None else harm.hours
        return cls(harm.found, hours, harm.answers, harm.users)


CASES = tuple(
    Among(cv2=cv2, ratio=ratio, harm_from=step)
    for step, ratio in ((3, 1.5), (3, 3.0), (3, 5.0), (4, 1.5), (4, 3.0), (4, 5.0))
    for cv2 in (0.0, 1.0, 4.0, 10.0)
)
"""Each is worse from a step on, 25 or 50 % of users."""


def course(truth: Among, seed: Sequence[int]) -> Course:
    """One simulated rollout, by the test of errors with the whole budget."""
    rollout = Rollout(truth, seed)
    begins, ends = [*BEGINS, LOOKS][truth.harm_from : truth.harm_from + 2]
    enough = (rollout.users >= MIN_USERS) & (rollout.every.sum(2).cumsum(0).min(axis=1) >= MIN_SAMPLES)
    back = enough & (evidence(rollout)[-1] >= -np.log(ErrorBudget().roll_back))
    found = np.flatnonzero(back[begins:ends])
    until = begins + (found[0] if len(found) else ends - begins - 1) + 1
    failed = (rollout.failed * rollout.arms[0])[begins:until].sum(axis=0)
    caused = 1 - 1 / truth.ratio
    hours = (found[0] + 1) * LOOK_MIN / 60 if len(found) else float("inf")
    return Course(hours, float(failed.sum() * caused), float((1 - (1 - caused) ** failed).sum()))


def simulated(truth: Among, rounds: int, seed: int, processes: int) -> Harmed:
    """So many rollouts; the same ones each time."""
    seeds = [(seed, number) for number in range(rounds)]
    if processes == 1:
        return Harmed.of([course(truth, each) for each in seeds])
    with ProcessPoolExecutor(processes) as pool:
        return Harmed.of(list(pool.map(partial(course, truth), seeds, chunksize=max(1, rounds // 16))))


def planned(truth: Among, rollouts: int = ROLLOUTS) -> Harmed:
    """Return what `plan` says of the same."""
    harms = _plan(replace(truth, ratio=1.0, harm_from=0), rollouts).steps[truth.harm_from].harms
    return Harmed.planned(next(harm for harm in harms if harm.ratio == truth.ratio))


@cache
def _plan(truth: Among, rollouts: int) -> Plan:
    """It has every step and ratio, whatever the truth does."""
    steps = [
        {"share": share, "at_least": f"{60 * hours - 10}m", "at_most": f"{hours}h"}
        | {"prove": False, "approve": True}
        | {"min_users": MIN_USERS, "min_samples": MIN_SAMPLES}
        for share, hours in STEPS
    ]
    others = dict.fromkeys(("slow", "first_content", "fallback", "recovery", "early"), NOT_HERE)
    policy = Policy.model_validate({**POLICY, "guardrails": others, "steps": steps})
    answers = round(truth.per_minute * 24 * 60)
    failed = Rate(round(answers * truth.rate), answers)
    traffic = Traffic(24 * 3600.0, failed, users=truth.users, cv2=truth.cv2)
    return plan(policy, traffic, rollouts)


def plan_table(rounds: int, seed: int, only: str) -> Table:
    """The table, of rows whose name has `only`."""
    title = f"plan, and {rounds} rollouts a row: 400 users, 20 requests a minute, 1 % fail, 24 h of history"
    table = Table(title=title)
    for heading in ("truth", "goes back", "hours: middle", "answers harmed", "users harmed"):
        table.add_column(heading, justify="left" if heading == "truth" else "right")
    for truth in CASES:
        name = f"plan, CV² {truth.cv2:g}; {truth.ratio:g} times from {STEPS[truth.harm_from][0]} % on"
        if only in name:
            both = planned(truth), simulated(truth, rounds, seed, os.cpu_count() or 1)
            cells = [
                " / ".join(_cell(getattr(one, of)) for one in both) for of in ("hours", "answers", "users")
            ]
            cells.insert(0, " / ".join(f"{100 * one.found:.0f} %" for one in both))
            table.add_row(name, *cells)
            click.echo(f"{name}: {cells}", err=True)
    return table


def _cell(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"
