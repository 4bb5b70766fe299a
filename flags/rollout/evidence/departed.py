"""Processes that are gone, and the time at which each of them was scraped last. Pure."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from flags.rollout.evidence.growth import counting_since
from flags.rollout.evidence.readings import Reading


class Scrape(NamedTuple):
    """One look of Prometheus at one proxy."""

    at_s: float
    """Unix time, by Prometheus."""
    instance: str
    began_s: float | None
    """Unix time at which the process began, as it says; None: it does not."""


def last_scrapes(scrapes: Iterable[Scrape], living: Reading, before: Reading) -> list[Scrape]:
    """The pages that show something new of a process that has ended, in the order of time.

    Args:
        scrapes: all since `before`, and some of earlier; whose processes have an order, and no two overlap.
        living: who is there now, with the page that was read of it.
        before: what was counted by then. Who is not known there, and does not say that it began since
            counting did, has a past that nobody dates: it is left out.
    """
    last: dict[tuple[str, float | None], Scrape] = {}
    for scrape in sorted(scrapes, key=lambda scrape: scrape.at_s):
        if scrape.at_s <= living.seen.get(scrape.instance, math.inf):
            last[scrape.instance, scrape.began_s] = scrape
    for instance in living.seen:
        last.pop((instance, living.started.get(instance)), None)
    return sorted(scrape for scrape in last.values() if _is_new(scrape, before))


def _is_new(scrape: Scrape, before: Reading) -> bool:
    if scrape.instance in before.seen:
        return scrape.at_s > before.seen[scrape.instance]
    return scrape.began_s is not None and scrape.began_s > counting_since(before)
