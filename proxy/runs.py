"""Runs: those in flight, and the finished ones kept for reconnects.

`Runs` owns their tasks: a run is nobody's request's child, so a viewer that leaves stops nothing.
"""

import asyncio
import logging
from collections import OrderedDict, deque

from flags.decision import Decision
from proxy.errors import Fault, UpstreamError
from proxy.identity import Identity
from proxy.metrics import RouteMetrics
from proxy.run import Call, Run
from proxy.settings import MemoryLogSettings
from proxy.sources import Source

logger = logging.getLogger("headgate.runs")

DURATIONS_KEPT = 50
"""Past runs of a route that an ETA is taken from."""


class Runs:
    """All runs of this process: those in flight, and the finished ones kept for reconnects."""

    def __init__(self, bounds: MemoryLogSettings) -> None:
        self._bounds = bounds
        self._tasks: dict[asyncio.Task[None], Run] = {}
        self._live: dict[str, Run] = {}
        self._finished: OrderedDict[str, tuple[Run, float]] = OrderedDict()
        self._finished_bytes = 0
        self._durations: dict[str, deque[float]] = {}
        self.draining = False

    def live_routes(self) -> list[str]:
        """The route of each run in flight."""
        return [run.call.route.name for run in self._live.values()]

    @property
    def kept(self) -> int:
        """Finished runs that can still be replayed."""
        return len(self._finished)

    def start(
        self,
        call: Call,
        decision: Decision,
        identity: Identity | None,
        metrics: RouteMetrics,
        source: Source,
    ) -> Run:
        durations = self._durations.setdefault(call.route.name, deque(maxlen=DURATIONS_KEPT))
        run = Run(call, decision, identity, metrics, durations)
        self._live[run.id] = run
        task = asyncio.get_running_loop().create_task(_execute(run, source))
        self._tasks[task] = run
        task.add_done_callback(self._finish)
        return run

    def find(self, run_id: str, identity: Identity | None) -> Run | None:
        """A run by its id, for its owner; for anybody else there is none."""
        if identity is None:
            return None  # all that are nobody would share their runs
        self.evict()
        run = self._live.get(run_id) or self._finished.get(run_id, (None, 0.0))[0]
        return run if run is not None and _principal(run.identity) == _principal(identity) else None

    def live_one(self, call: Call, identity: Identity) -> Run | None:
        """The run in flight of the same principal, route and path, if there is one."""
        for run in self._live.values():
            if (
                _principal(run.identity) == identity.principal
                and not run.ended
                and run.call.route is call.route
                and run.call.request.target == call.request.target
            ):
                return run
        return None

    def end_all(self) -> None:
        """End every run in flight for its viewers, truthfully."""
        for run in list(self._live.values()):
            run.shut_down()

    async def settled(self, timeout_s: float) -> None:
        """Wait until no run is in flight, watched or not: the upstream's work has effects."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def aclose(self) -> None:
        """End what still runs, and close its upstream connections."""
        self.end_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _finish(self, task: asyncio.Task[None]) -> None:
        run = self._tasks.pop(task)
        del self._live[run.id]
        run.forget_the_client()
        self._finished[run.id] = (run, asyncio.get_running_loop().time())
        self._finished_bytes += run.size_bytes
        self.evict()

    def evict(self) -> None:
        """Oldest first, until runs, bytes and age are within their bounds."""
        oldest = asyncio.get_running_loop().time() - self._bounds.ttl_s
        while self._finished:
            run, finished_at = next(iter(self._finished.values()))
            within = len(self._finished) <= self._bounds.runs and self._finished_bytes <= self._bounds.bytes
            if within and finished_at > oldest:
                return
            del self._finished[run.id]
            self._finished_bytes -= run.size_bytes


def _principal(identity: Identity | None) -> str:
    return "" if identity is None else identity.principal


async def _execute(run: Run, source: Source) -> None:
    """From the first byte to the upstream to the terminal event. A run always gets one."""
    try:
        run.settle(await source.answer(run))
    except UpstreamError as error:
        logger.warning("upstream failed", extra={"run": run.id, "fault": error.fault, "why": str(error)})
        run.fail(error)
    except asyncio.CancelledError:
        run.shut_down()
    except Exception:  # the viewers must not wait for ever because of a mistake of ours
        logger.exception("run failed", extra={"run": run.id})
        run.fail(UpstreamError("a mistake of ours", Fault.INTERNAL))
