"""The way of a request that gets a batch answer: that of a run which it joins, or one that is relayed."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flags.decision import Accept, Arm, Decision, Reason
from proxy.downstream.bodies import MAX_REQUEST_BYTES, ByteBudget, ByteReservation, ReplayedBody, read_ahead
from proxy.errors import Fault, RequestRefused
from proxy.http.accept import takes_json
from proxy.http.asgi import send_problem
from proxy.llm import dark
from proxy.llm.taps.open_taps import Taps
from proxy.observe.metrics import Metrics
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.held_answer import HeldAnswer, KeptBody
from proxy.relay.outcomes import COMPARED, RelayedOutcomes
from proxy.relay.relay import Relay
from proxy.relay.relayed_request import Outcome, RelayResult
from proxy.routed.decider import MADE_HERE, Decider, asks_to_stream
from proxy.routed.request import RouteRequest
from proxy.routed.run_access import RunAccess
from proxy.runs.ending import CANCELLED
from proxy.runs.shared import ViewableRun
from proxy.sources.batch import Answered
from proxy.upstream.client import Answer
from proxy.viewers.batch_viewer import Unanswered

ENDED_BY_OTHERS = frozenset({CANCELLED, Fault.TOO_LARGE})
"""Ends of a run that say nothing about a plain request which has joined it: that request is then relayed."""


@dataclass(frozen=True, slots=True)
class BatchPath:
    """Serves requests that are decided to be batch."""

    access: RunAccess
    decider: Decider
    relay: Relay
    taps: Taps
    metrics: Metrics
    relayed_outcomes: Mapping[str, RelayedOutcomes]
    """Counters of relayed outcomes, by route."""
    answers: ByteBudget

    async def serve(self, request: RouteRequest, decision: Decision) -> tuple[str, int | None]:
        """Returns how the request ended, and the status; None where a viewer has sent it.

        Raises:
            RequestRefused: its body does not come in time.
        """
        name = request.chosen_id
        request, served = await self._by_run(request, decision, name)
        if served is not None:
            return served
        if name is not None and request.identity is not None:
            self.access.runs.call_off(name, request.identity)
        if request.accept is Accept.ONLY_STREAM:
            with self.answers.reserve(request.owner) as reservation:
                return await self._relay_as_events(request, decision, reservation)
        result, outcome = await self._relay(request, decision)
        self._count(request, decision, outcome)
        return str(result.outcome), result.status

    # By a run.

    async def _by_run(
        self, request: RouteRequest, decision: Decision, name: str | None
    ) -> tuple[RouteRequest, tuple[str, int | None] | None]:
        """Serve the request by a run: one that it joins, or one that sends heartbeats until the answer.

        Returns the request with its body still to be read, and what `serve` does; None: by no run.
        """
        may_join = decision.arm is Arm.STREAM and self._may_join(request)
        has_heartbeat = self._may_have_heartbeat(request, decision)
        if not (may_join or has_heartbeat) or not request.is_well_framed:
            return request, None
        body, receive = await read_ahead(request.receive, request.reservation)
        if body is None:
            return replace(request, receive=receive), None
        request = replace(request, receive=receive, run_id=None, idempotency_key=None)
        may_join = may_join and not asks_to_stream(body)
        spec = replace(self.access.spec(request, decision, body), may_join=may_join)
        run = await self.access.runs.joinable(spec) if may_join else None
        if run is not None and run.source not in MADE_HERE:
            await self.access.name(request, run, name)
            try:
                if request.accept is Accept.ONLY_STREAM:
                    return request, (await self.access.show(request, run), None)
                return request, await self.access.answer(request, run, unless=ENDED_BY_OTHERS)
            except Unanswered:
                return replace(request, receive=ReplayedBody.of(body, receive)), None
        if not has_heartbeat:
            return request, None
        run, _ = await self.access.begin(request, spec)
        request.reservation.close()
        await self.access.name(request, run, name)
        return request, await self.access.answer(request, run)

    def _may_join(self, request: RouteRequest) -> bool:
        if request.identity is None or not request.route.settings.join:
            return False
        if request.accept is Accept.NONE and not takes_json(request.scope["headers"]):
            return False  # a run's answer is JSON
        return self.access.runs.may_join(request.route.name, request.identity)

    def _may_have_heartbeat(self, request: RouteRequest, decision: Decision) -> bool:
        """Heartbeats need a run of the request's own, and an answer in JSON."""
        if request.route.settings.batch_heartbeat_s is None or request.accept is Accept.ONLY_STREAM:
            return False
        return decision.reason is not Reason.KILLED and not self.decider.is_full(request)

    # By the relay.

    async def _relay_as_events(
        self, request: RouteRequest, decision: Decision, reservation: ByteReservation
    ) -> tuple[str, int | None]:
        """The relay, for a client that accepts nothing but events: an answer in JSON is sent as such.

        The upstream is asked as the client asks: it may have a stream of its own, and that is passed on.
        """
        held = HeldAnswer(request.send, int(request.route.settings.max_answer), reservation)
        # Bodies of unknown clients are not kept: they would fill what all clients share.
        kept = KeptBody(request.receive, MAX_REQUEST_BYTES if request.identity else 0, request.reservation)
        passing = replace(request, scope=held.scope(request.scope), receive=kept, send=held)
        result, outcome = await self._relay(passing, decision)
        if held.holds and result.outcome is Outcome.COMPLETE and (answer := await held.answer()) is not None:
            run = await self._run_of(request, decision, kept.body or b"", answer)
            reservation.close()  # the answer is the run's, which has ended and is kept within its own bound
            return await self.access.show(request, run), None
        if held.holds and result.error is not None:
            result.status = result.error.status
            await send_problem(request.send, result.status, result.error.detail)
        self._count(request, decision, outcome)
        return str(result.outcome), result.status

    async def _run_of(
        self, request: RouteRequest, decision: Decision, body: bytes, answer: Answer
    ) -> ViewableRun:
        """A run of a request that the upstream has answered already."""
        unnamed = replace(request, run_id=None, idempotency_key=None)
        spec = replace(
            self.access.spec(unnamed, decision, body),
            source=Answered(answer),
            run_id=request.chosen_id,
            may_join=False,
        )
        try:
            return await self.access.runs.start(spec)
        except RequestRefused:  # another run has the id, which is no reason to withhold the answer
            return await self.access.runs.start(replace(spec, run_id=None))

    async def _relay(self, request: RouteRequest, decision: Decision) -> tuple[RelayResult, str | None]:
        """The relay. An answer of a compared arm is also read, once it has gone out."""
        with self.answers.reserve(request.owner) as reservation:
            if decision.arm not in COMPARED:
                copy = None
                relaying = self.relay(request.scope, request.receive, request.send, long=True)
            else:
                copy = AnswerCopy(request.send, int(request.route.settings.max_answer), reservation)
                request = replace(request, scope=copy.scope(request.scope))
                if decision.reason is Reason.DARK and decision.source == dark.SOURCE:
                    relaying = self._dark(request, copy)
                else:
                    relaying = self.relay(request.scope, request.receive, copy, long=True)
            try:
                result = await relaying
            except asyncio.CancelledError:  # only the end of the process does this
                self._count(request, decision, "shutdown")
                raise
            self.metrics.by_route[request.route.name].overhead.observe(result.overhead_s)
            return result, await self.relayed_outcomes[request.route.name].of(result, copy)

    async def _dark(self, request: RouteRequest, copy: AnswerCopy) -> RelayResult:
        """The relay, and beside it what would have been shown."""
        with self.answers.reserve(request.owner) as reservation:
            run = dark.DarkRun(request.route, self.metrics.by_route[request.route.name], reservation)
            async with self.taps.open(run, request.route.name, waits=False) as (tap, token):
                result = await self.relay(request.scope, request.receive, copy, token, long=True)
                run.why_silent = "" if tap.calls else self.taps.why_silent(tap)
            await run.settle(result, copy)
        return result

    def _count(self, request: RouteRequest, decision: Decision, outcome: str | None) -> None:
        """Count the end of a request that was no run, beside the runs that it is compared with."""
        if request.identity is None or outcome is None:
            return
        now = asyncio.get_running_loop().time()
        metrics = self.metrics.by_route[request.route.name]
        metrics.settle(decision, request.identity, outcome, request.arrived_at, now)
