"""The rate of wrong verdicts, and the time to right ones: simulated rollouts, against the error budget.

To see the figures, of ten times as many rollouts:

    HEADGATE_PATHS=10 python -m pytest tests/rollout/verdict/test_verdict_statistics.py --log-cli-level=INFO
"""

import logging
import math
import os
from dataclasses import replace
from functools import cache
from statistics import median

import numpy as np
import pytest
from scipy import stats

from flags.rollout.evidence.evidence import Batch
from flags.rollout.policy.guardrails import ErrorBudget, RateRatio, SampleRatio
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Finding
from tests.rollout.verdict.simulated_rollouts import Path, World, paths

FACTOR = int(os.environ.get("HEADGATE_PATHS", "1"))
"""The factor of rollouts over those for which CI has time."""

BUDGET = ErrorBudget()
ERRORS = RateRatio("errors", weight=1.0)
RAILS = (ERRORS, SampleRatio())
SHORT = (6, 6, 6, 8, 8)
"""Hours of the steps: 204 looks."""

WORLDS = {
    "few ask": World(20, 0.02, hours=SHORT),
    "many ask": World(100, 0.01, hours=SHORT),
}
CLUSTERS = {
    "users differ": World(20, 0.02, users=400, spread=1, hours=SHORT),
    "users differ much": World(20, 0.02, users=400, spread=4, hours=SHORT),
}
LOG = logging.getLogger(__name__)


@cache
def at_the_margin(name: str) -> list[Path]:
    """The most that is no harm: there it is wrong most often."""
    world = WORLDS[name]
    return paths(_with(world, ERRORS.margin), RAILS, 50 * FACTOR, to_the_end=True)


def _with(world: World, ratio: float) -> World:
    return replace(world, ratio=ratio)


def at_most(count: int, number: int, allowed: float, what: str) -> bool:
    """True if so many of so many may be chance at the rate that is allowed."""
    LOG.info(
        "%s: %d of %d (%.2f %%); allowed are %g %%", what, count, number, 100 * count / number, 100 * allowed
    )
    return count <= stats.binom.ppf(0.999, number, allowed)


@pytest.mark.parametrize("name", WORLDS)
def test_a_rollout_without_harm_seldom_goes_back(name: str):
    """At most 1 %, though it was looked at 204 times, in five steps, at the very margin."""
    found = at_the_margin(name)

    assert at_most(sum(path.rolled_back for path in found), len(found), BUDGET.roll_back, f"back, {name}")


@pytest.mark.parametrize("name", WORLDS)
def test_a_rollout_without_harm_is_seldom_held(name: str):
    """At most 10 %."""
    found = at_the_margin(name)

    assert at_most(sum(path.held for path in found), len(found), BUDGET.hold, f"held, {name}")


@pytest.mark.parametrize("name", CLUSTERS)
def test_users_who_differ_do_not_look_like_harm(name: str):
    """400 users of whom some fail far more often than others: at most twice the budget."""
    found = paths(_with(CLUSTERS[name], ERRORS.margin), (ERRORS,), 100 * FACTOR)

    assert at_most(sum(path.rolled_back for path in found), len(found), 2 * BUDGET.roll_back, f"back, {name}")


def test_harm_is_seldom_taken_for_safe():
    """At the ratio that is to be ruled out: in each step at most 5 %, whenever one looks."""
    number = 60 * FACTOR
    found = paths(_with(WORLDS["few ask"], ERRORS.harm), (ERRORS,), number, to_the_end=True)
    bound = BUDGET.missed + 3 * math.sqrt(BUDGET.missed * (1 - BUDGET.missed) / number)

    for step in range(len(SHORT)):
        missed = sum(step in path.safe_steps for path in found)
        LOG.info("taken for safe in step %d: %d of %d (%.2f %%)", step, missed, number, 100 * missed / number)
        assert missed <= bound * number


def test_harm_goes_back_before_it_hits_many():
    """Three times as many failures, 20 requests a minute, 1 % fail anyway: nearly always, and soon.

    Arms of the same size cannot do it in many fewer: even a bet that knew the ratio beforehand would need
    about 43 failed answers, ln(1/alpha) over what each of them tells. Not knowing it costs a third more.
    """
    found = paths(World(20, 0.01, 3.0), (ERRORS,), 60 * FACTOR)
    harmed = [path.harmed for path in found if path.rolled_back]
    LOG.info("harm went back: %d of %d, after %g without an answer", len(harmed), len(found), median(harmed))

    assert len(harmed) >= 0.95 * len(found)
    assert median(harmed) <= 75


def test_harm_among_users_who_differ_much_goes_back_too():
    """CV² 10, where the share of requests alone sees one in eight: by what each user did the day before."""
    found = paths(World(20, 0.01, 3.0, 400, 10, 24), (ERRORS,), 3 * FACTOR)
    harmed = [path.harmed for path in found if path.rolled_back]
    LOG.info("users differ much: %d of %d, after %g", len(harmed), len(found), median(harmed))

    assert len(harmed) >= 0.95 * len(found)


def test_a_rollout_without_any_difference_is_shown_to_be_safe():
    """Proof comes: with half of the users in both arms, within the day, for nearly all rollouts."""
    found = paths(WORLDS["many ask"], (ERRORS,), 25 * FACTOR, to_the_end=True)
    safe = sum(4 in path.safe_steps for path in found)
    LOG.info("shown to be safe in the last step: %d of %d", safe, len(found))

    assert safe >= 0.95 * len(found)


def test_arms_that_are_counted_rightly_seldom_look_wrong():
    """At most 0.1 % of steps, though proxies begin anew each night and count the same users again."""
    random, number, false = np.random.default_rng(7), 400 * FACTOR, 0
    for _ in range(number):
        evaluator, looks = Evaluator((SampleRatio(),), WORLDS["few ask"].exposures(), BUDGET), []
        for night in range(6):
            new = random.poisson(4.0, (10, 2)).cumsum(axis=0)
            looks = looks[:10] if night else new.tolist()
            for stream, control in looks:
                evaluator.add(Batch(0, 1, 0, users={"stream": stream, "control": control}))
            evaluator.add(Batch(0, 1, 0, users={}))
        false += evaluator.verdicts()[0].finding is Finding.HARM

    assert at_most(false, number, 0.001, "arms looked wrong")
