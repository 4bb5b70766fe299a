"""Raw counters to evidence: no event counts twice, and none that cannot be dated, whatever processes do."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from flags.rollout.evidence import growth
from flags.rollout.evidence.growth import CARRY_S, between, carried
from flags.rollout.evidence.readings import OUTCOMES, Page, Reading, Series
from tests.rollout.evidence.counters import COMPLETE, FAILED, outcomes, reading


def dated(at_s: float, began_s: float, page: Mapping[tuple[str, ...], int]) -> Reading:
    """Outcomes of the instance a, whose process says when it began."""
    return replace(reading(at_s, {"a": page}), started={"a": began_s})


def test_what_grew_is_what_counts() -> None:
    """The plain case: the same proxies, some time later."""
    before = reading(0, {"a": {COMPLETE: 10, FAILED: 1}, "b": {COMPLETE: 5}})
    after = reading(60, {"a": {COMPLETE: 14, FAILED: 1}, "b": {COMPLETE: 6}})

    batch = between(before, after, 3)

    assert batch.outcomes == {("stream", 3, "complete"): 5}
    assert (batch.since_s, batch.until_s, batch.step) == (0, 60, 3)


def test_a_process_that_began_again_counts_whole() -> None:
    """One counter that fell says that all of its process began at zero, also those that did not fall."""
    before = reading(0, {"a": {COMPLETE: 100, FAILED: 2}})
    after = reading(60, {"a": {COMPLETE: 40, FAILED: 3}})

    assert outcomes(before, after) == {"complete": 40, "failed": 3}


def test_samples_that_are_not_newer_count_nothing() -> None:
    """A second Prometheus, a scrape behind, looks like a restart: all the past would count again."""
    before = replace(reading(60, {"a": {COMPLETE: 100}}), seen={"a": 58.0})
    after = replace(reading(120, {"a": {COMPLETE: 97}}), seen={"a": 57.0})
    later = reading(180, {"a": {COMPLETE: 101}})

    assert outcomes(before, after) == {}
    assert outcomes(carried(before, after), later) == {"complete": 1}


def test_a_proxy_that_is_new_brings_nothing() -> None:
    """Its past may be older than the rollout; from then on it counts."""
    before = reading(0, {"a": {COMPLETE: 1}})
    met = reading(60, {"a": {COMPLETE: 1}, "b": {COMPLETE: 5000}})
    later = reading(120, {"a": {COMPLETE: 1}, "b": {COMPLETE: 5002}})

    assert outcomes(before, met) == {}
    assert outcomes(carried(before, met), later) == {"complete": 2}


def test_a_process_that_began_since_counting_did_counts_whole() -> None:
    """Also if it was met only some looks later. Then what is new counts, and no more."""
    before = reading(100, {})
    without = reading(160, {})
    met = dated(220, 101, {COMPLETE: 3, FAILED: 2})
    later = dated(280, 101, {COMPLETE: 4, FAILED: 2})

    baseline = carried(before, without)

    assert outcomes(baseline, met) == {"complete": 3, "failed": 2}
    assert outcomes(carried(baseline, met), later) == {"complete": 1}


@pytest.mark.parametrize("began_s", [99.0, 161.0], ids=["before counting did", "after it was seen"])
def test_a_process_whose_past_is_not_known_brings_nothing(began_s: float) -> None:
    """It is older than the rollout, or its clock is wrong; from then on it counts."""
    before, met = reading(100, {}), dated(160, began_s, {FAILED: 70})

    assert outcomes(before, met) == {}
    assert outcomes(carried(before, met), dated(220, began_s, {FAILED: 71})) == {"failed": 1}


def test_a_process_that_began_again_is_known_by_its_start() -> None:
    """With little traffic no counter falls: 3 and 1 before, 5 and 2 of another process after."""
    before = dated(100, 10, {COMPLETE: 3, FAILED: 1})
    after = dated(160, 120, {COMPLETE: 5, FAILED: 2})

    assert outcomes(before, after) == {"complete": 5, "failed": 2}


def test_a_proxy_that_is_upgraded_to_one_that_says_when_it_began() -> None:
    """Before, only counters that fell told that it began again."""
    before = reading(100, {"a": {COMPLETE: 3}})

    assert outcomes(before, dated(160, 120, {COMPLETE: 5})) == {"complete": 5}
    assert outcomes(before, dated(160, 90, {COMPLETE: 5})) == {"complete": 2}


def test_one_process_cannot_have_counted_less_before() -> None:
    """Another answers at its address: what it shows counted elsewhere, or is not dated."""
    before = dated(100, 10, {COMPLETE: 30, FAILED: 1})

    assert outcomes(before, dated(160, 10, {COMPLETE: 20, FAILED: 2})) == {}
    assert outcomes(before, dated(160, 5, {COMPLETE: 20, FAILED: 2})) == {}


def test_what_a_process_showed_last_before_it_was_gone_counts_once() -> None:
    """By the same rules as pages that are there, in the order of time, and carried like them."""
    before = dated(100, 10, {FAILED: 1})
    pages = [Page("a", at_s, 10, {Series(OUTCOMES, "a", FAILED): n}) for at_s, n in ((110.0, 3), (120.0, 4))]
    after = replace(reading(160, {}), departed=pages)

    assert outcomes(before, after) == {"failed": 3}
    assert outcomes(carried(before, after), dated(220, 10, {FAILED: 6})) == {"failed": 2}
    assert outcomes(carried(before, after), dated(220, 130, {FAILED: 6})) == {"failed": 6}


def test_a_process_that_was_forgotten_is_not_new() -> None:
    """It counted before it was away for a day; that it began since counting did is no longer enough."""
    known = carried(reading(0, {}), dated(60, 30, {FAILED: 9}))
    forgotten = carried(known, reading(60 + CARRY_S + 1, {}))

    assert outcomes(forgotten, dated(CARRY_S + 120, 30, {FAILED: 10})) == {}
    assert outcomes(forgotten, dated(CARRY_S + 120, 61, {FAILED: 10})) == {"failed": 10}


def test_a_counter_that_is_new_on_a_known_page_brings_nothing() -> None:
    """A route that the policy names since a moment ago has a past as well."""
    before = reading(0, {"a": {COMPLETE: 1}})
    after = reading(60, {"a": {COMPLETE: 1, FAILED: 70}})

    assert outcomes(before, after) == {}


def test_a_proxy_that_was_away_counts_only_what_is_new() -> None:
    """Its counters are carried over the readings that lack it."""
    first = reading(0, {"a": {COMPLETE: 10}, "b": {COMPLETE: 1}})
    without = reading(60, {"b": {COMPLETE: 1}})
    later = reading(120, {"a": {COMPLETE: 12}, "b": {COMPLETE: 1}})

    kept = carried(first, without)

    assert outcomes(first, without) == {}
    assert outcomes(kept, later) == {"complete": 2}


def test_what_is_away_is_forgotten_in_time() -> None:
    """After a day it is met as new."""
    first = reading(0, {"a": {COMPLETE: 10}})

    assert carried(first, reading(CARRY_S, {})).seen == {"a": 0}
    assert carried(first, reading(CARRY_S + 1, {})).counters == {}


def test_no_more_is_remembered_of_what_is_away_than_the_bound_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of new pods, each with hundreds of counters, must fit the journal and the controller's memory."""
    monkeypatch.setattr(growth, "CARRIED_COUNTERS", 30)
    crowd = reading(0, {f"pod-{number}": {COMPLETE: 1, FAILED: 1} for number in range(20)})
    long_away = replace(crowd, seen={**crowd.seen, "pod-3": -60.0})

    kept = carried(long_away, reading(60, {"new": {COMPLETE: 1}}))

    assert len(kept.seen) == 1 + 30 // 3
    assert {series.instance for series in kept.counters} == set(kept.seen)
    assert "pod-3" not in kept.seen


def test_at_the_begin_of_a_step_the_reading_itself_is_the_baseline() -> None:
    """Requests of a process that was away settled in nobody knows which step: it is met as new."""
    begin = reading(60, {"b": {COMPLETE: 1}})
    later = reading(120, {"a": {COMPLETE: 12}, "b": {COMPLETE: 2}})

    assert outcomes(begin, later) == {"complete": 1}
