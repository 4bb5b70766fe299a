"""Measures runs: what a proxy spends on them, and when their tokens arrive."""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from tests.bench import cores, servers
from tests.bench.cores import Gauge
from tests.bench.paced import percentile
from tests.bench.results import Plan, Sample, Target
from tests.bench.rounds import settle
from tests.bench.run_clients import Viewing, go, start_runs, viewers_of
from tests.bench.run_servers import headgate
from tests.bench.servers import Server

KEPT_RUNS = 5000
STARTED_RUNS = 500
"""Of which the cost of one is taken."""
SETTLE_S = 0.5
"""After the last run has begun; events before are not counted."""


class Meter:
    """The CPU time of a proxy and of the load in a window that begins when everything is open.

    The ticks of /proc/stat cannot say it here: tokens come at whole milliseconds, in step with the ticks.
    """

    def __init__(self, proxy: list[int], load: list[int]) -> None:
        self._proxy = proxy
        self._load = load
        self.start()

    def start(self) -> None:
        self._spent = self._spend()
        self._started = time.monotonic()

    @property
    def took_s(self) -> float:
        return time.monotonic() - self._started

    def sample(self, figures: Mapping[str, float], operations: int, errors: int = 0) -> Sample:
        """`operations` are what the CPU time is shared among."""
        took_s = self.took_s
        ran_s, waited_s, load_s = (now - then for now, then in zip(self._spend(), self._spent, strict=True))
        cpu_us = ran_s * 1e6 / max(1, operations)
        return Sample(
            figures={**figures, "cpu_us": cpu_us},
            errors=errors,
            cpu_us=cpu_us,
            proxy_core=(ran_s + waited_s) / took_s,
            proxy_share=ran_s / took_s,
            load_core=load_s / took_s,
        )

    def _spend(self) -> tuple[float, float, float]:
        return cores.cpu_s(self._proxy), _waited_s(self._proxy), cores.cpu_s(self._load)


def _waited_s(pids: list[int]) -> float:
    """Return the seconds for which threads of these processes were ready to run while something else ran."""
    threads = (path for pid in pids for path in (cores.PROC / str(pid) / "task").iterdir())
    return sum(int((path / "schedstat").read_text().split()[1]) for path in threads) / 1e9


@dataclass(frozen=True, slots=True)
class Bench:
    """The state that all rows share."""

    directory: Path
    plan: Plan
    model: Server
    gauge: Gauge

    @contextmanager
    def proxies(self) -> Iterator[dict[Target, Server]]:
        with self.headgate() as headgate, servers.nginx(self.directory, self.model.port) as nginx:
            yield {Target.NGINX: nginx[Target.NGINX], Target.HEADGATE: headgate}

    def headgate(self, *, kept: int = KEPT_RUNS) -> AbstractContextManager[Server]:
        return headgate(self.directory, self.model.port, kept, pure=self.plan.pure)

    def view(self, server: Server, viewing: Viewing) -> Sample:
        """Views for some seconds."""
        window_s = self.plan.run_window_s
        return self._sample(server, lambda meter: _view(server, self.model.port, viewing, window_s, meter))

    def start_runs(self, server: Server) -> Sample:
        """Whole runs."""
        return self._sample(server, lambda meter: _start_counted(server.port, meter))

    def _sample(self, server: Server, run: Callable[[Meter], Coroutine[None, None, Sample]]) -> Sample:
        """Measure once; the proxy is quiet before, and its core's speed is taken before and after."""
        assert self.model.pid is not None
        pids = cores.tree(server.pid) if server.pid is not None else []
        settle(pids)
        speed = self.gauge.speed()
        gc.collect()
        gc.disable()
        try:
            taken = uvloop.run(run(Meter(pids, [self.model.pid, os.getpid()])))
        finally:
            gc.enable()
        settle(pids)
        if not pids:  # no proxy between: what keeps its core busy is no matter
            return replace(taken, proxy_core=0.0)
        return replace(taken, speed=(speed + self.gauge.speed()) / 2)


async def _view(server: Server, model_port: int, viewing: Viewing, window_s: float, meter: Meter) -> Sample:
    """Delays of tokens from the model's clock to ours (`p50`, `p99`, in µs), and their `rate`."""
    async with viewers_of(server, viewing) as viewers:
        await go(model_port)
        await asyncio.sleep(SETTLE_S)
        for viewer in viewers:
            viewer.delays_us = []
        meter.start()
        await asyncio.sleep(window_s)
        looked_at = [viewer for viewer in viewers if viewer.is_looked_at]
        delays = [delay for viewer in looked_at for delay in viewer.delays_us]
        silent = sum(not viewer.delays_us for viewer in looked_at)
        broken = sum(viewer.broken for viewer in viewers)
        ordered = sorted(map(float, delays))
        events = len(delays) * len(viewers) / len(looked_at)
        rate = events / meter.took_s
        return meter.sample(
            {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99), "rate": rate},
            int(events),
            silent + broken,
        )


async def _start_counted(port: int, meter: Meter) -> Sample:
    meter.start()
    await start_runs(port, STARTED_RUNS)
    return meter.sample({}, STARTED_RUNS)
