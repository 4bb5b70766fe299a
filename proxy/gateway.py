"""READ THIS FIRST: one request's whole path.

    match route ─► identify ─► decide ─┬─► batch: is relayed, untouched, or joins a run
                                       └─► stream: source ─► events ─► log ─► viewer

All is decided here without waiting, so that what is relayed is no ASGI call. A request that matches no route
pays for a dictionary look-up and goes on to the relay.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Final, NamedTuple

from flags.decision import Accept, Decision, Mode
from proxy.downstream.bodies import ByteBudget
from proxy.downstream.client_request import ClientRequest
from proxy.errors import RequestRefused
from proxy.http.asgi import OWN_PATH, App, Receive, Scope, Send
from proxy.http.framing import origin_form
from proxy.http.headers import Headers
from proxy.http.upgrade import SWITCHING_PROTOCOLS
from proxy.identity import Identifier
from proxy.observe.metrics import Metrics
from proxy.observe.spans.ports import REQUEST, Front, exemplar
from proxy.observe.spans.request_ids import CURRENT, SentHead, with_request, work_of
from proxy.observe.unmatched import UnmatchedMetrics
from proxy.relay.outcomes import COMPARED
from proxy.relay.relay import Relay
from proxy.relay.result import Outcome, RelayResult
from proxy.routed.attach_document import PATH as ATTACH_PATH
from proxy.routed.attach_document import AttachDocument
from proxy.routed.attached_pages import AttachedPages
from proxy.routed.batch_path import BatchPath
from proxy.routed.decider import Decider
from proxy.routed.request import RouteRequest, may_start, owner_of
from proxy.routed.stream_path import StreamPath
from proxy.settings.routes import Match, Routes
from proxy.viewers.api import RunApi, refuse

logger: Final = logging.getLogger("headgate.gateway")

_OWN: Final = OWN_PATH
_OWN_BYTES: Final = len(OWN_PATH)
_SHUTDOWN: Final = Outcome.SHUTDOWN  # looked up for each request, as are these
_now: Final = perf_counter


class CountUnmatched:
    """Counts requests that matched no route, each at its end. One object does for all of them."""

    __slots__ = ("_unmatched",)

    def __init__(self, unmatched: UnmatchedMetrics) -> None:
        self._unmatched = unmatched

    def __call__(self, result: RelayResult) -> None:
        if result.status == SWITCHING_PROTOCOLS or result.outcome is _SHUTDOWN:
            return  # counted when it was switched, or never
        self._unmatched.count_relayed(result.took_s, result.overhead_s)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The public app."""

    routes: Routes
    identifier: Identifier
    decider: Decider
    batch: BatchPath
    stream: StreamPath
    relay: Relay
    run_api: RunApi
    attach: AttachDocument
    pages: AttachedPages | None
    """None: no page gets the script here."""
    metrics: Metrics
    count: CountUnmatched
    bodies: ByteBudget
    logs_relayed: bool
    """Whether the log has a line for each relayed request. Its level stays as the process begins with it."""
    traces: Front | None = None
    """Begins the spans of requests; None: there are none."""

    def begin(self, request: ClientRequest) -> App | None:
        """Relay a request. One that is not just relayed becomes an ASGI call, of the app that is returned."""
        entered = _now()
        if self.traces is not None:
            request.span = self.traces.begin_request(request.method, request.headers, request.scheme)
            if request.span is not None:
                request.headers = request.span.headers
        target = request.target
        if target[:1] != b"/":
            target = request.target = origin_form(target)
        if request.offer is None:
            match = self.routes.match(request.method, target)
            if match is not None and not (match.by_stream_path and not may_start(match, request.headers)):
                request.ids = with_request(request.ids)
                with work_of(request.ids):
                    return self._begin_of_route(request, match, target, entered)
        if target[:_OWN_BYTES] == _OWN:  # `startswith` takes twice as long
            return partial(self._own, request, target)
        is_told = request.span is not None or self.logs_relayed
        on_end = partial(self._tell, request) if is_told else self.count
        if self.pages is not None and self.pages.takes(request.method, self._credentials(request), target):
            self.pages.begin(request, on_end, entered)
        else:
            self.relay.begin(request, on_end, entered)
        return None

    # A request of no route.

    def _tell(self, request: ClientRequest, result: RelayResult) -> None:
        """Count a request, and log it: here is no task that has its ids."""
        with work_of(request.ids):
            _end_span(request, result)
            self.count(result)
            logger.debug("relayed", extra={"outcome": result.outcome, "status": result.status})

    async def _own(
        self, request: ClientRequest, target: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A request for something of Headgate's own."""
        headers = scope["headers"] = self._credentials(request)
        with _CallOf(request, send) as sent:
            if target.partition(b"?")[0] == ATTACH_PATH:
                await self.attach.answer(scope, sent)
            else:
                await self.run_api(request, headers, target, sent)

    def _credentials(self, request: ClientRequest) -> Headers:
        """By which a request's sender is identified; the upstream gets all headers as they came."""
        return self.identifier.credentials(request.headers, names_its_user=request.names_its_user)

    # A request of a route.

    def _begin_of_route(
        self, client: ClientRequest, match: Match, target: bytes, entered: float
    ) -> App | None:
        """Decide, and serve the request by one of its two ways."""
        identity = self.identifier.identify(self._credentials(client))
        reservation = self.bodies.reserve(owner_of(identity))
        request = RouteRequest.of(match, target, client, identity, reservation)
        if identity is None:
            self.metrics.flag_context_missing.inc()
        decision = self.decider.decide(request)
        if decision.arm in COMPARED:
            metrics = self.metrics.by_route[request.route.name]
            metrics.start_generation(decision.generation, decision.share)
        is_batch = decision.mode is Mode.BATCH and not match.by_stream_path
        if is_batch and self.batch.is_plain(request, decision):
            self.batch.begin(request, decision, partial(self._relayed, request, decision, entered), entered)
            return None
        return partial(self._serve, request, decision, entered)

    def _relayed(
        self, request: RouteRequest, decision: Decision, entered: float, result: RelayResult
    ) -> None:
        """A request has been relayed that was no call."""
        with work_of(request.client.ids):
            ended = _Ended(str(result.outcome), result.status or None)
            self._count_of_route(request, decision, ended, perf_counter() - entered)
            _end_span(request.client, result)

    async def _serve(
        self,
        request: RouteRequest,
        decision: Decision,
        entered: float,
        _scope: Scope,
        _receive: Receive,
        send: Send,
    ) -> None:
        """A request that is an ASGI call."""
        with request.reservation, _CallOf(request.client, send) as sent:
            request = replace(request, send=sent)
            refused: RequestRefused | None = None
            try:
                if decision.mode is Mode.STREAM and request.accept is Accept.NONE:
                    decision = await self.decider.with_body(request, decision)
                is_batch = decision.mode is Mode.BATCH and not request.match.by_stream_path
                if is_batch and not await self.decider.names_known_run(request):
                    ended, status = await self.batch.serve(request, decision)
                    sent.status = status or sent.status  # the relay sends it in another way
                else:
                    ended = await self.stream.serve(request, decision)
            except RequestRefused as refusal:  # in no arm: strangers decide how many of these there are
                refused, ended = refusal.bare(), "refused"
            if refused is not None:
                await refuse(request.send, refused)
            took_s = perf_counter() - entered
            self._count_of_route(request, decision, _Ended(ended, sent.status, sent.run), took_s)

    def _count_of_route(
        self, request: RouteRequest, decision: Decision, ended: "_Ended", took_s: float
    ) -> None:
        """Count a request of a route, and log it."""
        span, metrics = request.client.span, self.metrics.by_route[request.route.name]
        metrics.requests[decision.mode, decision.reason].inc()
        metrics.seconds[decision.mode].observe(took_s, exemplar(span))
        if span is not None:
            path = request.route.settings.match.partition(" ")[2]
            span.decided(request.route.name, path, decision.mode, decision.reason)
        logger.info(
            "request",
            extra={
                "route": request.route.name,
                "mode": decision.mode,
                "reason": decision.reason,
                "source": decision.source,
                "variant": decision.variant or None,
                "ended": ended.how,
                "status": ended.status,
                "run": ended.run,
                "took_ms": round(took_s * 1000, 1),
            },
        )


class _Ended(NamedTuple):
    """The end of a request of a route."""

    how: str
    status: int | None
    run: str | None = None


class _CallOf:
    """An ASGI call of a request: what it logs has the request's ids, and its span ends with it."""

    __slots__ = ("_request", "_sent")

    def __init__(self, request: ClientRequest, send: Send) -> None:
        CURRENT.set(request.ids)
        REQUEST.set(request.span)
        self._request = request
        self._sent = SentHead(send)

    def __enter__(self) -> SentHead:
        return self._sent

    def __exit__(self, *_: object) -> None:
        span = self._request.span
        if span is not None:
            span.answered(self._sent.status, self._sent.run)
            span.end()


def _end_span(request: ClientRequest, result: RelayResult) -> None:
    """End the span of a request that was no call."""
    if request.span is not None:
        request.span.answered(result.status or None)
        request.span.end()
