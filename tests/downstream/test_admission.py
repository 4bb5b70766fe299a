"""Admission: connections in all and of one client, and an admin port that lives whatever clients do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.downstream import admitting
from tests.servers.client import browser, eventually, scrape
from tests.servers.scripted import Answered, Asked, Talker, ok, talking
from tests.servers.serving import ADMIN_TOKEN, Serving, gated
from tests.servers.streaming import Held, answer, answering, served_before

GET = b"GET /x HTTP/1.1\r\nhost: x\r\n%b\r\n"


@asynccontextmanager
async def house(directory: Path, script: Any = ok, **settings: Any) -> AsyncIterator[Serving]:
    async with gated(script, directory, **settings) as (_, serving):
        yield serving


def named(*clients: bytes) -> bytes:
    """A request that a proxy in front has passed on."""
    return GET % b"".join(b"x-forwarded-for: %b\r\n" % client for client in clients)


async def refused(serving: Serving, budget: str) -> float:
    async with browser() as client:
        figures = await scrape(client, serving.admin_url)
    return figures[f'headgate_over_budget_total{{budget="{budget}"}}']


def is_refusal(answered: Answered) -> bool:
    return answered.status == 503 and answered.header(b"retry-after") == b"5"


async def test_a_connection_too_many_is_told_so(tmp_path: Path) -> None:
    """503 with the time to try again, and an end; it is counted, and one that leaves makes room."""
    async with house(tmp_path, limits={"connections": 3}) as serving, AsyncExitStack() as stack:
        inside = [await stack.enter_async_context(talking(serving.url)) for _ in range(3)]
        for client in inside:
            assert (await client.ask(GET % b"")).status == 200
        async with talking(serving.url) as surplus:
            assert is_refusal(await surplus.ask(GET % b""))
            assert await surplus.reader.read() == b""
        assert await refused(serving, "connections") == 1

        inside[0].leave()
        await eventually(lambda: len(serving.app.connections) == 2)
        async with talking(serving.url) as another:
            assert (await another.ask(GET % b"")).status == 200


@pytest.mark.parametrize("most", [0, 1])
async def test_however_many_are_refused_none_is_reset(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their requests came before they were accepted: the answer, and an end."""
    monkeypatch.setattr(admitting, "MAX_LINGERING", most)
    async with house(tmp_path, limits={"connections": 1}) as serving, talking(serving.url):
        await eventually(lambda: len(serving.app.connections) == 1)
        port = int(serving.url.rpartition(":")[2])
        surplus = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for client in surplus:
            client.sendall(GET % b"")
            client.setblocking(False)
        for client in surplus:
            reader, writer = await asyncio.open_connection(sock=client)
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()

    assert not admitting._lingering


async def test_the_admin_port_has_no_such_bound(tmp_path: Path) -> None:
    """Clients that use up all connections do not lock out monitoring."""
    async with house(tmp_path, limits={"connections": 1}) as serving, AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(talking(serving.url))
        watching = [await stack.enter_async_context(talking(serving.admin_url)) for _ in range(5)]
        answers = [await client.ask(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n") for client in watching]

    assert [answered.status for answered in answers] == [200] * 5


async def test_one_address_has_a_quarter_of_the_admin_port(tmp_path: Path) -> None:
    """Whoever fills that locks out nobody else, nor the clients of the public port."""
    async with house(tmp_path) as serving, AsyncExitStack() as stack, browser() as client:
        share = serving.app.descriptors.admin // 4
        for _ in range(share):
            await stack.enter_async_context(talking(serving.admin_url, from_host="127.0.0.2"))
        await eventually(lambda: len(serving.app.admin_connections) == share)
        surplus = await stack.enter_async_context(talking(serving.admin_url, from_host="127.0.0.2"))
        assert is_refusal(await surplus.answer())
        assert (await client.get(f"{serving.admin_url}/livez")).status_code == 200
        assert (await client.get(f"{serving.url}/x")).status_code == 200


async def test_one_address_has_its_share(tmp_path: Path) -> None:
    """Of connections that send nothing, too: the next one is refused at once."""
    limits = {"connections": 100, "connections_of_client": 2}
    async with house(tmp_path, limits=limits) as serving, AsyncExitStack() as stack:
        inside = [await stack.enter_async_context(talking(serving.url)) for _ in range(2)]
        assert (await inside[0].ask(GET % b"")).status == 200
        async with talking(serving.url) as surplus:
            assert is_refusal(await surplus.answer())
        assert await refused(serving, "client") == 1


@asynccontextmanager
async def asking(serving: Serving, requests: list[bytes]) -> AsyncIterator[list[Talker]]:
    """Each on a connection of its own, one after the other, and not answered yet."""
    async with AsyncExitStack() as stack:
        clients = []
        for request in requests:
            client = await stack.enter_async_context(talking(serving.url))
            clients.append(client)
            await client.send(request)
        yield clients


async def test_behind_a_proxy_the_address_counts_that_it_names(tmp_path: Path) -> None:
    """The one that it has added itself, the last: what stands before is what the client says of itself."""
    held = Held(answering(answer()))
    limits = {"connections": 100, "connections_of_client": 2}
    wanted = [named(b"9.9.9.9, 1.1.1.1"), named(b"8.8.8.8", b"7.7.7.7, 1.1.1.1"), named(b"2.2.2.2")]
    async with house(tmp_path, held, limits=limits) as serving, asking(serving, wanted) as inside:
        await eventually(lambda: len(serving.app.connections) == 3 and not _of(serving, "127.0.0.1"))
        async with talking(serving.url) as surplus:
            assert is_refusal(await surplus.ask(named(b"1.1.1.1")))
            held.release.set()
            statuses = [(await client.answer()).status for client in inside]
            # Nobody is answered any more, so nobody has a share of the proxy's connections.
            assert (await surplus.ask(named(b"1.1.1.1"))).status == 200
        assert statuses == [200, 200, 200]
        assert await refused(serving, "client") == 1


def _of(serving: Serving, client: str) -> int:
    return serving.app.connections._of_client.get(client, 0)


async def test_who_is_reached_directly_believes_no_name(tmp_path: Path) -> None:
    """With `x_forwarded: replace` a client cannot be many."""
    limits = {"connections": 100, "connections_of_client": 2}
    upstream = {"forwarding": {"x_forwarded": "replace"}}
    async with (
        house(tmp_path, limits=limits, upstream=upstream) as serving,
        asking(serving, [named(b"1.1.1.1"), named(b"2.2.2.2")]) as inside,
    ):
        assert [(await client.answer()).status for client in inside] == [200, 200]
        async with talking(serving.url) as surplus:
            assert is_refusal(await surplus.answer())


async def test_nothing_is_counted_for_ever(tmp_path: Path) -> None:
    """However connections end: answered, cut in a head, cut while they are answered."""
    held = Held(answering(answer()))
    async with house(tmp_path, held) as serving:
        for request in (b"", b"GET /x HT", GET % b"", named(b"1.1.1.1"), named(b"1.1.1.1") * 3):
            async with talking(serving.url) as client:
                await client.send(request)
                await eventually(lambda: len(serving.app.connections) == 1)
        held.release.set()
        async with talking(serving.url) as client:
            for _ in range(3):
                assert (await client.ask(named(b"1.1.1.1"))).status == 200
        await eventually(lambda: len(serving.app.connections) == 0)

        assert serving.app.connections._of_client == {}


async def test_an_upgraded_connection_counts_until_its_end(tmp_path: Path) -> None:
    """It is a client's as any other, whatever protocol it speaks."""

    async def switching(asked: Asked) -> None:
        if asked.header(b"upgrade") is None:
            await ok(asked)
            return
        head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        await asked.send(head)
        await asked.reader.read()

    upgrade = GET % b"connection: upgrade\r\nupgrade: websocket\r\n"
    async with house(tmp_path, switching, limits={"connections": 1}) as serving:
        async with talking(serving.url) as socket_like:
            await socket_like.send(upgrade)
            assert b" 101 " in await socket_like.reader.readuntil(b"\r\n\r\n")
            async with talking(serving.url) as surplus:
                assert is_refusal(await surplus.ask(GET % b""))
        await eventually(lambda: len(serving.app.connections) == 0)
        async with talking(serving.url) as another:
            assert (await another.ask(GET % b"")).status == 200


async def test_the_admin_port_lives_when_the_public_one_starves(tmp_path: Path) -> None:
    """With few file descriptors, and clients that hold what they get, ops see and stop it all the same."""
    async with (
        served_before(ok, tmp_path, descriptors=200) as (_, serving, _),
        AsyncExitStack() as stack,
        httpx.AsyncClient(trust_env=False, timeout=20) as ops,
    ):
        host, _, port = serving.url.removeprefix("http://").partition(":")
        for _ in range(250):
            stack.callback((await asyncio.to_thread(socket.create_connection, (host, int(port)))).close)
        for _ in range(10):
            async with httpx.AsyncClient(trust_env=False, timeout=20) as fresh:
                assert (await fresh.get(f"{serving.admin_url}/livez")).status_code == 200
        token = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        killed = await ops.post(f"{serving.admin_url}/kill", headers=token)
        figures = await scrape(ops, serving.admin_url)

    assert killed.json() == {"killed": True}
    assert figures['headgate_over_budget_total{budget="connections"}'] > 100
    assert "few file descriptors" in serving.log.read_text()
