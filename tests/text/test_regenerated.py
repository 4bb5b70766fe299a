"""A text that is made once more: whatever it is and however it is cut, what is on the screen becomes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.text.regenerated import RegeneratedText, TextUpdate

SHORT = st.text("ab", max_size=6)


def told(shown: str, pieces: list[str]) -> tuple[str, list[TextUpdate]]:
    """Return what is on the screen after these pieces, and what was said."""
    retold, screen, said = RegeneratedText(shown), shown, []
    for piece in pieces:
        if said:  # it is over
            screen += piece
        elif (found := retold.add(piece)) is not None:
            said.append(found)
            screen = found.text if found.replaces else screen + found.text
    return screen, said


@given(SHORT, st.lists(SHORT, max_size=5))
def test_the_screen_becomes_the_second_text(shown: str, pieces: list[str]) -> None:
    """Or stays the first one, while the second is its beginning; replaced only where they differ."""
    second = "".join(pieces)
    screen, said = told(shown, pieces)

    if shown.startswith(second):
        assert (screen, said) == (shown, [])
    else:
        assert screen == second
        assert said[0].replaces == (not second.startswith(shown))


def test_it_may_begin_once_more() -> None:
    """An attempt that failed leaves nothing."""
    retold = RegeneratedText("one two")
    assert retold.add("one ") is None
    assert retold.text == "one "
    retold.begin_again()
    assert retold.text == ""
    assert retold.add("one two three") == TextUpdate(" three", replaces=False)


@pytest.mark.parametrize("piece", ["", "one"])
def test_what_is_known_says_nothing(piece: str) -> None:
    """A piece that is the beginning of what was shown."""
    assert RegeneratedText("one two").add(piece) is None
