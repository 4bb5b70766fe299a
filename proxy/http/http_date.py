"""The `Date` of answers (RFC 9110 6.6.1), formatted once a second."""

from email.utils import formatdate
from time import time
from typing import Final


class _Clock:
    def __init__(self) -> None:
        self._until = 0.0
        self._line = b""

    def line(self) -> bytes:
        now = time()
        if not self._until - 1 <= now < self._until:
            second = int(now)
            self._until = second + 1.0
            self._line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._line


_CLOCK: Final = _Clock()


def date_line() -> bytes:
    """A header's line with the time now."""
    return _CLOCK.line()


def http_date() -> bytes:
    """The time now, as HTTP writes it."""
    return date_line()[len(b"date: ") : -len(b"\r\n")]
