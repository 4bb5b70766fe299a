"""Events that are the one before them but for a text, as most of a stream's are. No I/O.

Such an event says nothing new but its text, so that it need not be read and joined as others are. It is known
by its characters: up to the text, and behind it, they are those of the event before, and what stands between
is one string of JSON. In all else its JSON then has the same values in the same places.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.assembly.json_values import parsed

PROBE: Final = "is it here?"
"""Stands for an event's text once, to see that the text has one place in the event's JSON."""

PROBE_OF_PADDING: Final = "or is it here?"
"""The same of its padding."""

MAX_PAUSE: Final = 64
"""After events that no other one repeated, the most that are not looked at."""


class Growth(NamedTuple):
    """The text of an event that, if it came again with another text, would add that text and nothing else."""

    path: Sequence[str | int]
    """The place of the text in the event."""
    pieces: list[str]
    """Where the text has gone, and that of an event that repeats this one goes."""
    is_shown: bool
    padding: Sequence[str | int] = ()
    """The place of a string of letters and digits that says nothing, and may change; () if there is none."""


class RepeatedEvents:
    """The last event of a stream, if others may repeat it. It is told of each event, in order."""

    __slots__ = (
        "_between",
        "_end",
        "_head",
        "_is_shown",
        "_least",
        "_pause",
        "_pieces",
        "_start",
        "_tail",
        "_waits",
    )

    def __init__(self) -> None:
        self._least = 0
        """Characters of the last event without its text and padding; 0 if no event may repeat it."""
        self._pause = 1
        self._waits = 0
        """Events that are not looked at."""

    def take(self, data: str) -> str | None:
        """Take an event that repeats the last one; the text of it that is shown.

        None: it does not repeat it. Then it is to be read, and `look_at` is told.
        """
        if not self._least:
            return None
        text = self._text(data)
        if not text:
            self._least = 0
            return None
        self._pieces.append(text)
        self._pause, self._waits = 1, 0
        return text if self._is_shown else ""

    def _text(self, data: str) -> str:
        """The text of an event that repeats the last one; "" if it has none, or does not."""
        if len(data) <= self._least or not (data.startswith(self._head) and data.endswith(self._tail)):
            return ""
        end = self._end
        if self._between:
            end = data.rfind(self._between, self._start, end)
            if end < 0 or not data[end + len(self._between) : self._end].isalnum():
                return ""
        text = data[self._start : end]
        if text.isprintable() and '"' not in text and "\\" not in text:
            return text  # as JSON has it
        try:
            found = from_json(f'"{text}"', cache_strings="none")
        except ValueError:
            return ""  # it is more than one string, or half a character
        return found if isinstance(found, str) else ""

    def look_at(self, data: str, growth: Callable[[Any], Growth | None]) -> None:
        """The next event may repeat this one, which has been read and joined.

        Args:
            growth: of the event's JSON; None if it may not be repeated.
        """
        if self._waits:
            self._waits -= 1
            return
        self._waits, self._pause = self._pause - 1, min(2 * self._pause, MAX_PAUSE)
        event = parsed(data)
        grows = growth(event)
        if grows is None or PROBE in data:
            return
        head, tail = _around(_at(event, grows.path), grows.path[-1], data)
        between, padding = "", PROBE_OF_PADDING if grows.padding else ""
        if grows.padding:
            between, tail = _around(_at(event, grows.padding), grows.padding[-1], tail)
        with suppress(Unfaithful):
            probed = parsed(f"{head}{PROBE}{between}{padding}{tail}")
            if _at(probed, grows.path) == PROBE and (not padding or _at(probed, grows.padding) == padding):
                self._head, self._between, self._tail = head, between, tail
                self._start, self._end = len(head), -len(tail)
                self._least = len(head) + len(between) + len(tail)
                self._pieces, self._is_shown = grows.pieces, grows.is_shown


def _around(text: Any, name: str | int, data: str) -> tuple[str, str]:
    """What may stand before and behind a text that is the value of a name; "" where it is not found."""
    for colon in (":", ": "):
        before, found, behind = data.partition(f'"{name}"{colon}"{text}"')
        if found:
            return f'{before}"{name}"{colon}"', f'"{behind}'
    return "", ""


def _at(value: Any, path: Sequence[str | int]) -> Any:
    """What a value has at a place; None: it has no such place."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value
