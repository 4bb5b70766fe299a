"""The figures of several processes as those of one: whichever is asked answers for all.

Each process keeps what it counts in files (prometheus-client's multiprocess mode), which outlive it. What one
has counted that is gone is added to a file of nobody's: no counter goes back while the parent lives, and the
files do not become more.
"""

import contextlib
import fcntl
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

DIRECTORY_NAME = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus-client finds its files."""

NOBODY = 0
"""Stands for a process's id in the names of the files of those that are gone."""

KEPT = ("counter", "histogram")
"""What counts on after its process. A gauge says how something is, so it goes with who could say that."""


class ProcessMetrics:
    """Those of all processes that share a directory."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory, if need be; whoever names it removes it."""
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self._lock = directory / "lock"
        self._lock.touch()
        self.began_at = self._lock.stat().st_mtime
        """Unix time at which all counters were zero: that of the parent, whose workers come and go."""

    def begin(self) -> None:
        """Metrics that are made from now on are counted here. Once in a process, which was forked."""
        os.environ[DIRECTORY_NAME] = str(self._directory)
        # Chosen by the variable when the package is imported, which was before.
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]

    def page(self, registry: CollectorRegistry) -> bytes | None:
        """What `/metrics` shows; None: not now, in a moment."""
        with self._locked(fcntl.LOCK_SH) as is_ours, contextlib.suppress(struct.error, RuntimeError):
            # Those errors: a process that begins has made a file, and not yet written its length.
            return generate_latest(_Together(registry, self)) if is_ours else None
        return None

    def add_to(self, own: Iterable[Metric]) -> Iterator[Metric]:
        """What this process has, with what the others have."""
        files = [path for path in self._directory.glob("*.db") if _belongs_to(path) != os.getpid()]
        if not files:
            yield from own
            return
        # Of gauges all, also our own: how they are put together is said in the files.
        gauges = self._directory.glob(f"gauge_*_{os.getpid()}.db")
        found = MultiProcessCollector.merge([str(path) for path in chain(files, gauges)])  # type: ignore[no-untyped-call]
        others = {metric.name: metric for metric in found}
        for metric in own:
            other = others.pop(metric.name, None)
            yield metric if other is None else self._added(metric, other)
        yield from others.values()

    def bury(self, pid: int) -> bool:
        """Keep what a process has counted that is gone. Returns False while the files are being read."""
        with self._locked(fcntl.LOCK_EX) as is_ours:
            if is_ours:
                for path in self._directory.glob(f"*_{pid}.db"):
                    kind = path.name.partition("_")[0]
                    if kind in KEPT:
                        self._keep(path, self._directory / f"{kind}_{NOBODY}.db")
                    path.unlink()
            return is_ours

    def _keep(self, path: Path, total: Path) -> None:
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
            both.samples.append(sample._replace(value=self.began_at if _is_created(sample.name) else value))
        for name, labels in there:
            both.add_sample(name, dict(labels), there[name, labels])
        return both

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[bool]:
        """Whether nobody changes the files meanwhile; does not wait."""
        with self._lock.open("rb") as lock:
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


class _Together(CollectorRegistry):
    """A registry, and what its processes beside this one have counted."""

    def __init__(self, own: CollectorRegistry, figures: ProcessMetrics) -> None:
        super().__init__()
        self._own = own
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        return self._figures.add_to(self._own.collect())


def _belongs_to(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _is_created(name: str) -> bool:
    return name.endswith("_created")
