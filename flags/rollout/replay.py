"""Every decision of a journal once more, from what was known then. Pure: the same evidence, the same move."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from flags.rollout.evidence.evidence import batch_heard
from flags.rollout.ledger import JournalLine, Record, RolloutState, begins_anew, fold
from flags.rollout.moves import Change, ControlMode, RolloutPhase, Situation, StepRules, decide
from flags.rollout.policy.guardrails import (
    Action,
    Ceiling,
    EarlyGuard,
    ErrorBudget,
    Exposure,
    Guardrail,
    RateRatio,
    SampleRatio,
    ZeroTolerance,
)
from flags.rollout.verdict.evaluator import Evaluator

_KINDS: Mapping[str, type[Guardrail]] = {
    kind.__name__: kind for kind in (RateRatio, Ceiling, ZeroTolerance, EarlyGuard, SampleRatio)
}


def jury_said(
    guardrails: Iterable[Guardrail], exposures: Iterable[Exposure], budget: ErrorBudget
) -> dict[str, Any]:
    """What a jury is made of, for the journal: a policy edited later changes no decision of the past."""
    return {
        "guardrails": [{"kind": type(rail).__name__, **plain(rail)} for rail in guardrails],
        "exposures": [plain(exposure) for exposure in exposures],
        "budget": plain(budget),
    }


def jury_heard(said: Mapping[str, Any]) -> Evaluator:
    """The jury that `jury_said` told of."""
    rails = [
        _KINDS[rail["kind"]](**{name: _value(name, value) for name, value in rail.items() if name != "kind"})
        for rail in said["guardrails"]
    ]
    return Evaluator(
        rails, [Exposure(**exposure) for exposure in said["exposures"]], ErrorBudget(**said["budget"])
    )


def plain(value: Any) -> dict[str, Any]:
    """A value as it comes back from the journal."""
    said: dict[str, Any] = orjson.loads(orjson.dumps(value, default=sorted))
    return said


def _value(name: str, value: Any) -> Any:
    if name == "action":
        return Action(value)
    return frozenset(value) if name == "results" else value


def differences(entries: Iterable[JournalLine]) -> tuple[int, list[str]]:
    """How many decisions there are, and each that comes out otherwise than it was journaled."""
    state, jury, decisions = RolloutState(), None, 0
    found: list[str] = []
    for entry in entries:
        step = state.step
        state = fold([entry], state)
        if entry.kind == Record.BEGIN:
            jury = jury_heard(entry.body["jury"])
        elif begins_anew(entry, step):
            assert jury is not None, "a rollout begins before anything is written"
            jury.enter(state.step)
        elif entry.kind == Record.TICK:
            assert jury is not None, "a rollout begins before anybody looks"
            decisions += 1
            found += _differences(entry, jury, step)
    return decisions, found


def _differences(entry: JournalLine, jury: Evaluator, step: int) -> list[str]:
    body = entry.body
    if body["batch"] is not None:
        jury.add(batch_heard(body["batch"]))
    verdicts = jury.verdicts() if step >= 0 else ()
    found = []
    if not _say_the_same(body["verdicts"], [plain(verdict) for verdict in verdicts]):
        found.append(f"entry {entry.seq}: the verdicts of its evidence are others than it says")
    move = plain(decide(situation_heard(body["situation"], verdicts)))
    was, is_now = (f"{one['kind']} ({one['reason']})" for one in (body["move"], move))
    if was != is_now:
        found.append(f"entry {entry.seq}: it says {was}, and what was known then gives {is_now}")
    return found


def _say_the_same(was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two lists of verdicts differ in words alone, or in what an older release did not journal."""
    return len(was) == len(now) and all(
        value == new[name]
        for old, new in zip(was, now, strict=True)
        for name, value in old.items()
        if name != "sentence"
    )


def situation_said(situation: Situation) -> dict[str, Any]:
    """All of it but the verdicts, which the evidence gives."""
    said = plain(situation)
    del said["verdicts"]
    return said


def situation_heard(said: Mapping[str, Any], verdicts: Any) -> Situation:
    """The situation of a tick, with verdicts made anew."""
    stage = said["stage"]
    return Situation(
        **{
            **said,
            "phase": RolloutPhase(said["phase"]),
            "mode": ControlMode(said["mode"]),
            "change": Change(said["change"]),
            "stage": None if stage is None else StepRules(**stage),
            "verdicts": verdicts,
        }
    )
