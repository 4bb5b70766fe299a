"""A thousand rounds of everything, and then nothing is left of them."""

import gc
import random

import pytest

from proxy.runs.run import Run
from tests.faults.clients import mixture
from tests.faults.rounds import SETTINGS, House, at_once, warm

pytestmark = pytest.mark.alone

ROUNDS = 1000
FAST = 5
"""Of so many rounds one may wait for a timeout: the others make the number."""


async def test_resources_are_back_after_a_thousand_rounds(rounds: House) -> None:
    """Tasks, connections, slots, timers, readers and file descriptors are as before within two seconds; of
    the runs themselves only those that are kept are left."""
    baseline = await warm(rounds)
    others = {id(run) for run in all_runs()}
    results = await at_once(mixture(rounds, random.Random(7), ROUNDS, slow_one_in=FAST))

    assert len(results) == ROUNDS
    assert [str(result) for result in results if result.problems] == []
    assert await rounds.left_over(baseline) == {}
    assert await rounds.miscounted() == []
    runs = sum(id(run) not in others for run in all_runs())
    kept = sum(gate.app.runs.kept for gate in rounds.gates)
    assert 0 < runs <= kept <= 2 * SETTINGS["event_log"]["memory"]["runs"]


def all_runs() -> list[Run]:
    """Every run that anything still holds."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, Run)]
