"""The use of the two cores, and the memory of a server: read from /proc, so Linux only."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

PROXY_CORE = 0
LOAD_CORE = 1
"""The upstream and the load share it: they are the cheaper half, and the proxy's core must be its own."""

PROC = Path("/proc")
IDLE, IOWAIT = 3, 4  # columns of /proc/stat, proc(5)


GAUGE_TURNS = 100_000  # some 3 ms
GAUGE_EVERY_S = 0.05


class Gauge:
    """The speed of the proxy's core now, in parts of the best that it was seen to have.

    On a virtual machine a neighbour on the same physical core can halve its speed for seconds, and neither
    /proc/stat nor steal time shows it; a loop whose length is known does.
    """

    def __init__(self, watch_s: float) -> None:
        """Watch the core for so many seconds to learn what its best is."""
        self._best_s = float("inf")
        give_up = time.monotonic() + watch_s
        while time.monotonic() < give_up:
            self.speed()
            time.sleep(GAUGE_EVERY_S)

    def speed(self) -> float:
        """1.0 is the best so far."""
        home = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {PROXY_CORE})
        try:
            start = time.thread_time()
            for _ in range(GAUGE_TURNS):
                pass
            took_s = time.thread_time() - start
        finally:
            os.sched_setaffinity(0, home)
        self._best_s = min(self._best_s, took_s)
        return self._best_s / took_s


@dataclass(frozen=True, slots=True)
class Busy:
    """Clock ticks a core has spent, since the machine started."""

    busy: int
    total: int

    def since(self, earlier: "Busy") -> float:
        """Share of the time since `earlier` that the core was busy, 0 to 1."""
        return (self.busy - earlier.busy) / max(1, self.total - earlier.total)


def busy(core: int) -> Busy:
    """Return the use of one core by /proc/stat."""
    for line in (PROC / "stat").read_text().splitlines():
        name, *columns = line.split()
        if name == f"cpu{core}":
            ticks = [int(column) for column in columns[:8]]  # the rest is guest time, counted twice
            total = sum(ticks)
            return Busy(total - ticks[IDLE] - ticks[IOWAIT], total)
    raise LookupError(f"no core {core}: the bench needs two")


def tree(pid: int) -> list[int]:
    """`pid` and every process under it."""
    parents = {int(path.name): _parent(path) for path in PROC.iterdir() if path.name.isdigit()}
    members = [pid]
    for member in members:  # grows while it is read: breadth first
        members.extend(child for child, parent in parents.items() if parent == member)
    return members


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of all threads of these processes. Exact to the switch, unlike clock ticks."""
    threads = (path for pid in pids for path in (PROC / str(pid) / "task").iterdir())
    return sum(int((path / "schedstat").read_text().split()[0]) for path in threads) / 1e9


def rss_kb(pids: list[int]) -> int:
    """Resident memory of these processes together, in KiB."""
    pages = sum(int((PROC / str(pid) / "statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def pss_kb(pids: list[int]) -> int:
    """Memory of these processes together, in KiB; what several share counts once."""
    lines = (line for pid in pids for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _parent(path: Path) -> int:
    try:
        # The name, in brackets, may hold anything: what follows the last bracket is state, parent, ...
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0  # ended meanwhile
