"""Work by the clock: gauges, forgetting and evicting, with or without requests."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from time import monotonic, time
from typing import TYPE_CHECKING

from flags.decision import generation_of
from flags.sources.source import Flags, FlagSource
from proxy.observe.metrics import Metrics
from proxy.runs.runs import Runs
from proxy.settings.routes import Routes

if TYPE_CHECKING:
    from proxy.replicas.sharded_runs import ShardedRuns

FORGET_S = 3600.0
"""Seconds between two looks for users who were not seen for so long that they are forgotten."""


async def every_second(
    metrics: Metrics,
    flag_source: FlagSource,
    flags: Flags,
    routes: Routes,
    runs: Runs,
    shared: "ShardedRuns | None",
) -> None:
    """Keep the gauges true, and forget and evict what is due, until cancelled."""
    was_killed = False
    forget_at = 0.0
    while True:
        if flag_source.killed and not was_killed:
            metrics.kill_flag_on.set_to_current_time()
        was_killed = flag_source.killed
        metrics.flag_age.set(flag_source.age_s)
        metrics.kill_switch.set(flags.killed)
        metrics.event_log_up.set(shared is None or shared.is_up)
        for shard, is_up in ({} if shared is None else shared.up).items():
            metrics.event_log_shard_up.labels(shard).set(is_up)
        metrics.viewer_lag.set(runs.lag_events)
        for route in routes.all:
            # Even without requests: users from before the flag changed belong to other arms.
            if (generation := generation_of(route.settings.flag, flags)) is not None:
                metrics.by_route[route.name].start_generation(*generation)
        for counted in metrics.by_route.values():
            counted.show_users(time())
        if monotonic() >= forget_at:
            forget_at = monotonic() + FORGET_S
            for counted in metrics.by_route.values():
                counted.forget_users(time())
        runs.evict()  # even without requests: texts are kept no longer than the settings say
        await asyncio.sleep(1)


@contextmanager
def repeating(work: Coroutine[None, None, None]) -> Iterator[None]:
    """Do this work until the block is left."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield
    finally:
        task.cancel()
