"""The move that follows from what is known: the table of moves, as a whole and line by line."""

from dataclasses import replace
from itertools import product

import pytest

from flags.rollout.moves import (
    RULES,
    Change,
    ControlMode,
    Move,
    MoveKind,
    MoveReason,
    RolloutPhase,
    Situation,
    StepRules,
    decide,
)
from flags.rollout.policy.guardrails import Action
from flags.rollout.verdict.verdict import Finding, Verdict


def verdict(finding: Finding, action: Action | None = None, **changes: object) -> Verdict:
    numbers = {"samples": 500, "samples_needed": 200, "users": 40, "users_needed": 20}
    evidence = {"log10_e": 0.0, "hold_at": 2.0, "roll_back_at": 3.0, "log10_safe": 1.5, "safe_at": 1.3}
    made = Verdict("errors", finding, action, f"It is {finding}.", **evidence, **numbers)
    return replace(made, **changes)  # type: ignore[arg-type]


SAFE = verdict(Finding.SAFE)
UNCLEAR = verdict(Finding.UNCLEAR)
HARM = verdict(Finding.HARM, Action.ROLL_BACK)
WARNING = verdict(Finding.HARM, Action.HOLD)
TOO_FEW = verdict(Finding.UNCLEAR, samples=7)

STEP_RULES = StepRules(at_least_s=3600, at_most_s=86400, prove=True, approve=False, is_last=False)
READY = Situation(RolloutPhase.RUNNING, ControlMode.AUTO, STEP_RULES, dwelt_s=3600, verdicts=(SAFE,))

BLOCKS: dict[str, dict[str, object]] = {
    "paused": {"phase": RolloutPhase.PAUSED},
    "unreadable": {"flag_problem": "refused"},
    "changed": {"change": Change.OTHER, "changed_by": "somebody"},
    "lowered": {"change": Change.LOWERED, "changed_by": "somebody"},
    "another policy": {"policy_changed": True},
    "no data": {"no_data": "the server is down"},
    "clock set": {"clock_jump_s": -3600.0},
    "proxies come and go": {"proxies_change": True},
    "too soon": {"dwelt_s": 3599.0},
    "a warning": {"verdicts": (SAFE, WARNING)},
    "unclear": {"verdicts": (SAFE, UNCLEAR)},
    "too few": {"verdicts": (SAFE, TOO_FEW)},
    "never measured": {"verdicts": (SAFE, verdict(Finding.NO_DATA))},
    "no guardrail": {"verdicts": ()},
    "to be approved": {"step_rules": replace(STEP_RULES, approve=True)},
    "frozen": {"frozen": "weekend"},
    "an incident": {"incident": True},
}


def test_a_step_that_is_proved_and_long_enough_advances():
    """With nothing in the way, and only then."""
    assert decide(READY) == Move(MoveKind.ADVANCE, MoveReason.PROVED)


@pytest.mark.parametrize("what", BLOCKS)
def test_each_thing_in_the_way_is_in_the_way_alone(what: str):
    """One of them is enough, whatever else is well."""
    assert decide(replace(READY, **BLOCKS[what])).kind in (MoveKind.HOLD, MoveKind.SOAK)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", BLOCKS)
def test_harm_goes_back_whatever_blocks(what: str):
    """Also while paused, frozen, without new data, and when somebody else has changed the flag."""
    blocked = replace(READY, **{**BLOCKS[what], "verdicts": (UNCLEAR, HARM)})  # type: ignore[arg-type]

    assert decide(blocked) == Move(MoveKind.ROLL_BACK, MoveReason.HARM, HARM.sentence)


@pytest.mark.parametrize("phase", [RolloutPhase.ROLLED_BACK, RolloutPhase.KILLED])
def test_what_is_over_stays_over(phase: RolloutPhase):
    """No proof, approval or override moves it again."""
    over = replace(READY, phase=phase, approved=True, overridden=True, verdicts=(SAFE, HARM))

    assert decide(over).kind is MoveKind.STAY


def test_hold_only_asks_where_auto_would_go_back():
    """It advances all the same."""
    careful = replace(READY, mode=ControlMode.HOLD_ONLY)

    assert decide(careful).kind is MoveKind.ADVANCE
    assert decide(replace(careful, verdicts=(HARM,))) == Move(MoveKind.HOLD, MoveReason.HARM, HARM.sentence)


@pytest.mark.parametrize("short", [{"dwelt_s": 0.0}, {"verdicts": (UNCLEAR,)}, {"verdicts": (TOO_FEW,)}])
def test_a_person_may_advance_past_what_is_unclear(short: dict[str, object]):
    """The person's word takes the place of time, samples and proof, and is recorded as such."""
    overridden = replace(READY, overridden=True, **short)  # type: ignore[arg-type]

    assert decide(overridden) == Move(MoveKind.ADVANCE, MoveReason.APPROVED)


@pytest.mark.parametrize(
    "what", ["paused", "changed", "lowered", "a warning", "no data", "clock set", "frozen", "an incident"]
)
def test_nobody_may_advance_past_what_is_wrong(what: str):
    """A person's word is for what is unclear, not for a warning, a freeze or somebody else's change."""
    overridden = replace(READY, overridden=True, approved=True, **BLOCKS[what])  # type: ignore[arg-type]

    assert decide(overridden).kind is MoveKind.HOLD


def test_approval_takes_the_place_of_proof_where_the_policy_says_so():
    """It still needs its time and its samples."""
    small = replace(READY, step_rules=replace(STEP_RULES, prove=False, approve=True), verdicts=(UNCLEAR,))

    assert decide(small) == Move(MoveKind.HOLD, MoveReason.APPROVAL, "headgate rollout approve")
    assert decide(replace(small, approved=True)) == Move(MoveKind.ADVANCE, MoveReason.APPROVED)
    assert decide(replace(small, approved=True, verdicts=(TOO_FEW,))).reason is MoveReason.SAMPLES


def test_time_alone_never_advances():
    """Beyond `at_most`, somebody is asked."""
    late = replace(READY, dwelt_s=10 * 86400, verdicts=(UNCLEAR,))

    assert decide(late) == Move(MoveKind.HOLD, MoveReason.OVERDUE, UNCLEAR.sentence)


def test_the_last_step_stays_when_it_is_proved():
    """Users who are held back are let in by a person who signs off, not by the controller."""
    assert decide(replace(READY, step_rules=replace(STEP_RULES, is_last=True))) == Move(
        MoveKind.STAY, MoveReason.COMPLETE
    )


def test_before_the_first_step_only_what_is_outside_matters():
    """There is nothing to prove yet; a freeze counts."""
    before = replace(READY, step_rules=None, verdicts=())

    assert decide(before) == Move(MoveKind.ADVANCE, MoveReason.BEGIN)
    assert decide(replace(before, frozen="weekend")).reason is MoveReason.FROZEN
    assert decide(replace(before, incident=True)).reason is MoveReason.INCIDENT
    assert decide(replace(before, no_data="down")).reason is MoveReason.NO_DATA


def test_no_way_to_advance_without_every_verdict():
    """Over every combination of findings, phases, modes and words of people."""
    findings = (SAFE, UNCLEAR, TOO_FEW, WARNING, HARM, verdict(Finding.NO_DATA))
    for one, other, phase, mode, approved, step_rules in product(
        findings,
        findings,
        RolloutPhase,
        ControlMode,
        (False, True),
        (STEP_RULES, replace(STEP_RULES, approve=True)),
    ):
        situation = replace(
            READY, verdicts=(one, other), phase=phase, mode=mode, approved=approved, step_rules=step_rules
        )
        move = decide(situation)
        if move.kind is MoveKind.ADVANCE:
            assert one is other is SAFE
            assert phase is RolloutPhase.RUNNING


def test_every_reason_is_one_that_a_rule_gives():
    """None is left over, and the last rule applies to everything."""
    given = {reason for reason, *_ in RULES if isinstance(reason, MoveReason)}

    assert given | {MoveReason.PROVED, MoveReason.APPROVED} == set(MoveReason)
    assert RULES[-1][2](READY)
