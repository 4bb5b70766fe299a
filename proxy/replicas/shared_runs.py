"""The runs of all replicas, shared through Valkey: `proxy.runs.shared.SharedRuns` over a shard of the store.

A run's own log, in the memory of the replica that executes it, is the truth. It is copied to the store
(`mirror.py`), and from there to the replicas where it has viewers (`followed_runs.py`). While the store is
down, replicas do not see each other's runs, and each goes on with its own.

Each process is a replica of its own, and renews its lease, a key that expires. Replicas that follow the runs
of one without a lease take them over, or end them (`takeover.py`).
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from time import time
from types import TracebackType
from typing import Any, Self

from proxy.errors import StoreDown
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.followed_runs import FollowedRuns
from proxy.replicas.lease import LEASE_S, FailureDetector, ReplicaLease
from proxy.replicas.log_tail import BLOCK_MS, LogTail
from proxy.replicas.mirror import ROUND_S, Mirror
from proxy.replicas.run_copy import RunCopy
from proxy.replicas.run_spans import MAX_VIEWS, sealed_span, span_put, viewed_elsewhere, views
from proxy.replicas.shared_values import Messages, SharedDenylist, SharedTaps, SharedTickets
from proxy.replicas.store.records import (
    LIVE_TTL_MS,
    SPAN_TTL_MS,
    Keys,
    RunMeta,
    StoredMeta,
    StoredRequest,
    is_run_id,
)
from proxy.replicas.store.scripts import CLAIM, ENLIST, FENCED, KEEP, SCRIPTS, cancel, result_of
from proxy.replicas.store.sealing import Sealing
from proxy.replicas.store.valkey import CALL_S, Command, Health, Link
from proxy.replicas.stored_runs import StoredRuns
from proxy.replicas.takeover import Takeover, TakeoverPort
from proxy.runs.run import Run
from proxy.runs.shared import LiveRun, ViewableRun
from proxy.settings.blocks.store_address import StoreShard
from proxy.settings.routes import Route
from proxy.settings.settings import ValkeyLogSettings

logger = logging.getLogger("headgate.event_log")

TICK_S = 1.0
"""Seconds after which a replica renews its lease, and reads the leases of the others."""

WATCHED_S = 12.0
"""Seconds for which a message holds that a run is watched at another replica."""

WATCH_S = 4.0
"""Seconds between two such messages."""

MAX_KEPT_OF_USER = 1000
"""Ended runs of one principal in the store; the oldest go first."""

MAX_LISTED_OF_USER = 50
"""Runs of one principal that are looked at for those in flight; the oldest go first."""

LISTED_MS = 3_600_000
"""Milliseconds that the list of a principal's runs outlives the beginning of the last one."""

FLUSH_S = 3.0
"""Seconds at the end for copying the entries that are left."""

CANCEL_S = 1.0
"""Between two attempts to cancel this process's own tasks."""

RESTART_S = 1.0
"""After an unexpected error, before a task starts again."""


class ValkeyRuns:
    """The port to the other replicas; a context, which may be entered in one task and left in another.

    Leave it after the runs have ended, so that the others learn how they did.

    Args:
        settings: of the store.
        place: where this shard of it is.
        shards: how many there are. Each has a part of what this process may hold.
        routes: by their names.
        executor: executes the runs that this replica takes over.
        on_cancel: called with a run of this process that is cancelled at another replica.
        on_taken_over: called with a run of this process that another replica has taken over.
        on_fault: called with a run in flight that is not copied as it should be; at most once for each.
        on_tap: called with what the model ports of other replicas send to taps of this process.
        has_spans: whether runs have spans.
    """

    def __init__(  # noqa: PLR0913 - most are callbacks, by name
        self,
        settings: ValkeyLogSettings,
        place: StoreShard,
        routes: Mapping[str, Route],
        *,
        shards: int = 1,
        executor: TakeoverPort,
        on_cancel: Callable[[Run], None],
        on_taken_over: Callable[[Run], None],
        on_fault: Callable[[Run], None],
        on_tap: Callable[[Sequence[Any]], None],
        has_spans: bool = False,
        strict_tls: bool = True,
    ) -> None:
        self.replica = uuid.uuid4().hex
        self._loop = asyncio.get_running_loop()
        self.shard = place.name
        """Its name; empty: there is no other."""
        self._on_cancel = on_cancel
        self._on_tap = on_tap
        self._health = Health(shard=place.name)
        self.sealing = sealing_of(settings)
        self.keys = Keys(place.prefix)
        self.new_link = partial(
            Link, place.url, strict_tls=strict_tls, ca_file=settings.ca_file, prefix=place.prefix
        )
        link = partial(self.new_link, self._health, SCRIPTS)
        self._link, self._read_link = link(), link()
        self._tail_link = link(timeout_s=BLOCK_MS / 1000 + CALL_S)
        self._mirror_link = link(timeout_s=ROUND_S)
        shared = (self._link, self.keys, self.sealing)
        self._messages = Messages(*shared, self.replica)
        self.tickets = SharedTickets(*shared)
        self.taps = SharedTaps(*shared, self._messages, self.replica)
        self.denylist = SharedDenylist(*shared)
        self._is_watch_due = asyncio.Event()
        self._lease = ReplicaLease(self._loop.time())
        self._detector = FailureDetector()
        self._mirror = Mirror(
            self._mirror_link,
            self._lease,
            self.keys,
            settings.ttl_s,
            on_fault,
            on_taken_over,
            partial(self._kept, settings),
            shards=shards,
        )
        self._stored = StoredRuns(self._read_link, self.keys, self.sealing)
        self._tail = LogTail(
            self._tail_link, self._read_link, self.keys, self.replica, self._stored, self._receive
        )
        self._followed = FollowedRuns(
            self._stored,
            self._tail,
            routes,
            self.replica,
            self._is_watch_due.set,
            has_spans=has_spans,
            shards=shards,
        )
        ttl_ms = int(settings.ttl_s * 1000)
        self._takeover = Takeover(
            self._link, self.keys, self.replica, ttl_ms, executor, self._taken, on_cancel
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._has_lease = False
        self._watched_sent_at = 0.0
        self._spans_due: list[Command] = []
        """Commands that store the spans of runs that were taken over; at most as many as runs in flight."""
        self._watched: dict[str, float] = {}
        """Runs of this process, and when another replica has sent last that it watches them."""

    @property
    def followed(self) -> int:
        """Runs of other replicas that are followed now."""
        return len(self._followed)

    @property
    def is_up(self) -> bool:
        """True if the store took the last write."""
        return self._stored.is_up

    async def __aenter__(self) -> Self:
        try:
            await self._tick()
        except BaseException:
            await self._close()
            raise
        for work in (self._keep_ticking, self._mirror.mirror, self._tail.listen):
            self._tasks.append(self._loop.create_task(_unending(work)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._end_tasks()
            await self._followed.aclose()
            with contextlib.suppress(StoreDown, TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._mirror.flush()
            with contextlib.suppress(StoreDown):
                await self._link.call(("DEL", self.keys.replica(self.replica), self.keys.inbox(self.replica)))
        finally:
            await self._close()

    async def _end_tasks(self) -> None:
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            # Again, if need be: a library below may take a cancellation for its own.
            _, left = await asyncio.wait(left, timeout=CANCEL_S)

    async def _close(self) -> None:
        await self.denylist.aclose()
        for link in (self._link, self._read_link, self._tail_link, self._mirror_link):
            await link.aclose()

    # The port.

    async def claim(self, run: Run, keys: Sequence[str]) -> str | None:
        """See `SharedRuns`. The first key holds until the run's end, the others stay after it."""
        join_keys = self._join_keys(keys)
        box = self._stored.box(run.id)
        request = StoredRequest.of(run)
        sealed_request = (request.sealed(box) if request is not None else None) or b""
        meta = RunMeta(
            owner=self.replica,
            route=run.route.name,
            target=run.target.decode("latin-1"),
            principal=run.principal,
            fingerprint=run.fingerprint,
            decision_header=run.decision_header,
            source=run.source,
            started_at=time(),
            join_keys=join_keys,
            has_request=bool(sealed_request),
        )
        stored = StoredMeta.seal(meta, box)
        copy = self._mirror.prepare(run, stored, box)
        # The key of a run that has ended here can be replaced while the end is on its way to the store.
        replaceable = [self._mirror.replaceable(key) for key in join_keys]
        names = [self.keys.run(run.id), self.keys.request(run.id), self.keys.span(run.id), *join_keys]
        span = (sealed_span(run, box), SPAN_TTL_MS)
        commands = [CLAIM(names, LIVE_TTL_MS, stored.value, sealed_request, run.id, *span, *replaceable)]
        if run.principal is not None:
            began_ms = int(meta.started_at * 1000)
            whose = self._live_of(run.principal)
            commands.append(ENLIST([whose], LISTED_MS, MAX_LISTED_OF_USER, began_ms, run.id))
        try:
            other, *_ = await self._link.call(*commands)
        except StoreDown:
            self._mirror.add(copy, claimed=False)
            return None
        except BaseException:
            self._mirror.abandon(copy)
            raise
        if isinstance(other, bytes):
            return other.decode("latin-1")
        self._mirror.add(copy, claimed=True)
        return None

    async def find(self, run_id: str) -> ViewableRun | None:
        return await self._followed.find(run_id)

    async def live(self, principal: str) -> list[LiveRun]:
        try:
            stored = await self._stored.live(self._live_of(principal), MAX_LISTED_OF_USER)
        except StoreDown:
            return []
        now = time()
        return [
            LiveRun(run_id, meta.route, max(0.0, now - meta.started_at))
            for run_id, meta in stored
            if meta.principal == principal
        ]

    async def joinable(self, keys: Sequence[str]) -> str | None:
        names = self._join_keys(keys)
        if not names:
            return None
        [values] = await self._link.call(("MGET", *names))
        ids = {name: value.decode("latin-1") for name, value in zip(names, values, strict=True) if value}
        found = (run_id for name, run_id in ids.items() if run_id != self._mirror.replaceable(name))
        return next(found, None)

    async def name(self, key: str, run_id: str, ttl_s: float) -> None:
        [name] = self._join_keys([key])
        with contextlib.suppress(StoreDown):
            await self._link.call(("SET", name, run_id, "PX", int(ttl_s * 1000)))

    async def cancel(self, run: ViewableRun) -> None:
        if not is_run_id(run.id):
            return
        with contextlib.suppress(StoreDown):
            stored = await self._meta_of(run)
            while stored is not None:
                message = self._messages.sealed(stored.meta.owner, {"cancel": run.id})
                [reply] = await self._link.call(cancel(self.keys, run.id, stored, message))
                # If the run was taken over just now, the new owner gets the message. That happens at most as
                # often as a call may be sent.
                stored = await self._meta_of(run) if result_of(reply)[0] == FENCED else None

    async def keeps(self, run: Run) -> bool:
        # A lease that is held again says nothing of the time before: a process that was held up asks the
        # store.
        if not (self._lease.may_be_lost(self._loop.time()) or self._mirror.is_in_doubt(run.id)):
            return True
        try:
            stored = await self._meta_of(run)
        except StoreDown:
            return True
        return stored is None or stored.meta.owner == self.replica

    async def _meta_of(self, run: ViewableRun) -> StoredMeta | None:
        """The meta of a run, unless its id is another principal's by now: the store may lose its memory."""
        stored = await self._stored.meta(run.id)
        return stored if stored is not None and stored.meta.principal == run.principal else None

    def can_be_left(self, run_id: str) -> bool:
        return self.is_up and self._mirror.can_be_taken_over(run_id)

    def is_watched(self, run_id: str) -> bool:
        return self._loop.time() - self._watched.get(run_id, -WATCHED_S) < WATCHED_S

    def _join_keys(self, keys: Sequence[str]) -> list[str]:
        return [self.keys.join(self.sealing.name(key)) for key in keys]

    def _live_of(self, principal: str) -> str:
        return self.keys.live(self.sealing.name(f"live {principal}"))

    def _kept(self, settings: ValkeyLogSettings, copy: RunCopy) -> Command:
        whose = self.keys.kept(self.sealing.name(f"kept {copy.stored.meta.principal or ''}"))
        bounds = (int(settings.ttl_s * 1000), int(settings.bytes_of_user), MAX_KEPT_OF_USER)
        return KEEP(whose, *bounds, copy.id, copy.size_bytes, *copy.own_keys)

    # What other replicas do.

    def _receive(self, message: bytes) -> None:
        if not message:
            return
        content = self._messages.opened(message)
        if "cancel" in content:
            self._takeover.cancel(content["cancel"])
            run = self._mirror.in_flight(content["cancel"])
            if run is not None:
                self._on_cancel(run)
        self._on_tap(content.get("taps", ()))
        viewed_elsewhere(content.get("views", ()), self._mirror.span_of)
        now = self._loop.time()
        self._watched.update(
            {run_id: now for run_id in content.get("watched", ()) if self._mirror.has(run_id)}
        )

    def _taken(self, run: Run, copied: FollowedRun) -> None:
        self._followed.release(copied)
        self._mirror.continue_copy(run, copied)
        self._spans_due += span_put(self.keys, run, copied.box)

    # Every second.

    async def _keep_ticking(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._is_watch_due.wait()
            await self._tick()

    async def _tick(self) -> None:
        """Renew the lease, send messages and read the other leases. Its answer shows whether the store is
        back."""
        now = self._loop.time()
        commands = self._watch_messages(now)
        missed = list(self.taps.missed)
        self.taps.missed.clear()
        commands += [self.taps.count_command(token) for token in missed]
        commands += self._spans_due
        self._spans_due = []
        owners = list(self._followed.owners())
        if owners:
            commands.append(("MGET", *(self.keys.replica(owner) for owner in owners)))
        was_up = self._health.up.is_set()
        lease: Command = ("SET", self.keys.replica(self.replica), "1", "PX", int(LEASE_S * 1000), "GET")
        try:
            replies = await self._link.call(lease, *commands, probe=True)
        except StoreDown:
            self.taps.missed.extendleft(reversed(missed))
            self._detector.observe_nothing(owners)
            self._followed.end_blind()
            self._mirror.bound_backlog()
            return
        self._health.wrote()
        if not was_up or self._lease.may_be_lost(now) or (self._has_lease and replies[0] is None):
            self._mirror.doubt_all()
        self._has_lease = True
        self._lease.renew(now)
        self._mirror.refresh()
        self._followed.drop_idle()
        self._watched = {run_id: at for run_id, at in self._watched.items() if now - at < WATCHED_S}
        with contextlib.suppress(StoreDown):
            await self._takeover.retry_claims()
            if owners:
                await self._handle_lost(dict(zip(owners, replies[-1], strict=True)), now)

    def _watch_messages(self, now: float) -> list[Command]:
        """Tell the replicas that execute runs which of these have viewers here, if it is time to."""
        is_due = self._is_watch_due.is_set() or now - self._watched_sent_at >= WATCH_S
        self._is_watch_due.clear()
        if not is_due:
            return []
        self._watched_sent_at = now
        commands = []
        for owner, runs in self._followed.watched().items():
            content: dict[str, Any] = {"watched": [run.id for run in runs]}
            told = views(runs)
            if told:
                content["views"] = told
            if len(told) == MAX_VIEWS:
                self._is_watch_due.set()  # there may be more
            commands.append(self._messages.command(owner, content))
        return commands

    async def _handle_lost(self, leases: Mapping[str, bytes | None], now: float) -> None:
        self._detector.observe(leases, now)
        for replica in self._detector.returned():
            await self._followed.reload_metas(replica)
            self._detector.trust(replica)
        for replica, overdue_s in self._detector.lost(now):
            for run in self._followed.of(replica):
                await self._takeover.handle_lost(run, overdue_s)


async def _unending(work: Callable[[], Coroutine[None, None, None]]) -> None:
    while True:
        try:
            await work()
        except Exception:  # the task is needed until the process ends
            logger.exception("task of the log store failed")
            await asyncio.sleep(RESTART_S)


def sealing_of(settings: ValkeyLogSettings) -> Sealing:
    """The encryption that the settings of a store describe."""
    others = [key.get_secret_value() for key in settings.other_keys]
    names = None if settings.names_key is None else settings.names_key.get_secret_value()
    return Sealing(settings.key.get_secret_value(), others, names)
