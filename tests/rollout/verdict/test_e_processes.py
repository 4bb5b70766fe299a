"""E-processes: at most 1 on average while the null hypothesis is true, and what makes them grow."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flags.rollout.verdict.binomial_limits import early_limits
from flags.rollout.verdict.e_processes import EProcess, RateNull, RatioNull, dispersion

PATHS = 20_000
COUNTS = st.integers(0, 500)
BATCHES = st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=20)
SHARES = st.floats(0.01, 0.99)


def ratio_evidence(null: RatioNull, batches: list[tuple[int, int]], share: float = 0.5) -> float:
    process = null.e_process()
    for stream, control in batches:
        process.logs += null.log_increments(stream, control, share)
    return process.log()


def rate_evidence(null: RateNull, bad: int, good: int) -> float:
    process = null.e_process()
    process.logs += null.log_increments(bad, good)
    return process.log()


def e_values(process: EProcess, logs: np.ndarray) -> np.ndarray:
    """Of many paths at once: one row of `logs` each."""
    return np.exp(process.weights + logs).sum(axis=1)


def at_most_one(values: np.ndarray) -> bool:
    return bool(values.mean() <= 1 + 3 * values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("rate", [0.01, 0.3], ids=["rare", "common"])
@pytest.mark.parametrize(("stream", "control"), [(60, 60), (40, 400)])
@pytest.mark.parametrize("ratio", [1.0, 1.25])
def test_a_bet_on_harm_wins_nothing_where_there_is_none(rate: float, stream: int, control: int, ratio: float):
    """The mean of the e-value over all paths is at most 1: at the margin and below, for arms of any size."""
    null, random = RatioNull.at_most(1.25), np.random.default_rng(1)
    share = stream / (stream + control)
    bad = random.binomial(stream, rate * ratio, (PATHS, 6)).sum(axis=1, keepdims=True)
    other = random.binomial(control, rate, (PATHS, 6)).sum(axis=1, keepdims=True)

    logs = bad * null.log_increments(1, 0, share) + other * null.log_increments(0, 1, share)

    assert at_most_one(e_values(null.e_process(), logs))


@pytest.mark.parametrize("ratio", [2.0, 3.0])
def test_a_bet_on_safety_wins_nothing_where_harm_is(ratio: float):
    """The mirrored bet is as fair: at the harm that is to be ruled out, and beyond."""
    null, random = RatioNull.at_least(2.0), np.random.default_rng(2)
    bad = random.binomial(300, 0.02 * ratio, (PATHS, 1))
    other = random.binomial(300, 0.02, (PATHS, 1))

    logs = bad * null.log_increments(1, 0, 0.5) + other * null.log_increments(0, 1, 0.5)

    assert at_most_one(e_values(null.e_process(), logs))


def test_a_bet_stays_fair_while_the_weather_changes():
    """The rate moves tenfold from batch to batch, and the arms' sizes with it: still nothing to win."""
    null, random = RatioNull.at_most(1.25), np.random.default_rng(3)
    logs = np.zeros((PATHS, len(null.ratios)))
    for rate, stream, control in [(0.01, 20, 80), (0.1, 90, 10), (0.03, 30, 30), (0.1, 10, 90)]:
        share = stream / (stream + control)
        bad, other = random.binomial(stream, 1.25 * rate, PATHS), random.binomial(control, rate, PATHS)
        logs += np.outer(bad, null.log_increments(1, 0, share)) + np.outer(
            other, null.log_increments(0, 1, share)
        )

    assert at_most_one(e_values(null.e_process(), logs))


@pytest.mark.parametrize(
    ("null", "rate"),
    [
        (RateNull.at_most(0.02), 0.02),
        (RateNull.at_most(0.02), 0.005),
        (RateNull.at_least(0.06), 0.06),
        (RateNull.at_least(0.06), 0.2),
        (RateNull.of_mismatch(0.6), 0.6),
    ],
)
def test_a_bet_on_a_rate_wins_nothing_where_it_is_kept(null: RateNull, rate: float):
    """Against a ceiling, against harm, and against a share of users."""
    bad = np.random.default_rng(4).binomial(120, rate, (PATHS, 1))

    logs = bad * null.log_increments(1, 0) + (120 - bad) * null.log_increments(0, 1)

    assert at_most_one(e_values(null.e_process(), logs))


@settings(deadline=None)
@given(logs=st.lists(st.floats(-300, 300), min_size=48, max_size=48), tempering=st.floats(1, 1000))
def test_tempering_adds_at_most_one(logs: list[float], tempering: float):
    """No estimate of the dispersion, also from the same counts, can spoil an e-process."""
    process = RatioNull.at_most(1.25).e_process()
    process.logs += np.array(logs)

    assert process.log(tempering) <= np.logaddexp(process.log(), 0.0) + 1e-9


@settings(deadline=None)
@given(batches=BATCHES, share=SHARES, margins=st.tuples(st.floats(1, 4), st.floats(1, 4)))
def test_evidence_of_harm_falls_as_the_margin_rises(
    batches: list[tuple[int, int]], share: float, margins: tuple[float, float]
):
    """A policy that tolerates more does not find harm sooner."""
    low, high = sorted(margins)
    of_low, of_high = (ratio_evidence(RatioNull.at_most(margin), batches, share) for margin in (low, high))

    assert of_high <= max(of_low, 0.0) + 1e-6


@settings(deadline=None)
@given(batches=BATCHES, share=SHARES)
def test_evidence_does_not_depend_on_how_it_is_cut(batches: list[tuple[int, int]], share: float):
    """At one share of requests, many small batches say what one large one says."""
    null = RatioNull.at_most(1.25)
    whole = [(sum(stream for stream, _ in batches), sum(control for _, control in batches))]

    assert ratio_evidence(null, batches, share) == pytest.approx(
        ratio_evidence(null, whole, share), rel=1e-9, abs=1e-6
    )


@settings(deadline=None)
@given(data=st.data(), batches=st.lists(st.tuples(COUNTS, COUNTS, SHARES), min_size=2, max_size=8))
def test_the_order_of_batches_does_not_matter(data: st.DataObject, batches: list[tuple[int, int, float]]):
    """Evidence is a sum."""
    null = RatioNull.at_most(1.25)
    one, other = null.e_process(), null.e_process()
    for batch in batches:
        one.logs += null.log_increments(*batch)
    for batch in data.draw(st.permutations(batches)):
        other.logs += null.log_increments(*batch)

    assert one.log() == pytest.approx(other.log(), rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(failed=st.integers(0, 10_000), share=SHARES, ordinary=BATCHES)
def test_an_outage_of_both_arms_is_no_evidence(failed: int, share: float, ordinary: list[tuple[int, int]]):
    """Failures in proportion win no bet on harm, however many they are."""
    null = RatioNull.at_most(1.25)
    stream = math.floor(failed * share)

    before = ratio_evidence(null, ordinary, share)
    after = ratio_evidence(null, [*ordinary, (stream, math.ceil(failed * (1 - share)))], share)

    assert after <= before + 1e-6


def test_an_arm_that_has_all_the_requests_settles_nothing_by_itself():
    """At a share of 0 or 1 the arm of an event is known beforehand: the bet stands still, and is finite."""
    null = RatioNull.at_most(1.25)

    assert null.log_increments(0, 7, 0.0) == pytest.approx(0.0)
    assert null.log_increments(7, 0, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("bad", [(0, 2**53), (2**53, 0), (2**53, 2**53)])
def test_a_bet_survives_any_count(bad: tuple[int, int]):
    """The largest counts that a counter can show still give a finite number."""
    assert math.isfinite(ratio_evidence(RatioNull.at_most(1.25), [bad]))
    assert math.isfinite(ratio_evidence(RatioNull.at_least(2.0), [bad]))
    assert math.isfinite(rate_evidence(RateNull.of_mismatch(0.5), *bad))
    assert math.isfinite(rate_evidence(RateNull.at_most(0.999), *bad))


@pytest.mark.parametrize(
    "null",
    [RatioNull.at_most(1.25), RatioNull.at_least(2), RateNull.at_most(0.02), RateNull.of_mismatch(0.3)],
)
def test_the_stakes_add_up_to_one(null: RatioNull | RateNull):
    """Before anything happens the e-value is 1."""
    assert null.e_process().log() == pytest.approx(0.0)


def test_a_mismatch_is_seen_on_either_side():
    """Too many in the first arm, or too few; as many as should be is none."""
    null = RateNull.of_mismatch(0.5)

    assert rate_evidence(null, 140, 60) == pytest.approx(rate_evidence(null, 60, 140))
    assert rate_evidence(null, 140, 60) > math.log(1000)
    assert rate_evidence(null, 100, 100) < 0


def test_a_ceiling_is_broken_on_one_side_only():
    """Fewer than the ceiling allows is never harm, more than the harm is never safe."""
    assert rate_evidence(RateNull.at_most(0.02), 0, 5000) < 0
    assert rate_evidence(RateNull.at_least(0.06), 500, 4500) < 0


def test_users_who_are_alike_are_not_dispersed():
    """Chance alone: about 1 on the average, and never less than 1."""
    random = np.random.default_rng(5)
    every = np.full((2, 16), 400.0)
    found = [dispersion(random.binomial(400, 0.02, (2, 16)).astype(float), every) for _ in range(500)]

    assert min(found) == 1.0
    assert 1.0 < np.mean(found) < 1.2


def test_dispersion_is_pearsons_statistic_over_its_degrees_of_freedom():
    """scipy gives the same, for each arm against its own rate."""
    bad, every = np.array([[5.0, 9, 30, 4], [2, 3, 40, 1]]), np.array([[100.0, 200, 150, 90]] * 2)
    tables = [np.array([row, of - row]) for row, of in zip(bad, every, strict=True)]
    pearson = sum(stats.chi2_contingency(table, correction=False).statistic for table in tables)

    assert dispersion(bad, every) == pytest.approx(pearson / 6)


@pytest.mark.parametrize("arm", [0, 1])
def test_one_user_who_always_fails_is_dispersion_in_either_arm(arm: int):
    """Also in the stream arm, where it would look like harm."""
    every = np.full((2, 16), 100.0)
    bad = np.ones((2, 16))
    bad[arm, 3] = 90

    assert dispersion(bad, every) > 30


def test_a_ratio_between_the_arms_is_no_dispersion():
    """Harm that hits all users alike is not explained away by it."""
    every = np.full((2, 16), 100.0)

    assert dispersion(np.array([[12.0] * 16, [2.0] * 16]), every) == 1.0


@pytest.mark.parametrize("bad", [0, 7, 100])
def test_nothing_is_known_of_dispersion_from_one_group_or_one_outcome(bad: int):
    """Then it is 1: nobody in an arm, one group alone, or all groups alike at none or all."""
    assert dispersion(np.zeros((2, 16)), np.zeros((2, 16))) == 1.0
    assert dispersion(np.array([[bad, 0.0], [0, bad]]), np.array([[100.0, 0], [0, 100]])) == 1.0
    assert dispersion(np.array([[0.0, 0], [100, 100]]), np.full((2, 2), 100.0)) == 1.0


def ever_crossed(limits: tuple[int, ...], rate: float) -> float:
    """By brute force: every sequence of good and bad."""
    chance = 0.0
    for sequence in product((0, 1), repeat=len(limits)):
        if any(sum(sequence[: number + 1]) >= limit for number, limit in enumerate(limits)):
            chance += rate ** sum(sequence) * (1 - rate) ** (len(sequence) - sum(sequence))
    return chance


@pytest.mark.parametrize(("rate", "alpha"), [(0.02, 0.001), (0.1, 0.01), (0.3, 0.05)])
def test_the_early_guard_is_wrong_as_seldom_as_it_says(rate: float, alpha: float):
    """Among all sequences of 12 answers, weighed by their probability, at most alpha ever cross; and some
    do."""
    crossed = ever_crossed(early_limits(rate, 12, alpha), rate)

    assert 0 < crossed <= alpha


def test_the_early_guard_keeps_its_level_over_all_its_requests():
    """Simulated for 200 answers at the rate itself, looked at after each."""
    limits, number = np.array(early_limits(0.02, 200, 0.001)), 200_000
    random, crossed = np.random.default_rng(6), 0
    for _ in range(20):
        failed = (random.random((number // 20, 200), dtype=np.float32) < 0.02).cumsum(axis=1)
        crossed += int((failed >= limits).any(axis=1).sum())

    assert crossed <= stats.binom.ppf(0.999, number, 0.001)
    assert crossed >= number * 0.001 / 5, "it would be of no use"


def test_the_limits_are_those_of_the_exact_binomial_tail():
    """Each is the fewest whose chance is at most one common level, which is the largest that will do."""
    limits = early_limits(0.02, 200, 0.001)
    tails = [stats.binom.sf(limit - 1, number, 0.02) for number, limit in enumerate(limits, 1)]
    one_less = [stats.binom.sf(limit - 2, number, 0.02) for number, limit in enumerate(limits, 1)]

    assert max(tails) <= 0.001
    assert max(tails) < min(one_less)


def test_the_limits_never_fall():
    """A fine limit stays fine while all that follows is well."""
    limits = early_limits(0.02, 200, 0.001)

    assert list(limits) == sorted(limits)


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.1, 0.3])
def test_a_dozen_failures_in_a_row_cross(rate: float):
    """At any rate that is not terrible, a dozen is enough."""
    assert early_limits(rate, 200, 0.001)[11] <= 12
