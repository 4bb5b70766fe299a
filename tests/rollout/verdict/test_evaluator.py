"""The verdicts of evidence: guardrail by guardrail, step by step, and in which words."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flags.rollout.evidence.evidence import EXPECTED_UNITS, Batch, Tail, batch_body, batch_from_body
from flags.rollout.policy.guardrails import (
    Action,
    Ceiling,
    EarlyGuard,
    ErrorBudget,
    Exposure,
    Guardrail,
    RateRatio,
    SampleRatio,
    UsualTime,
    ZeroTolerance,
)
from flags.rollout.verdict.draw_evidence import DrawEvidence, stake_of, time_of
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Finding, Verdict

ERRORS = RateRatio("errors", 0.5)
SLOW = RateRatio("slow", 0.2, limit_s=120)
FIRST_CONTENT = Ceiling("first_content", 0.1, "first_content", at=0.05, harm=0.15, limit_s=5)
FALLBACK = Ceiling("fallback", 0.1, "fallback", at=0.02, harm=0.06)
RECOVERY = Ceiling("recovery", 0.1, "unrecovered", at=0.05, harm=0.2)
PARITY = ZeroTolerance("parity", frozenset({"missing"}))
EARLY = EarlyGuard("early", min_users=3)
SAMPLE_RATIO = SampleRatio("sample_ratio")
ALL = (ERRORS, SLOW, FIRST_CONTENT, FALLBACK, RECOVERY, PARITY, EARLY, SAMPLE_RATIO)

STEPS = (Exposure(5), Exposure(25), Exposure(50))
USERS = {"stream": 40, "control": 40}


def answers(stream: Mapping[str, int], control: Mapping[str, int] | None = None) -> dict[Any, int]:
    """Outcomes of both arms, spread over the users' buckets as evenly as whole numbers go."""
    return {
        (arm, bucket, outcome): count // 16 + (bucket < count % 16)
        for arm, outcomes in (("stream", stream), ("control", control or {}))
        for outcome, count in outcomes.items()
        for bucket in range(16)
    }


def batch(step: int = 0, users: Mapping[str, int] = USERS, **counts: Any) -> Batch:
    return Batch(60.0, 120.0, step, users=users, **counts)


def failing(stream: int, control: int, of: int = 1000, **changes: Any) -> Batch:
    """Return evidence in which so many of so many answers failed in each arm."""
    return batch(
        outcomes=answers(
            {"failed": stream, "complete": of - stream}, {"failed": control, "complete": of - control}
        ),
        **changes,
    )


def evaluator_of(
    *rails: Guardrail, steps: tuple[Exposure, ...] = STEPS, budget: ErrorBudget | None = None
) -> Evaluator:
    return Evaluator(rails, steps, budget or ErrorBudget())


def said(rail: Guardrail, *batches: Batch, **made: Any) -> Verdict:
    """The verdict of one guardrail, after each batch in its step."""
    evaluator, step = evaluator_of(rail, **made), 0
    for each in batches:
        if each.step != step:
            step = each.step
            evaluator.enter(step)
        evaluator.add(each)
    (verdict,) = evaluator.verdicts()
    return verdict


def slow(stream: int, control: int) -> Batch:
    tails = {("stream", 120): Tail(stream, 1000), ("control", 120): Tail(control, 1000)}
    return failing(0, 0, seconds=tails)


def first_content(over: int, of: int = 1000, **changes: Any) -> Batch:
    return failing(0, 0, first_content={5: Tail(over, of)}, **changes)


def fallback(fell_back: int, of: int = 1000, **changes: Any) -> Batch:
    return batch(outcomes=answers({"fell_back": fell_back, "complete": of - fell_back}), **changes)


def faults(failed: int, recovered: int, of: int = 1000) -> Batch:
    return failing(0, 0, of, recoveries={"failed": failed, "recovered": recovered})


def parity(missing: int, equal: int = 1000, of: int = 1000) -> Batch:
    return failing(0, 0, of, parity={"missing": missing, "equal": equal, "suffix": 3})


def met(stream: int, control: int, step: int = 0) -> Batch:
    return batch(step, {"stream": stream, "control": control})


NOTHING = batch(users={})
FINDINGS: Mapping[str, tuple[Guardrail, Batch, Finding]] = {
    "errors: harm": (ERRORS, failing(60, 10), Finding.HARM),
    "errors: safe": (ERRORS, failing(50, 50), Finding.SAFE),
    "errors: unclear": (ERRORS, failing(3, 2), Finding.UNCLEAR),
    "errors: nothing": (ERRORS, NOTHING, Finding.NO_DATA),
    "slow: harm": (SLOW, slow(60, 10), Finding.HARM),
    "slow: safe": (SLOW, slow(50, 50), Finding.SAFE),
    "slow: unclear": (SLOW, slow(3, 2), Finding.UNCLEAR),
    "slow: nothing": (SLOW, failing(1, 1), Finding.NO_DATA),
    "first content: harm": (FIRST_CONTENT, first_content(150), Finding.HARM),
    "first content: safe": (FIRST_CONTENT, first_content(50), Finding.SAFE),
    "first content: unclear": (FIRST_CONTENT, first_content(26, 250), Finding.UNCLEAR),
    "first content: nothing": (FIRST_CONTENT, failing(0, 0), Finding.NO_DATA),
    "fallback: harm": (FALLBACK, fallback(60), Finding.HARM),
    "fallback: safe": (FALLBACK, fallback(20), Finding.SAFE),
    "fallback: unclear": (FALLBACK, fallback(10, 300), Finding.UNCLEAR),
    "fallback: nothing": (FALLBACK, NOTHING, Finding.NO_DATA),
    "recovery: harm": (RECOVERY, faults(30, 70), Finding.HARM),
    "recovery: safe": (RECOVERY, faults(3, 97), Finding.SAFE),
    "recovery: unclear": (RECOVERY, faults(3, 18), Finding.UNCLEAR),
    "recovery: nothing": (RECOVERY, NOTHING, Finding.NO_DATA),
    "parity: harm": (PARITY, parity(1), Finding.HARM),
    "parity: safe": (PARITY, parity(0), Finding.SAFE),
    "parity: unclear": (PARITY, parity(0, 100), Finding.UNCLEAR),
    "parity: nothing": (PARITY, NOTHING, Finding.NO_DATA),
    "early: harm": (EARLY, failing(12, 0, 12), Finding.HARM),
    "early: safe": (EARLY, failing(0, 0, 12), Finding.SAFE),
    "early: nothing": (EARLY, NOTHING, Finding.NO_DATA),
    "sample ratio: harm": (SAMPLE_RATIO, met(140, 60), Finding.HARM),
    "sample ratio: the other way": (SAMPLE_RATIO, met(60, 140), Finding.HARM),
    "sample ratio: safe": (SAMPLE_RATIO, met(100, 95), Finding.SAFE),
    "sample ratio: unclear": (SAMPLE_RATIO, met(10, 9), Finding.UNCLEAR),
    "sample ratio: nothing": (SAMPLE_RATIO, NOTHING, Finding.NO_DATA),
}


@pytest.mark.parametrize("what", FINDINGS)
def test_each_guardrail_comes_to_what_the_evidence_says(what: str):
    """To harm, to safety, to neither, or to nothing at all; and harm alone asks for anything."""
    rail, evidence, finding = FINDINGS[what]

    verdict = said(rail, evidence)

    assert verdict.finding is finding, verdict.sentence
    assert (verdict.action is not None) == (finding is Finding.HARM)


@pytest.mark.parametrize("rail", ALL, ids=lambda rail: rail.name)
@pytest.mark.parametrize("evidence", [(), (NOTHING,), (NOTHING, NOTHING)], ids=["none", "once", "twice"])
def test_without_data_nothing_is_safe_and_nothing_is_harm(rail: Guardrail, evidence: tuple[Batch, ...]):
    """Also not when a reading came, and had nothing in it."""
    assert said(rail, *evidence).finding is Finding.NO_DATA


def test_a_verdict_has_the_guardrails_numbers():
    """The smaller arm's samples and users, the evidence, and the lines that it is held against."""
    verdict = said(ERRORS, failing(20, 20), batch(outcomes=answers({"complete": 500})))

    assert (verdict.guardrail, verdict.samples, verdict.samples_needed) == ("errors", 1000, 200)
    assert (verdict.users, verdict.users_needed) == (40, 20)
    assert verdict.hold_at == pytest.approx(math.log10(1 / (0.5 * 0.10)))
    assert verdict.roll_back_at == pytest.approx(math.log10(1 / (0.5 * 0.01)))
    assert verdict.safe_at == pytest.approx(math.log10(1 / 0.05))
    assert verdict.log10_e is not None and verdict.log10_e < 0
    assert verdict.log10_safe is not None and verdict.log10_safe > 0


def test_weights_split_the_budget():
    """A guardrail with a tenth of the error budget needs ten times the evidence."""
    whole, tenth = (said(replace(ERRORS, weight=weight), failing(30, 10)) for weight in (1.0, 0.1))

    assert tenth.hold_at == pytest.approx(whole.hold_at + 1)  # type: ignore[operator]
    assert tenth.roll_back_at == pytest.approx(whole.roll_back_at + 1)  # type: ignore[operator]
    assert (tenth.log10_e, tenth.safe_at) == (whole.log10_e, whole.safe_at)


def test_the_hold_line_comes_before_the_rollback_line():
    """Harm that grows first asks to hold, then to go back; it never goes back at once from nothing."""
    evaluator, actions = evaluator_of(ERRORS), []
    for at in range(100):
        failed = {("stream", 3 * at % 16, "failed"): 3, ("control", at % 16, "failed"): 1}
        evaluator.add(batch(outcomes={**answers({"complete": 97}, {"complete": 99}), **failed}))
        actions.append(evaluator.verdicts()[0].action)

    turns = [action for action, before in zip(actions, [..., *actions], strict=False) if action != before]
    assert turns == [None, Action.HOLD, Action.ROLL_BACK]


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize(
    ("rail", "evidence"),
    [
        (ERRORS, failing(400, 10)),
        (FALLBACK, fallback(400)),
        (PARITY, parity(9)),
        (EARLY, failing(12, 0, 12)),
        (SAMPLE_RATIO, met(1000, 10)),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_a_guardrail_asks_for_no_more_than_it_may(rail: Any, evidence: Batch, action: Action):
    """More evidence changes nothing."""
    verdict = said(replace(rail, action=action), evidence)

    assert (verdict.finding, verdict.action) == (Finding.HARM, action)
    if verdict.log10_e is not None and rail is not SAMPLE_RATIO:
        assert (verdict.roll_back_at is None) == (action is Action.HOLD)


@pytest.mark.parametrize("rail", [ERRORS, SLOW, FIRST_CONTENT, FALLBACK], ids=lambda rail: rail.name)
@pytest.mark.parametrize("short", [{"min_samples": 1001}, {"min_users": 41}], ids=["samples", "users"])
@pytest.mark.parametrize("bad", [500, 0], ids=["much is bad", "all is well"])
def test_no_rate_is_judged_by_too_few(rail: Guardrail, short: dict[str, int], bad: int):
    """Neither as harm nor as safe, whatever the few look like; and the verdict says so."""
    tails = {("stream", 120): Tail(bad, 1000), ("control", 120): Tail(5, 1000)}
    outcomes = answers({"failed": bad, "fell_back": bad, "complete": 1000 - 2 * bad}, {"complete": 1000})
    evidence = batch(outcomes=outcomes, seconds=tails, first_content={5: Tail(bad, 1000)})

    verdict = said(rail, evidence, steps=(Exposure(5, **short), Exposure(25)))

    assert verdict.finding is Finding.UNCLEAR
    assert verdict.samples < verdict.samples_needed or verdict.users < verdict.users_needed
    assert verdict.sentence.endswith("too few yet.")


@pytest.mark.parametrize(
    ("rail", "evidence"),
    [
        (PARITY, batch(users={}, outcomes=answers({"complete": 1}), parity={"missing": 1})),
        (EARLY, batch(users={}, outcomes=answers({"failed": 9}, {"complete": 9}))),
    ],
    ids=["parity", "early"],
)
def test_some_harm_is_not_counted_twice(rail: Guardrail, evidence: Batch):
    """A text that is not the answer's, and first answers that fail, act at once."""
    assert said(rail, evidence).action is Action.ROLL_BACK


def test_a_step_entered_proves_anew():
    """A rail that was safe at 5 % is not known to be safe at 25 %."""
    evaluator = evaluator_of(ERRORS)
    evaluator.add(failing(50, 50))
    safe = evaluator.verdicts()[0]
    evaluator.enter(1)
    entered = evaluator.verdicts()[0]
    evaluator.add(failing(2, 2, 250, step=1))
    begun = evaluator.verdicts()[0]

    assert safe.finding is Finding.SAFE
    assert (entered.finding, entered.samples, entered.users) == (Finding.NO_DATA, 0, 0)
    assert (begun.finding, begun.samples) == (Finding.UNCLEAR, 250)


def test_what_speaks_for_harm_stays_in_the_steps_that_follow():
    """The first answers of the next step are enough for what the last one has shown."""
    evaluator = evaluator_of(ERRORS)
    evaluator.add(failing(60, 10))
    harm = evaluator.verdicts()[0]
    evaluator.enter(1)
    entered = evaluator.verdicts()[0]
    evaluator.add(failing(0, 0, 1, step=1, users={"stream": 1, "control": 1}))
    begun = evaluator.verdicts()[0]

    assert entered.finding is Finding.NO_DATA
    assert entered.log10_e == harm.log10_e
    assert (begun.finding, begun.action) == (Finding.HARM, Action.ROLL_BACK)


def test_harm_that_comes_with_the_load_is_seen_by_its_step_alone():
    """Weeks in which all was well do not hide what the last step brings."""
    evaluator = evaluator_of(ERRORS)
    evaluator.add(failing(500, 500, 50_000))
    evaluator.enter(1)
    evaluator.add(failing(500, 500, 50_000, step=1))
    evaluator.enter(2)
    evaluator.add(failing(60, 10, step=2))

    assert evaluator.verdicts()[0].action is Action.ROLL_BACK


def test_who_comes_back_to_a_step_goes_on_with_its_bet():
    """A step that begins a second time is no second chance to win the same bet."""
    evaluator = evaluator_of(ERRORS)
    evaluator.add(failing(10, 30))
    before = evaluator.verdicts()[0].log10_e
    evaluator.enter(1)
    evaluator.enter(0)

    assert evaluator.verdicts()[0].log10_e == pytest.approx(before)


def test_a_lost_text_is_harm_in_all_steps_that_follow():
    """Nobody forgets that a wrong text was shown."""
    assert said(PARITY, parity(1), replace(parity(0), step=1)).action is Action.ROLL_BACK


def test_texts_that_nobody_compared_are_no_proof():
    """Answers alone do not say that they were shown as they are."""
    assert said(PARITY, failing(0, 0)).finding is Finding.NO_DATA
    assert said(PARITY, parity(0), replace(failing(0, 0), step=1)).finding is Finding.NO_DATA


def test_proxies_that_begin_anew_take_nothing_back():
    """Enough users stay enough when the processes that counted them are gone."""
    evaluator = evaluator_of(ERRORS, SAMPLE_RATIO)
    evaluator.add(failing(60, 10))
    evaluator.add(failing(0, 0, 1, users={"stream": 0, "control": 1}))

    assert evaluator.verdicts()[0].action is Action.ROLL_BACK
    assert [verdict.users for verdict in evaluator.verdicts()] == [40, 40]


def test_where_few_ask_the_tick_is_no_part_of_the_evidence():
    """Answers of one arm wait for the other arm's: looking each second loses none."""
    stream = [batch(outcomes={("stream", 0, outcome): 1}) for outcome in ["failed", "complete"] * 200]
    control = [batch(outcomes={("control", 0, "complete"): 1}) for _ in range(400)]
    often = [each for pair in zip(stream, control, strict=True) for each in pair]

    assert said(ERRORS, *often).action is Action.ROLL_BACK


def test_an_outage_of_both_arms_is_no_harm():
    """The batch API was down for an hour, for everybody."""
    evaluator = evaluator_of(ERRORS)
    evaluator.add(failing(10, 10))
    before = evaluator.verdicts()[0].log10_e
    evaluator.add(failing(900, 900))
    after = evaluator.verdicts()[0]

    assert after.finding is not Finding.HARM
    assert after.log10_e <= before + 1e-9  # type: ignore[operator]


def expecting(of: Batch, stream: float, control: float) -> Batch:
    """A batch with so many failures expected in each arm, of the buckets alike."""
    each = {"stream": stream, "control": control}
    expected = {(a, b): round(n * EXPECTED_UNITS / 16) for a, n in each.items() for b in range(16)}
    return replace(of, expected=expected)


def test_failures_that_were_expected_are_no_harm():
    """Users who always failed are in control by chance: as many failures may be too many in the other arm."""
    plain, more = failing(60, 60), failing(60, 30)

    assert said(ERRORS, expecting(plain, 10, 60)).action is Action.ROLL_BACK
    assert said(ERRORS, expecting(plain, 60, 60)).action is None
    assert said(ERRORS, expecting(more, 60, 30)).log10_e < said(ERRORS, more).log10_e  # type: ignore[operator]


@pytest.mark.parametrize("expected", [(10.0, 10.0), (90.0, 10.0), (10.0, 90.0)])
def test_what_is_expected_never_hides_what_requests_show(expected: tuple[float, float]):
    """The evidence is the mean of both: also with wrong forecasts, harm that is plain goes back."""
    plain = failing(60, 10)
    alone, both = said(ERRORS, plain), said(ERRORS, expecting(plain, *expected))

    assert (alone.histories, both.histories) == (False, True)
    assert (alone.action, both.action) == (Action.ROLL_BACK, Action.ROLL_BACK)


def test_a_rollout_that_began_with_older_proxies_goes_by_requests_alone():
    """To its end. Whether a second bet takes part may not depend on how the first one stands."""
    plain = failing(20, 10)
    older = said(ERRORS, plain, plain)

    assert said(ERRORS, plain, expecting(plain, 5, 20)) == older
    assert older.histories is False
    assert said(SLOW, plain).histories is None


def test_a_look_without_forecasts_is_left_out_of_their_evidence():
    """One proxy was replaced by an older version: what it fails is in the other bet."""
    first = expecting(failing(20, 10), 10, 10)
    verdict = said(ERRORS, first, failing(400, 400))

    assert verdict.histories is True
    assert verdict.log10_e is not None


def test_what_is_expected_is_in_the_journal():
    """Replayed, it is the same evidence; older journals say nothing of it."""
    plain = failing(3, 2)
    expected = expecting(plain, 2, 2)

    assert "expected" not in batch_body(plain)
    assert batch_from_body(batch_body(plain)).expected is None
    assert batch_from_body(json.loads(json.dumps(batch_body(expected)))).expected == expected.expected


@pytest.mark.parametrize("expected", [{("rest", 3): 1}, {("stream", 16): 1}, {("stream", 3): -1}])
def test_what_cannot_be_expected_is_refused(expected: dict[tuple[str, int], int]):
    """A reader that goes wrong is found at once, and nothing has changed."""
    with pytest.raises(ValueError, match="expected holds"):
        evaluator_of(ERRORS).add(replace(failing(1, 1), expected=expected))


def known(stream: int, control: int, of: int = 1000, weight: float = 1.0, **counts: Any) -> Batch:
    """Return what proxies say that know their users: as much is expected of everybody."""
    of_answers = failing(stream, control, of)
    expected = {(arm, b): EXPECTED_UNITS // 2 for arm in USERS for b in range(16)}
    weighed = {
        (arm, b): round(
            weight * EXPECTED_UNITS * sum(of_answers.outcomes.get((arm, b, o), 0) for o in ("failed",))
        )
        for arm in USERS
        for b in range(16)
    }
    return replace(of_answers, expected=expected, weighed=weighed, **counts)


def test_failures_that_weigh_little_say_little() -> None:
    """They are of users of whom many were expected already."""
    heavy, light = (said(ERRORS, known(40, 10, weight=weight)).log10_e or 0.0 for weight in (1.0, 0.1))

    assert heavy > 1.5
    assert light < 0.7


def test_harm_to_few_users_is_found_by_the_users() -> None:
    """Failures are as many in both arms; but all users who came to fail far more often are in one arm."""
    few = known(10, 10, worse={("stream", "7"): 9, ("stream", "5"): 9, ("rest", "5"): 2})
    many = known(10, 10, worse={("stream", "7"): 1, ("stream", "5"): 1, ("rest", "5"): 9, ("rest", "7"): 9})

    assert said(ERRORS, replace(few, step=0)).action is Action.ROLL_BACK
    assert said(ERRORS, many).action is None


def test_processes_that_may_have_met_the_same_users_are_one_draw() -> None:
    """Four proxies, each of which saw the same three users come to fail."""
    worse = {("stream", "7"): 12, ("stream", "5"): 12}
    at_25_percent = replace(known(10, 10, worse=worse), step=1)

    assert said(ERRORS, at_25_percent).action is Action.ROLL_BACK
    assert said(ERRORS, replace(at_25_percent, proxies=4)).action is None


def test_a_wide_margin_leaves_the_users_out() -> None:
    """Proxies take a fourth more for no harm: with a margin beyond it they would accuse what is none."""
    few = known(10, 10, worse={("stream", "7"): 12, ("stream", "5"): 12})

    assert said(RateRatio("errors", 0.5, margin=1.5, harm=3.0), few).action is None


def drawn(odds: float, hours: float, **counts: Any) -> Batch:
    """Return what proxies say by this hour: how much likelier each harm makes whom the flag drew."""
    return known(
        10,
        10,
        **{"since_s": 3600 * (hours - 1), "until_s": 3600 * hours, **counts},
        drawn={harm: round(math.log(odds) * EXPECTED_UNITS) for harm in ("few", "all", "late")},
    )


def test_harm_that_explains_the_draw_is_harm() -> None:
    """Failures are as many in both arms. By one look of twelve hours: each has a part of the stake."""
    found = said(ERRORS, drawn(1e6, 1), drawn(1e6, 4))
    chance = said(ERRORS, drawn(1.0, 1), drawn(1.0, 4))

    assert found.action is Action.ROLL_BACK
    assert chance.action is None


def test_the_draw_is_looked_at_now_and_then_and_not_between() -> None:
    """It rises and falls, so the most of many looks proves nothing. What one look has won stays."""
    assert said(ERRORS, drawn(1, 1), drawn(1e6, 3), drawn(1, 4)).action is None
    assert said(ERRORS, drawn(1, 1), drawn(1, 3), drawn(1e6, 4), drawn(1, 5)).action is Action.ROLL_BACK


def test_each_look_at_the_draw_has_a_part_of_the_stake() -> None:
    """All looks of all steps, however long these last, have it together."""
    assert sum(stake_of(look) for look in range(60)) == pytest.approx(1.0)
    assert all(time_of(look) < time_of(look + 1) for look in range(60))
    evidence = DrawEvidence([3600.0, 3600.0])
    for step in (0, 1, 0):
        evidence.enter(step)
        evidence.add(drawn(7.0, 1e5, since_s=0.0))

    assert evidence.log == pytest.approx(math.log(7.0), abs=1e-3)


def test_proxies_that_know_no_draw_leave_the_stake_to_the_other_bets() -> None:
    """As a rollout of older proxies began it goes on."""
    before = known(40, 10)
    later = drawn(1e6, 4)

    assert said(ERRORS, before, later) == said(ERRORS, before, replace(later, drawn={}))


def test_harm_in_one_small_route_is_found() -> None:
    """A twentieth of all answers, whose failures nobody would see among those of the other route."""
    small, large = failing(40, 4, 400), failing(96, 132, 8000)
    both = failing(136, 136, 8400, routes={"small": small, "large": large})

    assert said(ERRORS, replace(both, routes={})).action is None
    assert said(ERRORS, both).action is Action.ROLL_BACK
    assert (
        said(ERRORS, replace(both, routes={"small": replace(small, users={}), "large": large})).action is None
    )


def usual(stream: int, control: int, *, one_user: bool = False) -> Batch:
    """Return evidence of 1000 answers an arm, of which so many took longer than is usual."""
    spread = {
        (arm, b): count // 16 for arm, count in (("stream", stream), ("control", control)) for b in range(16)
    }
    if one_user:
        spread = {("stream", 3): stream - control, **{("control", b): 0 for b in range(16)}}
    return failing(0, 0, slower=spread)


def test_answers_slower_than_usual_are_harm_whatever_the_limit() -> None:
    """A third more time makes twice as many of them; the same in both arms is none."""
    rail = UsualTime("usual", 0.1)

    assert said(rail, usual(320, 160)).action is Action.HOLD
    assert said(rail, usual(320, 320)).finding is Finding.SAFE
    assert said(rail, usual(320, 160, one_user=True)).action is None


def test_what_nobody_compares_with_the_usual_is_no_proof() -> None:
    """Older proxies do not say it: that is not zero."""
    assert said(UsualTime("usual", 0.1), failing(0, 0)).finding is Finding.NO_DATA


def test_routes_share_the_budget() -> None:
    """A finding needs more winnings, the more routes there are."""
    evidence = [
        said(ERRORS, failing(0, 0, 8000, routes={"hit": failing(30, 4), **quiet})).log10_e or 0.0
        for quiet in ({"a": failing(0, 0)}, {name: failing(0, 0) for name in "abcdefghi"})
    ]

    assert evidence[0] == pytest.approx(evidence[1] + math.log10(5), abs=0.01)


def test_what_users_and_routes_say_is_in_the_journal() -> None:
    """A replay comes to the same."""
    of_route = known(7, 3, 100)
    said_by_all = known(
        40,
        10,
        worse={("stream", "5"): 2, ("rest", "7"): 1},
        slower={("control", 3): 4},
        proxies=3,
        drawn={"few": -3, "all": 5 * EXPECTED_UNITS},
        routes={"start": of_route, "resume": of_route},
    )

    stored = batch_from_body(json.loads(json.dumps(batch_body(said_by_all))))
    assert said(ERRORS, stored) == said(ERRORS, said_by_all)
    assert stored.slower == {("control", 3): 4}
    assert stored.drawn == said_by_all.drawn


def test_a_rollout_that_began_before_failures_were_weighed_goes_on_as_it_began() -> None:
    """Newer proxies expect otherwise: their looks count by requests alone."""
    older = replace(known(10, 10), weighed=None)

    assert said(ERRORS, older, known(40, 10)) == said(ERRORS, older, replace(known(40, 10), expected=None))


def test_one_user_who_always_fails_is_not_a_hundred():
    """The same number of failures is harm where all users have some, and is not where one has them all."""
    one = batch(outcomes={**failing(0, 10).outcomes, ("stream", 3, "failed"): 60})

    assert said(ERRORS, failing(60, 10)).action is Action.ROLL_BACK
    assert said(ERRORS, one).finding is Finding.UNCLEAR


def test_who_left_is_in_no_comparison():
    """Clients that leave, cancel, or meet a proxy that ends, are neither good nor bad."""
    left = answers({"client_left": 900, "cancelled": 50, "shutdown": 50}, {"client_left": 3})

    assert said(ERRORS, failing(30, 30), batch(outcomes=left)) == said(ERRORS, failing(30, 30))


def test_few_faults_are_no_reason_to_wait():
    """If next to nothing breaks, a low rate of recovery cannot be proved, and need not be."""
    verdict = said(RECOVERY, faults(0, 5))

    assert (verdict.finding, verdict.samples) == (Finding.SAFE, 1000)
    assert verdict.sentence.endswith("too few to judge, and no reason to wait.")


def test_few_faults_are_a_reason_to_wait_where_they_point_to_harm():
    """Three of four runs that broke gave no answer: too few to call it harm, too many to call it safe."""
    assert said(RECOVERY, faults(3, 1)).finding is Finding.UNCLEAR


@pytest.mark.parametrize("failed", [15, 19, 20, 60])
def test_faults_without_an_answer_are_harm_however_many_there_are(failed: int):
    """No number of them is both too many to be excused and too few to be judged."""
    assert said(RECOVERY, faults(failed, 0)).finding is Finding.HARM


def test_faults_that_were_recovered_are_proof_before_there_are_hundreds():
    """Its samples are the answers; of faults it takes as many as the proof needs."""
    assert said(RECOVERY, faults(0, 40)).finding is Finding.SAFE


def test_few_faults_are_excused_only_after_enough_answers():
    """Before that there was no time for any to happen; and not before there are users."""
    assert said(RECOVERY, faults(0, 0, of=199)).finding is Finding.UNCLEAR
    assert said(RECOVERY, replace(faults(0, 0), users={"stream": 3})).finding is Finding.UNCLEAR


def test_a_dark_step_is_judged_by_the_arms_of_the_next():
    """Nothing is shown: first texts are not waited for, and users are as many as the next share has."""
    dark = (Exposure(0), Exposure(60))

    assert said(FIRST_CONTENT, failing(0, 0), steps=dark).finding is Finding.SAFE
    assert said(ERRORS, failing(60, 10), steps=dark).finding is Finding.HARM
    assert said(SAMPLE_RATIO, met(120, 80), steps=dark).finding is Finding.SAFE
    assert said(SAMPLE_RATIO, met(500, 500), steps=dark).finding is Finding.HARM


def test_a_dark_step_waits_for_texts_only_where_a_source_has_some():
    """If one has, an answer whose text nobody compared is no proof, as in any other step."""
    with_texts, without = (Exposure(0), Exposure(60)), (Exposure(0, compared=False), Exposure(60))

    assert said(PARITY, failing(0, 0, 500), steps=with_texts).finding is Finding.NO_DATA
    assert said(PARITY, failing(0, 0, 500), steps=without).finding is Finding.SAFE
    assert "only the source tap" in said(PARITY, failing(0, 0, 500), steps=without).sentence
    assert said(PARITY, failing(0, 0, 100), steps=without).finding is Finding.UNCLEAR
    assert said(PARITY, parity(1), steps=without).finding is Finding.HARM


def test_the_early_guard_looks_at_the_whole_rollout_and_at_each_step_anew():
    """Harm of its first answers stays; and what comes after many good ones has its own first answers."""
    assert said(EARLY, failing(12, 0, 12), failing(0, 0, 12, step=1)).finding is Finding.HARM
    assert said(EARLY, failing(0, 0, 500), failing(12, 0, 12, step=1)).finding is Finding.HARM


def test_the_early_guard_blames_no_streaming_for_what_control_has_too():
    """An upstream that is down for everybody fails the first answers of both arms."""
    assert said(EARLY, failing(12, 12, 12)).finding is Finding.SAFE
    assert said(EARLY, failing(12, 9, 12)).finding is Finding.SAFE
    assert said(EARLY, batch(outcomes=answers({"failed": 12}))).finding is Finding.SAFE


def by_bucket(*failed: int, of: int = 3) -> Batch:
    """Each of 16 groups of users has so many answers in either arm; of the stream arm's these failed."""
    outcomes = {(arm, bucket, "complete"): of for arm in ("stream", "control") for bucket in range(16)}
    outcomes |= {("stream", bucket, "failed"): count for bucket, count in enumerate(failed)}
    return batch(outcomes=outcomes)


@pytest.mark.parametrize("storm", [1, 14, 100])
def test_one_users_retries_are_no_early_harm(storm: int):
    """Nor are two users', however often they try again on a quiet night."""
    assert said(EARLY, by_bucket(storm)).finding is Finding.SAFE
    assert said(EARLY, by_bucket(storm, 0, storm)).finding is Finding.SAFE
    assert said(EARLY, by_bucket(storm, 1, 1, 1)).finding is Finding.SAFE
    assert said(EARLY, by_bucket(*[2] * 12)).finding is Finding.HARM


def capped(count: int, *failed: int) -> Batch:
    """Of the failures by group, so many are what proxies let count; none are control's."""
    return replace(by_bucket(*failed), capped={"stream": count, "control": 0})


def test_of_each_user_the_first_early_failures_of_an_hour_count():
    """Storms of three users and failures of nine others are too many; five of each storm and nine are not."""
    storms = (10, 10, 10, *(1,) * 9)
    verdict = said(EARLY, capped(24, *storms))

    assert said(EARLY, by_bucket(*storms)).finding is Finding.HARM
    assert verdict.finding is Finding.SAFE
    assert "24 of them count, for of one user only the first of an hour do" in verdict.sentence
    assert said(EARLY, capped(39, *(4,) * 9, 3)).finding is Finding.HARM


def test_failures_of_different_users_in_one_group_count():
    """By groups alone the two that failed most would count as the third."""
    failed = (5, 5, 3, 3, 2, 1)

    assert said(EARLY, by_bucket(*failed)).finding is Finding.SAFE
    assert said(EARLY, capped(19, *failed)).finding is Finding.HARM


@pytest.mark.parametrize("storm", [2, 14, 100])
def test_one_user_at_many_proxies_is_no_early_harm(storm: int):
    """Though each of them lets five of the user's failures count: all are in one group, which counts as the
    next one does. Of two groups, none count."""
    assert "; 0 of them count" in said(EARLY, capped(storm, storm)).sentence
    assert "; 0 of them count" in said(EARLY, capped(2 * storm, storm, 0, storm)).sentence
    assert "; 4 of them count" in said(EARLY, capped(storm + 3, storm, 1, 1, 1)).sentence
    assert said(EARLY, capped(storm + 3, storm, 1, 1, 1)).finding is Finding.SAFE


def test_where_a_proxy_does_not_cap_early_failures_groups_of_users_must_do():
    """From its first failure on; and a policy that asks for no different users has all failures."""
    old, new = by_bucket(14, 1, 1), capped(7, 5, 1, 1)
    without = replace(new, capped=None)

    for batches, as_before in (((new, old), (without, old)), ((old, new, new), (old, without, without))):
        assert said(EARLY, *batches) == said(EARLY, *as_before)
    assert said(EARLY, replace(by_bucket(), capped=None), new) == said(EARLY, by_bucket(), new)
    assert said(EARLY, new) != said(EARLY, without)
    assert said(EarlyGuard("early"), capped(5, 14)).finding is Finding.HARM


def test_a_journal_from_before_users_were_asked_for_comes_to_what_it_says():
    """There a guard has no `min_users`: all failed answers count, whoever's they are."""
    assert said(EarlyGuard("early"), by_bucket(14)).finding is Finding.HARM


def test_an_early_verdict_says_when_not_all_failures_count():
    """Else nobody understands why so many are not too many."""
    sentence = said(EARLY, by_bucket(14, 1, 1)).sentence

    assert "16 of the first 64 answers" in sentence
    assert "3 of them count" in sentence


def test_the_early_guard_does_not_forget_within_a_step():
    """Answers that are well do not make the first ones so."""
    assert said(EARLY, failing(12, 0, 12), failing(0, 0, 180)).finding is Finding.HARM


def test_a_burst_is_not_too_large_for_the_early_guard():
    """A batch beyond its last answer counts as far as it is sure: 200 of 300 cannot have come later."""
    assert said(EARLY, failing(200, 0, 300)).finding is Finding.HARM
    assert said(EARLY, failing(90, 0, 300)).finding is Finding.SAFE


def test_the_sample_ratio_begins_anew_with_each_step():
    """A fault of the arms at 5 % is not held against 80 %, whose control is a quarter of them."""
    steps = (Exposure(5), Exposure(80))

    assert said(SAMPLE_RATIO, met(140, 60), met(160, 40, step=1), steps=steps).finding is Finding.SAFE
    assert said(SAMPLE_RATIO, met(100, 100), met(100, 100, step=1), steps=steps).finding is Finding.HARM


def test_the_sample_ratio_is_not_fooled_by_counters_that_fall():
    """Proxies that begin anew count the same users again, ten times over: that is no new evidence."""
    days = [met(stream, control) for _ in range(10) for stream, control in ((60, 45), (115, 85), (0, 0))]

    verdict = said(SAMPLE_RATIO, *days)

    assert verdict.finding is Finding.SAFE
    assert verdict.log10_e == said(SAMPLE_RATIO, met(115, 85)).log10_e


def test_the_sample_ratio_does_not_forget_when_counters_fall():
    """A restart of the proxies is no repair."""
    assert said(SAMPLE_RATIO, met(140, 60), met(2, 1)).finding is Finding.HARM


UNCOUNTABLE: Mapping[str, Batch] = {
    "outcomes": batch(outcomes={("stream", 0, "failed"): math.nan}),
    "seconds": batch(seconds={("stream", 120): Tail(5, 4)}),
    "first_content": batch(first_content={5: Tail(-1, 4)}),
    "recoveries": batch(recoveries={"failed": True}),
    "parity": batch(parity={"equal": -1}),
    "users": batch(users={"stream": 3.0}),  # type: ignore[dict-item]
    "the bucket 16": batch(outcomes={("stream", 16, "failed"): 1}),
    "the bucket -1": batch(outcomes={("stream", -1, "failed"): 1}),
    "'garbled'": batch(outcomes={("stream", 0, "garbled"): 1}),
    "step 1": batch(step=1),
}


@pytest.mark.parametrize("what", UNCOUNTABLE)
def test_what_is_no_evidence_is_refused_and_changes_nothing(what: str):
    """Not numbers, negative ones, yes and no, outcomes nobody knows, another step: none is taken for zero."""
    evaluator = evaluator_of(*ALL)
    evaluator.add(failing(3, 2))
    before = evaluator.verdicts()

    with pytest.raises(ValueError, match=what):
        evaluator.add(UNCOUNTABLE[what])
    assert evaluator.verdicts() == before


@pytest.mark.parametrize("shares", [(), (0,), (5, 100), (5, 0)])
def test_steps_without_a_control_are_refused(shares: tuple[int, ...]):
    """Nothing can be compared where everybody streams, or where dark has no step after it."""
    with pytest.raises(ValueError, match="no control"):
        evaluator_of(ERRORS, steps=tuple(Exposure(share) for share in shares))


COUNTS = st.integers(0, 60)
OUTCOMES = st.sampled_from(
    ["complete", "recovered", "fell_back", "failed", "truncated", "client_left", "cancelled", "shutdown"]
)
TAILS = st.builds(lambda over, more: Tail(over, over + more), COUNTS, COUNTS)


def some_batches(step: int) -> st.SearchStrategy[Batch]:
    arms = st.sampled_from(["stream", "control"])
    return st.builds(
        Batch,
        since_s=st.floats(0, 1e9),
        until_s=st.floats(0, 1e9),
        step=st.just(step),
        outcomes=st.dictionaries(st.tuples(arms, st.integers(0, 15), OUTCOMES), COUNTS, max_size=40),
        seconds=st.dictionaries(st.tuples(arms, st.just(120)), TAILS),
        first_content=st.dictionaries(st.just(5), TAILS),
        recoveries=st.dictionaries(st.sampled_from(["recovered", "fell_back", "failed"]), COUNTS),
        parity=st.dictionaries(st.sampled_from(["equal", "suffix", "missing"]), COUNTS),
        users=st.dictionaries(arms, COUNTS),
    )


ROLLOUTS = st.tuples(*(st.lists(some_batches(step), max_size=5) for step in range(len(STEPS))))


def all_said(steps: tuple[list[Batch], ...]) -> list[tuple[Verdict, ...]]:
    """The verdicts of all guardrails after each batch."""
    evaluator, found = evaluator_of(*ALL), []
    for step, batches in enumerate(steps):
        evaluator.enter(step)
        for each in batches:
            evaluator.add(each)
            found.append(evaluator.verdicts())
    return found


@settings(deadline=None)
@given(steps=ROLLOUTS)
def test_the_same_batches_give_the_same_verdicts(steps: tuple[list[Batch], ...]):
    """To the last digit, and also after they were written down as JSON and read again."""
    stored = tuple(
        [batch_from_body(json.loads(json.dumps(batch_body(b)))) for b in batches] for batches in steps
    )

    first = all_said(steps)

    assert all_said(steps) == first
    assert all_said(stored) == first


@settings(deadline=None)
@given(steps=ROLLOUTS)
def test_looking_changes_nothing(steps: tuple[list[Batch], ...]):
    """One look at the end finds the same as a look after each batch."""
    evaluator = evaluator_of(*ALL)
    for step, batches in enumerate(steps):
        evaluator.enter(step)
        for each in batches:
            evaluator.add(each)
    seen = all_said(steps)

    if steps[-1]:
        assert evaluator.verdicts() == seen[-1]


@settings(deadline=None)
@given(steps=ROLLOUTS)
def test_a_stream_arm_without_bad_events_is_never_harm(steps: tuple[list[Batch], ...]):
    """Control's failures and the growth of the arms change nothing."""
    clean = tuple(
        [
            replace(
                each,
                outcomes={
                    key: n
                    for key, n in each.outcomes.items()
                    if key[0] != "stream" or key[2] not in ("failed", "truncated")
                },
                seconds={
                    key: tail if key[0] == "control" else Tail(0, tail.all)
                    for key, tail in each.seconds.items()
                },
            )
            for each in batches
        ]
        for batches in steps
    )

    for errors, slow_answers, *_ in all_said(clean):
        assert Finding.HARM not in (errors.finding, slow_answers.finding)


@settings(deadline=None)
@given(steps=ROLLOUTS)
def test_every_verdict_can_be_shown(steps: tuple[list[Batch], ...]):
    """Its numbers are finite, its sentence is one, and harm is what has an action."""
    for verdicts in all_said(steps):
        for verdict in verdicts:
            numbers = (verdict.log10_e, verdict.log10_safe, verdict.hold_at, verdict.samples, verdict.users)
            assert all(math.isfinite(number) for number in numbers if number is not None)
            assert (verdict.action is None) == (verdict.finding is not Finding.HARM)
            assert verdict.sentence.endswith(".") and "e+" not in verdict.sentence


SENTENCES: Mapping[str, tuple[Guardrail, Batch, str]] = {
    "harm": (
        ERRORS,
        failing(60, 10),
        "Errors: 60 of 1,000 answers in the stream arm failed (6 %), 10 of 1,000 in its control (1 %): "
        "6 times as often; that is harm.",
    ),
    "a warning": (
        ERRORS,
        failing(35, 10),
        "Errors: 35 of 1,000 answers in the stream arm failed (3.5 %), 10 of 1,000 in its control (1 %): "
        "3.5 times as often; that looks like harm.",
    ),
    "safe": (
        SLOW,
        slow(50, 55),
        "Slow: 50 of 1,000 answers in the stream arm took over 120 s (5 %), 55 of 1,000 in its control "
        "(5.5 %): 0.91 times as often; safe, since 2 times or more is ruled out.",
    ),
    "everything failed": (
        ERRORS,
        failing(1000, 1, 1000),
        "Errors: 1,000 of 1,000 answers in the stream arm failed (100 %), 1 of 1,000 in its control "
        "(0.1 %): 1,000 times as often; that is harm.",
    ),
    "too few": (
        ERRORS,
        failing(1, 0, 100),
        "Errors: 1 of 100 answers in the stream arm failed (1 %), 0 of 100 in its control (0 %); "
        "too few yet.",
    ),
    "a ceiling": (
        FIRST_CONTENT,
        first_content(26, 250),
        "First content: 26 of 250 streams showed their first text later than 5 s (10 %; up to 5 % is "
        "fine); no harm shown, and 43 % of the way to shown to be safe.",
    ),
    "few faults": (
        RECOVERY,
        faults(0, 5),
        "Recovery: 0 of 5 runs that lost their live text gave no answer (0 %; up to 5 % is fine); "
        "too few to judge, and no reason to wait.",
    ),
    "texts": (
        PARITY,
        parity(0),
        "Parity: 0 of 1,003 texts were shown otherwise than the answer has them, which rules out more "
        "than 0.3 %; shown to be safe.",
    ),
    "first answers": (
        EARLY,
        failing(2, 0, 12),
        "Early: 2 of the first 12 answers of this step failed, 0 of 12 in its control; 0 of them count, for "
        "the others may be of fewer than 3 users (4 would be harm if control has fewer); not too many.",
    ),
    "a burst": (
        EARLY,
        failing(101, 0, 300),
        "Early: at least 1 of the first 200 answers of this step failed, 0 of 300 in its control "
        "(14 would be harm if control has fewer); not too many.",
    ),
    "arms that do not fit": (
        SAMPLE_RATIO,
        met(140, 60),
        "Sample ratio: 140 users met in the stream arm and 60 in its control, 50 % of them expected in the "
        "first; that is not chance, so the arms or the counting are wrong.",
    ),
    "nothing": (
        ERRORS,
        NOTHING,
        "Errors: 0 of 0 answers in the stream arm failed (none), 0 of 0 in its control (none); "
        "nothing to go by yet.",
    ),
}


@pytest.mark.parametrize("what", SENTENCES)
def test_a_verdict_is_a_sentence_that_a_clinician_understands(what: str):
    """It names the counts, the limit that they are held against, and what that means."""
    rail, evidence, sentence = SENTENCES[what]

    assert said(rail, evidence).sentence == sentence
