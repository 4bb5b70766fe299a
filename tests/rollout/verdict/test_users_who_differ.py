"""Power and false alarms among users who differ, in short: `make simulate` has the whole table."""

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from flags.decision import Arm
from flags.rollout.policy.guardrails import EarlyGuard, ErrorBudget, Exposure, RateRatio
from flags.rollout.verdict.evaluator import Evaluator
from proxy.observe.users.draws import Draws
from tests.simulate.early_table import RULES, TRUTHS, First
from tests.simulate.early_table import simulated as simulated_early
from tests.simulate.user_table import part, simulated
from tests.simulate.users import (
    BEGINS,
    EARLY,
    LOOK_S,
    LOOKS,
    SHARE,
    STEPS,
    Among,
    Back,
    Rollout,
    early,
    evidence,
)


@cache
def found(truth: Among, rounds: int) -> list[Back]:
    """The same rollouts each time."""
    return simulated(truth, rounds, 1, 1)


@pytest.mark.parametrize("cv2", [0.0, 4.0])
def test_the_arrays_say_what_the_verdict_says(cv2: float) -> None:
    """Look by look, but for answers that wait while the other arm is empty: it is the same rule."""
    rollout, step = Rollout(Among(cv2, 3.0), (1, 2)), 0
    exposures = tuple(Exposure(share, at_least_s=hours * 3600 - LOOK_S) for share, hours in STEPS)
    rails = (RateRatio("errors", 1.0), EarlyGuard("early", **EARLY))  # type: ignore[arg-type]
    evaluator = Evaluator(rails, exposures, ErrorBudget())
    *_, errors = evidence(rollout)
    harm = early(rollout)

    for look, batch in enumerate(rollout.batches()):
        if batch.step != step:
            step = batch.step
            evaluator.enter(step)
        evaluator.add(batch)
        if (look % 29 == 0 and rollout.every[: look + 1].any()) or look == LOOKS - 1:
            of_errors, of_early = evaluator.verdicts()
            assert of_errors.log10_e == pytest.approx(errors[look] / math.log(10), abs=0.1)
            assert (of_early.action is not None) == bool(harm[look])


def test_the_arrays_say_of_the_draw_what_proxies_say() -> None:
    """At each look, of the same requests; but that a proxy reckons anew only after a failure, or a tenth more
    requests."""
    rollout, draws = Rollout(Among(1.0, 6.0, users=60, per_minute=6.0), (1, 2)), Draws()
    for user, (requests, failed) in enumerate(zip(rollout.past, rollout.past_failed, strict=True)):
        ends(draws, user, Arm.REST, "", requests, failed)
    found = []
    for look in range(LOOKS):
        draws.begin(str(SHARE[look]), int(SHARE[look]))
        for user in np.flatnonzero(rollout.asked[look]):
            stream, control = rollout.arms[:, look, user]
            arm = Arm.STREAM if stream else Arm.CONTROL if control else Arm.REST
            of_user = rollout.asked[look, user], rollout.counted[look, user]
            ends(draws, int(user), arm, draws.generation, *of_user, prior=tuple(rollout._prior[look]))
        if look in rollout.drawn:
            found.append([*draws.evidence.values()])

    assert np.array(found) == pytest.approx(np.array([*rollout.drawn.values()]), abs=1.5)
    assert np.abs(found).max() > 20


def ends(
    draws: Draws,
    user: int,
    arm: Arm,
    generation: str,
    requests: int,
    failed: int,
    prior: tuple[float, float] = (1.0, 100.0),
) -> None:
    """So many requests of a user end, those that fail first."""
    for count, fails in ((failed, True), (requests - failed, False)):
        if count:
            name = user.to_bytes(8)
            draws.add(name, 0.0, arm, generation, prior, failed=fails, requests=int(count))


@pytest.mark.parametrize("cv2", [4.0, 10.0])
def test_harm_is_found_among_users_who_differ(cv2: float) -> None:
    """Three times the failures, a day of history; by requests alone fewer than half, where users differ."""
    back = found(Among(cv2, 3.0), 12)

    assert part(back, "errors") >= 11 / 12
    assert part(back, "errors") >= part(back, "by requests")


def test_harm_that_begins_late_is_found_before_its_step_ends() -> None:
    """Three times the failures from 25 % of users on: in 16 hours."""
    back = found(Among(1.0, 3.0, harm_from=3), 12)

    assert sum(each.at["errors"] < BEGINS[4] for each in back) >= 9


def test_users_who_differ_are_seldom_taken_for_harm() -> None:
    """At the most that is no harm; and though all failures triple for everybody on the second day."""
    back = [*found(Among(4.0, 1.25), 15), *found(Among(4.0, 1.25, later=3.0), 15)]

    for rule in ("errors", "early"):
        assert part(back, rule) * len(back) <= stats.binom.ppf(0.999, len(back), 0.02)


def test_one_users_storm_is_seldom_taken_for_harm() -> None:
    """14 retries that fail within ten minutes, at any time."""
    back = found(Among(1.0, storm=14), 15)

    assert part(back, "early") == 0
    assert part(back, "errors") * len(back) <= stats.binom.ppf(0.999, len(back), 0.02)


def test_the_first_answers_are_counted_by_users() -> None:
    """One user's retries at twelve processes are no harm, nor are those of three users in most rollouts; and
    more harm is found than where only groups of users are known."""
    one, three, like = (
        simulated_early(TRUTHS[name], 40, 1, 1)
        for name in (
            "one user's storm of 14 retries, to 12 processes",
            "storms of three users of 14 retries",
            "CV² 1",
        )
    )
    harmed = simulated_early(First(ratio=10.0), 40, 1, 1)
    by_groups, by_users = ([back[rule] for back in harmed if rule in back] for rule in RULES)

    assert not any([*one, *like])
    assert sum("users" in back for back in three) < sum("groups" in back for back in three)
    assert len(by_users) >= len(by_groups) > 0
    assert sum(back.step < 2 for back in by_users) > sum(back.step < 2 for back in by_groups)


def test_harm_to_few_is_found() -> None:
    """All of it is with one user in ten; by requests alone it is found in one of three."""
    back = found(Among(0.0, 3.0, few=0.1), 12)

    assert part(back, "errors") >= 11 / 12
    assert part(back, "errors") > part(back, "by requests")
    assert part(found(Among(1.0, 3.0, few=0.1), 12), "errors") >= 8 / 12


def test_a_bot_is_seldom_taken_for_harm() -> None:
    """It makes half of the traffic; by requests alone one in fourteen such rollouts goes back."""
    back = found(Among(1.0, 1.25, bot=True), 15)

    assert part(back, "errors") * len(back) <= stats.binom.ppf(0.999, len(back), 0.02)
