"""fetch-event-source itself, whose connection is cut behind `stream_done`, before the end of the answer."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.servers.client import signed
from tests.servers.ports import free_socket
from tests.servers.serving import gated
from tests.servers.streaming import START, answer, answering, route

CLIENTS = Path(__file__).parents[1] / "clients"
NODE = Path(sys.executable).with_name("node")
DEADLINE_S = 120


@asynccontextmanager
async def cutting(url: str, behind: bytes) -> AsyncIterator[str]:
    """Passes connections on; the first ends behind the event with these bytes, the others by themselves."""
    host, _, port = url.removeprefix("http://").partition(":")
    is_cut = False

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.readuntil(behind)
        writer.write(said + await reader.readuntil(b"\n\n"))
        await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal is_cut
        to, is_cut = copy if is_cut else cut, True
        there, back = await asyncio.open_connection(host, int(port))
        asking = asyncio.create_task(copy(reader, back))
        try:
            await to(there, writer)
        finally:
            asking.cancel()
            back.close()
            writer.close()

    server = await asyncio.start_server(connected, sock=free_socket())
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def page(url: str) -> dict[str, object]:
    client = await asyncio.create_subprocess_exec(
        str(NODE), "again.mjs", url, json.dumps(signed()), cwd=CLIENTS, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            said, _ = await client.communicate()
    finally:
        if client.returncode is None:
            client.kill()
    got: dict[str, object] = json.loads(said)
    return got


@pytest.mark.skipif(
    not (CLIENTS / "node_modules" / "@microsoft" / "fetch-event-source").is_dir(),
    reason="npm ci --prefix tests/clients",
)
async def test_a_page_that_has_everything_asks_once_more_and_is_content(tmp_path: Path) -> None:
    """It comes back with its cursor, is told that nothing is left, and goes; the upstream is asked once."""
    async with (
        gated(answering(answer()), tmp_path, routes=[route()]) as (upstream, serving),
        cutting(serving.url, b'"type":"stream_done"') as url,
    ):
        got = await page(url + START)

    assert got["requests"] == 2
    assert isinstance(got["types"], list)
    assert got["types"].count("stream_done") == 1
    assert got["types"][-1] == "stream_done"
    assert len(upstream.asked) == 1
