"""Pieces that cannot be joined for certain make no answer of Gemini's."""

import contextlib
import json
from typing import Any

import pytest

from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.dialects.gemini import answer as gemini
from proxy.llm.dialects.gemini.calls import Gemini
from tests.llm.gemini_events import CODE, DIFFERS, RAN, SIGNED, STOP, A, argument, event, refusal

CHANGES = "a field that is not known changes"
UNKNOWN = "an event has a field that is not known"
UNKNOWN_PART = "a part has a field that is not known"
NOTHING = "a number is out of range, or a text is no Unicode, or it is too deep"
TWICE = {"text": "b", "thoughtSignature": "c2Vjb25k"}


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        pytest.param(["{"], "a chunk is no JSON", id="no JSON"),
        pytest.param(["[DONE]"], "a chunk is no JSON", id="another API's end"),
        pytest.param([STOP | {"modelVersion": "\ud800"}], NOTHING, id="no Unicode"),
        pytest.param([event({"text": "\ud800"})], "a text is no Unicode", id="half a character"),
        pytest.param([json.dumps(STOP)[:-1] + ', "modelVersion": 1e999}'], NOTHING, id="no number"),
        pytest.param(["[" * 2000], "a chunk is no JSON", id="too deep to read"),
        pytest.param([[1]], "an object is none", id="an array"),
        pytest.param([{"detail": "overloaded"}], "an event is no chunk", id="an event of another kind"),
        pytest.param([{"candidates": {}}], "a list is none", id="candidates"),
        pytest.param([{"candidates": [[]]}], "an object is none", id="candidate"),
        pytest.param([event() | {"new": 1}, event() | {"new": 2}], CHANGES, id="unknown, and changes"),
        pytest.param([event(new=1), event(new=2)], CHANGES, id="unknown in a candidate, and changes"),
        pytest.param(
            [event(new=1), event(A), STOP | event(new=1)],
            "a field that is not known comes again, and not always",
            id="unknown now and then",
        ),
        pytest.param([event(finishReason=None)], UNKNOWN, id="null, which Google never writes"),
        pytest.param([event(content={"new": 1})], UNKNOWN, id="unknown in a content"),
        pytest.param([event(groundingMetadata={"new": 1})], UNKNOWN, id="unknown in sources"),
        pytest.param([{"promptFeedback": {"new": 1}}], UNKNOWN, id="unknown about the prompt"),
        pytest.param([event(content=[])], "an object is none", id="content"),
        pytest.param([event(content={"parts": {}})], "a list is none", id="parts"),
        pytest.param([event(content={"role": "a"}), event(content={"role": "b"})], DIFFERS, id="role"),
        pytest.param([event(index=-1)], "an index is none", id="index below"),
        pytest.param([event(index=gemini.MAX_CANDIDATES)], "an index is none", id="index above"),
        pytest.param([event(index=True)], "an index is none", id="no index"),
        pytest.param([event({"text": 1})], "a text is no string", id="text"),
        pytest.param([event({})], "a part has nothing that is known", id="empty part"),
        pytest.param([event({"videoMetadata": {}})], UNKNOWN_PART, id="unknown part"),
        pytest.param([event({"text": "a", "functionCall": {}})], UNKNOWN_PART, id="two parts in one"),
        pytest.param(
            [event({"functionCall": {}, "inlineData": {}})], UNKNOWN_PART, id="two whole parts in one"
        ),
        pytest.param([event({"functionCall": []})], "an object is none", id="call"),
        pytest.param(
            [event({"functionCall": {"name": "a", "willContinue": True}}), STOP],
            "a call has no end",
            id="call without its end",
        ),
        pytest.param([*argument("$.a", "b"), STOP], "a call has no end", id="pieces without their end"),
        pytest.param(
            [*argument("$.a", "b"), event({"functionCall": {"name": "c"}})],
            "a part begins within a call",
            id="a call within a call",
        ),
        pytest.param([*argument("$[?(@.a)]", "b")], "an argument's path is none", id="another path"),
        pytest.param([*argument("$.a[1]", "b")], "an argument's path is none", id="a gap in a list"),
        pytest.param(
            [*argument("$.a", "b"), *argument("$.a", "b")[1:]],
            "an argument comes again",
            id="argument twice",
        ),
        pytest.param(
            [event({"functionCall": {"partialArgs": []}})], "a call's piece follows none", id="piece of none"
        ),
        pytest.param(
            [event({"functionCall": {"id": "1"}}), event({"functionCall": {"id": "1"}}, reason="STOP")],
            "a part comes again",
            id="a call that comes again",
        ),
        pytest.param([event(A, A)], "two texts of one event may be one or two", id="two texts"),
        pytest.param([event(CODE), event(CODE)], "two parts with code may be one or two", id="code"),
        pytest.param([event(RAN), event(RAN)], "two parts with code may be one or two", id="code that ran"),
        pytest.param(
            [event({"text": "a", "thoughtSignature": SIGNED}), event(TWICE)], DIFFERS, id="two signatures"
        ),
        pytest.param([STOP, event(A)], "an answer goes on after its end", id="text after the end"),
        pytest.param(
            [STOP, event({"functionCall": {"name": "a"}})],
            "an answer goes on after its end",
            id="call after the end",
        ),
        pytest.param(
            [event(A), {"promptFeedback": {"blockReason": "OTHER"}}],
            "the prompt was blocked after its answer began",
            id="blocked midway",
        ),
        pytest.param(
            [event(A), {"candidates": [{"finishReason": "STOP"}]}],
            "the last event does not say what was used",
            id="usage of an earlier event",
        ),
        pytest.param(
            [event(groundingMetadata={"groundingSupports": [{"segment": {"partIndex": 1}}]})],
            "a source is of a part that may have another number",
            id="source of another part",
        ),
    ],
)
def test_what_cannot_be_joined_for_certain_is_refused(events: list[Any], reason: str) -> None:
    assert refusal(*events) == reason


def test_what_is_too_deep_to_read_to_compare_or_to_write_is_refused() -> None:
    """Whatever the depth is, nothing else is raised."""
    for depth in (*range(800, 1020), *range(2_000, 120_000, 2_000)):  # of Python 3.12 and later: 10,000
        assembler = Gemini().assembler()
        deep = f'{{"modelVersion": {"[" * depth}1{"]" * depth}}}'
        with contextlib.suppress(Unfaithful):
            for event_ in (json.dumps(STOP), deep, deep):
                assembler.feed(event_)
            assembler.answer()

    assert refusal(deep) == "a chunk is no JSON"


def test_an_answer_that_is_too_large_is_refused() -> None:
    """The JSON around the text counts too."""
    piece = json.dumps(event({"text": "a" * (gemini.MAX_ANSWER_CHARS // 4)}))

    assert refusal(*[piece] * 4) == "the answer is too large"
