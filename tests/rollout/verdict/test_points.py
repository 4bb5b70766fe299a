"""Safety by percentage points: fair wherever the harm is there, and soon where nothing fails."""

import logging
import math
import os
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from scipy import stats

from flags.rollout.bodies import evaluator_from_body, measures_body, plain
from flags.rollout.evidence.evidence import Batch
from flags.rollout.policy.guardrails import ErrorBudget, Exposure, RateRatio
from flags.rollout.verdict.e_processes import DifferenceNull, EProcess, JointNull
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Finding, Verdict

RATIO, POINTS = 1.5, 0.2
ERRORS = RateRatio("errors", 1.0, harm=RATIO, or_points=POINTS)
MISSED = ErrorBudget().missed
LINE = -math.log(MISSED)
FACTOR = int(os.environ.get("HEADGATE_PATHS", "1"))
"""The factor of rollouts over those for which CI has time."""

ROLLOUTS, LOOKS = 400 * FACTOR, 150
LOG = logging.getLogger(__name__)


@pytest.mark.parametrize(("stream", "control"), [(1, 1), (3, 1), (1, 5), (7, 4), (30, 10)])
@pytest.mark.parametrize("points", [0.2, 2.0, 50.0])
def test_the_bet_wins_nothing_where_the_difference_is(stream: int, control: int, points: float) -> None:
    """By enumeration: its mean over all that can happen in a look is at most 1, at the difference and beyond,
    whatever the rate of control, for each alternative it bets on."""
    null = DifferenceNull.at_least(points / 100)
    x, y = np.arange(stream + 1)[:, None, None], np.arange(control + 1)[None, :, None]
    won = np.exp(null.log_increments(x, stream - x, y, control - y))

    for rate, more in product((0.0, 0.0005, 0.01, 0.05, 0.3, 0.5), (0.0, 0.01, 0.2)):
        p = min(1.0, rate + points / 100 + more)
        chance = stats.binom.pmf(x, stream, p) * stats.binom.pmf(y, control, rate)
        assert (won * chance).sum(axis=(0, 1)).max() <= 1 + 1e-9


def test_half_of_the_stake_is_on_either() -> None:
    """It begins with nothing won; a bet that is won alone must be won twice over."""
    null = JointNull.at_least(RATIO, POINTS)
    won = DifferenceNull.at_least(POINTS / 100)

    assert null.e_process().log() == pytest.approx(0)
    both, alone = null.e_process(), EProcess(won.weights)
    both.logs += null.log_increments(0, 5000, 0, 5000)
    alone.logs += won.log_increments(0, 5000, 0, 5000)
    assert math.exp(both.log()) == pytest.approx((1 + math.exp(alone.log())) / 2)


def constant(rate: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda look: np.full(len(look), rate)


def by_day(rate: float) -> Callable[[np.ndarray], np.ndarray]:
    """Between nothing and twice the rate, six times."""
    return lambda look: rate * (1 + np.sin(2 * np.pi * 6 * look / LOOKS))


def in_outages(rate: float) -> Callable[[np.ndarray], np.ndarray]:
    """In one look of ten, for everybody."""
    return lambda look: np.where(look % 10 == 0, 10 * rate, 0.0)


def taken_for_safe(
    control: np.ndarray, stream: np.ndarray, arms: tuple[float, float], null: JointNull | DifferenceNull
) -> int:
    """Of so many rollouts whose arms fail at these rates, look by look, how many are ever safe."""
    random = np.random.default_rng(11)
    logs, ever = np.zeros((ROLLOUTS, len(null.weights))), np.zeros(ROLLOUTS, dtype=bool)
    for q, p in zip(control, stream, strict=True):
        every = [1 + random.poisson(arm, (ROLLOUTS, 1)) for arm in arms]
        bad = [random.binomial(n, min(1.0, rate)) for n, rate in zip(every, (p, q), strict=True)]
        logs += null.log_increments(bad[0], every[0] - bad[0], bad[1], every[1] - bad[1])
        ever |= np.log(np.exp(null.weights + logs).sum(axis=1)) >= LINE
    return int(ever.sum())


@pytest.mark.parametrize("arms", [(60, 60), (90, 30), (3, 1)], ids=str)
@pytest.mark.parametrize("truth", [constant, by_day, in_outages])
@pytest.mark.parametrize("rate", [0.0, 0.0003, 0.002, 0.004, 0.02])
def test_harm_by_points_is_seldom_taken_for_safe(
    rate: float, truth: Callable[..., Callable[..., np.ndarray]], arms: tuple[float, float]
) -> None:
    """At the difference that is to be ruled out, and at least the ratio, in arms of any size, though rates
    come and go: at most 5 %, however often one looks. So it is by the points alone."""
    control = truth(rate)(np.arange(LOOKS))
    most = stats.binom.ppf(0.999, ROLLOUTS, MISSED)
    at_difference = control + POINTS / 100

    both = np.maximum(at_difference, RATIO * control)
    by_points = taken_for_safe(control, at_difference, arms, DifferenceNull.at_least(POINTS / 100))
    by_either = taken_for_safe(control, both, arms, JointNull.at_least(RATIO, POINTS))
    LOG.info("taken for safe: by points %d, by either %d, of %d", by_points, by_either, ROLLOUTS)

    assert by_points <= most
    assert by_either <= most


def clean(answers: int, rail: RateRatio = ERRORS, bad: tuple[int, int] = (0, 0)) -> Verdict:
    """Of so many answers in each arm, a hundred at a look."""
    made, users = Evaluator((rail,), (Exposure(25),), ErrorBudget()), {"stream": 40, "control": 40}
    for look in range(answers // 100):
        outcomes = {(arm, b, "complete"): 6 + (b < 4) for arm in ("stream", "control") for b in range(16)}
        if not look:
            outcomes |= {
                (arm, b, "failed"): 1
                for arm, n in zip(("stream", "control"), bad, strict=True)
                for b in range(n)
            }
        made.add(Batch(60.0 * look, 60.0 * look + 60, 0, outcomes=outcomes, users=users))
    return made.verdicts()[0]


def test_a_service_that_never_fails_is_proved() -> None:
    """0 of 21,600 in both arms say nothing of a ratio, and rule out two more in a thousand."""
    by_ratio = clean(21_600, RateRatio("errors", 1.0, harm=RATIO))
    by_points = clean(21_600)

    assert by_ratio.finding is Finding.UNCLEAR and by_ratio.log10_safe == 0
    assert by_points.finding is Finding.SAFE
    assert by_points.sentence == (
        "Errors: 0 of 21,600 answers in the stream arm failed (0 %), 0 of 21,600 in its control (0 %); "
        "safe, since harm of 1.5 times and 0.2 percentage points or more is ruled out."
    )


def test_a_service_that_never_fails_is_proved_as_soon_as_is_planned() -> None:
    """The very look: what the plan says is what the verdict does."""
    planned = JointNull.at_least(RATIO, POINTS).clean(LINE, 0.5)
    looks = math.ceil(planned / 100)

    assert 1500 < planned < 3000
    assert clean(100 * looks).finding is Finding.SAFE
    assert clean(100 * (looks - 1)).finding is Finding.UNCLEAR


def test_unequal_arms_need_more_of_the_stream_arm_than_equal_ones() -> None:
    """The clean answers of either arm count, and a larger difference is ruled out sooner."""
    null = JointNull.at_least(RATIO, POINTS)

    assert null.clean(LINE, 0.5) < null.clean(LINE, 0.75)
    assert JointNull.at_least(RATIO, 1.0).clean(LINE, 0.5) < null.clean(LINE, 0.5) / 4
    assert JointNull.at_least(RATIO, None).clean(LINE, 0.5) == math.inf


def test_failures_of_the_stream_arm_take_proof_away() -> None:
    """And points change nothing of what is harm: it goes back by the ratio, as without them."""
    some, none = clean(2500, bad=(6, 0)), clean(2500)

    assert none.finding is Finding.SAFE and some.finding is Finding.UNCLEAR
    assert some.log10_e == clean(2500, RateRatio("errors", 1.0, harm=RATIO), bad=(6, 0)).log10_e


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_few_users_who_differ_are_seldom_safe_where_harm_is(spread: float) -> None:
    """60 users in each arm, whose rates differ much, at a difference of 2 points and more than the ratio: at
    most twice the budget, since how much they differ is an estimate."""
    random, number, missed = np.random.default_rng(5), 60 * FACTOR, 0
    rail = RateRatio("errors", 1.0, harm=RATIO, or_points=2.0)
    for _ in range(number):
        fails = random.gamma(1 / spread, spread, (2, 60))
        fails *= np.array([[0.03], [0.01]]) / fails.mean(axis=1, keepdims=True)
        made, safe = Evaluator((rail,), (Exposure(25),), ErrorBudget()), False
        for look in range(60):
            outcomes = {}
            for arm, rates in zip(("stream", "control"), np.minimum(fails, 1.0), strict=True):
                asked = random.poisson(1.0, 60)
                bad = random.binomial(asked, rates)
                for b in range(16):
                    outcomes[arm, b, "failed"] = int(bad[b::16].sum())
                    outcomes[arm, b, "complete"] = int((asked - bad)[b::16].sum())
            made.add(
                Batch(
                    60.0 * look, 60.0 * look + 60, 0, outcomes=outcomes, users={"stream": 60, "control": 60}
                )
            )
            safe |= made.verdicts()[0].finding is Finding.SAFE
        missed += safe
    LOG.info("users who differ, taken for safe: %d of %d", missed, number)

    assert missed <= stats.binom.ppf(0.999, number, 2 * MISSED)


def test_a_journal_from_before_there_were_points_is_heard_as_it_was_meant() -> None:
    """Its guardrails do not say `or_points`: the same verdicts come of them, to the last digit."""
    rail = RateRatio("errors", 1.0)
    said = measures_body((rail,), (Exposure(25),), ErrorBudget())
    del said["guardrails"][0]["or_points"]
    batch = Batch(
        0,
        60,
        0,
        outcomes={("stream", 0, "failed"): 3, ("stream", 1, "complete"): 900}
        | {("control", 0, "failed"): 4, ("control", 1, "complete"): 800},
        users={"stream": 40, "control": 40},
    )
    old, new = evaluator_from_body(said), Evaluator((rail,), (Exposure(25),), ErrorBudget())
    for made in (old, new):
        made.add(batch)

    assert [plain(v) for v in old.verdicts()] == [plain(v) for v in new.verdicts()]
    assert "percentage points" not in old.verdicts()[0].sentence
