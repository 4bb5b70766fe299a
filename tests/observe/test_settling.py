"""The time at which requests count: once each, never before they settle, within bounds."""

import asyncio
import random

import prometheus_client
import pytest

from proxy.observe.settling import SLOT_S, Settling
from tests.servers.client import eventually

SETTLE_S = 150.0


class Figures:
    """A counter and a histogram, as `Settling` takes them."""

    def __init__(self) -> None:
        self.counter = prometheus_client.Counter("c", "A test's", registry=None)
        self.histogram = prometheus_client.Histogram("h", "A test's", registry=None)

    @property
    def count(self) -> float:
        return next(s.value for s in self.counter.collect()[0].samples if s.name == "c_total")

    @property
    def observed(self) -> tuple[float, float]:
        samples = {sample.name: sample.value for sample in self.histogram.collect()[0].samples}
        return samples["h_count"], samples["h_sum"]


async def test_every_request_counts_once_and_never_before_it_settles() -> None:
    """2,000 requests of all lengths, looked at now and then: each counts when it is due, or at its end."""
    seeded = random.Random(4)
    figures = Figures()
    settling = Settling(SETTLE_S)
    ends = []
    for _ in range(2000):
        began_at = seeded.uniform(0, 1000)
        ends.append((began_at + seeded.choice([0.01, 20, 149.9, 150, 400]), began_at))
    looks = sorted([*ends, *((now, None) for now in range(0, 1700, 7))], key=lambda pair: pair[0])
    for now, began_at in looks:
        if began_at is None:
            settling.settle(now)
        else:
            settling.add({figures.counter: 1}, figures.histogram, began_at, now)
            continue
        due = [max(ended_at, began_at + SETTLE_S) for ended_at, began_at in ends if ended_at <= now]
        assert sum(at + SLOT_S <= now for at in due) <= figures.count <= sum(at <= now for at in due)
        assert figures.count + settling.pending == len(due)
    settling.close()

    assert figures.count == 2000
    assert figures.observed == (2000, pytest.approx(sum(ended_at - began_at for ended_at, began_at in ends)))


async def test_over_the_bound_the_oldest_settle_early(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is lost, the log says so once, and memory stays what it was."""
    figures = Figures()
    settling = Settling(SETTLE_S, max_pending=10)

    for second in range(100):
        settling.add({figures.counter: 1}, None, second, second)

    assert settling.pending == 10
    assert figures.count == 90
    assert [record.message for record in caplog.records] == ["outcomes settle early"]
    settling.close()
    assert figures.count == 100


async def test_a_process_that_ends_counts_what_it_has() -> None:
    """At once, and from then on what ends when it ends; nothing twice."""
    figures = Figures()
    settling = Settling(SETTLE_S)
    settling.add({figures.counter: 1}, figures.histogram, 0, 1)

    settling.close()
    settling.add({figures.counter: 1}, None, 0, 2)
    settling.close()

    assert (figures.count, settling.pending) == (2, 0)
    assert figures.observed == (1, 1)


async def test_the_timer_settles_without_any_request() -> None:
    """One timer, which goes when nothing waits."""
    figures = Figures()
    settling = Settling(SLOT_S)
    now = asyncio.get_running_loop().time()
    for late_s in (0, SLOT_S / 2, SLOT_S):
        settling.add({figures.counter: 1}, None, now + late_s, now + late_s)

    await eventually(lambda: figures.count == 3)

    assert asyncio.get_running_loop().time() >= now + 2 * SLOT_S
