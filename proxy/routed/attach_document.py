"""The answer to `attach.js`: the routes whose live text it may show its caller, and where.

Users of another arm, and callers who are nobody in particular, get a document without routes, which their
browser keeps for a short time: that is all that the script costs them.
"""

from http import HTTPStatus
from typing import Any

import orjson

from flags.decision import Accept, FlagState, Mode, Question, decide
from proxy.errors import RequestRefused
from proxy.http.asgi import Scope, Send
from proxy.http.headers import Headers
from proxy.identity import Identifier, Identity
from proxy.routed.decider import MADE_HERE
from proxy.settings.blocks.identity import IdentitySettings
from proxy.settings.routes import Route, Routes
from proxy.viewers.api import refuse

PATH = b"/_headgate/attach.json"

METHODS = ("GET", "HEAD")

KEPT_S = 60
"""Seconds for which a browser keeps the document."""

CREDENTIALS = frozenset({b"authorization", b"cookie"})


class AttachDocument:
    """`GET /_headgate/attach.json`."""

    def __init__(
        self, routes: Routes, identity: IdentitySettings, identifier: Identifier, flags: FlagState
    ) -> None:
        self._routes = [
            (route, _described(route)) for route in routes.all if route.settings.attach is not None
        ]
        self._identifier = identifier
        self._flags = flags
        # A header of a proxy in front says who asks, and the browser's cache does not see it.
        self._is_told = bool(identity.set_by_proxies)

    def shows(self, identity: Identity | None) -> bool:
        """True if any route would show this caller live text. A caller who is not known yet counts as one."""
        if identity is None:
            return bool(self._routes) and not (self._flags.killed or self._flags.stale)
        return any(self._streams(route, identity) for route, _ in self._routes)

    async def answer(self, scope: Scope, send: Send) -> None:
        """Answer a request for the document."""
        if scope["method"] not in METHODS:
            allowed = ", ".join(METHODS)
            await refuse(send, RequestRefused(405, f"Here is only {allowed}."), (b"allow", allowed.encode()))
            return
        headers: Headers = scope["headers"]
        identity = self._identifier.identify(headers)
        routes = [
            described
            for route, described in self._routes
            if identity is not None and self._streams(route, identity)
        ]
        body = orjson.dumps({"routes": routes})
        answer: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", self._caching(identity, headers)),
            (b"vary", b"authorization, cookie"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": answer})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _caching(self, identity: Identity | None, headers: Headers) -> bytes:
        """A credential that identifies nobody may do so in a moment, when the issuer's keys are here."""
        is_unsure = identity is None and any(name in CREDENTIALS for name, _ in headers)
        return b"no-store" if self._is_told or is_unsure else b"private, max-age=%d" % KEPT_S

    def _streams(self, route: Route, identity: Identity) -> bool:
        settings = route.settings
        question = Question(
            flag=settings.flag,
            source=settings.source,
            sources=settings.sources,
            context=identity.context(settings.name),
            accept=Accept.EITHER,
        )
        decision = decide(question, self._flags)
        # A page that never asks for events gets the upstream's own bytes, or there is no run.
        return decision.mode is Mode.STREAM and decision.source not in MADE_HERE


def _described(route: Route) -> dict[str, Any]:
    attach = route.settings.attach
    assert attach is not None, "only such routes are described"
    return {
        "name": route.name,
        "method": route.method,
        "path": route.path.text,
        **attach.model_dump(exclude_none=True),
    }
