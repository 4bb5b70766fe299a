"""Time and flow: each timeout for its own phase, and a slow side that slows the other."""

import asyncio
import json
import socket
from time import monotonic, perf_counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.downstream.client_request import ClientRequest
from proxy.downstream.server import ServerPort
from proxy.errors import UpstreamUnreachable
from proxy.http.headers import Forwarding
from proxy.relay.relay import Relay
from proxy.relay.relayed_request import RelayedRequest
from proxy.relay.result import Outcome, RelayResult
from proxy.upstream.client import Upstream
from proxy.upstream.pool import Origin
from proxy.upstream.timeouts import SLOW_S, Timeouts
from tests.servers.ports import free_socket
from tests.servers.scripted import Answered, Asked, ScriptedUpstream, ask, ok, silent, talking, until
from tests.servers.serving import Serving, headgate

HOST = b"host: clinic.example\r\n"
GET = b"GET / HTTP/1.1\r\n%b\r\n" % HOST
FIRST_BYTE_S, IDLE_S, TOTAL_S = 0.4, 0.3, 1.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"


TIMEOUTS = {"connect_s": 0.4, "first_byte_s": FIRST_BYTE_S, "idle_s": IDLE_S, "total_s": TOTAL_S}
UPSTREAM = {"timeouts": TIMEOUTS}


SCRIPT = silent


async def timed(gate: Serving, request: bytes, expected_s: float) -> Answered:
    """The answer, which came within 10 % of `expected_s`; a machine that is busy gets ten tries."""
    for _ in range(10):
        began = monotonic()
        answered = await ask(gate.url, request)
        took_s = monotonic() - began
        assert took_s >= 0.9 * expected_s
        if took_s <= 1.1 * expected_s:
            return answered
    raise AssertionError(f"{took_s:.3f} s instead of {expected_s} s")


def hold_up(seconds: float) -> None:
    """Hold up everything else of this loop."""
    until = monotonic() + seconds
    while monotonic() < until:
        pass


@pytest.mark.parametrize("request_bytes", [GET, b"POST / HTTP/1.1\r\n%bcontent-length: 1\r\n\r\na" % HOST])
async def test_an_upstream_that_is_silent_is_a_504_after_first_byte_s(
    request_bytes: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """From the request sent to the answer's head; the client gets a problem."""
    answered = await timed(gate, request_bytes, FIRST_BYTE_S)

    assert answered.status == json.loads(answered.body)["status"] == 504


@pytest.mark.parametrize("first", [b"", b"some of it"])
async def test_an_answer_that_stalls_is_cut_after_idle_s(
    first: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """A long `first_byte_s` changes nothing, though a good part of it was left when the answer began."""

    async def stalling(asked: Asked) -> None:
        await asked.send(HEAD + first)
        await asked.reader.read()

    upstream.script = stalling
    answered = await timed(
        gate, GET, IDLE_S if first else SLOW_S + IDLE_S
    )  # a head waits so long for its body

    assert (answered.status, answered.body, answered.complete) == (200, first, False)


async def test_idle_s_counts_though_first_byte_s_is_longer(upstream: ScriptedUpstream):
    """With the defaults the one is 120 s and the other 300 s: a stalled answer does not wait for both."""

    async def stalling(asked: Asked) -> None:
        await asyncio.sleep(0.1)
        await asked.send(HEAD + b"some of it")
        await asked.reader.read()

    upstream.script = stalling
    pool = Upstream(Origin("127.0.0.1", upstream.port, timeouts=Timeouts(first_byte_s=5, idle_s=IDLE_S)))
    began = monotonic()
    with pool.exchange("GET") as exchange, pytest.raises(Exception, match="idle_s"):
        await exchange.send(GET, whole=True)
        await exchange.head()
        while await exchange.read():
            pass

    assert monotonic() - began < 5


async def test_a_slow_answer_that_is_alive_is_not_cut(upstream: ScriptedUpstream, gate: Serving):
    """Each piece starts `idle_s` anew."""

    async def slowly(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(IDLE_S / 2)
            await asked.send(b"a")

    upstream.script = slowly
    answered = await ask(gate.url, GET)

    assert (answered.body, answered.complete) == (b"aaaa", True)


async def test_what_came_while_the_loop_was_held_up_is_not_late(upstream: ScriptedUpstream, gate: Serving):
    """A process that was given no time for longer than `idle_s` cannot say that the upstream was silent."""

    async def held_up(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        for piece in (b"one", b"two", b"six"):
            await asked.send(piece)
            await asyncio.sleep(IDLE_S / 3)  # by now it waits for more
            hold_up(IDLE_S)

    upstream.script = held_up
    answered = await ask(gate.url, GET)

    assert (answered.body, answered.complete) == (b"onetwosix", True)


async def test_an_answer_that_goes_on_for_too_long_is_cut_after_total_s(
    upstream: ScriptedUpstream, gate: Serving
):
    """Even an answer that is alive is cut."""

    async def drip(asked: Asked) -> None:
        await asked.send(HEAD)
        while True:
            await asked.send(b"a")
            await asyncio.sleep(0.05)

    upstream.script = drip
    answered = await timed(gate, GET, TOTAL_S)

    assert (answered.status, answered.complete) == (200, False)


async def test_an_upload_that_stops_is_a_504_after_total_s(upstream: ScriptedUpstream, gate: Serving):
    """A client that sends half a body holds the upstream no longer than that."""
    answered = await timed(gate, b"POST / HTTP/1.1\r\n%bcontent-length: 9\r\n\r\na" % HOST, TOTAL_S)

    assert answered.status == 504


async def test_a_slow_upload_is_not_a_silent_upstream(upstream: ScriptedUpstream, gate: Serving):
    """`first_byte_s` begins when the request is out whole."""
    upstream.script = ok
    async with talking(gate.url) as client:
        await client.send(b"POST / HTTP/1.1\r\n%bcontent-length: 6\r\n\r\n" % HOST)
        for _ in range(6):
            await client.send(b"a")
            await asyncio.sleep(FIRST_BYTE_S / 4)
        answered = await client.answer()

    assert answered.status == 200


async def test_a_connection_that_is_not_made_is_given_up_after_connect_s():
    """A listener whose queue is full answers no SYN; over loopback that is as silent as it gets."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        pool = Upstream(Origin(*full.getsockname(), timeouts=Timeouts(connect_s=0.4)))
        began = monotonic()
        with pool.exchange("GET") as exchange, pytest.raises(UpstreamUnreachable):
            await exchange.send(GET, whole=True)
        took_s = monotonic() - began

    assert 0.36 <= took_s < 10
    assert pool.in_use == 0


PIECE = b"x" * 65_536
KERNEL_BYTES = 24 * 1024 * 1024
"""The bytes that four socket buffers of this system may hold; the answer and the upload are far larger."""


async def _flood(send, writer, pieces: int, sent: list[int]) -> None:
    for _ in range(pieces):
        await send(PIECE)
        sent[0] += len(PIECE)


async def _blocked(sent: list[int], total: int) -> int:
    """Bytes that could be sent until nothing moved for a while."""
    before = -1
    while sent[0] != before and sent[0] < total:
        before = sent[0]
        await asyncio.sleep(0.15)
    return sent[0]


async def test_a_client_that_does_not_read_stops_the_upstream_and_is_not_timed_out(
    upstream: ScriptedUpstream, tmp_path
):
    """Of 200 MB only what the sockets hold is sent; waiting for the client is not the upstream's idling."""
    pieces, sent = 3_200, [0]

    async def flood(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (pieces * len(PIECE)))
        await _flood(asked.send, asked.writer, pieces, sent)

    upstream.script = flood
    limits = {"timeouts": {"idle_s": 0.2}}
    async with headgate(upstream.url, tmp_path, upstream=limits) as gate, talking(gate.url) as client:
        await client.send(GET)
        blocked_at = await _blocked(sent, pieces * len(PIECE))
        await asyncio.sleep(0.4)  # twice idle_s
        size = len((await client.answer()).body)

    assert blocked_at < KERNEL_BYTES
    assert size == pieces * len(PIECE)


async def test_an_upstream_that_does_not_read_stops_the_client(upstream: ScriptedUpstream, tmp_path):
    """Of an upload of 200 MB only what the sockets hold is taken from the client."""
    pieces, sent = 3_200, [0]
    go, received = asyncio.Event(), [0]

    async def late(asked: Asked) -> None:
        await go.wait()
        while received[0] < pieces * len(PIECE):
            received[0] += len(await asked.reader.read(1 << 20))
        await asked.answer(b"{}")

    upstream.script = late
    async with headgate(upstream.url, tmp_path) as gate, talking(gate.url) as client:
        await client.send(b"POST / HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (HOST, pieces * len(PIECE)))
        upload = asyncio.ensure_future(_flood(client.send, client.writer, pieces, sent))
        blocked_at = await _blocked(sent, pieces * len(PIECE))
        go.set()
        await upload
        answered = await client.answer()

    assert blocked_at < KERNEL_BYTES
    assert (answered.status, received[0]) == (200, pieces * len(PIECE))


async def test_what_is_held_for_a_client_that_does_not_read_is_bounded(
    upstream: ScriptedUpstream, gate: Serving
):
    """At most what one read brings beyond the mark at which the socket is left alone."""
    pool = Upstream(Origin("127.0.0.1", upstream.port))

    async def flood(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while True:
            await asked.send(PIECE)

    upstream.script = flood
    with pool.exchange("GET") as exchange:
        await exchange.send(GET, whole=True)
        await exchange.head()
        await until(lambda: exchange.connection._read_paused)
        held = exchange.connection.response.body_bytes

    assert held <= 64 * 1024 + 256 * 1024
    await pool.aclose()


async def test_an_answer_that_was_cut_while_its_client_was_slow_is_cut_for_the_client_too():
    """Once it has all that had come, and not after `idle_s`."""
    results: list[RelayResult] = []

    def begin(request: ClientRequest) -> None:
        begun.set_result(request)
        relay.begin(request, results.append, perf_counter())

    async def cut(asked: Asked) -> None:
        client = await begun
        await asked.send(HEAD.replace(b"1000000", b"1000000000"))
        turns = 0
        while turns < 100:  # of the loop: by then the client's socket would have taken what is written
            turns = turns + 1 if client.flow.write_paused else 0
            if not turns:
                await asked.send(b"a" * 4096)
            await asyncio.sleep(0)
        await asked.send(b"the last")
        exchange = cast(RelayedRequest, client.watcher)
        await until(lambda: exchange.connection.response.chunks != [])
        asked.writer.transport.abort()
        await until(lambda: exchange.connection.failure is not None)
        is_cut.set()

    config = uvicorn.Config(cast(Any, None), log_config=None)
    config.load()
    config.loaded_app = cast(Any, SimpleNamespace(begin=begin))
    loop, listening, is_cut = asyncio.get_running_loop(), free_socket(), asyncio.Event()
    begun: asyncio.Future[ClientRequest] = loop.create_future()
    state = ServerState()
    server = await loop.create_server(ServerPort(config, state, {}, loop).connect, sock=listening)
    async with (
        ScriptedUpstream(cut).running() as upstream,
        server,
        talking(f"http://127.0.0.1:{listening.getsockname()[1]}") as client,
    ):
        relay = Relay(Upstream(Origin("127.0.0.1", upstream.port)), Forwarding(), cast(Any, None))
        await client.send(GET)
        await asyncio.wait_for(is_cut.wait(), 30)
        answer = await asyncio.wait_for(client.reader.read(-1), 30)

    assert answer.endswith(b"the last")
    assert [result.outcome for result in results] == [Outcome.TRUNCATED]
