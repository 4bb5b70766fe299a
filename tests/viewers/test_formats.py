"""A run in the formats of other streams: pure, event by event."""

import json
from typing import Any

import pytest

from proxy.text.events import Event, EventType
from proxy.text.sse import Decoder
from proxy.viewers.formats import FORMATS
from tests.golden import OURS


def said(kind: str, *events: Event) -> list[Any]:
    """The data of each block, as JSON where it is."""
    words = FORMATS[kind]("run", "start", 1)
    wire = b"".join(words.render(event) for event in events)
    data = [block.data for block in Decoder(max_event_bytes=1 << 24).feed(wire)]
    return [json.loads(one) if one != "[DONE]" else one for one in data]


def ends_well(kind: str, blocks: list[Any]) -> bool:
    last = blocks[-1] if blocks else None
    return last == "[DONE]" if kind != "ag-ui" else last["type"] == "RUN_FINISHED"


def fails(kind: str, block: Any) -> bool:
    if not isinstance(block, dict):
        return False
    return "error" in block if kind == "openai" else block["type"] in ("error", "RUN_ERROR", "abort")


def text_of(kind: str, blocks: list[Any]) -> str:
    if kind != "openai":
        return "".join(block.get("delta", "") for block in blocks if isinstance(block, dict))
    deltas = [block["choices"][0]["delta"] for block in blocks if "choices" in block]
    return "".join(delta.get("content", "") + delta.get("reasoning_content", "") for delta in deltas)


def chunk(content: str, stage: str = "a", panel: str = "chat") -> Event:
    return Event(EventType.CONTENT_CHUNK, panel, stage, content, {"chunk_index": 0})


def replace(content: str) -> Event:
    return Event(EventType.CONTENT_REPLACE, "chat", "a", content, {"sha256": ""})


DONE = Event(EventType.STREAM_DONE, "", "", "", {"status": 200})


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", OURS)
def test_only_a_whole_answer_ends_well(kind: str, name: str) -> None:
    """A run that failed, or that takes back a text, ends as an error, with nothing behind it."""
    blocks = said(kind, *OURS[name])
    is_whole = OURS[name][-1].type is EventType.STREAM_DONE and name != "repaired"

    assert ends_well(kind, blocks) == is_whole
    assert fails(kind, blocks[-1]) == (not is_whole)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_text_that_goes_on_in_the_answer_grows(kind: str) -> None:
    """Only what is new of it is told."""
    blocks = said(
        kind, chunk("Fe"), chunk("ver"), replace("Fever 🫁 and more"), replace("Fever 🫁 and more"), DONE
    )

    assert text_of(kind, blocks) == "Fever 🫁 and more"
    assert ends_well(kind, blocks)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("other", ["Fevers", "Fe", "", "Cough"])
def test_a_text_that_cannot_be_taken_back_ends_in_an_error(kind: str, other: str) -> None:
    """Nothing comes after it, and least of all a good end."""
    blocks = said(kind, chunk("Feverx"), replace(other), chunk("more"), DONE)

    assert text_of(kind, blocks) == "Feverx"
    assert fails(kind, blocks[-1]) and not ends_well(kind, blocks)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_run_that_is_told_as_it_stands_begins_with_what_was_corrected(kind: str) -> None:
    """Viewers that come when the answer is known get no text that the answer does not have."""
    blocks = said(kind, replace("Cough"), DONE)

    assert text_of(kind, blocks) == "Cough" and ends_well(kind, blocks)


def test_stages_of_a_chat_completion_are_apart() -> None:
    """By a blank line, within each of its two texts."""
    blocks = said("openai", chunk("a"), chunk("r", "r", "reasoning"), chunk("b", "b"), DONE)
    deltas = [block["choices"][0]["delta"] for block in blocks[:-1]]

    assert "".join(delta.get("content", "") for delta in deltas) == "a\n\nb"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "r"


@pytest.mark.parametrize("kind", FORMATS)
def test_no_character_ends_a_line(kind: str) -> None:
    """Some clients take more characters for a line's end than there are."""
    wire = FORMATS[kind]("run", "start", 1).render(chunk("a\u2028b\u2029c\u0085d\r\ne"))

    assert [line for line in wire.decode().splitlines() if line and not line.startswith("data: {")] == []
