"""A call of which nobody knows the stage is not shown, nor is any later one: text may be late, never
wrong."""

import gzip
import json
from pathlib import Path

import httpx
import pytest

from proxy.downstream.bodies import MAX_REQUEST_BYTES
from tests.servers.client import browser, read, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import EXTRACTION, START, SUMMARY, answer
from tests.servers.tapping import COMPLETIONS, Provider, chat, completion, tapped, trace_context

TEXTS = {"extraction": EXTRACTION, "summary": SUMMARY}


class Unread(Provider):
    """Takes a compressed body, too."""

    async def _answer(self, asked: Asked) -> None:
        body = await asked.read_body()
        if asked.header(b"content-encoding") != b"gzip":
            asked.writer, asked.reader = asked.writer, _Again(body)  # type: ignore[assignment]
            await super()._answer(asked)
            return
        self.bodies.append(json.loads(gzip.decompress(body)))
        await asked.answer(json.dumps(completion(EXTRACTION)).encode())


class _Again:
    """A body that was read already."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def readexactly(self, count: int) -> bytes:
        return self.body


@pytest.mark.parametrize("first", ["too long to be read", "compressed"])
async def test_after_a_call_that_cannot_be_read_no_text_comes_to_another_stage(
    tmp_path: Path, first: str
) -> None:
    """Otherwise the second call would be taken for the first, and its text would stand in the wrong panel."""
    provider = Unread()

    async def ask(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
        if first == "compressed":
            packed = gzip.compress(json.dumps(chat("extraction")).encode())
            more = {"content-type": "application/json", "content-encoding": "gzip"}
            return await client.post(url, content=packed, headers=headers | more)
        picture = "0" * (MAX_REQUEST_BYTES + (1 << 20))
        return await client.post(url, json=chat(f"extraction:{picture}"), headers=headers)

    async def backend(asked: Asked) -> None:
        await asked.read_body()
        async with browser() as client:
            replies.append(await ask(client, trace_context(asked)))
            replies.append(await client.post(url, json=chat("summary"), headers=trace_context(asked)))
        await asked.answer(answer())

    replies: list[httpx.Response] = []
    async with tapped(tmp_path, provider, backend) as (serving, _, client):  # type: ignore[arg-type]
        url = f"{serving.model_url}/models{COMPLETIONS}"
        stream = await read(client, START, signed())

    assert [reply.json() for reply in replies] == [completion(text) for text in TEXTS.values()]
    assert "content_replace" not in stream.types
    assert stream.texts() == TEXTS
