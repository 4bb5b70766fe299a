"""The process's own log: one line an event, JSON or for people. Never a body, a query or a credential.

What may be in a line is what callers pass as `extra`; nothing is taken from a request by itself. Of an
exception it is what it is and where: what it says may be of a patient, as in `KeyError: 'Miller'`. Our own
errors name no content, and say what they say.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

import orjson

from proxy.errors import HeadgateError
from proxy.settings.settings import LogSettings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = "".join(_where(record.exc_info[1]))
        return orjson.dumps(line, default=str).decode()


class ConsoleFormatter(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():<7} {record.getMessage()}{fields}"
        error = record.exc_info[1] if record.exc_info else None
        return line if error is None else "".join([line, "\n", *_where(error)]).rstrip()


def _where(error: BaseException) -> Iterator[str]:
    """The frames and the kind of an exception, after those of the one that it came of."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _where(cause)
        yield "After that:\n"
    yield from traceback.format_tb(error.__traceback__)
    said = f": {error}" if isinstance(error, HeadgateError) else ""
    yield f"{type(error).__qualname__}{said}\n"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _where(inner)


def set_up(settings: LogSettings) -> None:
    """Send every logger of the process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("headgate").setLevel(settings.level.upper())
    # uvicorn says at `error` what is ours to tell: that an answer was cut because the upstream's was.
    logging.getLogger("uvicorn.error").addFilter(_not_about_cut_answers)


def _not_about_cut_answers(record: logging.LogRecord) -> bool:
    return "without completing response" not in record.getMessage()
