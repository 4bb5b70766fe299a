"""Whole rollouts by the real controller in made traffic, a few of each kind; `make simulate` has the rest."""

import statistics
from functools import cache

from tests.simulate.__main__ import ROWS
from tests.simulate.rollouts import Case, Course, courses

ROUNDS = 2
"""Always the same two, so chance has no part: how often anything happens is what `make simulate` counts."""

SEED = 7_000_000
TRUTHS = {row.name: row.truth for row in ROWS}


@cache
def simulated(name: str) -> list[Course]:
    """The same few rollouts each time."""
    return courses([Case(TRUTHS[name], SEED + number) for number in range(ROUNDS)], processes=2)


def test_without_harm_nothing_goes_back() -> None:
    """Looked at each minute for 68 hours, with outages for everybody, restarts, and missed scrapes."""
    assert not any(course.rolled_back for course in simulated("no harm, 20 a minute"))


def test_a_healthy_build_is_proved_to_be_safe() -> None:
    """At a quarter of the users, within the time of its steps; others' rules go back for nothing."""
    found = simulated("no harm, 20 a minute")
    assert all(25 in course.proved for course in found)
    assert all(course.flagger for course in found)


def test_three_times_the_failures_go_back_soon() -> None:
    """Each time, and before many have been harmed."""
    found = simulated("3 times, 20 a minute")
    assert all(course.rolled_back for course in found)
    assert statistics.median(course.harmed for course in found) <= 45


def test_the_same_seed_gives_the_same_rollout() -> None:
    """To the last count: what a seed shows can be looked at again."""
    name = "3 times, 20 a minute"
    assert courses([Case(TRUTHS[name], SEED)], processes=1) == simulated(name)[:1]
