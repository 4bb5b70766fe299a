"""The way of a request that gets a stream: resume, join or start a run, and show it."""

from dataclasses import dataclass

from flags.decision import Accept, Decision, Mode
from proxy.downstream.bodies import collect
from proxy.errors import RequestRefused, StoreDown
from proxy.routed.decider import Decider
from proxy.routed.request import RouteRequest
from proxy.routed.run_access import RunAccess
from proxy.runs.shared import ViewableRun
from proxy.runs.start import fingerprint
from proxy.viewers.api import NO_SUCH_RUN, STORE_SILENT, last_event, position, run_of


@dataclass(frozen=True, slots=True)
class StreamPath:
    """Serves requests that are decided to stream, and those that name a run."""

    access: RunAccess
    decider: Decider

    async def serve(self, request: RouteRequest, decision: Decision) -> str:
        """Show the request's run in the form that it accepts. Returns how the viewer ended.

        Raises:
            RequestRefused: there is no such run, or none may begin.
        """
        after: int | None = 0
        cursor = last_event(request.headers)
        is_new = False
        try:
            run = None if cursor is None else await self._resumed(cursor, request)
            if run is not None and cursor is not None:
                after = await position(run, cursor)
            if run is None:
                run, is_new = await self._join_or_start(request, decision)
        finally:
            if not is_new and decision.mode is Mode.STREAM:
                self.decider.breaker.give_back_trial()  # a trial is for a run that begins
        request.reservation.close()  # the body has been compared, or is the run's
        await self.access.name(request, run, request.chosen_id)
        if request.accept is Accept.NONE:
            ended, _ = await self.access.answer(request, run)
            return ended
        return await self.access.show(request, run, after)

    async def _resumed(self, cursor: str, request: RouteRequest) -> ViewableRun | None:
        """The run that `Last-Event-ID` names. A reconnect never starts one: it must not repeat the work.

        Some clients send the id of something else with a first POST: that is not a reconnect.
        """
        run_id = run_of(cursor)
        try:
            run = await self.access.runs.look_up(run_id, request.identity) if run_id is not None else None
        except StoreDown:
            raise RequestRefused(503, STORE_SILENT) from None
        # One case's text must not answer for another's, nor one query's, nor one question's.
        if run is not None and run.route is request.route and run.target == request.target:
            if not request.match.by_stream_path:
                await self._check_body(request, run)
            return run
        if run_id is None and not request.match.by_stream_path:
            return None
        raise RequestRefused(404, NO_SUCH_RUN)

    async def _check_body(self, request: RouteRequest, run: ViewableRun) -> None:
        """A repeated POST must have the body that its run was begun with."""
        request.check_framing()
        body = await collect(request.receive, request.reservation)
        if fingerprint(request.identity, request.route.name, request.target, body) != run.fingerprint:
            raise RequestRefused(422, "This Last-Event-ID is of a run that was asked for with another body.")

    async def _join_or_start(self, request: RouteRequest, decision: Decision) -> tuple[ViewableRun, bool]:
        """The run, and whether it begins with this request."""
        request.check_framing()
        by_stream_path, runs = request.match.by_stream_path, self.access.runs
        body = b"" if by_stream_path else await collect(request.receive, request.reservation)
        spec = self.access.spec(request, decision, body)
        if by_stream_path and request.identity is not None:
            live = runs.live_one(spec.call, request.identity)
            if live is not None:
                return live, False
        if self.decider.is_full(request):
            joined = await runs.joinable(spec)
            if joined is None:
                raise RequestRefused(
                    503, "This proxy has as many runs in flight as it may have. Please try again."
                )
            return joined, False
        return await self.access.begin(request, spec)
