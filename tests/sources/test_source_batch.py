"""The source `batch`: one call, its texts shown while its body still arrives."""

import asyncio
import gzip
import json
from pathlib import Path

from tests.servers.client import opened, read, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import EXTRACTION, START, SUMMARY, answer, house


async def test_each_section_is_shown_as_soon_as_it_is_whole(tmp_path: Path) -> None:
    """The body stands still within each text and behind it: only whole texts are shown, and at once."""
    body = answer()
    turns = [asyncio.Event() for _ in range(3)]
    first, second = body.index(b'"summary"'), body.index(SUMMARY.encode()) + 5

    async def script(asked: Asked) -> None:
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\n"
        await asked.send(head + b"transfer-encoding: chunked\r\n\r\n")
        cuts = [0, first, second, len(body)]
        for start, end, turn in zip(cuts, cuts[1:], turns, strict=False):
            await turn.wait()
            await asked.send(b"%x\r\n%b\r\n" % (end - start, body[start:end]))
        await asked.send(b"0\r\n\r\n")

    async with (
        house(script, tmp_path, commit_after=0, heartbeat_s=0.02) as (_, _, client),
        opened(client, START, signed()) as stream,
    ):
        await stream.piece()
        assert stream.events == []
        turns[0].set()
        await stream.until(lambda event: event["type"] == "stage_complete")
        assert stream.texts() == {"extraction": EXTRACTION}
        turns[1].set()
        heartbeats = stream.raw.count(b": hb\n")
        while stream.raw.count(b": hb\n") < heartbeats + 3:
            await stream.piece()
        assert stream.texts() == {"extraction": EXTRACTION}
        turns[2].set()
        await stream.rest()

    assert stream.texts() == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert stream.last["metadata"]["result"] == body.decode()


async def test_texts_that_only_the_whole_answer_has_come_at_its_end(tmp_path: Path) -> None:
    """Escaped text, a later duplicate name, a path with a filter: what is shown is what the document says."""
    texts = {"extraction": 'é✅ \t"x"', "summary": "last"}
    body = json.dumps({"rows": [{"k": "a", "t": "no"}, {"k": "b", "t": texts["extraction"]}]}).encode()
    body = body[:-1] + b', "summary": "first", "summary": "last"}'

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(body)

    sections = [
        {"stage": "extraction", "at": "$.rows[?@.k == 'b'].t"},
        {"stage": "summary", "panel": "chat", "at": "$.summary"},
    ]
    async with house(script, tmp_path, sections=sections) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.texts() == texts
    replaced = [event for event in stream.events if event["type"] == "content_replace"]
    assert [event["content"] for event in replaced] == ["last"]


async def test_a_body_in_a_coding_that_was_not_asked_for_is_not_guessed_at(tmp_path: Path) -> None:
    """Compressed although nobody asked: who takes JSON gets it as it came, the stream an error."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(gzip.compress(answer()), extra=b"content-encoding: gzip\r\n")

    async with house(script, tmp_path) as (_, _, client):
        either = await client.post(START, headers=signed(accept="text/event-stream, application/json"))
        stream = await read(client, START, signed())

    assert either.content == answer()
    assert either.headers["content-encoding"] == "gzip"
    assert stream.types == ["error"]
    assert stream.last["metadata"]["error_code"] == "malformed"


async def test_one_call_is_made_on_a_connection_of_its_own(tmp_path: Path) -> None:
    """A kept one may be ending, and a call that must not be repeated would be lost with it."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(answer())

    async with house(script, tmp_path) as (upstream, serving, client):
        for _ in range(5):
            assert (await read(client, START, signed())).last["type"] == "stream_done"
        in_use = serving.app.gateway.relay._upstream.in_use

    assert len(upstream.asked) == 5
    assert upstream.connections == 5
    assert in_use == 0
