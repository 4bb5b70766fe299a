"""The order of the sources, with the sample upstream and a quick model: `make waits` has the figures."""

from statistics import median

import pytest

from tests.waits import DIRECT, SOURCES, Pace, measure

pytestmark = pytest.mark.alone

QUICK = Pace(first_token_s=0.25, tokens_per_s=200, tokens=80)


async def test_each_source_shows_the_same_text_and_sooner_than_the_one_before_it() -> None:
    """`batch` with the answer, `poll` after a stage, `tap` while the first stage is being written."""
    found = await measure(QUICK, rounds=2)

    batch_s = median(wait.total_s for wait in found[DIRECT])
    first_s = {source: median(wait.first_s for wait in found[source]) for source in SOURCES}
    assert all(wait.is_equal for waits in found.values() for wait in waits)
    assert first_s["tap"] < first_s["poll"] < first_s["batch"]
    assert first_s["tap"] < 0.5 * batch_s
    assert median(wait.silence_s for wait in found["tap"]) < 0.5 * batch_s
