"""A request does not wait behind a worker of the upstream that is busy, while another one is free."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from statistics import median
from time import monotonic

import pytest

from tests.servers.client import browser, opened, signed
from tests.servers.prefork import prefork
from tests.servers.scripted import Asked, ScriptedUpstream, Talker, ok, talking, until
from tests.servers.serving import Serving, gated, headgate

BUSY_S = 3.0
"""Seconds for which a worker is kept from everything else."""

SOON_S = 1.5
"""Far less: what an unbusy worker takes, on a busy machine."""

ROUTES = [
    {
        "name": "busy",
        "match": "POST /busy/{seconds}",
        "sections": [{"stage": "answer", "at": "$.answer"}],
    }
]
GET = b"GET /quick HTTP/1.1\r\nhost: a\r\n\r\n"


BUSY = b"POST /busy/%.1f HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"

CLIENTS = 4


async def keep_busy(worker: Talker, seconds: float) -> None:
    await worker.send(BUSY % seconds)
    await worker.reader.readuntil(b"102 Processing\r\n\r\n")


@asynccontextmanager
async def a_connection_to_each(url: str) -> AsyncIterator[tuple[Talker, Talker]]:
    """To the two workers themselves."""
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        found: dict[bytes, Talker] = {}
        while len(found) < 2:
            client = await stack.enter_async_context(talking(url))
            found.setdefault((await client.ask(GET)).body, client)
            first = next(iter(found.values()))
            await keep_busy(first, 0.1)
            client = await stack.enter_async_context(talking(url))
            found.setdefault((await client.ask(GET)).body, client)
            await first.answer()
        one, another = found.values()
        yield one, another


async def keep_connections_to(gate: Serving, worker: Talker, other: Talker) -> None:
    """Keep the other one busy, so that only this one can answer."""
    await keep_busy(other, 0.2)
    answers = await asked_at_once(gate.url, CLIENTS)
    await other.answer()
    assert answers == {(await worker.ask(GET)).body}


async def asked_at_once(url: str, number: int) -> set[bytes]:
    return set(await asyncio.gather(*(asked_once(url) for _ in range(number))))


async def asked_once(url: str) -> bytes:
    async with talking(url) as client:
        return (await client.ask(GET)).body


async def wait_s(client: Talker) -> float:
    began = monotonic()
    assert (await client.ask(GET)).status == 200
    return monotonic() - began


async def waits_s(url: str) -> list[float]:
    """Of several clients at the same time, five requests each."""

    async def waited() -> list[float]:
        async with talking(url) as client:
            return [await wait_s(client) for _ in range(5)]

    return list(chain(*await asyncio.gather(*(waited() for _ in range(CLIENTS)))))


@pytest.mark.parametrize("routes", [ROUTES, []], ids=["of a route", "of no route"])
async def test_nobody_waits_behind_a_worker_that_is_busy_with_a_relayed_call(
    tmp_path: Path, routes: list[dict[str, object]]
):
    """Through Headgate as directly: each request is answered at once, by the other worker."""
    async with (
        prefork() as url,
        headgate(url, tmp_path, routes=routes) as gate,
        a_connection_to_each(url) as (worker, other),
    ):
        await keep_connections_to(gate, worker, other)
        async with talking(gate.url) as slow:
            await slow.send(BUSY % BUSY_S)
            answering = asyncio.ensure_future(slow.answer())
            await asyncio.wait({answering}, timeout=0.3)
            through = await waits_s(gate.url)
            directly = await waits_s(url)
            meanwhile = not answering.done()

            assert meanwhile
            assert max(through) < max(directly) + SOON_S
            assert (await asyncio.wait_for(answering, 10)).status == 200


async def test_a_safe_request_that_meets_a_busy_worker_is_sent_to_another(tmp_path: Path):
    """Also where Headgate cannot know: the worker is busy with a call that did not come through it."""
    async with (
        prefork() as url,
        headgate(url, tmp_path) as gate,
        a_connection_to_each(url) as (worker, other),
    ):
        await keep_connections_to(gate, worker, other)
        await keep_busy(worker, BUSY_S)
        answering = asyncio.ensure_future(worker.answer())
        answers = await asked_at_once(gate.url, CLIENTS)
        meanwhile = not answering.done()

        assert meanwhile
        assert len(answers) == 1
        await asyncio.wait_for(answering, 10)


async def test_a_poll_reaches_a_worker_that_is_free(tmp_path: Path):
    """The stored text is shown while the call keeps one worker busy, whose connection is kept from before."""
    polled = {
        **ROUTES[0],
        "source": "poll",
        "sections": [{"stage": "answer", "at": "$.answer", "poll_at": "$.answer"}],
        "poll": {"path": "/now", "every_ms": 100, "row": "$", "updated_at": "$.at"},
    }
    async with (
        prefork() as url,
        headgate(url, tmp_path, routes=[polled]) as gate,
        a_connection_to_each(url) as (worker, other),
        browser(gate.url) as client,
    ):
        await keep_connections_to(gate, worker, other)
        await keep_busy(other, 0.5)  # so that the call comes to the worker whose connections are kept
        began = monotonic()
        async with opened(client, f"/busy/{BUSY_S}", signed()) as stream:
            await stream.until(lambda event: event["type"] == "content_chunk")
            shown_s = monotonic() - began
            await stream.rest()

    assert shown_s < BUSY_S - 0.5
    assert stream.last["metadata"].get("recovered") is not True


async def test_with_a_quick_upstream_connections_are_used_again(tmp_path: Path):
    """Requests share a connection as long as nothing is slow, also while others are under way."""
    async with (
        gated(ok, tmp_path) as (upstream, gate),
        talking(gate.url) as client,
    ):
        for _ in range(20):
            await client.ask(GET)

        assert upstream.connections == 1


class Slow:
    """An upstream whose `/slow` waits until it is let go; the first request for it may be left to itself."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.left = 0

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        if asked.target.startswith(b"/slow"):
            leaving = asyncio.ensure_future(asked.reader.read(1))
            going = asyncio.ensure_future(self.let_go.wait())
            await asyncio.wait({leaving, going}, return_when=asyncio.FIRST_COMPLETED)
            self.left += leaving.done() and not self.let_go.is_set()
            going.cancel()
            leaving.cancel()
            await asyncio.wait({leaving, going})
        await asked.answer(asked.target)


def slow_ones(upstream: ScriptedUpstream) -> int:
    return sum(asked.target.startswith(b"/slow") for asked in upstream.asked)


async def warm(gate: Serving) -> None:
    """A connection is kept after this."""
    await asked_once(gate.url)


async def test_a_request_that_is_slow_by_nature_is_answered_once(tmp_path: Path):
    """It is asked twice, once for its path: the first answer goes out, and the other connection is closed."""
    slow = Slow()
    async with gated(slow, tmp_path) as (upstream, gate):
        await warm(gate)
        async with talking(gate.url) as client:
            await client.send(b"GET /slow?1 HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(lambda: slow_ones(upstream) == 2)
            slow.let_go.set()
            first = await client.answer()
            await client.send(GET)
            following = await client.answer()
        slow.let_go.clear()
        async with talking(gate.url) as client:
            await client.send(b"GET /slow?2 HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(lambda: slow_ones(upstream) == 3)
            with pytest.raises(TimeoutError):
                await until(lambda: slow_ones(upstream) > 3, within_s=1.3)
            slow.let_go.set()
            second = await client.answer()

    assert [first.body, following.body, second.body] == [b"/slow?1", b"/quick", b"/slow?2"]


async def test_a_client_that_leaves_while_its_request_is_asked_twice_frees_both(tmp_path: Path):
    """Neither connection is kept for an answer that nobody waits for."""
    slow = Slow()
    async with gated(slow, tmp_path) as (upstream, gate):
        await warm(gate)
        async with talking(gate.url) as client:
            await client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(lambda: slow_ones(upstream) == 2)
        await until(lambda: slow.left == 2)

        assert upstream.connections == 2


SENT_ONCE = [
    b"POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"DELETE /slow HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n\r\n\r\n",
    b"GET /slow?EIO=4&transport=polling&sid=a HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /slow HTTP/1.1\r\nhost: a\r\naccept: text/html, text/event-stream\r\n\r\n",
    b"GET /slow HTTP/1.1\r\nhost: a\r\nprefer: respond-async, wait=30\r\n\r\n",
    b"GET /slow?index=7&wait=5m HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /slow?id=x HTTP/1.1\r\nhost: a\r\nx-signalr-user-agent: y\r\n\r\n",
]


async def test_what_is_not_safe_or_waits_by_nature_is_sent_once(tmp_path: Path):
    """A second long poll ends the session of the first; a second call may have effects."""
    slow = Slow()
    warming = [b"GET /slow?warm&wait=1 HTTP/1.1\r\nhost: a\r\n\r\n"] * len(SENT_ONCE)
    async with gated(slow, tmp_path) as (upstream, gate):
        async with all_sent(gate, warming, upstream) as clients:
            slow.let_go.set()
            assert [(await client.answer()).status for client in clients] == [200] * len(SENT_ONCE)
        slow.let_go.clear()
        upstream.asked.clear()
        async with all_sent(gate, SENT_ONCE, upstream) as clients:
            with pytest.raises(TimeoutError):
                await until(lambda: len(upstream.asked) > len(SENT_ONCE), within_s=1.3)
            slow.let_go.set()
            statuses = [(await client.answer()).status for client in clients]

    assert statuses == [200] * len(SENT_ONCE)
    assert upstream.connections == len(SENT_ONCE)


@asynccontextmanager
async def all_sent(
    gate: Serving, requests: list[bytes], upstream: ScriptedUpstream
) -> AsyncIterator[list[Talker]]:
    """All at once, so that none is kept from the pool by another."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(talking(gate.url)) for _ in requests]
        for client, request in zip(clients, requests, strict=True):
            await client.send(request)
        await until(lambda: len(upstream.asked) == len(requests))
        yield clients


async def without_nodelay(asked: Asked) -> None:
    """Head and body apart, and the second waits for the first's acknowledgement: `uvicorn --workers`."""
    asked.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    await asked.send(b"{}")


@pytest.mark.alone
async def test_no_answer_waits_for_a_delayed_acknowledgement(tmp_path: Path):
    """Not 40 ms each, as a kept connection costs with an upstream that does not set TCP_NODELAY."""
    async with (
        gated(without_nodelay, tmp_path) as (upstream, gate),
        talking(gate.url) as client,
    ):
        waits = [await wait_s(client) for _ in range(40)]

    assert upstream.connections == 1
    assert median(waits) < 0.02, json.dumps(waits)


PAIRS = 4
"""Of an answer in the next test."""


@pytest.mark.alone
@pytest.mark.parametrize("size", [100, 1000])
async def test_no_part_of_an_answer_waits_for_a_delayed_acknowledgement(size: int, tmp_path: Path):
    """However many there are, and whatever their size: the next one is on its way when this one is here."""
    has_pair = asyncio.Event()

    async def in_pairs(asked: Asked) -> None:
        asked.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(PAIRS):
            for _ in range(2):
                await asked.send(b"%x\r\n%b\r\n" % (size, b"a" * size))
            await has_pair.wait()
            has_pair.clear()
        await asked.send(b"0\r\n\r\n")

    async def longest_s(client: Talker) -> float:
        await client.send(GET)
        await client.head()
        waits, left, began = list[float](), 2 * size, monotonic()
        async for chunk in client.chunks():
            left -= len(chunk)
            if not left:
                waits.append(monotonic() - began)
                left, began = 2 * size, monotonic()
                has_pair.set()
        assert len(waits) == PAIRS
        return max(waits)

    async with gated(in_pairs, tmp_path) as (upstream, gate), talking(gate.url) as client:
        waits = [await longest_s(client) for _ in range(20)]

    assert upstream.connections == 1
    assert median(waits) < 0.02, json.dumps(waits)
