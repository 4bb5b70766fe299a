"""The headers that cross the proxy, as tables with reasons. No I/O.

Source: RFC 9110 section 7.6 (forwarding) and RFC 9112 section 6 (framing).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from proxy.errors import RequestRefused
from proxy.http.tracing import without_token

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP: Final = {
    b"connection": "RFC 9110 7.6.1: for this connection only",
    b"keep-alive": "for this connection only",
    b"proxy-connection": "a mistake of old browsers, for this connection only",
    b"te": "says what this connection may carry",
    b"transfer-encoding": "framing is made anew on each side",
    b"trailer": "announces trailers, which the relay alone passes on",
    b"upgrade": "the relay does not switch protocols",
    b"http2-settings": "part of an upgrade to HTTP/2",
    b"proxy-authenticate": "between the client and this proxy",
    b"proxy-authorization": "between the client and this proxy",
}

KEPT_THOUGH_LISTED: Final = frozenset(
    {b"host", b"content-length", b"content-type", b"authorization", b"cookie"}
)
"""A client may name these in `Connection` only to have them dropped; they are end to end."""

SET_ON_THE_WAY: Final = re.compile(rb"x-forwarded-.*|forwarded|x-real-ip|via")
"""Set by proxies in front. A client cannot have them removed either."""

HARMLESS_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
"""Values of `Connection` that name no further field: by far the most common ones."""

CONDITIONS: Final = frozenset(
    {b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"}
)
"""Headers that are about the client's own request; calls that Headgate makes beside it must not carry
them."""

_MAY_DIFFER: Final = {
    "in what form the answer comes": "accept accept-encoding",
    "a reload asks for the same again": "cache-control pragma",
    "follows from the body": "content-length",
    "the way that it came": "forwarded via x-real-ip",
    "the same, by proxies": "x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto",
    "tracing": "baggage sentry-trace traceparent tracestate x-correlation-id x-request-id",
    "how urgently, and with what": "priority user-agent",
    "by what part of a page": "sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user",
}
MAY_DIFFER: Final = frozenset(name.encode() for names in _MAY_DIFFER.values() for name in names.split())
"""Request headers in which two requests for the same answer may differ. Any other header may lead to another
answer, so that the requests are not joined: asking twice is safe, showing another answer's text is not.
`Authorization` and `Cookie` are not here: beside the principal they may hold a tenant or a role."""

_NOT_IN_TRAILERS: Final = {
    "framing and routing (RFC 9110 6.5.1)": "content-length host max-forwards expect",
    "who the client is, and the way that it came": "x-real-ip forwarded via",
    "which user asks, and what a user gets": "authorization cookie set-cookie www-authenticate",
    "controls of a request": "pragma cache-control accept accept-encoding origin referer",
    "how the body is read": "content-encoding content-type content-range",
    "what becomes of an answer": "age date expires location retry-after vary warning",
    "tracing, which finds model calls": "traceparent tracestate baggage",
    "which run is asked for": "idempotency-key last-event-id",
}
NOT_IN_TRAILERS: Final = CONDITIONS.union(
    HOP_BY_HOP, *[names.encode().split() for names in _NOT_IN_TRAILERS.values()]
)
"""What a server must find before the body, and may merge into the headers if it comes behind it."""

SHADOWED: Final = {
    **HOP_BY_HOP,
    b"content-length": "framing",
    b"x-real-ip": "says who the client is, as `X-Forwarded-For` does",
}
"""Names that, beside `X-Forwarded-…`, are not passed on with an underscore in place of a hyphen."""

BODILESS_STATUS: Final = frozenset({204, 304})

_DROPPED: Final = frozenset(HOP_BY_HOP)
_NONE: Final[frozenset[bytes]] = frozenset()
_FORWARDED_FOR: Final = b"x-forwarded-for"
_FORWARDED_PROTO: Final = b"x-forwarded-proto"
_FORWARDED_HOST: Final = b"x-forwarded-host"
X_FORWARDED: Final = frozenset({_FORWARDED_FOR, _FORWARDED_PROTO, _FORWARDED_HOST})
SECOND_LOOK: Final = _DROPPED | X_FORWARDED | {b"host", b"tracestate"}
"""Request headers that are not just passed on."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Headers that tell the upstream about the client; see `ForwardingSettings`."""

    x_forwarded: Literal["append", "replace", "off"] = "append"
    forwarded: bool = False
    via: bool = False
    upstream_host: bytes | None = None
    """Sent as `Host` instead of the client's, if set."""
    kept: frozenset[bytes] = frozenset()
    """Names in lower case that `Connection` cannot remove either: they identify the user."""


def listed_in_connection(
    headers: Iterable[tuple[bytes, bytes]], kept: frozenset[bytes] = frozenset()
) -> frozenset[bytes]:
    """Lower-case names that are dropped because a `Connection` field lists them."""
    lists = [value for name, value in headers if name == b"connection" and value not in HARMLESS_CONNECTION]
    if not lists:
        return _NONE
    names = {token.strip().lower() for value in lists for token in value.split(b",")}
    return frozenset(name for name in names - KEPT_THOUGH_LISTED - kept if not SET_ON_THE_WAY.fullmatch(name))


def end_to_end(headers: Headers, kept: frozenset[bytes] = frozenset()) -> Headers:
    """`headers` without those for a single hop. Names are in lower case; order and duplicates stay.

    Names that are to be `kept` are end to end, whatever `Connection` lists.
    """
    passed = [pair for pair in headers if pair[0] not in _DROPPED]
    if len(passed) < len(headers) and (listed := listed_in_connection(headers, kept)):
        return [pair for pair in passed if pair[0] not in listed]
    return passed


def is_shadow(name: bytes) -> bool:
    """True if CGI and WSGI, which read `_` as `-`, would take a name for a proxy's header."""
    read_as = name.replace(b"_", b"-")
    return read_as != name and (read_as in SHADOWED or read_as.startswith(b"x-forwarded-"))


def request_headers(
    headers: Headers, forwarding: Forwarding, client: str | None, scheme: str, fallback_host: bytes
) -> Headers:
    """Headers for the upstream, without framing other than a `content-length` the client sent.

    Args:
        headers: as the client sent them, names in lower case.
        client: the client's address, if the transport knows it.
        scheme: `http` or `https`, as the client reached this proxy.
        fallback_host: `Host` for a client that sent none (HTTP/1.0).

    Raises:
        RequestRefused: there are two hosts to choose from (RFC 9112 3.2).
    """
    kept: Headers = []
    earlier: Headers = []
    host: bytes | None = None
    has_trace_state = False
    for pair in headers:
        name = pair[0]
        if name not in SECOND_LOOK and (b"_" not in name or not is_shadow(name)):
            kept.append(pair)
        elif name == b"host":
            if host is not None:
                raise RequestRefused(400, "The request has more than one Host.")
            host = pair[1]
            kept.append(pair)
        elif name in X_FORWARDED:
            earlier.append(pair)
        elif name == b"tracestate":
            has_trace_state = True
            kept.append(pair)
        elif name == b"connection" and pair[1] not in HARMLESS_CONNECTION:
            return request_headers(
                end_to_end(headers, forwarding.kept), forwarding, client, scheme, fallback_host
            )
    if has_trace_state:
        kept = without_token(kept)  # it would name a run, which only Headgate may
    kept = _with_host(kept, host, forwarding.upstream_host, fallback_host)
    return kept + added_fields(earlier, forwarding, client, scheme, host)


def added_fields(
    earlier: Headers, forwarding: Forwarding, client: str | None, scheme: str, host: bytes | None
) -> Headers:
    """The fields to add to a request's headers, which had these `X-Forwarded` fields."""
    fields = _x_forwarded(earlier, forwarding, client, scheme, host)
    is_announced = forwarding.forwarded or forwarding.via
    return fields + _announced(forwarding, client, scheme, host) if is_announced else fields


def _with_host(headers: Headers, host: bytes | None, chosen: bytes | None, fallback: bytes) -> Headers:
    """`headers` with the upstream's `Host` in the place of the client's."""
    if host is None:
        return [(b"host", chosen or fallback), *headers]
    if chosen is None:
        return headers
    return [(name, chosen if name == b"host" else value) for name, value in headers]


def _x_forwarded(
    earlier: Headers, forwarding: Forwarding, client: str | None, scheme: str, host: bytes | None
) -> Headers:
    """The three `X-Forwarded` fields, each as one line.

    `-For` grows by one address a hop. `-Proto` and `-Host` describe the first hop, so an existing one
    stays.
    """
    if forwarding.x_forwarded == "off":
        return earlier
    if not earlier or forwarding.x_forwarded == "replace":
        fields = [(_FORWARDED_PROTO, scheme.encode())]
        if client is not None:
            fields.insert(0, (_FORWARDED_FOR, client.encode()))
        if host is not None:
            fields.append((_FORWARDED_HOST, host))
        return fields
    hops = [value for name, value in earlier if name == _FORWARDED_FOR]
    protocols = [value for name, value in earlier if name == _FORWARDED_PROTO] or [scheme.encode()]
    hosts = [value for name, value in earlier if name == _FORWARDED_HOST] or ([host] if host else [])
    if client is not None:
        hops.append(client.encode())
    appended = ((_FORWARDED_FOR, hops), (_FORWARDED_PROTO, protocols), (_FORWARDED_HOST, hosts))
    return [(name, b", ".join(values)) for name, values in appended if values]


def _announced(forwarding: Forwarding, client: str | None, scheme: str, host: bytes | None) -> Headers:
    """`Forwarded` and `Via`, where they are asked for."""
    fields: Headers = []
    if forwarding.forwarded:
        fields.append((b"forwarded", _forwarded_element(client, scheme, host)))
    if forwarding.via:
        fields.append((b"via", b"1.1 headgate"))
    return fields


def _forwarded_element(client: str | None, scheme: str, host: bytes | None) -> bytes:
    """One element of `Forwarded` (RFC 7239); an IPv6 address is quoted and bracketed."""
    node = "unknown" if client is None else f'"[{client}]"' if ":" in client else client
    parts = [b"for=" + node.encode(), b"proto=" + scheme.encode()]
    if host is not None:
        parts.insert(1, b'host="' + host.replace(b"\\", b"").replace(b'"', b"") + b'"')
    return b";".join(parts)


def response_headers(headers: Headers, status: int, *, in_chunks: bool = False) -> Headers:
    """The upstream's headers, as they came, without those for a single hop. `in_chunks`: trailers may follow
    the body, if it came in chunks.

    A 204 or 304 carries no body, so its `Content-Length`, which RFC 9110 8.6 forbids or makes optional, is
    left out: uvicorn would wait for the bytes it announces.
    """
    kept = end_to_end(headers)
    if status in BODILESS_STATUS:
        kept = [pair for pair in kept if pair[0] != b"content-length"]
    elif in_chunks and any(name == b"transfer-encoding" for name, _ in headers):
        kept += announced_trailers(headers)
    return kept


def announced_trailers(headers: Headers) -> Headers:
    """The `Trailer` fields that pass on with a body in chunks."""
    fields = [pair for pair in headers if pair[0] == b"trailer"]
    return [] if fields and b"trailer" in listed_in_connection(headers) else fields


def accepts_trailers(headers: Headers) -> bool:
    """True if `TE` says so; all else of it is about this connection alone (RFC 9110 10.1.4)."""
    tokens = [token for name, value in headers if name == b"te" for token in value.split(b",")]
    return any(token.partition(b";")[0].strip().lower() == b"trailers" for token in tokens)


def passed_trailers(trailers: Headers, headers: Headers, own: frozenset[bytes] = frozenset()) -> Headers:
    """The trailers that pass on.

    Args:
        trailers: as they came, names in lower case.
        headers: of the same message; what its `Connection` lists is for this connection.
        own: further names that must stand before the body.
    """
    not_passed = NOT_IN_TRAILERS | own | listed_in_connection(headers)
    passed: Headers = []
    for name, value in trailers:
        read_as = name.replace(b"_", b"-")  # by CGI and WSGI
        if read_as not in not_passed and not read_as.startswith((b"x-forwarded-", b"headgate-")):
            passed.append((name, value))
    return passed


def is_json(headers: Headers) -> bool:
    """True if the content type is JSON."""
    for name, value in headers:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            return media_type == b"application/json" or media_type.endswith(b"+json")
    return False


def head_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The size of header lines."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


def write_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """The bytes of a request's head. Names and values were parsed strictly, so they hold no CR or LF."""
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, write_fields(headers))


def write_fields(headers: Headers) -> bytes:
    """The lines of headers."""
    parts: list[bytes] = []
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def announces_no_body(status: int, headers: Headers) -> bool:
    """True if an answer without a body is whole: its status or its length says so."""
    return status in BODILESS_STATUS or (b"content-length", b"0") in headers
