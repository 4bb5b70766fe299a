"""READ THIS FIRST: one request's whole path, one raw ASGI app.

    match route ─► identify ─► decide ─┬─► relay: bytes through, untouched
                                       └─► run: source ─► events ─► log ─► viewer

A request that matches no route pays for a dictionary look-up and goes on to the relay.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from time import perf_counter

from flags.decision import Accept, Decision, FlagState, Mode, Question, decide
from proxy.errors import RequestRefused, problem
from proxy.headers import Forwarding, Headers, end_to_end, request_headers
from proxy.identity import Identifier, Identity
from proxy.metrics import Metrics, RouteMetrics
from proxy.relay import (
    Outcome,
    Passage,
    Receive,
    Relay,
    Scope,
    Send,
    check_framing,
    request_target,
    send_problem,
)
from proxy.routes import Match, Routes
from proxy.run import Call, Run
from proxy.runs import Runs
from proxy.sources import Source
from proxy.upstream import Request
from proxy.viewer import Viewer

logger = logging.getLogger("headgate.gateway")

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Body of a request that becomes a run; it is held until the run ends."""

OWN_PATH = b"/_headgate/"

_CURSOR = re.compile(r"([!-~]{1,64}):([0-9]{1,9})")
"""An event's id, as `EventLog` makes them. `int` refuses what has some thousand digits."""

_NOT_ACCEPTED = re.compile(rb"q=0(\.0{0,3})?")
"""RFC 9110 12.4.2: a weight of 0 is "not acceptable"."""

NOT_FOR_THE_UPSTREAM = frozenset(
    {
        b"accept",  # the upstream answers in JSON, whatever the viewer reads
        b"accept-encoding",  # its text is read here, so it is asked for as it is
        b"content-length",  # made anew from the body
        b"last-event-id",
        b"transfer-encoding",
        b"expect",
    }
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request of a route, and all that is known of it before the decision."""

    match: Match
    target: bytes
    scope: Scope
    identity: Identity | None
    accept: Accept


@dataclass(frozen=True, slots=True)
class Gateway:
    """The public app."""

    routes: Routes
    identifier: Identifier
    flags: FlagState
    relay: Relay
    runs: Runs
    sources: Mapping[tuple[str, str], Source]
    """By route and source name."""
    metrics: Metrics
    forwarding: Forwarding
    authority: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entered = perf_counter()
        target = request_target(scope)
        match = self.routes.match(scope["method"], target)
        headers: Headers = scope["headers"]
        if match is not None and not (match.by_stream_path and not _from_an_eventsource(headers)):
            accept = Accept.ONLY_STREAM if match.by_stream_path else accepted(headers)
            asked = _Asked(match, target, scope, self.identifier.identify(headers), accept)
            await self._serve(asked, entered, receive, send)
        elif target.startswith(OWN_PATH):
            await send_problem(send, 404, "There is nothing of Headgate's at this path.")
        else:
            passage = await self.relay(scope, receive, send)
            counted = self.metrics.unmatched
            counted.requests.inc()
            counted.seconds.observe(perf_counter() - entered)
            counted.overhead.observe(passage.overhead_s)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("relayed", extra={"outcome": passage.outcome, "status": passage.status})

    async def _serve(self, asked: "_Asked", entered: float, receive: Receive, send: Send) -> None:
        """A request of a route: decide, then relay or run."""
        route = asked.match.route
        counted = self.metrics.by_route[route.name]
        if asked.identity is None:
            self.metrics.flag_context_missing.inc()
        decision = self._decide(asked)
        status: int | None = None
        if decision.mode is Mode.BATCH and asked.accept is not Accept.ONLY_STREAM:
            passage = await self.relay(asked.scope, receive, send)
            counted.overhead.observe(passage.overhead_s)
            self._count_batch(counted, decision, asked.identity, passage)
            ended, status = str(passage.outcome), passage.status
        else:
            ended = await self._stream(asked, decision, receive, send)
        took_s = perf_counter() - entered
        counted.requests[decision.mode, decision.reason].inc()
        counted.seconds[decision.mode].observe(took_s)
        logger.info(
            "request",
            extra={
                "route": route.name,
                "mode": decision.mode,
                "reason": decision.reason,
                "source": decision.source,
                "variant": decision.variant or None,
                "ended": ended,
                "status": status,
                "took_ms": round(took_s * 1000, 1),
            },
        )

    def _decide(self, asked: "_Asked") -> Decision:
        settings = asked.match.route.settings
        question = Question(
            flag=settings.flag,
            source=settings.source,
            sources=settings.sources,
            context=None if asked.identity is None else asked.identity.context(settings.name),
            accept=asked.accept,
        )
        decision = decide(question, self.flags)
        # Whoever is decided to get batch gets the upstream's own call and nothing beside it.
        return replace(decision, source="batch") if decision.mode is Mode.BATCH else decision

    async def _stream(self, asked: "_Asked", decision: Decision, receive: Receive, send: Send) -> str:
        """Start a run, or join or resume one, and show it."""
        after = 0
        cursor = last_event(asked.scope["headers"]) if asked.match.by_stream_path else None
        try:
            if cursor is None:
                run = await self._started(asked, decision, receive)
            else:
                run, after = self._resumed(cursor, asked)
        except RequestRefused as refusal:
            await _refuse(send, refusal)
            return "refused"
        if after and run.ended and after >= len(run.log):
            # It has everything: 204 tells EventSource not to come back (WHATWG HTML 9.2.3).
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return "nothing_more"
        viewer = Viewer(run, self.metrics.by_route[asked.match.route.name], receive, send)
        return await viewer.serve(after=after, takes_json=asked.accept is Accept.EITHER)

    def _resumed(self, cursor: str, asked: "_Asked") -> tuple[Run, int]:
        """The run that `Last-Event-ID` names. Never starts one: a reconnect must not repeat the work."""
        found = _CURSOR.fullmatch(cursor)
        run = self.runs.find(found[1], asked.identity) if found else None
        if found is None or run is None or not _is_of(run, asked) or int(found[2]) > len(run.log):
            raise RequestRefused(404, "There is no such run, or it is no longer kept. Please ask again.")
        return run, int(found[2])

    async def _started(self, asked: "_Asked", decision: Decision, receive: Receive) -> Run:
        match, target, body = asked.match, asked.target, b""
        route = match.route
        check_framing(asked.scope["headers"], asked.scope["http_version"])
        if match.by_stream_path:
            target = _post_target(asked)
        else:
            body = await collect(receive)
        request = Request(route.method, target, self._headers(asked.scope), body)
        call = Call(route, dict(match.parameters), request)
        if match.by_stream_path and asked.identity is not None:
            live = self.runs.live_one(call, asked.identity)
            if live is not None:
                return live
        source = self.sources[route.name, decision.source]
        return self.runs.start(call, decision, asked.identity, self.metrics.by_route[route.name], source)

    def _headers(self, scope: Scope) -> Headers:
        """The client's headers for the upstream, as far as they are about the request and not the stream."""
        client = scope.get("client")
        headers = request_headers(
            end_to_end(scope["headers"]),
            self.forwarding,
            client[0] if client else None,
            scope["scheme"],
            self.authority,
        )
        kept = [pair for pair in headers if pair[0] not in NOT_FOR_THE_UPSTREAM]
        # Without the second, any coding would be welcome (RFC 9110 12.5.3).
        kept += [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
        return kept

    def _count_batch(
        self, counted: RouteMetrics, decision: Decision, identity: Identity | None, passage: Passage
    ) -> None:
        """Batch answers count beside the streamed ones: they are what those are compared with."""
        if identity is None or passage.outcome is Outcome.REFUSED:
            return
        outcome = str(passage.outcome)
        if passage.outcome is Outcome.COMPLETE and passage.status >= 500:
            outcome = "failed"
        counted.outcomes[decision.arm.value, str(identity.bucket), outcome].inc()


def _from_an_eventsource(headers: Headers) -> bool:
    """Whether a GET may start the work of a POST: it asks for a stream by name, and not from another site.

    An image, a link or a prefetch must not, least of all with the user's cookies. It is relayed.
    """
    cross_site = any(name == b"sec-fetch-site" and value == b"cross-site" for name, value in headers)
    return accepted(headers) is not Accept.NONE and not cross_site


def _is_of(run: Run, asked: _Asked) -> bool:
    """Whether a run is this request's: one case's text must not answer for another's, nor one query's."""
    return run.call.route is asked.match.route and run.call.request.target == _post_target(asked)


def _post_target(asked: _Asked) -> bytes:
    """The POST's target that a `stream_path` stands for: its own path, the GET's query."""
    _, question_mark, query = asked.target.partition(b"?")
    path = asked.match.route.path.fill(asked.match.parameters)
    return path.encode("latin-1") + question_mark + query


async def _refuse(send: Send, refusal: RequestRefused) -> None:
    headers, body = problem(refusal.status, HTTPStatus(refusal.status).phrase, refusal.detail)
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def collect(receive: Receive) -> bytes:
    """A whole request body, within its bound."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestRefused(400, "The request's body did not arrive whole.")
        size += len(message["body"])
        if size > MAX_REQUEST_BYTES:
            raise RequestRefused(413, f"A request that is streamed may have {MAX_REQUEST_BYTES} bytes.")
        parts.append(message["body"])
        if not message.get("more_body", False):
            return b"".join(parts)


def last_event(headers: Headers) -> str | None:
    """The cursor of a reconnecting EventSource."""
    return next((value.decode("latin-1") for name, value in headers if name == b"last-event-id"), None)


def accepted(headers: Headers) -> Accept:
    """Whether a client asks for server-sent events, by name: `*/*` does not count as asking."""
    stream = json = False
    for name, value in headers:
        if name != b"accept":
            continue
        for item in value.lower().split(b","):
            media_range, *parameters = (part.strip() for part in item.split(b";"))
            if any(_NOT_ACCEPTED.fullmatch(parameter) for parameter in parameters):
                continue
            stream = stream or media_range == b"text/event-stream"
            json = json or media_range in {b"application/json", b"application/*", b"*/*"}
    if not stream:
        return Accept.NONE
    return Accept.EITHER if json else Accept.ONLY_STREAM
