"""The share that is in force, beside those that were decided and written. The three may differ. Pure."""

from collections.abc import Mapping
from typing import Any

from flags.rollout.ledger import RolloutState
from flags.rollout.writing.flag_admin import Flag, Kill

Standing = Mapping[str, Any]
"""The flag at one look, as the journal has it."""


def standing_of(flag: Flag) -> dict[str, Any]:
    return {
        "share": 0 if flag.strategy.disabled else flag.strategy.share,
        "others": len(flag.others),
        "variants": [str(variant.get("name")) for variant in flag.strategy.variants],
        "environment": flag.enabled,
        "kill": str(flag.kill),
        "expected": flag.expected,
        "digest": flag.strategy.digest,
        "around": flag.around,
        "by": flag.event_by,
    }


def written_body(step: int, flag: Flag, *, anew: bool = False) -> dict[str, Any]:
    """The body for a write that was read back, and for a change that is accepted.

    Args:
        anew: whether evidence of this step begins anew, since what was before is of another exposure.
    """
    return {
        "step": step,
        "anew": anew,
        "share": flag.strategy.share,
        "digest": flag.strategy.digest,
        "around": flag.around,
        "standing": standing_of(flag),
        "event_id": flag.event_id,
        "by": flag.event_by,
    }


def exposes(standing: Standing) -> bool:
    """True if the flag is on for anybody."""
    is_on = standing["environment"] and standing["kill"] != Kill.ON
    return bool(is_on and (standing["share"] or standing["others"]))


def decided(state: RolloutState, standing: Standing | None) -> int:
    """The share that was decided, in percent. A person who lowers the share decides it."""
    if state.is_over:
        return 0
    if state.intent is not None and state.intent.share is not None:
        return state.intent.share
    lowered = standing is not None and standing["share"] < state.share and not standing["others"]
    return standing["share"] if lowered and standing is not None else state.share


def gap(state: RolloutState, standing: Standing | None) -> str:
    """Say in a sentence how what is in force differs from what was decided; "" where it does not."""
    if not state.run:
        return ""
    due = decided(state, standing)
    if _is_due(state, standing):
        why = f": {state.unwritten}" if state.unwritten else ""
        found = "" if standing is None else f", and {standing['share']} % are in force"
        return f"{due} % is decided and not yet written{found}{why}"
    if standing is None or (state.step < 0 and not state.is_over):
        return ""
    return _found(state, due, standing)


def _is_due(state: RolloutState, standing: Standing | None) -> bool:
    """True if a write is due that has not been made yet."""
    if state.down_pending:
        return standing is None or bool(standing["share"])
    return state.intent is not None and (standing is None or standing["digest"] != state.intent.digest)


def _found(state: RolloutState, due: int, standing: Standing) -> str:
    beside = f" and {standing['others']} strategies beside the rollout's" * bool(standing["others"])
    if state.is_over:
        return f"0 % is decided, and {standing['share']} %{beside} are in force" if exposes(standing) else ""
    if not standing["environment"]:
        return f"{due} % is decided, and the flag is off in its environment"
    if standing["kill"] == Kill.ON:
        return f"{due} % is decided, and the kill flag is on"
    if standing["share"] > due or beside:
        return f"{due} % is decided, and {standing['share']} %{beside} are in force"
    if standing["expected"] == 0 and due and not state.is_dark:
        return f"{due} % is decided, and nobody is shown anything by the flag's own evaluation"
    changed = _changed(state, standing)
    return f"{due} % is decided, and {changed}" if changed else ""


def _changed(state: RolloutState, standing: Standing) -> str:
    """Name what decides whom the share exposes and is not as it was written; "" where all is."""
    if standing["kill"] == Kill.SOME:
        return "the kill flag is on, and does not stop everybody"
    if standing["share"] == state.share and standing["digest"] != state.digest:
        return "the strategy is not as it was written: others may be exposed"
    if state.around and standing["around"] != state.around:
        return "what decides beside the strategy has changed: others may be exposed"
    return ""
