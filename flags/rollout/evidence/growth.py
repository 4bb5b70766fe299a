"""Raw counters to evidence: what was counted between two readings, however processes come and go. Pure.

No rate and no `increase`: those guess what lies between samples, and guesses are no whole numbers.

An instance is one page of counters, which begin at zero together when their process does. For each of them:

* its process is the one that was last seen: the differences count;
* its process began since then: all that it shows was counted in between;
* its samples are not newer than the last ones: nothing counts, it was only asked elsewhere;
* it is not there: nothing counts, and what is known of it is carried, so that only what is new counts later;
* it came or went since then, and its last page is still known: that counts by the same rules, in the order of
  time, before the page of whoever is there now;
* it was not known, and its process began since counting did: all that it shows counts;
* it was not known, and has a past that is older or that nobody dates: nothing counts the first time. A series
  that is new on a known page counts nothing either: a route just named by the policy brings all its past.

When a process began is what its page says, by its own clock. Where a page does not say so, of an older proxy,
one that was last seen has begun again if any of its counters fell.

So no event counts twice, and what cannot be dated does not count.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from itertools import accumulate
from statistics import fmean
from typing import TypeVar

from flags.errors import InvalidReading
from flags.rollout.evidence.evidence import EXPECTED_UNITS, REST, Batch, Tail
from flags.rollout.evidence.readings import (
    CAPPED,
    EXPECTED,
    FIRST_CONTENT_S,
    OUTCOMES,
    PARITY,
    RECOVERIES,
    SETTLED_S,
    SLOWER,
    WEIGHED,
    WORSE,
    Counting,
    Labels,
    Page,
    Reading,
    Series,
)

CARRY_S = 24 * 3600.0
"""A process that was away for longer is met as a new one."""

CARRIED_COUNTERS = 50_000
"""The most counters that are remembered of processes that are away: 20 MB. A process has about 400 for each
of its routes. Those that are away longest are forgotten first."""

ALL = str(math.inf)
"""The last bucket of a histogram, which holds everything."""

Key = TypeVar("Key")


def between(before: Reading, after: Reading, step: int, *, rest_by_bucket: bool = False) -> Batch:
    """The counts from `before` to `after`.

    Args:
        before: at the begin of a step the reading itself, then what `carried` makes of it and the next ones.
        after: the newest reading.
        step: index of the policy's step that was in force all the time.
        rest_by_bucket: whether those who are in neither arm are told apart by their buckets: for plans, since
            no verdict compares them, and what is in a batch is written to the journal.

    Raises InvalidReading if `after` is not the later one, or contradicts itself.
    """
    if after.at_s <= before.at_s:
        raise InvalidReading("the clock went back between two readings: look at the machine's time")
    grown = _grown(before, after)
    names = sorted({series.labels[0] for series in after.counters if series.metric == OUTCOMES})
    batch = _batch(before, after, step, grown, set(names), rest_by_bucket=rest_by_bucket)
    if len(names) < 2:
        return batch
    by_route = {
        name: {series: n for series, n in grown.items() if series.labels[0] == name} for name in names
    }
    routes = {
        name: replace(
            _batch(before, after, step, of_route, {name}, rest_by_bucket=False),
            seconds={},
            first_content={},
            recoveries={},
            parity={},
            users={arm: n for (route, arm), n in after.users_by_route.items() if route == name},
        )
        for name, of_route in by_route.items()
    }
    return replace(batch, routes=routes)


def _batch(
    before: Reading,
    after: Reading,
    step: int,
    grown: Mapping[Series, int],
    routes: Set[str],
    *,
    rest_by_bucket: bool,
) -> Batch:
    def outcome_of(labels: Labels) -> tuple[str, int, str]:
        _, arm, bucket, outcome = labels
        return arm, 0 if arm == REST and not rest_by_bucket else int(bucket), outcome

    def by_bucket(metric: str) -> dict[tuple[str, int], int] | None:
        if not _all_say(after, metric):
            return None
        return _summed(grown, metric, lambda labels: (labels[1], int(labels[2])))

    return Batch(
        since_s=before.at_s,
        until_s=after.at_s,
        step=step,
        outcomes=_summed(grown, OUTCOMES, outcome_of),
        seconds=_tails(grown, SETTLED_S, lambda labels: (labels[1], float(labels[2]))),
        first_content=_tails(grown, FIRST_CONTENT_S, lambda labels: float(labels[2])),
        recoveries=_summed(grown, RECOVERIES, lambda labels: labels[2]),
        parity=_summed(grown, PARITY, lambda labels: labels[1]),
        expected=by_bucket(EXPECTED),
        weighed=by_bucket(WEIGHED),
        capped=_summed(grown, CAPPED, lambda labels: labels[1]) if _all_say(after, CAPPED) else None,
        worse=_summed(grown, WORSE, lambda labels: (labels[1], labels[2])),
        slower=by_bucket(SLOWER),
        proxies=_counting(after, routes),
        drawn=_drawn(after, routes),
        users=dict(after.users),
    )


def _counting(reading: Reading, routes: Set[str]) -> int:
    """How often a user who becomes worse may be counted: by each process or group, for each route."""
    pages = {(series.instance, series.labels[0]) for series in reading.counters if series.metric == OUTCOMES}
    found = [(page[1], reading.counting.get(page, Counting(0, 0))) for page in pages if page[1] in routes]
    groups = {(route, one.group) for route, one in found if one.group}
    return max(1, len(groups) + sum(one.alone or not one.group for _, one in found))


def _drawn(reading: Reading, routes: Set[str]) -> dict[str, int]:
    """By kind of harm. Routes have the same users, whose draw is one: the mean of theirs."""
    found: dict[str, list[float]] = defaultdict(list)
    for (route, harm), evidence in reading.drawn.items():
        if route in routes:
            found[harm].append(evidence)
    return {harm: round(fmean(each) * EXPECTED_UNITS) for harm, each in found.items()}


def _all_say(reading: Reading, metric: str) -> bool:
    """True if each process whose requests count shows this metric, for each of its routes."""
    every = [series for page in reading.departed for series in page.counters]
    every += reading.counters
    routes = {
        of: {(series.instance, series.labels[0]) for series in every if series.metric == of}
        for of in (OUTCOMES, metric)
    }
    return bool(routes[metric]) and routes[OUTCOMES] <= routes[metric]


def carried(before: Reading, after: Reading) -> Reading:
    """The reading to compare the next one with: `after`, and the counters of instances that are away."""
    before = _with_departed(before, after.departed)
    newer = {instance for instance, at_s in after.seen.items() if at_s > before.seen.get(instance, -math.inf)}
    away = [i for i, at_s in before.seen.items() if i not in newer and at_s >= after.at_s - CARRY_S]
    away.sort(key=lambda instance: (before.seen[instance], instance), reverse=True)
    sizes = Counter(series.instance for series in before.counters)
    held = accumulate(sizes[instance] + 1 for instance in away)  # an empty page is remembered, too
    known = {instance for instance, counters in zip(away, held, strict=True) if counters <= CARRIED_COUNTERS}
    counters = {series: n for series, n in before.counters.items() if series.instance in known}
    counters |= {series: n for series, n in after.counters.items() if series.instance in newer}
    seen = {i: before.seen[i] for i in away if i in known} | {i: after.seen[i] for i in newer}
    started = {i: began_s for i, began_s in before.started.items() if i in known}
    started |= {i: began_s for i, began_s in after.started.items() if i in newer}
    # Whoever is forgotten began before it was seen last, and is not to be taken for a new one.
    forgotten = [at_s for i, at_s in before.seen.items() if i not in seen]
    since_s = max([counting_since(before), *forgotten])
    killed_s = max(before.killed_s, after.killed_s)  # whoever found it on may be gone by now
    return replace(
        after,
        counters=counters,
        seen=seen,
        started=started,
        since_s=since_s,
        killed_s=killed_s,
        departed=(),
    )


def _with_departed(before: Reading, departed: Sequence[Page]) -> Reading:
    """`before`, with the last pages in the place of those of the same instances."""
    if not departed:
        return before
    last = {page.instance: page for page in departed if page.at_s > before.seen.get(page.instance, -math.inf)}
    counters = {series: n for series, n in before.counters.items() if series.instance not in last}
    started = {instance: began_s for instance, began_s in before.started.items() if instance not in last}
    for instance, page in last.items():
        counters |= page.counters
        if page.began_s is not None:
            started[instance] = page.began_s
    seen = {**before.seen, **{instance: page.at_s for instance, page in last.items()}}
    return replace(before, counters=counters, seen=seen, started=started)


def counting_since(reading: Reading) -> float:
    """Unix time since which each process that was seen is known: who began later and is unknown is new."""
    return reading.at_s if reading.since_s is None else reading.since_s


def _grown(before: Reading, after: Reading) -> dict[Series, int]:
    """The growth of each counter; 0 for counts whose time is not known."""
    grown: dict[Series, int] = defaultdict(int)
    known, since_s = {page.instance: page for page in pages(before)}, counting_since(before)
    for page in (*after.departed, *pages(after)):
        last = known.get(page.instance)
        if last is not None and page.at_s <= last.at_s:
            continue  # not newer
        known[page.instance] = page
        past = {} if last is None else last.counters
        fell = any(n < past.get(series, 0) for series, n in page.counters.items())
        began_again = _began_since(page, last, since_s, fell=fell)
        if fell and not began_again:
            continue  # of another process, which answers at the same address
        for series, n in page.counters.items():
            if began_again or series in past:
                grown[series] += n - (0 if began_again else past[series])
    return grown


def _began_since(page: Page, last: Page | None, since_s: float, *, fell: bool) -> bool:
    """True if all that a page shows was counted since it was seen last, or since counting began."""
    if last is None:
        # A process that begins after it was seen has a clock that dates nothing.
        return page.began_s is not None and since_s < page.began_s <= page.at_s
    if page.began_s is not None and last.began_s is not None:
        return page.began_s > last.began_s
    return fell or (page.began_s is not None and page.began_s > last.at_s)


def pages(reading: Reading) -> list[Page]:
    """A reading, process by process."""
    counters: dict[str, dict[Series, int]] = {instance: {} for instance in reading.seen}
    for series, n in reading.counters.items():
        counters[series.instance][series] = n
    return [Page(i, at_s, reading.started.get(i), counters[i]) for i, at_s in reading.seen.items()]


def _summed(grown: Mapping[Series, int], metric: str, key: Callable[[Labels], Key]) -> dict[Key, int]:
    """Over all instances, routes and what else is not in the key; without zeros."""
    sums: dict[Key, int] = defaultdict(int)
    for series, n in grown.items():
        if n and series.metric == metric:
            sums[key(series.labels)] += n
    return dict(sums)


def _tails(grown: Mapping[Series, int], metric: str, key: Callable[[Labels], Key]) -> dict[Key, Tail]:
    """Observations beyond a limit. A histogram's buckets are cumulative, so it is the total less those within
    it."""
    tails: dict[Key, Tail] = defaultdict(lambda: Tail(0, 0))
    for series, within in grown.items():
        if series.metric != metric or series.labels[-1] == ALL:
            continue
        everything = grown.get(series._replace(labels=(*series.labels[:-1], ALL)))
        if everything is None:
            continue
        if within > everything:
            raise InvalidReading(f"{series} grew by more than its histogram: it is not read at one moment")
        tail = tails[key(series.labels)]
        tails[key(series.labels)] = Tail(tail.over + everything - within, tail.all + everything)
    return dict(tails)
