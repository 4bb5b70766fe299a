"""Values as the bodies of journal entries, and back. Pure. The format is a contract with older journals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from flags.rollout.moves import Change, ControlMode, RolloutPhase, Situation, StepRules
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
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Verdict

_KINDS: Mapping[str, type[Guardrail]] = {
    kind.__name__: kind for kind in (RateRatio, Ceiling, UsualTime, ZeroTolerance, EarlyGuard, SampleRatio)
}

_KEYS: Final[Mapping[str, str]] = {"step_rules": "stage"}
"""Fields of a situation that have another name in the journal."""


def measures_body(
    guardrails: Iterable[Guardrail], exposures: Iterable[Exposure], budget: ErrorBudget
) -> dict[str, Any]:
    """The tests of a rollout, as it began: a policy that is edited later changes no decision of the past."""
    return {
        "guardrails": [{"kind": type(rail).__name__, **plain(rail)} for rail in guardrails],
        "exposures": [plain(exposure) for exposure in exposures],
        "budget": plain(budget),
    }


def evaluator_from_body(body: Mapping[str, Any]) -> Evaluator:
    """A new evaluator, of what `measures_body` wrote."""
    rails = [
        _KINDS[rail["kind"]](**{name: _value(name, value) for name, value in rail.items() if name != "kind"})
        for rail in body["guardrails"]
    ]
    return Evaluator(
        rails, [Exposure(**exposure) for exposure in body["exposures"]], ErrorBudget(**body["budget"])
    )


def _value(name: str, value: Any) -> Any:
    if name == "action":
        return Action(value)
    return frozenset(value) if name == "results" else value


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as it comes back from the journal."""
    body: dict[str, Any] = orjson.loads(orjson.dumps(value, default=sorted))
    return body


def situation_body(situation: Situation) -> dict[str, Any]:
    """A situation without its verdicts, which follow from the evidence."""
    fields = plain(situation)
    del fields["verdicts"]
    return {_KEYS.get(name, name): value for name, value in fields.items()}


def situation_from_body(body: Mapping[str, Any], verdicts: Sequence[Verdict]) -> Situation:
    """The situation of a tick, with these verdicts."""
    fields = {name: value for name, value in body.items() if name != _KEYS["step_rules"]}
    rules = body[_KEYS["step_rules"]]
    return Situation(
        **{
            **fields,
            "phase": RolloutPhase(body["phase"]),
            "mode": ControlMode(body["mode"]),
            "change": Change(body["change"]),
            "step_rules": None if rules is None else StepRules(**rules),
            "verdicts": verdicts,
        }
    )
