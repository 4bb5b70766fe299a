"""The upstream client on its own: its pool, its one retry, TLS and IPv6."""

import asyncio
import gc
import select
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.errors import (
    Fault,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamMalformed,
    UpstreamStalled,
    UpstreamUnreachable,
)
from proxy.upstream.client import Answer, Request, Upstream
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Origin
from proxy.upstream.response import UpstreamResponse
from proxy.upstream.timeouts import Timeouts
from tests.servers.authority import certificates
from tests.servers.ports import free_socket
from tests.servers.scripted import Asked, ScriptedUpstream, ask, until
from tests.servers.serving import headgate

GET = Request("GET", b"/", [(b"host", b"a")])
POST = Request("POST", b"/", [(b"host", b"a")], b"{}")


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def ok(asked: Asked) -> None:
    await asked.read_body()
    await asked.answer(b"{}")


@asynccontextmanager
async def pooled(upstream: ScriptedUpstream, **origin: object) -> AsyncIterator[Upstream]:
    pool = Upstream(Origin("127.0.0.1", upstream.port, **origin))  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.aclose()


async def fetch(pool: Upstream, request: Request = GET) -> Answer:
    return await asyncio.wait_for(pool.fetch(request, max_bytes=1000), 5)


async def test_a_connection_is_used_again():
    """One after the other, requests share it; at the same time, each has its own."""
    async with ScriptedUpstream(ok).running() as upstream, pooled(upstream) as pool:
        for _ in range(5):
            await fetch(pool)
        assert upstream.connections == 1

        await asyncio.gather(fetch(pool), fetch(pool), fetch(pool))
        assert upstream.connections == 3
        assert repr(pool) == "<Upstream 0 in use, 3 idle>"


async def test_an_idle_connection_is_closed_after_keep_alive_s():
    """Sooner than the upstream would, so that no request meets a connection that is being closed."""
    async with ScriptedUpstream(ok).running() as upstream, pooled(upstream, keep_alive_s=0.2) as pool:
        await fetch(pool)
        await asyncio.wait_for(upstream.left.wait(), 1)
        await fetch(pool)

        assert upstream.connections == 2


async def test_no_more_than_max_idle_connections_are_kept():
    """The others are closed when their exchange ends."""
    async with ScriptedUpstream(ok).running() as upstream, pooled(upstream, max_idle=1) as pool:
        await asyncio.gather(fetch(pool), fetch(pool), fetch(pool))
        await until(lambda: upstream.open == 1)

        assert repr(pool) == "<Upstream 0 in use, 1 idle>"


async def test_no_more_than_max_connections_are_in_use():
    """One more is refused at once, and nothing of it reaches the upstream."""
    async with ScriptedUpstream(ok).running() as upstream, pooled(upstream, max_connections=1) as pool:
        with pool.exchange("GET") as exchange:
            await exchange.send(GET.wire(), whole=True)
            with pytest.raises(UpstreamBusy):
                await fetch(pool)

        assert pool.in_use == 0
        await fetch(pool)


@pytest.mark.parametrize(
    "closing",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_its_answer_closes_is_not_used_again(closing: bytes):
    """The answer is whole all the same."""

    async def play(asked: Asked) -> None:
        await asked.send(closing)

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        answers = [await fetch(pool) for _ in range(2)]

    assert [answer.body for answer in answers] == [b"ok", b"ok"]
    assert upstream.connections == 2


def closes_the_second(how: str):
    """A script: answer once, then close when the next request is there, as a keep-alive limit does."""

    async def play(asked: Asked) -> None:
        await asked.read_body()
        if asked.writer in seen:
            if how == "reset":
                linger = b"\1\0\0\0\0\0\0\0"
                asked.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif how == "half an answer":
                await asked.send(b"HTTP/1.1 200")
            asked.writer.transport.abort() if how == "reset" else asked.writer.close()
            return
        seen.append(asked.writer)
        await asked.answer(b"")

    seen: list[asyncio.StreamWriter] = []
    return play


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
async def test_a_safe_request_is_sent_again_once(method: str, how: str):
    """The upstream closed a reused connection before any byte of an answer (RFC 9112 9.3.1)."""
    async with ScriptedUpstream(closes_the_second(how)).running() as upstream, pooled(upstream) as pool:
        for _ in range(2):
            with pool.exchange(method) as exchange:
                await exchange.send(Request(method, b"/", []).wire(), whole=True)
                await exchange.head()
                assert exchange.status == 200
                while await exchange.read():
                    pass

    assert (len(upstream.asked), upstream.connections) == (3, 2)


async def test_requests_that_are_sent_again_at_a_time_leave_the_failure_of_none_behind():
    """Each was the context of whatever failed after it: what cannot be read then counted as cut off."""
    closes = closes_the_second("closed")

    async def play(asked: Asked) -> None:
        if asked.target == b"/odd":
            await asked.send(b"HELLO\r\n\r\n")
        else:
            await closes(asked)

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        for _ in range(2):
            # With no coroutine of Python's own around them: that has the error to itself.
            requests = [asyncio.create_task(pool.fetch(GET, max_bytes=1000)) for _ in range(2)]
            await asyncio.gather(*requests)
        assert len(upstream.asked) == 6

        with pytest.raises(UpstreamMalformed):
            await asyncio.create_task(pool.fetch(Request("GET", b"/odd", [(b"host", b"a")]), max_bytes=1000))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_an_unsafe_request_is_never_sent_again(method: str):
    """It may have been carried out; who asked is told that the answer is missing."""
    async with ScriptedUpstream(closes_the_second("closed")).running() as upstream, pooled(upstream) as pool:
        await fetch(pool)
        with pytest.raises(UpstreamBroke):
            await fetch(pool, Request(method, b"/", [], b"{}"))

    assert len(upstream.asked) == 2
    assert pool.in_use == 0


async def test_a_request_whose_answer_had_begun_is_not_sent_again():
    """Half a status line is proof that it was being served."""
    script = closes_the_second("half an answer")
    async with ScriptedUpstream(script).running() as upstream, pooled(upstream) as pool:
        await fetch(pool)
        with pytest.raises(UpstreamBroke):
            await fetch(pool)

    assert len(upstream.asked) == 2


async def test_a_fresh_connection_that_is_closed_is_no_reason_to_try_again():
    """An upstream that closes without a word would be asked for ever."""

    async def closing(asked: Asked) -> None:
        asked.writer.close()

    async with ScriptedUpstream(closing).running() as upstream, pooled(upstream) as pool:
        with pytest.raises(UpstreamBroke):
            await fetch(pool)

    assert len(upstream.asked) == 1


async def test_a_connection_that_the_upstream_closed_while_idle_is_not_used():
    """Not even a POST meets it, once its close is known."""

    async def once(asked: Asked) -> None:
        await ok(asked)
        asked.writer.close()

    async with ScriptedUpstream(once).running() as upstream, pooled(upstream) as pool:
        await fetch(pool, POST)
        await until(lambda: all(connection.closed for connection in pool._idle))
        await fetch(pool, POST)

    assert len(upstream.asked) == 2


@pytest.mark.parametrize("how", ["closed", "reset", "closed by TLS"])
async def test_a_close_that_was_read_in_the_same_turn_of_the_loop_is_known(how: str, tmp_path: Path):
    """The loop was held up: the upstream's close waits in the system, and a client's request behind it."""
    ca_file, context = certificates(tmp_path)
    tls = ssl.create_default_context(cafile=ca_file) if how == "closed by TLS" else None
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Connection | None] = loop.create_future()
    ours, client = socket.socketpair()

    def answered() -> socket.socket:
        opened, _ = listening.accept()
        if tls is not None:
            opened = context.wrap_socket(opened, server_side=True)
        opened.recv(65536)
        opened.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        return opened

    def find() -> None:
        ours.recv(1)
        found.set_result(pool.reuse())

    with ours, client, socket.create_server(("127.0.0.1", 0)) as listening:
        pool = Upstream(Origin("127.0.0.1", listening.getsockname()[1], tls=tls))
        answering = asyncio.to_thread(answered)
        opened, _ = await asyncio.gather(answering, fetch(pool, POST))
        kept = pool._idle[-1]._transport.get_extra_info("socket").fileno()
        loop.add_reader(ours, find)
        if isinstance(opened, ssl.SSLSocket):
            opened.settimeout(0)
            with suppress(ssl.SSLWantReadError):
                opened.unwrap()
        elif how == "reset":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        opened.close()
        assert select.select([kept], [], [], 5)[0]
        client.send(b".")

        assert await found is None
        assert pool.in_use == 0
        loop.remove_reader(ours)


async def test_a_body_over_the_bound_is_too_large():
    """`fetch` holds a whole answer, so it says how much that may be."""

    async def large(asked: Asked) -> None:
        await asked.answer(b"x" * 1001)

    async with ScriptedUpstream(large).running() as upstream, pooled(upstream) as pool:
        with pytest.raises(UpstreamMalformed) as caught:
            await fetch(pool)

    assert caught.value.fault is Fault.TOO_LARGE


async def test_each_piece_of_a_body_is_given_as_it_comes_and_in_order():
    """Pieces that are there before their reader, and those it waits for; it goes on at the body's end."""
    go_on = asyncio.Event()

    async def play(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nab")
        for piece in (b"c", b"d", b"ef"):
            await go_on.wait()
            go_on.clear()
            await asked.send(piece)

    taken: list[bytes] = []

    def take(data: bytes) -> None:
        taken.append(data)
        go_on.set()

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        with pool.exchange("GET") as exchange:
            await exchange.send(GET.wire(), whole=True)
            await exchange.head()
            await asyncio.wait_for(exchange.each(take), 5)

    assert taken == [b"ab", b"c", b"d", b"ef"]


async def test_what_a_reader_refuses_to_be_served_with_it_reads_itself():
    """Each piece comes once, in order, by one of the two ways; the answer's end is always read."""
    go_on = asyncio.Event()
    pieces = [b"b", b"c", b"d", b"e", b"f"]

    async def play(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na")
        for piece in pieces:
            await go_on.wait()
            go_on.clear()
            await asked.send(piece)

    served: list[bytes] = []
    taken: list[tuple[str, bytes]] = []

    def serve(data: bytes) -> bool:
        served.append(data)
        if data in (b"c", b"e"):
            return False
        taken.append(("served", data))
        go_on.set()
        return True

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        with pool.exchange("GET") as exchange:
            await exchange.send(GET.wire(), whole=True)
            await exchange.head()
            async with asyncio.timeout(30):
                while data := await exchange.read(serve):
                    taken.append(("read", data))
                    go_on.set()

    assert b"".join(data for _, data in taken) == b"abcdef"
    assert ("served", b"b") in taken
    assert [how for how, data in taken if data in (b"c", b"e", b"f")] == ["read"] * 3
    assert served == [b"b", b"c", b"d", b"e"]


async def test_what_a_taker_raises_is_raised_where_it_is_awaited():
    """It is not called again, and the connection is closed with the exchange."""

    async def play(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        await asked.send(b"abc")
        await asked.reader.read()

    taken: list[bytes] = []

    def take(data: bytes) -> None:
        taken.append(data)
        raise UpstreamMalformed("nothing that can be read")

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        with pool.exchange("GET") as exchange:
            await exchange.send(GET.wire(), whole=True)
            await exchange.head()
            with pytest.raises(UpstreamMalformed, match="nothing that can be read"):
                await asyncio.wait_for(exchange.each(take), 5)
        await asyncio.wait_for(upstream.left.wait(), 1)

    assert taken == [b"abc"]


async def test_an_upstream_that_falls_silent_while_each_piece_is_given_fails_after_idle_s():
    """Reading piece by piece does the same: a piece that comes sooner begins the wait anew."""
    timeouts = Timeouts(idle_s=0.3)

    async def play(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na")
        for _ in range(3):
            await asyncio.sleep(0.2)
            await asked.send(b"b")
        await asked.reader.read()

    taken: list[bytes] = []
    async with ScriptedUpstream(play).running() as upstream, pooled(upstream, timeouts=timeouts) as pool:
        with pool.exchange("GET") as exchange:
            await exchange.send(GET.wire(), whole=True)
            await exchange.head()
            with pytest.raises(UpstreamStalled, match="idle_s"):
                await asyncio.wait_for(exchange.each(taken.append), 5)

    assert b"".join(taken) == b"abbb"


@pytest.mark.parametrize("trailer", [b"x: " + b"a" * 500_000, b"x: y\r\n" * 50_000])
async def test_trailers_are_bounded(trailer: bytes):
    """Nobody else counts them: a trailer without an end would be held without an end."""

    async def play(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
        await asked.send(trailer)
        await asked.reader.read()

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        with pytest.raises(UpstreamMalformed) as caught:
            await fetch(pool)

    assert caught.value.fault is Fault.TOO_LARGE


async def test_surplus_after_a_closing_answer_does_not_spoil_the_answer():
    """The answer is whole; only the connection is done."""

    async def play(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok!")

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        assert (await fetch(pool)).body == b"ok"


async def test_an_ipv6_upstream_is_reached(tmp_path: Path):
    """Its URL has brackets, and so has the Host for a client that sends none."""
    async with (
        ScriptedUpstream(ok, host="::1").running() as upstream,
        headgate(upstream.url, tmp_path) as gate,
    ):
        answered = await ask(gate.url, b"GET / HTTP/1.0\r\n\r\n")

    assert answered.body == b"{}"
    assert upstream.asked[0].header(b"host") == b"[::1]:%d" % upstream.port


async def test_a_tls_upstream_is_trusted_by_its_authority_alone(tmp_path: Path):
    """With `ca_file` it works, without it is a 502, and with `verify: false` it works for anybody."""
    ca_file, context = certificates(tmp_path)
    statuses: list[int] = []
    async with ScriptedUpstream(ok, tls=context).running() as upstream:
        for tls in ({"ca_file": str(ca_file)}, {}, {"verify": False}):
            async with headgate(upstream.url, tmp_path, upstream={"tls": tls}) as gate:
                request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000
                statuses.append((await ask(gate.url, request)).status)

    assert statuses == [200, 502, 200]
    assert [len(asked.body) for asked in upstream.asked] == [100_000, 100_000]


async def test_a_tls_handshake_that_does_not_end_is_given_up_after_connect_s(tmp_path: Path):
    """A listener that takes the connection and says nothing."""

    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(mute, sock=free_socket())
    port = server.sockets[0].getsockname()[1]
    pool = Upstream(
        Origin("127.0.0.1", port, tls=ssl.create_default_context(), timeouts=Timeouts(connect_s=0.2))
    )
    async with asyncio.timeout(20):
        with pytest.raises(UpstreamUnreachable):
            await fetch(pool)
        await gone.wait()  # else its connection is a later test's warning

    assert pool.in_use == 0
    server.close()


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_call_of_a_model_that_met_a_closed_connection_is_sent_again(how: str):
    """A POST too, whole, if its upstream had not said a byte: any client of a model would do so."""
    async with ScriptedUpstream(closes_the_second(how)).running() as upstream, pooled(upstream) as pool:
        await fetch(pool)
        with pool.exchange("POST", repeats=True) as exchange:
            await exchange.send(Request("POST", b"/", [], b"body").wire(), whole=True)
            await exchange.head()
            assert exchange.status == 200

    assert upstream.connections == 2
    assert [asked.body for asked in upstream.asked[1:]] == [b"body", b"body"]


async def test_half_an_answer_is_no_reason_to_call_a_model_again():
    script = closes_the_second("half an answer")
    async with ScriptedUpstream(script).running() as upstream, pooled(upstream) as pool:
        await fetch(pool)
        with pool.exchange("POST", repeats=True) as exchange:
            await exchange.send(Request("POST", b"/", []).wire(), whole=True)
            with pytest.raises(UpstreamBroke):
                await exchange.head()

    assert upstream.connections == 1


@pytest.mark.parametrize("how", ["cut", "closing", "not read", "unreadable", "switched", "idle"])
async def test_an_answer_is_gone_with_its_connection_without_the_collector(how: str):
    """The parser and the answer that it reads hold each other."""

    async def play(asked: Asked) -> None:
        if how == "switched":
            upgraded = b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nframes"
            await asked.send(upgraded)
        elif how == "unreadable":
            await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n")
        elif how in {"cut", "not read"}:
            await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
            if how == "not read":
                await asked.reader.read()
            asked.writer.close()
        else:
            await asked.answer(b"{}", extra=b"connection: close\r\n" if how == "closing" else b"")

    async with ScriptedUpstream(play).running() as upstream, pooled(upstream) as pool:
        gc.collect()
        gc.disable()
        try:
            with pool.exchange("GET") as exchange, suppress(UpstreamBroke, UpstreamMalformed):
                await exchange.send(GET.wire(), whole=True)
                if how == "switched":
                    exchange.connection.response.offered = b"websocket"
                await exchange.head()
                if how == "switched":
                    exchange.detach(asyncio.Protocol())[0].abort()
                elif how != "not read":
                    while await exchange.read():
                        pass
            del exchange
            await pool.aclose()
            # Its timer is left to the wheel, which calls it soon.
            await until(lambda: not any(isinstance(each, UpstreamResponse) for each in gc.get_objects()), 3)
        finally:
            gc.enable()
