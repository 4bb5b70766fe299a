"""`browser/client.js` and a real Headgate: streamed, batch, cut at any byte, refused."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.npm import HERE, NODE
from tests.servers.client import PATIENCE_S
from tests.servers.ports import free_socket
from tests.servers.scripted import ScriptedUpstream
from tests.servers.serving import Serving, flag_document, gated, token
from tests.servers.streaming import START, WHOLE, answer, answering, route


@asynccontextmanager
async def cutting(url: str, *after: int) -> AsyncIterator[str]:
    """A way to a server whose first connections are cut after so many bytes of answers, each of its own."""
    host, _, port = url.removeprefix("http://").partition(":")
    bounds = list(after)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: float) -> None:
        while most > 0 and (data := await reader.read(65536)):
            writer.write(data[: int(min(most, len(data)))])
            most -= len(data)
            await writer.drain()

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        most = bounds.pop(0) if bounds else float("inf")
        server, to_server = await asyncio.open_connection(host, int(port))
        up = asyncio.create_task(pass_on(client, to_server, float("inf")))
        try:
            await pass_on(server, to_client, most)
        finally:
            up.cancel()
            to_client.transport.abort()
            to_server.transport.abort()

    listening = await asyncio.start_server(serve, sock=free_socket())
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def journey(url: str, path: str = START, bearer: str | None = None) -> dict[str, Any]:
    """Return what the client makes of one request."""
    process = await asyncio.create_subprocess_exec(
        *(str(NODE), "journey.mjs", url, path, token() if bearer is None else bearer),
        cwd=HERE,
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
    )
    async with asyncio.timeout(PATIENCE_S * 3):
        printed, _ = await process.communicate()
    went: dict[str, Any] = json.loads(printed)
    return went


def shown(went: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["text"] for stage in went["state"]["stages"]}


@asynccontextmanager
async def house(directory: Path, **more: Any) -> AsyncIterator[tuple[ScriptedUpstream, Serving]]:
    async with gated(
        answering(answer()), directory, routes=[route(result=True)], attach_wait_s=0.1, **more
    ) as (upstream, serving):
        yield upstream, serving


async def test_a_stream_arrives_whole(tmp_path: Path) -> None:
    """Every text, and the batch answer byte for byte."""
    async with house(tmp_path) as (_, serving):
        went = await journey(serving.url)

    assert shown(went) == WHOLE
    assert went["state"]["phase"] == "done"
    assert went["decision"].startswith("stream;")


async def test_a_batch_answer_is_the_same_to_the_page(tmp_path: Path) -> None:
    """One event, and the result."""
    async with house(tmp_path, flags=flag_document(0)) as (_, serving):
        went = await journey(serving.url)

    assert went["types"] == ["batch"]
    assert went["result"]["text"].encode() == answer()


@pytest.mark.parametrize("bytes_", [2, 100, 700, 1100, 1500, 2000])
async def test_a_cut_connection_costs_nothing(tmp_path: Path, bytes_: int) -> None:
    """Wherever it is cut, twice: each event once, each text whole, and one call to the API."""
    async with house(tmp_path) as (upstream, serving), cutting(serving.url, bytes_, bytes_ // 2) as url:
        went = await journey(url)
        calls = len(upstream.asked)

    assert shown(went) == WHOLE
    assert went["error"] is None
    assert calls == 1
    chunks = [kind for kind in went["types"] if kind in ("stream_done", "error")]
    assert chunks == ["stream_done"]


async def test_a_refusal_is_the_apis_own(tmp_path: Path) -> None:
    """Its status comes to the page."""
    refusing = answering(b'{"detail":"no"}', b"403 Forbidden")
    async with gated(refusing, tmp_path, routes=[route()]) as (_, serving):
        went = await journey(serving.url)

    assert went["error"] == {"code": "http", "status": 403}
