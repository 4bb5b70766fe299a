"""Processes that are gone: each of them is asked for once, and none that is there."""

import pytest

from flags.rollout.evidence.departed import Scrape, last_scrapes
from flags.rollout.evidence.readings import Reading

BEFORE = Reading(100, {}, {"a": 95.0, "old": 95.0}, started={"a": 10.0})
"""The reading before. The instance old does not say when its process began."""

LIVING = Reading(160, {}, {"a": 155.0}, started={"a": 10.0})


@pytest.mark.parametrize(
    ("scrapes", "expected"),
    [
        ([Scrape(95, "a", 10), Scrape(125, "a", 10), Scrape(155, "a", 10)], []),
        ([Scrape(110, "b", 105), Scrape(125, "b", 105)], [Scrape(125, "b", 105)]),
        ([Scrape(125, "b", 105), Scrape(110, "b", 105)], [Scrape(125, "b", 105)]),
        ([Scrape(110, "a", 105), Scrape(125, "a", 112)], [Scrape(110, "a", 105), Scrape(125, "a", 112)]),
        ([Scrape(158, "a", 156)], []),
        ([Scrape(110, "old", None)], [Scrape(110, "old", None)]),
        ([Scrape(95, "old", None)], []),
        ([Scrape(110, "b", 99)], []),
        ([Scrape(110, "b", None)], []),
    ],
    ids=[
        "it is there",
        "it lived between two looks",
        "whatever the order is",
        "two after each other at one address",
        "it began while one looked",
        "a known one of an older version",
        "it was counted already",
        "its past is older than counting",
        "nobody dates its past",
    ],
)
def test_who_is_no_more_is_known_by_its_scrapes(scrapes: list[Scrape], expected: list[Scrape]) -> None:
    """The last one of each process that shows something new."""
    assert last_scrapes(scrapes, LIVING, BEFORE) == expected
