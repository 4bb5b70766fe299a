"""Faults of the upstream: every one, in every phase, for every source, and answers cut at every byte."""

import random
from collections.abc import Iterable
from functools import partial

import pytest

from tests.faults.acts import after_the_content, answers_and_closes, rows, whole
from tests.faults.cases import FRAMINGS, cut_calls, cut_looks, cut_stages, healthy, refusals, upstream_faults
from tests.faults.rounds import House, Result, at_once, watches
from tests.faults.upstream import Act, Case, Round

pytestmark = pytest.mark.alone

FAULTS = upstream_faults()


async def played(rounds: House, cases: Iterable[Case]) -> list[Result]:
    results = await at_once(
        partial(rounds.play, case, random.Random(f"{number} {case}")) for number, case in enumerate(cases)
    )
    assert results
    return results


def wrong(results: Iterable[Result]) -> list[str]:
    return [str(result) for result in results if result.problems]


@pytest.mark.parametrize("source", ["batch", "poll", "stages", "job"])
async def test_every_fault_in_every_phase_has_its_honest_end(rounds: House, source: str) -> None:
    """The answer where one existed, else one `error` or the failure's own status; never more calls than the
    policy allows, and never more text than the upstream has stored."""
    results = await played(rounds, [case for case in FAULTS if case.source == source])

    assert wrong(results) == []
    assert any(result.answer_existed for result in results)
    assert not all(result.answer_existed for result in results)


async def test_a_refused_connection_is_tried_three_times(rounds: House) -> None:
    """No byte has reached the upstream, so this holds for every call, also for the second of two stages."""
    assert wrong(await played(rounds, refusals())) == []


async def test_what_is_only_odd_is_no_fault(rounds: House) -> None:
    """A byte at a time, any framing, two looks that fail before one that does not: whole, and not counted."""
    assert wrong(await played(rounds, healthy())) == []


@pytest.mark.parametrize(
    ("framing", "replay"), [("length", "never"), ("length", "safe"), ("chunked", "safe"), ("close", "never")]
)
async def test_a_call_cut_at_any_byte(rounds: House, framing: str, replay: str) -> None:
    """Never complete, and never more than a beginning; whole if the route says that it may be asked again."""
    example = Round(healthy()[0], random.Random(0))
    body = example.body()
    cases = list(cut_calls(framing, replay, body, example.end_of_first_text(body)))
    results = await played(rounds, cases)

    assert wrong(results) == []
    assert len(results) >= len(body) > 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("endpoint", ["one", "two"])
async def test_a_stage_cut_at_any_byte(rounds: House, endpoint: str, framing: str) -> None:
    """The stage is asked again, the other one is not, and nothing is shown twice."""
    body = Round(healthy()[0], random.Random(0)).body(endpoint)
    results = await played(rounds, cut_stages(endpoint, framing, body))

    assert wrong(results) == []


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_look_cut_at_any_byte(rounds: House, framing: str) -> None:
    """The source is lost, and nothing else."""
    body = Round(healthy()[0], random.Random(0)).rows(1)

    assert wrong(await played(rounds, cut_looks(framing, body))) == []


@pytest.mark.parametrize("endpoint", ["start", "one", "two"])
async def test_an_answer_that_ends_with_its_connection_is_asked_again(rounds: House, endpoint: str) -> None:
    """With `replay: safe`, cut at any byte, as with any other framing."""
    example = Round(healthy()[0], random.Random(0))
    body = example.body(endpoint)
    if endpoint == "start":
        cases = cut_calls("close", "safe", body, example.end_of_first_text(body))
    else:
        cases = cut_stages(endpoint, "close", body)

    assert wrong(await played(rounds, cases)) == []


async def test_a_text_that_was_waited_for_comes_in_words(rounds: House) -> None:
    """A viewer that Headgate itself has made wait is not behind: its first text is not sent as one lump."""
    looks = (Act(rows(0)),) * 10
    case = Case("late", "poll", {"start": (Act(after_the_content),), "details": (*looks, Act(rows(1)))})
    with rounds.upstream.round(case, random.Random(1)) as round_:
        saw, events = await watches(rounds.client, round_)

    chunks = [event for event in events if (event["type"], event["stage"]) == ("content_chunk", "extraction")]
    assert saw.terminals[0]["type"] == "stream_done"
    assert len(chunks) > 5


@pytest.mark.parametrize("source", ["poll", "stages"])
async def test_a_connection_that_ends_with_its_answer_costs_no_call(rounds: House, source: str) -> None:
    """An upstream may close a connection after any answer. The next call has effects and is not sent again,
    so it is not sent on a connection that is just being closed."""
    acts = {
        "poll": {"start": (Act(whole()),), "details": (Act(answers_and_closes),)},
        "stages": {"one": (Act(answers_and_closes),), "two": (Act(whole()),)},
    }
    results = await played(rounds, [Case("closed after its answer", source, acts[source])] * 20)

    assert wrong(results) == []


async def test_the_metrics_agree_with_all_of_this(rounds: House) -> None:
    """After everything above: `faults` and `recoveries` are what was injected, label set by label set."""
    assert await rounds.miscounted() == []
