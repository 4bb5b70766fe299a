"""The last warnings of this process's log, for the operators' page. No I/O.

A line of the log has nothing of a user, and here there is less of it: of an exception its type alone.
"""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from proxy.observe.logs import fields_of

MOST_LINES = 50
MAX_CHARS = 500
"""Of one message or field."""

MOST_FIELDS = 12


class RecentWarnings(logging.Handler):
    """Keeps the last `MOST_LINES` warnings and errors, as a handler of the root logger.

    `with` adds it to the root logger, and takes it away again.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: deque[dict[str, Any]] = deque(maxlen=MOST_LINES)
        self.seen = 0
        """Warnings since the process began."""

    def __enter__(self) -> "RecentWarnings":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += 1
        raised = record.exc_info[0] if record.exc_info else None
        said = {name: _short(value) for name, value in list(fields_of(record).items())[:MOST_FIELDS]}
        if raised is not None:
            said["exception"] = raised.__qualname__
        self._lines.append(
            {
                "at": round(record.created, 3),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _short(record.getMessage()),
                "fields": said,
            }
        )

    def lines(self) -> Sequence[dict[str, Any]]:
        """The oldest first."""
        return list(self._lines)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…"
