"""The metrics beside the injector's own count; and the checks themselves, shown to fail."""

import random
from collections import Counter

import pytest

from proxy.errors import Fault
from proxy.observe.labels import FaultPhase
from tests.faults import invariants
from tests.faults.cases import healthy
from tests.faults.clients import mixture
from tests.faults.rounds import House, at_once, watches
from tests.faults.upstream import Round
from tests.faults.viewers import Saw

pytestmark = pytest.mark.alone


async def test_faults_and_recoveries_are_exactly_what_was_injected(rounds: House) -> None:
    """Every label set of `faults` and `recoveries`, those that did not move included."""
    results = await at_once(mixture(rounds, random.Random(11), 300))

    assert [str(result) for result in results if result.problems] == []
    assert await rounds.miscounted() == []
    assert {fault for _, fault, _ in rounds.faults} >= {
        "reset",
        "status",
        "truncated",
        "source_lost",
        "connect",
    }
    assert {phase for _, _, phase in rounds.faults} == set(FaultPhase)
    assert {result for _, _, result in rounds.recoveries} == {"recovered", "fell_back", "failed"}


async def test_a_miscount_is_noticed(rounds: House) -> None:
    """One more or one less than was injected is told, by its labels."""
    key = ("batch-never-held", "reset", "nothing")
    rounds.faults[key] += 1
    more = await rounds.miscounted()
    rounds.faults[key] -= 1

    assert len(more) == 1
    assert "reset" in more[0]


async def good(rounds: House) -> tuple[Round, Saw]:
    case = healthy()[0]
    with rounds.upstream.round(case, random.Random()) as round_:
        saw, _ = await watches(rounds.client, round_)
    assert invariants.of_an_end(saw, saw.events, round_) == []
    assert invariants.of_the_outcome(saw, saw.events, round_) == []
    return round_, saw


async def test_every_lie_about_a_stream_is_noticed(rounds: House) -> None:
    """A good stream, changed in one place at a time: no change goes by."""
    round_, saw = await good(rounds)
    events = saw.events
    chunks = [at for at, event in enumerate(events) if event["type"] == "content_chunk"]
    at = chunks[3]
    changed = {**events[at], "content": events[at]["content"] + " no"}
    partial_end = {
        **events[-1],
        "type": "error",
        "metadata": {"error_code": "x", "partial": False, "status": 502},
    }
    lies = {
        "no end": events[:-1],
        "two ends": [*events, {**events[-1], "seq": len(events) + 1}],
        "something after the end": [*events, {**events[at], "seq": len(events) + 1}],
        "a chunk twice": [*events[: at + 1], *events[at:]],
        "a chunk lost": [*events[:at], *events[at + 1 :]],
        "other text": [*events[:at], changed, *events[at + 1 :]],
        "another run's event": [*events[:at], {**events[at], "run": "x"}, *events[at + 1 :]],
        "an error that is not partial": [*events[:-1], partial_end],
        "no result": [*events[:-1], {**events[-1], "metadata": {**events[-1]["metadata"], "result": "{}"}}],
        "nothing": [],
    }
    unnoticed = [lie for lie, told in lies.items() if not invariants.of_an_end(saw, told, round_)]

    assert unnoticed == []


async def test_every_lie_about_a_round_is_noticed(rounds: House) -> None:
    """One call too many, a loss that nobody told, an end in the middle, an answer that did not come."""
    round_, saw = await good(rounds)
    assert invariants.of_the_calls(round_) == []
    round_.calls["start"] += 1
    assert invariants.of_the_calls(round_)
    assert invariants.of_the_log(round_) == []
    round_.injected.append((Fault.SOURCE_LOST, FaultPhase.NOTHING))
    assert invariants.of_the_log(round_)
    assert invariants.of_the_outcome(saw, saw.events[:-1], round_)
    saw.is_clean = False
    assert "cut" in str(invariants.of_an_end(saw, saw.events, round_))
    assert invariants.of_metrics("faults", Counter(), Counter({("r", "reset", "nothing"): 1}))
