"""The text of flags, checked before anybody is decided by it. No I/O, no engine.

The format is that of Unleash's client features. The engine that evaluates it is lenient where a rollout
cannot afford it: a rollout of "12.5" enables nobody, and a number where it wants text drops every flag of
the document, both without a word. In a file, whatever the engine would swallow is refused here, by name. What
a server serves is not ours to refuse: it is cut down to our own flags, of which the same is said as warnings.
Messages carry places and the names of flags, never other content.

Source: https://docs.getunleash.io/api/get-client-feature
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flags.arms import ArmsOfFlags, FlagArms
from flags.errors import FlagDocumentError

MAX_PROBLEMS = 5
"""The most problems that one message names; the rest are counted."""

# Unleash's own rule for names; it also keeps anything else out of messages and logs.
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,100}")
_WHOLE_PERCENT = re.compile(r"0*(?:100|[0-9]{1,2})")
_STRATEGIES = frozenset(
    {
        "applicationHostname",
        "default",
        "flexibleRollout",
        "gradualRolloutRandom",
        "gradualRolloutSessionId",
        "gradualRolloutUserId",
        "remoteAddress",
        "userWithId",
    }
)


_STRATEGY_KEYS = (
    "parameters",
    "constraints",
    "segments",
    "variants",
    "disabled",
    "name",
    "title",
    "sortOrder",
)
_ALMOST = 0.75
"""Similarity above which an unknown key counts as a typo of one of these; the engine would ignore it
silently."""

_OF_ONE_VALUE = re.compile(r"REGEX|(?:NUM|DATE|SEMVER)_[A-Z_]+")
"""Operators of constraints that compare with one value."""


@dataclass(frozen=True, slots=True)
class Document:
    """Flags that passed."""

    names: frozenset[str]
    enabled: frozenset[str]
    """The features that are on, for whomever their strategies name."""
    state: str
    """The document for the engine, with the hidden flags of `arms`."""
    arms: Mapping[str, FlagArms]
    """Arms, by flag; only flags with a control arm."""
    warnings: tuple[str, ...]
    """Settings that are allowed and probably not meant."""


def parse(content: bytes) -> Document:
    """Check a file; raises FlagDocumentError with every problem, up to MAX_PROBLEMS."""
    document = _load(content)
    if problems := list(_problems(document)):
        more = len(problems) - MAX_PROBLEMS
        tail = [f"and {more} more"] if more > 0 else []
        raise FlagDocumentError("; ".join(problems[:MAX_PROBLEMS] + tail))
    return _made(document, _warnings(document["features"]))


def parse_served(content: bytes, wanted: frozenset[str]) -> Document:
    """A server's flags: those `wanted`, and those that they need. Raises FlagDocumentError.

    The flags of other teams cost the engine 50 ms a thousand, in the loop that streams; and one that it
    refused would cost us all of ours.
    """
    match _load(content):
        case {"features": list(served), **others}:
            pass
        case _:
            raise FlagDocumentError("serves no list of features; is this an Unleash server?")
    features = _with_parents(served, wanted)
    segments = _segments(others.get("segments"), features)
    return _made({"version": 2, "features": features, "segments": segments}, _doubts(features, wanted))


def _load(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        problem = f"is not JSON: {exc.msg}, line {exc.lineno}, column {exc.colno}"
        raise FlagDocumentError(problem) from exc


def _made(document: dict[str, Any], warnings: Iterable[str]) -> Document:
    warnings = tuple(warnings)  # before anything is put right
    features = document["features"]
    for strategy in _strategies(features):
        match strategy:
            case {"parameters": {"rollout": rollout} as parameters}:
                # A bare number makes the engine drop the whole document.
                parameters["rollout"] = str(rollout)
    arms = ArmsOfFlags.of(features, _objects(document.get("segments")))
    return Document(
        names=frozenset(feature["name"] for feature in features),
        enabled=frozenset(feature["name"] for feature in features if feature.get("enabled") is True),
        state=orjson.dumps({**document, "features": [*features, *arms.hidden]}).decode(),
        arms=arms.by_flag,
        warnings=(*warnings, *arms.warnings),
    )


def _with_parents(served: list[Any], wanted: frozenset[str]) -> list[dict[str, Any]]:
    """The features that are wanted, and those that they depend on; Unleash lets no parent have parents."""
    named = [feature for feature in _objects(served) if _text_at(feature, "name")]
    needed = set(wanted)
    for feature in named:
        if feature["name"] in wanted:
            needed |= {_text_at(needs, "feature") for needs in _objects(feature.get("dependencies"))}
    return [feature for feature in named if feature["name"] in needed]


def _segments(served: object, features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The segments that strategies of `features` name."""
    named = [segment for strategy in _strategies(features) for segment in _list(strategy.get("segments"))]
    return [segment for segment in _objects(served) if segment.get("id") in named]


def _doubts(features: list[dict[str, Any]], wanted: frozenset[str]) -> Iterator[str]:
    """Problems of the wanted flags: those for which a file would be refused, and warnings."""
    ours = [feature for feature in features if feature["name"] in wanted]
    taken: set[str] = set()
    for index, feature in enumerate(ours):
        yield from _feature_problems(f"features[{index}]", feature, taken)
    yield from _warnings(ours)
    for name in sorted(wanted - {feature["name"] for feature in ours}):
        yield f"{name}: is not served; make it in Unleash, or look at the token's project and environment"


def _problems(document: object) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "is not a JSON object; write {version, features}"
        return
    if type(document.get("version")) is not int:
        yield "version is missing or not a whole number; write 2"
    features = document.get("features")
    if not isinstance(features, list):
        yield "features is missing or not a list"
        return
    taken: set[str] = set()
    for index, feature in enumerate(features):
        yield from _feature_problems(f"features[{index}]", feature, taken)


def _feature_problems(at: str, feature: object, taken: set[str]) -> Iterator[str]:
    if not isinstance(feature, dict):
        yield f"{at} is not an object"
        return
    name = feature.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"{at}.name is missing or not 1 to 100 letters, digits, '.', '_', '~', '-'"
        return
    at = f"{at} ({name})"
    if name in taken:
        yield f"{at}: the name is already taken by an earlier flag; keep one of them"
    taken.add(name)
    if not isinstance(feature.get("enabled"), bool):
        yield f"{at}: enabled is missing or not true or false"
    strategies = feature.get("strategies")
    if not isinstance(strategies, list):
        yield f"{at}: strategies is missing or not a list; write one, and mind that [] means everybody"
        return
    for index, strategy in enumerate(strategies):
        yield from _strategy_problems(f"{at}: strategies[{index}]", strategy)


def _strategy_problems(at: str, strategy: object) -> Iterator[str]:
    if not isinstance(strategy, dict) or not isinstance(strategy.get("name"), str):
        yield f"{at} is not an object with a name"
        return
    yield from _doubtful_parts(at, strategy)
    parameters = strategy.get("parameters", {})
    if not isinstance(parameters, dict):
        yield f"{at}.parameters is not an object"
        return
    if any(not isinstance(value, str) for key, value in parameters.items() if key != "rollout"):
        yield f"{at}.parameters holds a value that is not a string; put it in quotes"
    if strategy["name"] == "flexibleRollout":
        yield from _rollout_problems(f"{at}.parameters", parameters)


def _doubtful_parts(at: str, strategy: dict[str, Any]) -> Iterator[str]:
    """Parts that the engine would ignore, so that it would enable other users than are meant."""
    for key in sorted(strategy.keys() - set(_STRATEGY_KEYS)):
        if close := difflib.get_close_matches(key, _STRATEGY_KEYS, n=1, cutoff=_ALMOST):
            yield f"{at}.{key[:40]} is unknown; did you mean {close[0]}?"
    if strategy.get("disabled"):
        yield f"{at}.disabled is true, which the engine takes for an enabled one; take the strategy out"
    for index, constraint in enumerate(_objects(strategy.get("constraints"))):
        operator = str(constraint.get("operator"))
        if _OF_ONE_VALUE.fullmatch(operator) and not constraint.get("value"):
            yield f"{at}.constraints[{index}]: {operator} has no value; write one"


def _rollout_problems(at: str, parameters: dict[str, Any]) -> Iterator[str]:
    rollout = parameters.get("rollout")
    text = str(rollout) if type(rollout) in (int, float) else rollout
    if not isinstance(text, str):
        yield f"{at}.rollout is missing or not a number; write a whole number from 0 to 100"
    elif not _WHOLE_PERCENT.fullmatch(text):
        what = "has a fraction, and would enable nobody" if "." in text else "is not a percentage"
        yield f"{at}.rollout {what}; write a whole number from 0 to 100"
    if parameters.get("stickiness") == "":
        yield f"{at}.stickiness is empty, and would enable nobody; write userId"


def _warnings(features: list[dict[str, Any]]) -> Iterator[str]:
    for feature in features:
        for strategy in _strategies([feature]):
            if strategy.get("name") not in _STRATEGIES:
                yield f"{feature['name']}: a strategy of a kind the engine does not have; it enables nobody"
            elif strategy["name"] == "flexibleRollout":
                parameters = _object(strategy.get("parameters"))
                stickiness = parameters.get("stickiness", "default")
                if stickiness in ("random", "default") and str(parameters.get("rollout")) != "100":
                    yield f"{feature['name']}: stickiness {stickiness}: answers may flip between requests"


def _strategies(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [strategy for feature in features for strategy in _objects(feature.get("strategies"))]


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text_at(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""
