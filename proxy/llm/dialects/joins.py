"""What the tables of all dialects share: how the pieces of a field are joined. No I/O."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from proxy.llm.dialects.dialect import Unfaithful

MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""Of one stream's events. A longer stream is unfaithful."""

FEW_PIECES = 3
"""With fewer pieces, two equal ones may well be the model's text: "ha", and "ha"."""

Join = Callable[[Any, Any], Any]
"""From the value so far (None: nothing yet) and a new piece to the value with the piece."""


class Text:
    """A string in pieces: joining them anew for each piece would cost O(n^2)."""

    __slots__ = ("pieces",)

    def __init__(self, piece: str) -> None:
        self.pieces = [piece]

    def __bool__(self) -> bool:
        return any(self.pieces)

    def __str__(self) -> str:
        return "".join(self.pieces)

    @property
    def is_certain(self) -> bool:
        """Whether the pieces follow one another. Some servers repeat the whole text at the end, or send all
        of the text so far each time.
        """
        pieces = [piece for piece in self.pieces if piece]
        if len(pieces) < FEW_PIECES:
            return True
        grows = all(len(a) < len(b) and b.startswith(a) for a, b in pairwise(pieces))
        return not grows and pieces[-1] != "".join(pieces[:-1])


def check_texts(texts: Iterable[Any]) -> None:
    """Raises `Unfaithful` for a text whose pieces may not follow one another."""
    if any(isinstance(text, Text) and not text.is_certain for text in texts):
        raise Unfaithful("a text comes again, or more of it each time")


class AmbiguousList(list[Any]):
    """A list that came more than once: nothing says whether as more items, or as all items so far."""


class AmbiguousFinish(str):
    """A reason to finish after which more content came, or another reason."""

    __slots__ = ()


def last(_: Any, new: Any) -> Any:
    """Each event has the current state."""
    return new


def as_object(value: Any) -> dict[str, Any]:
    """Raises `Unfaithful` for anything else."""
    if not isinstance(value, dict):
        raise Unfaithful("an object is none")
    return value


def as_list(value: Any) -> list[Any]:
    """Raises `Unfaithful` for anything else."""
    if not isinstance(value, list):
        raise Unfaithful("a list is none")
    return value


def as_text(value: Any) -> str:
    """Raises `Unfaithful` for anything else."""
    if not isinstance(value, str):
        raise Unfaithful("a text is no string")
    return value
