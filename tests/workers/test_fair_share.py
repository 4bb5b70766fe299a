"""Workers that share a socket: who has more connections than the others leaves the next ones to them."""

import asyncio
import math
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from proxy.downstream.server import uncounted
from proxy.workers import servers
from proxy.workers.fair_share import MAX_PROCESSES, FairShare, FairShares
from proxy.workers.servers import OwnedServer, server
from tests.servers.client import eventually
from tests.servers.ports import free_socket
from tests.servers.scripted import talking

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LONG_S = 3600.0


async def answering(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def taken(shares: FairShares, times: int) -> list[list[FairShare]]:
    """The shares of so many processes."""
    numbers = [shares.take() for _ in range(times)]
    return [shares.of(number) for number in numbers if number is not None]


class One:
    """A worker that serves, and the place of another one, which a test plays."""

    def __init__(self, listening: socket.socket, serving: OwnedServer, other: FairShare) -> None:
        self.listening = listening
        self.serving = serving
        self.other = other
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    async def leaves_the_next(self) -> None:
        """Wait until the worker has stopped to accept."""
        await eventually(lambda: not self.serving.servers, 30)


@asynccontextmanager
async def one() -> AsyncIterator[One]:
    shares = FairShares()
    (own, _), (other, _) = taken(shares, 2)
    listening = free_socket()
    listening.listen(64)
    serving = server(answering, listening.dup(), uncounted, keep_alive_s=60, grace_s=1, share=own)
    task = asyncio.ensure_future(serving.serve_here())
    try:
        await serving.is_open.wait()
        with listening:
            yield One(listening, serving, other)
    finally:
        serving.should_exit = True
        await task  # not cancelled, also if the test fails: it closes what it has opened


async def asked(stack: AsyncExitStack, url: str, times: int) -> None:
    """So many connections, each answered once, that stay until the stack is left."""
    for _ in range(times):
        client = await stack.enter_async_context(talking(url))
        assert (await client.ask(GET)).status == 200


async def test_a_worker_over_its_share_leaves_the_next_connection_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That one gets it from the same socket. What the first one has goes on."""
    monkeypatch.setattr(servers, "PAUSE_S", LONG_S)
    async with asyncio.timeout(60), one() as worker, AsyncExitStack() as stack:
        worker.other.has(0)
        client = await stack.enter_async_context(talking(worker.url))
        assert (await client.ask(GET)).status == 200
        await asked(stack, worker.url, 2)
        await worker.leaves_the_next()

        await stack.enter_async_context(talking(worker.url))
        taken, _ = await asyncio.to_thread(_accepted, worker.listening)
        taken.close()
        assert (await client.ask(GET)).status == 200


def _accepted(listening: socket.socket) -> tuple[socket.socket, Any]:
    listening.settimeout(30)
    return listening.accept()


async def test_no_connection_waits_for_a_worker_that_does_not_take_it() -> None:
    """It has none, and is blocked: each connection is answered by the worker that has all of them."""
    async with asyncio.timeout(60), one() as worker, AsyncExitStack() as stack:
        worker.other.has(0)
        await asked(stack, worker.url, 40)


async def test_a_worker_that_is_alone_never_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are dead, drain, or have not begun count for nothing."""
    monkeypatch.setattr(servers, "PAUSE_S", LONG_S)
    async with asyncio.timeout(60), one() as worker, AsyncExitStack() as stack:
        worker.other.has(0)
        worker.other.has(None)
        await asked(stack, worker.url, 40)


async def test_a_worker_that_drains_in_a_pause_does_not_accept_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take connections that it has no time to serve."""
    monkeypatch.setattr(servers, "PAUSE_S", LONG_S)
    async with asyncio.timeout(60), one() as worker, AsyncExitStack() as stack:
        worker.other.has(0)
        await asked(stack, worker.url, 3)
        await worker.leaves_the_next()
        turns = worker.serving._turns
        assert turns is not None
        pause = turns._pause
        assert pause is not None
        worker.serving.stop_accepting()
        await pause

        assert not worker.serving.servers


async def test_a_worker_without_descriptors_says_so_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With how often it has tried, not at each try; and it accepts again once it can."""
    monkeypatch.setattr(servers, "RETRY_S", 0.001)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with asyncio.timeout(60), one() as worker:
        turns = worker.serving._turns
        assert turns is not None
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no new one is below
            retrying = asyncio.create_task(turns._leave_to_others())
            await eventually(lambda: turns._failed > 9, 30)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await retrying
        async with AsyncExitStack() as stack:
            await asked(stack, worker.url, 1)
        turns._warned_at = -math.inf
        failed = turns._failed
        turns._warn(OSError())

    assert [getattr(record, "tries", None) for record in caplog.records] == [1, failed + 1]


def test_shares_are_even_within_an_eighth_and_one_connection() -> None:
    """Of the mean of those that accept; each port for itself."""
    shares = FairShares()
    of = taken(shares, 4)
    for (public, model), connections in zip(of, (100, 100, 100, 60), strict=True):
        public.has(connections)
        model.has(0)

    assert [of[0][0].is_over(count) for count in (100, 101, 102)] == [False, False, True]
    assert [of[0][1].is_over(count) for count in (1, 2)] == [False, True]
    of[3][0].has(None)
    assert [of[0][0].is_over(count) for count in (112, 113)] == [False, True]


def test_a_dead_process_counts_no_more_and_its_number_is_used_again() -> None:
    shares = FairShares()
    numbers = [shares.take() for _ in range(MAX_PROCESSES)]
    assert None not in numbers
    assert shares.take() is None
    first, second = numbers[0], numbers[1]
    assert first is not None and second is not None
    for number in (first, second):
        shares.of(number)[0].has(0)
    assert shares.of(second)[0].is_over(2)

    shares.give_back(first)

    assert not shares.of(second)[0].is_over(2)
    assert shares.take() == first
