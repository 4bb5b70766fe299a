"""Faults of clients: they leave, come back, cancel, never read, and ask for what is not theirs."""

import random
from functools import partial

import pytest

from tests.faults.clients import FINAL, RECOVERABLE, Scenario
from tests.faults.rounds import House, at_once

pytestmark = pytest.mark.alone

TIMES = 12


def name(scenario: Scenario) -> str:
    return scenario.__name__


@pytest.mark.parametrize("scenario", RECOVERABLE, ids=name)
async def test_a_client_has_the_whole_answer_in_the_end(rounds: House, scenario: Scenario) -> None:
    """Every event comes once and in order, of one call to the upstream, however the client left."""
    results = await at_once(
        partial(scenario, rounds, random.Random(f"{name(scenario)} {number}")) for number in range(TIMES)
    )

    assert [str(result) for result in results if result.problems] == []
    assert all(result.delivered for result in results)


@pytest.mark.parametrize("scenario", FINAL, ids=name)
async def test_a_run_that_a_client_ends_says_so(rounds: House, scenario: Scenario) -> None:
    """One terminal `error` or its own status, soon, however often it is cancelled; or no run at all."""
    results = await at_once(
        partial(scenario, rounds, random.Random(f"{name(scenario)} {number}")) for number in range(TIMES)
    )

    assert [str(result) for result in results if result.problems] == []
    assert not any(result.delivered for result in results)


async def test_no_client_is_a_fault_of_the_upstream(rounds: House) -> None:
    """After everything above, the metrics have the faults of the upstream and no others."""
    assert await rounds.miscounted() == []


async def test_nobody_has_called_what_no_plan_knows(rounds: House) -> None:
    """Every call at the upstream was one of a round's."""
    assert rounds.upstream.strays == []
