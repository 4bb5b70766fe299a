"""A string of a JSON document that is still being written: its growth, unescaped."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.llm.growing_string import MAX_CHARS, READ_EACH, GrowingString
from proxy.text.sections import compile_path


def grown(document: str, at: str = "$.summary", size: int = 1) -> list[str]:
    """What is shown of a document that comes in pieces."""
    string = GrowingString(compile_path(at))
    pieces = [string.add(document[begin : begin + size]) for begin in range(0, len(document), size)]
    return [*pieces, string.rest()]


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    before=st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=5) | st.integers() | st.none()),
    size=st.integers(1, 9),
    escaped=st.booleans(),
)
def test_however_it_is_cut_the_string_is_shown_whole(
    text: str, before: dict[str, Any], size: int, *, escaped: bool
) -> None:
    document = json.dumps(before | {"summary": text, "after": "no"}, ensure_ascii=escaped)

    assert "".join(grown(document, size=size)) == text


def test_it_is_shown_as_it_grows() -> None:
    """An escape that is not whole yet waits for its end."""
    pieces = grown(r'{"summary": "a\n\ud83d\ude00b', size=4)

    assert [piece for piece in pieces if piece] == ["a\n", "😀", "b"]


@pytest.mark.parametrize(
    ("document", "at", "shown"),
    [
        pytest.param('{"a": {"b": ["x", "yz"]}}', "$.a.b[1]", "yz", id="deep"),
        pytest.param('{"summary": 7}', "$.summary", "", id="another type"),
        pytest.param('{"other": "a"}', "$.summary", "", id="not there"),
        pytest.param("I would say: no.", "$.summary", "", id="no JSON"),
        pytest.param('```json\n{"summary": "a"}', "$.summary", "", id="JSON in a fence"),
        pytest.param(' \n {"summary": "a"}', "$.summary", "a", id="blanks before it"),
        pytest.param('{"summary": "ab", "summary": "c"}', "$.summary", "ab", id="a name that comes twice"),
        pytest.param('["a", "b"]', "$[*]", "a", id="a second match"),
        pytest.param("[" * 5000, "$.summary", "", id="too deep"),
    ],
)
def test_what_is_not_certain_is_not_shown(document: str, at: str, shown: str) -> None:
    assert "".join(grown(document, at)) == shown


def test_a_long_document_is_read_less_often_and_up_to_a_bound() -> None:
    """The work stays linear in the document, and the string's end comes with the rest."""
    string = GrowingString(compile_path("$.s"))
    string.add('{"s": "' + "a" * 100 * READ_EACH)

    assert [string.add("b") for _ in range(102)].count("") > 90
    assert string.rest() != ""
    string.add("c" * MAX_CHARS)
    assert (string.add("d"), string.rest()) == ("", "")
