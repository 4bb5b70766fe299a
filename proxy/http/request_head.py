"""The head of a request on its way to the upstream, in one pass, if it needs no second look. Pure.

Nearly all do: looked at are the host, the length of the body, and what proxies in front say of the client.
"""

from typing import Final

from proxy.http.framing import LOOKED_AT, Body
from proxy.http.headers import (
    HARMLESS_CONNECTION,
    SECOND_LOOK,
    X_FORWARDED,
    Forwarding,
    Headers,
    added_fields,
    is_shadow,
    write_fields,
)
from proxy.http.request_rules import is_host

_NONE: Final = Body.NONE  # looked up for each request
_LENGTH: Final = Body.LENGTH
_UNDERSCORE: Final = ord("_")  # a number is found much sooner than bytes
_LOOKED_AT: Final = LOOKED_AT | SECOND_LOOK

MAX_FIELDS: Final = 100
"""Of a plain head, which is copied for each of them."""

MAX_TEMPLATES: Final = 256
"""Ends of heads that are kept: of so many clients' addresses and hosts."""

MAX_HOST_BYTES: Final = 256
"""The longest host of which one is kept."""


class HeadWriter:
    """Writes heads for one upstream.

    What Headgate adds to a head is the same for all requests of a client to a host, and is kept.
    """

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding = forwarding
        self._host = forwarding.upstream_host
        self._ends: dict[tuple[str | None, str, bytes | None], bytes] = {}

    def plain_head(
        self, method: str, target: bytes, headers: Headers, address: str | None, scheme: str
    ) -> tuple[bytes, Body] | None:
        """The head, and how the body comes: as of `check_framing`, `request_headers` and `write_head`.

        None: the request is one of those that need them. It may have to be refused.
        """
        if len(headers) > MAX_FIELDS:
            return None
        head = b"%b %b HTTP/1.1\r\n" % (method.encode(), target)
        host: bytes | None = None
        length: bytes | None = None
        earlier: Headers | None = None
        for name, value in headers:
            if name in _LOOKED_AT:
                if name == b"host" and host is None:
                    host = value  # of which it is still to be seen that it is one
                    value = self._host or value
                elif name == b"content-length" and length is None:
                    length = value
                elif name == b"connection" and value in HARMLESS_CONNECTION:
                    continue
                elif name in X_FORWARDED:
                    earlier = earlier or []
                    earlier.append((name, value))
                    continue
                else:
                    return None
            elif _UNDERSCORE in name and is_shadow(name):
                continue
            head = b"%b%b: %b\r\n" % (head, name, value)  # takes half as long as to join what is in a list
        end = self._ends.get((address, scheme, host)) if earlier is None else None
        end = end or self._end(earlier, address, scheme, host)
        if end is None:
            return None
        return head + end, _NONE if length is None or length == b"0" else _LENGTH

    def _end(
        self, earlier: Headers | None, address: str | None, scheme: str, host: bytes | None
    ) -> bytes | None:
        """What is added to a head, and its end. None: it has no host that is one."""
        if host is None or not is_host(host):
            return None
        fields = added_fields(earlier or [], self._forwarding, address, scheme, host)
        end = write_fields(fields) + b"\r\n"
        if earlier is None and len(host) <= MAX_HOST_BYTES:
            if len(self._ends) >= MAX_TEMPLATES:
                self._ends.clear()
            self._ends[address, scheme, host] = end
        return end
