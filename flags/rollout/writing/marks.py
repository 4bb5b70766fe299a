"""The mark in the title of the strategy: which rollout wrote it, and its standing then. Pure.

It shows that a journal was lost, or that a second controller has another journal. The title that people gave
the strategy comes before it.
"""

import re
from dataclasses import dataclass, replace

from flags.rollout.writing.flag_admin import Strategy

_MARK = re.compile(r"\s*\[headgate (r[0-9]+) of ([0-9a-f]{8}): ([^\[\]]*)\]\s*$")


@dataclass(frozen=True, slots=True)
class FlagMark:
    """The mark of one rollout."""

    run: str
    home: str
    """The journal's name."""
    standing: str

    @classmethod
    def on(cls, title: str | None) -> "FlagMark | None":
        found = _MARK.search(title or "")
        return None if found is None else cls(*found.groups())

    def is_newer_than(self, run: str) -> bool:
        """True if a journal whose newest rollout is `run` is older than this mark."""
        return int(self.run.removeprefix("r")) > int(run.removeprefix("r"))

    def put_on(self, title: str | None) -> str:
        """The title with this mark, and without the one before."""
        theirs = _MARK.sub("", title or "").strip()
        return f"{theirs} [headgate {self.run} of {self.home}: {self.standing}]".strip()

    def __str__(self) -> str:
        return f"rollout {self.run} of the journal {self.home} ({self.standing})"


def brought_down(title: str | None) -> str | None:
    """The title of a strategy that a person has set to 0 %."""
    mark = FlagMark.on(title)
    return title if mark is None else replace(mark, standing="0 %, by a person").put_on(title)


def is_written(asked: Strategy, found: Strategy) -> bool:
    """True if `asked` is there already: the same users are enabled, by the same rollout."""
    return asked.digest == found.digest and _whose(asked.title) in (None, _whose(found.title))


def _whose(title: str | None) -> tuple[str, str] | None:
    mark = FlagMark.on(title)
    return None if mark is None else (mark.run, mark.home)
