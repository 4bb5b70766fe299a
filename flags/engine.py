"""Unleash's engine, asked as Unleash's own client for Python asks it. Its oddities stay here.

The client itself would be a third of what a process loads: threads, a disk cache and HTTP, which nobody here
needs.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from yggdrasil_engine.engine import UnleashEngine

from flags.arms import BUCKETS, FlagArms, FlagInForce, Placement, bucket_of, first_of_control
from flags.decision import FlagAnswer

_log = logging.getLogger("headgate.flags")

SPEC_VERSION = "6.1.0"
"""The version of Unleash's client specification, which a server wants to know."""

UNKNOWN = FlagAnswer(known=False, enabled=False)

_SAME_FOR_ALL = {"appName": "headgate", "environment": "default"}

_FIELDS = frozenset({*_SAME_FOR_ALL, "userId", "sessionId", "currentTime", "remoteAddress", "properties"})
"""The fields of a context; to the engine all others are properties as well."""


class Engine:
    """The flags of one state, ready to be asked. Its maker closes it."""

    def __init__(self, state: str, arms: Mapping[str, FlagArms]) -> None:
        self._engine = UnleashEngine()
        try:
            self._engine.take_state(state)
        except Exception as exc:  # noqa: BLE001 - it has no errors of its own for what it cannot read
            _log.error("the engine does not read all flags", extra={"why": type(exc).__name__})
        self._arms = arms
        hidden = {each.eligible for each in arms.values()}
        self.names = frozenset(known.name for known in self._engine.list_known_toggles()) - hidden
        """Empty when the engine refused the state, which it does not say in any other way."""

    def ask(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        """One flag about one user. Raises TypeError for a context that is not Unicode text."""
        if flag not in self.names:
            return UNKNOWN
        # One call: a variant carries whether its flag is on, and each call costs tens of microseconds.
        present = _present(context or {})
        variant = self._engine.check_variant(flag, _as_asked(present)).variant
        arms = self._arms.get(flag)
        generation, share = ("", None) if arms is None else (arms.generation, arms.share)
        if not variant.feature_enabled:
            user = present.get("userId")
            if arms is None or not isinstance(user, str):
                return FlagAnswer(True, False, generation=generation, share=share, left_out=True)
            # An untargeted flag leaves nobody out, and a call costs as much as all else here.
            left_out = arms.targeted and not self._is_enabled(arms.eligible, present)
            control = not left_out and arms.may_be_control(user)
            return FlagAnswer(
                True, False, control=control, generation=generation, share=share, left_out=left_out
            )
        if not variant.enabled:
            return FlagAnswer(True, True, generation=generation, share=share)
        payload = (variant.payload or {}).get("value", "")
        return FlagAnswer(True, True, variant.name, payload, generation=generation, share=share)

    def placed(self, flag: str, context: Mapping[str, Any] | None) -> Placement | None:
        """A user's place in the flag's arms; None for a flag without arms, or nobody."""
        arms, present = self._arms.get(flag), _present(context or {})
        user = present.get("userId")
        if arms is None or not isinstance(user, str):
            return None
        bucket, first = bucket_of(arms.group_id, user), first_of_control(arms.share)
        eligible = self._is_enabled(arms.eligible, present)
        return Placement(arms.group_id, bucket, arms.share, first, eligible)

    def found(self, flag: str, *, enabled: bool) -> FlagInForce:
        """A flag as it is now, whoever asks; `enabled` as its document says."""
        arms = self._arms.get(flag)
        if flag not in self.names or arms is None:
            return FlagInForce(flag in self.names, enabled)
        control = BUCKETS + 1 - first_of_control(arms.share)
        return FlagInForce(True, enabled, arms.share, control, arms.dark, arms.targeted)

    def _is_enabled(self, flag: str, present: Mapping[str, Any]) -> bool:
        enabled: bool = self._engine.check_enabled(flag, _as_asked(present)).is_enabled
        return enabled

    def close(self) -> None:
        del self._engine  # and with it what it holds outside Python


def _as_asked(present: Mapping[str, Any]) -> dict[str, Any]:
    """A context as the engine wants it: values are text, and whatever it has no field for is a property."""
    context = {"currentTime": datetime.now(UTC).isoformat(), **_SAME_FOR_ALL, **present}
    properties = {key: value for key, value in context.items() if key not in _FIELDS}
    properties.update(context.pop("properties", {}))
    asked: dict[str, Any] = {key: _text(value) for key, value in context.items()}
    asked["properties"] = {key: _text(value) for key, value in properties.items()}
    return asked


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _present(context: Mapping[str, Any]) -> dict[str, Any]:
    # The client turns None into the text "None" and hashes "" like any name: all users without an id
    # would be one user, and on at 100 %.
    present = _without_blanks(context)
    if "properties" in present:
        present["properties"] = _without_blanks(present["properties"])
    # Half a surrogate pair would make the engine log a traceback for each request. This raises instead.
    orjson.dumps(present, default=str)
    return present


def _without_blanks(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != ""}
