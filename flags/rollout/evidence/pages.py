"""Readings straight from the proxies' own `/metrics`, for those who have no Prometheus.

A page that is gone is gone: what its process counted after the last look is in no reading.
"""

import asyncio
from collections.abc import Iterator, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families

from flags.errors import EvidenceError, InvalidReading, ReadingProblem
from flags.rollout.evidence.fetching import fetch
from flags.rollout.evidence.readings import LABELS, OF_PROCESSES, Reading, Sample, Wanted, complete, gather

PAGE_TIMEOUT_S = 5.0
"""Seconds for one page. All pages are asked at the same time."""

MAX_PAGE_BYTES = 16 * 1024 * 1024
"""About 100 kB for each route."""


class PageReadings:
    """Readings of these pages, each of one proxy. Whoever made the HTTP client closes it."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        urls: Sequence[str],
        wanted: Wanted,
        *,
        timeout_s: float = PAGE_TIMEOUT_S,
    ) -> None:
        self._http = http
        self._urls = urls
        self._wanted = wanted
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<PageReadings {' '.join(self._urls)}>"

    async def read(self, now_s: float, before: Reading | None = None) -> Reading:
        """The pages that answer now; `missing` names the others. Raises EvidenceError if no page answers."""
        answers = await asyncio.gather(*(self._page(url) for url in self._urls))
        failed = {url: said for url, said in zip(self._urls, answers, strict=True) if isinstance(said, str)}
        if len(failed) == len(self._urls):
            first = next(iter(failed.values()))
            raise EvidenceError(ReadingProblem.NO_DATA, f"no proxy's page can be read; the first: {first}")
        samples = [sample for page in answers if not isinstance(page, str) for sample in page]
        seen = {url: now_s for url in self._urls if url not in failed}
        reading = gather(now_s, samples, seen, self._wanted, list(failed))
        return complete(reading, self._wanted)

    async def _page(self, url: str) -> list[Sample] | str:
        """The samples of one page, or why there are none. Raises InvalidReading."""
        try:
            page = await fetch(self._http, url, timeout_s=self._timeout_s, max_bytes=MAX_PAGE_BYTES)
        except EvidenceError as exc:
            return exc.sentence
        return list(parse(url, page.decode(errors="replace"))) or f"{url} is not the page of a proxy"


def parse(url: str, page: str) -> Iterator[Sample]:
    """The samples of a page. Raises InvalidReading for a malformed line of Headgate's."""
    names = {*LABELS, *OF_PROCESSES}
    lines = (line for line in page.split("\n") if line.replace("{", " ").partition(" ")[0] in names)
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                yield Sample(sample.name, url, sample.labels, float(sample.value))
    except (ValueError, KeyError, IndexError) as exc:
        raise InvalidReading(f"{url} has a line that is no sample: {type(exc).__name__}") from exc
