"""The meaning of an event of the upstream's own stream, by a route's rules. The order of the rules counts."""

import json
from typing import Any

import pytest

from proxy.settings.blocks.sources import NativeEventSettings
from proxy.sources.errors import AmbiguousTexts
from proxy.sources.native_rules import EventContent, Rules
from proxy.text.sections import Section

SECTIONS = [Section.compile(stage, "chat", None) for stage in ("a", "b")]
DELTA = {"stage": "a", "at": "$.delta"}
NOTE = {"stage": "b", "at": "$.note"}
SAID = {"delta": "x", "note": "y", "all": "xyz", "type": "t"}


def read(*rules: dict[str, Any], event: str = "message", said: Any = SAID) -> EventContent:
    compiled = Rules([NativeEventSettings.model_validate(rule) for rule in rules], SECTIONS)
    return compiled.read(event, json.dumps(said))


def texts(content: EventContent) -> dict[str, str]:
    return {section.stage: text for section, text in content.texts}


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([DELTA, NOTE], id="two rules"),
        pytest.param(
            [DELTA, {"stage": "b", "at": "$.delta", "event": "other"}, NOTE], id="one of another event"
        ),
        pytest.param([DELTA, DELTA, NOTE], id="a rule twice"),
        pytest.param([DELTA, {"stage": "a", "at": "$['delta']"}, NOTE], id="the same text by another path"),
        pytest.param([DELTA, {"means": "text", "stage": "a"}, NOTE], id="a rule for all other events"),
        pytest.param([{"stage": "a", "at": "$.none"}, DELTA, NOTE], id="a rule without a text"),
        pytest.param(
            [{"stage": "b", "at": "$.none", "when": {"at": "$.type", "equals": "t"}}, DELTA, NOTE],
            id="a rule that fits without a text",
        ),
        pytest.param([DELTA, {"stage": "a", "at": "$"}, NOTE], id="a place that has no string"),
    ],
)
def test_each_text_of_an_event_is_read(rules: list[dict[str, Any]]) -> None:
    assert texts(read(*rules)) == {"a": "x", "b": "y"}


def test_an_end_may_have_more_than_one_text() -> None:
    end = {"stage": "a", "at": "$.delta", "means": "done", "when": {"at": "$.type", "equals": "t"}}

    content = read(end, NOTE)

    assert (content.meaning, texts(content)) == ("done", {"a": "x", "b": "y"})


def test_a_rule_without_a_place_says_that_its_event_has_no_text() -> None:
    for meaning in ("done", "ignore", "error"):
        content = read({"event": "message", "means": meaning}, DELTA)

        assert (content.meaning, texts(content)) == (meaning, {})


def test_two_texts_of_a_stage_are_ambiguous() -> None:
    with pytest.raises(AmbiguousTexts):
        read(DELTA, {"stage": "a", "at": "$.all"})


def test_a_rule_that_means_ignore_keeps_a_text_from_being_read_twice() -> None:
    ignored = {"means": "ignore", "at": "$.delta"}

    assert texts(read(DELTA, ignored, {"stage": "a", "at": "$.all"})) == {"a": "x"}
    assert texts(read(DELTA, ignored, {"stage": "a", "at": "$.all"}, said={"all": "xyz"})) == {"a": "xyz"}


def test_an_error_beside_a_text_is_an_error() -> None:
    assert read(DELTA, {"at": "$.note", "means": "error"}).meaning == "error"
