"""Readings from a real Prometheus whose proxies come and go, and from one that answers nonsense."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from flags.errors import EvidenceError, ReadingProblem
from flags.rollout.evidence import Tail
from flags.rollout.policy import PrometheusEvidence
from flags.rollout.prometheus import PrometheusReadings
from flags.rollout.readings import Wanted, between, carried
from tests.prometheus_server import Prometheus, ProxyPage, is_installed, prometheus
from tests.streaming import eventually

pytestmark = pytest.mark.anyio

WANTED = Wanted(frozenset({"start"}), frozenset({20.0}), frozenset({5.0}))
TOKEN = "s3cr3t-of-prometheus"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    if not is_installed():
        pytest.skip("no prometheus here")
    async with prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.fixture
def page() -> Iterator[ProxyPage]:
    page = ProxyPage()
    page.live()
    yield page
    page.die()


@asynccontextmanager
async def readings(url: str, wanted: Wanted = WANTED, **settings: Any) -> AsyncIterator[PrometheusReadings]:
    settings = {"selector": 'job="headgate"', "timeout_s": 5, **settings}
    stale_after_s = settings.pop("stale_after_s", 30)
    async with httpx.AsyncClient(trust_env=False) as http:
        place = PrometheusEvidence(url=url, **settings)
        yield PrometheusReadings(http, place, wanted, stale_after_s=stale_after_s)


async def problem(source: PrometheusReadings, now_s: float | None = None) -> EvidenceError:
    with pytest.raises(EvidenceError) as refused:
        await source.read(time.time() if now_s is None else now_s)
    return refused.value


async def scraped(server: Prometheus, page: ProxyPage, requests: int, job: str = "headgate") -> None:
    """Wait until Prometheus has seen so many requests of a page."""
    await server.shows(f'sum(headgate_outcomes_total{{instance="{page.address}",job="{job}"}})', requests)


async def test_what_settled_between_two_scrapes_is_counted(server: Prometheus, page: ProxyPage) -> None:
    """Whole numbers by arm, bucket and outcome; tails at the policy's limits; users as a level."""
    page.settle("stream", times=7)
    await server.scrape({"headgate": [page]})
    await scraped(server, page, 7)
    async with readings(server.url) as source:
        before = await source.read(time.time())
        page.settle("stream", seconds=30, times=2)
        page.settle("control", "failed")
        page.settle("rest", times=5)
        page.show(0.3)
        page.show(7)
        page.compare("missing")
        page.hit("failed")
        page.meet("stream", 4)
        await scraped(server, page, 15)
        after = await source.read(time.time())

    batch = between(before, after, step=2)

    assert batch.outcomes == {("stream", 3, "complete"): 2, ("control", 3, "failed"): 1}
    assert batch.seconds == {("stream", 20.0): Tail(2, 2), ("control", 20.0): Tail(0, 1)}
    assert batch.first_content == {5.0: Tail(1, 2)}
    assert (batch.parity, batch.recoveries) == ({"missing": 1}, {"failed": 1})
    assert (batch.users, batch.step) == ({"stream": 4, "control": 0}, 2)


async def test_a_proxy_that_dies_and_comes_back_is_counted_once(server: Prometheus, page: ProxyPage) -> None:
    """While it is gone there is no data; what it counts after its restart is all new."""
    page.settle("stream", times=9)
    await server.scrape({"headgate": [page]})
    await scraped(server, page, 9)
    async with readings(server.url) as source:
        before = await source.read(time.time())
        page.die()
        await eventually(lambda: _is_gone(server, page))
        gone = await problem(source)
        page.live()
        page.settle("stream", times=4)
        await scraped(server, page, 4)
        after = await source.read(time.time())

    assert gone.problem is ReadingProblem.NO_DATA
    assert between(before, after, 0).outcomes == {("stream", 3, "complete"): 4}


async def test_another_proxy_is_met_without_its_past(server: Prometheus, page: ProxyPage) -> None:
    """What it had counted before it was known may be older than the rollout. One that is away is carried."""
    other = ProxyPage()
    other.live()
    try:
        await server.scrape({"headgate": [page]})
        await scraped(server, page, 0)
        async with readings(server.url) as source:
            first = await source.read(time.time())
            other.settle("stream", times=100)
            await server.scrape({"headgate": [other]})
            await scraped(server, other, 100)
            await eventually(lambda: _is_gone(server, page))
            second = await source.read(time.time())
            page.settle("stream", times=3)
            other.settle("stream", times=2)
            await server.scrape({"headgate": [page, other]})
            await scraped(server, page, 3)
            await scraped(server, other, 102)
            third = await source.read(time.time())
    finally:
        other.die()

    kept = carried(first, second)
    assert between(first, second, 0).outcomes == {}
    assert between(kept, third, 0).outcomes == {("stream", 3, "complete"): 5}


async def test_a_proxy_that_two_jobs_scrape_is_refused(server: Prometheus, page: ProxyPage) -> None:
    """Events that count twice would prove twice as much. The error names the series and the mend."""
    await server.scrape({"headgate": [page], "headgate-too": [page]})
    await scraped(server, page, 0, "headgate")
    await scraped(server, page, 0, "headgate-too")
    async with readings(server.url, selector='job=~"headgate.*"') as source:
        refused = await problem(source)

    assert refused.problem is ReadingProblem.INVALID
    assert f'instance="{page.address}"' in refused.sentence
    assert "selector" in refused.sentence


async def test_what_nobody_scraped_lately_is_stale(server: Prometheus, page: ProxyPage) -> None:
    """Prometheus gives samples of up to five minutes ago as if they were new; here their age counts."""
    await server.scrape({"headgate": [page]})
    await scraped(server, page, 0)
    server_stopped_s = time.time() + 100
    async with readings(server.url, stale_after_s=60) as source:
        refused = await problem(source, server_stopped_s)

    assert refused.problem is ReadingProblem.STALE
    assert "60 s is the limit" in refused.sentence


@pytest.mark.parametrize(
    ("selector", "wanted", "said"),
    [
        ('job="nobody"', WANTED, "headgate_build_info"),
        ('job="headgate"', Wanted(frozenset({"other"}), frozenset({20.0}), frozenset({5.0})), "route other"),
        ('job="headgate"', Wanted(frozenset({"start"}), frozenset({21.0}), frozenset({5.0})), "up to 21.0 s"),
    ],
    ids=["selector", "route", "limit"],
)
async def test_what_nobody_shows_is_no_data(
    server: Prometheus, page: ProxyPage, selector: str, wanted: Wanted, said: str
) -> None:
    """A selector, a route or a limit that matches nothing is never a clean record of zero failures."""
    await server.scrape({"headgate": [page]})
    await scraped(server, page, 0)
    async with readings(server.url, wanted, selector=selector) as source:
        refused = await problem(source)

    assert refused.problem is ReadingProblem.NO_DATA
    assert said in refused.sentence


async def test_a_prometheus_that_hangs_costs_its_timeout(server: Prometheus) -> None:
    """Then there is no reading, and the error says for how long it was waited."""
    server.freeze()
    try:
        async with readings(server.url, timeout_s=0.2) as source:
            refused = await problem(source)
    finally:
        server.thaw()

    assert refused.problem is ReadingProblem.ERROR
    assert "within 0.2 s" in refused.sentence


async def test_a_prometheus_that_is_not_there_is_an_error() -> None:
    """Nobody listens."""
    async with readings("http://127.0.0.1:9") as source:
        refused = await problem(source)

    assert refused.problem is ReadingProblem.ERROR
    assert "http://127.0.0.1:9/api/v1/query cannot be asked" in refused.sentence


def row(value: Any, name: str | None = "headgate_outcomes_total", **labels: str) -> dict[str, Any]:
    named = {} if name is None else {"__name__": name}
    given = {"route": "start", "arm": "stream", "bucket": "3", "outcome": "failed", "instance": "a", **labels}
    return {"metric": named | given, "value": [1000, value]}


def vector(*rows: Any, **more: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "vector", "result": list(rows)}, **more}


SCRAPED = row("1000", None)
MATRIX = {"status": "success", "data": {"resultType": "matrix", "result": []}}
REFUSED = {"status": "error", "errorType": "bad_data", "error": "parse error"}


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, vector(), ReadingProblem.NO_DATA),
        (200, vector(SCRAPED), ReadingProblem.NO_DATA),
        (200, vector(SCRAPED, row("NaN")), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("+Inf")), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("-1")), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("1.5")), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("9007199254740993")), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("one")), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row(1)), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("1"), row("1", job="b")), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("1", bucket="16")), ReadingProblem.INVALID),
        (200, vector(row("NaN", None)), ReadingProblem.INVALID),
        (200, vector(SCRAPED, row("1"), warnings=["partial response"]), ReadingProblem.INVALID),
        (200, vector(row("900", None), row("1")), ReadingProblem.STALE),
        (200, MATRIX, ReadingProblem.INVALID),
        (200, REFUSED, ReadingProblem.ERROR),
        (200, [], ReadingProblem.INVALID),
        (200, {}, ReadingProblem.INVALID),
        (200, "<html>", ReadingProblem.INVALID),
        (400, REFUSED, ReadingProblem.ERROR),
        (401, "who are you?", ReadingProblem.ERROR),
        (302, "elsewhere", ReadingProblem.ERROR),
        (503, "", ReadingProblem.ERROR),
    ],
)
async def test_a_bad_answer_is_the_right_kind_of_no_reading(
    status: int, answer: Any, expected: ReadingProblem
) -> None:
    """Never a reading of zeros; and the token is in no error."""
    content = answer if isinstance(answer, str) else json.dumps(answer)
    transport = httpx.MockTransport(lambda request: httpx.Response(status, text=content))
    place = PrometheusEvidence(url="http://prometheus", selector='job="x"', token=SecretStr(TOKEN))
    async with httpx.AsyncClient(transport=transport) as http:
        refused = await problem(PrometheusReadings(http, place, WANTED, stale_after_s=60), 1000)

    assert refused.problem is expected
    assert TOKEN not in str(refused)


async def _is_gone(server: Prometheus, page: ProxyPage) -> bool:
    return not await server.ask(f'headgate_build_info{{instance="{page.address}"}}')
