"""Pages of other origins (CORS, WHATWG Fetch 3.2): adds Headgate's own headers to what the upstream allows.

Only the origins of the settings are looked at. Requests of other origins, and answers that the upstream does
not share with the page, pass as they are.
"""

from functools import partial
from typing import Final, Protocol

from proxy.downstream.client_request import ClientRequest
from proxy.http.asgi import OWN_PATH, App
from proxy.http.framing import origin_form
from proxy.http.headers import Headers

OWN_HEADERS = frozenset({b"headgate-run", b"last-event-id", b"idempotency-key"})
"""Request headers that Headgate reads, and that an upstream may not allow."""

EXPOSED = b"headgate-run, headgate-decision"
"""Response headers that a page may read."""

METHODS = b"GET, HEAD, POST, DELETE"
MAX_AGE_S = b"600"
"""Seconds for which a browser need not ask again; Chromium's own limit is two hours."""

_ASKED_METHOD: Final = b"access-control-request-method"
_ASKED_HEADERS: Final = b"access-control-request-headers"


class PublicApp(Protocol):
    """The app, as it takes requests."""

    def begin(self, request: ClientRequest) -> App | None:
        """Take a request. None: it will be answered. Else this app is to be called, and answers it."""


class CrossOrigin:
    """Stands in front of another one.

    Args:
        front: takes all requests.
        origins: their pages may read runs. Each as a browser sends it: scheme, host and port, in lower case.
    """

    def __init__(self, front: PublicApp, origins: frozenset[bytes]) -> None:
        self._front = front
        self._origins = origins

    def begin(self, request: ClientRequest) -> App | None:
        """Requests of other origins pass as they are."""
        origin = _value(request.headers, b"origin")
        if origin in self._origins and origin is not None:
            is_own = origin_form(request.target).startswith(OWN_PATH)
            if request.method != "OPTIONS" or _value(request.headers, _ASKED_METHOD) is None:
                request.edit_head = partial(_sharing, origin, is_own)
            elif is_own:
                _allow(request, origin)
                return None
            else:
                _ask_for_less(request)
        return self._front.begin(request)


def _ask_for_less(request: ClientRequest) -> None:
    """Ask the upstream without Headgate's own headers, and add them to what it allows."""
    asked = _names(_value(request.headers, _ASKED_HEADERS) or b"")
    own = [name for name in asked if name in OWN_HEADERS]
    if not own:
        return
    others = b",".join(name for name in asked if name not in OWN_HEADERS)
    request.headers = [pair for pair in request.headers if pair[0] != _ASKED_HEADERS]
    if others:
        request.headers.append((_ASKED_HEADERS, others))
    request.edit_head = partial(_allowing, own)


def _allowing(own: list[bytes], status: int, headers: Headers) -> Headers:
    """Add these names to what an answer allows, if it allows anything to this page."""
    if _is_shared(headers) and status < 300:
        return [*headers, (b"access-control-allow-headers", b", ".join(own))]
    return headers


def _sharing(origin: bytes, is_own: bool, _: int, headers: Headers) -> Headers:
    """Let the page read what Headgate itself answers: runs, and everything under `OWN_PATH`."""
    if _is_shared(headers):
        return [*headers, (b"access-control-expose-headers", EXPOSED)]
    if is_own or any(name == b"headgate-run" for name, _ in headers):
        return [*headers, *_shared_with(origin), (b"access-control-expose-headers", EXPOSED)]
    return headers


def _allow(request: ClientRequest, origin: bytes) -> None:
    """Answer a preflight for a path of Headgate's own. No header has an effect there by itself."""
    asked = _value(request.headers, _ASKED_HEADERS)
    headers = [
        *_shared_with(origin),
        (b"access-control-allow-methods", METHODS),
        *([(b"access-control-allow-headers", asked)] if asked else []),
        (b"access-control-max-age", MAX_AGE_S),
    ]
    request.answer(204, b"No Content", headers, b"", last=True)


def _shared_with(origin: bytes) -> Headers:
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"origin"),
    ]


def _is_shared(headers: Headers) -> bool:
    return any(name == b"access-control-allow-origin" for name, _ in headers)


def _names(value: bytes) -> list[bytes]:
    return [name for item in value.split(b",") if (name := item.strip().lower())]


def _value(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)
