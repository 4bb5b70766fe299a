"""What the tables of all dialects share: how the pieces of a field become one. No I/O."""

from collections.abc import Callable
from typing import Any

from proxy.llm.dialect import Unfaithful

MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""Of one stream's events. What is longer is not gathered."""

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
