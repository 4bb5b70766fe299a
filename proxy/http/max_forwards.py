"""`Max-Forwards` of TRACE and OPTIONS: how many hops a request may still go (RFC 9110 7.6.2). Pure."""

from proxy.http.headers import Headers

LIMITED = frozenset({"TRACE", "OPTIONS"})
"""Methods for which it counts; in other requests it has no meaning."""

_MAX_DIGITS = 9

ECHOED = frozenset({b"host", b"max-forwards", b"user-agent", b"via"})
"""Request headers that an answer to TRACE repeats. None of them can identify the user."""


def hops_left(headers: Headers) -> int | None:
    """Return the number of hops that are left; None if `Max-Forwards` is missing or malformed."""
    values = [value for name, value in headers if name == b"max-forwards"]
    if len(values) != 1 or not values[0].isdigit() or len(values[0]) > _MAX_DIGITS:
        return None
    return int(values[0])


def one_hop_less(headers: Headers) -> Headers:
    """Headers for the next hop."""
    left = hops_left(headers)
    if not left:
        return headers
    less = (b"max-forwards", b"%d" % (left - 1))
    return [less if pair[0] == b"max-forwards" else pair for pair in headers]


def last_hop(method: str, target: bytes, headers: Headers) -> tuple[Headers, bytes]:
    """Headers and body of the answer to a request that may go no further; TRACE gets itself back."""
    if method != "TRACE":
        return [(b"content-length", b"0")], b""
    kept = [name + b": " + value + b"\r\n" for name, value in headers if name in ECHOED]
    body = b"TRACE %b HTTP/1.1\r\n%b\r\n" % (target, b"".join(kept))
    return [(b"content-type", b"message/http"), (b"content-length", b"%d" % len(body))], body
