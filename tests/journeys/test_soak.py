"""The soak, for a few seconds: that its traffic ends as it should, and that what grows is found."""

from collections import Counter
from dataclasses import fields, replace

import pytest

from tests.soak import GROWTH, ROOM, WARM, Sample, problems, soak

FLAT = Sample(rss_mb=160, descriptors=150, tasks=30, scrape_kb=600, p99_ms=80)


async def test_traffic_of_all_sources_ends_as_it_should() -> None:
    """Runs end whole, left, or resumed at the other replica; both replicas are looked at."""
    samples, ended = await soak(seconds=6, rate=15)

    assert {"complete", "left", "resumed"} <= set(ended)
    assert not ended["incomplete"]
    assert len(samples) >= 2
    assert all(sample.rss_mb > 50 and sample.descriptors > 20 and sample.tasks > 2 for sample in samples)


@pytest.mark.parametrize("what", [of.name for of in fields(Sample)])
def test_what_grows_is_found(what: str) -> None:
    """Beyond what differs from moment to moment."""
    step = getattr(ROOM, what) + getattr(FLAT, what) * GROWTH
    growing = [replace(FLAT, **{what: getattr(FLAT, what) + number * step}) for number in range(20)]

    assert problems([FLAT] * 20, {"complete": 9}) == []
    [problem] = problems(growing, {"complete": 9})
    assert problem.startswith(f"{what} has grown")


def test_what_happens_before_the_bounds_are_reached_is_no_growth() -> None:
    """A process that has just begun has kept nothing yet."""
    cold = [replace(FLAT, rss_mb=60)] * int(20 * WARM)

    assert problems([*cold, *[FLAT] * (20 - len(cold))], {}) == []


def test_a_request_that_ends_otherwise_is_a_problem() -> None:
    """One such request is enough."""
    assert problems([FLAT] * 20, Counter({"complete": 9, "incomplete": 1})) == ["1 incomplete"]
