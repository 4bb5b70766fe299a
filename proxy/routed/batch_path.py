"""The way of a request that gets a batch answer: that of a run which it joins, or one that is relayed."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from flags.decision import Accept, Arm, Decision, Reason
from proxy.downstream.bodies import MAX_REQUEST_BYTES, ByteBudget, ByteReservation, read_ahead
from proxy.errors import Fault, RequestRefused
from proxy.http.accept import takes_json
from proxy.http.asgi import send_problem
from proxy.llm import dark
from proxy.llm.taps.open_taps import Taps
from proxy.observe.metrics import Metrics
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.held_answer import HeldAnswer, KeptBody
from proxy.relay.outcomes import RelayedOutcomes, is_read
from proxy.relay.relay import Relay
from proxy.relay.result import OnEnd, Outcome, RelayResult
from proxy.relay.sinks import Sink
from proxy.routed.decider import MADE_HERE, Decider, asks_to_stream
from proxy.routed.request import RouteRequest
from proxy.routed.run_access import RunAccess
from proxy.runs.ending import CANCELLED
from proxy.runs.shared import ViewableRun
from proxy.sources.batch import Answered
from proxy.upstream.client import Answer
from proxy.viewers.errors import Unanswered

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
    reading: set[asyncio.Task[None]] = field(default_factory=set)
    """Answers of compared arms that have gone out, and are read."""

    async def aclose(self) -> None:
        """Wait for the answers that are read."""
        await asyncio.gather(*self.reading, return_exceptions=True)

    # What only the relay is for.

    def is_plain(self, request: RouteRequest, decision: Decision) -> bool:
        """True if the request is relayed without waiting for anything, and its answer passes as it is."""
        if request.accept is Accept.ONLY_STREAM or _is_dark(decision) or self.decider.names_run(request):
            return False
        asks_runs = self._asks_runs(request, decision)
        return not (any(asks_runs) and request.is_well_framed)

    def begin(self, request: RouteRequest, decision: Decision, on_end: OnEnd, entered_at: float) -> None:
        """Relay a request that is plain. Where `is_read`, the answer is also read, once it has gone out."""
        copy: AnswerCopy | None = None
        reservation = self.answers.reserve(request.owner)
        if is_read(decision):
            copy = AnswerCopy(request.client, int(request.route.settings.max_answer), reservation)
        ended = partial(self._ended, request, decision, copy, reservation, on_end)
        self.relay.begin(request.client, ended, entered_at, copy, long=True)

    def _ended(
        self,
        request: RouteRequest,
        decision: Decision,
        copy: AnswerCopy | None,
        reservation: ByteReservation,
        on_end: OnEnd,
        result: RelayResult,
    ) -> None:
        name = request.route.name
        self.metrics.by_route[name].overhead.observe(result.overhead_s)
        outcomes, ended_at = self.relayed_outcomes[name], asyncio.get_running_loop().time()
        outcome = outcomes.of_unread(result)
        if copy is not None and outcomes.needs_body(result, copy):
            outcome = outcomes.of_short(result, copy)
            if outcome is None:
                reading = self._read(request, decision, outcomes.of(result, copy), reservation, ended_at)
                task = asyncio.get_running_loop().create_task(reading)
                self.reading.add(task)
                task.add_done_callback(self.reading.discard)
                on_end(result)
                return
        reservation.close()
        self._count(request, decision, outcome, ended_at)
        on_end(result)

    async def _read(
        self,
        request: RouteRequest,
        decision: Decision,
        outcome: Coroutine[None, None, str | None],
        reservation: ByteReservation,
        ended_at: float,
    ) -> None:
        with reservation:
            self._count(request, decision, await outcome, ended_at)

    # What is an ASGI call.

    async def serve(self, request: RouteRequest, decision: Decision) -> tuple[str, int | None]:
        """Returns how the request ended, and the status; None where a viewer has sent it.

        Raises:
            RequestRefused: its body does not come in time.
        """
        name = request.chosen_id
        served = await self._by_run(request, decision, name)
        if served is not None:
            return served
        if name is not None and request.identity is not None:
            self.access.runs.call_off(name, request.identity)
        if request.accept is Accept.ONLY_STREAM:
            with self.answers.reserve(request.owner) as reservation:
                return await self._relay_as_events(request, decision, reservation)
        result, outcome = await self._relay(request, decision, request.client)
        self._count(request, decision, outcome)
        return str(result.outcome), result.status

    # By a run.

    async def _by_run(
        self, request: RouteRequest, decision: Decision, name: str | None
    ) -> tuple[str, int | None] | None:
        """Serve the request by a run: one that it joins, or one that sends heartbeats until the answer.

        Returns what `serve` does; None: by no run, and its body is still to be read.
        """
        may_join, has_heartbeat = self._asks_runs(request, decision)
        if not (may_join or has_heartbeat) or not request.is_well_framed:
            return None
        body = await read_ahead(request.client, request.reservation)
        if body is None:
            return None
        request = replace(request, run_id=None, idempotency_key=None)
        may_join = may_join and not asks_to_stream(body)
        spec = replace(self.access.spec(request, decision, body), may_join=may_join)
        run = await self.access.runs.joinable(spec) if may_join else None
        if run is not None and run.source not in MADE_HERE:
            await self.access.name(request, run, name)
            try:
                if request.accept is Accept.ONLY_STREAM:
                    return await self.access.show(request, run), None
                return await self.access.answer(request, run, unless=ENDED_BY_OTHERS)
            except Unanswered:
                request.client.take_body()  # what the run's viewer has left of it
                request.client.unread(body)
                return None
        if not has_heartbeat:
            return None
        run, _ = await self.access.begin(request, spec)
        request.reservation.close()
        await self.access.name(request, run, name)
        return await self.access.answer(request, run)

    def _asks_runs(self, request: RouteRequest, decision: Decision) -> tuple[bool, bool]:
        """Whether the request may join a run, and whether it may have one that sends heartbeats."""
        may_join = decision.arm is Arm.STREAM and self._may_join(request)
        return may_join, self._may_have_heartbeat(request, decision)

    def _may_join(self, request: RouteRequest) -> bool:
        if request.identity is None or not request.route.settings.join:
            return False
        if request.accept is Accept.NONE and not takes_json(request.headers):
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
        held = HeldAnswer(request.client, int(request.route.settings.max_answer), reservation)
        # Bodies of unknown clients are not kept: they would fill what all clients share.
        kept = KeptBody(MAX_REQUEST_BYTES if request.identity else 0, request.reservation)
        request.client.copy_body = kept.add
        result, outcome = await self._relay(request, decision, held)
        request.client.copy_body = None
        if held.holds and result.outcome is Outcome.COMPLETE and (answer := await held.whole()) is not None:
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

    async def _relay(
        self, request: RouteRequest, decision: Decision, sink: Sink
    ) -> tuple[RelayResult, str | None]:
        """The relay, as `begin` does it."""
        with self.answers.reserve(request.owner) as reservation:
            copy: AnswerCopy | None = None
            if is_read(decision):
                sink = copy = AnswerCopy(sink, int(request.route.settings.max_answer), reservation)
            try:
                if copy is not None and _is_dark(decision):
                    result = await self._dark(request, copy)
                else:
                    result = await self.relay(request.client, sink, long=True)
            except asyncio.CancelledError:  # only the end of the process does this
                self._count(request, decision, "shutdown")
                raise
            self.metrics.by_route[request.route.name].overhead.observe(result.overhead_s)
            outcomes = self.relayed_outcomes[request.route.name]
            return result, outcomes.of_unread(result) if copy is None else await outcomes.of(result, copy)

    async def _dark(self, request: RouteRequest, copy: AnswerCopy) -> RelayResult:
        """The relay, and beside it what would have been shown."""
        with self.answers.reserve(request.owner) as reservation:
            run = dark.DarkRun(request.route, self.metrics.by_route[request.route.name], reservation)
            async with self.taps.open(run, request.route.name, request.owner, waits=False) as (tap, token):
                result = await self.relay(request.client, copy, token, long=True)
                run.why_silent = "" if tap.calls else self.taps.why_silent(tap)
            await run.settle(result, copy)
        return result

    def _count(
        self, request: RouteRequest, decision: Decision, outcome: str | None, ended_at: float | None = None
    ) -> None:
        """Count the end of a request that was no run, beside the runs that it is compared with."""
        if request.identity is None or outcome is None:
            return
        ended_at = ended_at or asyncio.get_running_loop().time()
        metrics = self.metrics.by_route[request.route.name]
        metrics.settle(decision, request.identity, outcome, request.arrived_at, ended_at)


def _is_dark(decision: Decision) -> bool:
    return decision.reason is Reason.DARK and decision.source == dark.SOURCE
