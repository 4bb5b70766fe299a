"""Readings of outcomes, and what counted between them."""

from collections.abc import Mapping

from flags.rollout.evidence.growth import between
from flags.rollout.evidence.readings import OUTCOMES, Reading, Series

COMPLETE = ("start", "stream", "3", "complete")
FAILED = ("start", "stream", "3", "failed")


def reading(at_s: float, pages: Mapping[str, Mapping[tuple[str, ...], int]]) -> Reading:
    """Outcomes by instance."""
    counters = {Series(OUTCOMES, i, labels): n for i, page in pages.items() for labels, n in page.items()}
    return Reading(at_s, counters, dict.fromkeys(pages, at_s))


def outcomes(before: Reading, after: Reading) -> dict[str, int]:
    """Return what counted, by outcome."""
    return {outcome: n for (_, _, outcome), n in between(before, after, 0).outcomes.items()}
