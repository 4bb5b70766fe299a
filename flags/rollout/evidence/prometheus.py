"""Readings from Prometheus: raw counters, all by one query at one moment, and when they were scraped.

One query, because two could see two scrapes, and a process that began again between them would then count its
past once more. With it come the times of the scrapes, as the rows that have no name, and the proxies that
could not be scraped.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import httpx
import orjson
from pydantic import SecretStr

from flags.errors import EvidenceError, InvalidReading, ReadingProblem
from flags.rollout.evidence.fetching import fetch
from flags.rollout.evidence.readings import LABELS, OF_PROCESSES, Reading, Sample, Wanted, complete, gather

MAX_BODY_BYTES = 64 * 1024 * 1024
"""About 100 kB for each route of each proxy."""

DOWN = "up"
"""What Prometheus says of each target: 0 if its last scrape failed."""

Row = tuple[Mapping[str, str], float]


class PrometheusServer(Protocol):
    """What has to be known of a server: `PrometheusEvidence` of the policy."""

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

    async def read(self, now_s: float) -> Reading:
        """All proxies as they were scraped last before `now_s`. Raises EvidenceError."""
        body = await fetch(
            self._http,
            f"{self._server.url}/api/v1/query",
            params={"query": self._query, "time": f"{now_s:.3f}"},
            token=self._server.token,
            timeout_s=self._server.timeout_s,
            max_bytes=MAX_BODY_BYTES,
        )
        rows = list(parse(body))
        seen = self._fresh(_scraped(rows), now_s)
        missing = {labels.get("instance", "") for labels, _ in rows} - set(seen)
        reading = gather(now_s, _samples(rows, seen), seen, self._wanted, sorted(missing))
        return complete(reading, self._wanted)

    def _fresh(self, scraped: Mapping[str, float], now_s: float) -> dict[str, float]:
        """Without the instances that were scraped too long ago. Raises EvidenceError if those are all."""
        if not scraped:
            sentence = (
                f"no proxy is known to {self._server.url} as headgate_build_info{{{self._server.selector}}}"
            )
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
    proxies = f"headgate_build_info{{{selector}}}"
    # What a selector finds beside proxies began at some time, too.
    named = f'{{__name__=~"{"|".join(OF_PROCESSES)}",{selector}}}'
    of_processes = f"({named} and on(instance) {proxies})"
    return f"{{{matchers}}} or timestamp({proxies}) or ({DOWN}{{{selector}}} == 0) or {of_processes}"


def parse(body: bytes) -> Iterator[Row]:
    """The rows of an answer. Raises EvidenceError for one that is no whole answer to an instant query."""
    try:
        answer = orjson.loads(body)
        if answer["status"] != "success":
            raise EvidenceError(ReadingProblem.ERROR, f"Prometheus refuses: {_short(answer.get('error'))}")
        if answer.get("warnings"):
            raise InvalidReading(f"Prometheus warns that it may not be all: {_short(answer['warnings'])}")
        if answer["data"]["resultType"] != "vector":
            raise InvalidReading(
                f"a {_short(answer['data']['resultType'])} where an instant vector was asked for"
            )
        for row in answer["data"]["result"]:
            yield _row(row)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InvalidReading(f"not an answer of Prometheus: {type(exc).__name__}") from exc


def _row(row: Any) -> Row:
    labels, (_, value) = row["metric"], row["value"]
    if not isinstance(labels, dict) or not isinstance(value, str):
        raise TypeError
    return labels, float(value)


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
