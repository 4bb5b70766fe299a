"""JSON templates: references in strings, filled in or refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.text.templates import MissingValue, fill, fill_known, references, strays

VALUES = {
    "one": {"text": "a {{ two $.x }} b", "n": 3, "f": 0.5, "ok": True, "none": None, "rows": [1, {"k": "v"}]},
    "path": {"case_id": "7"},
    "said": "a text",
    "json": '{"a": 1}',
}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("plain", "plain"),
        ("{{ one $.n }}", 3),
        ("{{one $.rows}}", [1, {"k": "v"}]),
        ("{{ one $.none }}", None),
        ("{{ one $ }}", VALUES["one"]),
        ("{{ said $ }}", "a text"),
        ("{{ json $ }}", '{"a": 1}'),
        ("n={{ one $.n }}, {{ one $.f }} of {{ path $.case_id }}", "n=3, 0.5 of 7"),
        ("{{ one $.ok }}/{{ one $.none }}/{{ one $.rows }}", 'true/null/[1,{"k":"v"}]'),
        ({"a": ["{{ one $.n }}", {"b": "{{ path $.case_id }}"}], "c": 1}, {"a": [3, {"b": "7"}], "c": 1}),
        ("{{ one $.rows[?@.k == 'v'].k }}", "v"),
        ("{ one $.n }", "{ one $.n }"),
    ],
)
def test_references_are_replaced_by_what_they_refer_to(template: Any, filled: Any) -> None:
    """A string that is one reference takes on the value's type; within a longer one it is text, or JSON."""
    assert fill(template, VALUES) == filled


def test_filled_text_is_not_filled_again() -> None:
    """A model's text is data: a reference in it stays as it is."""
    assert fill("{{ one $.text }}", VALUES) == "a {{ two $.x }} b"
    assert fill("<{{ one $.text }}>", VALUES) == "<a {{ two $.x }} b>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ two $.x }}",
        "{{ one $.y }}",
        "{{ one $.rows[*] }}",
        "{{ said $.a }}",
        "{{ json $.a }}",
        ["{{ one $.rows[9] }}"],
        {"a": "x {{ path $.other }}"},
    ],
)
def test_a_reference_to_nothing_or_to_many_is_missing(template: Any) -> None:
    """Nothing there, more than one, or a text taken for JSON: refused rather than guessed."""
    with pytest.raises(MissingValue):
        fill(template, VALUES)


def test_what_is_known_can_be_filled_before_the_rest() -> None:
    """Members that refer to something missing are left out; places in a list become null."""
    template = {
        "a": "{{ one $.n }}",
        "b": "{{ two $ }}",
        "c": ["{{ two $ }}", "{{ one $.n }}"],
        "d": {"e": "{{ x $ }}"},
    }

    assert fill_known(template, VALUES) == {"a": 3, "c": [None, 3], "d": {}}
    assert fill_known("{{ two $ }}", VALUES) is None


def test_references_and_slips_are_found() -> None:
    """All references wherever they stand, and every `{{` that is none."""
    template = {"a": ["{{ one $.x }} {{two $.y[0]}}"], "b": {"c": "{{ one }}"}, "d": "{{ one.$x }}", "e": 5}

    assert list(references(template)) == [("one", "$.x"), ("two", "$.y[0]")]
    assert list(strays(template)) == ["{{ one }}", "{{ one.$x }}"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_value_goes_through_whole(value: Any) -> None:
    """A stage's answer is handed on as it is, whatever it is."""
    assert fill("{{ one $ }}", {"one": value}) == value
    assert fill({"x": ["{{ one $.v }}"]}, {"one": {"v": value}}) == {"x": [value]}
