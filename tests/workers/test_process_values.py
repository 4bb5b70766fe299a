"""The counts of a process are in its file at once, as prometheus-client reads it: another process shows
it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.workers.process_values import process_values

SERIES = 20_000
"""Their names and numbers take more than the first MiB of a file."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CollectorRegistry]:
    files: list[MmapedDict] = []

    def opened(name: str) -> MmapedDict:
        files.append(MmapedDict(name))  # type: ignore[no-untyped-call]
        return files[-1]

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", process_values(tmp_path, opened))
    yield CollectorRegistry()
    for file in files:
        file.close()  # type: ignore[no-untyped-call]


def samples(directory: Path) -> dict[tuple[Any, ...], float]:
    """Return what the package finds in the files, without the processes' ids."""
    found = MultiProcessCollector.merge([str(path) for path in directory.glob("*.db")])  # type: ignore[no-untyped-call]
    return {
        (
            sample.name,
            *(value for name, value in sorted(sample.labels.items()) if name != "pid"),
        ): sample.value
        for metric in found
        for sample in metric.samples
    }


def test_each_kind_of_metric_is_in_the_file_as_it_is_here(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    counter = Counter("asked", "", ["of"], registry=registry).labels("a")
    gauge = Gauge("open", "", registry=registry, multiprocess_mode="livesum")
    histogram = Histogram("took", "", buckets=(1, 2), registry=registry)

    counter.inc()
    counter.inc(2)
    gauge.set(7)
    gauge.dec()
    histogram.observe(1.5)

    assert registry.get_sample_value("asked_total", {"of": "a"}) == 3
    found = samples(tmp_path)
    assert found["asked_total", "a"] == 3
    assert found["open",] == 6
    assert [found["took_bucket", le] for le in ("1.0", "2.0", "+Inf")] == [0, 1, 1]
    assert (found["took_count",], found["took_sum",]) == (1, 1.5)


def test_a_file_grows_with_its_numbers(registry: CollectorRegistry, tmp_path: Path) -> None:
    """Those that were there before count on."""
    counter = Counter("asked", "", ["of"], registry=registry)
    first = counter.labels("first")
    first.inc()
    for number in range(SERIES):
        counter.labels(str(number)).inc(number)
    first.inc()

    found = samples(tmp_path)
    assert found["asked_total", "first"] == 2
    assert all(found["asked_total", str(number)] == number for number in range(SERIES))
