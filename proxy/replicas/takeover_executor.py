"""Continues the runs of lost replicas, with the parts of this process."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.errors import Fault
from proxy.observe.metrics import Metrics
from proxy.observe.spans.ports import RunSpans
from proxy.runs.run import Run
from proxy.runs.runs import Runs
from proxy.runs.start import RunSpec, Source

if TYPE_CHECKING:  # this is also there without a store, whose client is not loaded then
    from proxy.replicas.followed_run import FollowedRun
    from proxy.replicas.takeover import TakenOverRun


class TakeoverExecutor:
    """Continues the runs of lost replicas; a `TakeoverPort`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._runs: Runs | None = None
        self._sources: Mapping[tuple[str, str], Source] = {}
        self._spans: RunSpans | None = None

    def begin(self, runs: Runs, sources: Mapping[tuple[str, str], Source], spans: RunSpans | None) -> None:
        """Take over lost runs from now on."""
        self._runs = runs
        self._sources = sources
        self._spans = spans

    def may_take(self, run: "FollowedRun", source: str) -> bool:
        runs, route = self._runs, run.route
        if runs is None or runs.is_handing_over or (route.name, source) not in self._sources:
            return False
        return runs.has_room(route, run.principal) and not runs.has_id(run.id, run.principal)

    def take(self, taken: "TakenOverRun") -> Run:
        assert self._runs is not None
        name, decision = taken.route.name, taken.request.decision
        start = RunSpec(
            taken.call(self._spans),
            decision,
            taken.identity,
            self._metrics.by_route[name],
            self._sources[name, decision.source],
            taken.run_id,
        )
        return self._runs.take_over(start, taken.continuation)

    def lost(self, run: "FollowedRun") -> None:
        counted = self._metrics.by_route[run.route.name]
        counted.faults[Fault.RESET, run.phase].inc()
        counted.recoveries[Fault.RESET, "failed"].inc()
