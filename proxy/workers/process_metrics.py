"""The metrics of several processes as those of one: each process can answer for all.

Each process keeps its metrics in files (prometheus-client's multiprocess mode), which outlive it. The counts
of a process that is gone are added to one archive: no counter goes back while the supervisor lives, and the
number of files stays the same.
"""

import contextlib
import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.workers.process_values import process_values

DIRECTORY_NAME = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus-client finds its files."""

ARCHIVE_PID = 0
"""Stands for a process's id in the names of the archive's files."""

ARCHIVED = ("counter", "histogram")
"""Kinds that outlive their process. A gauge says how its process is now, so it goes with the process."""


class ProcessMetrics:
    """The metrics of all processes that share a directory."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory, if need be; the caller removes it."""
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self._lock = directory / "lock"
        self._lock.touch()
        self.began_at = self._lock.stat().st_mtime
        """Unix time at which all counters were zero: that of the parent, whose workers come and go."""

    def begin(self) -> None:
        """Keep in the directory all metrics that are made from now on. Called once in each forked process."""
        # By this the package knows that the metrics of several processes are merged.
        os.environ[DIRECTORY_NAME] = str(self._directory)
        values.ValueClass = process_values(self._directory)

    def page(
        self, registry: CollectorRegistry, render: Callable[[CollectorRegistry], bytes] = generate_latest
    ) -> bytes | None:
        """The page `/metrics`; None if it cannot be read just now: ask again in a moment."""
        with self._locked(fcntl.LOCK_SH) as is_free, contextlib.suppress(struct.error, RuntimeError):
            # These errors: a process that begins has made a file, and not yet written its length.
            return render(_MergedRegistry(registry, self)) if is_free else None
        return None

    def add_to(self, own: Iterable[Metric]) -> Iterator[Metric]:
        """This process's metrics, with those of the others added."""
        files = [path for path in self._directory.glob("*.db") if _pid_of(path) != os.getpid()]
        if not files:
            yield from own
            return
        # All gauges, also this process's own: only the files say how gauges are merged.
        gauges = self._directory.glob(f"gauge_*_{os.getpid()}.db")
        found = MultiProcessCollector.merge([str(path) for path in chain(files, gauges)])  # type: ignore[no-untyped-call]
        others = {metric.name: metric for metric in found}
        for metric in own:
            other = others.pop(metric.name, None)
            yield metric if other is None else self._added(metric, other)
        yield from others.values()

    def archive(self, pid: int) -> bool:
        """Keep the counts of a process that is gone. Returns False while the files are being read."""
        with self._locked(fcntl.LOCK_EX) as is_free:
            if is_free:
                for path in self._directory.glob(f"*_{pid}.db"):
                    kind = path.name.partition("_")[0]
                    if kind in ARCHIVED:
                        self._add_file(path, self._directory / f"{kind}_{ARCHIVE_PID}.db")
                    path.unlink()
            return is_free

    def _add_file(self, path: Path, total: Path) -> None:
        draft = total.with_suffix(".draft")
        if total.exists():
            shutil.copyfile(total, draft)
        sums = MmapedDict(str(draft))  # type: ignore[no-untyped-call]
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            so_far, _ = sums.read_value(key)  # type: ignore[no-untyped-call]
            sums.write_value(key, so_far + value, 0.0)  # type: ignore[no-untyped-call]
        sums.close()  # type: ignore[no-untyped-call]
        draft.replace(total)

    def _added(self, metric: Metric, other: Metric) -> Metric:
        if metric.type == "gauge":
            return other
        there = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in other.samples}
        both = Metric(metric.name, metric.documentation, metric.type)
        for sample in metric.samples:
            value = sample.value + there.pop((sample.name, frozenset(sample.labels.items())), 0.0)
            both.samples.append(sample._replace(value=value))
        for name, labels in there:
            both.add_sample(name, dict(labels), there[name, labels])
        return both

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[bool]:
        """Yield True if the lock was free; the files then stay as they are in the block. Does not wait."""
        with self._lock.open("rb") as lock:
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


class _MergedRegistry(CollectorRegistry):
    """The page: this process's registry, and the metrics of the other processes."""

    def __init__(self, own: CollectorRegistry, others: ProcessMetrics) -> None:
        super().__init__()
        self._own = own
        self._others = others

    def collect(self) -> Iterator[Metric]:
        return self._others.add_to(self._own.collect())


def _pid_of(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])
