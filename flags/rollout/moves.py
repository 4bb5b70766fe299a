"""The decision: verdicts and circumstances in, one move out. Pure, and one table.

The order of the table is the contract: the first line that applies is the reason. Going back comes before
everything that only blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flags.rollout.policy.guardrails import Action
from flags.rollout.verdict.verdict import Finding, Verdict


class ControlMode(StrEnum):
    """The moves that the controller may make by itself."""

    OBSERVE = "observe"
    """Write nothing, and say what it would do."""
    HOLD_ONLY = "hold-only"
    """Advance; where `auto` would go back, hold and ask."""
    AUTO = "auto"


class RolloutPhase(StrEnum):
    """The phase of a rollout. Both ends are final: another try is another rollout."""

    RUNNING = "running"
    PAUSED = "paused"
    ROLLED_BACK = "rolled_back"
    KILLED = "killed"


class Change(StrEnum):
    """A change that somebody else made to the flag since the controller wrote it."""

    NONE = "none"
    LOWERED = "lowered"
    """The share alone, downwards: the new share is the ceiling from now on."""
    OTHER = "other"
    """The share was raised, or something else changed: the evidence is not about the present flag."""


class MoveKind(StrEnum):
    """The kinds of moves."""

    ROLL_BACK = "roll_back"
    ADVANCE = "advance"
    HOLD = "hold"
    """Change nothing; a person should look."""
    SOAK = "soak"
    """Change nothing, as planned: the step needs time or samples."""
    STAY = "stay"
    """Change nothing any more."""


class MoveReason(StrEnum):
    """The reason of a move: shown, journaled, and sent in notices."""

    KILLED = "killed"
    ROLLED_BACK = "rolled_back"
    NOT_WRITTEN = "not_written"
    """The 0 % that was decided is not written yet: somebody should write it."""
    HARM = "harm"
    BEGIN = "begin"
    """Nothing is written yet: the first step begins."""
    FLAG_UNREADABLE = "flag_unreadable"
    FLAG_CHANGED = "flag_changed"
    FLAG_LOWERED = "flag_lowered"
    NOT_EXPOSED = "not_exposed"
    """The share is as written, and users get something else."""
    POLICY_CHANGED = "policy_changed"
    PAUSED = "paused"
    WARNING = "warning"
    """A guardrail found harm, and may ask for no more than to hold."""
    NO_DATA = "no_data"
    CLOCK = "clock"
    """Somebody set the clock of this machine."""
    PROXIES_CHANGE = "proxies_change"
    """Proxies start or end, which can look like harm."""
    TIME = "time"
    SAMPLES = "samples"
    UNCLEAR = "unclear"
    OVERDUE = "overdue"
    """Unclear after the step's `at_most`: a person has to decide."""
    APPROVAL = "approval"
    FROZEN = "frozen"
    INCIDENT = "incident"
    COMPLETE = "complete"
    PROVED = "proved"
    APPROVED = "approved"
    """A person approved, in place of proof."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move and its reason. `detail` is for people: numbers, names, until when."""

    kind: MoveKind
    reason: MoveReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StepRules:
    """The policy's rules for the step that is in force."""

    at_least_s: float
    at_most_s: float | None
    prove: bool
    approve: bool
    is_last: bool


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that one decision depends on."""

    phase: RolloutPhase
    mode: ControlMode
    step_rules: StepRules | None
    """None: before the first step."""
    dwelt_s: float
    """Time in this step during which there was evidence; hours without any do not count."""
    verdicts: Sequence[Verdict]
    """One for each guardrail, of this step."""
    flag_problem: str = ""
    """The reason why the flag could not be read; "" if it could."""
    change: Change = Change.NONE
    changed_by: str = ""
    others: int = 0
    """Enabled strategies beside ours. They expose users too, and the controller never writes them."""
    policy_changed: bool = False
    no_data: str = ""
    """The reason why there is no new evidence; "" if there is."""
    clock_jump_s: float = 0.0
    proxies_change: bool = False
    approved: bool = False
    """Somebody approved what follows this step."""
    overridden: bool = False
    """A person advanced the rollout past an unclear verdict."""
    frozen: str = ""
    """The freeze window and its end; "" while nothing is frozen."""
    incident: bool = False
    unwritten: str = ""
    """The reason why the 0 % that was decided is not written; "" where it is."""
    exposed_after: str = ""
    """The exposure that is in force although the rollout is over; "" if there is none."""
    not_exposed: str = ""
    """The difference between what users get and the written share, in a sentence; "" where there is none."""
    soaked_s: float = 0.0
    """Time in this step in which it only waited."""
    proxies_change_s: float = 0.0
    """Seconds for which proxies have started, ended or been missing at every look."""


CLOCK_JUMP_S = 30.0
"""Drift between the two clocks of a machine from look to look, above which one of them was set."""


def harm(situation: Situation, action: Action) -> list[Verdict]:
    """The verdicts of harm that ask for this action."""
    found = [verdict for verdict in situation.verdicts if verdict.finding is Finding.HARM]
    return [verdict for verdict in found if verdict.action is action]


def _sentences(verdicts: Sequence[Verdict]) -> str:
    return " ".join(verdict.sentence for verdict in verdicts)


def _not_safe(situation: Situation) -> list[Verdict]:
    return [verdict for verdict in situation.verdicts if verdict.finding is not Finding.SAFE]


def _too_few(situation: Situation) -> list[Verdict]:
    return [
        verdict
        for verdict in situation.verdicts
        if verdict.samples < verdict.samples_needed or verdict.users < verdict.users_needed
    ]


def _step_rules(situation: Situation) -> StepRules:
    """The step's rules, which all lines of the table after BEGIN have."""
    assert situation.step_rules is not None
    return situation.step_rules


def _unproved(situation: Situation) -> list[Verdict]:
    """Verdicts without the proof for the next step; empty where a person takes the place of proof."""
    if situation.overridden or not _step_rules(situation).prove:
        return []
    return _not_safe(situation)


def _is_overdue(situation: Situation) -> bool:
    most = _step_rules(situation).at_most_s
    return most is not None and situation.dwelt_s >= most


def _is_short(situation: Situation) -> bool:
    return situation.dwelt_s < _step_rules(situation).at_least_s and not situation.overridden


def _wants_samples(situation: Situation) -> list[Verdict]:
    """Verdicts with too few samples: proof needs them, and so does a person who approves."""
    return [] if situation.overridden else _too_few(situation)


def _needs_approval(situation: Situation) -> bool:
    return _step_rules(situation).approve and not (situation.approved or situation.overridden)


LONG_S = 900.0
"""Longer than a deployment takes: then a person should look at proxies that start and end, or stay away."""

TOO_LONG = 2
"""Multiple of the planned time above which waiting is a hold: more waiting would not end it."""


def _waits(situation: Situation) -> MoveKind:
    """Soak as planned; hold after twice the planned time."""
    rules = _step_rules(situation)
    is_long = situation.soaked_s > TOO_LONG * (rules.at_most_s or rules.at_least_s)
    return MoveKind.HOLD if is_long else MoveKind.SOAK


def _waits_for_time(situation: Situation) -> MoveKind:
    is_long = situation.soaked_s > TOO_LONG * _step_rules(situation).at_least_s
    return MoveKind.HOLD if is_long else MoveKind.SOAK


def _waits_for_proxies(situation: Situation) -> MoveKind:
    return MoveKind.HOLD if situation.proxies_change_s > LONG_S else _waits_for_time(situation)


def _proxies_detail(situation: Situation) -> str:
    return "proxies come and go, or one is missing: look at the targets" * (
        _waits_for_proxies(situation) is MoveKind.HOLD
    )


def _time_left(situation: Situation) -> str:
    return f"{_step_rules(situation).at_least_s - situation.dwelt_s:.0f} s to go"


def _samples_left(situation: Situation) -> str:
    verdict = _too_few(situation)[0]
    if verdict.users < verdict.users_needed:
        return f"{verdict.users} of {verdict.users_needed} users in the smaller arm"
    count = f"{verdict.samples} of {verdict.samples_needed}"
    return f"{count} answers in the smaller arm, for {verdict.guardrail}"


def _proof(situation: Situation) -> MoveReason:
    if situation.overridden or not _step_rules(situation).prove:
        return MoveReason.APPROVED
    return MoveReason.PROVED


def _rollback_kind(situation: Situation) -> MoveKind:
    """`hold-only` asks a person to go back."""
    return MoveKind.HOLD if situation.mode is ControlMode.HOLD_ONLY else MoveKind.ROLL_BACK


_Rule = tuple[
    MoveReason | Callable[[Situation], MoveReason],
    MoveKind | Callable[[Situation], MoveKind],
    Callable[[Situation], object],
    Callable[[Situation], str],
]


def _no_detail(_: Situation) -> str:
    return ""


def _harm_done(situation: Situation) -> str:
    sentences = (_sentences(harm(situation, Action.ROLL_BACK)), _still_exposed(situation))
    return " ".join(filter(None, sentences))


def _exposed_after(situation: Situation) -> str:
    return " ".join(filter(None, (situation.exposed_after, _still_exposed(situation))))


def _is_over(situation: Situation) -> bool:
    return situation.phase in (RolloutPhase.ROLLED_BACK, RolloutPhase.KILLED)


def _still_exposed(situation: Situation) -> str:
    """The exposure that a share of 0 does not stop."""
    if not situation.others:
        return ""
    return (
        f"The flag is still on by strategies beside the rollout's ({situation.others}), which the controller "
        "does not touch: remove them, or stop every stream with `headgate rollout kill`."
    )


RULES: tuple[_Rule, ...] = (
    # What is final.
    (MoveReason.NOT_WRITTEN, MoveKind.HOLD, lambda s: s.unwritten, lambda s: s.unwritten),
    (MoveReason.FLAG_CHANGED, MoveKind.HOLD, lambda s: s.exposed_after, _exposed_after),
    (MoveReason.NOT_EXPOSED, MoveKind.HOLD, lambda s: _is_over(s) and s.not_exposed, lambda s: s.not_exposed),
    (MoveReason.KILLED, MoveKind.STAY, lambda s: s.phase is RolloutPhase.KILLED, _no_detail),
    (MoveReason.ROLLED_BACK, MoveKind.STAY, lambda s: s.phase is RolloutPhase.ROLLED_BACK, _still_exposed),
    # Down, in every state.
    (
        MoveReason.HARM,
        _rollback_kind,
        lambda s: harm(s, Action.ROLL_BACK),
        _harm_done,
    ),
    # What blocks.
    (MoveReason.FLAG_UNREADABLE, MoveKind.HOLD, lambda s: s.flag_problem, lambda s: s.flag_problem),
    (
        MoveReason.FLAG_CHANGED,
        MoveKind.HOLD,
        lambda s: s.change is Change.OTHER,
        lambda s: f"by {s.changed_by}",
    ),
    (
        MoveReason.FLAG_LOWERED,
        MoveKind.HOLD,
        lambda s: s.change is Change.LOWERED,
        lambda s: f"by {s.changed_by}",
    ),
    (MoveReason.NOT_EXPOSED, MoveKind.HOLD, lambda s: s.not_exposed, lambda s: s.not_exposed),
    (
        MoveReason.POLICY_CHANGED,
        MoveKind.HOLD,
        lambda s: s.policy_changed,
        lambda s: "put it back as it was, or roll back and begin another rollout",
    ),
    (MoveReason.PAUSED, MoveKind.HOLD, lambda s: s.phase is RolloutPhase.PAUSED, _no_detail),
    (
        MoveReason.WARNING,
        MoveKind.HOLD,
        lambda s: harm(s, Action.HOLD),
        lambda s: _sentences(harm(s, Action.HOLD)),
    ),
    (MoveReason.NO_DATA, MoveKind.HOLD, lambda s: s.no_data, lambda s: s.no_data),
    (
        MoveReason.CLOCK,
        MoveKind.HOLD,
        lambda s: abs(s.clock_jump_s) > CLOCK_JUMP_S,
        lambda s: f"by {s.clock_jump_s:+.0f} s",
    ),
    (MoveReason.FROZEN, MoveKind.HOLD, lambda s: s.step_rules is None and s.frozen, lambda s: s.frozen),
    (MoveReason.INCIDENT, MoveKind.HOLD, lambda s: s.step_rules is None and s.incident, _no_detail),
    (MoveReason.BEGIN, MoveKind.ADVANCE, lambda s: s.step_rules is None, _no_detail),
    (MoveReason.NO_DATA, MoveKind.HOLD, lambda s: not s.verdicts, lambda s: "no guardrail is in force"),
    (MoveReason.PROXIES_CHANGE, _waits_for_proxies, lambda s: s.proxies_change, _proxies_detail),
    # What is still to come.
    (MoveReason.TIME, _waits_for_time, _is_short, _time_left),
    (
        MoveReason.OVERDUE,
        MoveKind.HOLD,
        lambda s: _unproved(s) and _is_overdue(s),
        lambda s: _sentences(_unproved(s)),
    ),
    (MoveReason.SAMPLES, _waits, _wants_samples, _samples_left),
    (MoveReason.UNCLEAR, _waits, _unproved, lambda s: _sentences(_unproved(s))),
    (MoveReason.COMPLETE, MoveKind.STAY, lambda s: _step_rules(s).is_last, _no_detail),
    (MoveReason.APPROVAL, MoveKind.HOLD, _needs_approval, lambda s: "headgate rollout approve"),
    (MoveReason.FROZEN, MoveKind.HOLD, lambda s: s.frozen, lambda s: s.frozen),
    (MoveReason.INCIDENT, MoveKind.HOLD, lambda s: s.incident, _no_detail),
    # Up: nothing is in the way.
    (_proof, MoveKind.ADVANCE, lambda s: True, _no_detail),
)


def decide(situation: Situation) -> Move:
    """The one move. Total: the last line always applies."""
    for reason, kind, applies, detail in RULES:
        if applies(situation):
            return Move(
                kind if isinstance(kind, MoveKind) else kind(situation),
                reason if isinstance(reason, MoveReason) else reason(situation),
                detail(situation),
            )
    raise AssertionError("the last rule applies to everything")
