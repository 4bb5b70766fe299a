"""The targets of a flag beside its own strategies: its variants, its parent flags, its segments. Pure.

Two flags whose strategies and surroundings are equal give the same users the same. Features are in Unleash's
client format; their names, descriptions and times are for people, and decide nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

TARGETING = ("name", "parameters", "constraints", "segments", "variants")
"""The parts of a strategy that say whom it enables, and for what. Its title, say, is for people."""

Feature = Mapping[str, Any]


def surroundings(
    feature: Feature, features: Mapping[str, Feature], segments: Mapping[Any, Mapping[str, Any]]
) -> dict[str, Any]:
    """A feature's variants, its parents as `features` has them, and the constraints of their segments."""
    parents = [
        {**dependency, "is": _parent(features.get(str(dependency.get("feature"))))}
        for dependency in _objects(feature.get("dependencies"))
    ]
    concerned = [feature, *(features.get(str(each.get("feature")), {}) for each in parents)]
    named = sorted({str(number) for each in concerned for number in segments_of(each)})
    by_number = {str(number): segment for number, segment in segments.items()}
    return {
        "variants": feature.get("variants") or [],
        "parents": parents,
        "segments": [[number, by_number.get(number, {}).get("constraints") or []] for number in named],
    }


def segments_of(feature: Feature) -> Iterator[Any]:
    """Ids of the segments that the feature's strategies name."""
    for strategy in _objects(feature.get("strategies")):
        yield from strategy.get("segments") or ()


def parents_of(feature: Feature) -> Iterator[str]:
    """Names of the features that the feature depends on."""
    return (str(dependency.get("feature")) for dependency in _objects(feature.get("dependencies")))


def asks_who(feature: Feature) -> bool:
    """True if more than a hash of the user's id decides, so that only requests tell how many are enabled."""
    strategies = _objects(feature.get("strategies"))
    kinds = {strategy.get("name") for strategy in strategies}
    return not kinds <= {"flexibleRollout", "default"} or any(
        strategy.get("constraints") or strategy.get("segments") for strategy in strategies
    )


def digest(value: Any) -> str:
    """A digest of a value as JSON, whatever the order of its keys."""
    return hashlib.blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def _parent(feature: Feature | None) -> Any:
    if feature is None:
        return None
    strategies = [
        {part: strategy.get(part) or None for part in TARGETING}
        for strategy in _objects(feature.get("strategies"))
        if not strategy.get("disabled")
    ]
    return [bool(feature.get("enabled")), strategies, feature.get("variants") or []]


def _objects(value: Iterable[Any] | None) -> Sequence[Mapping[str, Any]]:
    return [each for each in value or () if isinstance(each, Mapping)] if isinstance(value, list) else ()
