"""Upgrades in bytes: what makes a tunnel, what goes through it, and what is tried to smuggle past it."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import cast

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.app import running
from proxy.downstream.server import ServerPort
from proxy.settings.settings import Settings
from tests.relay.cuts import Wire
from tests.servers.client import scrape
from tests.servers.scripted import Answered, Asked, ScriptedUpstream, Talker, ask, raw, talking, until
from tests.servers.serving import Serving, flag_document, gated, headgate
from tests.servers.streaming import logged

HELLO = (
    b"GET /live?x=1 HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: chat\r\n"
    b"sec-websocket-key: k\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\nx-own: 1\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"


async def echo(asked: Asked) -> None:
    """Switches to a protocol that says again what it hears, and `bye` at the end."""
    await asked.send(SWITCHED)
    while data := await asked.reader.read(65_536):
        await asked.send(data)
    await asked.send(b"bye")
    asked.writer.close()


SCRIPT = echo


@asynccontextmanager
async def upgraded(gate: Serving, hello: bytes = HELLO) -> AsyncIterator[tuple[Talker, bytes]]:
    async with talking(gate.url, within_s=10) as client:
        await client.send(hello)
        yield client, await client.reader.readuntil(b"\r\n\r\n")


async def test_after_a_101_bytes_go_both_ways(upstream: ScriptedUpstream, gate: Serving):
    """Not a byte is looked at: neither what looks like HTTP, nor what is none."""
    async with upgraded(gate) as (client, head):
        for data in (b"\x00\xff\r\n", NEXT, b"HTTP/1.1 500 Oh\r\n\r\n"):
            await client.send(data)
            assert await client.reader.readexactly(len(data)) == data

    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert {b"x-own: 1", b"upgrade: chat", b"connection: Upgrade"} <= set(head.split(b"\r\n"))
    assert [asked.target for asked in upstream.asked] == [b"/live?x=1"]
    assert upstream.asked[0].header(b"upgrade") == b"chat"
    assert upstream.asked[0].header(b"connection") == b"Upgrade"
    assert upstream.asked[0].header(b"sec-websocket-key") == b"k"


async def test_a_side_that_is_at_its_end_can_still_hear(upstream: ScriptedUpstream, gate: Serving):
    """A half-close is passed on, and the other direction goes on to its own end."""
    async with upgraded(gate) as (client, _):
        client.writer.write_eof()
        assert await client.reader.read() == b"bye"


async def test_a_client_may_be_at_its_end_before_it_is_answered(upstream: ScriptedUpstream, gate: Serving):
    """A client that has ended its side still gets what the upstream sends."""
    may_answer = asyncio.Event()

    async def play(asked: Asked) -> None:
        await may_answer.wait()
        await echo(asked)

    upstream.script = play
    async with talking(gate.url, within_s=10) as client:
        await client.send(HELLO)
        await until(lambda: bool(upstream.asked))
        client.writer.write_eof()
        await client.reader.readuntil(b"100 Continue\r\n\r\n")
        may_answer.set()
        assert (await client.reader.read()).endswith(b"\r\n\r\nbye")


async def test_what_both_say_at_once_with_the_switch_is_not_lost(upstream: ScriptedUpstream, gate: Serving):
    """The upstream's first words may come with its 101, and the client's before it."""
    said = asyncio.Event()

    async def play(asked: Asked) -> None:
        await said.wait()
        await asked.send(SWITCHED + b"first ")
        await asked.send(await asked.reader.readexactly(5))
        asked.writer.close()

    upstream.script = play
    async with talking(gate.url, within_s=10) as client:
        await client.send(HELLO + b"ear")
        await until(lambda: bool(upstream.asked))
        await client.send(b"ly")
        said.set()
        assert (await client.reader.read()).endswith(b"\r\n\r\nfirst early")


async def test_a_reader_that_is_slow_slows_the_other_side(upstream: ScriptedUpstream, gate: Serving):
    """Nothing is gathered here: the upstream can write as much as sockets hold, and no more."""
    written = 0

    async def flood(asked: Asked) -> None:
        nonlocal written
        await asked.send(SWITCHED)
        while written < 200_000_000:
            await asked.send(b"x" * 100_000)
            written += 100_000

    upstream.script = flood
    async with upgraded(gate) as (client, _):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            await until(lambda: written > 50_000_000, within_s=1)


async def test_a_cut_side_cuts_the_other(upstream: ScriptedUpstream, gate: Serving):
    """A reset is passed on as one: a protocol without an end of its own would take a plain close for it."""

    async def cut(asked: Asked) -> None:
        await asked.send(SWITCHED + b"half")
        connection = asked.writer.get_extra_info("socket")
        connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        await asked.reader.read(1)
        asked.writer.transport.abort()

    upstream.script = cut
    async with upgraded(gate) as (client, _):
        await client.reader.readexactly(4)
        await client.send(b"x")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_a_client_that_leaves_an_upgrade_ends_the_upstreams_side(
    upstream: ScriptedUpstream, gate: Serving
):
    """Also before the answer."""
    async with upgraded(gate) as (client, _):
        await until(lambda: upstream.open == 1)
        client.leave()
        await until(lambda: upstream.open == 0)

    async def silent(asked: Asked) -> None:
        await asked.reader.readexactly(1)

    upstream.script = silent
    async with talking(gate.url) as client:
        await client.send(HELLO)
        await until(lambda: upstream.open == 1)
    await until(lambda: upstream.open == 0)


REFUSALS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 426 Upgrade Required\r\nupgrade: chat\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_upgrade_is_an_ordinary_answer(
    upstream: ScriptedUpstream, gate: Serving, refusal: bytes
):
    """And its connection goes on, in HTTP."""
    upstream.script = raw(refusal)
    async with talking(gate.url, within_s=10) as client:
        refused = await client.ask(HELLO)
        following = await client.ask(NEXT)

    assert refused.status == following.status == int(refusal[9:12])
    assert refused.body == b"no"
    assert [asked.target for asked in upstream.asked] == [b"/live?x=1", b"/next"]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("when", ["with it", "after it"])
async def test_nothing_follows_a_pretended_upgrade_unseen(
    upstream: ScriptedUpstream, gate: Serving, refusal: bytes, when: str
):
    """Bytes from before the answer are dropped, and the connection ends with the answer."""
    may_answer = asyncio.Event()

    async def play(asked: Asked) -> None:
        await may_answer.wait()
        await asked.send(refusal)

    upstream.script = play
    async with talking(gate.url, within_s=10) as client:
        await client.send(HELLO + NEXT if when == "with it" else HELLO)
        await until(lambda: bool(upstream.asked))
        if when == "after it":
            await client.send(NEXT)
            await asyncio.wait_for(heard(gate, upstream), 5)
        may_answer.set()
        refused = await client.answer()
        rest = await client.reader.read()

    assert refused.body == b"no"
    assert rest == b""
    assert [asked.target for asked in upstream.asked if asked.target != b"/other"] == [b"/live?x=1"]


async def heard(gate: Serving, upstream: ScriptedUpstream) -> None:
    """Wait until what another client sent before this is here: one loop reads both."""
    async with talking(gate.url) as other:
        await other.send(b"GET /other HTTP/1.1\r\nhost: a\r\n\r\n")
        await until(lambda: any(asked.target == b"/other" for asked in upstream.asked))


NOT_SWITCHED = {
    "another protocol": b"HTTP/1.1 101 Oh\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n",
    "one more protocol": b"HTTP/1.1 101 Oh\r\nconnection: upgrade\r\nupgrade: chat, other\r\n\r\n",
    "no protocol": b"HTTP/1.1 101 Oh\r\nconnection: upgrade\r\n\r\n",
    "no connection header": b"HTTP/1.1 101 Oh\r\nupgrade: chat\r\n\r\n",
    "a length": SWITCHED.replace(b"x-own: 1", b"content-length: 5"),
    "chunks": SWITCHED.replace(b"x-own: 1", b"transfer-encoding: chunked"),
}


@pytest.mark.parametrize("name", NOT_SWITCHED)
async def test_a_101_to_anything_else_is_none(upstream: ScriptedUpstream, gate: Serving, name: str):
    """502, and no tunnel: what both sides would speak is not what was asked for."""
    upstream.script = raw(NOT_SWITCHED[name] + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    assert (await ask(gate.url, HELLO)).status == 502


@pytest.mark.parametrize(
    "hello",
    [
        NEXT,
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: chat\r\n\r\n",
        b"GET / HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: H2C\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: TLS/1.0, HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: chat\r\ncontent-length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: chat\r\n"
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_a_101_that_nobody_asked_for_is_none(upstream: ScriptedUpstream, gate: Serving, hello: bytes):
    """Nothing was offered: HTTP in another form, of HTTP/1.0, with a body, or without `Connection`."""
    upstream.script = raw(SWITCHED)
    answered: Answered = await ask(gate.url, hello)

    assert answered.status == 502
    assert upstream.asked[0].header(b"upgrade") is None
    assert upstream.asked[0].body in {b"", b"{}"}


async def test_of_several_protocols_those_that_can_be_passed_on_are(
    upstream: ScriptedUpstream, gate: Serving
):
    """`h2c` is left out, and the upstream chooses of the others."""
    several = HELLO.replace(b"upgrade: chat", b"upgrade: h2c, chat, other/2")
    async with upgraded(gate, several) as (client, head):
        await client.send(b"x")
        assert await client.reader.readexactly(1) == b"x"

    assert b"101 Switching" in head
    assert upstream.asked[0].header(b"upgrade") == b"chat, other/2"


async def test_an_upgrade_behind_an_unanswered_request_is_none(upstream: ScriptedUpstream, gate: Serving):
    """Pipelined, it is a request like any other."""

    async def play(asked: Asked) -> None:
        await asked.answer(b"{}")

    upstream.script = play
    async with talking(gate.url, within_s=10) as client:
        await client.send(NEXT + HELLO)
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]

    assert upstream.asked[1].header(b"upgrade") is None


async def test_an_upgrade_is_offered_once_though_the_answer_before_it_is_still_taken(
    upstream: ScriptedUpstream, tmp_path: Path
):
    """While a connection is made for the offer, its client takes bytes again."""

    async def play(asked: Asked) -> None:
        await asked.answer(b"{}")

    upstream.script = play
    (tmp_path / "flags.json").write_text(json.dumps(flag_document(30)))
    settings = {
        "upstream": {"url": upstream.url},
        "flags": {"file": str(tmp_path / "flags.json")},
        "routes": [],
    }
    async with running(Settings.model_validate(settings), tmp_path) as app:
        config = uvicorn.Config(
            app.gateway, interface="asgi3", log_config=None, ws="none", proxy_headers=False
        )  # type: ignore[arg-type]
        config.load()
        protocol = ServerPort(config, ServerState(), {}).connect()
        got = bytearray()
        protocol.connection_made(cast(asyncio.Transport, Wire(got.extend)))
        protocol.data_received(HELLO)
        protocol.pause_writing()
        protocol.resume_writing()
        await until(lambda: got.endswith(b"{}"), 30)

        assert [asked.target for asked in upstream.asked] == [b"/live?x=1"]
        assert app.gateway.relay._upstream.in_use == 0
        protocol.connection_lost(None)


async def test_of_an_upgraded_connection_nothing_is_used_again(upstream: ScriptedUpstream, gate: Serving):
    """Both of its connections end with it."""
    async with upgraded(gate) as (client, _):
        client.writer.write_eof()
        await client.reader.read()
    await until(upstream.asked[0].writer.is_closing)
    upstream.script = raw(REFUSALS[0])
    await ask(gate.url, NEXT)

    assert upstream.asked[1].writer is not upstream.asked[0].writer


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_an_upstream_that_switches_and_leaves_is_no_mistake_of_ours(
    upstream: ScriptedUpstream, gate: Serving, how: str
):
    """The client has the 101 and the end, or 502 where that was gone first; and nothing is left open."""

    async def play(asked: Asked) -> None:
        await asked.send(SWITCHED)
        getattr(asked.writer.transport, how)()

    upstream.script = play
    with logged() as lines:
        for _ in range(20):
            async with talking(gate.url, within_s=20) as client:
                await client.send(HELLO)
                try:
                    answered = await client.reader.read()
                except ConnectionResetError:
                    continue
                assert answered[:12] in {b"HTTP/1.1 101", b"HTTP/1.1 502"}

    assert not [line for line in lines.lines if line["level"] == "error"]
    assert (await metrics(gate))["headgate_upgrades_open"] == 0


ROUTES = [
    {"name": "live", "match": "GET /live", "sections": [{"stage": "a", "at": "$.a"}]},
]


async def metrics(gate: Serving) -> dict[str, float]:
    async with httpx.AsyncClient() as client:
        samples = await scrape(client, gate.admin_url)
    return {name: value for name, value in samples.items() if "upgrade" in name and "_created" not in name}


async def test_an_upgrade_is_counted_and_belongs_to_no_route(tmp_path: Path):
    """It counts when it is switched; a refused one is a request like any other. Open ones are a gauge."""
    counted = 'headgate_requests_total{mode="upgrade",reason="no_route",route="unmatched"}'
    async with gated(echo, tmp_path, routes=ROUTES) as (upstream, gate):
        async with upgraded(gate), upgraded(gate):
            during = await metrics(gate)
        await until(lambda: upstream.open == 0)
        upstream.script = raw(REFUSALS[0])
        await ask(gate.url, HELLO)
        after = await metrics(gate)

    assert during == {counted: 2, "headgate_upgrades_open": 2}
    assert after == {counted: 2, "headgate_upgrades_open": 0}


@pytest.mark.parametrize("bound", [{"idle_s": 0.2}, {"total_s": 0.2}])
async def test_an_upgraded_connection_has_bounds_of_its_own(tmp_path: Path, bound: dict[str, float]):
    """Idle, or old, it is cut on both sides; the bounds of requests are not its own."""
    upstream_settings = {"upgrades": bound, "timeouts": {"total_s": 0.1, "idle_s": 0.1}}
    async with (
        gated(echo, tmp_path, upstream=upstream_settings) as (upstream, gate),
        upgraded(gate) as (client, _),
    ):
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
        await until(lambda: upstream.open == 0)


async def test_bytes_keep_an_upgraded_connection_from_being_idle(tmp_path: Path):
    """Bytes from either side do."""
    async with (
        gated(echo, tmp_path, upstream={"upgrades": {"idle_s": 3.0}}) as (upstream, gate),
        upgraded(gate) as (client, _),
    ):
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 3.5:
            await client.send(b"x")
            assert await client.reader.readexactly(1) == b"x"
            with pytest.raises(TimeoutError):
                await until(lambda: upstream.open == 0, within_s=0.1)


async def test_no_more_than_max_open_are(tmp_path: Path):
    """One more is told 503, and nothing of it reaches the upstream."""
    async with (
        gated(echo, tmp_path, upstream={"upgrades": {"max_open": 1}}) as (upstream, gate),
        upgraded(gate),
    ):
        assert (await ask(gate.url, HELLO)).status == 503
        assert len(upstream.asked) == 1


async def test_an_open_upgrade_takes_no_connection_from_requests(tmp_path: Path):
    """It counts towards its own bound, and not towards `pool.max_connections`."""

    async def play(asked: Asked) -> None:
        await (echo(asked) if asked.header(b"upgrade") else asked.answer(b"{}"))

    async with (
        gated(play, tmp_path, upstream={"pool": {"max_connections": 1}}) as (_, gate),
        upgraded(gate),
        upgraded(gate),
    ):
        assert (await ask(gate.url, NEXT)).status == 200


async def test_upgrades_are_drained_and_cut_at_the_end_of_drain_s(tmp_path: Path):
    """They go on while the process drains; what is left then is cut, and the process ends."""
    async with ScriptedUpstream(echo).running() as upstream, asyncio.timeout(10):
        serving = headgate(upstream.url, tmp_path, drain_s=0.6)
        gate = await serving.__aenter__()
        async with upgraded(gate) as (client, _):
            ending = asyncio.ensure_future(serving.__aexit__(None, None, None))
            await asyncio.wait({ending}, timeout=0.2)
            await client.send(b"still here")
            assert await client.reader.readexactly(10) == b"still here"
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
            await ending
        await until(lambda: upstream.open == 0)
