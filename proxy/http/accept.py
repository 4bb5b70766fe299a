"""The media types that a client accepts, and their weights (RFC 9110 12.4.2 and 12.5.1). Pure."""

import re
from collections.abc import Container

from flags.decision import Accept
from proxy.http.headers import Headers

EVENTS = b"text/event-stream"

JSON_RANGES = (b"application/json", b"application/*", b"*/*")
"""Media ranges that include JSON, the most specific first: the first that a client names counts."""

_WEIGHT = re.compile(rb"0(\.\d{0,3})?|1(\.0{0,3})?")

_DIALECT = re.compile(rb"(?:^|&)dialect=([a-z-]{1,20})(?:&|$)")

_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
"""A parameter's quoted value: it may contain commas, and names of other types."""


def accepted(headers: Headers) -> Accept:
    """Tell if a client asks for server-sent events: it names them, and gives JSON no higher weight.

    `*/*` does not name them.
    """
    weights = _weights(headers, b"accept")
    events, json = weights.get(EVENTS, 0), _weight_of_json(weights)
    if not events or events < json:
        return Accept.NONE
    return Accept.EITHER if json else Accept.ONLY_STREAM


def asked_dialect(headers: Headers, query: bytes) -> str | None:
    """Return what a client asks for as `dialect=`: the parameter of `text/event-stream`, or else of the
    query.

    None if neither is there. What it means is not checked: the query may be the API's own.
    """
    by_header = _accepted_dialect(headers)
    if by_header is not None:
        return by_header
    found = _DIALECT.search(query)
    return found[1].decode() if found else None


def without_dialect(headers: Headers, target: bytes, known: Container[str]) -> bytes:
    """A request's target without the `dialect=` of its query, if that is what it is shown in.

    Every other byte stays; and so does a value that is not known here, which may be the API's own.
    """
    path, _, query = target.partition(b"?")
    found = _DIALECT.search(query)
    if found is None or found[1].decode() not in known or _accepted_dialect(headers) is not None:
        return target
    kept = b"&".join(part for part in (query[: found.start()], query[found.end() :]) if part)
    return path + b"?" + kept if kept else path


def _accepted_dialect(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"accept" and b"dialect" in value.lower():
            for item in value.lower().split(b","):
                media_range, *parameters = (part.strip() for part in item.split(b";"))
                given = [part[8:].strip(b'"') for part in parameters if part.startswith(b"dialect=")]
                if media_range == EVENTS and given:
                    return given[0].decode("latin-1")
    return None


def takes_json(headers: Headers) -> bool:
    """True if a client can be answered in JSON; without `Accept` it takes anything."""
    return all(name != b"accept" for name, _ in headers) or _weight_of_json(_weights(headers, b"accept")) > 0


def takes_gzip(headers: Headers) -> bool:
    """True if a client says that it reads gzip, by name (RFC 9110 12.5.3)."""
    return _weights(headers, b"accept-encoding").get(b"gzip", 0) > 0


def _weight_of_json(weights: dict[bytes, float]) -> float:
    return next((weights[media_range] for media_range in JSON_RANGES if media_range in weights), 0)


def _weights(headers: Headers, field: bytes) -> dict[bytes, float]:
    """Weights by media range or coding, without parameters. Of one that is there twice, the highest weight
    counts."""
    weights: dict[bytes, float] = {}
    for name, value in headers:
        if name == field:
            for item in _QUOTED.sub(b"", value.lower()).split(b","):
                media_range, *parameters = (part.strip() for part in item.split(b";"))
                weights[media_range] = max(weights.get(media_range, 0), _weight(parameters))
    return weights


def _weight(parameters: list[bytes]) -> float:
    """The weight; 1 if it is absent or malformed."""
    given = next((parameter[2:] for parameter in parameters if parameter.startswith(b"q=")), b"1")
    return float(given) if _WEIGHT.fullmatch(given) else 1.0
