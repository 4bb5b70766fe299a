"""A route's requests describe runs, begin them, name them, and show them in either form."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace

from flags.decision import Accept, Decision
from proxy.downstream.client_request import ClientRequest
from proxy.http.accept import accepted
from proxy.http.headers import Forwarding, Headers, end_to_end, request_headers
from proxy.observe.metrics import Metrics
from proxy.observe.spans.ports import REQUEST
from proxy.routed.request import RouteRequest
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.runs.runs import Runs
from proxy.runs.shared import ViewableRun
from proxy.runs.start import RunSpec, Source
from proxy.upstream.client import Request
from proxy.viewers.api import RunApi, has_all, link, send_nothing_more
from proxy.viewers.batch_viewer import BatchViewer
from proxy.viewers.translation import in_format
from proxy.viewers.viewer import AsItIs

NOT_FOR_THE_UPSTREAM = frozenset(
    {
        b"accept",  # the upstream answers in JSON, whatever the viewer reads
        b"accept-encoding",  # its text is read here, so it is asked for as it is
        b"content-length",  # made anew from the body
        b"last-event-id",
        b"transfer-encoding",
        b"expect",
        b"headgate-run",
    }
)


@dataclass(frozen=True, slots=True)
class RunAccess:
    """The runs, as requests of routes use them."""

    runs: Runs
    run_api: RunApi
    sources: Mapping[tuple[str, str], Source]
    """Sources, by route and source name."""
    metrics: Metrics
    forwarding: Forwarding
    authority: bytes
    """The upstream's, for a client that sent no `Host`."""

    def spec(self, request: RouteRequest, decision: Decision, body: bytes) -> RunSpec:
        """Describe the run that the request would begin. Raises RequestRefused if its id cannot be used."""
        route = request.route
        upstream_request = Request(route.method, request.target, self._headers(request.client), body)
        return RunSpec(
            Call(route, request.match.parameters, upstream_request, request.arrived_at),
            decision,
            request.identity,
            self.metrics.by_route[route.name],
            self.sources[route.name, decision.source],
            request.checked_id(),
            request.idempotency_key,
        )

    def _headers(self, client: ClientRequest) -> Headers:
        """The client's headers for the upstream, as far as they are about the request and not the stream."""
        headers = request_headers(
            end_to_end(client.headers, self.forwarding.kept),
            self.forwarding,
            client.address,
            client.scheme,
            self.authority,
        )
        kept = [pair for pair in headers if pair[0] not in NOT_FOR_THE_UPSTREAM]
        # Without it, any coding would be welcome (RFC 9110 12.5.3).
        kept.append((b"accept-encoding", b"identity"))
        if accepted(headers) is Accept.NONE:
            # The answer is for a batch client, which may want a form of its own.
            return kept + [pair for pair in headers if pair[0] == b"accept"]
        return [*kept, (b"accept", b"application/json")]

    async def begin(self, request: RouteRequest, spec: RunSpec) -> tuple[ViewableRun, bool]:
        """The run, and whether it begins with this request; if so, the body is the run's from now on."""
        spec = _with_span(spec)
        run = await self.runs.start(spec)
        if isinstance(run, Run) and run.call is spec.call:
            run.body_reservation = request.reservation.transfer()
            return run, True
        return run, False

    async def name(self, request: RouteRequest, run: ViewableRun, name: str | None) -> None:
        """Let a run that was joined also be known by the id that this request had chosen for its own."""
        if name is not None and request.identity is not None:
            await self.runs.name(run, name, request.identity)

    def show(self, request: RouteRequest, run: ViewableRun, after: int | None = 0) -> Awaitable[str]:
        """The run as events, from `after` on. Returns how the viewer ended."""
        query = request.client.target.partition(b"?")[2]
        translated = in_format(run, request.headers, query, request.send)
        if has_all(run, after) and not request.match.by_stream_path:
            return send_nothing_more(run, request.send)
        if translated is not None:
            after = after if has_all(run, after) else None
            return self.run_api.show(
                run, request.identity, request.client, translated, after=after, is_translated=True
            )
        return self.run_api.show(
            run,
            request.identity,
            request.client,
            request.send,
            after=after,
            as_it_is=AsItIs.ANSWER if request.accept is Accept.EITHER else AsItIs.FAILURE,
        )

    async def answer(
        self, request: RouteRequest, run: ViewableRun, *, unless: frozenset[str] = frozenset()
    ) -> tuple[str, int | None]:
        """The run's batch answer. Returns how the viewer ended, and the status.

        Raises:
            Unanswered: the run ended in one of the ways in `unless`; nothing was sent.
        """
        heartbeat_s = request.route.settings.batch_heartbeat_s
        link(run)
        viewer = BatchViewer(run, request.client, request.send, heartbeat_s=heartbeat_s, unless=unless)
        with self.runs.watching(viewer):
            status = await viewer.serve()
        return ("left" if status is None else "answered"), status


def _with_span(spec: RunSpec) -> RunSpec:
    """The spec with spans for the run that it may begin, where its request has one."""
    span = REQUEST.get()
    if span is None:
        return spec
    asked = spec.call.request
    began = span.begin_run(asked.method, asked.headers, spec.call.route.name, spec.decision.source)
    return replace(spec, call=replace(spec.call, request=replace(asked, headers=began.headers), span=began))
