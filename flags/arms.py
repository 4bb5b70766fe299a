"""The arms of a flag: a user's place in the hash space of Unleash's own gradual rollout. Pure.

At a share of X percent the flag enables the users in buckets 1 to X. The control arm is as many buckets from
the other end: both arms are equally large and drawn by the same hash, and nobody is ever in both. Users whom
the strategy's constraints and segments leave out are in neither arm. So the engine is asked once more, about
a hidden flag: the same strategy at 100 %.

Source of the hash: Unleash's normalized hash, https://docs.getunleash.io/reference/activation-strategies
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mmh3

from flags.decision import DARK
from flags.targeting import TARGETING, digest, surroundings

BUCKETS = 100

GRADUAL = frozenset(
    {"flexibleRollout", "gradualRolloutRandom", "gradualRolloutSessionId", "gradualRolloutUserId"}
)
"""Strategies that enable a share of users."""

_WHOLE_PERCENT = re.compile(r"0*(?:100|[0-9]{1,2})")


def bucket_of(group_id: str, user: str) -> int:
    """1 to 100; a strategy with this group enables the user if its share is as much or more."""
    return mmh3.hash(f"{group_id}:{user}", 0, signed=False) % BUCKETS + 1


def first_of_control(share: int) -> int:
    """The lowest bucket of the control arm at a share of 0 to 100; 101 where there is none."""
    return BUCKETS + 1 - min(share, BUCKETS - share)


@dataclass(frozen=True, slots=True)
class FlagArms:
    """The arms of one flag, as it is written now."""

    share: int
    group_id: str
    eligible: str
    """The hidden flag, which is on for everybody whom the flag would enable at 100 %."""
    generation: str
    """Changes whenever the flag is targeted in another way."""
    dark: float = 0
    """The part of the stream arm that is shown nothing, by the weights of the variants: 0 to 1."""
    targeted: bool = False
    """True if constraints, segments or a parent flag leave users out of both arms."""

    def may_be_control(self, user: str) -> bool:
        """True if the user is in the control arm, if the hidden flag is on for them."""
        return bucket_of(self.group_id, user) >= first_of_control(self.share)


@dataclass(frozen=True, slots=True)
class Placement:
    """One user's place in the arms of a flag."""

    group_id: str
    bucket: int
    share: int
    first_of_control: int
    eligible: bool
    """True if the flag would be on for the user at 100 %."""


@dataclass(frozen=True, slots=True)
class FlagInForce:
    """One flag as it is now, whoever asks."""

    known: bool
    enabled: bool = False
    """True if the flag is on for those whom its strategies name; False: for nobody."""
    share: int | None = None
    """Percent of users who stream; None for a flag without arms, whose strategies alone decide."""
    control: int | None = None
    """Percent of users in the control arm; None for a flag without arms."""
    dark: float = 0
    """The part of the stream arm whose variant is `dark`, so that it is shown nothing: 0 to 1."""
    targeted: bool = False
    """True if both are percent of those alone whom constraints, segments or a parent flag let through."""


@dataclass(frozen=True, slots=True)
class ArmsOfFlags:
    """The arms of all flags of one document."""

    by_flag: Mapping[str, FlagArms]
    hidden: Sequence[Mapping[str, Any]]
    """Features to evaluate beside the others."""
    warnings: Sequence[str]
    """Flags that enable a share of users, and have no control arm."""

    @classmethod
    def of(
        cls, features: Iterable[Mapping[str, Any]], segments: Iterable[Mapping[str, Any]] = ()
    ) -> "ArmsOfFlags":
        """From features in Unleash's client format, with shares as text; a server may serve odd ones."""
        features = list(features)
        by_name = {feature["name"]: feature for feature in features}
        by_id = {segment.get("id"): segment for segment in segments}
        by_flag: dict[str, FlagArms] = {}
        hidden: list[Mapping[str, Any]] = []
        warnings: list[str] = []
        for feature in features:
            strategies = feature.get("strategies") or []
            if feature.get("enabled") is not True or not any(s.get("name") in GRADUAL for s in strategies):
                continue
            if lack := _lack(strategies):
                if not _names_everybody(strategies):
                    warnings.append(f"{feature['name']}: no control arm: {lack}")
                continue
            [strategy] = strategies
            around = surroundings(feature, by_name, by_id)
            by_flag[feature["name"]] = _arms(feature, strategy, around)
            hidden.append(_hidden(feature, strategy))
        return cls(by_flag, hidden, warnings)


def _lack(strategies: Sequence[Mapping[str, Any]]) -> str:
    """Return why users cannot be compared; "" if they can."""
    if len(strategies) > 1:
        return "it has more than one strategy, and each of them enables users; keep one"
    if strategies[0]["name"] != "flexibleRollout":
        return "its strategy is deprecated; write flexibleRollout with stickiness userId"
    parameters = strategies[0].get("parameters") or {}
    if parameters.get("stickiness") != "userId":
        return "its stickiness is not userId; write userId"
    if not _WHOLE_PERCENT.fullmatch(parameters.get("rollout", "")):
        return "its share is no whole percentage, which enables nobody; write 0 to 100"
    return ""


def _names_everybody(strategies: Sequence[Mapping[str, Any]]) -> bool:
    """True if everybody is in the stream arm, so that nobody is left for control."""
    return any((strategy.get("parameters") or {}).get("rollout") == "100" for strategy in strategies)


def _arms(feature: Mapping[str, Any], strategy: Mapping[str, Any], around: Mapping[str, Any]) -> FlagArms:
    parameters = strategy["parameters"]
    name = feature["name"]
    outside = [*(strategy.get(part) for part in ("constraints", "segments")), feature.get("dependencies")]
    return FlagArms(
        share=int(parameters["rollout"]),
        group_id=parameters.get("groupId", name),  # the engine's own default
        eligible=_name(name),
        generation=digest([{part: strategy.get(part) for part in TARGETING}, around]),
        dark=_dark(strategy.get("variants") or feature.get("variants") or ()),
        targeted=any(outside),
    )


def _dark(variants: Sequence[Mapping[str, Any]]) -> float:
    weights = [(each.get("name"), each.get("weight")) for each in variants if isinstance(each, Mapping)]
    found = [(name == DARK, weight) for name, weight in weights if isinstance(weight, int)]
    whole = sum(weight for _, weight in found)
    return sum(weight for is_dark, weight in found if is_dark) / whole if whole > 0 else 0


def _hidden(feature: Mapping[str, Any], strategy: Mapping[str, Any]) -> dict[str, Any]:
    everybody = {**strategy, "parameters": {**strategy["parameters"], "rollout": "100"}, "variants": []}
    return {**feature, "name": _name(feature["name"]), "strategies": [everybody], "variants": []}


def _name(flag: str) -> str:
    # A space is in no flag's name, by Unleash's rule.
    return f"{flag} eligible"
