"""Answers that uvicorn cannot write: with the upstream's reason phrase, interim ones, and without an app."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.http.headers import Headers, end_to_end
from proxy.http.http_date import http_date

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def interim_answer(status: int, reason: bytes, headers: Headers) -> bytes:
    """A 1xx answer, whole."""
    lines = [name + b": " + value + b"\r\n" for name, value in end_to_end(headers)]
    return b"".join((status_line(status, reason), *lines, b"\r\n"))


def last_answer(status: int, headers: Headers, body: bytes) -> bytes:
    """A whole answer, after which the connection is closed."""
    headers = [*headers, (b"date", http_date()), (b"connection", b"close")]
    return b"".join((STATUS_LINE[status], *[b"%b: %b\r\n" % pair for pair in headers], b"\r\n", body))
