"""Unleash's own specification of how flags are answered, asked of our reader and our engine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flags.decision import FlagAnswer
from flags.document import parse, parse_served
from flags.engine import SPEC_VERSION, Engine
from flags.errors import FlagDocumentError

SPECIFICATION = Path(__file__).parents[1] / "services/node_modules/@unleash/client-specification"
FILES = json.loads((SPECIFICATION / "specifications/index.json").read_text())

NAMES = "18-utf8-flag-names.json"
"""Its names have letters that Unleash itself does not let anybody type, and neither does a file."""

DELTAS = {"19-delta-api-hydration.json", "20-delta-api-events.json"}
"""Their documents are those of `/api/client/delta`, which is another address than the one that is asked. The
engine alone is asked about them, and the reader refuses them."""

CASES = 227 + 52
"""The number of cases in the specification: whether flags are on, and variants."""


def specified(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SPECIFICATION / "specifications" / file).read_text())
    return found


@contextmanager
def asked(file: str, flag: str) -> Iterator[Engine]:
    """An engine with the document of a file, as it is read when `flag` alone is ours."""
    state = json.dumps(specified(file)["state"])
    engine = Engine(state if file in DELTAS else parse_served(state.encode(), frozenset({flag})).state, {})
    try:
        yield engine
    finally:
        engine.close()


def cases(kind: str) -> list[Any]:
    return [
        pytest.param(file, case, id=f"{file.partition('-')[0]}: {case['description']}")
        for file in FILES
        for case in specified(file).get(kind, [])
    ]


@pytest.mark.parametrize(("file", "case"), cases("tests"))
def test_a_flag_is_on_for_whom_the_specification_says(file: str, case: dict[str, Any]) -> None:
    """Every case, in the context that it names."""
    with asked(file, case["toggleName"]) as engine:
        answer = engine.ask(case["toggleName"], case["context"])

    assert answer.enabled is case["expectedResult"]


@pytest.mark.parametrize(("file", "case"), cases("variantTests"))
def test_a_variant_is_the_one_that_the_specification_says(file: str, case: dict[str, Any]) -> None:
    """Its name and its payload; none is none, whether the flag is off or has no variants."""
    expected = case["expectedResult"]
    name, payload = (
        (expected["name"], expected.get("payload", {}).get("value", "")) if expected["enabled"] else ("", "")
    )

    with asked(file, case["toggleName"]) as engine:
        answer = engine.ask(case["toggleName"], case["context"])

    assert answer == FlagAnswer(answer.known, expected["feature_enabled"], name, payload)


def test_no_case_was_missed() -> None:
    """The counts are the specification's own, and it is the one that the engine was made for."""
    assert len(cases("tests")) + len(cases("variantTests")) == CASES
    assert json.loads((SPECIFICATION / "package.json").read_text())["version"] == SPEC_VERSION


@pytest.mark.parametrize("file", sorted(DELTAS))
def test_a_delta_is_not_taken_for_flags(file: str) -> None:
    """It would be a server that answers something else than it was asked."""
    with pytest.raises(FlagDocumentError, match="serves no list of features"):
        parse_served(json.dumps(specified(file)["state"]).encode(), frozenset())


@pytest.mark.parametrize("file", [file for file in FILES if file not in DELTAS | {NAMES}])
def test_a_file_may_have_what_a_server_serves(file: str) -> None:
    """The stricter reader of files takes the documents of the specification, with all their flags."""
    state = specified(file)["state"]
    document = parse(json.dumps(state).encode())
    engine = Engine(document.state, document.arms)

    assert engine.names == document.names == {feature["name"] for feature in state["features"]}
    engine.close()
