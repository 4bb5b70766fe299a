"""Deliveries wait before they are in the metrics: none is lost, or counted twice or elsewhere, on the way."""

import asyncio
import json
import math
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry, Histogram

from proxy.app import running
from proxy.observe.deliveries import FLUSH_S, Deliveries
from proxy.observe.metrics import DELIVERY_S, Metrics
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.settings import Settings
from tests.servers.client import PATIENCE_S, eventually
from tests.servers.serving import flag_document
from tests.servers.streaming import route

EDGES = (0.0, 1e-9, *DELIVERY_S, *(math.nextafter(edge, math.inf) for edge in DELIVERY_S), 301.0)
COUNT = "headgate_delivery_seconds_count"
LABELS = {"route": "start", "source": "batch"}


def made() -> tuple[CollectorRegistry, Deliveries]:
    registry = CollectorRegistry()
    metrics = Metrics(registry, [RouteSettings.model_validate(route())])
    return registry, metrics.by_route["start"].deliveries["batch"]


def in_the_metric(registry: CollectorRegistry) -> float:
    """Those that are there, without asking for those that are not yet."""
    family = registry._names_to_collectors[COUNT]
    assert isinstance(family, Histogram)
    return sum(bucket.get() for bucket in family.labels(**LABELS)._buckets)


def shown(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if family.name == "headgate_delivery_seconds" and sample.labels["source"] == "batch"
    }


@pytest.mark.parametrize("seed", range(10))
async def test_they_are_counted_as_prometheus_counts(seed: int) -> None:
    """A random series, read now and then: every bucket is the same, and the sum but for how floats round."""
    random, expected = Random(seed), CollectorRegistry()
    registry, deliveries = made()
    histogram = Histogram(
        "headgate_delivery_seconds", "", ["route", "source"], buckets=DELIVERY_S, registry=expected
    ).labels(**LABELS)

    for _ in range(random.randrange(1, 400)):
        late_s = random.choice(EDGES) if random.random() < 0.3 else random.expovariate(10)
        deliveries.add(late_s)
        histogram.observe(late_s)
        if random.random() < 0.05:
            assert shown(registry) == pytest.approx(shown(expected), rel=1e-12)

    assert shown(registry) == pytest.approx(shown(expected), rel=1e-12)


async def test_a_timer_waits_only_while_something_is_to_be_added() -> None:
    """A route that shows nothing has none, nor one whose metrics were just read."""
    registry, deliveries = made()
    assert deliveries.slot is None

    began = asyncio.get_running_loop().time()
    deliveries.add(0.2)
    assert deliveries.slot is not None
    assert deliveries.wake_at == pytest.approx(began + FLUSH_S, abs=0.05)
    assert in_the_metric(registry) == 0
    assert registry.get_sample_value(COUNT, LABELS) == 1
    assert deliveries.slot is None

    deliveries.add(0.2)
    await eventually(lambda: in_the_metric(registry) == 2)
    assert deliveries.slot is None


async def test_deliveries_that_keep_coming_do_not_put_the_timer_off() -> None:
    registry, deliveries = made()

    async with asyncio.timeout(PATIENCE_S):
        while in_the_metric(registry) == 0:
            deliveries.add(0.2)
            await asyncio.sleep(0)  # a turn of the loop


async def test_a_process_that_ends_adds_what_it_has(tmp_path: Path) -> None:
    """Also what is delivered last, when nothing is served any more."""
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    settings = Settings.model_validate(
        {
            "upstream": {"url": "http://127.0.0.1:1"},
            "flags": {"file": str(tmp_path / "flags.json")},
            "routes": [route()],
        }
    )
    async with running(settings, tmp_path) as app:
        deliveries = app.gateway.metrics.by_route["start"].deliveries["batch"]
        deliveries.add(0.2)
        assert deliveries.slot is not None

    assert deliveries.slot is None
