"""A B A B: every target once, then all of them again, so that a machine that drifts drifts for all."""

import time
from collections.abc import Callable, Mapping

from tests.bench import cores
from tests.bench.cores import Gauge
from tests.bench.results import Measured, Plan, Sample, Samples, Target
from tests.bench.servers import Server

QUIET_SHARE = 0.1
QUIET_S = 0.05
SETTLE_S = 3.0

Measure = Callable[[Server], Measured]


class Rounds:
    """The plan, and the gauge that all rounds share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._gauge = Gauge(plan.watch_s)

    def interleaved(self, targets: Mapping[Target, Server], measure: Measure) -> Samples:
        """One sample of each target a round, for as many rounds as the plan says.

        A machine with other work and neighbours gets some more, to have enough good samples.
        """
        plan = self.plan
        samples: dict[Target, list[Sample]] = {target: [] for target in targets}
        for taken in range(plan.repeats + plan.spare_repeats):
            good = min(sum(sample.good for sample in series) for series in samples.values())
            if taken >= plan.repeats and good >= plan.good:
                break
            for target, server in targets.items():
                samples[target].append(self._sample(server, measure))
        return samples

    def _sample(self, server: Server, measure: Measure) -> Sample:
        """Measure once, and see what it cost the proxy and the cores."""
        if server.pid is None:
            measured = measure(server)
            return Sample(figures=measured.figures, errors=measured.errors)
        pids = cores.tree(server.pid)
        settle(pids)
        speed, started = self._gauge.speed(), time.monotonic()
        cpu_s, proxy, load = cores.cpu_s(pids), cores.busy(cores.PROXY_CORE), cores.busy(cores.LOAD_CORE)
        measured = measure(server)
        took_s = time.monotonic() - started
        cpu_s = cores.cpu_s(pids) - cpu_s
        return Sample(
            figures=measured.figures,
            errors=measured.errors,
            cpu_us=cpu_s * 1e6 / max(1, measured.operations),
            proxy_core=cores.busy(cores.PROXY_CORE).since(proxy),
            proxy_share=cpu_s / took_s,
            load_core=cores.busy(cores.LOAD_CORE).since(load),
            speed=(speed + self._gauge.speed()) / 2,
        )


def settle(pids: list[int]) -> None:
    """Wait until a proxy has done with what an earlier run left it, at most `SETTLE_S`."""
    give_up = time.monotonic() + SETTLE_S
    while pids and time.monotonic() < give_up:
        before = cores.cpu_s(pids)
        time.sleep(QUIET_S)
        if cores.cpu_s(pids) - before < QUIET_SHARE * QUIET_S:
            return


def only(servers: Mapping[Target, Server], *targets: Target) -> dict[Target, Server]:
    """Return those of `targets` that run."""
    return {target: servers[target] for target in targets if target in servers}
