"""What the controller leaves in its strategy's title: which rollout wrote it, and how it stands. Pure.

Whoever has lost the journal finds it there, and so does a second controller with a journal of its own. The
title that people gave it stands before.
"""

import re
from dataclasses import dataclass

from flags.rollout.flag_admin import Strategy

_MARK = re.compile(r"\s*\[headgate (r[0-9]+) of ([0-9a-f]{8}): ([^\[\]]*)\]\s*$")


@dataclass(frozen=True, slots=True)
class Mark:
    """Of a rollout."""

    run: str
    home: str
    """Of the journal."""
    said: str

    @classmethod
    def on(cls, title: str | None) -> "Mark | None":
        found = _MARK.search(title or "")
        return None if found is None else cls(*found.groups())

    def put_on(self, title: str | None) -> str:
        """The title with this mark, and without the one before."""
        theirs = _MARK.sub("", title or "").strip()
        return f"{theirs} [headgate {self.run} of {self.home}: {self.said}]".strip()

    def __str__(self) -> str:
        return f"rollout {self.run} of the journal {self.home} ({self.said})"


def is_written(asked: Strategy, found: Strategy) -> bool:
    """Whether there is nothing to write: the same users are enabled, and the mark is the same."""
    return asked.digest == found.digest and Mark.on(asked.title) in (None, Mark.on(found.title))
