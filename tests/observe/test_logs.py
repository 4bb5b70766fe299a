"""The process's own log: a line an event, and nothing that was not put there on purpose."""

import json
import logging
import re
from collections.abc import Iterator

import pytest

from proxy.errors import UpstreamMalformed
from proxy.observe.logs import ConsoleFormatter, JsonFormatter, set_up
from proxy.settings.settings import LogSettings


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, ours, uvicorns = (logging.getLogger(name) for name in ("", "headgate", "uvicorn.error"))
    before = (root.handlers[:], root.level, ours.level, uvicorns.filters[:])
    yield
    root.handlers[:], uvicorns.filters[:] = before[0], before[3]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def record(message: str = "request", **extra: object) -> logging.LogRecord:
    made = logging.getLogger("headgate.test").makeRecord(
        "headgate.test", logging.INFO, "file.py", 1, message, (), None, "function", extra
    )
    made.created = 0.5
    return made


def test_a_line_is_one_json_object() -> None:
    """Time, level, logger, message and what was given; what is None is left out."""
    line = JsonFormatter().format(record(route="start", status=None, took_ms=1.5, text="a\nb"))

    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "logger": "headgate.test",
        "message": "request",
        "route": "start",
        "took_ms": 1.5,
        "text": "a\nb",
    }


def test_a_line_for_people_has_the_same() -> None:
    """Short, with the fields behind the message."""
    line = ConsoleFormatter().format(record(route="start", status=None))
    assert re.fullmatch(r"\d\d:\d\d:00\.500 info    request route=start", line)


PATIENT = "Miller"


def decodes() -> None:
    try:
        {"known": 1}[PATIENT]
    except KeyError as exc:
        raise UpstreamMalformed("line 3 is no JSON") from exc


def handled() -> None:
    try:
        decodes()
    except UpstreamMalformed:
        raise ExceptionGroup(PATIENT, [TypeError(PATIENT)])  # noqa: B904  # as a task group does


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()])
def test_an_exception_stands_in_its_line_without_what_it_says(formatter: logging.Formatter) -> None:
    """The line has each exception's class and place; a message may be of a patient, except our own."""
    made = record()
    try:
        handled()
    except ExceptionGroup as exc:
        made.exc_info = (type(exc), exc, exc.__traceback__)

    line = formatter.format(made)

    for words in ("KeyError", "UpstreamMalformed: line 3", "ExceptionGroup", "TypeError", "in decodes"):
        assert words in line
    assert PATIENT not in line


def test_the_level_is_ours_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """`level` is for Headgate's loggers; libraries, which log URLs, stay at warnings."""
    set_up(LogSettings(format="json", level="debug"))
    logging.getLogger("headgate.x").debug("ours")
    logging.getLogger("httpx").info("GET http://127.0.0.1/?q=secret")
    logging.getLogger("httpx").warning("theirs")
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing response.")
    logging.getLogger("uvicorn.error").error("Cancel %s running task(s), timeout graceful …", 0)
    logging.getLogger("uvicorn.error").error("Cancel %s running task(s), timeout graceful …", 10)
    logging.getLogger("uvicorn.error").error("other")
    set_up(LogSettings(format="json", level="warning"))
    logging.getLogger("headgate.x").info("not said")

    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["ours", "theirs", "Cancel 10 running task(s), timeout graceful …", "other"]
