"""Copies the runs of this process to the store, in the background.

A run's log in memory is the truth, and the queue of what is yet to be copied: a store that is down makes the
copy late, never the run. One task copies all runs: a round trip carries what is new of every run, up to
`ROUND_BYTES`.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable

from proxy.errors import StoreDown
from proxy.observe.spans.ports import RunSpan
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.lease import ReplicaLease
from proxy.replicas.placement import part
from proxy.replicas.run_copy import REFRESH_S, CopyState, CopyWrite, RunCopy
from proxy.replicas.store.records import Keys, StoredMeta
from proxy.replicas.store.scripts import ABANDON
from proxy.replicas.store.sealing import Box
from proxy.replicas.store.valkey import Command, Link, StoreBusy
from proxy.runs.run import Run

logger = logging.getLogger("headgate.event_log")

PAUSE_S = 0.01
"""Between a new event and the round trip that carries it, so that 100 runs share one. A text that is late by
that much still reaches a viewer at another replica in a tenth of a second."""

MAX_PAUSES = 4
"""With several shards the pause is as many times longer, at most so often: a round trip costs a shard as much
as dozens of events, and each gets fewer of them."""

ROUND_BYTES = 1024 * 1024
"""About the most that one round trip carries. A large answer takes several, and others have their turn."""

ROUND_S = 2.0
"""The longest that a round trip may take. No viewer waits for it."""

BACKLOG_BYTES = 64 * 1024 * 1024
"""Ended runs that wait for a store that is down, in bytes of their logs and answers; the oldest go first."""


class Mirror:
    """All copies of this process.

    Args:
        ttl_s: how long the store keeps a run after its end.
        on_fault: called with a run in flight that is not copied as it should be; at most once for each.
        on_taken_over: called with a run that another replica executes from now on.
        keep: makes the command that counts a run which is stored whole, and has ended.
        shards: of the store; each has a part of `BACKLOG_BYTES`.
    """

    def __init__(  # noqa: PLR0913 - most are callbacks
        self,
        link: Link,
        lease: ReplicaLease,
        keys: Keys,
        ttl_s: float,
        on_fault: Callable[[Run], None],
        on_taken_over: Callable[[Run], None],
        keep: Callable[[RunCopy], Command],
        *,
        shards: int = 1,
    ) -> None:
        self._link = link
        self._health = link.health
        self._lease = lease
        self._keys = keys
        self._ttl_ms = int(ttl_s * 1000)
        self._on_fault = on_fault
        self._on_taken_over = on_taken_over
        self._keep = keep
        self._pause_s = PAUSE_S * min(shards, MAX_PAUSES)
        self._backlog_bytes = part(BACKLOG_BYTES, shards)
        self._copies: dict[str, RunCopy] = {}
        self._ended: dict[str, RunCopy] = {}
        """Those of them whose runs have ended: they are few, as long as the store answers."""
        self._behind: dict[str, None] = {}
        self._final: dict[str, Command] = {}
        """The last command for each run that is copied no more, by their ids."""
        self._has_work = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # What is copied.

    def prepare(self, run: Run, stored: StoredMeta, box: Box) -> RunCopy:
        """A copy of which nothing is stored yet."""
        reference, now = weakref.ref(run), self._loop.time()
        has_job = run.job is not None
        return RunCopy(
            run.id, run.log, reference, stored, run.times_asked, has_job, box, self._keys, self._ttl_ms, now
        )

    def continue_copy(self, run: Run, followed: FollowedRun) -> None:
        """Copy from now on a run that this replica has taken over; the log so far is stored."""
        copy = self.prepare(run, followed.stored, followed.box)
        copy.seq = len(followed.log)
        copy.parts = list(followed.parts)
        self.add(copy, claimed=True)

    def add(self, copy: RunCopy, *, claimed: bool) -> None:
        """Copy a run from now on.

        Args:
            claimed: the store has the run's meta.
        """
        run = copy.known_run
        assert run is not None
        copy.has_meta = claimed
        reference = weakref.ref(copy)  # a log that is in a cycle with its copy would outlive its run
        copy.wake = lambda: self._woken(reference())
        copy.run = weakref.ref(run, lambda _: self._never_executed(reference()))
        self._copies[copy.id] = copy
        copy.log.subscribe(copy.wake, first=True)
        if copy.stored.meta.has_request:
            copy.log.doubt = lambda: self._is_doubtful(reference())
        if not claimed:
            self.count_fault(copy)
            self._mark_behind(copy.id)
        if len(copy.log):
            copy.wake()

    def abandon(self, copy: RunCopy) -> None:
        """Withdraw the claim of a run that will not be executed."""
        self._remove(copy)
        names = [self._keys.run(copy.id), self._keys.request(copy.id), *copy.join_keys]
        self._final[copy.id] = ABANDON(names, copy.stored.value, copy.id)
        self._has_work.set()

    def replaceable(self, key: str) -> str:
        """The id of the run of this process that has ended and may still have this join key; or empty."""
        found = (copy.id for copy in self._ended.values() if key in copy.keys_until_end)
        return next(found, "")

    def is_in_doubt(self, run_id: str) -> bool:
        """True if another replica may have taken over a run of this process, as far as the store has said."""
        copy = self._copies.get(run_id)
        return copy is not None and copy.is_in_doubt

    def can_be_taken_over(self, run_id: str) -> bool:
        """True if the store has all that another replica needs to go on with a run of this process."""
        copy = self._copies.get(run_id)
        return (
            copy is not None
            and copy.has_meta
            and copy.stored.meta.has_request
            and not copy.log.ended
            and (copy.has_job or copy.may_be_asked_again)
        )

    def has(self, run_id: str) -> bool:
        return run_id in self._copies

    def in_flight(self, run_id: str) -> Run | None:
        """The run of this id in this shard, if this process executes it."""
        copy = self._copies.get(run_id)
        return None if copy is None or copy.log.ended else copy.known_run

    def span_of(self, run_id: str) -> RunSpan | None:
        """The span of a run of this process that is in flight."""
        copy = self._copies.get(run_id)
        run = None if copy is None else copy.known_run
        return None if run is None else run.call.span

    def doubt_all(self) -> None:
        """Check all copies: the store may have lost its memory, or others may think this process dead."""
        for copy in self._copies.values():
            copy.is_in_doubt = copy.stored.meta.has_request
            self._mark_behind(copy.id)

    def refresh(self) -> None:
        """Extend the time to live of runs that have nothing new."""
        due = self._loop.time() - REFRESH_S
        for copy in self._copies.values():
            if copy.refreshed_at < due:
                self._mark_behind(copy.id)

    def count_fault(self, copy: RunCopy) -> None:
        """Count that a run is not copied as it should be; once, and only while the run is in flight."""
        run = copy.known_run
        if run is not None and not copy.has_fault and not copy.log.ended:
            copy.has_fault = True
            self._on_fault(run)

    # The task.

    async def mirror(self) -> None:
        """Copy new entries to the store until the task is cancelled."""
        while True:
            await self._has_work.wait()
            await asyncio.sleep(self._pause_s)
            self._has_work.clear()
            try:
                await self.flush()
            except StoreBusy:
                await asyncio.sleep(self._pause_s)
            except StoreDown:
                for copy in list(self._copies.values()):
                    self.count_fault(copy)
                self.bound_backlog()
                await self._health.up.wait()

    async def flush(self) -> None:
        """Copy the entries that are new now.

        Raises:
            StoreDown: what was not copied stays in the queue.
        """
        while self._behind or self._final:
            await self._round()

    async def _round(self) -> None:
        final, self._final = self._final, {}
        writes = self._next_writes()
        commands = [command for _, write in writes for command in write.commands]
        try:
            replies = await self._link.call(*final.values(), *commands) if final or commands else []
        except BaseException:
            self._final = final | self._final
            for copy, _ in writes:
                self._mark_behind(copy.id)
            raise
        remaining = iter(replies[len(final) :])
        for copy, write in writes:
            own = [next(remaining) for _ in write.commands]
            if copy.id in self._copies:
                self._follow(copy, copy.apply(write, own))

    def _next_writes(self) -> list[tuple[RunCopy, CopyWrite]]:
        writes: list[tuple[RunCopy, CopyWrite]] = []
        room, now = ROUND_BYTES, self._loop.time()
        for run_id in list(self._behind):
            if room <= 0:
                break
            del self._behind[run_id]
            copy = self._copies.get(run_id)
            if copy is None:
                continue
            try:
                write = copy.next_write(room, now)
            except Exception:  # one run that cannot be copied must not keep the others from it
                logger.exception("run not copied", extra={"run": copy.id})
                self._remove(copy)
                continue
            writes.append((copy, write))
            room -= write.size_bytes
        return writes

    def _follow(self, copy: RunCopy, state: CopyState) -> None:
        match state:
            case CopyState.BEHIND:
                self._mark_behind(copy.id)
            case CopyState.COMPLETE:
                self._remove(copy)
                self._final[copy.id] = self._keep(copy)
            case CopyState.LOST:
                logger.warning("run ended elsewhere", extra={"run": copy.id})
                self.count_fault(copy)
                self._remove(copy)
            case CopyState.TAKEN_OVER:
                logger.warning("run is another replica's now", extra={"run": copy.id})
                self._remove(copy)
                copy.log.doubt = lambda: True
                run = copy.known_run
                assert run is not None
                self._on_taken_over(run)

    # Inside.

    def _mark_behind(self, run_id: str) -> None:
        self._behind[run_id] = None
        self._has_work.set()

    def _is_doubtful(self, copy: RunCopy | None) -> bool:
        """True if new entries of a log must not be shown yet. While the store is down, no replica takes a run
        over."""
        if copy is None:
            return False
        may_be_lost = copy.is_in_doubt or self._lease.may_be_lost(self._loop.time())
        return may_be_lost and self._health.up.is_set()

    def _never_executed(self, copy: RunCopy | None) -> None:
        if copy is not None:
            self.abandon(copy)

    def _woken(self, copy: RunCopy | None) -> None:
        if copy is None:
            return
        if isinstance(copy.run, weakref.ref):
            run = copy.run()
            if run is None or not (len(copy.log) or copy.is_request_old(run)):
                return
            copy.run = run
        if copy.log.ended:
            copy.ended_at = self._loop.time()
            self._ended[copy.id] = copy
        self._mark_behind(copy.id)

    def _remove(self, copy: RunCopy) -> None:
        copy.log.unsubscribe(copy.wake)
        copy.log.doubt = lambda: False
        if self._copies.get(copy.id) is copy:
            del self._copies[copy.id]
            self._ended.pop(copy.id, None)
        self._behind.pop(copy.id, None)

    def bound_backlog(self) -> None:
        """Give up the oldest ended runs over `BACKLOG_BYTES`, and those whose time to live is over."""
        ended = list(self._ended.values())
        over = sum(copy.size_bytes for copy in ended) - self._backlog_bytes
        oldest = self._loop.time() - self._ttl_ms / 1000
        for copy in ended:
            if over <= 0 and copy.ended_at > oldest:
                break
            over -= copy.size_bytes
            logger.warning("run not copied", extra={"run": copy.id})
            self._remove(copy)
