"""A person's act that comes too late has no effect; here is why. Pure."""

from collections.abc import Mapping
from typing import Any

from flags.rollout.ledger import Act, RolloutState
from flags.rollout.moves import RolloutPhase

ABOUT_A_DECISION = frozenset({Act.RESUME, Act.APPROVE, Act.ADVANCE})
"""Acts that let the rollout go on; acts that stop it are never too late."""

_OF_THE_FLAG = ("share", "others", "environment", "digest", "around")


def refusal(
    what: Act,
    state: RolloutState,
    seen: Mapping[str, Any] | None,
    now: Mapping[str, Any] | None,
    *,
    changed: bool,
    accepts: bool = True,
) -> str:
    """The reason why an act has no effect; "" where it may have one.

    Args:
        what: the act.
        state: of the rollout, now.
        seen: the look that its author saw; None: not known.
        now: the flag now, as `standing_of` has it; None: not known.
        changed: whether the flag differs from what was written.
        accepts: whether the rollout can go on from the flag as it is.
    """
    if what in (Act.ROLL_BACK, Act.KILL, Act.UNKILL):
        return ""
    if state.is_over:
        return f"the rollout is {state.phase.replace('_', ' ')}; another one begins with `run --new`"
    if what is Act.PAUSE:
        return "it is paused already" if state.phase is RolloutPhase.PAUSED else ""
    if seen is not None and (why := _is_stale(state, seen, now)):
        return f"{why}: look again"
    if what is Act.RESUME and state.phase is not RolloutPhase.PAUSED and not changed:
        return "there is nothing to resume"
    if what is Act.RESUME and state.phase is not RolloutPhase.PAUSED and not accepts:
        return "the flag is not as one of the steps writes it: set it back, or to the share of a step"
    return ""


def _is_stale(state: RolloutState, seen: Mapping[str, Any], now: Mapping[str, Any] | None) -> str:
    last = state.last_tick
    if last is None or seen["step"] != last["step"]:
        return "it stands at another step than when this was asked for"
    was, is_now = (f"{body['move']['kind']} ({body['move']['reason']})" for body in (seen, last))
    if was != is_now:
        return f"this was asked for when it said {was}, and it says {is_now}"
    then = seen.get("standing")
    if then is not None and now is not None and any(then[part] != now[part] for part in _OF_THE_FLAG):
        return "the flag was changed since this was asked for"
    return ""
