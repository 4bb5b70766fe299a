"""Requests of no route wait before they are counted: nothing is lost or counted twice on the way."""

import asyncio
import json
import math
import os
import signal
from pathlib import Path
from random import Random

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.mmap_dict import MmapedDict

from proxy.app import running
from proxy.observe.metrics import OVERHEAD_S, REQUEST_S, Metrics
from proxy.observe.shown_counts import totals
from proxy.observe.unmatched import FLUSH_S, MOST_WAITING
from proxy.settings.settings import Settings
from tests.servers.client import PATIENCE_S, browser, eventually, scrape
from tests.servers.scripted import Asked, ok
from tests.servers.serving import flag_document, gated
from tests.servers.streaming import answering, served_before
from tests.workers.test_supervision import ANEW, RELAYED, metric_files

COUNTED = {"route": "unmatched", "mode": "relay", "reason": "no_route"}
AMOUNTS = (0.0, 1e-9, *REQUEST_S, *OVERHEAD_S, 301.0, math.inf, -1e-6)
"""Of the edges and beyond them."""


def shown(registry: CollectorRegistry) -> dict[tuple[str, str, str], float]:
    """Every sample of what is relayed without a route."""
    return {
        (sample.name, sample.labels.get("le", ""), sample.labels.get("mode", "")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.labels.get("route") == "unmatched" and sample.labels.get("mode") != "upgrade"
    }


def in_the_metric(metrics: Metrics) -> float:
    """The requests that are in the metric, without asking for those that are not yet."""
    value: float = metrics.requests.labels("unmatched", "relay", "no_route")._value.get()
    return value


@pytest.mark.parametrize("seed", range(20))
async def test_it_counts_as_prometheus_does(seed: int) -> None:
    """A random series, read now and then: every bucket and count is the same, and the sums but for how
    floats round."""
    random = Random(seed)
    registry, expected = CollectorRegistry(), CollectorRegistry()
    metrics = Metrics(registry, [])
    requests = Counter("headgate_requests", "", ["route", "mode", "reason"], registry=expected)
    seconds = Histogram(
        "headgate_request_seconds", "", ["route", "mode"], buckets=REQUEST_S, registry=expected
    )
    overhead = Histogram(
        "headgate_relay_overhead_seconds", "", ["route"], buckets=OVERHEAD_S, registry=expected
    )

    def amount() -> float:
        return random.choice(AMOUNTS) if random.random() < 0.2 else random.expovariate(10)

    for _ in range(random.randrange(1, 400)):
        took_s, overhead_s = amount(), amount()
        metrics.unmatched.count_relayed(took_s, overhead_s)
        requests.labels("unmatched", "relay", "no_route").inc()
        seconds.labels("unmatched", "relay").observe(took_s)
        overhead.labels("unmatched").observe(overhead_s)
        if random.random() < 0.05:
            assert shown(registry) == pytest.approx(shown(expected), rel=1e-12)

    assert shown(registry) == pytest.approx(shown(expected), rel=1e-12)


async def test_who_reads_has_what_was_counted_a_moment_ago() -> None:
    """In the same turn of the loop: the registry, and the operators' page."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [])
    metrics.unmatched.count_relayed(0.2, 0.001)
    assert in_the_metric(metrics) == 0

    assert registry.get_sample_value("headgate_requests_total", COUNTED) == 1
    metrics.unmatched.count_relayed(0.2, 0.001)
    assert totals(metrics, {})["decision", "unmatched", "relay", "no_route"] == 2


async def test_a_timer_waits_only_while_something_is_to_be_added() -> None:
    """A process where nothing is asked has none, nor one where somebody has just read."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [])
    counted = metrics.unmatched
    assert counted.slot is None

    began = asyncio.get_running_loop().time()
    counted.count_relayed(0.2, 0.001)
    assert counted.slot is not None
    assert counted.wake_at == pytest.approx(began + FLUSH_S, abs=0.05)
    shown(registry)
    assert counted.slot is None

    counted.count_relayed(0.2, 0.001)
    await eventually(lambda: in_the_metric(metrics) == 2)
    assert counted.slot is None


async def test_counts_that_keep_coming_do_not_put_the_timer_off() -> None:
    metrics = Metrics(CollectorRegistry(), [])

    async with asyncio.timeout(PATIENCE_S):
        while in_the_metric(metrics) == 0:
            metrics.unmatched.count_relayed(0.2, 0.001)
            await asyncio.sleep(0)  # a turn of the loop


async def test_only_so_many_wait() -> None:
    """Even in one turn of the loop, in which no timer comes."""
    metrics = Metrics(CollectorRegistry(), [])

    for _ in range(MOST_WAITING + 1):
        metrics.unmatched.count_relayed(0.2, 0.001)

    assert in_the_metric(metrics) == MOST_WAITING


async def test_a_process_that_ends_adds_what_it_has(tmp_path: Path) -> None:
    """Also what is counted last, when nothing is served any more."""
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    settings = Settings.model_validate(
        {"upstream": {"url": "http://127.0.0.1:1"}, "flags": {"file": str(tmp_path / "flags.json")}}
    )
    async with running(settings, tmp_path) as app:
        metrics = app.gateway.metrics
        metrics.unmatched.count_relayed(0.2, 0.001)

    assert in_the_metric(metrics) == 1
    assert metrics.unmatched.slot is None


async def test_a_request_counts_however_it_ends(tmp_path: Path) -> None:
    """Answered, answered by a 502 since the upstream is gone, cut, and left by its client."""
    held = asyncio.Event()

    async def script(asked: Asked) -> None:
        match asked.target:
            case b"/reset":
                asked.writer.close()
            case b"/cut":
                await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf")
                asked.writer.close()
            case b"/held":
                held.set()
                await asyncio.Event().wait()
            case _:
                await ok(asked)

    async with gated(script, tmp_path) as (_, serving), browser(serving.url) as client:
        assert (await client.get("/whole")).status_code == 200
        assert (await client.get("/reset")).status_code == 502
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/cut")
        leaving = asyncio.create_task(client.get("/held"))
        await held.wait()
        leaving.cancel()

        async def all_counted() -> bool:
            page = await scrape(client, serving.admin_url)
            histograms = ('request_seconds_count{mode="relay",', "relay_overhead_seconds_count{")
            counts = [page[f'headgate_{name}route="unmatched"}}'] for name in histograms]
            return [page[RELAYED], *counts] == [4, 4, 4]

        await eventually(all_counted)


async def test_each_of_two_workers_shows_what_both_have_counted(tmp_path: Path) -> None:
    """The other one's after a moment, once; and all of it, when both have gone for new ones."""
    async with served_before(answering(b"{}"), tmp_path, "--workers", "2") as (_, serving, client):
        for _ in range(40):
            await client.get("/anything", headers=ANEW)
        answered: set[int] = set()

        async def both() -> bool:
            async with browser(serving.admin_url) as operator:  # one connection: one worker
                process = (await operator.get("/runs")).json()["process"]
                found = (await scrape(operator, ""))[RELAYED]
                assert found <= 40
                if found == 40:
                    answered.add(process)
            return len(answered) == 2

        await eventually(both)
        assert answered == set(serving.workers())
        files = [path for path in metric_files(serving) if path.name.startswith("counter")]
        assert sum(in_file(path) for path in files) == 40


async def test_a_worker_that_is_killed_leaves_what_it_has_counted(tmp_path: Path) -> None:
    """Nobody has read it: a moment later it is in the file, which the next worker reads."""
    async with served_before(answering(b"{}"), tmp_path) as (_, serving, client):
        for _ in range(3):
            await client.get("/anything")
        (pid,) = serving.workers()
        [file] = [path for path in metric_files(serving) if path.name == f"counter_{pid}.db"]
        await eventually(lambda: in_file(file) == 3)

        os.kill(pid, signal.SIGKILL)

        await eventually(lambda: pid not in serving.workers())
        async with browser() as operator:
            assert (await scrape(operator, serving.admin_url))[RELAYED] == 3


def in_file(path: Path) -> float:
    """The requests in a worker's file."""
    return sum(
        value
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        if '"headgate_requests_total"' in key and '"no_route"' in key and '"relay"' in key
    )
