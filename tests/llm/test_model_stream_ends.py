"""Providers' streams that are unusual: what the backend gets is whole and right, and it comes at once."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.servers.client import read, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import EXTRACTION, START, SUMMARY
from tests.servers.tapping import EVENT_STREAM, Provider, completion, tapped, whole

TEXTS = {"extraction": EXTRACTION, "summary": SUMMARY}
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req-1\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"

Script = Callable[[Asked, list[bytes]], Awaitable[None]]


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def saying(change: Callable[[bytes], bytes], cut: int = 0, end: bytes = END) -> Script:
    """A provider that says its stream in another way, in pieces of `cut` bytes."""

    async def script(asked: Asked, events: list[bytes]) -> None:
        data = change(b"".join(events))
        size = cut or len(data)
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        await asked.send(CHUNKED + b"".join(map(framed, pieces)) + end)

    return script


async def held_open(asked: Asked, events: list[bytes]) -> None:
    """Says that it has ended, and keeps the connection."""
    await asked.send(CHUNKED + framed(b"".join(events)))
    await asked.reader.read()
    asked.writer.close()


async def cut_after_its_end(asked: Asked, events: list[bytes]) -> None:
    await asked.send(CHUNKED + framed(b"".join(events)))
    asked.writer.close()


async def old(asked: Asked, events: list[bytes]) -> None:
    """HTTP/1.0: its end is that of the connection."""
    await asked.send(b"HTTP/1.0 200 OK\r\nContent-Type: Text/Event-Stream\r\n\r\n" + b"".join(events))
    asked.writer.close()


async def after_interim_answers(asked: Asked, events: list[bytes]) -> None:
    await asked.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
    await whole(asked, events)


def without_done(data: bytes) -> bytes:
    return data.replace(b"data: [DONE]\n\n", b"")


def in_lines(data: bytes) -> bytes:
    """Each document over several `data` lines, between comments."""
    return data.replace(b'"choices"', b'\ndata:"choices"').replace(b"\n\n", b"\n: hb\nevent: x\nretry: 9\n\n")


LEGAL = {
    "the connection is kept": held_open,
    "the connection is cut after the end": cut_after_its_end,
    "HTTP/1.0": old,
    "interim answers": after_interim_answers,
    "no [DONE]": saying(without_done),
    "no blank line after [DONE]": saying(lambda data: data.removesuffix(b"\n")),
    "CRLF": saying(lambda data: data.replace(b"\n", b"\r\n")),
    "CR, byte by byte": saying(lambda data: data.replace(b"\n", b"\r"), cut=1),
    "a byte order mark, byte by byte": saying(lambda data: b"\xef\xbb\xbf" + data, cut=1),
    "several lines": saying(in_lines, cut=7),
    "something after [DONE]": saying(lambda data: data + b"data: more\n\n: and more"),
    "empty chunks": saying(lambda data: b'data: {"choices":[]}\n\ndata: {}\n\n' + data),
}


@pytest.mark.parametrize("script", LEGAL.values(), ids=LEGAL)
async def test_a_legal_stream_becomes_the_batch_answer_at_once(tmp_path: Path, script: Script) -> None:
    """It is asked once, shown as it comes, and the backend gets every field."""
    provider = Provider(stream=script)
    async with asyncio.timeout(20), tapped(tmp_path, provider) as (_, backend, client):
        stream = await read(client, START, signed())

    assert [body.get("stream") for body in provider.bodies] == [True, True]
    assert [reply.json() for reply in backend.answers] == [completion(text) for text in TEXTS.values()]
    assert stream.texts() == TEXTS
    assert "content_replace" not in stream.types


async def unframed(asked: Asked, events: list[bytes]) -> None:
    """It may have been cut: nothing says that this is all."""
    await asked.send(EVENT_STREAM + without_done(b"".join(events)))
    asked.writer.close()


async def cut_before_its_end(asked: Asked, events: list[bytes]) -> None:
    await asked.send(CHUNKED + framed(without_done(b"".join(events))))
    asked.writer.close()


@pytest.mark.parametrize("script", [unframed, cut_before_its_end, saying(lambda data: data[:900])])
async def test_a_stream_that_may_have_been_cut_is_no_answer(tmp_path: Path, script: Script) -> None:
    """It is asked again as batch, by default, and the backend notices nothing."""
    provider = Provider(stream=script)
    async with tapped(tmp_path, provider) as (_, backend, client):
        stream = await read(client, START, signed())

    assert [reply.json() for reply in backend.answers] == [completion(text) for text in TEXTS.values()]
    assert [body.get("stream") for body in provider.bodies] == [True, None, True, None]
    assert stream.texts() == TEXTS


async def test_half_a_character_is_not_made_into_another(tmp_path: Path) -> None:
    """A server that says its tokens as bytes cuts characters: what a decoder puts there instead is no text
    of the model's. The call is asked as batch."""

    def halved(data: bytes) -> bytes:
        return data.replace("°".encode(), b'"}}]}\n\n'.join(["°".encode()[:1], "°".encode()[1:]]))

    provider = Provider(stream=saying(halved))
    async with tapped(tmp_path, provider) as (_, backend, client):
        stream = await read(client, START, signed())

    assert [reply.json() for reply in backend.answers] == [completion(text) for text in TEXTS.values()]
    assert [body.get("stream") for body in provider.bodies] == [True, None, None]
    assert "\ufffd" not in stream.raw.decode()
    assert stream.texts() == TEXTS


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden", b"406 Not Acceptable"])
async def test_a_stream_that_is_refused_costs_the_backend_nothing(tmp_path: Path, status: bytes) -> None:
    """By a gateway that forbids it, one that answers only what `Accept` says, one that checks a signature."""

    async def refusing(asked: Asked, events: list[bytes]) -> None:
        await asked.answer(json.dumps({"error": {"message": "no streams"}}).encode(), status)

    async with tapped(tmp_path, Provider(stream=refusing)) as (_, backend, client):
        stream = await read(client, START, signed())

    assert [reply.status_code for reply in backend.answers] == [200, 200]
    assert stream.texts() == TEXTS
