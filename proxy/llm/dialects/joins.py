"""What the tables of all dialects share: how the pieces of a field become one. No I/O."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from proxy.llm.dialects.dialect import Unfaithful

MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""Of one stream's events. What is longer is not gathered."""

FEW_PIECES = 3
"""Of fewer, two that are alike may well be what the model said: "ha", and "ha"."""

Join = Callable[[Any, Any], Any]
"""What has come so far (None: nothing yet) and what comes now become what there is."""


class Text:
    """A string in pieces: joining it anew for each piece would cost its square."""

    __slots__ = ("pieces",)

    def __init__(self, piece: str) -> None:
        self.pieces = [piece]

    def __bool__(self) -> bool:
        return any(self.pieces)

    def __str__(self) -> str:
        return "".join(self.pieces)

    @property
    def is_certain(self) -> bool:
        """Whether its pieces follow one another. They may not: servers are known that say all of a text once
        more in the end, or all that there is so far each time.
        """
        said = [piece for piece in self.pieces if piece]
        if len(said) < FEW_PIECES:
            return True
        grows = all(len(a) < len(b) and b.startswith(a) for a, b in pairwise(said))
        return not grows and said[-1] != "".join(said[:-1])


def check_texts(texts: Iterable[Any]) -> None:
    """Raises `Unfaithful` for a text whose pieces may not be what they seem."""
    if any(isinstance(text, Text) and not text.is_certain for text in texts):
        raise Unfaithful("a text comes again, or more of it each time")


class UnsureList(list[Any]):
    """One that came more than once: nothing says whether that is more of it, or all of it so far."""


class UnsureEnd(str):
    """A reason to finish after which there was more, or another one."""

    __slots__ = ()


def last(_: Any, new: Any) -> Any:
    """Each event has the state as of then."""
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
