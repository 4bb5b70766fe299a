"""Tables of harm that is not in the failures of all: in one small route, and in how long answers take."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial

import click
import numpy as np
from rich.table import Table
from scipy.stats import norm

from flags.rollout.policy.guardrails import ErrorBudget, UsualTime
from flags.rollout.verdict.failure_evidence import ALL_ROUTES
from flags.rollout.verdict.rate_evidence import Thresholds
from proxy.observe.users.watched_users import SLOWER, USUAL_ANSWERS
from tests.simulate.users import LOOK_MIN, LOOKS, MIN_SAMPLES, MIN_USERS, Among, Array, Rollout, evidence


@dataclass(frozen=True)
class Routes:
    """A small route of a policy with others, which are as they should be. 400 users ask each of them."""

    ratio: float
    """Times as many failures of the stream arm in the small one."""
    routes: int
    part: float = 0.1
    """Of all requests that are the small one's."""
    cv2: float = 1.0
    of_others: float = 1.0
    """Times as many failures of the stream arm in the others."""

    def each(self, seed: Sequence[int]) -> list[Rollout]:
        """All routes, the small one first."""
        parts = [self.part, *[(1 - self.part) / (self.routes - 1)] * (self.routes - 1)]
        return [
            Rollout(
                Among(
                    cv2=self.cv2,
                    ratio=self.of_others if number else self.ratio,
                    per_minute=20 * part,
                ),
                [*seed, number],
            )
            for number, part in enumerate(parts)
        ]


@dataclass(frozen=True)
class Slower:
    """Answers of the stream arm take longer."""

    times: float
    spread: float
    """Standard deviation of the logarithms of one user's times."""
    history_h: float = 24.0


def _enough(rollout: Rollout) -> Array:
    found: Array = (rollout.users >= MIN_USERS) & (rollout.every.sum(2).cumsum(0).min(1) >= MIN_SAMPLES)
    return found


def _together(routes: Sequence[Rollout]) -> Rollout:
    """The counts of several routes. Each may have the same users: bets on them are divided."""
    whole = copy(routes[0])
    for name in ("every", "bad", "expected", "weighed", "foreseen", "worse"):
        setattr(whole, name, np.sum([getattr(route, name) for route in routes], axis=0))
    whole.worse = whole.worse / len(routes)
    whole.drawn = {look: np.mean([route.drawn[look] for route in routes], axis=0) for look in whole.drawn}
    return whole


def _first(found: Array) -> int:
    return int(np.argmax(found)) if found.any() else LOOKS


def routes_backs(truth: Routes, seed: Sequence[int]) -> tuple[int, int]:
    """Return the look at which `errors` goes back: by all routes together alone, and by each beside."""
    routes = truth.each(seed)
    together = evidence(_together(routes))[-1]
    each = math.log((1 - ALL_ROUTES) / len(routes))
    logs = [math.log(ALL_ROUTES) + together]
    logs += [each + np.where(_enough(route), evidence(route)[-1], 0.0) for route in routes]
    line = -math.log(ErrorBudget().roll_back)
    enough = np.logical_or.reduce([_enough(route) for route in routes])
    both: Array = np.logaddexp.reduce(logs)
    return _first(enough & (together >= line)), _first(enough & (both >= line))


def slower_holds(truth: Slower, seed: Sequence[int]) -> tuple[int]:
    """Return the look at which `usual` holds, with a tenth of the budget."""
    rollout = Rollout(Among(cv2=0.0, rate=0.0), seed)
    random = np.random.default_rng([*seed, 2])
    users = rollout.truth.users
    own, spread = random.normal(0.0, 1.0, users), truth.spread
    stream, control = rollout.arms
    of_rest = rollout.asked * ~(stream | control)
    past = random.poisson(rollout.asked.mean(0) * truth.history_h * 60 / LOOK_MIN)
    learned = np.concatenate([past[None], of_rest])
    sums = learned * own + np.sqrt(learned) * spread * random.normal(0.0, 1.0, learned.shape)
    answers, logs = (of.cumsum(0)[:-1] for of in (learned, sums))
    of_all = (logs.sum(1) / np.maximum(1, answers.sum(1)))[:, None]
    usual = (logs + USUAL_ANSWERS * of_all) / (answers + USUAL_ANSWERS)
    now = own + np.where(stream, math.log(truth.times), 0.0)
    slow = random.binomial(rollout.asked, norm.sf((usual + math.log(SLOWER) - now) / spread))
    rollout.bad = np.stack([(slow * arm) @ rollout.buckets for arm in rollout.arms], axis=1)
    rail = UsualTime("usual", 0.1)
    found, *_ = evidence(rollout, rail.margin)
    return (_first(_enough(rollout) & (found >= Thresholds.of(ErrorBudget(), rail.weight).hold)),)


ROUTES: Mapping[str, Routes] = {
    f"route, one of {routes}, a tenth of the traffic, CV² {cv2:g}; {ratio:g} times"
    + " in all" * (ratio == 1.25): Routes(ratio, routes, cv2=cv2, of_others=1.25 if ratio == 1.25 else 1.0)
    for ratio in (1.25, 3.0, 5.0, 10.0)
    for routes, cv2 in ((2, 1.0), (2, 4.0), (5, 1.0))
}

SLOWERS: Mapping[str, Slower] = {
    f"usual, times of {spread:g}; {100 * (times - 1):.0f} % more time": Slower(times, spread)
    for times in (1.0, 1.05, 1.3)
    for spread in (0.3, 0.5, 0.8)
}


def _looks(
    backs: Callable[..., Sequence[int]], truth: object, rounds: int, seed: int, processes: int
) -> list[list[int]]:
    """By rule, the look at which it acts in each rollout."""
    seeds = [(seed, number) for number in range(rounds)]
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(partial(backs, truth), seeds, chunksize=max(1, rounds // 16)))
    return [list(looks) for looks in zip(*found, strict=True)]


def _cells(looks: Sequence[int]) -> list[str]:
    hours = sorted((look + 1) * LOOK_MIN / 60 for look in looks if look < LOOKS)
    middle = f"{hours[len(hours) // 2]:.0f} h" if hours else "–"
    return [f"{100 * len(hours) / len(looks):.3g} %", middle]


def more_tables(rounds: int, seed: int, only: str) -> list[Table]:
    """Both tables, of rows whose name has `only`."""
    tables = []
    for title, truths, backs, headings in (
        ("goes back", ROUTES, routes_backs, ("by all together", "hours", "by each route too", "hours")),
        ("usual holds", SLOWERS, slower_holds, ("holds", "hours")),
    ):
        table = Table(title=f"{title}, of {rounds} rollouts a row of 68 hours, 20 requests a minute")
        for heading in ("truth", *headings):
            table.add_column(heading, justify="left" if heading == "truth" else "right")
        for name, truth in truths.items():
            if only in name:
                found = _looks(backs, truth, rounds, seed, os.cpu_count() or 1)
                cells = [cell for looks in found for cell in _cells(looks)]
                table.add_row(name, *cells)
                click.echo(f"{name}: {cells}", err=True)
        tables.append(table)
    return tables
