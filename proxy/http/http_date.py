"""The `Date` of answers (RFC 9110 6.6.1), made once a second."""

from email.utils import formatdate
from time import time


class _Clock:
    def __init__(self) -> None:
        self._second = 0
        self._said = b""

    def __call__(self) -> bytes:
        now = int(time())
        if now != self._second:
            self._second, self._said = now, formatdate(now, usegmt=True).encode()
        return self._said


http_date = _Clock()
"""The time now, as HTTP writes it."""


class Dated(list[tuple[bytes, bytes]]):
    """Headers that are put to those of each answer: `Date`, unless it has one.

    The server below adds its own to an answer's with `+`, and knows nothing of what is there already.
    """

    def __add__(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        if any(name == b"date" for name, _ in headers):
            return headers
        return [*headers, (b"date", http_date())]
