"""A mistake of ours in whatever the loop calls ends that request alone, and says so."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.downstream import client_request, cross_origin
from proxy.upstream import pool
from tests.relay.conftest import Pair
from tests.servers.scripted import ok, silent
from tests.servers.serving import gated

EXPECTS = b"POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
SLOW = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n"
FROM_A_PAGE = b"GET /x HTTP/1.1\r\nhost: a\r\norigin: https://page.example\r\n\r\n"
AT_ONCE = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"


SCRIPT = silent


@pytest.mark.parametrize(
    ("request_", "where", "what"),
    [
        (AT_ONCE, pool, "monotonic"),
        (SLOW, pool, "monotonic"),
        (EXPECTS, client_request, "CONTINUE"),  # what is no bytes cannot be written
    ],
    ids=["as the head comes", "as the body is late", "as a 100 is late"],
)
async def test_a_mistake_in_a_callback_ends_its_request(
    shared: Pair,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request_: bytes,
    where: Any,
    what: str,
) -> None:
    """Callbacks of connections and of timers alike: the client has a 500, and the upstream is let go."""
    _, gate = shared

    def mistaken(*_: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(where, what, mistaken)
    port = int(gate.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert gate.app.gateway.relay._upstream.in_use == 0


async def test_a_mistake_in_every_answer_cuts_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It gets no 500 either: it does not wait, the upstream is let go, and the request is counted."""
    async with gated(ok, tmp_path, cors={"origins": ["https://page.example"]}) as (_, gate):

        def mistaken(*_: Any) -> None:
            raise RuntimeError("a mistake")

        monkeypatch.setattr(cross_origin, "_is_shared", mistaken)
        counted = gate.app.gateway.metrics.unmatched
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2]))
        writer.write(FROM_A_PAGE)
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()

        assert (answer, len(counted._seconds), gate.app.gateway.relay._upstream.in_use) == (b"", 1, 0)
        assert [record.exc_info is not None for record in caplog.records] == [True, True]
