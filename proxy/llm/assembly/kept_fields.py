"""Fields that no table names, and which of them do not cost the stream. No I/O.

One rule for all dialects. An unknown field at the top level of an event, or beside a choice, is kept as it
came if it comes in one event only, or with the same value in every event. One that grows or changes makes the
stream unfaithful: nothing says how its pieces join. So does any unknown field inside of what the answer is
made of, the delta beside the content for one.
"""

import re
from collections.abc import Iterator
from typing import Any

from proxy.llm.assembly.dialect import Unfaithful

MAX_FIELDS = 32
"""Unknown fields of one place in a stream."""

NAME = re.compile("[A-Za-z_][A-Za-z0-9_.-]{0,47}")
"""A field's name that may be shown to operators: a name could be anything that the provider sends."""


class KeptFields:
    """The unknown fields of one place in a stream: its top level, or one choice.

    Args:
        place: what their names are shown with, for example `choices[].`.
    """

    __slots__ = ("_place", "_times", "_values", "events")

    def __init__(self, place: str = "") -> None:
        self._place = place
        self._values: dict[str, Any] = {}
        self._times: dict[str, int] = {}
        self.events = 0
        """How many events had the place, with anything of the answer in it. Those that repeat one with no
        unknown field are not counted: such a one is, and more of them say no more."""

    def take(self, name: str, value: Any) -> None:
        """Take a field of an event.

        Raises:
            Unfaithful: the field came before with another value, or there are too many of them.
        """
        if value is None:
            self._values.setdefault(name, None)
            return
        before = self._values.get(name)
        try:
            if before is not None and before != value:
                raise Unfaithful("a field that is not known changes")
        except RecursionError:
            raise Unfaithful("an event is too deep") from None
        if name not in self._values and len(self._values) >= MAX_FIELDS:
            raise Unfaithful("there are too many fields that are not known")
        self._values[name] = value
        self._times[name] = self._times.get(name, 0) + 1

    def values(self) -> dict[str, Any]:
        """The fields as the batch answer has them.

        Raises:
            Unfaithful: one came in several events, and not in all.
        """
        if any(1 < times < self.events for times in self._times.values()):
            raise Unfaithful("a field that is not known comes again, and not always")
        return self._values

    def names(self) -> Iterator[str]:
        """The names of the fields that had a value."""
        for name in self._times:
            yield self._place + (name if NAME.fullmatch(name) else "(a name of another kind)")
