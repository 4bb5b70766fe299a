"""Faults of the language model behind a tapped backend: every one, at every token."""

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from proxy.observe.labels import CallResult
from tests.faults.provider import Plan, Tapped, house, plans, resets
from tests.faults.rounds import Result, at_once
from tests.servers.client import browser

pytestmark = pytest.mark.alone


async def played(tapped: Tapped, chosen: list[Plan]) -> list[Result]:
    return await at_once(partial(tapped.play, plan) for plan in chosen)


async def test_every_fault_of_the_model_has_the_whole_answer_in_the_end(tmp_path: Path) -> None:
    """The viewer's, byte for byte, and the backend's, as without streams. Each attempt is counted."""
    chosen = list(plans())
    async with house(tmp_path) as tapped, browser() as client:
        results = await played(tapped, chosen)
        counted = await tapped.results(client)

    assert [str(result) for result in results if result.problems] == []
    assert all(result.delivered for result in results)
    first = Counter(ended for plan in chosen for ended in plan.counted)
    assert counted[CallResult.LOST] == first[CallResult.LOST]
    assert counted[CallResult.FAILED] == first[CallResult.FAILED]
    assert counted[CallResult.UNMATCHED] == counted[CallResult.LEFT] == 0


async def test_a_connection_that_is_reset_at_any_byte_costs_no_text(tmp_path: Path) -> None:
    async with house(tmp_path) as tapped:
        results = await played(tapped, list(resets(random.Random(3), 150)))

    assert [str(result) for result in results if result.problems] == []
    assert all(result.delivered for result in results)


async def test_a_backend_that_counts_tokens_is_told_of_every_stream_that_broke(tmp_path: Path) -> None:
    """With `ask_again: unbilled` no token is paid for twice, and the backend asks again by itself."""
    cuts = [plan for plan in plans() if plan.name.startswith(("cut", "stalls", "an error"))]
    async with house(tmp_path, ask_again="unbilled") as tapped, browser() as client:
        results = await played(tapped, cuts)
        counted = await tapped.results(client)

    assert [str(result) for result in results if result.problems] == []
    assert counted[CallResult.LOST] == 1  # the cut before the first token
    assert counted[CallResult.FAILED] == len(cuts) - 1
