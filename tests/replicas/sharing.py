"""Replicas that share a store, each a part of this process, and what they do with runs."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import StoreDown
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.sharded_runs import ShardedRuns
from proxy.replicas.shared_runs import ValkeyRuns
from proxy.replicas.takeover import TakenOverRun
from proxy.runs.run import Run
from proxy.runs.shared import ViewableRun
from proxy.settings.routes import Route
from proxy.settings.settings import ValkeyLogSettings
from tests.replicas.shared_run import METRICS, ROUTE, SAFE, new_run
from tests.servers.sentinels import Watched
from tests.servers.store_cluster import Cluster
from tests.servers.valkey_server import Detour, ValkeyServer

KEY = "a key for tests, of more than 32 characters"


@dataclass
class Replica:
    """One replica, and its callbacks' calls."""

    runs: ValkeyRuns = field(init=False)
    cancelled: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    parted_with: list[Run] = field(default_factory=list)
    """Runs of this one that others have taken over."""
    taken: list[Run] = field(default_factory=list)
    """Runs of others that this one has taken over."""
    counted: list[str] = field(default_factory=list)
    """Runs of others that this one has ended."""
    has_room: bool = True
    fails: bool = False

    def may_take(self, run: FollowedRun, source: str) -> bool:
        return self.has_room

    def take(self, taken: TakenOverRun) -> Run:
        assert not self.fails, "a mistake"
        run = Run(taken.call(), taken.request.decision, taken.identity, METRICS, deque(), run_id=taken.run_id)
        run.continue_from(taken.continuation)
        run.begun()
        self.taken.append(run)
        return run

    def lost(self, run: FollowedRun) -> None:
        self.counted.append(run.id)

    async def followed(self, run_id: str) -> ViewableRun:
        found = await self.runs.find(run_id)
        assert found is not None
        return found

    async def die(self) -> None:
        """Die as with `kill -9`: send nothing, release nothing."""
        await self.runs._end_tasks()


@asynccontextmanager
async def replica(
    server: "ValkeyServer | Detour | Watched | Cluster",
    routes: Mapping[str, Route] | None = None,
    *,
    shards: int = 1,
    **more: Any,
) -> AsyncIterator[Replica]:
    """A replica, and what it is told; `shards`: it has that part of the bounds which one of so many has."""
    settings = ValkeyLogSettings.model_validate({"url": server.url, "key": KEY, **more})
    made = Replica()
    made.runs = ValkeyRuns(
        settings,
        settings.places[0],
        routes or {"start": ROUTE, "safe": SAFE},
        executor=made,
        on_cancel=lambda run: made.cancelled.append(run.id),
        on_taken_over=lambda run: made.parted_with.append(run),
        on_fault=lambda run: made.faults.append(run.id),
        on_tap=lambda items: None,
        shards=shards,
    )
    async with made.runs:
        yield made


@asynccontextmanager
async def sharded(
    shards: Mapping[str, Any],
    on_tap: Callable[[Sequence[Any]], None] = lambda items: None,
    safe: Route = SAFE,
) -> AsyncIterator[tuple[ShardedRuns, Replica]]:
    """A store of several, as a process has it, and what that is told; `shards` are the settings of it."""
    told = Replica()
    store = ShardedRuns(
        ValkeyLogSettings.model_validate({**shards, "key": KEY}),
        {"safe": safe},
        executor=told,
        on_cancel=lambda run: told.cancelled.append(run.id),
        on_taken_over=told.parted_with.append,
        on_fault=lambda run: told.faults.append(run.id),
        on_tap=on_tap,
    )
    async with store:
        yield store, told


def principal_of(store: ShardedRuns, shard: str) -> str:
    """A principal whose runs are in the shard of this name."""
    return next(who for who in map("principal {}".format, range(1000)) if store.of(who).shard == shard)


async def claimed(at: Replica, *keys: str, of: Route = ROUTE) -> Run:
    run = new_run(of=of)
    assert await at.runs.claim(run, keys) is None
    run.begun()
    return run


async def is_shared(at: Replica, run: Run, key: str) -> bool:
    """The run is found there, and a request with this key joins it; False while the store is not back."""
    try:
        return await at.runs.find(run.id) is not None and await at.runs.joinable([key]) == run.id
    except StoreDown:
        return False


async def replica_after(server: ValkeyServer, run: Run) -> ViewableRun:
    async with replica(server) as late:
        return await late.followed(run.id)
