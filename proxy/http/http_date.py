"""The `Date` of answers (RFC 9110 6.6.1), formatted once a second."""

from email.utils import formatdate
from time import time


class _Clock:
    def __init__(self) -> None:
        self._second = 0
        self._formatted = b""

    def __call__(self) -> bytes:
        now = int(time())
        if now != self._second:
            self._second, self._formatted = now, formatdate(now, usegmt=True).encode()
        return self._formatted


http_date = _Clock()
"""The time now, as HTTP writes it."""


class Dated(list[tuple[bytes, bytes]]):
    """uvicorn's default headers of an answer: `Date`, unless the answer has one.

    uvicorn joins them to the answer's own with `+`, and would repeat what is there already.
    """

    def __add__(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        if any(name == b"date" for name, _ in headers):
            return headers
        return [*headers, (b"date", http_date())]
