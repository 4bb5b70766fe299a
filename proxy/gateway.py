"""READ THIS FIRST: one request's whole path, one raw ASGI app.

    match route ─► identify ─► decide ─┬─► batch: joins a run, or is relayed, untouched
                                       └─► stream: source ─► events ─► log ─► viewer

A request that matches no route pays for a dictionary look-up and goes on to the relay.
"""

import logging
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from flags.decision import Accept, Decision, Mode
from proxy.downstream.bodies import ByteBudget
from proxy.downstream.client_request import ClientRequest
from proxy.errors import RequestRefused
from proxy.http.asgi import OWN_PATH, Receive, Scope, Send
from proxy.http.framing import origin_form, request_target
from proxy.http.headers import Headers
from proxy.http.upgrade import SWITCHING_PROTOCOLS, UPGRADE
from proxy.identity import Identifier
from proxy.observe.metrics import Metrics
from proxy.observe.spans.ports import REQUEST, exemplar
from proxy.observe.spans.request_ids import CURRENT, SentHead, ids_of, with_request, work_of
from proxy.relay.outcomes import COMPARED
from proxy.relay.relay import Relay
from proxy.relay.relayed_request import RelayResult
from proxy.routed.attach_document import PATH as ATTACH_PATH
from proxy.routed.attach_document import AttachDocument
from proxy.routed.attached_pages import AttachedPages
from proxy.routed.batch_path import BatchPath
from proxy.routed.decider import Decider
from proxy.routed.request import RouteRequest, may_start, owner_of
from proxy.routed.stream_path import StreamPath
from proxy.settings.routes import Routes
from proxy.viewers.api import RunApi, refuse

logger = logging.getLogger("headgate.gateway")


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
    bodies: ByteBudget

    def begin(self, request: ClientRequest) -> bool:
        """Relay a request that nothing but the relay is for. False: it becomes an ASGI call."""
        entered = perf_counter()
        target, headers = origin_form(request.target), request.headers
        if request.offer is None:
            match = self.routes.match(request.method, target)
            if match is not None and not (match.by_stream_path and not may_start(match, headers)):
                return False
        if target.startswith(OWN_PATH):
            return False
        if self.pages is not None and self.pages.takes(request.method, headers, target):
            return False
        told = logger.isEnabledFor(logging.DEBUG)
        self.relay.begin(request, partial(self._tell, headers) if told else self._count, entered)
        return True

    def _tell(self, headers: Headers, result: RelayResult) -> None:
        """Count a request, and log it: here is no task that has its ids."""
        with work_of(ids_of(headers)):
            self._count(result)

    def _count(self, result: RelayResult) -> None:
        """Count a request that matched no route, at its end."""
        if result.status == SWITCHING_PROTOCOLS:
            return  # counted when it was switched
        self.metrics.unmatched.count_relayed(result.took_s, result.overhead_s)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("relayed", extra={"outcome": result.outcome, "status": result.status})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entered = perf_counter()
        ids = ids_of(scope["headers"])
        CURRENT.set(ids)
        target = request_target(scope)
        match = self.routes.match(scope["method"], target) if UPGRADE not in scope else None
        if match is not None and not (match.by_stream_path and not may_start(match, scope["headers"])):
            CURRENT.set(with_request(ids))
            identity = self.identifier.identify(scope["headers"])
            with self.bodies.reserve(owner_of(identity)) as reservation:
                sent = SentHead(send)
                request = RouteRequest.of(match, target, (scope, receive, sent), identity, reservation)
                await self._serve(request, entered, sent)
        elif target.startswith(OWN_PATH):
            if target.partition(b"?")[0] == ATTACH_PATH:
                await self.attach.answer(scope, send)
            else:
                await self.run_api(scope, target, receive, send)
        else:
            pages = self.pages
            takes = pages is not None and pages.takes(scope["method"], scope["headers"], target)
            relay = pages if pages is not None and takes else self.relay
            result = await relay(scope, receive, send)
            if (span := REQUEST.get()) is not None:
                span.answered(result.status or None)
            self._count(result)

    async def _serve(self, request: RouteRequest, entered: float, sent: SentHead) -> None:
        """A request of a route: decide, then serve it by one of its two ways."""
        metrics = self.metrics.by_route[request.route.name]
        if request.identity is None:
            self.metrics.flag_context_missing.inc()
        decision = self.decider.decide(request)
        if decision.arm in COMPARED:
            metrics.users.start_generation(decision.generation)
        try:
            if decision.mode is Mode.STREAM and request.accept is Accept.NONE:
                request, decision = await self.decider.with_body(request, decision)
            is_batch = decision.mode is Mode.BATCH and not request.match.by_stream_path
            if is_batch and not await self.decider.names_known_run(request):
                ended, status = await self.batch.serve(request, decision)
                sent.status = status or sent.status  # the relay may send it in another way
            else:
                ended = await self.stream.serve(request, decision)
        except RequestRefused as refusal:  # in no arm: strangers decide how many of these there are
            await refuse(request.send, refusal)
            ended = "refused"
        took_s = perf_counter() - entered
        metrics.requests[decision.mode, decision.reason].inc()
        metrics.seconds[decision.mode].observe(took_s, exemplar())
        if (span := REQUEST.get()) is not None:
            path = request.route.settings.match.partition(" ")[2]
            span.decided(request.route.name, path, decision.mode, decision.reason)
            span.answered(sent.status, sent.run)
        _log(request, decision, ended, sent, took_s)


def _log(request: RouteRequest, decision: Decision, ended: str, sent: SentHead, took_s: float) -> None:
    logger.info(
        "request",
        extra={
            "route": request.route.name,
            "mode": decision.mode,
            "reason": decision.reason,
            "source": decision.source,
            "variant": decision.variant or None,
            "ended": ended,
            "status": sent.status,
            "run": sent.run,
            "took_ms": round(took_s * 1000, 1),
        },
    )
