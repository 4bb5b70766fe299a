"""The last warnings of this process's log, for the operators' page.

A line of the log has nothing of a user, and here there is less of it: of an exception its type alone.
"""

import logging
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from proxy.observe.logs import fields_of

MOST_LINES = 50
MAX_CHARS = 500
"""Of one message or field."""

MOST_FIELDS = 12


class RecentWarnings(logging.Handler):
    """Keeps the last `MOST_LINES` warnings and errors, as a handler of a logger, by default of the root.

    `with` adds it to the logger, and takes it away again.
    """

    def __init__(self, logger: str | None = None) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger(logger)
        self._lines: deque[dict[str, Any]] = deque(maxlen=MOST_LINES)
        self.seen = 0
        """Warnings since the process began."""

    def __enter__(self) -> "RecentWarnings":
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._logger.removeHandler(self)

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


class ParentWarnings(RecentWarnings):
    """Those of the process that serves nothing itself, such as `worker died`, in a file that the others show.

    Not of the root logger, which is set up anew with a reload. Processes that are forked inherit the handler,
    and leave the file as it is.

    Args:
        path: the file, which is written with each line.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("headgate")
        self._path = path
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._process:
            return
        super().emit(record)
        kept = {"process": self._process, "seen_warnings": self.seen, "warnings": self.lines()}
        draft = self._path.with_suffix(".draft")
        with suppress(OSError):  # a full disk costs the page these lines; the log has them
            self._path.parent.mkdir(exist_ok=True)
            draft.write_bytes(orjson.dumps(kept))
            draft.replace(self._path)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…"
