"""What the controller leaves in its strategy's title: which rollout wrote it, and how it stands. Pure.

Whoever has lost the journal finds it there, and so does a second controller with a journal of its own. The
title that people gave it stands before.
"""

import re
from dataclasses import dataclass, replace

from flags.rollout.writing.flag_admin import Strategy

_MARK = re.compile(r"\s*\[headgate (r[0-9]+) of ([0-9a-f]{8}): ([^\[\]]*)\]\s*$")


@dataclass(frozen=True, slots=True)
class FlagMark:
    """Of a rollout."""

    run: str
    home: str
    """Of the journal."""
    said: str

    @classmethod
    def on(cls, title: str | None) -> "FlagMark | None":
        found = _MARK.search(title or "")
        return None if found is None else cls(*found.groups())

    def put_on(self, title: str | None) -> str:
        """The title with this mark, and without the one before."""
        theirs = _MARK.sub("", title or "").strip()
        return f"{theirs} [headgate {self.run} of {self.home}: {self.said}]".strip()

    def __str__(self) -> str:
        return f"rollout {self.run} of the journal {self.home} ({self.said})"


def brought_down(title: str | None) -> str | None:
    """The title at 0 %, as a person has brought it there."""
    mark = FlagMark.on(title)
    return title if mark is None else replace(mark, said="0 %, by a person").put_on(title)


def is_written(asked: Strategy, found: Strategy) -> bool:
    """Whether there is nothing to write: the same users are enabled, by the same rollout."""
    return asked.digest == found.digest and _whose(asked.title) in (None, _whose(found.title))


def _whose(title: str | None) -> tuple[str, str] | None:
    mark = FlagMark.on(title)
    return None if mark is None else (mark.run, mark.home)
