"""Pages of other origins (CORS, WHATWG Fetch 3.2): adds Headgate's own headers to what the upstream allows.

Only the origins of the settings are looked at. Requests of other origins, and answers that the upstream does
not share with the page, pass as they are.
"""

from collections.abc import Awaitable, Callable

from proxy.downstream.client_request import ClientRequest
from proxy.http.asgi import ANSWER, OWN_PATH, Message, Receive, Scope, Send
from proxy.http.framing import request_target
from proxy.http.headers import Headers

OWN_HEADERS = frozenset({b"headgate-run", b"last-event-id", b"idempotency-key"})
"""Request headers that Headgate reads, and that an upstream may not allow."""

EXPOSED = b"headgate-run, headgate-decision"
"""Response headers that a page may read."""

METHODS = b"GET, HEAD, POST, DELETE"
MAX_AGE_S = b"600"
"""Seconds for which a browser need not ask again; Chromium's own limit is two hours."""

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class CrossOrigin:
    """A raw ASGI app in front of another one.

    Args:
        app: answers all requests.
        origins: their pages may read runs. Each as a browser sends it: scheme, host and port, in lower case.
    """

    def __init__(self, app: App, origins: frozenset[bytes]) -> None:
        self._app = app
        self._origins = origins
        self._front: Callable[[ClientRequest], bool] | None = getattr(app, "begin", None)

    def begin(self, request: ClientRequest) -> bool:
        """Requests of other origins pass as they are."""
        origin = _value(request.headers, b"origin")
        return origin not in self._origins and self._front is not None and self._front(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _value(scope["headers"], b"origin")
        if origin not in self._origins or origin is None:
            await self._app(scope, receive, send)
            return
        is_own = request_target(scope).startswith(OWN_PATH)
        if scope["method"] != "OPTIONS" or _value(scope["headers"], b"access-control-request-method") is None:
            await self._app(_in_messages(scope), receive, _sharing(send, origin, is_own))
        elif is_own:
            await _allow(scope, origin, send)
        else:
            await self._preflight(scope, receive, send)

    async def _preflight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the upstream without Headgate's own headers, and add them to what it allows."""
        asked = _names(_value(scope["headers"], b"access-control-request-headers") or b"")
        own = [name for name in asked if name in OWN_HEADERS]
        if not own:
            await self._app(scope, receive, send)
            return
        others = b",".join(name for name in asked if name not in OWN_HEADERS)
        headers = [pair for pair in scope["headers"] if pair[0] != b"access-control-request-headers"]
        if others:
            headers.append((b"access-control-request-headers", others))
        await self._app(_in_messages({**scope, "headers": headers}), receive, _allowing(send, own))


def _allowing(send: Send, own: list[bytes]) -> Send:
    """Add these names to what an answer allows, if it allows anything to this page."""

    async def allowing(message: Message) -> None:
        if message["type"] == "http.response.start" and _is_shared(message) and message["status"] < 300:
            message["headers"] = [*message["headers"], (b"access-control-allow-headers", b", ".join(own))]
        await send(message)

    return allowing


def _sharing(send: Send, origin: bytes, is_own: bool) -> Send:
    """Let the page read what Headgate itself answers: runs, and everything under `OWN_PATH`."""

    async def sharing(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Headers = list(message["headers"])
            is_run = any(name == b"headgate-run" for name, _ in headers)
            if _is_shared(message):
                headers.append((b"access-control-expose-headers", EXPOSED))
            elif is_own or is_run:
                headers += _shared_with(origin)
                headers.append((b"access-control-expose-headers", EXPOSED))
            message["headers"] = headers
        await send(message)

    return sharing


async def _allow(scope: Scope, origin: bytes, send: Send) -> None:
    """Answer a preflight for a path of Headgate's own. No header has an effect there by itself."""
    asked = _value(scope["headers"], b"access-control-request-headers")
    headers = [
        *_shared_with(origin),
        (b"access-control-allow-methods", METHODS),
        *([(b"access-control-allow-headers", asked)] if asked else []),
        (b"access-control-max-age", MAX_AGE_S),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _shared_with(origin: bytes) -> Headers:
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"origin"),
    ]


def _is_shared(message: Message) -> bool:
    return any(name == b"access-control-allow-origin" for name, _ in message["headers"])


def _in_messages(scope: Scope) -> Scope:
    """The scope of a request whose answer must come in messages, so that its head is seen."""
    return {key: value for key, value in scope.items() if key != ANSWER}


def _names(value: bytes) -> list[bytes]:
    return [name for item in value.split(b",") if (name := item.strip().lower())]


def _value(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)
