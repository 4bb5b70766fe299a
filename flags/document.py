"""The text of a flag file, checked before anybody is decided by it. No I/O, no engine.

The format is that of Unleash's client features. The engine that evaluates it is lenient where a rollout
cannot afford it: a rollout of "12.5" enables nobody, and a number where it wants text drops every flag of
the file, both without a word. So whatever the engine would swallow is refused here, by name. Messages carry
places and the names of flags, never other content.

Source: https://docs.getunleash.io/api/get-client-feature
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from flags.arms import Rollout, Rollouts
from flags.errors import FlagFileError

MAX_PROBLEMS = 5
"""How many are named in one message; the rest are counted."""

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


@dataclass(frozen=True, slots=True)
class Document:
    """A flag file that passed."""

    names: frozenset[str]
    enabled: frozenset[str]
    """Those of them that are on, for whomever their strategies name."""
    state: str
    """What the engine takes: also the hidden flags of `rollouts`."""
    rollouts: Mapping[str, Rollout]
    """By flag; of those that have a control arm."""
    warnings: tuple[str, ...]
    """What is allowed and probably not meant."""


def parse(content: bytes, path: Path) -> Document:
    """Check the content of `path`; raises FlagFileError with every problem, up to MAX_PROBLEMS."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        problem = f"is not JSON: {exc.msg}, line {exc.lineno}, column {exc.colno}"
        raise FlagFileError(path, problem) from exc
    if problems := list(_problems(document)):
        more = len(problems) - MAX_PROBLEMS
        tail = [f"and {more} more"] if more > 0 else []
        raise FlagFileError(path, "; ".join(problems[:MAX_PROBLEMS] + tail))
    features = document["features"]
    for parameters in _rollout_parameters(features):
        # A bare number makes the engine drop the whole file.
        parameters["rollout"] = str(parameters["rollout"])
    rollouts = Rollouts.of(features)
    return Document(
        names=frozenset(feature["name"] for feature in features),
        enabled=frozenset(feature["name"] for feature in features if feature["enabled"]),
        state=orjson.dumps({**document, "features": [*features, *rollouts.hidden]}).decode(),
        rollouts=rollouts.by_flag,
        warnings=(*_warnings(features), *rollouts.warnings),
    )


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
    parameters = strategy.get("parameters", {})
    if not isinstance(parameters, dict):
        yield f"{at}.parameters is not an object"
        return
    if any(not isinstance(value, str) for key, value in parameters.items() if key != "rollout"):
        yield f"{at}.parameters holds a value that is not a string; put it in quotes"
    if strategy["name"] == "flexibleRollout":
        yield from _rollout_problems(f"{at}.parameters", parameters)


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


def _rollout_parameters(features: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for feature in features:
        for strategy in feature["strategies"]:
            if "rollout" in strategy.get("parameters", {}):
                yield strategy["parameters"]


def _warnings(features: list[dict[str, Any]]) -> Iterator[str]:
    for feature in features:
        for strategy in feature["strategies"]:
            if strategy["name"] not in _STRATEGIES:
                yield f"{feature['name']}: a strategy of a kind the engine does not have; it enables nobody"
            elif strategy["name"] == "flexibleRollout":
                stickiness = strategy.get("parameters", {}).get("stickiness", "default")
                if stickiness in ("random", "default"):
                    yield f"{feature['name']}: stickiness {stickiness}: answers may flip between requests"
