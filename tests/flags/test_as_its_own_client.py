"""The engine answers as it answers Unleash's own client for Python."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from UnleashClient.cache import BaseCache
from UnleashClient.clients.unleash_client import UnleashClient
from UnleashClient.constants import CLIENT_SPEC_VERSION, FEATURES_URL
from UnleashClient.utils import InstanceAllowType

from flags.decision import FlagAnswer
from flags.engine import SPEC_VERSION, Engine

FIELDS = ["userId", "sessionId", "remoteAddress", "appName", "environment", "tenant", "plan"]
VALUES = ["ann", "10", "10.0.0.7", "headgate", "default"]


def constrained(field: str, values: list[str], operator: str = "IN") -> dict[str, Any]:
    return {"contextName": field, "operator": operator, "values": values, "inverted": False}


def strategy(name: str, *constraints: dict[str, Any], **parameters: str) -> dict[str, Any]:
    return {"name": name, "parameters": parameters, "constraints": list(constraints)}


VARIANTS = [
    {"name": name, "weight": weight, "stickiness": "default", "payload": {"type": "string", "value": name}}
    for name, weight in (("a", 300), ("b", 700))
]

STATE = {
    "version": 2,
    "features": [
        {
            "name": "variants",
            "enabled": True,
            "variants": VARIANTS,
            "strategies": [strategy("flexibleRollout", rollout="60", stickiness="default", groupId="g")],
        },
        {"name": "users", "enabled": True, "strategies": [strategy("userWithId", userIds="ann,10")]},
        {"name": "addresses", "enabled": True, "strategies": [strategy("remoteAddress", IPs="10.0.0.0/24")]},
        {
            "name": "since",
            "enabled": True,
            "strategies": [
                strategy(
                    "default",
                    {**constrained("currentTime", [], "DATE_AFTER"), "value": "2020-01-01T00:00:00Z"},
                )
            ],
        },
        {"name": "unheard of", "enabled": True, "strategies": [strategy("of our own")]},
        *(
            {
                "name": field,
                "enabled": True,
                "strategies": [strategy("default", constrained(field, VALUES[:3]))],
            }
            for field in FIELDS
        ),
    ],
}
NAMES = [feature["name"] for feature in STATE["features"]]  # type: ignore[attr-defined]


class Bootstrapped(BaseCache):
    """The client's cache, with a state in it."""

    def __init__(self, state: str) -> None:
        self.values: dict[str, Any] = {FEATURES_URL: state}
        self.bootstrapped = True

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def mset(self, data: dict[str, Any]) -> None:
        self.values.update(data)

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def exists(self, key: str) -> bool:
        return key in self.values

    def destroy(self) -> None:
        self.values.clear()


@pytest.fixture(scope="module")
def client() -> Iterator[UnleashClient]:
    made = UnleashClient(
        url="http://flags.invalid",
        app_name="headgate",
        disable_metrics=True,
        disable_registration=True,
        cache=Bootstrapped(json.dumps(STATE)),
        multiple_instance_mode=InstanceAllowType.SILENTLY_ALLOW,
    )
    made.unleash_scheduler = None  # which never ran, and `destroy` would warn of it
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(json.dumps(STATE), {})
    yield made
    made.close()


@given(
    flag=st.sampled_from(NAMES),
    fields=st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(VALUES) | st.integers(0, 20)),
    properties=st.dictionaries(
        st.sampled_from([*FIELDS, "route"]), st.sampled_from(VALUES) | st.booleans() | st.floats(0, 9)
    ),
)
def test_every_answer_is_the_clients(
    client: UnleashClient, engine: Engine, flag: str, fields: dict[str, Any], properties: dict[str, Any]
) -> None:
    """For each kind of strategy, and in any context: fields and properties, and values that are no text."""
    context = {**fields, "properties": properties}
    if not {"userId", "sessionId"} & context.keys():
        context["userId"] = "nobody in particular"  # without one the engine draws lots

    told = client.get_variant(flag, dict(context))
    variant = (told["name"], told.get("payload", {}).get("value", "")) if told["enabled"] else ("", "")

    assert engine.ask(flag, context) == FlagAnswer(True, told["feature_enabled"], *variant)
    assert told["feature_enabled"] is client.is_enabled(flag, dict(context))


def test_the_specification_is_the_clients() -> None:
    """A server is told which version it may answer in."""
    assert SPEC_VERSION == CLIENT_SPEC_VERSION
