"""Requests that wait for a new connection to the upstream, as each stream does, and clients that leave."""

import asyncio
from pathlib import Path

import pytest

from tests.servers.ports import free_port, silent_port
from tests.servers.scripted import ask, ok, talking, until
from tests.servers.serving import gated, headgate

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
UPLOAD = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\na"


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.parametrize("request_bytes", [GET, POST, UPLOAD], ids=["get", "post", "in an upload"])
async def test_a_client_that_leaves_while_a_connection_is_made_leaves_nothing(
    request_bytes: bytes, tmp_path: Path
):
    """The connection is given up at once, and counts no more."""
    with silent_port() as port:
        async with headgate(f"http://127.0.0.1:{port}", tmp_path) as gate:
            pool = gate.app.gateway.relay._upstream
            tasks = len(asyncio.all_tasks())
            async with talking(gate.url) as client:
                await client.send(request_bytes)
                await until(lambda: pool.in_use == 1)
                client.leave()
                await until(lambda: pool.in_use == 0, within_s=2)

            assert len(asyncio.all_tasks()) <= tasks


async def test_an_upstream_that_accepts_nothing_is_502_after_connect_s(tmp_path: Path):
    """What the client is told does not depend on who made the connection."""
    told = []
    with silent_port() as silent:
        for port in (silent, free_port()):
            async with headgate(
                f"http://127.0.0.1:{port}", tmp_path, upstream={"timeouts": {"connect_s": 0.2}}
            ) as gate:
                answers = [await ask(gate.url, request) for request in (GET, POST)]
                told += [(answer.status, answer.body) for answer in answers]
                assert gate.app.gateway.relay._upstream.in_use == 0

    assert [status for status, _ in told] == [502] * 4
    assert len({body for _, body in told}) == 1


async def test_the_rest_of_a_body_that_comes_while_a_connection_is_made_follows_it(tmp_path: Path):
    """In order, and once."""
    async with gated(ok, tmp_path) as (upstream, gate):
        for _ in range(20):
            async with talking(gate.url) as client:
                for piece in (UPLOAD, b"bcd", b"efghi"):
                    await client.send(piece)
                assert (await client.answer()).status == 200
            await gate.app.gateway.relay._upstream.aclose()

    assert {asked.body for asked in upstream.asked} == {b"abcdefghi"}


async def test_a_kept_connection_is_used_after_all_if_none_can_be_made(tmp_path: Path):
    """Its worker is busy, and it is better than a 502."""

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for body in (b"1", b"2"):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + body)
        writer.close()

    port = free_port()
    async with headgate(f"http://127.0.0.1:{port}", tmp_path) as gate:
        listening = await asyncio.start_server(twice, "127.0.0.1", port)
        assert (await ask(gate.url, GET)).body == b"1"
        listening.close()
        pool = gate.app.gateway.relay._upstream
        pool.avoids_busy = True
        pool.begin_long(known=True)

        assert (await ask(gate.url, GET)).body == b"2"
        assert (await ask(gate.url, GET)).status == 502
        pool.end_long()
        await until(lambda: pool.in_use == 0)
