"""The state of a rollout: a fold over its journal. Pure; nothing else is remembered anywhere.

begin ─► tick ─► tick … ─► tick that advances ─► written ─► tick … ─► tick that rolls back ─► written
             acts of people in between: pause, resume, approve, advance, rollback, kill

A tick says what is about to be written, and only `written` says that it was. After a crash in between, the
flag is as before or as intended, and the next controller knows either one as its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from flags.rollout.evidence.evidence import ComparedArm
from flags.rollout.moves import ControlMode, MoveKind, MoveReason, RolloutPhase
from flags.rollout.observed import STRAGGLE_S, Observed, explanation

WAITING = frozenset({MoveReason.TIME, MoveReason.SAMPLES, MoveReason.UNCLEAR, MoveReason.PROXIES_CHANGE})
"""Reasons to wait that need no person, unless they last too long."""

MOST_BETWEEN_S = 3600.0
"""The longest time between two looks that counts: no controller ran for longer ones."""

KNOWN_ACTS = 100
"""Ids of acts that are kept, as many as may wait at a time."""


class EntryKind(StrEnum):
    """Kinds of journal entries."""

    BEGIN = "begin"
    TICK = "tick"
    WRITTEN = "written"
    ACT = "act"
    TOLD = "told"
    """A notice of an entry was sent."""


class Act(StrEnum):
    """An act of a person; each is journaled with its reason and its author."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    ADVANCE = "advance"
    ROLL_BACK = "rollback"
    KILL = "kill"
    UNKILL = "unkill"


class JournalLine(Protocol):
    """One line of the journal."""

    @property
    def seq(self) -> int: ...
    @property
    def at_s(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Intent:
    """The write that a tick was about to make."""

    step: int
    digest: str
    share: int | None = None
    """Percent; of older journals it is not known."""


@dataclass(frozen=True, slots=True)
class RolloutState:
    """The state of a journal's newest rollout."""

    run: str = ""
    """Its id; empty before the first one."""
    policy_digest: str = ""
    phase: RolloutPhase = RolloutPhase.RUNNING
    step: int = -1
    """The step that was written last; -1 before the first one."""
    share: int = 0
    """Percent that was written last."""
    reached: int = 0
    """The most that was written."""
    event_id: int = 0
    """The last change of the flag that is accounted for."""
    digest: str = ""
    """The strategy's, as it was written last."""
    home: str = ""
    """The journal's name, which the mark on the flag repeats; "" in older journals."""
    found_home: str = ""
    """The name in the mark that was on the flag at the beginning, until the first write replaces it."""
    around: str = ""
    """Digest of what decides beside the strategy, at the last write; "" where it is not known."""
    standing: Mapping[str, Any] | None = None
    """The flag as it was read last, in the words of `standing`; None where it could not be."""
    unwritten: str = ""
    """The reason why the last look did not write what was decided."""
    was_changed: bool = False
    """True if the flag was changed by somebody else at the last look, so that other users were exposed."""
    was_unknown: bool = False
    """True if the flag could not be read by the last look."""
    idle_s: float = 0.0
    """Time without one answer of the stream arm, up to the last look, which is not in `dwelt_s` yet."""
    soaked_s: float = 0.0
    """Time in this step in which it only waited."""
    proxies_change_s: float = 0.0
    """Time for which proxies have come, gone or been missing at every look."""
    base: Mapping[str, Any] | None = None
    """The strategy as it was found, for its variants."""
    dark_first: bool = False
    """True if the first step is a dark one."""
    wrote_dark: bool = False
    """True if the variant of a dark step may be left over in the strategy, of whichever rollout."""
    begun_s: float = 0.0
    entered_s: float = 0.0
    dwelt_s: float = 0.0
    streamed: int = 0
    """Settled requests of the stream arm in this step."""
    settled: int = 0
    """Answers of all users."""
    observed: Observed = field(default_factory=Observed)
    """The newest of these counts; after the end none of them should be of the stream arm."""
    down_pending: bool = False
    """A rollback or a kill has decided 0 %, and no read of the flag has shown it yet."""
    intent: Intent | None = None
    approved: bool = False
    overridden: bool = False
    resumed: bool = False
    """Somebody resumed since the last tick: the flag is accepted as it is, if its share is a step's."""
    last_tick: Mapping[str, Any] | None = None
    last_tick_s: float = 0.0
    last_good_s: float = 0.0
    """The time of the last evidence."""
    last_flag_s: float = 0.0
    """The time at which the flag was read last."""
    acts: tuple[str, ...] = ()
    """Ids of the newest acts of people, so that each counts once."""
    last_act: Mapping[str, Any] | None = None
    last_act_s: float = 0.0
    last_kill_s: float = 0.0
    """The time of the last kill, in any rollout: the last time that a kill is known to have worked."""
    seq: int = 0
    notified_seq: int = 0
    """The newest entry of which a notice was sent."""

    @property
    def observed_why(self) -> str:
        """Return why the stream arm's part of answers differs from the written share; "" where it hardly
        does."""
        batch = (self.last_tick or {}).get("batch") or {}
        users = batch.get("users", {}).get(ComparedArm.STREAM, 0)
        in_step_s = self.last_tick_s - self.entered_s
        return explanation(self.share, self.streamed, self.settled, users=users, in_step_s=in_step_s)

    @property
    def is_dark(self) -> bool:
        """True if the rollout stands at a dark step."""
        return self.dark_first and self.step == 0

    @property
    def is_over(self) -> bool:
        """True if nothing more will be written but the share of 0."""
        return self.phase in (RolloutPhase.ROLLED_BACK, RolloutPhase.KILLED)


def fold(entries: Iterable[JournalLine], state: RolloutState | None = None) -> RolloutState:
    """`state` after these entries; from the beginning without one."""
    state = state or RolloutState()
    for entry in entries:
        state = replace(_AFTER[EntryKind(entry.kind)](state, entry), seq=entry.seq)
    return state


def _after_begin(state: RolloutState, entry: JournalLine) -> RolloutState:
    body = entry.body
    return RolloutState(
        run=body["run"],
        policy_digest=body["policy"],
        base=body["base"],
        event_id=body["event_id"],
        digest=body["digest"],
        share=body["share"],
        home=body.get("home", ""),
        found_home=body.get("found_home", ""),
        around=body.get("around", ""),
        standing=body.get("standing"),
        begun_s=entry.at_s,
        last_good_s=entry.at_s,
        last_flag_s=entry.at_s,
        notified_seq=state.notified_seq,
        acts=state.acts,
        last_kill_s=state.last_kill_s,
        dark_first=_is_dark_first(body),
        wrote_dark=state.wrote_dark,
    )


def _is_dark_first(begun: Mapping[str, Any]) -> bool:
    exposures = begun.get("jury", {}).get("exposures", ())
    return bool(exposures) and exposures[0]["share"] == 0


def _after_tick(state: RolloutState, entry: JournalLine) -> RolloutState:
    body = entry.body
    intent = body.get("intent")
    outcomes = batch["outcomes"] if (batch := body.get("batch")) else ()
    streamed = sum(count for arm, _, _, count in outcomes if arm == ComparedArm.STREAM)
    settled = sum(count for _, _, _, count in outcomes)
    # Also where it cannot be written yet, since the flag cannot be read.
    back = body["move"]["kind"] == MoveKind.ROLL_BACK and body["situation"]["mode"] != ControlMode.OBSERVE
    return replace(
        state,
        phase=RolloutPhase.ROLLED_BACK if back else state.phase,
        down_pending=state.down_pending or back,
        intent=None if intent is None else Intent(intent["step"], intent["digest"], intent.get("share")),
        standing=body.get("standing"),
        unwritten=body.get("unwritten", ""),
        was_changed=body["situation"].get("change", "none") != "none",
        was_unknown=bool(body["situation"].get("flag_problem")),
        idle_s=body.get("idle_s", 0.0),
        soaked_s=state.soaked_s + (_since(state, entry) if _only_waits(body) else 0.0),
        proxies_change_s=state.proxies_change_s + _since(state, entry) if _proxies_change(body) else 0.0,
        dwelt_s=state.dwelt_s + body["dwelt_s"],
        streamed=state.streamed + streamed,
        settled=state.settled + settled,
        observed=_observed(state, entry, streamed, settled),
        resumed=False,
        # An act is about the decision that its author saw: it counts at the next look, or not at all.
        approved=state.approved and body["move"]["kind"] == MoveKind.ADVANCE,
        overridden=state.overridden and body["move"]["kind"] == MoveKind.ADVANCE,
        last_tick=body,
        last_tick_s=entry.at_s,
        last_good_s=state.last_good_s if body["no_data"] else entry.at_s,
        last_flag_s=state.last_flag_s if body["situation"].get("flag_problem") else entry.at_s,
    )


def _observed(state: RolloutState, entry: JournalLine, streamed: int, settled: int) -> Observed:
    """The counts after a tick; at 0 % without requests decided earlier, or exposed by somebody else."""
    observed, body = state.observed, entry.body
    if not state.is_over:
        return observed.after(streamed, settled, state.share)
    if state.down_pending or body["situation"].get("exposed_after"):
        return Observed(since_s=entry.at_s)
    batch = body.get("batch")
    if batch is None or batch["since_s"] < observed.since_s + STRAGGLE_S:
        return observed
    return observed.after(streamed, settled, state.share)


def _since(state: RolloutState, entry: JournalLine) -> float:
    """The time since the last look, up to the longest that counts."""
    since_s = max(0.0, entry.at_s - max(state.last_tick_s, state.entered_s))
    return min(since_s, MOST_BETWEEN_S) if state.last_tick_s else 0.0


def _only_waits(body: Mapping[str, Any]) -> bool:
    return body["move"]["reason"] in WAITING


def _proxies_change(body: Mapping[str, Any]) -> bool:
    return bool(body["situation"].get("proxies_change"))


def begins_anew(entry: JournalLine, step: int) -> bool:
    """True if evidence after this entry is of another exposure than before it, when `step` was in force."""
    return entry.kind == EntryKind.WRITTEN and (entry.body["step"] != step or bool(entry.body.get("anew")))


def _after_written(state: RolloutState, entry: JournalLine) -> RolloutState:
    body = entry.body
    step, share = body["step"], body["share"]
    state = replace(
        state,
        event_id=body["event_id"],
        digest=body["digest"],
        around=body.get("around", ""),
        found_home="",
        standing=body.get("standing"),
        unwritten="",
        share=share,
        reached=max(state.reached, share),
        intent=None,
        wrote_dark=(state.dark_first and step == 0) if share else state.wrote_dark,
    )
    if share == 0:  # no step's: a dark one writes the next one's
        phase = state.phase if state.is_over else RolloutPhase.ROLLED_BACK
        observed = Observed(since_s=entry.at_s)
        state = replace(state, phase=phase, down_pending=False, observed=observed)
    if not begins_anew(entry, state.step):
        return state
    return replace(
        state,
        step=step,
        entered_s=entry.at_s,
        dwelt_s=0.0,
        idle_s=0.0,
        soaked_s=0.0,
        streamed=0,
        settled=0,
        observed=Observed(since_s=entry.at_s),
        approved=False,
        overridden=False,
    )


def _after_act(state: RolloutState, entry: JournalLine) -> RolloutState:
    acts = (*state.acts, entry.body["id"])[-KNOWN_ACTS:]
    state = replace(state, last_act=entry.body, last_act_s=entry.at_s, acts=acts)
    what = Act(entry.body["what"])
    if entry.body.get("refused"):
        return state
    if what is Act.KILL:
        return replace(state, phase=RolloutPhase.KILLED, down_pending=True, last_kill_s=entry.at_s)
    if what is Act.UNKILL:
        return state
    if state.is_over:
        return state
    return replace(state, **_WHEN_RUNNING[what])


_WHEN_RUNNING: Mapping[Act, Mapping[str, Any]] = {
    Act.PAUSE: {"phase": RolloutPhase.PAUSED},
    Act.RESUME: {"phase": RolloutPhase.RUNNING, "resumed": True},
    Act.APPROVE: {"approved": True},
    Act.ADVANCE: {"overridden": True},
    Act.ROLL_BACK: {"phase": RolloutPhase.ROLLED_BACK, "down_pending": True},
}


def _after_notice(state: RolloutState, entry: JournalLine) -> RolloutState:
    return replace(state, notified_seq=entry.body["of"])


_AFTER = {
    EntryKind.BEGIN: _after_begin,
    EntryKind.TICK: _after_tick,
    EntryKind.WRITTEN: _after_written,
    EntryKind.ACT: _after_act,
    EntryKind.TOLD: _after_notice,
}
