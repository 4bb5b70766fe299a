"""READ THIS FIRST: one request's whole path, one raw ASGI app.

    match route ─► identify ─► decide ─┬─► batch: joins a run, or is relayed, untouched
                                       └─► stream: source ─► events ─► log ─► viewer

A request that matches no route pays for a dictionary look-up and goes on to the relay.
"""

import logging
from dataclasses import dataclass
from time import perf_counter

from flags.decision import Accept, Decision, Mode
from proxy.downstream.bodies import ByteBudget
from proxy.errors import RequestRefused
from proxy.http.asgi import OWN_PATH, Receive, Scope, Send
from proxy.http.framing import request_target
from proxy.http.upgrade import SWITCHING_PROTOCOLS, UPGRADE
from proxy.identity import Identifier
from proxy.observe.metrics import Metrics
from proxy.observe.spans.ports import REQUEST, exemplar
from proxy.observe.spans.request_ids import CURRENT, SentHead, ids_of, with_request
from proxy.relay.outcomes import COMPARED
from proxy.relay.relay import Relay
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
            relay = self.relay if pages is None or not pages.takes(scope, target) else pages
            result = await relay(scope, receive, send)
            if result.status == SWITCHING_PROTOCOLS:
                return  # counted when it was switched
            if (span := REQUEST.get()) is not None:
                span.answered(result.status or None)
            metrics = self.metrics.unmatched
            metrics.requests.inc()
            metrics.seconds.observe(perf_counter() - entered, exemplar())
            metrics.overhead.observe(result.overhead_s)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("relayed", extra={"outcome": result.outcome, "status": result.status})

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
