"""The fate of a lost run (its replica is gone): another replica takes it over, or it ends with an error.

Each replica that follows a lost run acts by itself, and the store lets one of them through: a script refuses
a replica that has not seen the newest meta, and one that comes when the log has its end already.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Protocol

from proxy.identity import Identity
from proxy.observe.spans.ports import RunSpans
from proxy.observe.spans.request_ids import ids_of, work_of
from proxy.replicas.followed_run import FAILURES, REPLICA_LOST, FollowedRun
from proxy.replicas.store.records import LIVE_TTL_MS, Keys, StoredEnd, StoredMeta, StoredRequest, entry_plain
from proxy.replicas.store.scripts import APPEND, DONE, FENCED, GONE, MISMATCH, TAKE_OVER, WITHDRAWN, result_of
from proxy.replicas.store.sealing import Unsealable
from proxy.replicas.store.valkey import Link
from proxy.runs.call import JOB, Call, Continuation
from proxy.runs.ending import CANCELLED
from proxy.runs.recovery import MAX_TIMES
from proxy.runs.run import Run
from proxy.settings.routes import Route
from proxy.text.event_log import LogEntry
from proxy.upstream.client import Request

logger = logging.getLogger("headgate.event_log")

YIELD_S = 2.0
"""Seconds that a replica without room for a lost run waits before it ends the run: another may have room."""


@dataclass(frozen=True, slots=True)
class TakenOverRun:
    """A run that this replica has taken over, and all that is needed to go on with it."""

    run_id: str
    route: Route
    target: bytes
    principal: str | None
    request: StoredRequest
    continuation: Continuation

    span: str | None
    """The context of the span that the run had; None: it had none, or it is not known."""

    def call(self, spans: RunSpans | None = None) -> Call:
        """The call, with spans where the run had one."""
        stored = self.request
        headers, span = stored.headers, None
        if spans is not None:
            source, generation = stored.decision.source, self.continuation.generation
            span = spans.go_on(stored.method, headers, self.route.name, source, generation, self.span)
        if span is not None:
            headers = span.headers
        request = Request(stored.method, self.target, headers, stored.body)
        return Call(self.route, stored.parameters, request, span=span)

    @property
    def identity(self) -> Identity | None:
        user = self.request.user
        return None if self.principal is None or user is None else Identity(self.principal, user)


class TakeoverPort(Protocol):
    """Executes the runs that this replica takes over."""

    def may_take(self, run: FollowedRun, source: str) -> bool:
        """True if there is room for the run, and the source that was decided for it."""
        ...

    def take(self, taken: TakenOverRun) -> Run:
        """Execute a run from now on."""
        ...

    def lost(self, run: FollowedRun) -> None:
        """Count a run that no replica goes on with. Of all replicas, this one has ended it."""
        ...


class LostRunAction(Enum):
    """The steps that a replica can take for a lost run."""

    TAKE = auto()
    LEAVE = auto()
    """Wait: another replica may take it."""
    LOSE = auto()
    CANCEL = auto()


def action_for(run: FollowedRun, request: StoredRequest | None, *, has_room: bool) -> LostRunAction:
    """Decide the step for a lost run. Pure.

    Args:
        request: None if the store has none.
        has_room: whether this replica may execute the run.
    """
    if not run.meta.has_request:
        return LostRunAction.LOSE
    is_safe = run.route.settings.replay == "safe"
    if request is None:  # only a cancel withdraws the request of a run in flight
        return LostRunAction.CANCEL if is_safe or run.meta.source == JOB else LostRunAction.LOSE
    if request.job is None and (not is_safe or request.times_asked >= MAX_TIMES):
        return LostRunAction.LOSE
    return LostRunAction.TAKE if has_room else LostRunAction.LEAVE


@dataclass(slots=True)
class _Claim:
    """An attempt to take a run over. Kept until the store has answered, for it may have succeeded already."""

    run: FollowedRun
    fence: bytes
    """The fence of the meta that the attempt relies on."""
    request: StoredRequest
    """The stored request as it was found."""
    stored: StoredMeta
    """The new meta."""
    sealed_request: bytes
    is_cancelled: bool = False


class Takeover:
    """The lost runs that are followed here.

    Args:
        replica: this one's name.
        ttl_ms: how long the store keeps a run after its end.
        on_taken: called with a run that this replica executes from now on, and its copy so far.
        on_cancelled: called with a run that this replica has taken over, and that a client has cancelled
            meanwhile.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        replica: str,
        ttl_ms: int,
        executor: TakeoverPort,
        on_taken: Callable[[Run, FollowedRun], None],
        on_cancelled: Callable[[Run], None],
    ) -> None:
        self._link = link
        self._keys = keys
        self._replica = replica
        self._ttl_ms = ttl_ms
        self._executor = executor
        self._on_taken = on_taken
        self._on_cancelled = on_cancelled
        self._claims: dict[str, _Claim] = {}

    async def retry_claims(self) -> None:
        """Repeat the claims that the store has not answered.

        Raises:
            StoreDown: it still does not answer.
        """
        for claim in list(self._claims.values()):
            await self._claim(claim)

    def cancel(self, run_id: str) -> None:
        """A client cancels a run, which this replica may be taking over just now."""
        claim = self._claims.get(run_id)
        if claim is not None:
            claim.is_cancelled = True

    async def handle_lost(self, run: FollowedRun, overdue_s: float) -> None:
        """Take a lost run over, leave it for another replica, or end it.

        Args:
            overdue_s: how long ago each replica that follows the run could know that it is lost.

        Raises:
            StoreDown: the caller is to try again.
        """
        if run.id in self._claims:
            return
        try:
            request = await self._stored_request(run) if run.meta.has_request else None
        except Unsealable as exc:
            logger.error("stored request cannot be read", extra={"run": run.id, "why": str(exc)})
            await self._end(run, REPLICA_LOST)
            return
        has_room = request is not None and self._executor.may_take(run, request.decision.source)
        match action_for(run, request, has_room=has_room):
            case LostRunAction.TAKE if (claim := self._new_claim(run, request)) is not None:
                self._claims[run.id] = claim
                await self._claim(claim)
            case LostRunAction.LEAVE if overdue_s < YIELD_S:
                return
            case LostRunAction.CANCEL:
                await self._end(run, CANCELLED)
            case _:
                await self._end(run, REPLICA_LOST)

    async def _stored_request(self, run: FollowedRun) -> StoredRequest | None:
        [value] = await self._link.call(("GET", self._keys.request(run.id)))
        return StoredRequest.opened(run.box, value) if isinstance(value, bytes) else None

    def _new_claim(self, run: FollowedRun, request: StoredRequest | None) -> _Claim | None:
        if request is None:
            return None
        meta = replace(run.meta, owner=self._replica, generation=run.meta.generation + 1)
        times = request.times_asked + (request.job is None)
        sealed = replace(request, times_asked=times).sealed(run.box)
        if sealed is None:
            return None
        return _Claim(run, run.stored.fence, request, StoredMeta.seal(meta, run.box), sealed)

    async def _claim(self, claim: _Claim) -> None:
        run = claim.run
        if run.log.ended:
            await self._drop(claim)
            return
        keys, seq = self._keys, len(run.log)
        names = [keys.run(run.id), keys.request(run.id), keys.log(run.id), *run.meta.join_keys]
        new = (claim.stored.value, claim.sealed_request)
        command = TAKE_OVER(names, claim.fence, seq, LIVE_TTL_MS, *new, run.id)
        result, last_seq, value = result_of((await self._link.call(command))[0])
        del self._claims[run.id]
        if result == MISMATCH and last_seq > seq:
            return  # the tail reads the new entries; if the run is lost all the same, there is a new claim
        if result == DONE:
            self._execute(claim)
        elif result == FENCED:
            follow_owner(run, value)
        elif result == WITHDRAWN:
            follow_owner(run, value)
            await self._end(run, CANCELLED)
        elif result in {GONE, MISMATCH}:
            await self._end(run, REPLICA_LOST)

    async def _drop(self, claim: _Claim) -> None:
        """Drop the claim of a run whose viewers here have seen an end: the store did not answer for long, or
        this replica made a mistake. If the run is this replica's by now, no other would end it for its
        viewers.
        """
        run = claim.run
        if run.failure is not None:
            terminal = run.log.after(len(run.log) - 1)[0]
            await self._store_end(run, claim.stored.fence, terminal, run.failure.code)
        del self._claims[run.id]

    def _execute(self, claim: _Claim) -> None:
        try:
            with work_of(ids_of(claim.request.headers)):
                self._go_on(claim)
        except Exception:  # the store says that the run is executed here, so no other replica would end it
            logger.exception("run not taken over", extra={"run": claim.run.id})
            claim.run.end(REPLICA_LOST)
            self._claims[claim.run.id] = claim

    def _go_on(self, claim: _Claim) -> None:
        followed, request = claim.run, claim.request
        generation = claim.stored.meta.generation
        logger.warning("run taken over", extra={"run": followed.id, "generation": generation})
        continuation = followed.continuation(request.times_asked, request.job)
        followed.stored = claim.stored
        principal = followed.meta.principal
        run = self._executor.take(
            TakenOverRun(
                followed.id, followed.route, followed.target, principal, request, continuation, followed.span
            )
        )
        followed.execute(run)
        self._on_taken(run, followed)
        if claim.is_cancelled:
            self._on_cancelled(run)

    async def _end(self, run: FollowedRun, code: str) -> None:
        """End a run for all viewers, in the store and here. The store lets only the first replica do so."""
        if run.log.ended:
            return
        seq, entry = len(run.log), run.terminal(code)
        result, last_seq, value = await self._store_end(run, run.stored.fence, entry, code)
        if result == FENCED:
            follow_owner(run, value)
            return
        if result == MISMATCH and last_seq > seq:
            return  # the tail reads the new entries, maybe this very end
        logger.warning("replica lost", extra={"run": run.id, "told": code})
        if result == DONE and code == REPLICA_LOST:
            self._executor.lost(run)
        if len(run.log) == seq:
            run.end(code)

    async def _store_end(
        self, run: FollowedRun, fence: bytes, entry: LogEntry, code: str
    ) -> tuple[int, int, bytes]:
        keys, join_keys, ttl_ms = self._keys, run.meta.join_keys, self._ttl_ms
        names = [keys.run(run.id), keys.log(run.id), keys.end(run.id), keys.request(run.id)]
        names += [*join_keys, *run.parts]
        end = StoredEnd(FAILURES[code], None, 0).sealed(run.box)
        sealed = run.box.seal("entry", entry.seq, entry_plain(entry))
        counts = (len(join_keys), 0)
        command = APPEND(names, fence, entry.seq - 1, ttl_ms, ttl_ms, end, b"", *counts, run.id, sealed)
        return result_of((await self._link.call(command))[0])


def follow_owner(run: FollowedRun, value: bytes) -> None:
    """Another replica executes a run now: follow that one. A meta that cannot be opened changes nothing."""
    try:
        run.follow(StoredMeta.open(run.box, value))
    except Unsealable as exc:
        logger.error("stored run cannot be read", extra={"run": run.id, "why": str(exc)})
