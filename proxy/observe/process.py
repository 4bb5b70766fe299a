"""This process's use of CPU, memory and descriptors, its garbage collections, and its event loop's delay.

The names are those that prometheus-client's own collectors have. These only know one process, and a page
here is of all workers.
"""

import asyncio
import gc
import os
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LOOK_S, LAG_S = 1.0, 0.1
"""Seconds between two looks at the figures, and between two checks that the loop is on time."""

EDGES_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""20 ms is what no input may hold the loop for."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
OWN = Path("/proc/self")


class ProcessFigures:
    """The figures of this process, kept up to date by `watch`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, mode: str) -> Gauge:
            return Gauge(f"process_{name}", text, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        def collections(name: str, text: str) -> Counter:
            return Counter(f"python_gc_{name}", text, ["generation"], registry=registry)

        self.cpu_seconds = Counter(
            "process_cpu_seconds", "CPU time of all workers, user and system", registry=registry
        )
        self.resident = gauge("resident_memory_bytes", "Resident memory of all workers", "livesum")
        self.open_fds = gauge("open_fds", "Open file descriptors of the worker that has most", "livemax")
        self.max_fds = gauge("max_fds", "File descriptors that a worker may have", "livemin")
        self.gc_collections = collections("collections", "Collections of a generation")
        self.gc_collected = collections("objects_collected", "Objects that collections have freed")
        self.gc_uncollectable = collections(
            "objects_uncollectable", "Objects that collections could not free"
        )
        self.loop_lag = Histogram(
            "headgate_event_loop_lag_seconds",
            "Seconds that a turn of the event loop came too late",
            buckets=EDGES_S,
            registry=registry,
        )
        # What there was before the fork belongs to the parent.
        self._cpu_s = time.process_time()
        self._collected = [dict(stats) for stats in gc.get_stats()]
        for generation in range(len(self._collected)):
            for counter in (self.gc_collections, self.gc_collected, self.gc_uncollectable):
                counter.labels(generation)

    async def watch(self) -> None:
        """Keep the figures up to date, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.look()
            for _ in range(round(LOOK_S / LAG_S)):
                due_s = loop.time() + LAG_S
                await asyncio.sleep(LAG_S)
                self.loop_lag.observe(max(0.0, loop.time() - due_s))

    def look(self) -> None:
        """Take the figures once. What the system does not show stays 0."""
        cpu_s, self._cpu_s = self._cpu_s, time.process_time()
        self.cpu_seconds.inc(self._cpu_s - cpu_s)
        before, self._collected = self._collected, [dict(stats) for stats in gc.get_stats()]
        for generation, (was, now) in enumerate(zip(before, self._collected, strict=True)):
            self.gc_collections.labels(generation).inc(now["collections"] - was["collections"])
            self.gc_collected.labels(generation).inc(now["collected"] - was["collected"])
            self.gc_uncollectable.labels(generation).inc(now["uncollectable"] - was["uncollectable"])
        self.max_fds.set(os.sysconf("SC_OPEN_MAX"))
        if OWN.exists():
            self.resident.set(int((OWN / "statm").read_text().split()[1]) * PAGE_BYTES)
            self.open_fds.set(_open_fds())


def _open_fds() -> int:
    # Since Linux 6.2 this is their number; before, 0, and then they are listed.
    return (OWN / "fd").stat().st_size or len(os.listdir(OWN / "fd"))
