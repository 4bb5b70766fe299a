"""Readings from a real Prometheus whose proxies come and go, and from one that answers nonsense."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from flags.errors import EvidenceError, ReadingProblem
from flags.rollout.evidence.evidence import Tail
from flags.rollout.evidence.fetching import fetch
from flags.rollout.evidence.growth import between, carried
from flags.rollout.evidence.prometheus import MOST_DEPARTED, PrometheusReadings
from flags.rollout.evidence.readings import Reading, Wanted
from flags.rollout.policy.policy import PrometheusEvidence
from tests.servers.ports import free_port
from tests.servers.prometheus_server import Prometheus, ProxyPage, is_installed, prometheus
from tests.servers.scripted import Asked, Script, ScriptedUpstream
from tests.servers.streaming import answering

WANTED = Wanted(frozenset({"start"}), frozenset({20.0}), frozenset({5.0}))
TOKEN = "s3cr3t-of-prometheus"


JOBS = {job: [ProxyPage()] for job in ("settled", "restarted", "stale", "shown")}
JOBS |= {"met": [ProxyPage(), ProxyPage()], "born": [ProxyPage(), ProxyPage()], "quiet": [ProxyPage()]}
JOBS |= {"twice-a": [ProxyPage()], "brief": [ProxyPage(), ProxyPage()], "last": [ProxyPage(), ProxyPage()]}
JOBS |= {"loop": [ProxyPage()], "undated": [ProxyPage(), ProxyPage()]}
JOBS |= {"twice-b": JOBS["twice-a"]}
"""Each test has its own, so that none waits for Prometheus to read its settings again."""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    if not is_installed():
        pytest.skip("no prometheus here")
    async with prometheus(tmp_path_factory.mktemp("prometheus"), JOBS) as running:
        yield running


@contextmanager
def pages(job: str) -> Iterator[Sequence[ProxyPage]]:
    """The pages of a job, which begin."""
    with ExitStack() as stack:
        for page in JOBS[job]:
            page.begin()
            stack.callback(page.hide)
        yield JOBS[job]


@asynccontextmanager
async def readings(
    url: str,
    selector: str,
    wanted: Wanted = WANTED,
    *,
    stale_after_s: float = 30,
    timeout_s: float = 5,
    token: str | None = None,
) -> AsyncIterator[PrometheusReadings]:
    secret = None if token is None else SecretStr(token)
    place = PrometheusEvidence(url=url, selector=selector, timeout_s=timeout_s, token=secret)
    async with httpx.AsyncClient(trust_env=False) as http:
        yield PrometheusReadings(http, place, wanted, stale_after_s=stale_after_s)


async def problem(source: PrometheusReadings, now_s: float | None = None) -> EvidenceError:
    with pytest.raises(EvidenceError) as refused:
        await source.read(time.time() if now_s is None else now_s)
    return refused.value


async def scraped(server: Prometheus, page: ProxyPage, requests: int) -> None:
    """Wait until Prometheus has seen so many requests of a page, whoever scraped it."""
    query = (
        f'sum(headgate_outcomes_total{{instance="{page.address}"}}) / count(up{{instance="{page.address}"}})'
    )
    await server.shows(query, requests)


async def gone(server: Prometheus, page: ProxyPage) -> None:
    """Wait until Prometheus has seen that nobody listens."""
    await server.shows(f'count(headgate_build_info{{instance="{page.address}"}}) or vector(0)', 0)


async def test_what_settled_between_two_scrapes_is_counted(server: Prometheus) -> None:
    """Whole numbers by arm, bucket and outcome; tails at the policy's limits; users as a level."""
    with pages("settled") as [page]:
        page.settle("stream", times=7)
        await scraped(server, page, 7)
        async with readings(server.url, 'job="settled"') as source:
            before = await source.read(time.time())
            page.show(0.3)
            page.show(7)
            page.compare("missing")
            page.hit("failed")
            page.meet("stream", 4)
            page.settle("rest", times=5)
            page.settle("stream", seconds=30, times=2)
            page.settle("control", "failed")
            await scraped(server, page, 15)
            after = await source.read(time.time())

    batch = between(before, after, step=2)

    assert batch.outcomes == {
        ("stream", 3, "complete"): 2,
        ("control", 3, "failed"): 1,
        ("rest", 0, "complete"): 5,
    }
    assert batch.seconds == {
        ("stream", 20.0): Tail(2, 2),
        ("control", 20.0): Tail(0, 1),
        ("rest", 20.0): Tail(0, 5),
    }
    assert batch.first_content == {5.0: Tail(1, 2)}
    assert (batch.parity, batch.recoveries) == ({"missing": 1}, {"failed": 1})
    assert (batch.users, batch.step) == ({"stream": 4, "control": 0}, 2)


async def test_a_proxy_that_dies_and_begins_again_is_counted_once(server: Prometheus) -> None:
    """While it is gone there is no data; what it counts after its restart is all new."""
    with pages("restarted") as [page]:
        page.settle("stream", times=9)
        await scraped(server, page, 9)
        async with readings(server.url, 'job="restarted"') as source:
            before = await source.read(time.time())
            page.hide()
            await gone(server, page)
            refused = await problem(source)
            page.begin()
            page.settle("stream", times=4)
            await scraped(server, page, 4)
            after = await source.read(time.time())

    assert refused.problem is ReadingProblem.NO_DATA
    assert between(before, after, 0).outcomes == {("stream", 3, "complete"): 4}


async def test_proxies_come_and_go(server: Prometheus) -> None:
    """One that is met has a past, maybe older than the rollout; one that is away is named, and carried."""
    with pages("met") as [old, new]:
        new.hide()
        old.settle("stream", times=10)
        await scraped(server, old, 10)
        async with readings(server.url, 'job="met"') as source:
            first = await source.read(time.time())
            old.hide()
            new.settle("stream", times=100)
            new.show_again()
            await gone(server, old)
            await scraped(server, new, 100)
            second = await source.read(time.time())
            old.settle("stream", times=3)
            old.show_again()
            new.settle("stream", times=2)
            await scraped(server, old, 13)
            await scraped(server, new, 102)
            third = await source.read(time.time())

    assert (first.missing, second.missing, third.missing) == ((new.address,), (old.address,), ())
    assert between(first, second, 0).outcomes == {}
    assert between(carried(first, second), third, 0).outcomes == {("stream", 3, "complete"): 5}


async def test_what_a_new_proxy_counts_before_it_is_scraped_counts(server: Prometheus) -> None:
    """It began after counting did, so all that it shows is new: also the wrong text of its first second."""
    with pages("born") as [old, new]:
        new.hide()
        await scraped(server, old, 0)
        async with readings(server.url, 'job="born"') as source:
            first = await source.read(time.time())
            new.begin()
            new.compare("missing")
            new.find_kill_flag_on()
            new.settle("stream", "failed", times=3)
            await scraped(server, new, 3)
            second = await source.read(time.time())
            new.settle("stream", "failed")
            await scraped(server, new, 4)
            third = await source.read(time.time())

    batch = between(first, second, 0)
    assert first.killed_s == 0
    assert first.at_s < second.killed_s < second.at_s
    assert batch.outcomes == {("stream", 3, "failed"): 3}
    assert batch.parity == {"missing": 1}
    assert between(carried(first, second), third, 0).outcomes == {("stream", 3, "failed"): 1}


async def test_a_proxy_that_begins_again_and_soon_has_counted_more_counts_whole(server: Prometheus) -> None:
    """No counter fell, but its process is another one."""
    with pages("quiet") as [page]:
        page.settle("stream", "failed", times=1)
        page.settle("stream", times=3)
        await scraped(server, page, 4)
        async with readings(server.url, 'job="quiet"') as source:
            before = await source.read(time.time())
            page.hide()
            page.begin()
            page.settle("stream", "failed", times=2)
            page.settle("stream", times=5)
            await scraped(server, page, 7)
            after = await source.read(time.time())

    assert between(before, after, 0).outcomes == {("stream", 3, "failed"): 2, ("stream", 3, "complete"): 5}


async def test_a_proxy_that_lives_between_two_looks_counts(server: Prometheus) -> None:
    """It was born and died there. Its wrong text, its failures and the kill that it saw count, and once."""
    with pages("brief") as [old, new]:
        new.hide()
        await scraped(server, old, 0)
        async with readings(server.url, 'job="brief"') as source:
            first = await source.read(time.time())
            new.begin()
            new.compare("missing")
            new.find_kill_flag_on()
            new.settle("stream", "failed", times=3)
            await scraped(server, new, 3)
            new.hide()
            await gone(server, new)
            second = await source.read(time.time(), first)
            baseline = carried(first, second)
            old.settle("stream")
            await scraped(server, old, 1)
            third = await source.read(time.time(), baseline)

    batch = between(first, second, 0)
    assert first.at_s < second.killed_s < second.at_s
    assert batch.outcomes == {("stream", 3, "failed"): 3}
    assert batch.parity == {"missing": 1}
    assert (list(second.seen), second.missing) == ([old.address], (new.address,))
    assert third.departed == ()
    assert between(baseline, third, 0).outcomes == {("stream", 3, "complete"): 1}
    assert between(baseline, third, 0).parity == {}


@pytest.mark.parametrize(("job", "dates"), [("last", True), ("undated", False)])
async def test_what_a_proxy_counted_after_the_last_look_counts_when_it_is_gone(
    server: Prometheus, job: str, dates: bool
) -> None:
    """Up to its last scrape. Where it can be reached again, only what is new since then counts."""
    for page in JOBS[job]:
        page.dates = dates
    with pages(job) as [_, lost]:
        lost.settle("stream", times=5)
        await scraped(server, lost, 5)
        async with readings(server.url, f'job="{job}"') as source:
            first = await source.read(time.time())
            lost.compare("missing")
            lost.settle("stream", "failed", times=2)
            await scraped(server, lost, 7)
            lost.hide()
            await gone(server, lost)
            second = await source.read(time.time(), first)
            baseline = carried(first, second)
            lost.settle("stream")
            lost.show_again()
            await scraped(server, lost, 8)
            third = await source.read(time.time(), baseline)

    assert between(first, second, 0).outcomes == {("stream", 3, "failed"): 2}
    assert between(first, second, 0).parity == {"missing": 1}
    assert between(baseline, third, 0).outcomes == {("stream", 3, "complete"): 1}
    assert between(baseline, third, 0).parity == {}


async def test_each_process_at_one_address_counts(server: Prometheus) -> None:
    """A container that crashes again and again: its address shows only the newest process."""
    with pages("loop") as [page]:
        page.settle("stream", times=9)
        await scraped(server, page, 9)
        async with readings(server.url, 'job="loop"') as source:
            first = await source.read(time.time())
            page.compare("missing")
            page.settle("stream", "failed")
            await scraped(server, page, 10)
            for times in (2, 3):
                page.hide()
                page.begin()
                page.compare("missing")
                page.settle("stream", "failed", times=times)
                await scraped(server, page, times)
            page.hide()
            page.begin()
            page.settle("stream", times=20)
            await scraped(server, page, 20)
            second = await source.read(time.time(), first)
            baseline = carried(first, second)
            third = await source.read(time.time(), baseline)

    batch = between(first, second, 0)
    assert batch.outcomes == {("stream", 3, "failed"): 6, ("stream", 3, "complete"): 20}
    assert batch.parity == {"missing": 3}
    assert third.departed == ()
    assert between(baseline, third, 0).outcomes == {}


async def test_a_proxy_that_two_jobs_scrape_is_refused(server: Prometheus) -> None:
    """Events that count twice would prove twice as much. The error names the series and the mend."""
    with pages("twice-a") as [page]:
        page.settle("stream")
        await server.shows(f'count(headgate_build_info{{instance="{page.address}"}})', 2)
        async with readings(server.url, 'job=~"twice-.*"') as source:
            refused = await problem(source)
        async with readings(server.url, 'job="twice-a"') as source:
            narrowed = await source.read(time.time())

    assert refused.problem is ReadingProblem.INVALID
    assert f'instance="{page.address}"' in refused.sentence
    assert "make the selector find each proxy once" in refused.sentence
    assert list(narrowed.seen) == [page.address]


async def test_what_nobody_scraped_lately_is_stale(server: Prometheus) -> None:
    """Prometheus gives samples of up to five minutes ago as if they were new; here their age counts."""
    with pages("stale") as [page]:
        await scraped(server, page, 0)
        async with readings(server.url, 'job="stale"', stale_after_s=60) as source:
            refused = await problem(source, time.time() + 100)

    assert refused.problem is ReadingProblem.STALE
    assert "60 s is the limit" in refused.sentence


@pytest.mark.parametrize(
    ("selector", "wanted", "said"),
    [
        ('job="nobody"', WANTED, "headgate_build_info"),
        ('job="shown"', Wanted(frozenset({"other"}), frozenset({20.0}), frozenset({5.0})), "route other"),
        ('job="shown"', Wanted(frozenset({"start"}), frozenset({21.0}), frozenset({5.0})), "up to 21.0 s"),
    ],
    ids=["selector", "route", "limit"],
)
async def test_what_nobody_shows_is_no_data(
    server: Prometheus, selector: str, wanted: Wanted, said: str
) -> None:
    """A selector, a route or a limit that matches nothing is never a clean record of zero failures."""
    with pages("shown") as [page]:
        await scraped(server, page, 0)
        async with readings(server.url, selector, wanted) as source:
            refused = await problem(source)

    assert refused.problem is ReadingProblem.NO_DATA
    assert said in refused.sentence


async def test_a_prometheus_that_hangs_costs_its_timeout(server: Prometheus) -> None:
    """Then there is no reading, and the error says for how long it was waited."""
    server.freeze()
    try:
        async with readings(server.url, 'job="shown"', timeout_s=0.2) as source:
            refused = await problem(source)
    finally:
        server.thaw()

    assert refused.problem is ReadingProblem.ERROR
    assert "within 0.2 s" in refused.sentence


async def test_a_prometheus_that_is_not_there_is_an_error() -> None:
    """Nobody listens."""
    async with readings(f"http://127.0.0.1:{free_port()}", 'job="x"') as source:
        refused = await problem(source)

    assert refused.problem is ReadingProblem.ERROR
    assert "/api/v1/query cannot be asked: ConnectError" in refused.sentence


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
    """Never a reading of zeros; and the token, which was sent, is in no error."""
    content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    script = answering(content, f"{status} Said".encode())
    async with playing(script, token=TOKEN) as (upstream, source):
        refused = await problem(source, 1000)

    assert refused.problem is expected
    assert upstream.asked[0].header(b"authorization") == f"Bearer {TOKEN}".encode()
    assert TOKEN not in str(refused) + repr(source)


@asynccontextmanager
async def playing(script: Script, **more: Any) -> AsyncIterator[tuple[ScriptedUpstream, PrometheusReadings]]:
    """A Prometheus that plays a script, and who reads there."""
    async with (
        ScriptedUpstream(script).running() as upstream,
        readings(upstream.url, 'job="x"', stale_after_s=60, **more) as source,
    ):
        yield upstream, source


def whole_page(instance: str, value: str) -> list[Any]:
    """Each counter that a reading must have."""
    return [
        row(value, name, instance=instance, **labels)
        for name, labels in (
            ("headgate_outcomes_total", {}),
            ("headgate_recoveries_total", {"fault": "source_lost", "result": "failed"}),
            ("headgate_parity_total", {"result": "equal"}),
            ("headgate_settled_seconds_bucket", {"le": "20.0"}),
            ("headgate_first_content_seconds_bucket", {"source": "tap", "le": "5.0"}),
        )
    ]


def matrix(*series: Any, **more: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "matrix", "result": list(series)}, **more}


def track(name: str, *samples: tuple[float, str], **labels: str) -> dict[str, Any]:
    return {"metric": {"__name__": name, **labels}, "values": [list(sample) for sample in samples]}


LIVING = vector(*whole_page("a", "7"), row("990", None))
BEFORE = Reading(940, {}, {"a": 930.0})


def by_query(answers: Mapping[str, Any]) -> Script:
    """A Prometheus that has an answer for queries of a range, by what is in them, and knows who is there. It
    hangs where that is None."""

    async def script(asked: Asked) -> None:
        [query] = parse_qs(urlsplit(asked.target.decode()).query)["query"]
        ranged = query.endswith("s]")
        found = [answer for part, answer in answers.items() if ranged and part in query]
        if None in found[:1]:
            await asyncio.Event().wait()
        await asked.answer(json.dumps(found[0] if found else LIVING).encode())

    return script


async def test_one_proxy_that_was_not_scraped_lately_is_left_out() -> None:
    """The others are the reading. One that is upgraded has two versions for a moment: the later counts."""
    rows = [*whole_page("fresh", "7"), *whole_page("old", "9")]
    rows += [row("900", None, instance="old"), row("890", None, instance="fresh", version="1")]
    rows += [row("990", None, instance="fresh", version="2")]
    script = answering(json.dumps(vector(*rows)).encode())
    async with playing(script) as (_, source):
        reading = await source.read(1000)

    assert (reading.seen, reading.missing) == ({"fresh": 990}, ("old",))
    assert set(reading.counters.values()) == {7}


PAST = [
    (vector(), ReadingProblem.INVALID),
    (matrix(warnings=["partial response"]), ReadingProblem.INVALID),
    (matrix(track("headgate_build_info", (960, "one"), instance="b")), ReadingProblem.INVALID),
    (REFUSED, ReadingProblem.ERROR),
]


@pytest.mark.parametrize(("answer", "expected"), PAST)
async def test_a_past_that_cannot_be_read_is_no_reading(answer: Any, expected: ReadingProblem) -> None:
    """Counts of a process that is no more are never left out for that: the next look asks again."""
    script = by_query({"process_start_time_seconds": answer})
    async with playing(script) as (_, source):
        with pytest.raises(EvidenceError) as refused:
            await source.read(1000, BEFORE)

    assert refused.value.problem is expected


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, "within 2 s of 12 proxies that are gone"), (REFUSED, "Prometheus refuses: parse error")],
    ids=["it hangs", "it refuses"],
)
async def test_a_last_page_that_cannot_be_read_is_no_reading(answer: Any, said: str) -> None:
    """All of them together have the time of one reading."""
    gone_ones = [f"pod-{number}" for number in range(12)]
    tracks = [track("headgate_build_info", (960, "1"), instance=name) for name in gone_ones]
    tracks += [track("process_start_time_seconds", (960, "950"), instance=name) for name in gone_ones]
    script = by_query({"instance=": answer, "process_start_time_seconds": matrix(*tracks)})
    async with playing(script, timeout_s=2) as (_, source):
        with pytest.raises(EvidenceError) as refused:
            await source.read(1000, BEFORE)

    assert refused.value.problem is ReadingProblem.ERROR
    assert said in refused.value.sentence


async def test_after_a_long_absence_there_are_bounds() -> None:
    """Of the past, six hours; and of processes that are no more, those that were seen last."""
    tracks = []
    for number in range(MOST_DEPARTED + 2):
        at_s, of = 500.0 + number, {"instance": f'pod "{number}"'}
        tracks += [track("headgate_build_info", (at_s, "1"), **of)]
        tracks += [track("process_start_time_seconds", (at_s, "400"), **of)]
    script = by_query({"instance=": matrix(), "process_start_time_seconds": matrix(*tracks)})
    before = replace(BEFORE, at_s=-1e6, since_s=0.0)
    async with playing(script, timeout_s=60) as (upstream, source):
        reading = await source.read(1000, before)

    _, census, *asked = [parse_qs(urlsplit(each.target.decode()).query) for each in upstream.asked]
    assert census["query"][0].endswith('job="x"}[21600s]')
    assert [page.at_s for page in reading.departed] == [502.0 + n for n in range(MOST_DEPARTED)]
    assert sorted(each["time"][0] for each in asked) == [f"{502 + n}.000" for n in range(MOST_DEPARTED)]
    assert any('instance="pod \\"2\\""' in each["query"][0] for each in asked)


async def test_an_answer_without_an_end_is_cut() -> None:
    """Over its bound it is an error, not memory."""

    async def endless(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await asked.send(b" " * 65536)

    async with ScriptedUpstream(endless).running() as upstream, httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(EvidenceError, match="answers more than 1000000 bytes"):
            await fetch(http, upstream.url, timeout_s=5, max_bytes=1_000_000)
