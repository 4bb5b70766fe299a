"""The Admin API's JSON of a flag, as the client API would serve it, and as a `Flag`. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from flags.document import parse_served
from flags.errors import FlagDocumentError
from flags.rollout.writing.exposure import expected_share
from flags.rollout.writing.flag_admin import Flag, Kill, ManagedFlag, Strategy
from flags.rollout.writing.strategies import choose, names_everybody, read_strategy
from flags.rollout.writing.unleash_problems import place_of
from flags.targeting import digest, surroundings

Feature = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """The flag as one read of the server found it."""

    feature: Feature
    """The flag, as the Admin API has it."""
    served: Sequence[Feature]
    """The flag and its parents, as the client API serves them."""
    segments: Sequence[Mapping[str, Any]]
    kill: Feature | None
    """The kill flag; None: there is none."""


def client_feature(feature: Feature, environment: str) -> Feature:
    """A flag as the client API serves it in this environment; off where it is not in the environment."""
    place = place_of(feature, environment) or {}
    return {
        "name": feature["name"],
        "enabled": bool(place.get("enabled")) and not feature.get("archived"),
        "strategies": [raw for raw in place.get("strategies", ()) if not raw.get("disabled")],
        "variants": place.get("variants") or feature.get("variants") or [],
        "dependencies": feature.get("dependencies") or [],
    }


def kill_of(feature: Feature | None, environment: str) -> Kill:
    """The state of the kill flag in this environment."""
    place = None if feature is None or feature.get("archived") else place_of(feature, environment)
    if place is None:
        return Kill.ABSENT
    if not place["enabled"]:
        return Kill.OFF
    enabled = [raw for raw in place["strategies"] if not raw.get("disabled")]
    return Kill.ON if not enabled or any(map(names_everybody, enabled)) else Kill.SOME


def flag_of(seen: ServerSnapshot, flag: ManagedFlag, environment: str, event_id: int, event_by: str) -> Flag:
    """The flag of a snapshot. Raises FlagAdminError where none of its strategies can be ours."""
    place = place_of(seen.feature, environment) or {}
    strategies = [read_strategy(raw) for raw in place["strategies"]]
    ours, others = choose(strategies, flag)
    kill = kill_of(seen.kill, environment)
    features = {feature["name"]: feature for feature in seen.served}
    segments = {segment["id"]: segment for segment in seen.segments}
    return Flag(
        strategy=ours,
        others=others,
        enabled=bool(place["enabled"]),
        event_id=event_id,
        event_by=event_by,
        killed=kill is Kill.ON,
        kill=kill,
        around=digest(
            surroundings(features[flag.name], features, segments)
            | _beside(each for each in strategies if each is not ours)
        ),
        expected=0.0 if kill is Kill.ON else _expected(seen, features, flag, ours.group_id),
    )


def _beside(strategies: Iterable[Strategy]) -> dict[str, Any]:
    """Digests of strategies beside ours, disabled ones too, which a click enables; empty without any."""
    digests = sorted(strategy.digest for strategy in strategies)
    return {"beside": digests} if digests else {}


def _expected(
    seen: ServerSnapshot, features: Mapping[str, Feature], flag: ManagedFlag, group_id: str
) -> float | None:
    document = {"version": 2, "features": seen.served, "segments": seen.segments}
    try:
        served = parse_served(orjson.dumps(document), frozenset({flag.name}))
    except FlagDocumentError:
        return None
    return expected_share(served, features, flag, group_id)
