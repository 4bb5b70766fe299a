"""`make simulate`: whole rollouts by the real controller on made traffic, beside two rules of others."""

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from tests.simulate.early_table import early_table
from tests.simulate.more_tables import more_tables
from tests.simulate.plan_table import plan_table
from tests.simulate.rollouts import Case, Course, courses
from tests.simulate.user_table import MORE, users_table
from tests.simulate.world import Truth

STRONGLY = 1.0
"""Sigma of the logarithms of what users do and suffer: one in twenty has five times as much as the middle."""


@dataclass(frozen=True, slots=True)
class Row:
    """One truth."""

    name: str
    truth: Truth
    or_points: float | None = None


NOTHING_FAILS = Truth(failing=0.0, outage_every_s=math.inf)

ROWS = (
    Row("no harm, 5 a minute", Truth(per_minute=5)),
    Row("no harm, 20 a minute", Truth()),
    Row("no harm, 100 a minute", Truth(per_minute=100)),
    Row("no harm, 400 users who differ strongly", Truth(users=400, zeal=STRONGLY, fate=STRONGLY)),
    Row("nothing fails", NOTHING_FAILS),
    Row("nothing fails, by 0.2 points", NOTHING_FAILS, or_points=0.2),
    Row("1.25 times, the edge of no harm", Truth(harm=1.25)),
    Row("2 times, 20 a minute", Truth(harm=2)),
    Row("3 times, 5 a minute", Truth(harm=3, per_minute=5)),
    Row("3 times, 20 a minute", Truth(harm=3)),
    Row("3 times, 100 a minute", Truth(harm=3, per_minute=100)),
    Row("3 times, from 25 % on", Truth(harm=3, harm_from=25)),
    Row("5 times, 20 a minute", Truth(harm=5)),
    Row("10 times, 20 a minute", Truth(harm=10)),
)


def _percent(of: Sequence[bool]) -> str:
    return f"{100 * sum(of) / len(of):.3g} %"


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}" if values else "–"


def _ninth(values: Sequence[float]) -> str:
    return f"{statistics.quantiles(values, n=10)[-1]:.0f}" if len(values) > 1 else "–"


def cells(found: Sequence[Course]) -> list[str]:
    """A row of the table."""
    back = [course for course in found if course.rolled_back]
    hours, harmed = [course.hours for course in back], [float(course.harmed) for course in back]
    return [
        _percent([course.rolled_back for course in found]),
        _percent([course.held and not course.rolled_back for course in found]),
        f"{_middle(hours)} / {_ninth(hours)}",
        f"{_middle(harmed)} / {_ninth(harmed)}",
        _percent([25 in course.proved for course in found]),
        _percent([course.flagger for course in found]),
        _percent([course.argo for course in found]),
    ]


@click.command()
@click.option("--rounds", type=click.IntRange(2), default=100, show_default=True, help="Rollouts a row.")
@click.option("--whole", type=click.IntRange(2), default=10, show_default=True, help="By the controller.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--only", default="", help="Rows whose name has this.")
def main(rounds: int, whole: int, seed: int, only: str) -> None:
    """Print the tables: the tests among users who differ, and whole rollouts by the real controller, each of
    which takes as long as two hundred."""
    Console(width=180).print(users_table(rounds, seed, only))
    Console(width=150).print(early_table(MORE * rounds, seed, only))
    Console(width=150).print(plan_table(rounds, seed, only))
    for more in more_tables(rounds, seed, only):
        Console(width=150).print(more)
    Console(width=150).print(controllers_table(whole, seed, only))


def controllers_table(rounds: int, seed: int, only: str) -> Table:
    """The table of whole rollouts, of rows whose name has `only`."""
    table = Table(
        title=f"{rounds} rollouts a row, of 68 hours; 1 % of batch answers fail; looked at each minute"
    )
    for heading in (
        *("truth: streamed answers fail", "rolled back", "held", "hours to it: middle / 9 of 10"),
        *("harmed before it: middle / 9 of 10", "25 % proved safe", "Flagger-like", "Argo-like"),
    ):
        table.add_column(heading, justify="left" if not table.columns else "right")
    for row in ROWS:
        if only in row.name:
            cases = [
                Case(row.truth, seed * 1_000_000 + number, or_points=row.or_points)
                for number in range(rounds)
            ]
            found = courses(cases, os.cpu_count() or 1)
            table.add_row(row.name, *cells(found))
            click.echo(f"{row.name}: {cells(found)}", err=True)
    return table


if __name__ == "__main__":
    main()
