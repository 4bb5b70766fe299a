"""The process's own log: one line per event, as JSON or for people. Never a body, a query or a credential.

A line has what callers pass as `extra`, the ids of the request whose work it is, and nothing else of a
request. Of an exception it has the type and the frames, but not the message, which may name a patient:
`KeyError: 'Miller'`. Messages of our own errors name no content, and are logged.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

import orjson

from proxy.errors import HeadgateError
from proxy.observe.spans.request_ids import CURRENT
from proxy.settings.settings import LogSettings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields of a line beside its message: the `extra` of its caller, and the ids of the
    request."""
    given = {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}
    request, trace_id = CURRENT.get()
    if request is not None:
        given.setdefault("request", request)
    if trace_id is not None:
        given.setdefault("trace_id", trace_id)
    return given


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = "".join(_where(record.exc_info[1]))
        return orjson.dumps(line, default=str).decode()


class ConsoleFormatter(logging.Formatter):
    """Formats a line for people to read."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        line = f"{time} {record.levelname.lower():<7} {record.getMessage()}{fields}"
        error = record.exc_info[1] if record.exc_info else None
        return line if error is None else "".join([line, "\n", *_where(error)]).rstrip()


def _where(error: BaseException) -> Iterator[str]:
    """The frames and the type of an exception, after those of its cause."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _where(cause)
        yield "After that:\n"
    yield from traceback.format_tb(error.__traceback__)
    message = f": {error}" if isinstance(error, HeadgateError) else ""
    yield f"{type(error).__qualname__}{message}\n"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _where(inner)


def set_up(settings: LogSettings) -> None:
    """Send every logger of the process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("headgate").setLevel(settings.level.upper())
    logging.getLogger("uvicorn.error").addFilter(of_use)


def of_use(record: logging.LogRecord) -> bool:
    """False for what uvicorn takes for an error: an answer that was cut, which we log with the reason, and an
    end of the time to drain at which no call is left to cancel."""
    text = record.getMessage()
    return "without completing response" not in text and not text.startswith("Cancel 0 running task")
