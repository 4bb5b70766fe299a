"""The upstream is told within a second that a client has left, at any moment, and nothing stays behind."""

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.downstream.client_request import ClientRequest
from proxy.downstream.server import ServerPort
from proxy.errors import UpstreamError
from proxy.http.headers import Forwarding
from proxy.relay.relay import Relay
from proxy.relay.result import Outcome, RelayResult
from proxy.upstream.client import Upstream
from proxy.upstream.pool import Origin
from tests.servers.ports import free_socket
from tests.servers.scripted import Asked, ScriptedUpstream, ask, talking, until
from tests.servers.serving import Serving, gated

HOST = b"host: clinic.example\r\n"
GET = b"GET / HTTP/1.1\r\n%b\r\n" % HOST


@pytest.fixture(scope="module", params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def silent(asked: Asked) -> None:
    """Says nothing until its peer leaves."""
    while await asked.reader.read(65536):
        pass
    raise ConnectionResetError


SCRIPT = silent


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(GET, id="before the head"),
        pytest.param(
            b"POST / HTTP/1.1\r\n%bcontent-length: 1\r\n\r\na" % HOST, id="before the head, with a body"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\n%bcontent-length: 9\r\n\r\na" % HOST, id="in the middle of an upload"
        ),
        pytest.param(b"POST / HTTP/1.1\r\n%bcontent-length: 9\r\n\r\n" % HOST, id="before the body"),
        pytest.param(GET + GET, id="with another request waiting"),
        pytest.param(
            b"PUT / HTTP/1.1\r\n%bexpect: 100-continue\r\ncontent-length: 9\r\n\r\n" % HOST,
            id="before the 100",
        ),
    ],
)
async def test_a_client_that_leaves_frees_the_upstream(
    request_bytes: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """The upstream sees the disconnect though it has nothing to say; within a second, or two for a 100."""
    async with talking(gate.url) as client:
        await client.send(request_bytes)
        await until(lambda: len(upstream.asked) == 1)
        client.leave()

        await asyncio.wait_for(upstream.left.wait(), 2 if b"expect" in request_bytes else 1)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_client_whose_request_had_to_be_a_call_frees_the_upstream_too(method: bytes, tmp_path: Path):
    """The relay reaches it by messages: here, since its page's origin is one of `cors.origins`."""
    request = b"%b / HTTP/1.1\r\n%borigin: http://page.example\r\ncontent-length: %d\r\n\r\n%b"
    body = b"a" * 9 * (method == b"POST")
    async with (
        gated(silent, tmp_path, cors={"origins": ["http://page.example"]}) as (upstream, gate),
        talking(gate.url) as client,
    ):
        await client.send(request % (method, HOST, len(body), body))
        await until(lambda: len(upstream.asked) == 1, 30)
        client.leave()

        await asyncio.wait_for(upstream.left.wait(), 30)


@pytest.mark.parametrize("reading", [True, False])
async def test_a_client_that_leaves_in_the_middle_of_an_answer_frees_the_upstream(
    reading: bool, upstream: ScriptedUpstream, gate: Serving
):
    """Also when the relay is blocked by a client that had stopped reading."""

    async def endless(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await asked.send(b"1\r\na\r\n" if reading else b"10000\r\n" + b"a" * 65536 + b"\r\n")
            await asyncio.sleep(0.01 if reading else 0)

    upstream.script = endless
    async with talking(gate.url) as client:
        await client.send(GET)
        await client.head()
        client.leave()

        await asyncio.wait_for(upstream.left.wait(), 1)


async def test_a_client_that_leaves_after_a_second_try_frees_the_upstream(
    upstream: ScriptedUpstream, gate: Serving
):
    """The watch for its leaving moves to the fresh connection with the request."""

    async def closes_the_second(asked: Asked) -> None:
        if len(upstream.asked) == 1:
            await asked.answer(b"{}")
        elif len(upstream.asked) == 2:
            asked.writer.close()
        else:
            await silent(asked)

    upstream.script = closes_the_second
    async with talking(gate.url) as client:
        await client.ask(GET)
        await client.send(GET)
        await until(lambda: len(upstream.asked) == 3)
        upstream.left.clear()
        client.leave()

        await asyncio.wait_for(upstream.left.wait(), 1)


async def _anything(asked: Asked) -> None:
    """An answer in pieces, with pauses in which a client may leave."""
    await asked.read_body()
    await asyncio.sleep(random.random() * 0.01)
    await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(random.random() * 0.01)
        await asked.send(b"5\r\nabcde\r\n")
    await asked.send(b"0\r\n\r\n")


async def _leave_somewhere(gate: Serving, rng: random.Random) -> None:
    request = rng.choice(
        [
            GET,
            b"POST / HTTP/1.1\r\n%bcontent-length: 5\r\n\r\nhello" % HOST,
            b"POST / HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % HOST,
            b"PUT / HTTP/1.1\r\n%bexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello" % HOST,
            GET + GET,
        ]
    )
    async with talking(gate.url) as client:
        await client.send(request[: rng.randrange(len(request) * 2)])
        with suppress(TimeoutError):
            await asyncio.wait_for(client.reader.read(rng.choice([1, 100_000])), rng.random() * 0.05)


async def test_three_hundred_clients_that_leave_leave_nothing_behind(
    upstream: ScriptedUpstream, gate: Serving
):
    """Tasks, connections in use and file descriptors are back where they were within two seconds."""
    upstream.script = _anything
    pool = gate.app.gateway.relay._upstream
    await ask(gate.url, GET)
    tasks = len(asyncio.all_tasks())
    await until(lambda: pool.in_use == 0, 2)
    files = len(os.listdir("/proc/self/fd")) - 2 * len(pool._idle)
    rng = random.Random(7)

    for _ in range(6):
        await asyncio.gather(*(_leave_somewhere(gate, rng) for _ in range(50)))

    await until(lambda: pool.in_use == 0 and len(asyncio.all_tasks()) <= tasks + len(pool._idle), 2)
    await until(lambda: len(os.listdir("/proc/self/fd")) - 2 * len(pool._idle) <= files, 2)
    assert (await ask(gate.url, GET)).body == b"abcde" * 3


async def test_an_exchange_cancelled_twice_gives_its_connection_back(upstream: ScriptedUpstream):
    """At any await, in any phase: closing does not await, so a second cancellation finds nothing to stop."""
    upstream.script = _anything
    pool = Upstream(Origin("127.0.0.1", upstream.port))
    rng = random.Random(11)

    async def exchange() -> None:
        with pool.exchange("GET") as one:
            await one.send(GET, whole=True)
            await one.head()
            while await one.read():
                pass

    async def cancel_twice(steps: int) -> None:
        task = asyncio.ensure_future(exchange())
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.sleep(rng.random() * 0.03 if steps > 10 else 0)
        task.cancel()
        if steps % 2:
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError, UpstreamError):
            await task

    before = upstream.open
    for _ in range(5):
        await asyncio.gather(*(cancel_twice(steps) for steps in range(20)))

    assert pool.in_use == 0
    await pool.aclose()
    await until(lambda: upstream.open <= before, 2)


@pytest.mark.parametrize("chunk", [b"", b"2\r\nok\r\n"])
@pytest.mark.parametrize("expects", [b"", b"expect: 100-continue\r\n"])
@pytest.mark.parametrize("malformed", [b"", b"nonsense\r\n"])
async def test_a_request_whose_client_left_before_it_was_relayed_is_not_sent(
    malformed: bytes, expects: bytes, chunk: bytes
):
    """While it was decided, for example; or its body was refused by then. It is told of that only once."""
    begun: list[ClientRequest] = []
    results: list[RelayResult] = []
    decided = asyncio.Event()

    def begin(request: ClientRequest) -> Any:
        begun.append(request)
        return call

    async def call(*_: Any) -> None:
        await decided.wait()
        results.append(await relay(begun[0]))

    config = uvicorn.Config(cast(Any, None), log_config=None)
    config.load()
    config.loaded_app = cast(Any, SimpleNamespace(begin=begin))
    state, loop, listening = ServerState(), asyncio.get_running_loop(), free_socket()
    server = await loop.create_server(ServerPort(config, state, {}, loop).connect, sock=listening)
    async with (
        ScriptedUpstream(silent).running() as upstream,
        server,
        talking(f"http://127.0.0.1:{listening.getsockname()[1]}") as client,
    ):
        relay = Relay(Upstream(Origin("127.0.0.1", upstream.port)), Forwarding(), cast(Any, None))
        head = b"POST / HTTP/1.1\r\n%b%btransfer-encoding: chunked\r\n\r\n" % (HOST, expects)
        await client.send(head + chunk)
        await until(lambda: len(begun) == 1)
        if malformed:
            await client.send(malformed)
            assert (await client.answer()).status == 400
        else:
            client.leave()
        await until(lambda: begun[0].disconnected)
        decided.set()
        await until(lambda: not state.tasks)

        assert [result.outcome for result in results] == [Outcome.CLIENT_LEFT]
        assert not upstream.asked
