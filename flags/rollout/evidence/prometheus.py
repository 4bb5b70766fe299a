"""Readings from Prometheus: raw counters, all by one query at one moment, and when they were scraped.

One query, because two could see two scrapes, and a process that began again between them would then count its
past once more. With it come the times of the scrapes, as the rows that have no name, and the proxies that
could not be scraped.

Processes that came or went since the last reading are not in it: a second query asks for all scrapes of that
time, which are two numbers each, and for every process that is no more a third one asks for its last page,
at just that moment. All three are raw samples, whatever lies between them.
"""

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import httpx
import orjson
from pydantic import SecretStr

from flags.errors import EvidenceError, InvalidReading, ReadingProblem
from flags.rollout.evidence.departed import Scrape, last_scrapes
from flags.rollout.evidence.fetching import fetch
from flags.rollout.evidence.growth import pages
from flags.rollout.evidence.readings import (
    LABELS,
    OF_PROCESSES,
    STARTED,
    Reading,
    Sample,
    Wanted,
    complete,
    gather,
)

logger = logging.getLogger("headgate.rollout")

MAX_BODY_BYTES = 64 * 1024 * 1024
"""About 100 kB for each route of each proxy."""

MOST_PAST_S = 6 * 3600.0
"""After a longer outage, what processes counted that were gone so long ago is lost. Of 300 proxies that are
scraped every 15 seconds these are about 25 MB."""

LATE_S = 120.0
"""Seconds after which a scrape that was under way during a look is stored, under the time of its begin."""

MOST_DEPARTED = 200
"""The most processes that are gone and that one reading asks for: those that were seen last."""

DEPARTED_AT_A_TIME = 8

BUILD = "headgate_build_info"
"""The label that identifies a proxy."""

DOWN = "up"
"""Prometheus' own metric of each target: 0 if its last scrape failed."""

Row = tuple[Mapping[str, str], float]
Track = tuple[Mapping[str, str], Sequence[tuple[float, float]]]
"""A series, with the Unix time and the value of each of its samples."""
T = TypeVar("T")


class PrometheusServer(Protocol):
    """The address of a Prometheus and how to ask it: `PrometheusEvidence` of the policy."""

    @property
    def url(self) -> str: ...
    @property
    def selector(self) -> str: ...
    @property
    def token(self) -> SecretStr | None: ...
    @property
    def timeout_s(self) -> float: ...


class PrometheusReadings:
    """Readings of all proxies that a selector finds. Whoever made the HTTP client closes it."""

    def __init__(
        self, http: httpx.AsyncClient, server: PrometheusServer, wanted: Wanted, *, stale_after_s: float
    ) -> None:
        self._http = http
        self._server = server
        self._wanted = wanted
        self._stale_after_s = stale_after_s
        self._query = query(server.selector, wanted)

    def __repr__(self) -> str:
        return f"<PrometheusReadings {self._server.url} {{{self._server.selector}}}>"

    async def read(self, now_s: float, before: Reading | None = None) -> Reading:
        """All proxies as they were scraped last before `now_s`. Raises EvidenceError."""
        rows = list(parse(await self._ask(self._query, now_s)))
        seen = self._fresh(_scraped(rows), now_s)
        missing = {labels.get("instance", "") for labels, _ in rows} - set(seen)
        reading = gather(now_s, _samples(rows, seen), seen, self._wanted, sorted(missing))
        complete(reading, self._wanted)
        return reading if before is None else await self._with_departed(reading, before)

    async def _with_departed(self, living: Reading, before: Reading) -> Reading:
        """With the last pages of the processes that are no more. Raises EvidenceError: one is never left out
        because it cannot be read now."""
        past_s = min(max(0.0, living.at_s - before.at_s) + LATE_S, MOST_PAST_S)
        body = await self._ask(census(self._server.selector, past_s), living.at_s)
        last = last_scrapes(_scrapes(parse_tracks(body)), living, before)
        if len(last) > MOST_DEPARTED:
            logger.warning("rollout: %d processes came and went, %d are counted", len(last), MOST_DEPARTED)
            last = last[-MOST_DEPARTED:]
        turns = asyncio.Semaphore(DEPARTED_AT_A_TIME)
        try:
            async with asyncio.timeout(self._server.timeout_s), asyncio.TaskGroup() as group:
                asked = [group.create_task(self._last_of(scrape, turns)) for scrape in last]
        except TimeoutError:
            sentence = f"{self._server.url} did not answer within {self._server.timeout_s:g} s of {len(last)}"
            raise EvidenceError(ReadingProblem.ERROR, f"{sentence} proxies that are gone") from None
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from None
        found = [task.result() for task in asked]
        departed = tuple(page for one in found for page in pages(one))
        killed_s = max([living.killed_s, *(one.killed_s for one in found)])
        return replace(living, departed=departed, killed_s=killed_s)

    async def _last_of(self, scrape: Scrape, turns: asyncio.Semaphore) -> Reading:
        """The last page of one process."""
        async with turns:
            asked = page_query(self._server.selector, self._wanted, scrape.instance)
            body = await self._ask(asked, scrape.at_s)
        rows = [
            (labels, value)
            for labels, samples in parse_tracks(body)
            for at_s, value in samples
            if at_s == scrape.at_s
        ]
        seen = {scrape.instance: scrape.at_s}
        return gather(scrape.at_s, _samples(rows, seen), seen, self._wanted)

    async def _ask(self, query: str, at_s: float) -> bytes:
        return await fetch(
            self._http,
            f"{self._server.url}/api/v1/query",
            params={"query": query, "time": f"{at_s:.3f}"},
            token=self._server.token,
            timeout_s=self._server.timeout_s,
            max_bytes=MAX_BODY_BYTES,
        )

    def _fresh(self, scraped: Mapping[str, float], now_s: float) -> dict[str, float]:
        """Without the instances that were scraped too long ago. Raises EvidenceError if those are all."""
        if not scraped:
            sentence = f"no proxy is known to {self._server.url} as {BUILD}{{{self._server.selector}}}"
            raise EvidenceError(
                ReadingProblem.NO_DATA, f"{sentence}: look at the selector and the scrape job"
            )
        age_s = now_s - max(scraped.values())
        if age_s > self._stale_after_s:
            sentence = f"the newest sample is {age_s:.0f} s old, and {self._stale_after_s:.0f} s is the limit"
            raise EvidenceError(
                ReadingProblem.STALE, f"{sentence}: look at the scrapes of {self._server.url}"
            )
        return {i: at_s for i, at_s in scraped.items() if now_s - at_s <= self._stale_after_s}


def query(selector: str, wanted: Wanted) -> str:
    """All that is wanted, without a name the time at which each proxy was scraped, and what has no route."""
    routes = "|".join(sorted(wanted.routes))
    matchers = f'__name__=~"{"|".join(LABELS)}",route=~"{routes}",{selector}'
    proxies = f"{BUILD}{{{selector}}}"
    # What a selector finds beside proxies began at some time, too.
    named = f'{{__name__=~"{"|".join(OF_PROCESSES)}",{selector}}}'
    of_processes = f"({named} and on(instance) {proxies})"
    return f"{{{matchers}}} or timestamp({proxies}) or ({DOWN}{{{selector}}} == 0) or {of_processes}"


def census(selector: str, past_s: float) -> str:
    """Each scrape of a proxy in so many seconds, and when its process began."""
    return f'{{__name__=~"{BUILD}|{STARTED}",{selector}}}[{math.ceil(past_s)}s]'


def page_query(selector: str, wanted: Wanted, instance: str) -> str:
    """All that is wanted of one proxy, at just the moment for which it is asked, or a millisecond before."""
    names, routes = "|".join((*LABELS, *OF_PROCESSES)), "|".join(sorted(wanted.routes))
    named = orjson.dumps(instance).decode()  # quoted as PromQL has it
    return f'{{__name__=~"{names}",route=~"{routes}|",instance={named},{selector}}}[1ms]'


def parse(body: bytes) -> Iterator[Row]:
    """The rows of an answer. Raises EvidenceError for one that is no whole answer to an instant query."""
    return _parsed(body, "vector", _row)


def parse_tracks(body: bytes) -> Iterator[Track]:
    """The series of an answer. Raises EvidenceError for one that is no whole answer to a query of a range."""
    return _parsed(body, "matrix", _track)


def _parsed(body: bytes, kind: str, read: Callable[[Any], T]) -> Iterator[T]:
    try:
        answer = orjson.loads(body)
        if answer["status"] != "success":
            raise EvidenceError(ReadingProblem.ERROR, f"Prometheus refuses: {_short(answer.get('error'))}")
        if answer.get("warnings"):
            raise InvalidReading(f"Prometheus warns that it may not be all: {_short(answer['warnings'])}")
        if answer["data"]["resultType"] != kind:
            raise InvalidReading(f"a {_short(answer['data']['resultType'])} where a {kind} was asked for")
        for row in answer["data"]["result"]:
            yield read(row)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InvalidReading(f"not an answer of Prometheus: {type(exc).__name__}") from exc


def _row(row: Any) -> Row:
    return _labels(row), _value(row["value"])[1]


def _track(row: Any) -> Track:
    return _labels(row), [_value(pair) for pair in row["values"]]


def _labels(row: Any) -> Mapping[str, str]:
    labels: Mapping[str, str] = row["metric"]
    if not isinstance(labels, dict):
        raise TypeError
    return labels


def _value(pair: Any) -> tuple[float, float]:
    at_s, value = pair
    if not isinstance(value, str):
        raise TypeError
    return float(at_s), float(value)


def _scrapes(tracks: Iterator[Track]) -> Iterator[Scrape]:
    times: dict[str, set[float]] = defaultdict(set)
    began: dict[tuple[str, float], float] = {}
    for labels, samples in tracks:
        instance = labels.get("instance", "")
        if labels.get("__name__") == BUILD:
            times[instance].update(at_s for at_s, _ in samples)
        else:
            began |= {(instance, at_s): began_s for at_s, began_s in samples if 0 < began_s < math.inf}
    return (Scrape(at_s, i, began.get((i, at_s))) for i in times for at_s in times[i])


def _scraped(rows: Sequence[Row]) -> dict[str, float]:
    """Unix time of the last scrape, by instance; of two versions in an upgrade, that of the later."""
    scraped: dict[str, float] = {}
    for labels, at_s in rows:
        if "__name__" not in labels:
            if not math.isfinite(at_s):
                raise InvalidReading(f"instance {labels.get('instance')} was scraped at {at_s}")
            instance = labels.get("instance", "")
            scraped[instance] = max(scraped.get(instance, at_s), at_s)
    return scraped


def _samples(rows: Sequence[Row], seen: Mapping[str, float]) -> Iterator[Sample]:
    for labels, value in rows:
        if "__name__" in labels and labels.get("instance", "") in seen:
            yield Sample(labels["__name__"], labels.get("instance", ""), labels, value)


def _short(said: Any) -> str:
    return str(said)[:200]
