"""Strategies as Unleash writes them: JSON to `Strategy` and back, and what no rollout can start from. Pure.

Both writers use it, since the flag file has the same format as the server's API.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flags.decision import DARK
from flags.errors import FlagAdminError
from flags.rollout.writing.flag_admin import ManagedFlag, Strategy

GRADUAL = "flexibleRollout"
_WHOLE_PERCENT = re.compile(r"0*(?:100|[0-9]{1,2})")
_NEEDS_NOBODY = frozenset({"default", "random"})
"""Stickinesses by which somebody without any id is in at 100 %, too."""


def read_strategy(raw: Mapping[str, Any], at: int = 0) -> Strategy:
    """One strategy. Raises FlagAdminError for a gradual rollout whose share is not a whole percentage.

    Args:
        raw: as it is in the JSON.
        at: its place among the others, from 0: its id where it has none, as in a flag file.
    """
    parameters = raw.get("parameters") or {}
    gradual = raw.get("name") == GRADUAL
    return Strategy(
        id=str(raw.get("id") or at),
        kind=str(raw.get("name")),
        share=_share(parameters) if gradual else 100,
        stickiness=str(parameters.get("stickiness", "default")) if gradual else "",
        group_id=str(parameters.get("groupId", "")) if gradual else "",
        constraints=tuple(raw.get("constraints") or ()),
        segments=tuple(raw.get("segments") or ()),
        variants=tuple(raw.get("variants") or ()),
        disabled=bool(raw.get("disabled")),
        title=raw.get("title"),
        sort_order=raw.get("sortOrder") or 0,
    )


def write_strategy(strategy: Strategy) -> dict[str, Any]:
    """All of it, since what an update leaves out is filled in: a share that is missing becomes 100 %."""
    title = {} if strategy.title is None else {"title": strategy.title}
    return {
        "name": strategy.kind,
        **title,
        "disabled": strategy.disabled,
        "sortOrder": strategy.sort_order,
        "constraints": [dict(constraint) for constraint in strategy.constraints],
        "segments": list(strategy.segments),
        "variants": [dict(variant) for variant in strategy.variants],
        "parameters": {
            "rollout": str(strategy.share),
            "stickiness": strategy.stickiness,
            "groupId": strategy.group_id,
        },
    }


def refuse_unwritable(strategy: Strategy) -> None:
    """Raises ValueError for what no rollout may write, whoever asked for it."""
    if type(strategy.share) is not int or not 0 <= strategy.share <= 100:
        raise ValueError(f"a share must be a whole number from 0 to 100, not {strategy.share!r}")
    if strategy.kind != GRADUAL or not strategy.stickiness or not strategy.group_id:
        raise ValueError("only a gradual rollout with a stickiness and a group id can be written")


def choose(strategies: Sequence[Strategy], flag: ManagedFlag) -> tuple[Strategy, tuple[Strategy, ...]]:
    """Ours, and those beside it that are enabled. Raises FlagAdminError if none can be ours."""
    gradual = [strategy for strategy in strategies if strategy.kind == GRADUAL]
    if not gradual:
        everybody = "" if strategies else ", and no strategy at all: where it is on, it is on for everybody"
        raise FlagAdminError(
            f"{flag.name} has no gradual rollout{everybody}; give it one by {flag.stickiness}"
        )
    ours = min(gradual, key=lambda strategy: (strategy.disabled, not _fits(strategy, flag)))
    return ours, tuple(each for each in strategies if each is not ours and not each.disabled)


def names_everybody(raw: Mapping[str, Any]) -> bool:
    """True if the strategies enable a request of which nothing is known: what a kill flag needs."""
    if raw.get("disabled") or raw.get("constraints") or raw.get("segments"):
        return False
    parameters = raw.get("parameters") or {}
    return raw.get("name") == "default" or (
        raw.get("name") == GRADUAL
        and str(parameters.get("rollout")) == "100"
        and parameters.get("stickiness", "default") in _NEEDS_NOBODY
    )


def everybody(flag: str) -> dict[str, Any]:
    """The one strategy of a kill flag."""
    parameters = {"rollout": "100", "stickiness": "default", "groupId": flag}
    return {"name": GRADUAL, "constraints": [], "parameters": parameters}


def problems_of(raws: Sequence[Mapping[str, Any]], flag: ManagedFlag) -> Iterator[str]:
    """The reasons why no rollout can start from these strategies of one environment, each with what to do."""
    enabled = [raw for raw in raws if not raw.get("disabled")]
    if not enabled:
        yield (
            f"{flag.name} has no enabled strategy, and Unleash makes one of 100 % when it is turned on: "
            f"give it one gradual rollout of 0 % by {flag.stickiness}, and turn it on"
        )
    elif len(enabled) > 1:
        yield (
            f"{flag.name} has {len(enabled)} enabled strategies, and is on for whomever any of them names: "
            "keep one gradual rollout"
        )
    else:
        yield from _problems_of_one(enabled[0], flag)


def problems_of_kill_flag(raws: Sequence[Mapping[str, Any]], flag: ManagedFlag) -> Iterator[str]:
    """The reasons why turning the kill flag on would not stop everybody."""
    enabled = [raw for raw in raws if not raw.get("disabled")]
    if enabled and not any(map(names_everybody, enabled)):
        yield (
            f"{flag.kill_flag} asks who the user is, and would not stop everybody: give it one gradual "
            "rollout of 100 % with stickiness default, without constraints or segments"
        )


def hides(variants: Sequence[Mapping[str, Any]]) -> bool:
    """True if some of the users of an arm would be shown nothing. All of them is the dark step itself."""
    names = [variant.get("name") for variant in variants]
    return DARK in names and len(names) > 1


def shows_nobody(variants: Sequence[Mapping[str, Any]]) -> bool:
    """True if the whole stream arm is dark, as in the dark step."""
    return {variant.get("name") for variant in variants} == {DARK}


_CHECKS: tuple[tuple[Callable[[Strategy, ManagedFlag], bool], str], ...] = (
    (
        lambda strategy, flag: strategy.stickiness != flag.stickiness,
        "{flag.name} has stickiness {strategy.stickiness!r}, not {flag.stickiness!r}: set it to that",
    ),
    (
        lambda strategy, flag: not flag.allows_group(strategy.group_id),
        "{flag.name} has group id {strategy.group_id!r}, which is not the policy's: set one to the other",
    ),
    (
        lambda strategy, flag: hides(strategy.variants),
        "{flag.name} has a variant named dark beside others, which hides some of the arm: remove it",
    ),
)


def _problems_of_one(raw: Mapping[str, Any], flag: ManagedFlag) -> Iterator[str]:
    if raw.get("name") != GRADUAL:
        yield (
            f"{flag.name} has a strategy of kind {raw.get('name')}: replace it with a gradual rollout by "
            f"{flag.stickiness}"
        )
        return
    try:
        strategy = read_strategy(raw)
    except FlagAdminError as exc:
        yield f"{flag.name}: {exc}"
        return
    yield from (
        say.format(strategy=strategy, flag=flag) for applies, say in _CHECKS if applies(strategy, flag)
    )


def _fits(strategy: Strategy, flag: ManagedFlag) -> bool:
    return strategy.stickiness == flag.stickiness and flag.allows_group(strategy.group_id)


def _share(parameters: Mapping[str, Any]) -> int:
    rollout = str(parameters.get("rollout"))
    if not _WHOLE_PERCENT.fullmatch(rollout):
        said = f"its share is {rollout[:20]!r}, by which Unleash enables nobody"
        raise FlagAdminError(f"{said}: write a whole number from 0 to 100")
    return int(rollout)
