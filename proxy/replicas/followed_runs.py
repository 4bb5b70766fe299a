"""The runs of other replicas that are followed here, because viewers here watch them.

What is stored of them is read by `stored_runs.py`, and what is new by `log_tail.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from proxy.replicas.followed_run import STORE_LOST, FollowedRun
from proxy.replicas.log_tail import LogTail
from proxy.replicas.placement import part
from proxy.replicas.store.records import is_run_id
from proxy.replicas.store.sealing import Unsealable
from proxy.replicas.store.valkey import StoreBusy
from proxy.replicas.stored_runs import StoredRuns, log_unreadable
from proxy.settings.routes import Route

logger = logging.getLogger("headgate.event_log")

MAX_FOLLOWED = 1000
"""Runs of other replicas that are followed at once. Over it, who asks for one more is to ask again."""

MAX_FOLLOWED_BYTES = 64 * 1024 * 1024
"""Over it, runs without viewers are dropped at once. Those that have viewers may be over it, by what the
replicas that execute them hold."""

LOOK_S = 1.0
"""Seconds between two looks at all followed runs, unless there are as many as may be."""

IDLE_S = 15.0
"""Seconds that a run without viewers is followed."""

BLIND_S = 30.0
"""Seconds that viewers wait for a store that does not answer, before their streams end."""


class FollowedRuns:
    """All followed runs of this process.

    Args:
        routes: by their names.
        replica: this one's name.
        on_watched: called when a run has got or lost a viewer.
        has_spans: whether the spans of runs are of use here.
        shards: of the store; each has a part of the bounds.
    """

    def __init__(
        self,
        stored: StoredRuns,
        tail: LogTail,
        routes: Mapping[str, Route],
        replica: str,
        on_watched: Callable[[], None],
        *,
        has_spans: bool,
        shards: int = 1,
    ) -> None:
        self._most, self._most_bytes = part(MAX_FOLLOWED, shards), part(MAX_FOLLOWED_BYTES, shards)
        self._has_spans = has_spans
        self._stored = stored
        self._tail = tail
        self._routes = routes
        self._replica = replica
        self._on_watched = on_watched
        self._by_id: dict[str, FollowedRun] = {}
        """The runs that requests can find. The tail may read more: runs that were released and have
        viewers."""
        self._finding: dict[str, asyncio.Task[FollowedRun | None]] = {}
        self._loop = asyncio.get_running_loop()
        self._dropped_at = 0.0
        self._room = self._most_bytes
        """Bytes that may come before the next look; negative if runs with viewers are over the bound."""
        tail.on_grown = self._count

    async def aclose(self) -> None:
        """End all copies: nothing fills them any more."""
        for task in self._finding.values():
            task.cancel()
        await asyncio.gather(*self._finding.values(), return_exceptions=True)
        await self._tail.aclose()

    def __len__(self) -> int:
        return len(self._tail.runs)

    # Finding.

    async def find(self, run_id: str) -> FollowedRun | None:
        """Read a whole run from the store. Callers that look for one run at the same time share the result.

        Raises:
            StoreDown: the run is not followed, and the store did not answer; or too many are followed.
        """
        run = self._by_id.get(run_id)
        failure = None if run is None else run.failure
        if failure is not None and failure.code == STORE_LOST and self._stored.is_up:
            del self._by_id[run_id]  # it was ended for want of the store, which is back
            run = None
        if run is not None or not is_run_id(run_id):
            return run
        task = self._finding.get(run_id)
        if task is None:
            task = self._loop.create_task(self._load(run_id))
            self._finding[run_id] = task
            task.add_done_callback(lambda done: self._loaded(run_id, done))
        return await asyncio.shield(task)

    async def _load(self, run_id: str) -> FollowedRun | None:
        stored = await self._stored.meta(run_id)
        if stored is None:
            return None
        route = self._routes.get(stored.meta.route)
        if route is None:
            logger.warning("stored run has no route here", extra={"run": run_id, "route": stored.meta.route})
            return None
        if len(self) >= self._most or self._loop.time() >= self._dropped_at + LOOK_S:
            self.drop_idle()
        if len(self) >= self._most:
            logger.warning("too many followed runs", extra={"runs": len(self)})
            raise StoreBusy("too many runs are followed")
        run = FollowedRun(run_id, stored, route, self._stored.box(run_id), self._readers_changed)
        if self._has_spans:
            run.span = await self._stored.span(run_id)
        try:
            await self._stored.catch_up(run)
        except Unsealable as exc:
            log_unreadable(run_id, exc)
            return None
        self._by_id[run_id] = run
        self._tail.runs.add(run)
        self._count(run.size_bytes)  # whoever asked for it has it, even if it is released here
        await self._tail.wake()
        return run

    def _loaded(self, run_id: str, task: "asyncio.Task[FollowedRun | None]") -> None:
        del self._finding[run_id]
        if not task.cancelled():
            task.exception()  # the callers have it; they may all be gone

    # Runs and the replicas that execute them.

    def owners(self) -> set[str]:
        """The replicas that execute followed runs."""
        return {run.meta.owner for run in self._in_flight()} - {self._replica}

    def of(self, owner: str) -> list[FollowedRun]:
        """The runs in flight that a replica executes, as far as is known; without those being fetched."""
        return [run for run in self._in_flight() if run.meta.owner == owner and not run.is_fetching]

    async def reload_metas(self, owner: str) -> None:
        """Learn who executes the runs of a replica that was silent: others may have taken them over.

        Raises:
            StoreDown: not all were read.
        """
        for run in self.of(owner):
            stored = await self._stored.meta(run.id)
            if stored is not None:
                run.follow(stored)

    def release(self, run: FollowedRun) -> None:
        """Stop reading a run: this replica executes it now, or nobody watches it."""
        self._tail.runs.discard(run)
        if self._by_id.get(run.id) is run:
            del self._by_id[run.id]

    def end_blind(self) -> None:
        """End the streams of viewers once the store has not answered for `BLIND_S`."""
        if self._loop.time() - self._tail.read_at > BLIND_S:
            for run in self._in_flight():
                run.end(STORE_LOST)

    def _in_flight(self) -> list[FollowedRun]:
        return [run for run in self._tail.runs if not run.log.ended]

    # Viewers.

    def watched(self) -> dict[str, list[FollowedRun]]:
        """The runs in flight that have viewers here, by the replica that executes them."""
        found: dict[str, list[FollowedRun]] = {}
        for run in self._in_flight():
            if run.log.is_read:
                found.setdefault(run.meta.owner, []).append(run)
        return found

    def drop_idle(self) -> None:
        """Release runs that have had no viewer for `IDLE_S`; over the bounds, the longest idle at once."""
        self._dropped_at = self._loop.time()
        runs = self._tail.runs
        unread = sorted((run for run in runs if not run.log.is_read), key=lambda run: run.idle_since)
        over = sum(run.size_bytes for run in runs) - self._most_bytes
        oldest = self._loop.time() - IDLE_S
        for run in unread:
            if run.idle_since > oldest and over <= 0 and len(runs) < self._most:
                break
            over -= run.size_bytes
            self.release(run)
        self._room = -over

    def _count(self, size: int) -> None:
        """So many bytes more are here: see at once whether these are too many."""
        self._room -= size
        if self._room < 0:
            self.drop_idle()

    def _readers_changed(self, run: FollowedRun) -> None:
        is_counted = run in self._tail.runs
        if run.log.is_read and not (run.log.ended or run.is_executed_here):
            if not is_counted:
                self._tail.runs.add(run)
                self._count(run.size_bytes)
            self._by_id.setdefault(run.id, run)
            self._on_watched()
        elif is_counted and self._room < 0 and not run.log.is_read:
            self._room += run.size_bytes
            self.release(run)
