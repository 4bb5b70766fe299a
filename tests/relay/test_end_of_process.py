"""A process that ends does not leave a relayed request without a word."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.observe.logs import of_use
from tests.servers.scripted import Asked, ScriptedUpstream, talking, until
from tests.servers.serving import headgate

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"


@pytest.mark.parametrize("begun", [b"", HEAD + b"some of it"])
async def test_what_is_relayed_when_the_time_to_drain_is_over_ends_honestly(
    begun: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a 500, or cut if its answer has begun; and the upstream is told. A warning says how many were cut:
    that is what `drain_s` is for, and no error."""
    monkeypatch.setattr("proxy.serving.CUT_S", 0.0)

    async def silent(asked: Asked) -> None:
        if begun:
            await asked.send(begun)
        await asked.reader.read()
        raise ConnectionResetError

    async with asyncio.timeout(60), ScriptedUpstream(silent).running() as upstream, AsyncExitStack() as stack:
        async with headgate(upstream.url, tmp_path, drain_s=0.0) as gate:
            client = await stack.enter_async_context(talking(gate.url))
            await client.send(GET)
            await until(lambda: len(upstream.asked) == 1, 30)
            if begun:
                answered = await client.head()
        if not begun:
            answered = await client.answer()
            assert answered.complete
        rest = await client.reader.read()
        await until(upstream.left.is_set, 30)

    assert answered.status == (200 if begun else 500)
    assert b"some of it".startswith(rest)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING and of_use(record)]
    assert [(record.name, getattr(record, "connections", None)) for record in warned] == [
        ("headgate.workers", 1)
    ]
