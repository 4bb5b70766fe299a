"""Strings of a JSON document that is still being written: their growth, unescaped."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.llm.taps.growing_string import BETWEEN, MAX_CHARS, READ_EACH, GrowingString
from proxy.text.sections import compile_path


def grown(document: str, *at: str, size: int = 1) -> list[str]:
    """Return what is shown of a document that comes in pieces."""
    string = GrowingString([compile_path(path) for path in at or ("$.summary",)])
    pieces = [string.add(document[begin : begin + size]) for begin in range(0, len(document), size)]
    return [*pieces, string.rest()]


@settings(deadline=None)
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
    assert "".join(grown(f"\n```json\n{document}\n```\nDone.", size=size)) == text


def test_json_in_a_fence_is_shown_as_it_grows() -> None:
    """As many models write it; a backtick of the text is one."""
    pieces = grown('```json\n{"summary": "a `b`\\n```c"}\n```', size=3)

    assert "".join(pieces) == "a `b`\n```c"
    assert len([piece for piece in pieces if piece]) > 3


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
        pytest.param('Here:\n```json\n{"summary": "a"}', "$.summary", "", id="JSON after other words"),
        pytest.param(' \n {"summary": "a"}', "$.summary", "a", id="blanks before it"),
        pytest.param('{"summary": "ab", "summary": "c"}', "$.summary", "ab", id="a name that comes twice"),
        pytest.param('["a", 0, "b"]', "$[*]", "a", id="a second match that is none"),
        pytest.param("[" * 5000, "$.summary", "", id="too deep"),
    ],
)
def test_what_is_not_certain_is_not_shown(document: str, at: str, shown: str) -> None:
    assert "".join(grown(document, at)) == shown


def test_a_long_document_is_read_less_often_and_up_to_a_bound() -> None:
    """The work stays linear in the document, and the string's end comes with the rest."""
    string = GrowingString([compile_path("$.s")])
    string.add('{"s": "' + "a" * 100 * READ_EACH)

    assert [string.add("b") for _ in range(102)].count("") > 90
    assert string.rest() != ""
    string.add("c" * MAX_CHARS)
    assert (string.add("d"), string.rest()) == ("", "")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None)
@given(data=st.data(), size=st.integers(1, 9), escaped=st.booleans())
def test_several_are_shown_in_the_order_of_the_list(data: st.DataObject, size: int, *, escaped: bool) -> None:
    """The order in the document, cuts, and missing or null members make no difference."""
    names = data.draw(st.permutations(["a", "b", "c", "d"]))
    document = {name: data.draw(st.none() | TEXTS, name) for name in names if data.draw(st.booleans(), name)}
    at = data.draw(st.permutations(["a", "b", "c"]))

    pieces = grown(json.dumps(document, ensure_ascii=escaped), *(f"$.{name}" for name in at), size=size)

    assert "".join(pieces) == BETWEEN.join(text for name in at if (text := document.get(name)))


def test_what_comes_first_in_the_list_is_not_held_up() -> None:
    """A later string waits for the end of an earlier one, and then grows at once."""
    pieces = grown('{"b": "two", "a": "one", "c": "six"}', "$.a", "$.b", "$.c")

    assert [piece for piece in pieces if piece] == [
        *"one",
        f"{BETWEEN}two",
        f"{BETWEEN}s",
        *"ix",
    ]


@pytest.mark.parametrize(
    ("document", "at", "shown"),
    [
        pytest.param('{"p": ["x", "", "yz"], "s": "w"}', ["$.p[*]", "$.s"], ["x", "yz", "w"], id="a list"),
        pytest.param('{"p": [], "s": "w"}', ["$.p[*]", "$.s"], ["w"], id="an empty list"),
        pytest.param('{"p": [{"t": "x"}, {"t": "y"}]}', ["$.p[*].t"], ["x", "y"], id="in objects of a list"),
        pytest.param('["a", "b"]', ["$[1]", "$[0]"], ["b", "a"], id="items of a list"),
        pytest.param('{"s": "w"}', ["$.title", "$.s"], ["w"], id="the first is not there"),
        pytest.param('{"a": "x", "b": 7, "c": "y"}', ["$.a", "$.b", "$.c"], ["x"], id="one is no string"),
        pytest.param('{"a": "x"}', ["$.a", "$.a"], ["x", "x"], id="one path twice"),
        pytest.param("I would say: no.", ["$.a", "$.b"], [], id="no JSON"),
    ],
)
def test_several_of_which_some_are_special(document: str, at: list[str], shown: list[str]) -> None:
    for size in (1, 2, 7, 100):
        assert "".join(grown(document, *at, size=size)) == BETWEEN.join(shown)


def test_a_name_that_comes_twice_changes_nothing_that_was_shown() -> None:
    assert "".join(grown('{"a": "x", "b": "y", "a": "z"}', "$.a", "$.b")) == BETWEEN.join("xy")


def test_the_second_grows_while_the_first_is_a_list() -> None:
    """The end of a list shows by what comes after it."""
    pieces = grown('{"points": ["x", "y"], "summary": "abcdef"}', "$.points[*]", "$.summary", size=2)

    assert len([piece for piece in pieces if piece]) > 4
