"""The framing of a request's body, chunked or by length, and its target. Pure. Ambiguity is refused.

Source: RFC 9112 sections 3.2 (target) and 6 (framing).
"""

from enum import Enum
from typing import Final

from proxy.errors import RequestRefused
from proxy.http.asgi import TARGET, Scope
from proxy.http.headers import Headers, write_fields
from proxy.http.request_rules import is_host

LOOKED_AT: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
"""Request headers that decide how a request is passed on."""


class Body(Enum):
    """The framing of a request's body, and whether the client waits for a 100."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    LENGTH_EXPECTED = "length_expected"
    CHUNKED_EXPECTED = "chunked_expected"


CHUNKED: Final = frozenset({Body.CHUNKED, Body.CHUNKED_EXPECTED})

EXPECTED: Final = frozenset({Body.LENGTH_EXPECTED, Body.CHUNKED_EXPECTED})
"""The client waits for a 100 before it sends its body."""


def check_framing(headers: Headers, version: str) -> Body:
    """The framing that the headers announce. Raises RequestRefused for a request that must not be passed
    on."""
    body = Body.NONE
    expects = False
    has_host = False
    for name, value in headers:
        if name not in LOOKED_AT:
            continue
        if name == b"host":
            has_host = True
            if not is_host(value):
                raise RequestRefused(400, "The request's Host is none.")
        elif name == b"content-length":
            body = Body.NONE if value == b"0" else Body.LENGTH
        elif name == b"expect":
            expects = value.lower() == b"100-continue" and version != "1.0"  # RFC 9110 10.1.1
        else:
            body = _coded(value, version)
    if not has_host and version != "1.0":
        raise RequestRefused(400, "The request has no Host.")
    if expects and body is not Body.NONE:
        return Body.CHUNKED_EXPECTED if body is Body.CHUNKED else Body.LENGTH_EXPECTED
    return body


def _coded(coding: bytes, version: str) -> Body:
    if version == "1.0":  # RFC 9112 6.1: its framing is faulty
        raise RequestRefused(400, "HTTP/1.0 has no Transfer-Encoding.")
    # uvicorn undoes `chunked` and nothing else, so nothing else can be passed on.
    if coding.strip().lower() != b"chunked":
        raise RequestRefused(501, "No transfer coding but 'chunked' is understood.")
    return Body.CHUNKED


def frame(body: bytes, chunked: bool, *, last: bool, trailers: Headers | None = None) -> bytes:
    """A piece of a body as bytes for the upstream. After the `last` one only `trailers` follow."""
    if not chunked:
        return body
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + last_chunk(trailers) if last else framed


def last_chunk(trailers: Headers | None) -> bytes:
    """The end of a body in chunks."""
    return b"0\r\n%b\r\n" % write_fields(trailers) if trailers else b"0\r\n\r\n"


def request_target(scope: Scope) -> bytes:
    """Path and query as the client wrote them."""
    target: bytes | None = scope.get(TARGET)
    if target is None:
        query: bytes = scope["query_string"]
        target = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
    return origin_form(target)


def origin_form(target: bytes) -> bytes:
    """A target in absolute form (RFC 9112 3.2.2) as the origin behind gets it; others as they are."""
    if target.startswith(b"/") or target == b"*":
        return target
    return b"/" + target.partition(b"://")[2].partition(b"/")[2]
