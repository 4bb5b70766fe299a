"""Readings straight from the proxies' pages: some may be missing, and none is no reading."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from flags.errors import EvidenceError, InvalidReading, ReadingProblem
from flags.rollout.evidence.evidence import Tail
from flags.rollout.evidence.growth import between, carried
from flags.rollout.evidence.pages import PageReadings
from flags.rollout.evidence.readings import Wanted
from tests.servers.ports import free_port
from tests.servers.prometheus_server import ProxyPage
from tests.servers.scripted import ScriptedUpstream, silent
from tests.servers.streaming import answering

WANTED = Wanted(frozenset({"start"}), frozenset({20.0}), frozenset({5.0}))
LINE = 'headgate_outcomes_total{route="start",arm="stream",bucket="3",outcome="failed"}'


@pytest.fixture
def page() -> Iterator[ProxyPage]:
    page = ProxyPage()
    page.begin()
    yield page
    page.hide()


@asynccontextmanager
async def readings(urls: Sequence[str], timeout_s: float = 5) -> AsyncIterator[PageReadings]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield PageReadings(http, urls, WANTED, timeout_s=timeout_s)


async def test_pages_are_read_as_they_are(page: ProxyPage) -> None:
    """The same counts as through Prometheus, without its delay."""
    async with readings([page.url]) as source:
        before = await source.read(time.time())
        page.settle("stream", seconds=30)
        page.settle("control", "failed", times=2)
        page.show(6)
        page.meet("control", 3)
        after = await source.read(time.time())

    batch = between(before, after, 1)
    assert batch.outcomes == {("stream", 3, "complete"): 1, ("control", 3, "failed"): 2}
    compared = {("stream", 20.0): Tail(1, 1), ("control", 20.0): Tail(0, 2)}
    assert batch.seconds == compared | {("rest", 20.0): Tail(0, 0)}
    assert batch.first_content == {5.0: Tail(1, 1)}
    assert batch.users == {"stream": 0, "control": 3}


async def test_a_proxy_that_does_not_answer_is_marked(page: ProxyPage) -> None:
    """The reading is from the others; nobody waits for the slow one longer than its timeout."""
    absent = f"http://127.0.0.1:{free_port()}/metrics"
    async with (
        ScriptedUpstream(silent).running() as slow,
        ScriptedUpstream(answering(b"nope", b"503 No")).running() as failing,
        ScriptedUpstream(answering(b"<html>")).running() as other,
        readings([page.url, slow.url, failing.url, other.url, absent], timeout_s=0.5) as source,
    ):
        reading = await source.read(time.time())

    assert page.url in repr(source)
    assert list(reading.seen) == [page.url]
    assert reading.missing == (slow.url, failing.url, other.url, absent)


async def test_a_proxy_that_comes_back_counts_only_what_is_new(page: ProxyPage) -> None:
    """Another process in its place would count from zero; this one was away."""
    other = ProxyPage()
    other.begin()
    try:
        async with readings([page.url, other.url]) as source:
            first = await source.read(time.time())
            page.hide()
            page.settle("stream", times=2)
            second = await source.read(time.time())
            page.show_again()
            third = await source.read(time.time())
    finally:
        other.hide()

    assert between(first, second, 0).outcomes == {}
    assert between(carried(first, second), third, 0).outcomes == {("stream", 3, "complete"): 2}


@pytest.mark.parametrize("dates", [True, False], ids=["dated", "of an older version"])
async def test_a_proxy_that_begins_between_two_looks_counts_whole(page: ProxyPage, dates: bool) -> None:
    """Unless it does not say when it began: then it is met with its past, and counts from there."""
    new = ProxyPage()
    new.dates = dates
    async with readings([page.url, new.url]) as source:
        first = await source.read(time.time())
        new.begin()
        try:
            new.compare("missing")
            new.find_kill_flag_on()
            second = await source.read(time.time())
            new.compare("missing")
            third = await source.read(time.time())
        finally:
            new.hide()

    assert first.killed_s == 0
    assert first.at_s < second.killed_s < third.at_s
    assert between(first, second, 0).parity == ({"missing": 1} if dates else {})
    assert between(carried(first, second), third, 0).parity == {"missing": 1}


async def test_no_page_is_no_data() -> None:
    """And the error says what the first of them said."""
    async with readings([f"http://127.0.0.1:{free_port()}/metrics"]) as source:
        with pytest.raises(EvidenceError, match="cannot be asked: ConnectError") as refused:
            await source.read(time.time())

    assert refused.value.problem is ReadingProblem.NO_DATA


async def test_a_proxy_without_the_route_is_no_data() -> None:
    """A route that nobody knows has no clean record."""
    page = ProxyPage("another")
    page.begin()
    try:
        async with readings([page.url]) as source:
            with pytest.raises(EvidenceError, match="of the route start") as refused:
                await source.read(time.time())
    finally:
        page.hide()

    assert refused.value.problem is ReadingProblem.NO_DATA


@pytest.mark.parametrize(
    "line",
    [
        f"{LINE} NaN",
        f"{LINE} +Inf",
        f"{LINE} -1",
        f"{LINE} 0.5",
        f"{LINE} many",
        f"{LINE}",
        f"{LINE} 1\n{LINE} 1",
        'headgate_outcomes_total{route="start',
        LINE.replace('"3"', '"x"') + " 1",
    ],
)
async def test_a_page_that_contradicts_is_refused(line: str) -> None:
    """One such line, and nothing of the reading is believed."""
    async with (
        ScriptedUpstream(answering(f"{line}\n".encode())).running() as upstream,
        readings([upstream.url]) as source,
    ):
        with pytest.raises(InvalidReading):
            await source.read(time.time())
