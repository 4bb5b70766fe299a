"""The content of the kill switch's file: who turned it on, when and why. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

MAX_CHARS = 1024
"""Of a reason; of a name there are fewer."""

MAX_NAME_CHARS = 128

BY = "by: "


@dataclass(frozen=True, slots=True)
class KillOrder:
    """An order to stop streaming. Parts that nobody gave are ""."""

    reason: str
    by: str
    at_s: float
    """Unix time."""

    @classmethod
    def given(cls, reason: str, by: str, at_s: float) -> "KillOrder":
        """Of what somebody sent: on one line, and no longer than it may be."""
        return cls(_line(reason)[:MAX_CHARS], _line(by)[:MAX_NAME_CHARS], at_s)

    @classmethod
    def read(cls, text: str, at_s: float) -> "KillOrder":
        """Of the file's text. Somebody may have written it by hand: the first line is the reason."""
        first, *others = text.splitlines() or [""]
        by = next((line.removeprefix(BY) for line in others if line.startswith(BY)), "")
        return cls.given(first, by, at_s)

    def written(self) -> str:
        """The file's text."""
        return f"{self.reason}\n{BY}{self.by}\n"

    def shown(self) -> dict[str, str]:
        """Return the fields for log lines and `/readyz`."""
        at = datetime.fromtimestamp(self.at_s, UTC).isoformat(timespec="seconds")
        return {"reason": self.reason, "by": self.by, "at": at}


def _line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
