"""UnleashClient as an evaluator and nothing else: no server, thread or disk. Its oddities stay here."""

from collections.abc import Mapping
from typing import Any

import orjson
from UnleashClient.cache import BaseCache
from UnleashClient.clients.unleash_client import UnleashClient
from UnleashClient.constants import CLIENT_SPEC_VERSION, FEATURES_URL
from UnleashClient.utils import InstanceAllowType

from flags.arms import BUCKETS, FlagArms, Placement, bucket_of, first_of_control
from flags.decision import FlagAnswer

SPEC_VERSION = CLIENT_SPEC_VERSION
"""The version of Unleash's client specification, which a server wants to know."""

UNKNOWN = FlagAnswer(known=False, enabled=False)


class _MemoryCache(BaseCache):
    """The client's default cache writes below the home directory, which a container may not."""

    def __init__(self, state: str) -> None:
        self._values: dict[str, Any] = {FEATURES_URL: state}
        self.bootstrapped = True

    def set(self, key: str, value: Any) -> None:
        self._values[key] = value

    def mset(self, data: dict[str, Any]) -> None:
        self._values.update(data)

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def exists(self, key: str) -> bool:
        return key in self._values

    def destroy(self) -> None:
        self._values.clear()


class Engine:
    """The flags of one state, ready to be asked. Its maker closes it."""

    def __init__(self, state: str, arms: Mapping[str, FlagArms]) -> None:
        self._client = UnleashClient(
            url="http://flags.invalid",  # required, never called
            app_name="headgate",
            disable_metrics=True,
            disable_registration=True,
            cache=_MemoryCache(state),
            multiple_instance_mode=InstanceAllowType.SILENTLY_ALLOW,  # old and new overlap during a swap
        )
        # The constructor has read the bootstrapped cache, and evaluates. `initialize_client`, even with
        # fetch_toggles=False, adds only a thread that reads the same cache every 15 s; so it is not called,
        # and the scheduler that never ran is taken away, or `destroy` would warn that it never ran.
        self._client.unleash_scheduler = None
        self._arms = arms
        hidden = {each.eligible for each in arms.values()}
        self.names = frozenset(self._client.feature_definitions()) - hidden
        """Empty when the engine refused the state, which the client does not say in any other way."""

    def ask(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        """One flag about one user. Raises TypeError for a context that is not Unicode text."""
        # The client logs a line for every question about a flag that it does not know: do not ask.
        if flag not in self.names:
            return UNKNOWN
        # One call: a variant carries whether its flag is on, and each call costs tens of microseconds.
        present = _present(context or {})
        variant = self._client.get_variant(flag, present)
        arms = self._arms.get(flag)
        generation = arms.generation if arms is not None else ""
        if not variant["feature_enabled"]:
            control = arms is not None and self._is_control(arms, present)
            return FlagAnswer(True, False, control=control, generation=generation)
        if not variant["enabled"]:
            return FlagAnswer(True, True, generation=generation)
        payload = variant.get("payload", {}).get("value", "")
        return FlagAnswer(True, True, variant["name"], payload, generation=generation)

    def placed(self, flag: str, context: Mapping[str, Any] | None) -> Placement | None:
        """A user's place in the flag's arms; None for a flag without arms, or nobody."""
        arms, present = self._arms.get(flag), _present(context or {})
        user = present.get("userId")
        if arms is None or not isinstance(user, str):
            return None
        bucket, first = bucket_of(arms.group_id, user), first_of_control(arms.share)
        eligible = bool(self._client.is_enabled(arms.eligible, present))
        return Placement(arms.group_id, bucket, arms.share, first, eligible)

    def shares(self, flag: str) -> tuple[int, int] | None:
        """Percent of users in the arms stream and control; None for a flag without arms."""
        arms = self._arms.get(flag)
        return None if arms is None else (arms.share, BUCKETS + 1 - first_of_control(arms.share))

    def _is_control(self, arms: FlagArms, context: dict[str, Any]) -> bool:
        """The hash first: the engine is only asked about those who are control if it says so."""
        user = context.get("userId")
        if not isinstance(user, str) or not arms.may_be_control(user):
            return False
        return bool(self._client.is_enabled(arms.eligible, context))

    def close(self) -> None:
        self._client.destroy()


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
