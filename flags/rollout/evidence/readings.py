"""Readings: the counters of all processes at one moment, and the port to what gives them. Pure.

`growth.py` says what was counted between two of them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean
from typing import NamedTuple, Protocol

from flags.errors import EvidenceError, InvalidReading, ReadingProblem
from flags.rollout.evidence.evidence import EXPECTED_UNITS, LIMITS, REST, ComparedArm

OUTCOMES = "headgate_outcomes_total"
EXPECTED = "headgate_expected_failures_total"
WEIGHED = "headgate_weighed_failures_total"
CAPPED = "headgate_capped_failures_total"
WORSE = "headgate_users_worse_total"
SLOWER = "headgate_slower_total"
SETTLED_S = "headgate_settled_seconds_bucket"
FIRST_CONTENT_S = "headgate_first_content_seconds_bucket"
RECOVERIES = "headgate_recoveries_total"
PARITY = "headgate_parity_total"
USERS = "headgate_users"
IDENTITY = "headgate_identity_verified"
USERS_CV2 = "headgate_users_cv2"
USERS_GROUP = "headgate_users_group"
USERS_ALONE = "headgate_users_alone"
DRAWN = "headgate_draw_evidence"
STARTED = "process_start_time_seconds"
KILLED = "headgate_kill_flag_on_timestamp_seconds"
OF_PROCESSES = (STARTED, KILLED)
"""Metrics that are read as well, and have no route."""

LABELS: Mapping[str, tuple[str, ...]] = {
    OUTCOMES: ("route", "arm", "bucket", "outcome"),
    EXPECTED: ("route", "arm", "bucket"),
    WEIGHED: ("route", "arm", "bucket"),
    CAPPED: ("route", "arm"),
    WORSE: ("route", "arm", "limit"),
    SLOWER: ("route", "arm", "bucket"),
    SETTLED_S: ("route", "arm", "le"),
    FIRST_CONTENT_S: ("route", "source", "le"),
    RECOVERIES: ("route", "fault", "result"),
    PARITY: ("route", "result"),
    USERS: ("route", "arm"),
    IDENTITY: ("route",),
    USERS_CV2: ("route",),
    USERS_GROUP: ("route",),
    USERS_ALONE: ("route",),
    DRAWN: ("route", "harm"),
}
"""The metrics that are read, with their own labels in order. Labels that a scrape adds do not matter."""

_COUNTING = {USERS_GROUP: "group", USERS_ALONE: "alone"}

STREAMING_FAULTS = frozenset({"source_lost", "log_store", "internal"})
"""Failures of streaming itself, beside a call whose answer still comes: these must be recovered from. All
others are the upstream's, and whether streamed requests suffer more of them is seen by comparing the arms."""

USER_BUCKETS = frozenset(map(str, range(16)))

EXACT = 2.0**53
"""Beyond it a counter's floating-point number can no longer count by one."""


Labels = tuple[str, ...]


class Series(NamedTuple):
    """One counter of one process."""

    metric: str
    instance: str
    labels: Labels
    """Label values in the order of LABELS; an `le` is written as Python writes the number."""

    def __str__(self) -> str:
        named = zip(("instance", *LABELS[self.metric]), (self.instance, *self.labels), strict=True)
        return self.metric + "{" + ",".join(f'{name}="{value}"' for name, value in named) + "}"


class Sample(NamedTuple):
    """One sample: a line of a page, or a row of Prometheus' answer."""

    metric: str
    instance: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """The counters that a policy needs."""

    routes: frozenset[str]
    slow_s: frozenset[float]
    """Limits of whole answers, each an edge of the histogram."""
    first_content_s: frozenset[float]
    """Limits of first texts."""


class Page(NamedTuple):
    """The counters of one process at one scrape."""

    instance: str
    at_s: float
    """Unix time of the scrape."""
    began_s: float | None
    """Unix time at which the process began; None: it does not say so."""
    counters: Mapping[Series, int]


class Counting(NamedTuple):
    """The processes of one page that count the users of one route who are worse."""

    group: int
    """The number of those, of all pages, that count each of them once, together; 0: none do."""
    alone: int
    """Processes that may each count the same ones."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of all processes at one moment."""

    at_s: float
    """Unix time at which it was asked for."""
    counters: Mapping[Series, int]
    seen: Mapping[str, float]
    """Unix time of the samples, by instance; in what is carried, of those that were seen last."""
    users: Mapping[str, int] = field(default_factory=dict)
    """Users by arm: the most that one process has met, so that all of them are different."""
    missing: Sequence[str] = ()
    """Instances that were asked, and gave nothing."""
    unverified: Sequence[str] = ()
    """Routes whose proxies do not verify users. As of this moment: it is not stored."""
    started: Mapping[str, float] = field(default_factory=dict)
    """Unix time at which the process of an instance began, for those that say so."""
    since_s: float | None = None
    """Unix time since which each process that was seen is known; None: since `at_s`."""
    killed_s: float = 0.0
    """Unix time at which any proxy, also one that has ended, last found the kill flag turned on; 0: none did.
    It is not stored."""
    users_cv2: float | None = None
    """Squared coefficient of variation of users' rates of failure; of several routes and processes the
    largest. None: no proxy says it. It is not stored."""
    departed: Sequence[Page] = ()
    """The last pages of processes that are no more, in the order of time. They are not stored."""
    users_by_route: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Users by route and arm, as `users`. It is not stored."""
    counting: Mapping[tuple[str, str], Counting] = field(default_factory=dict)
    """Who counts users who are worse, by instance and route, of those that say so. It is not stored."""
    drawn: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Logarithm of how much likelier harm makes the flag's draw of users, by route and kind of harm; of the
    processes the mean, for they may have the same users. It is not stored."""


class Readings(Protocol):
    """The port to a source of readings."""

    async def read(self, now_s: float, before: Reading | None = None) -> Reading:
        """All processes now, in Unix time. Raises EvidenceError: no reading is never a reading of zeros.

        Args:
            now_s: Unix time.
            before: what it will be compared with; with it come the last pages of processes that are no more,
                as far as the source still has them.
        """


def gather(
    at_s: float,
    samples: Iterable[Sample],
    seen: Mapping[str, float],
    wanted: Wanted,
    missing: Sequence[str] = (),
) -> Reading:
    """Make a reading of these samples, without those that are not wanted.

    Raises InvalidReading for a number that no counter can have, and for a counter that is there twice.
    """
    counters: dict[Series, int] = {}
    started: dict[str, float] = {}
    killed_s, cv2 = 0.0, None
    counting: dict[tuple[str, str], Counting] = {}
    drawn: dict[Series, float] = {}
    for sample in samples:
        if sample.metric == STARTED:
            if 0 < sample.value < math.inf:
                started[sample.instance] = sample.value
            continue
        if sample.metric == KILLED:
            killed_s = max(killed_s, sample.value)
            continue
        series = _series(sample, wanted)
        if series is None:
            continue
        if sample.metric == USERS_CV2:
            cv2 = max(cv2 or 0.0, sample.value)
            continue
        if series.metric in _COUNTING:
            page, number = (series.instance, series.labels[0]), _count(series, sample.value)
            known = counting.get(page, Counting(0, 0))
            counting[page] = known._replace(**{_COUNTING[series.metric]: number})
            continue
        if series in counters or series in drawn:
            raise InvalidReading(f"{series} is there twice: make the selector find each proxy once")
        if series.metric == DRAWN:
            drawn[series] = _level(series, sample.value)
            continue
        counters[series] = _count(series, sample.value)
    users, users_by_route = _met(counters)
    identity = {series: counters.pop(series) for series in list(counters) if series.metric == IDENTITY}
    unverified = sorted({series.labels[0] for series, verified in identity.items() if not verified})
    return Reading(
        at_s,
        counters,
        dict(seen),
        users,
        tuple(missing),
        tuple(unverified),
        started,
        killed_s=killed_s,
        users_by_route=users_by_route,
        users_cv2=cv2,
        counting=counting,
        drawn=_means(drawn),
    )


def complete(reading: Reading, wanted: Wanted) -> Reading:
    """The reading. Raises EvidenceError if a route lacks a counter: an absent counter is not zero."""
    found = {(series.metric, series.labels[0], _limit(series)) for series in reading.counters}
    limits = [(OUTCOMES, ""), (RECOVERIES, ""), (PARITY, "")]
    limits += [(SETTLED_S, _edge(SETTLED_S, limit_s)) for limit_s in wanted.slow_s]
    limits += [(FIRST_CONTENT_S, _edge(FIRST_CONTENT_S, limit_s)) for limit_s in wanted.first_content_s]
    for (metric, limit), route in product(sorted(limits), sorted(wanted.routes)):
        if (metric, route, limit) not in found:
            what = f"{metric} of the route {route}" + f" up to {limit} s" * bool(limit)
            where = "look at the policy's routes and selector, and at the proxies' version"
            raise EvidenceError(ReadingProblem.NO_DATA, f"no proxy shows {what}: {where}")
    return reading


def _limit(series: Series) -> str:
    return series.labels[-1] if "le" in LABELS[series.metric] else ""


def _series(sample: Sample, wanted: Wanted) -> Series | None:
    """The key of a sample; None: it is not wanted."""
    names = LABELS.get(sample.metric)
    if names is None or sample.labels.get("route") not in wanted.routes:
        return None
    arm = sample.labels.get("arm", ComparedArm.STREAM)
    if arm not in (ComparedArm.STREAM, ComparedArm.CONTROL) and (
        arm != REST or sample.metric not in (OUTCOMES, SETTLED_S, WORSE)
    ):
        return None
    if sample.labels.get("limit", LIMITS[0]) not in LIMITS:
        return None
    if sample.metric == RECOVERIES and sample.labels.get("fault") not in STREAMING_FAULTS:
        return None
    labels = {name: sample.labels.get(name, "") for name in names}
    if "le" in labels:
        labels["le"] = _edge(sample.metric, labels["le"])
        limits = wanted.slow_s if sample.metric == SETTLED_S else wanted.first_content_s
        if float(labels["le"]) not in limits | {math.inf}:
            return None
    if labels.get("bucket", "0") not in USER_BUCKETS:
        raise InvalidReading(f"{sample.metric}: bucket={labels['bucket'][:40]!r} is none of 0 to 15")
    return Series(sample.metric, sample.instance, tuple(labels.values()))


def _edge(metric: str, text: str | float) -> str:
    try:
        return str(float(text))
    except ValueError:
        raise InvalidReading(f'{metric}: le="{str(text)[:40]}" is no number') from None


def _count(series: Series, value: float) -> int:
    units = EXPECTED_UNITS * value if series.metric in (EXPECTED, WEIGHED) else value
    if not (0 <= units < EXACT) or units != int(units):
        raise InvalidReading(f"{series} is {value}: no counter can be that")
    return int(units)


def _level(series: Series, value: float) -> float:
    if not abs(value) * EXPECTED_UNITS < EXACT:
        raise InvalidReading(f"{series} is {value}: no sum of logarithms can be that")
    return value


def _met(counters: dict[Series, int]) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Take the users out of the counters: by arm, and by route and arm."""
    users: dict[str, int] = defaultdict(int)
    by_route: dict[tuple[str, str], int] = defaultdict(int)
    for series in [series for series in counters if series.metric == USERS]:
        route, arm = series.labels
        met = counters.pop(series)
        users[arm] = max(users[arm], met)
        by_route[route, arm] = max(by_route[route, arm], met)
    return dict(users), dict(by_route)


def _means(levels: Mapping[Series, float]) -> dict[tuple[str, str], float]:
    """Of all processes, by route and the last label."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for series, level in levels.items():
        found[series.labels[0], series.labels[-1]].append(level)
    return {key: fmean(of_key) for key, of_key in found.items()}
