"""READ THIS FIRST: one request's whole path, one raw ASGI app.

    match route ─► identify ─► decide ─┬─► relay: bytes through, untouched
                                       └─► run: source ─► events ─► log ─► viewer

A request that matches no route pays for a dictionary look-up and goes on to the relay.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic, perf_counter

from flags.decision import Accept, Arm, Decision, FlagState, Mode, Question, Reason, decide
from proxy.downstream.bodies import (
    MAX_REQUEST_BYTES,
    ByteBudget,
    ByteReservation,
    ReplayedBody,
    collect,
    read_ahead,
)
from proxy.errors import Fault, RequestRefused
from proxy.http.accept import accepted, takes_json
from proxy.http.asgi import OWN_PATH, WRITE, Receive, Scope, Send, send_problem
from proxy.http.fetch_metadata import comes_from
from proxy.http.framing import check_framing, request_target
from proxy.http.headers import Forwarding, Headers, end_to_end, request_headers
from proxy.http.upgrade import SWITCHING_PROTOCOLS, UPGRADE
from proxy.identity import Identifier, Identity
from proxy.llm import dark
from proxy.llm.taps import Taps
from proxy.observe.metrics import Metrics, RouteMetrics
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.held_answer import HeldAnswer, KeptBody
from proxy.relay.outcomes import COMPARED, RelayedOutcomes
from proxy.relay.relay import Outcome, Relay, RelayResult
from proxy.runs.run import CANCELLED, Call, Run
from proxy.runs.runs import Runs
from proxy.runs.shared import ViewableRun
from proxy.runs.source import Source
from proxy.runs.start import RunSpec, digest_of_key, fingerprint
from proxy.settings.routes import Match, Route, Routes
from proxy.sources.batch import Answered
from proxy.upstream.breaker import Breaker
from proxy.upstream.client import Answer, Request
from proxy.viewers.api import (
    NO_SUCH_RUN,
    RunApi,
    has_all,
    last_event,
    position,
    refuse,
    run_of,
    send_nothing_more,
)
from proxy.viewers.batch_viewer import BatchViewer, Unanswered

logger = logging.getLogger("headgate.gateway")


MADE_HERE = frozenset({"native", "stages"})
"""Sources whose answer is put together here: not the upstream's own bytes, so no plain request joins them."""

ENDED_BY_OTHERS = frozenset({CANCELLED, Fault.TOO_LARGE})
"""How a run may end that says nothing of a plain request which has joined it: that is then relayed."""

_UUID4 = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""122 random bits; others may be guessed."""

_ASKS_TO_STREAM = re.compile(rb'"stream"\s*:\s*true\b')
"""In a body for a completions API: the answer is a stream, whatever `Accept` says. Says yes too often."""

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
class _RouteRequest:
    """A request of a route, and all that is known of it before the decision."""

    match: Match
    target: bytes
    """Of the POST, also for a GET of its `stream_path`."""
    scope: Scope
    receive: Receive
    send: Send
    identity: Identity | None
    accept: Accept
    run_id: bytes | None
    """As the client chose it."""
    idempotency_key: bytes | None
    came_at: float
    """The loop's time."""
    hold: ByteReservation
    """Of its body."""

    @property
    def route(self) -> Route:
        return self.match.route

    @property
    def may_stream(self) -> Accept:
        """What the decision goes by: who names a run may watch it elsewhere, whatever this answer is."""
        if self.accept is Accept.NONE and (self.run_id or self.idempotency_key):
            return Accept.EITHER
        return self.accept


@dataclass(frozen=True, slots=True)
class Gateway:
    """The public app."""

    routes: Routes
    identifier: Identifier
    flags: FlagState
    relay: Relay
    runs: Runs
    run_api: RunApi
    taps: Taps
    sources: Mapping[tuple[str, str], Source]
    """By route and source name."""
    breaker: Breaker
    metrics: Metrics
    relayed_outcomes: Mapping[str, RelayedOutcomes]
    """By route."""
    forwarding: Forwarding
    authority: bytes
    bodies: ByteBudget
    answers: ByteBudget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entered = perf_counter()
        target = request_target(scope)
        match = self.routes.match(scope["method"], target) if UPGRADE not in scope else None
        if match is not None and not (match.by_stream_path and not _may_start(match, scope["headers"])):
            identity = self.identifier.identify(scope["headers"])
            with self.bodies.hold(_owner(identity)) as hold:
                asked = self._asked(match, target, scope, receive, send, identity, hold)
                await self._serve(asked, entered)
        elif target.startswith(OWN_PATH):
            await self.run_api(scope, target, receive, send)
        else:
            passage = await self.relay(scope, receive, send)
            if passage.status == SWITCHING_PROTOCOLS:
                return  # counted when it was
            counted = self.metrics.unmatched
            counted.requests.inc()
            counted.seconds.observe(perf_counter() - entered)
            counted.overhead.observe(passage.overhead_s)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("relayed", extra={"outcome": passage.outcome, "status": passage.status})

    def _asked(
        self,
        match: Match,
        target: bytes,
        scope: Scope,
        receive: Receive,
        send: Send,
        identity: Identity | None,
        hold: ByteReservation,
    ) -> _RouteRequest:
        headers: Headers = scope["headers"]
        came_at = asyncio.get_running_loop().time()
        if match.by_stream_path:
            _, question_mark, query = target.partition(b"?")
            path = match.route.path.fill(match.parameters)
            target = path.encode("latin-1") + question_mark + query
            accept = Accept.ONLY_STREAM
            return _RouteRequest(
                match, target, scope, receive, send, identity, accept, None, None, came_at, hold
            )
        run_id = next((value for name, value in headers if name == b"headgate-run"), None)
        key = next((value for name, value in headers if name == b"idempotency-key"), None)
        accept = accepted(headers)
        return _RouteRequest(
            match, target, scope, receive, send, identity, accept, run_id, key, came_at, hold
        )

    async def _serve(self, asked: _RouteRequest, entered: float) -> None:
        """A request of a route: decide, then relay or run."""
        route = asked.route
        counted = self.metrics.by_route[route.name]
        if asked.identity is None:
            self.metrics.flag_context_missing.inc()
        decision = self._decide(asked)
        if decision.arm in COMPARED:
            counted.users.turn_to(decision.generation)
        status: int | None = None
        try:
            if decision.mode is Mode.STREAM and asked.accept is Accept.NONE:
                asked, decision = await self._by_its_body(asked, decision)
            is_batch = decision.mode is Mode.BATCH and not asked.match.by_stream_path
            if is_batch and not await self._is_back(asked):
                ended, status = await self._batch(asked, decision, counted)
            else:
                ended = await self._stream(asked, decision)
        except RequestRefused as refusal:  # it counts in no arm: how many there are is up to whoever asks
            await refuse(asked.send, refusal)
            ended, status = "refused", refusal.status
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

    async def _is_back(self, asked: _RouteRequest) -> bool:
        """Whether it names a run that is there: whatever is decided now, its call is not to be repeated."""
        identity = asked.identity
        cursor = last_event(asked.scope["headers"])
        run_id = None if cursor is None else run_of(cursor)
        if run_id is not None and _UUID4.fullmatch(run_id.encode()):
            return True  # also where it is gone: a reconnect is told so, and starts nothing
        if run_id is None and asked.run_id is not None:
            run_id = asked.run_id.decode("latin-1")
        key = None
        if asked.idempotency_key is not None and identity is not None and asked.route.settings.join:
            key = digest_of_key(identity, asked.route.name, asked.idempotency_key)
        return (run_id or key) is not None and await self.runs.knows(run_id, key, identity)

    def _decide(self, asked: _RouteRequest) -> Decision:
        settings = asked.route.settings
        breaker_open = self.breaker.is_open(monotonic())
        question = Question(
            flag=settings.flag,
            source=settings.source,
            sources=settings.sources,
            context=None if asked.identity is None else asked.identity.context(settings.name),
            accept=asked.may_stream,
            breaker_open=breaker_open,
            overloaded=self._is_full(asked),
        )
        decision = decide(question, self.flags)
        if decision.mode is Mode.STREAM and asked.accept is Accept.NONE and decision.source in MADE_HERE:
            decision = _as_batch(decision)
        if not breaker_open and decision.mode is not Mode.STREAM:
            self.breaker.unused()
        # Whoever is decided to get batch gets the upstream's own call and nothing beside it.
        if decision.mode is Mode.BATCH and not (decision.reason is Reason.DARK and _can_be_dark(asked)):
            return replace(decision, source="batch")
        return decision

    async def _by_its_body(self, asked: _RouteRequest, decision: Decision) -> tuple[_RouteRequest, Decision]:
        """A plain request that would be a run because it names one: batch if no run can answer it as well.

        That is one whose body is too long to be held, or asks the upstream for a stream of its own.
        """
        if not _is_well_framed(asked.scope):
            return asked, decision
        body, receive = await read_ahead(asked.receive, asked.hold)
        asked = replace(asked, receive=receive)
        if body is not None and not _ASKS_TO_STREAM.search(body):
            return asked, decision
        self.breaker.unused()
        return asked, _as_batch(decision)

    def _is_full(self, asked: _RouteRequest) -> bool:
        return not (self.runs.has_room(asked.route) and self.runs.has_share(asked.route, asked.identity))

    # The batch answer.

    async def _batch(
        self, asked: _RouteRequest, decision: Decision, counted: RouteMetrics
    ) -> tuple[str, int | None]:
        """The answer of the same request in flight, if there is one; else the relay."""
        name = _chosen_id(asked.run_id)
        heartbeat_s = asked.route.settings.batch_heartbeat_s
        only_events = asked.accept is Accept.ONLY_STREAM
        if only_events or decision.reason is Reason.KILLED or self._is_full(asked):
            heartbeat_s = None  # it needs a run of its own, and is JSON
        may_join = decision.arm is Arm.STREAM and self._may_join(asked)
        receive = asked.receive
        if (may_join or heartbeat_s is not None) and _is_well_framed(asked.scope):
            body, receive = await read_ahead(asked.receive, asked.hold)
            if body is not None:
                asked = replace(asked, receive=receive, run_id=None, idempotency_key=None)
                may_join = may_join and not _ASKS_TO_STREAM.search(body)
                start = replace(self._start(asked, decision, body), may_join=may_join)
                run = await self.runs.joinable(start) if may_join else None
                if run is not None and run.source not in MADE_HERE:
                    await self._name(asked, run, name)
                    try:
                        if only_events:
                            return await self._show(asked, run), None
                        return await self._answer(asked, run, unless=ENDED_BY_OTHERS)
                    except Unanswered:
                        receive = ReplayedBody.of(body, asked.receive)
                elif heartbeat_s is not None:
                    run, _ = await self._begun(asked, start)
                    asked.hold.close()
                    await self._name(asked, run, name)
                    return await self._answer(asked, run)
        if name is not None and asked.identity is not None:
            self.runs.call_off(name, asked.identity)
        asked = replace(asked, receive=receive)
        if only_events:
            return await self._batch_as_events(asked, decision, counted)
        passage, outcome = await self._relayed(asked, decision, counted)
        self._count(asked, decision, outcome)
        return str(passage.outcome), passage.status

    async def _batch_as_events(
        self, asked: _RouteRequest, decision: Decision, counted: RouteMetrics
    ) -> tuple[str, int | None]:
        """The relay, for a client that takes nothing but events: an answer in JSON is sent as such.

        The upstream is asked as the client asks: it may have a stream of its own, and that is passed on.
        """
        with self.answers.hold(_owner(asked.identity)) as hold:
            return await self._held_as_events(asked, decision, counted, hold)

    async def _held_as_events(
        self, asked: _RouteRequest, decision: Decision, counted: RouteMetrics, hold: ByteReservation
    ) -> tuple[str, int | None]:
        held = HeldAnswer(asked.send, int(asked.route.settings.max_answer), hold)
        # Of nobody in particular no body is kept: strangers would fill what all share.
        kept = KeptBody(asked.receive, MAX_REQUEST_BYTES if asked.identity else 0, asked.hold)
        passing = replace(asked, scope=held.scope(asked.scope), receive=kept, send=held)
        passage, outcome = await self._relayed(passing, decision, counted)
        if held.holds and passage.outcome is Outcome.COMPLETE and (answer := await held.answer()) is not None:
            run = await self._answered(asked, decision, kept.body or b"", answer)
            hold.close()  # it is the run's, which has ended and is kept within its own bound
            return await self._show(asked, run), None
        if held.holds and passage.error is not None:
            passage.status = passage.error.status
            await send_problem(asked.send, passage.status, passage.error.detail)
        self._count(asked, decision, outcome)
        return str(passage.outcome), passage.status

    async def _answered(
        self, asked: _RouteRequest, decision: Decision, body: bytes, answer: Answer
    ) -> ViewableRun:
        """The run of a request that the upstream has answered already."""
        unnamed = replace(asked, run_id=None, idempotency_key=None)
        start = replace(
            self._start(unnamed, decision, body),
            source=Answered(answer),
            run_id=_chosen_id(asked.run_id),
            may_join=False,
        )
        try:
            return await self.runs.start(start)
        except RequestRefused:  # the id is another's, which is no reason to withhold the answer
            return await self.runs.start(replace(start, run_id=None))

    async def _relayed(
        self, asked: _RouteRequest, decision: Decision, counted: RouteMetrics
    ) -> tuple[RelayResult, str | None]:
        """The relay. What is compared is also read, once it has gone out."""
        with self.answers.hold(_owner(asked.identity)) as hold:
            return await self._read_when_relayed(asked, decision, counted, hold)

    async def _read_when_relayed(
        self, asked: _RouteRequest, decision: Decision, counted: RouteMetrics, hold: ByteReservation
    ) -> tuple[RelayResult, str | None]:
        if decision.arm not in COMPARED:
            copy = None
            passing = self.relay(asked.scope, asked.receive, asked.send, long=True)
        else:
            copy = AnswerCopy(asked.send, int(asked.route.settings.max_answer), hold)
            asked = replace(asked, scope=copy.scope(asked.scope))
            if decision.reason is Reason.DARK and decision.source == dark.SOURCE:
                passing = self._dark(asked, copy, counted)
            else:
                passing = self.relay(asked.scope, asked.receive, copy, long=True)
        try:
            passage = await passing
        except asyncio.CancelledError:  # only the end of the process does this
            self._count(asked, decision, "shutdown")
            raise
        counted.overhead.observe(passage.overhead_s)
        return passage, await self.relayed_outcomes[asked.route.name].of(passage, copy)

    async def _dark(self, asked: _RouteRequest, copy: AnswerCopy, counted: RouteMetrics) -> RelayResult:
        """The relay, and beside it what would have been shown."""
        run = dark.DarkRun(asked.route, counted)
        async with self.taps.open(run, asked.route.name, waits=False) as (tap, token):
            passage = await self.relay(asked.scope, asked.receive, copy, token, long=True)
            run.why_silent = "" if tap.calls else self.taps.why_silent(tap)
        await run.settle(passage, copy)
        return passage

    def _may_join(self, asked: _RouteRequest) -> bool:
        if asked.identity is None or not asked.route.settings.join:
            return False
        if asked.accept is Accept.NONE and not takes_json(asked.scope["headers"]):
            return False  # a run's answer is none for it
        return self.runs.may_join(asked.route.name, asked.identity)

    async def _answer(
        self, asked: _RouteRequest, run: ViewableRun, *, unless: frozenset[str] = frozenset()
    ) -> tuple[str, int | None]:
        heartbeat_s = asked.route.settings.batch_heartbeat_s
        viewer = BatchViewer(run, asked.receive, asked.send, heartbeat_s=heartbeat_s, unless=unless)
        with self.runs.watching(viewer):
            status = await viewer.serve()
        return ("left" if status is None else "answered"), status

    # The stream.

    async def _stream(self, asked: _RouteRequest, decision: Decision) -> str:
        """Resume, join or start a run, and show it as it was asked for."""
        after: int | None = 0
        cursor = last_event(asked.scope["headers"])
        begins = False
        try:
            run = None if cursor is None else await self._resumed(cursor, asked)
            if run is not None and cursor is not None:
                after = await position(run, cursor)
            if run is None:
                run, begins = await self._joined_or_started(asked, decision)
        finally:
            if not begins and decision.mode is Mode.STREAM:
                self.breaker.unused()  # a trial is for a run that begins
        asked.hold.close()  # it has been compared, or is the run's
        await self._name(asked, run, _chosen_id(asked.run_id))
        if asked.accept is Accept.NONE:
            ended, _ = await self._answer(asked, run)
            return ended
        return await self._show(asked, run, after)

    async def _name(self, asked: _RouteRequest, run: ViewableRun, name: str | None) -> None:
        """A run that was joined goes by the id, too, that the request had chosen for its own."""
        if name is not None and asked.identity is not None:
            await self.runs.name(run, name, asked.identity)

    async def _show(self, asked: _RouteRequest, run: ViewableRun, after: int | None = 0) -> str:
        if has_all(run, after) and not asked.match.by_stream_path:
            await send_nothing_more(run, asked.send)
            return "nothing_more"
        return await self.run_api.show(
            run,
            asked.identity,
            asked.receive,
            asked.send,
            after=after,
            takes_json=asked.accept is Accept.EITHER,
            write=asked.scope.get(WRITE),
        )

    async def _resumed(self, cursor: str, asked: _RouteRequest) -> ViewableRun | None:
        """The run that `Last-Event-ID` names. A reconnect never starts one: it must not repeat the work.

        Some clients send the id of something else with a first POST: that is no reconnect to us.
        """
        run_id = run_of(cursor)
        run = await self.runs.look_up(run_id, asked.identity) if run_id is not None else None
        # One case's text must not answer for another's, nor one query's, nor one question's.
        if run is not None and run.route is asked.route and run.target == asked.target:
            if not asked.match.by_stream_path:
                await self._check_the_body(asked, run)
            return run
        if run_id is None and not asked.match.by_stream_path:
            return None
        raise RequestRefused(404, NO_SUCH_RUN)

    async def _check_the_body(self, asked: _RouteRequest, run: ViewableRun) -> None:
        """A repeated POST has the body that its run was begun with."""
        check_framing(asked.scope["headers"], asked.scope["http_version"])
        body = await collect(asked.receive, asked.hold)
        if fingerprint(asked.identity, asked.route.name, asked.target, body) != run.fingerprint:
            raise RequestRefused(422, "This Last-Event-ID is of a run that was asked for with another body.")

    async def _joined_or_started(self, asked: _RouteRequest, decision: Decision) -> tuple[ViewableRun, bool]:
        """The run, and whether it begins with this request."""
        check_framing(asked.scope["headers"], asked.scope["http_version"])
        body = b"" if asked.match.by_stream_path else await collect(asked.receive, asked.hold)
        start = self._start(asked, decision, body)
        if asked.match.by_stream_path and asked.identity is not None:
            live = self.runs.live_one(start.call, asked.identity)
            if live is not None:
                return live, False
        if self._is_full(asked):
            joined = await self.runs.joinable(start)
            if joined is None:
                raise RequestRefused(
                    503, "This proxy has as many runs in flight as it may have. Please try again."
                )
            return joined, False
        return await self._begun(asked, start)

    async def _begun(self, asked: _RouteRequest, start: RunSpec) -> tuple[ViewableRun, bool]:
        """The run, and whether it begins with this request; then the body is the run's."""
        run = await self.runs.start(start)
        if isinstance(run, Run) and run.call is start.call:
            run.hold = asked.hold.hand_on()
            return run, True
        return run, False

    def _start(self, asked: _RouteRequest, decision: Decision, body: bytes) -> RunSpec:
        route = asked.route
        request = Request(route.method, asked.target, self._headers(asked.scope), body)
        return RunSpec(
            Call(route, dict(asked.match.parameters), request, asked.came_at),
            decision,
            asked.identity,
            self.metrics.by_route[route.name],
            self.sources[route.name, decision.source],
            _checked_id(asked.run_id),
            asked.idempotency_key,
        )

    def _headers(self, scope: Scope) -> Headers:
        """The client's headers for the upstream, as far as they are about the request and not the stream."""
        client = scope.get("client")
        headers = request_headers(
            end_to_end(scope["headers"], self.forwarding.kept),
            self.forwarding,
            client[0] if client else None,
            scope["scheme"],
            self.authority,
        )
        kept = [pair for pair in headers if pair[0] not in NOT_FOR_THE_UPSTREAM]
        # Without it, any coding would be welcome (RFC 9110 12.5.3).
        kept.append((b"accept-encoding", b"identity"))
        if accepted(headers) is Accept.NONE:
            # The answer is for a batch client, which may want a form of its own.
            return kept + [pair for pair in headers if pair[0] == b"accept"]
        return [*kept, (b"accept", b"application/json")]

    def _count(self, asked: _RouteRequest, decision: Decision, outcome: str | None) -> None:
        """A request that was no run has ended. It counts beside the runs, which are compared with such."""
        if asked.identity is None or outcome is None:
            return
        now = asyncio.get_running_loop().time()
        counted = self.metrics.by_route[asked.route.name]
        counted.settle(decision, asked.identity, outcome, asked.came_at, now)


def _as_batch(decision: Decision) -> Decision:
    """A batch client gets the upstream's own answer, whatever else its request names."""
    return replace(decision, mode=Mode.BATCH, source="batch", reason=Reason.ACCEPT)


def _can_be_dark(asked: _RouteRequest) -> bool:
    """Whether a dark answer can be relayed; who takes nothing but events gets the whole texts as such."""
    return asked.accept is not Accept.ONLY_STREAM


def _may_start(match: Match, headers: Headers) -> bool:
    """Whether a GET may start the work of a POST: it asks for a stream by name, and from where it may.

    An image, a link or a prefetch must not, least of all with the user's cookies. It is relayed.
    """
    return accepted(headers) is not Accept.NONE and comes_from(headers, match.route.settings.stream_path_from)


def _is_well_framed(scope: Scope) -> bool:
    """Whether a body can be read here; the relay has its own answer to one that cannot."""
    try:
        check_framing(scope["headers"], scope["http_version"])
    except RequestRefused:
        return False
    return True


def _checked_id(run_id: bytes | None) -> str | None:
    """The id that the client has chosen for its run; another form than a random UUID could be guessed."""
    chosen = _chosen_id(run_id)
    if run_id is not None and chosen is None:
        raise RequestRefused(400, "headgate-run must be a random UUID (version 4) in lower case.")
    return chosen


def _chosen_id(run_id: bytes | None) -> str | None:
    """The same, of a request that may have one of another form: it is no id to us."""
    return run_id.decode() if run_id is not None and _UUID4.fullmatch(run_id) else None


def _owner(identity: Identity | None) -> str:
    """Whose share of a budget is taken; all that are nobody in particular have one together."""
    return "" if identity is None else identity.principal
