"""Stream or batch, for one request of a route. It acts on nothing but the breaker's trial."""

import re
from dataclasses import dataclass, replace
from time import monotonic

from flags.decision import Accept, Decision, FlagState, Mode, Question, Reason, decide
from proxy.downstream.bodies import read_ahead
from proxy.routed.request import RouteRequest, is_random_id
from proxy.runs.runs import Runs
from proxy.runs.start import digest_of_key
from proxy.upstream.breaker import Breaker
from proxy.viewers.api import last_event, run_of

MADE_HERE = frozenset({"native", "stages", "job"})
"""Sources whose answer is put together here: not the upstream's own bytes, so no plain request joins them."""

_ASKS_TO_STREAM = re.compile(rb'"stream"\s*:\s*true\b')
"""In a body for a completions API: the answer is a stream, whatever `Accept` says. Matches too often."""


@dataclass(frozen=True, slots=True)
class Decider:
    """Decides by the flags, the breaker and the runs that there are."""

    flags: FlagState
    runs: Runs
    breaker: Breaker

    def decide(self, request: RouteRequest) -> Decision:
        """The decision before the body is read. A closed breaker's trial is given back, unless it streams."""
        settings = request.route.settings
        breaker_open = self.breaker.is_open(monotonic())
        question = Question(
            flag=settings.flag,
            source=settings.source,
            sources=settings.sources,
            context=None if request.identity is None else request.identity.context(settings.name),
            accept=request.may_stream,
            breaker_open=breaker_open,
            overloaded=self.is_full(request),
        )
        decision = decide(question, self.flags)
        if decision.mode is Mode.STREAM and request.accept is Accept.NONE and decision.source in MADE_HERE:
            decision = _as_batch(decision)
        if not breaker_open and decision.mode is not Mode.STREAM:
            self.breaker.give_back_trial()
        # A batch request gets the upstream's own call and nothing beside it, unless it is dark.
        if decision.mode is Mode.BATCH and not (decision.reason is Reason.DARK and _can_be_dark(request)):
            return replace(decision, source="batch")
        return decision

    async def with_body(self, request: RouteRequest, decision: Decision) -> Decision:
        """Decide again about a plain request that would be a run because it names one.

        It is batch if no run can answer it as well: its body is too long to be held, or asks the upstream
        for a stream of its own.
        """
        if not request.is_well_framed:
            return decision
        body = await read_ahead(request.client, request.reservation)
        if body is not None and not asks_to_stream(body):
            return decision
        self.breaker.give_back_trial()
        return _as_batch(decision)

    def is_full(self, request: RouteRequest) -> bool:
        """True if no run may begin: the route has as many as it may have, or the principal has."""
        principal = None if request.identity is None else request.identity.principal
        runs, route = self.runs, request.route
        return not (runs.has_room(route, principal) and runs.has_share(route, request.identity))

    def names_run(self, request: RouteRequest) -> bool:
        """True if a request names a run, in whatever way."""
        names = request.run_id is not None or request.idempotency_key is not None
        return names or last_event(request.headers) is not None

    async def names_known_run(self, request: RouteRequest) -> bool:
        """True if a request names a run that exists: then its call must not be repeated, whatever is decided.

        A reconnect names one even when the run is gone: it gets a 404, and starts nothing.
        """
        identity = request.identity
        cursor = last_event(request.headers)
        run_id = None if cursor is None else run_of(cursor)
        if run_id is not None and is_random_id(run_id.encode()):
            return True
        if run_id is None and request.run_id is not None:
            run_id = request.run_id.decode("latin-1")
        key = None
        if request.idempotency_key is not None and identity is not None and request.route.settings.join:
            key = digest_of_key(identity, request.route.name, request.idempotency_key)
        return (run_id or key) is not None and await self.runs.knows(run_id, key, identity)


def asks_to_stream(body: bytes) -> bool:
    """True if a request asks the upstream for a stream of its own; sometimes true of one that does not."""
    return _ASKS_TO_STREAM.search(body) is not None


def _as_batch(decision: Decision) -> Decision:
    """A batch client gets the upstream's own answer, whatever else its request names."""
    return replace(decision, mode=Mode.BATCH, source="batch", reason=Reason.ACCEPT)


def _can_be_dark(request: RouteRequest) -> bool:
    """True if a dark answer can be relayed: not to a client that accepts nothing but events."""
    return request.accept is not Accept.ONLY_STREAM
