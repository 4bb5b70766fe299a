"""The table of rollouts among users who differ: power beside false alarms, and two rules of others beside."""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import click
from rich.table import Table

from flags.rollout.verdict.count_tests import NO_WORSE
from tests.simulate.users import LOOK_MIN, LOOKS, OURS, RULES, Among, Back, backs

_SPREADS = {f"CV² {cv2:g}": Among(cv2=cv2) for cv2 in (0.0, 1.0, 4.0, 10.0)}
_OTHERS = {
    "CV² 4, half of them others than before": Among(kept=0.5),
    "CV² 4, 30 % without a history": Among(new=0.3),
    "CV² 4, no history": Among(history_h=0),
    "CV² 4, 3 times as many from hour 13 on": Among(later=3.0),
    "CV² 4, outages for all": Among(outages=True),
    "CV² 1, an outage each hour in a clinic": Among(cv2=1.0, clinics=True),
    "CV² 1, one user's storm of 14 retries": Among(cv2=1.0, storm=14),
    "CV² 1, a bot has half of the traffic": Among(cv2=1.0, bot=True),
    "CV² 4, a bot has half of the traffic": Among(bot=True),
}
_FEW_WHO_FAIL = {
    f"{users:,}, of whom {100 * heavy:.0f} % have 80 % of failures": Among(users=users, heavy=heavy)
    for users in (100, 400, 3000)
    for heavy in (0.1, 0.05, 0.02)
}


TRUTHS: Mapping[str, Among] = {
    **{
        f"users, {name}; {r:g} times": replace(truth, ratio=r)
        for r in (1.25, 3.0, 1.5)
        for name, truth in _SPREADS.items()
    },
    **{
        f"users, {name}; 3 times, all with 1 in 10": replace(truth, ratio=3.0, few=0.1)
        for name, truth in _SPREADS.items()
    },
    **{
        f"users, {name}; {r:g} times": replace(truth, ratio=r)
        for r in (1.25, 3.0)
        for name, truth in _OTHERS.items()
    },
    **{
        f"users, {name}; 3 times from 25 % on": replace(truth, ratio=3.0, harm_from=3)
        for name, truth in _SPREADS.items()
    },
    **{f"users, {name}; 1.25 times": replace(truth, ratio=1.25) for name, truth in _FEW_WHO_FAIL.items()},
}
"""At 1.25 times, the most that is no harm, whatever goes back is a false alarm."""


def simulated(truth: Among, rounds: int, seed: int, processes: int) -> list[Back]:
    """Return so many rollouts; the same ones each time."""
    seeds = [(seed, number) for number in range(rounds)]
    if processes == 1:
        return [backs(truth, each) for each in seeds]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(partial(backs, truth), seeds, chunksize=max(1, rounds // 16)))


MORE = 4
"""Times as many rollouts where whatever goes back is a false alarm: few do."""


def rounds_of(truth: Among, rounds: int) -> int:
    """Return how many rollouts a row has."""
    return rounds if truth.ratio > NO_WORSE else MORE * rounds


def wilson(found: int, of: int) -> str:
    """A part in percent, with the interval that has it with 95 % (Wilson)."""
    z2 = 1.96**2
    middle, width = (
        (found + z2 / 2) / (of + z2),
        math.sqrt(z2 * (found * (of - found) / of + z2 / 4)) / (of + z2),
    )
    edges = (100 * max(0.0, edge) for edge in (middle - width, middle + width))
    low, high = (f"{edge:.0f}" if edge >= 10 else f"{edge:.2g}" for edge in edges)
    return f"{100 * found / of:.3g} % ({low}–{high})"


def part(found: Sequence[Back], rule: str) -> float:
    """The part of rollouts in which a rule goes back, 0 to 1."""
    return sum(back.at[rule] < LOOKS for back in found) / len(found)


def users_table(rounds: int, seed: int, only: str) -> Table:
    """The table, of rows whose name has `only`."""
    title = (
        f"{rounds} rollouts a row, at 1.25 times {MORE * rounds}; 68 hours, 20 requests a minute, 1 % fail"
    )
    table = Table(title=f"{title}; goes back, of 100")
    for heading in ("truth", *RULES, "hours", "harmed"):
        table.add_column(heading, justify="left" if heading == "truth" else "right")
    for name, truth in TRUTHS.items():
        if only in name:
            found = simulated(truth, rounds_of(truth, rounds), seed, os.cpu_count() or 1)
            cells = [
                wilson(sum(back.at[rule] < LOOKS for back in found), len(found))
                if rule in OURS
                else f"{100 * part(found, rule):.3g} %"
                for rule in RULES
            ]
            back = [each for each in found if each.at["errors"] < LOOKS]
            cells.append(_middle([(each.at["errors"] + 1) * LOOK_MIN / 60 for each in back]))
            cells.append(_middle([each.harmed["errors"] for each in back]))
            table.add_row(name, *cells)
            click.echo(f"{name}: {cells}", err=True)
    return table


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}" if values else "–"
