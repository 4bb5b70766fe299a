"""The time and the cost of a policy's steps: as the verdict itself would find, and never pretended."""

import json
import math
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from flags.rollout.evidence.evidence import Batch, Tail
from flags.rollout.plan.plan import FEW_EVENTS, POISSON_95, Harm, Hours, Rate, StepPlan, Traffic
from flags.rollout.plan.planner import plan
from flags.rollout.plan.stopping_times import (
    NEVER,
    Arms,
    Draw,
    EarlyRule,
    StoppingRule,
    early_stopping_times,
    rate_events,
    ratio_events,
    stopping_times,
)
from flags.rollout.policy.guardrails import Action
from flags.rollout.policy.policy import Policy
from flags.rollout.verdict.e_processes import RateNull, RatioNull
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Finding

FEW = 40
"""Rollouts, where a figure need not be exact."""

HALF = {"share": 50, "at_least": "1h"}
ERRORS_ALONE = {
    name: {"disabled": "not looked at here"}
    for name in ("slow", "first_content", "fallback", "recovery", "early")
}


def policy(*steps: dict[str, Any], **more: Any) -> Policy:
    return Policy.model_validate(
        {
            "flag": "headgate.streaming",
            "routes": ["start"],
            "where": {"file": "flags.json"},
            "evidence": {"pages": ["http://proxy/metrics"]},
            "journal": "rollout.sqlite",
            "lease": {"file": "rollout.lock"},
            "steps": list(steps) or [HALF],
            **more,
        }
    )


def traffic(
    per_minute: float = 60, failed: float = 0.01, slow: float = 0.05, *, hours: float = 24, **more: Any
) -> Traffic:
    answers = round(per_minute * 60 * hours)
    whole = answers - round(answers * failed)
    slow_ones = Rate(round(whole * slow), whole, 120.0)
    return Traffic(
        hours * 3600, Rate(round(answers * failed), answers), (slow_ones,), **{"users": 1000} | more
    )


def first(made: Policy, of: Traffic, rollouts: int = FEW) -> StepPlan:
    return plan(made, of, rollouts).steps[0]


def half(step: StepPlan) -> float:
    assert step.proof is not None and step.proof.p50 is not None
    return step.proof.p50


def worse(step: StepPlan, ratio: int) -> Harm:
    return next(harm for harm in step.harms if harm.ratio == ratio)


def stopped(
    draw: Draw,
    null: RatioNull | RateNull,
    threshold: float,
    *,
    number: int = 400,
    ready: float = 0,
    until: float = 90 * 1440,
) -> Any:
    rule = StoppingRule(threshold, np.full(number, ready), until, np.ones(number))
    return stopping_times(draw, null.weights, rule)


SAFE_AT = math.log(20)


@pytest.mark.parametrize(("arms", "least", "most"), [(Arms(5, 15), 0.97, 1.0), (Arms(1, 19), 0.55, 0.70)])
def test_a_clean_build_is_proved_as_often_as_it_was_simulated(arms: Arms, least: float, most: float) -> None:
    """By others' code, each minute for 24 hours with 20 requests, 1 % of which fail: 99.6 % and 63 %."""
    null, rng = RatioNull.at_least(2.0), np.random.default_rng(1)

    looks = stopped(ratio_events(rng, null, arms, 0.01, 0.01), null, SAFE_AT)

    assert least <= (looks <= 24 * 60).mean() <= most
    assert arms.stream == 1 or 4.0 < np.median(looks) / 60 < 6.8


@pytest.mark.parametrize("ratio", [3, 5, 10])
def test_harm_is_found_after_as_many_failures_as_theory_says(ratio: int) -> None:
    """The threshold, and what a mixture costs, over the information in one failure."""
    null, rng, threshold = RatioNull.at_most(1.25), np.random.default_rng(2), math.log(200)
    here, at_margin = ratio / (1 + ratio), 1.25 / 2.25
    information = here * math.log(here / at_margin)
    information += (1 - here) * math.log((1 - here) / (1 - at_margin))

    looks = stopped(ratio_events(rng, null, Arms(100, 100), 0.001 * ratio, 0.001), null, threshold)

    assert looks.mean() * 0.1 * (1 + ratio) == pytest.approx((threshold + 1.5) / information, rel=0.25)


def test_a_rate_is_proved_after_as_many_requests_as_theory_says() -> None:
    """Of a ceiling, against which one arm stands alone."""
    null, rng = RateNull.at_least(0.06), np.random.default_rng(3)
    information = 0.02 * math.log(0.02 / 0.06) + 0.98 * math.log(0.98 / 0.94)

    looks = stopped(rate_events(rng, null, 0.5, 0.02), null, SAFE_AT)

    assert looks.mean() * 0.5 == pytest.approx((SAFE_AT + 1.5) / information, rel=0.25)


def test_a_harm_passes_for_safe_as_seldom_as_the_budget_says() -> None:
    """At the ratio that safety rules out, in 5 of 100 rollouts at most, however long."""
    null, rng = RatioNull.at_least(2.0), np.random.default_rng(4)

    looks = stopped(
        ratio_events(rng, null, Arms(100, 100), 0.02, 0.01), null, SAFE_AT, number=200, until=1000
    )

    assert (looks < NEVER).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_evidence_stands_until_there_are_samples_enough() -> None:
    """Samples from before count at the first look that may use them, and at no later one."""
    null, rng = RateNull.at_least(0.5), np.random.default_rng(5)

    ready = stopped(rate_events(rng, null, 0.1, 0.001), null, SAFE_AT, ready=500, number=9)
    late = stopped(rate_events(rng, null, 0.1, 0.001), null, SAFE_AT, ready=1e6, number=9)

    assert (ready == 500).all()
    assert (late == NEVER).all()


def test_evidence_that_is_lost_by_then_does_not_count() -> None:
    """Evidence by luck, before there were samples enough, does not last."""
    null, rng, threshold = RateNull.at_least(0.5), np.random.default_rng(5), math.log(2)

    lucky, ready = (
        stopped(rate_events(rng, null, 1.0, 0.5), null, threshold, ready=look, until=400) for look in (0, 300)
    )

    assert (lucky < NEVER).mean() > 2 * (ready < NEVER).mean()


def test_what_takes_longer_than_was_looked_ahead_is_not_found() -> None:
    """Though events are drawn beyond."""
    null, rng = RateNull.at_least(0.06), np.random.default_rng(5)

    looks = stopped(rate_events(rng, null, 1.0, 0.02), null, SAFE_AT, until=200)

    assert looks[looks < NEVER].max() <= 200
    assert 0.1 < (looks < NEVER).mean() < 0.9


def test_hours_are_those_of_one_in_ten_and_half_and_nine_in_ten() -> None:
    """Those that never come are the last, and None where one of them is meant."""
    times_s = np.append(np.arange(1.0, 101.0) * 3600, NEVER)

    assert Hours.of(times_s) == Hours(11, 51, 91)
    assert Hours.of(np.where(times_s > 60 * 3600, NEVER, times_s)) == Hours(11, 51, None)


def test_of_arms_that_are_seldom_both_there_little_is_learned() -> None:
    """A verdict waits for the other arm; a plan takes such a failure for lost, and is rather too long."""
    null = RatioNull.at_least(2.0)

    seldom, often = (
        stopped(ratio_events(np.random.default_rng(6), null, Arms(each, each), 0.1, 0.1), null, SAFE_AT)
        for each in (0.1, 10)
    )

    assert np.median(seldom) > 300 * np.median(often)


def test_the_early_guard_looks_at_the_end_of_a_look() -> None:
    """Three bad ones of three are too many; where all come at once, it is the comparison's business."""
    rng, rule = np.random.default_rng(7), EarlyRule((2, 3, 3, 4, 5, 6, 7, 8, 9), 1, np.ones(99))

    def times(each: float, stream_rate: float, rate: float = 0.0) -> Any:
        return early_stopping_times(rng, rule, Arms(each, each), stream_rate, rate)

    assert np.median(times(0.1, 1.0)) > 10
    assert (times(1000, 1.0) == NEVER).all()
    assert (times(0.1, 0.0) == NEVER).all()
    assert (times(0.1, 1.0, 1.0) == NEVER).all()


def test_the_early_guard_of_a_plan_waits_for_different_users() -> None:
    """One who fails is not three: of the same failures, fewer count, and later."""
    limits = tuple(6 + n // 8 for n in range(100))
    of_one, of_three = (
        early_stopping_times(
            np.random.default_rng(7), EarlyRule(limits, users, np.ones(99)), Arms(0.1, 0.1), 0.5, 0.0
        )
        for users in (1, 3)
    )

    assert (of_three >= of_one).all()
    assert (of_three > of_one).mean() > 0.5


# The whole plan against the tests themselves.


def batch(
    rng: np.random.Generator, per_arm: float, rates: dict[str, float], look: int, step: int = 0
) -> Batch:
    """One look, each minute, of a step in which nothing is worse than fine but what fails."""
    outcomes: dict[tuple[str, int, str], int] = {}
    seconds, shown = {}, 0
    for arm, rate in rates.items():
        requests = rng.poisson(per_arm)
        failed = rng.binomial(requests, rate)
        back = rng.binomial(requests - failed, 0.02) if arm == "stream" else 0
        shown = requests if arm == "stream" else shown
        for outcome, count in (
            ("failed", failed),
            ("fell_back", back),
            ("complete", requests - failed - back),
        ):
            for bucket, number in enumerate(rng.multinomial(count, [1 / 16] * 16)):
                outcomes[arm, bucket, outcome] = int(number)
        seconds[arm, 120.0] = Tail(int(rng.binomial(requests - failed, 0.2)), int(requests - failed))
    first_content = {5.0: Tail(int(rng.binomial(shown, 0.05)), int(shown))}
    users = {"stream": 500, "control": 500}
    return Batch(
        *(60.0 * look, 60.0 * (look + 1), step),
        *(outcomes, seconds, first_content),
        parity={"same": int(shown)},
        users=users,
    )


def found_by_evaluator(
    made: Policy, rng: np.random.Generator, per_arm: float, rates: dict[str, float]
) -> int:
    """Looks until all is safe, or, with a harm, until something goes back."""
    evaluator = Evaluator(made.guardrail_values(), made.exposures(), made.budget_value())
    return found_by(evaluator, rng, per_arm, rates, 0)


def found_by(
    evaluator: Evaluator, rng: np.random.Generator, per_arm: float, rates: dict[str, float], step: int
) -> int:
    evaluator.enter(step)
    for look in range(1, 3000):
        evaluator.add(batch(rng, per_arm, rates, look, step))
        verdicts = evaluator.verdicts()
        if rates["stream"] > rates["control"]:
            if any(verdict.action is Action.ROLL_BACK for verdict in verdicts):
                return look
        elif all(verdict.finding is Finding.SAFE for verdict in verdicts):
            return look
    raise AssertionError("never")


@pytest.mark.parametrize(("per_arm", "failing", "ratio"), [(30, 0.03, 1), (1.5, 0.2, 1)])
def test_the_plan_says_what_the_tests_would(per_arm: float, failing: float, ratio: int) -> None:
    """With all guardrails, batch for batch; also where there is so little traffic that arms are empty."""
    made = policy(HALF | {"min_samples": 50}, guardrails={"early": {"disabled": "fails so often here"}})
    rng = np.random.default_rng(8)
    looks = [
        found_by_evaluator(made, rng, per_arm, {"stream": failing * ratio, "control": failing})
        for _ in range(30)
    ]

    step = first(made, traffic(2 * per_arm, failing, 0.2), 200)

    said = half(step) if ratio == 1 else worse(step, ratio).hours
    lag = 0 if ratio == 1 else 3
    assert said is not None
    assert said * 60 - lag == pytest.approx(np.median(looks), rel=0.4)


@pytest.mark.parametrize("failing", [0.0005, 0.004])
def test_the_plan_says_when_points_are_proved(failing: float) -> None:
    """The verdict says the same, batch for batch, for rare and for less rare failures."""
    harm = {"ratio": 1.5, "or_points": 0.5}
    made = policy(HALF | {"min_samples": 50}, guardrails=ERRORS_ALONE | {"errors": {"harm": harm}})
    rng = np.random.default_rng(8)
    looks = [found_by_evaluator(made, rng, 30, {"stream": failing, "control": failing}) for _ in range(30)]

    with_points = first(made, traffic(60, failing), 200)
    by_ratio = first(policy(HALF, guardrails=ERRORS_ALONE | {"errors": {"harm": 1.5}}), traffic(60, failing))

    assert half(with_points) * 60 == pytest.approx(np.median(looks), rel=0.4)
    assert half(with_points) < half(by_ratio) / 2


def test_the_plan_says_how_long_a_service_that_never_fails_takes() -> None:
    """For each step that is to be proved, in answers and hours; the verdict comes to the same."""
    harm = {"ratio": 1.5, "or_points": 0.5}
    made = policy({"share": 25, "at_least": "1h"}, HALF, guardrails={"errors": {"harm": harm}})
    said = plan(made, traffic(60, 0.01), FEW).assumptions

    [sentence] = [each for each in said if "or_points" in each]
    assert sentence == (
        "Where nothing fails in either arm, `guardrails.errors` is safe by `or_points: 0.5` after: "
        "step 1 of 2 (25 %) 856 answers of the stream arm, in 57 min; "
        "step 2 of 2 (50 %) 856 answers of the stream arm, in 29 min."
    )


# What a step says.


@cache
def usual() -> StepPlan:
    return first(policy(), traffic(), 200)


def test_a_step_says_what_goes_through_it() -> None:
    """Half of 60 requests a minute in each arm, and half of the users."""
    step = usual()

    assert (step.stream_per_h, step.control_per_h, step.users, step.users_needed) == (1800, 1800, 500, 20)
    assert step.proof is not None and step.ready.p50 is not None
    assert step.ready.p50 < step.proof.p10 < step.proof.p50 < step.proof.p90  # type: ignore[operator]
    assert (step.proved, step.slowest) == (1.0, "errors")


def test_a_worse_harm_is_found_sooner_and_hits_fewer() -> None:
    """The number harmed until then is the invariant that a rollout is cut by."""
    harms = usual().harms

    assert [harm.ratio for harm in harms] == [1.5, 2, 3, 5]
    assert [harm.found for harm in harms[1:]] == [1, 1, 1]
    assert harms[1].hours > harms[2].hours > harms[3].hours  # type: ignore[operator]
    assert harms[0].answers > harms[1].answers > harms[2].answers > harms[3].answers > 10
    assert all(harm.users is not None and harm.users < harm.answers for harm in harms)


def test_a_harm_that_may_count_as_safe_has_its_price() -> None:
    """Between what is no harm and what is ruled out; where a policy rules it out, there is nothing to say."""
    [said] = [each for each in plan(policy(), traffic(), FEW).assumptions if "1.5 times" in each]
    ruled_out = plan(policy(guardrails={"errors": {"harm": 1.5}}), traffic(), FEW).assumptions

    assert "it may count as safe. About so many would be harmed: step 1 of 1 (50 %) " in said
    assert not any("may count as safe" in each for each in ruled_out)


def test_the_last_step_has_a_small_control() -> None:
    """At 95 % those who hold back are compared with; what is shown to the others meanwhile is much."""
    step = first(policy({"share": 95, "at_least": "1h"}), traffic())

    assert (step.stream_per_h, step.control_per_h, step.users) == (3420, 180, 50)
    assert worse(step, 3).answers > 3 * worse(usual(), 3).answers


def test_a_dark_step_has_the_arms_of_the_next_one() -> None:
    """It asks for no proof; proved all the same, it has no first texts to wait for."""
    made = plan(policy({"share": 0, "at_least": "1h"}, {"share": 5, "at_least": "1h"}), traffic(), FEW)
    strict = {"first_content": {"at": 0.05, "harm": 0.055}}
    proved = plan(
        policy({"share": 0, "at_least": "1h", "prove": True}, HALF, guardrails=strict), traffic(), FEW
    )

    dark, after = made.steps
    assert (dark.stream_per_h, dark.proof, dark.proved, dark.slowest) == (after.stream_per_h, None, None, "")
    assert [step.slowest for step in proved.steps] == ["errors", "first_content"]


def test_a_person_takes_the_place_of_proof() -> None:
    """Nothing is refused for want of it."""
    made = plan(
        policy({"share": 1, "at_least": "1h", "prove": False, "approve": True}), traffic(users=None), FEW
    )

    assert (made.refusals, made.steps[0].proof, made.steps[0].approve) == ((), None, True)


def test_users_that_differ_cost_time() -> None:
    """One who always fails is one piece of evidence: of slow answers by how groups differ, of failures by how
    users do."""
    alike, differing = (first(policy(), traffic(users=100, cv2=cv2)) for cv2 in (0.0, 4.0))

    assert half(first(policy(), traffic(dispersion=4.0))) > 1.4 * half(usual())
    assert alike.proved == 1
    assert differing.proved is not None and differing.proved < 0.5


def test_what_is_no_harm_to_the_policy_is_not_found() -> None:
    """Twice as many is within a margin of 3; five times as many is not."""
    step = first(policy(guardrails=ERRORS_ALONE | {"errors": {"margin": 3.0, "harm": 4.0}}), traffic())

    assert (worse(step, 2).found, worse(step, 2).hours) == (0, None)
    assert worse(step, 5).found == 1
    assert worse(step, 2).answers == pytest.approx(1800 * 0.01 * (30 * 24 + 0.05))


def test_what_only_holds_does_not_go_back() -> None:
    """The plan says so, and what it costs until somebody is asked."""
    made = plan(policy(guardrails=ERRORS_ALONE | {"errors": {"action": "hold"}}), traffic(), FEW)

    assert worse(made.steps[0], 5).hours is None
    assert any("No guardrail goes back for failed answers" in said for said in made.assumptions)


def test_the_same_question_has_the_same_answer() -> None:
    """Chance is drawn from one seed."""
    assert plan(policy(), traffic(), FEW) == plan(policy(), traffic(), FEW)


def test_a_plan_says_what_it_takes_for_granted() -> None:
    """The plan names what is unknown, what differs from the default, and what was absent."""
    made = plan(policy(mode="observe"), traffic(users=None, missing=2, dispersion=1.5), FEW)
    said = " ".join(made.assumptions)

    for words in (
        "1 % of a clean build's",
        "2 of the proxies",
        "(--users)",
        "1.5 times",
        "`mode: observe`",
        "fallback 2 %",
    ):
        assert words in said
    assert (made.steps[0].users, made.steps[0].harms[0].users) == (None, None)


# What is refused.


def test_a_plan_that_works_is_not_refused() -> None:
    """With traffic, users, and failures enough to know how often there are any."""
    made = policy({"share": 25, "at_least": "1h", "at_most": "7d"}, {"share": 95, "at_least": "1h"})

    assert plan(made, traffic(), FEW).refusals == ()


@pytest.mark.parametrize(
    ("made", "of", "said"),
    [
        (policy(), traffic(0), ["No request of start settled in 24 h", "--seconds"]),
        (
            policy({"share": 1, "at_least": "1h", "at_most": "2d"}),
            traffic(users=4000),
            [
                "Step 1 of 1 (1 %)",
                "`at_most` of 2 d",
                "waits for `errors`",
                "give it `at_most: ",
                "`prove: false`",
            ],
        ),
        (
            policy({"share": 1, "at_least": "1h"}),
            traffic(3, users=4000),
            ["Step 1 of 1 (1 %)", "within 30 d (no step should need more)", "a share much nearer to 50 %"],
        ),
        (
            policy({"share": 2, "at_least": "1h", "prove": False, "approve": True}),
            traffic(users=600),
            [
                "needs 20 users in each arm",
                "of 600 users",
                "about 12",
                "give it a share of 4 % or more, or it `min_users: 12`",
            ],
        ),
        (
            policy({"share": 0, "at_least": "1h"}, {"share": 1, "at_least": "1h"}),
            traffic(users=600),
            [
                "Step 1 of 2 (dark) needs 20 users",
                "give the next step a share of 4 % or more, or it `min_users: 6`",
            ],
        ),
        (policy(), traffic(users=30), ["the smaller arm has about 15: give it `min_users: 15` or less"]),
        (policy({"share": 95, "at_least": "1h"}), traffic(users=100), ["a share of 20 to 80 %"]),
        (policy({"share": 1, "at_least": "1h"}), traffic(users=9), ["too few users for any comparison"]),
        (
            policy({"share": 5, "at_least": "1h", "prove": False, "approve": True, "min_samples": 9_000_000}),
            traffic(),
            ["has too few requests: 9,000,000 in each arm", "a smaller `min_samples`"],
        ),
        (
            policy(),
            traffic(failed=0),
            ["Only 0 of 86,400 answers failed in 24 h", "0.0035 %", "look for 10 d"],
        ),
        (policy(), traffic(slow=0), ["Only 0 of 85,536 answers took over 120 s", "the most that fits"]),
        (policy(), traffic(1, slow=0.007), ["waits for `slow`", "a lower `limit_s`"]),
        (policy(), traffic(failed=0.05), ["5 % of answers fail without any streams", "raise its `rate`"]),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else "",
)
def test_a_plan_that_cannot_work_is_refused(made: Policy, of: Traffic, said: list[str]) -> None:
    """In a sentence that names the step and the mend."""
    refused = plan(made, of, FEW).refusals

    assert any(all(words in sentence for words in said) for sentence in refused), refused


def test_what_cannot_be_seen_is_never_proved() -> None:
    """No answer is whole: nothing can be slow, and the guardrail waits for ever."""
    of = Traffic(3600, Rate(100, 100))

    assert first(policy(guardrails={"early": {"disabled": "all fail"}}), of).proved == 0


def test_a_guardrail_that_is_turned_off_needs_no_events() -> None:
    """Slow answers are not compared here, so nobody must have seen any."""
    made = plan(policy(guardrails={"slow": {"disabled": "not looked at"}}), traffic(slow=0), FEW)

    assert made.refusals == ()


def test_too_few_failures_are_no_rate() -> None:
    """The most that fits, by Poisson's law at 95 %."""
    exact = [chi2.ppf(0.95, 2 * (seen + 1)) / 2 for seen in range(FEW_EVENTS)]

    assert list(POISSON_95) == pytest.approx(exact, abs=0.006)
    assert (Rate(0, 1000).at, Rate(0, 1000).is_guess) == (0.003, True)
    assert (Rate(10, 1000).at, Rate(10, 1000).is_guess) == (0.01, False)
    assert (Rate(0, 0).at, Rate(3, 4).at) == (1.0, 1.0)


# What holds for all.


@settings(max_examples=12, deadline=None)
@given(st.integers(5, 200), st.sampled_from([0.005, 0.02, 0.1]), st.sampled_from([5, 25, 50]))
def test_more_traffic_never_takes_longer(per_minute: int, failed: float, share: int) -> None:
    """Twice as much, in the median; as far as chance lets see."""
    made = policy({"share": share, "at_least": "1h"}, guardrails=ERRORS_ALONE)
    some, more = (plan(made, traffic(n, failed), 100).steps[0].proof for n in (per_minute, 2 * per_minute))

    assert some is not None and more is not None
    assert some.p50 is None or (more.p50 is not None and more.p50 <= some.p50 * 1.2 + 1 / 60)


COUNTS = st.tuples(st.integers(0, 50_000), st.floats(0, 1)).map(
    lambda pair: (round(pair[0] * pair[1]), pair[0])
)


@settings(max_examples=15, deadline=None)
@given(
    st.floats(1, 1e5),
    COUNTS,
    COUNTS,
    st.none() | st.integers(0, 10_000),
    st.floats(1, 20),
    st.sampled_from([0, 1, 50, 95]),
)
def test_no_figure_is_none(
    looked_s: float,
    failed: tuple[int, int],
    slow: tuple[int, int],
    users: int | None,
    dispersion: float,
    share: int,
) -> None:
    """Neither NaN nor infinite, whatever is seen; and all of it is JSON."""
    of = Traffic(looked_s, Rate(*failed), (Rate(*slow, 120.0),), users, dispersion)
    steps = [{"share": 0, "at_least": "1h", "prove": True}] * (not share) + [HALF | {"share": share or 1}]

    made = plan(policy(*steps), of, 8)

    assert json.loads(json.dumps(asdict(made), allow_nan=False))
    for step in made.steps:
        assert all(0 <= harm.found <= 1 and harm.answers >= 0 for harm in step.harms)
        assert all(harm.users is None or harm.users <= (users or 0) for harm in step.harms)
