"""Rules by which a request's head can be read in one way only. Pure.

Source: RFC 9112 sections 3.2 (target and `Host`) and 6.1 (framing), RFC 3986 section 3.2 (authority).
"""

import re
from functools import lru_cache
from typing import Final

from proxy.errors import RequestRefused
from proxy.http.headers import Headers

_NAME = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+;="
"""Characters of a host that is a name or an IPv4 address; with a comma it would be a list."""

PLAIN: Final = _NAME + b":@/?%"
"""Characters of a path and its query (RFC 3986 sections 3.3, 3.4): a parser can make nothing else of them."""

_UNUSUAL_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?"
)


@lru_cache(maxsize=1024)  # a deployment has few
def is_host(value: bytes) -> bool:
    """True if a value of `Host` is one host with an optional port."""
    name, _, port = value.partition(b":")
    if name and not name.translate(None, _NAME) and (not port or port.isdigit()):
        return True
    return _UNUSUAL_HOST.fullmatch(value) is not None


def authority_of(method: bytes, target: bytes) -> bytes | None:
    """The host of a target in absolute form; None for `*`, which is for OPTIONS.

    Raises:
        RequestRefused: the target is neither. Authority form is for CONNECT, and that is for forward proxies.
    """
    if target == b"*" and method == b"OPTIONS":
        return None
    scheme, separator, rest = target.partition(b"://")
    authority = rest.partition(b"/")[0]
    if not separator or scheme.lower() not in (b"http", b"https") or not is_host(authority):
        raise RequestRefused(400, "The request's target is no path, and no URL with a host.")
    return authority


def with_path(method: bytes, target: bytes, authority: bytes) -> bytes:
    """A target in absolute form with the path that none stands for: `/`, or `*` of the whole server."""
    if not target.endswith(b"://" + authority):
        return target
    return b"*" if method == b"OPTIONS" else target + b"/"  # RFC 9112 3.2.4


def put_host(headers: Headers, authority: bytes) -> None:
    """Replace `Host` by the target's (RFC 9112 3.2.2). Two, or an invalid one, stay and are refused later."""
    indices = [index for index, pair in enumerate(headers) if pair[0] == b"host"]
    if not indices:
        headers.insert(0, (b"host", authority))
    elif len(indices) == 1 and is_host(headers[indices[0]][1]):
        headers[indices[0]] = (b"host", authority)
