"""The functions that join the pieces of a field, for the tables of all dialects. No I/O."""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.assembly.json_values import as_list, as_object, as_text
from proxy.llm.assembly.kept_fields import KeptFields

MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""The most bytes of one stream's events. A longer stream is unfaithful."""

FEW_PIECES = 3
"""With fewer pieces, two equal ones may well be the model's text: "ha", and "ha"."""

LONG_CHARS = 16
"""The length from which an equal piece is no continuation of the one before it."""

Join = Callable[[Any, Any], Any]
"""A function of the value so far (None: nothing yet) and a new piece; it returns the two joined."""


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
        """True if the pieces follow one another. Some servers repeat the whole text at the end, or send all
        of the text so far each time.
        """
        pieces = [piece for piece in self.pieces if piece]
        if len(pieces) < FEW_PIECES and (len(pieces) < 2 or len(pieces[0]) < LONG_CHARS):
            return True
        states = [pieces[0], *(b for a, b in pairwise(pieces) if a != b)]
        if len(states) == 1:
            return len(pieces[0]) < LONG_CHARS
        grows = all(len(a) < len(b) and b.startswith(a) for a, b in pairwise(states))
        return not grows and pieces[-1] != "".join(pieces[:-1])


def check_texts(found: Iterable[Any]) -> None:
    """Raises `Unfaithful` for a text, at any depth, whose pieces may not follow one another."""
    for value in found:
        if isinstance(value, Text) and not value.is_certain:
            raise Unfaithful("a text comes again, or more of it each time")
        if isinstance(value, dict):
            check_texts(value.values())
        elif isinstance(value, list):
            check_texts(value)


class AmbiguousList(list[Any]):
    """A list that came more than once: nothing says whether as more items, or as all items so far."""


class AmbiguousFinish(str):
    """A reason to finish after which more content came, or another reason."""

    __slots__ = ()


def last(_: Any, new: Any) -> Any:
    """Each event has the current state."""
    return new


def first(so_far: Any, new: Any) -> Any:
    """The same value in every chunk; empty in Azure's chunk about the prompt."""
    return so_far or new


def same(so_far: Any, new: Any) -> Any:
    """The same value in every chunk, or empty. Another value belongs to something else with the same
    index."""
    if so_far and new and so_far != new:
        raise Unfaithful("a field comes again, and differs")
    return so_far or new


def whole(so_far: Any, new: Any) -> Any:
    """A string in one piece. A second piece may be more of it or a repetition: nothing says which."""
    if so_far and new:
        raise Unfaithful("a name comes again")
    return so_far or as_text(new)


def once(so_far: Any, new: Any) -> Any:
    """A list that comes in one chunk."""
    if so_far and as_list(new):
        return AmbiguousList([*so_far, *new])
    return so_far or as_list(new)


def reason(so_far: Any, new: Any) -> str | None:
    """A reason to finish; some servers send "" until there is one. A second, different reason is
    ambiguous."""
    if so_far and so_far != new:
        return AmbiguousFinish(as_text(new) or so_far)
    return so_far or as_text(new) or None


def text(so_far: Text | None, new: Any) -> Text:
    piece = as_text(new)
    if so_far is None:
        return Text(piece)
    so_far.pieces.append(piece)
    return so_far


def items(so_far: list[Any] | None, new: Any) -> list[Any]:
    """Items of a list, some in each chunk. A chunk that begins with all earlier items is ambiguous."""
    so_far = [] if so_far is None else so_far
    comes_again = so_far and as_list(new)[: len(so_far)] == so_far
    so_far.extend(as_list(new))
    return AmbiguousList(so_far) if comes_again else so_far


def fields(table: Mapping[str, Join]) -> Join:
    """Joins objects, field by field, as a table says."""

    def join(so_far: dict[str, Any] | None, new: Any) -> dict[str, Any]:
        return joined(table, {} if so_far is None else so_far, new)

    return join


def joined(
    table: Mapping[str, Join], so_far: dict[str, Any], new: Any, unknown: KeptFields | None = None
) -> dict[str, Any]:
    """`so_far` with a chunk's fields joined to it.

    Args:
        unknown: takes the fields that the table does not name. None: there may be none.

    Raises:
        Unfaithful: the table does not name one of the fields.
    """
    for name, value in as_object(new).items():
        if value is not None and (join := table.get(name)) is not None:
            so_far[name] = join(so_far.get(name), value)
        elif unknown is not None and name not in table:
            unknown.take(name, value)
        elif value is None:
            so_far.setdefault(name, None)
        else:
            raise Unfaithful("a chunk has a field that is not known")
    return so_far


def numbered(table: Mapping[str, Join], bound: int) -> Join:
    """Joins objects by their `index`, which is taken out of them."""

    def join(so_far: dict[int, Any] | None, new: Any) -> dict[int, Any]:
        by_index = {} if so_far is None else so_far
        for item in as_list(new):
            rest = dict(as_object(item))
            index = rest.pop("index", None)
            if type(index) is not int or not 0 <= index < bound:
                raise Unfaithful("an index is none")
            joined(table, by_index.setdefault(index, {}), rest)
        return by_index

    return join
