"""A stream on the wire: its headers, its events, and its end."""

import asyncio
import hashlib
import re
from pathlib import Path

from tests.servers.client import opened, read, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import EXTRACTION, START, WHOLE, answer, answering, house


async def test_the_stream_has_exactly_our_headers_and_framing(tmp_path: Path) -> None:
    """Heartbeat first; then blocks of id, one data line and a blank line; LF only; `retry:` once, in the
    first block; nothing of the upstream's headers; nothing after the terminal event."""
    extra = b"content-encoding: identity\r\nset-cookie: a=1\r\nalt-svc: h3\r\nx-own: 1\r\n"
    async with house(answering(answer(), extra=extra), tmp_path) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.headers.multi_items()[:6] == [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-store, no-transform"),
        ("x-accel-buffering", "no"),
        ("incremental", "?1"),
        ("headgate-run", stream.run),
        ("headgate-decision", "stream;reason=flag_on;source=batch"),
    ]
    assert set(stream.headers) - {"transfer-encoding", "date"} == {
        n for n, _ in stream.headers.multi_items()[:6]
    }
    block = rb"id: [0-9a-f-]{36}:\d+\n%bdata: \{[^\r\n]+\}\n\n"
    assert re.fullmatch(
        rb": hb\n" + block % rb"retry: \d+\n" + rb"(?:" + block % rb"" + rb"|: hb\n)*", stream.raw
    )
    assert stream.raw.endswith(b"\n\n")
    assert 1000 <= stream.retries[0] <= 3000
    assert len(stream.retries) == 1
    assert [event["id"] for event in stream.events] == [
        f"{stream.run}:{seq}" for seq in range(1, len(stream.events) + 1)
    ]


async def test_stages_come_in_their_order_with_their_panels(tmp_path: Path) -> None:
    """Each section is begun, written in chunks that count from 0, and completed with its digest."""
    async with house(answering(answer()), tmp_path) as (_, _, client):
        stream = await read(client, START, signed())

    for index, (stage, panel) in enumerate([("extraction", "reasoning"), ("summary", "chat")]):
        mine = [event for event in stream.events if event["stage"] == stage]
        assert {event["panel"] for event in mine} == {panel}
        assert mine[0]["metadata"] == {"index": index, "total_expected": 2}
        assert [e["metadata"]["chunk_index"] for e in mine[1:-1]] == list(range(len(mine) - 2))
        text = WHOLE[stage]
        assert mine[-1]["metadata"] == {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "chars": len(text),
        }


async def test_the_end_carries_the_exact_batch_body(tmp_path: Path) -> None:
    """`result` is the upstream's body byte for byte, and `sha256` is its digest."""
    body = b'  {"result" : {"extraction":"a\\u00e9\\u2028 b", "summary":""}, "n": 1.00 }\n'
    async with house(answering(body), tmp_path) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.last["metadata"] == {
        "status": 200,
        "source": "batch",
        "recovered": False,
        "result": body.decode(),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    assert stream.texts() == {"extraction": "aé\u2028 b", "summary": ""}


async def test_the_end_can_go_without_the_body(tmp_path: Path) -> None:
    """`result: false` leaves the body out; its digest stays."""
    async with house(answering(answer()), tmp_path, result=False) as (_, _, client):
        stream = await read(client, START, signed())

    assert "result" not in stream.last["metadata"]
    assert stream.last["metadata"]["sha256"] == hashlib.sha256(answer()).hexdigest()


async def test_the_first_section_is_shown_before_the_last_byte_is_sent(tmp_path: Path) -> None:
    """Source `batch`: the texts of a body that drips are shown as they become whole."""
    body, rest = answer(), asyncio.Event()
    cut = body.index(b'"summary"')

    async def script(asked: Asked) -> None:
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % len(body))
        for byte in range(cut):
            await asked.send(body[byte : byte + 1])
        await rest.wait()
        await asked.send(body[cut:])

    async with (
        house(script, tmp_path) as (_, _, client),
        opened(client, START, signed()) as stream,
    ):
        await stream.until(lambda event: event["type"] == "stage_complete")
        assert stream.texts() == {"extraction": EXTRACTION}
        rest.set()
        await stream.rest()

    assert stream.texts() == WHOLE
