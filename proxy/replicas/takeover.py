"""What becomes of a followed run whose replica is gone: another takes it over, or it ends, truthfully.

Each replica that follows it comes to this by itself. The store lets the first one through: a script that goes
by the meta that was seen, so that there is one new meta for an old one, and by the end of the log, so that a
run which ended at the last moment is not executed again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Protocol

from proxy.identity import Identity
from proxy.replicas.followed_run import FAILURES, REPLICA_LOST, FollowedRun
from proxy.replicas.records import LIVE_TTL_MS, Keys, StoredEnd, StoredMeta, entry_plain
from proxy.replicas.scripts import APPEND, DONE, FENCED, GONE, MISMATCH, TAKE_OVER, WITHDRAWN, result_of
from proxy.replicas.sealing import Unsealable
from proxy.replicas.stored_requests import StoredRequest
from proxy.replicas.valkey import Link
from proxy.runs.recovery import MAX_TIMES
from proxy.runs.run import CANCELLED, Call, Continuation, Run
from proxy.settings.routes import Route
from proxy.text.event_log import LogEntry
from proxy.upstream.client import Request

logger = logging.getLogger("headgate.event_log")

YIELD_S = 2.0
"""How much longer a replica that has no room for a run waits before it ends it: another may have room."""


@dataclass(frozen=True, slots=True)
class TakenOverRun:
    """A run that was taken over, and all that is needed to go on with it."""

    run_id: str
    route: Route
    target: bytes
    principal: str | None
    order: StoredRequest
    beginning: Continuation

    @property
    def call(self) -> Call:
        order = self.order
        return Call(
            self.route, order.parameters, Request(order.method, self.target, order.headers, order.body)
        )

    @property
    def identity(self) -> Identity | None:
        user = self.order.user
        return None if self.principal is None or user is None else Identity(self.principal, user)


class TakeoverPort(Protocol):
    """Who executes what is taken over."""

    def may_take(self, route: Route, source: str) -> bool:
        """Whether there is room for a run, and the source that was decided for it."""
        ...

    def take(self, taken: TakenOverRun) -> Run:
        """Execute a run from now on."""
        ...

    def lost(self, run: FollowedRun) -> None:
        """Count a run that nobody goes on with. Of all replicas, this one has ended it."""
        ...


class LostRunAction(Enum):
    """What is to become of a run whose replica is gone."""

    TAKE = auto()
    LEAVE = auto()
    """Another replica may take it."""
    LOSE = auto()
    CANCEL = auto()


def fate(run: FollowedRun, order: StoredRequest | None, *, has_room: bool) -> LostRunAction:
    """Pure.

    Args:
        run: whose replica is gone.
        order: None if there is none in the store.
        has_room: whether this replica may execute it.
    """
    if not run.meta.has_request or run.route.settings.replay != "safe":
        return LostRunAction.LOSE
    if order is None:  # it was there, and the run goes on: only who cancels a run withdraws it
        return LostRunAction.CANCEL
    if order.times_asked >= MAX_TIMES:
        return LostRunAction.LOSE
    return LostRunAction.TAKE if has_room else LostRunAction.LEAVE


@dataclass(slots=True)
class _Claim:
    """An attempt to take a run over. Kept until the store has answered: it may be ours already."""

    run: FollowedRun
    seen: bytes
    """The fence of the meta that it goes by."""
    order: StoredRequest
    """As it was found."""
    stored: StoredMeta
    """The new one."""
    sealed_order: bytes
    is_cancelled: bool = False


class Takeover:
    """The lost runs that are followed here.

    Args:
        ask: where the store is.
        replica: this one's name.
        ttl_ms: of a run after its end.
        taken: called with a run that is executed here from now on, and what there was of it.
        cancel: called with the id of a run that is executed here, and that somebody has ended.
    """

    def __init__(
        self,
        ask: Link,
        keys: Keys,
        replica: str,
        ttl_ms: int,
        heir: TakeoverPort,
        taken: Callable[[Run, FollowedRun], None],
        cancel: Callable[[str], None],
    ) -> None:
        self._ask = ask
        self._keys = keys
        self._replica = replica
        self._ttl_ms = ttl_ms
        self._heir = heir
        self._taken = taken
        self._cancel = cancel
        self._bids: dict[str, _Claim] = {}

    async def settle_bids(self) -> None:
        """Ask again what the store did not answer.

        Raises:
            StoreDown: it still does not.
        """
        for bid in list(self._bids.values()):
            await self._take(bid)

    def cancel(self, run_id: str) -> None:
        """Somebody ends a run that is perhaps being taken over just now."""
        bid = self._bids.get(run_id)
        if bid is not None:
            bid.is_cancelled = True

    async def lose(self, run: FollowedRun, overdue_s: float) -> None:
        """The replica of a run is gone.

        Args:
            run: that nobody executes.
            overdue_s: since when all that follow it may have known.

        Raises:
            StoreDown: it is to be tried again.
        """
        if run.id in self._bids:
            return
        try:
            order = await self._order(run) if run.meta.has_request else None
        except Unsealable as exc:
            logger.error("stored order cannot be read", extra={"run": run.id, "why": str(exc)})
            await self._end(run, REPLICA_LOST)
            return
        has_room = order is not None and self._heir.may_take(run.route, order.decision.source)
        match fate(run, order, has_room=has_room):
            case LostRunAction.TAKE if order is not None and (bid := self._bid(run, order)) is not None:
                self._bids[run.id] = bid
                await self._take(bid)
            case LostRunAction.LEAVE if overdue_s < YIELD_S:
                return
            case LostRunAction.CANCEL:
                await self._end(run, CANCELLED)
            case _:
                await self._end(run, REPLICA_LOST)

    async def _order(self, run: FollowedRun) -> StoredRequest | None:
        [value] = await self._ask.call(("GET", self._keys.request(run.id)))
        return StoredRequest.opened(run.box, value) if isinstance(value, bytes) else None

    def _bid(self, run: FollowedRun, order: StoredRequest) -> _Claim | None:
        meta = replace(run.meta, owner=self._replica, generation=run.meta.generation + 1)
        sealed = replace(order, times_asked=order.times_asked + 1).sealed(run.box)
        if sealed is None:
            return None
        return _Claim(run, run.stored.fence, order, StoredMeta.seal(meta, run.box), sealed)

    async def _take(self, bid: _Claim) -> None:
        run = bid.run
        if run.log.ended:
            await self._give_up(bid)
            return
        keys, seq = self._keys, len(run.log)
        names = [keys.run(run.id), keys.request(run.id), keys.log(run.id), *run.meta.join_keys]
        command = TAKE_OVER(names, bid.seen, seq, LIVE_TTL_MS, bid.stored.value, bid.sealed_order, run.id)
        what, at, value = result_of((await self._ask.call(command))[0])
        del self._bids[run.id]
        if what == MISMATCH and at > seq:
            return  # the reader comes to what is new; if the replica is gone all the same, there is a new bid
        if what == DONE:
            self._execute(bid)
        elif what == FENCED:
            adopt(run, value)
        elif what == WITHDRAWN:
            adopt(run, value)
            await self._end(run, CANCELLED)
        elif what in {GONE, MISMATCH}:
            await self._end(run, REPLICA_LOST)

    async def _give_up(self, bid: _Claim) -> None:
        """Its viewers here were told of an end, since the store did not answer for long, or because of a
        mistake of ours. If the run is this replica's by now, nobody else would end it for the others.
        """
        run = bid.run
        if run.failure is not None:
            terminal = run.log.after(len(run.log) - 1)[0]
            await self._store_end(run, bid.stored.fence, terminal, run.failure.code)
        del self._bids[run.id]

    def _execute(self, bid: _Claim) -> None:
        try:
            self._go_on(bid)
        except Exception:  # the store says that it is executed here, so nobody else would end it
            logger.exception("run not taken over", extra={"run": bid.run.id})
            bid.run.end(REPLICA_LOST)
            self._bids[bid.run.id] = bid

    def _go_on(self, bid: _Claim) -> None:
        followed = bid.run
        logger.warning("run taken over", extra={"run": followed.id, "generation": bid.stored.meta.generation})
        beginning = followed.beginning(bid.order.times_asked)
        followed.stored = bid.stored
        meta = followed.meta
        run = self._heir.take(
            TakenOverRun(followed.id, followed.route, followed.target, meta.principal, bid.order, beginning)
        )
        followed.execute(run)
        self._taken(run, followed)
        if bid.is_cancelled:
            self._cancel(run.id)

    async def _end(self, run: FollowedRun, code: str) -> None:
        """Tell viewers, in the store and here. Of all replicas, one is the first."""
        if run.log.ended:
            return
        seq, entry = len(run.log), run.terminal(code)
        what, at, value = await self._store_end(run, run.stored.fence, entry, code)
        if what == FENCED:
            adopt(run, value)
            return
        if what == MISMATCH and at > seq:
            return  # there is news, maybe of this very end; the reader takes it
        logger.warning("replica lost", extra={"run": run.id, "told": code})
        if what == DONE and code == REPLICA_LOST:
            self._heir.lost(run)
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
        command = APPEND(
            names, fence, entry.seq - 1, ttl_ms, ttl_ms, end, b"", len(join_keys), 0, run.id, sealed
        )
        return result_of((await self._ask.call(command))[0])


def adopt(run: FollowedRun, value: bytes) -> None:
    """Another replica executes a run now: follow that one. What cannot be read changes nothing."""
    try:
        run.stored = StoredMeta.open(run.box, value)
    except Unsealable as exc:
        logger.error("stored run cannot be read", extra={"run": run.id, "why": str(exc)})
