"""A text that viewers have already, and that is made once more: what of it is new. No I/O, no clock.

While the second text repeats the first one, nothing is new. When it comes to the first one's end, the rest is
new. When it differs, it takes the first one's place, from its beginning.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextUpdate:
    """The event that viewers need: more of the shown text, or another text in its place."""

    text: str
    replaces: bool
    """True if it takes the place of what was shown; False if it stands after that."""


class RegeneratedText:
    """One such text.

    Args:
        shown: what viewers have of it.
    """

    __slots__ = ("_at", "_shown")

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._at = 0

    @property
    def text(self) -> str:
        """The part of the text that was made once more so far."""
        return self._shown[: self._at]

    def begin_again(self) -> None:
        """Begin again: the text is made from its beginning another time."""
        self._at = 0

    def add(self, piece: str) -> TextUpdate | None:
        """The next piece of the second text; None while nothing is new. After an update it is over."""
        known = self._shown[self._at : self._at + len(piece)]
        if not piece.startswith(known):
            return TextUpdate(self.text + piece, replaces=True)
        self._at += len(known)
        rest = piece[len(known) :]
        return TextUpdate(rest, replaces=False) if rest else None
