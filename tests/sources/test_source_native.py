"""The source `native`: an upstream's own stream, in each of the dialects that the docs have a table for."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.servers.client import EITHER, browser, opened, read, scrape, signed
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, gated, headgate
from tests.servers.streaming import START, route
from tests.servers.tapping import chunks, completion

DOCS = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
BLOCKS = {
    found[1]: yaml.safe_load(found[2])
    for found in re.finditer(r"```yaml\n# (.+)\n(native:(?:.|\n)+?)```", DOCS)
}
PIECES = ("Fever of ", "38.9 °C", " 😀.\n\nRest.")
TEXT = "".join(PIECES)


def sse(*events: tuple[str, Any]) -> bytes:
    """Events with a name, or without one."""
    blocks = []
    for name, data in events:
        said = data if isinstance(data, str) else json.dumps(data)
        blocks.append((f"event: {name}\n" if name else "") + f"data: {said}\n\n")
    return "".join(blocks).encode()


def lines(*documents: Any) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def anthropic(kind: str, **more: Any) -> tuple[str, Any]:
    return kind, {"type": kind, **more}


def gemini(piece: str, **more: Any) -> tuple[str, Any]:
    content = {"parts": [{"text": piece}], "role": "model"}
    return "", {"candidates": [{"content": content, "index": 0, **more}]}


def langchain(piece: str, position: str | None) -> dict[str, Any]:
    """A chunk of a message, as LangServe writes it."""
    empty: dict[str, Any] = {"additional_kwargs": {}, "response_metadata": {}, "tool_calls": []}
    return empty | {"content": piece, "type": "AIMessageChunk", "name": None, "chunk_position": position}


def ollama(piece: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": piece}
    return {"model": "m", "created_at": "2026-11-29T22:00:00.000000Z", "message": message, **more}


STREAMS = {
    "OpenAI chat completions": b"".join(chunks(TEXT)),
    "Anthropic messages": sse(
        anthropic("message_start", message={"id": "m", "content": []}),
        anthropic("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        anthropic("ping"),
        *(
            anthropic("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            for piece in PIECES
        ),
        anthropic("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{"}),
        anthropic("content_block_stop", index=0),
        anthropic("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9}),
        anthropic("message_stop"),
    ),
    "Vercel AI SDK, UI message stream": sse(
        ("", {"type": "start"}),
        ("", {"type": "start-step"}),
        ("", {"type": "reasoning-start", "id": "r"}),
        ("", {"type": "reasoning-delta", "id": "r", "delta": "Considering the fever"}),
        ("", {"type": "reasoning-end", "id": "r"}),
        ("", {"type": "text-start", "id": "t"}),
        *(("", {"type": "text-delta", "id": "t", "delta": piece}) for piece in PIECES),
        ("", {"type": "text-end", "id": "t"}),
        ("", {"type": "finish-step"}),
        ("", {"type": "finish", "finishReason": "stop"}),
        ("", "[DONE]"),
    ),
    "LangServe": sse(
        ("metadata", {"run_id": "r"}),
        *(("data", langchain(piece, None)) for piece in PIECES),
        ("data", langchain("", "last")),
    ).replace(b"\n", b"\r\n")
    + b"event: end\r\n\r\n",
    "Plain text in events": b"".join(
        "".join(f"data: {line}\r\n" for line in piece.split("\n")).encode() + b"\r\n" for piece in PIECES
    )
    + b": ping - 2026-11-29\r\n\r\n"
    + b"data: [DONE]\r\n\r\n",
    "Ollama": lines(
        *(ollama(piece, done=False) for piece in PIECES),
        ollama("", done=True, done_reason="stop", total_duration=9, eval_count=9, eval_duration=9),
    ),
    "Gemini": sse(
        *(gemini(piece) for piece in PIECES[:-1]), gemini(PIECES[-1], finishReason="STOP"), ("", {"usage": 1})
    ),
}
BATCH = {
    "OpenAI chat completions": completion(TEXT),
    "Anthropic messages": {"content": [{"type": "text", "text": TEXT}]},
    "Vercel AI SDK, UI message stream": {"text": TEXT},
    "LangServe": {"output": {"content": TEXT}},
    "Plain text in events": {"text": TEXT},
    "Ollama": {"message": {"role": "assistant", "content": TEXT}},
    "Gemini": {"candidates": [{"content": {"parts": [{"text": TEXT}]}}]},
}

Play = Callable[[Asked], Any]


@dataclass
class Streamer:
    """An upstream that streams to who asks for it, and else answers in batch."""

    stream: Play
    batch: bytes
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        self.asked.append(asked)
        if asked.header(b"accept") == b"application/json":
            await asked.answer(self.batch)
        else:
            await self.stream(asked)


def head(media_type: str = "text/event-stream", more: str = "") -> bytes:
    lines = f"content-type: {media_type}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n{more}"
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(data: bytes, media_type: str = "text/event-stream") -> Play:
    """The stream in pieces of seven bytes, which cut characters and lines, and its end."""

    async def play(asked: Asked) -> None:
        await asked.send(head(media_type))
        for at in range(0, len(data), 7):
            await asked.send(chunked(data[at : at + 7]))
        await asked.send(b"0\r\n\r\n")
        asked.writer.close()

    return play


def cut(data: bytes) -> Play:
    async def play(asked: Asked) -> None:
        await asked.send(head() + chunked(data))
        asked.writer.close()

    return play


def closed(data: bytes) -> Play:
    """Ends in good order, whatever was said."""
    return whole(data)


@asynccontextmanager
async def streaming(
    tmp_path: Path, dialect: str, play: Play, *, native: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[tuple[Streamer, Serving, httpx.AsyncClient]]:
    upstream = Streamer(play, json.dumps(BATCH[dialect], ensure_ascii=False).encode())
    block = BLOCKS[dialect]
    made = route(source="native", native=block["native"] | (native or {}), sections=block["sections"])
    made |= more.pop("route", {})
    async with (
        gated(upstream, tmp_path, routes=[made], **more) as (_, serving),
        browser(serving.url) as client,
    ):
        yield upstream, serving, client


def body(**more: Any) -> bytes:
    return json.dumps({"question": "é", **more}).encode()


@pytest.mark.parametrize("dialect", STREAMS)
async def test_each_dialect_of_the_docs_is_understood(tmp_path: Path, dialect: str) -> None:
    """Its text byte for byte, its end, and the batch answer; in whatever pieces it comes."""
    media_type = media_type_of(dialect)
    play = whole(STREAMS[dialect], media_type)
    async with streaming(tmp_path, dialect, play) as (upstream, _, client):
        stream = await read(client, START, signed(), content=body())

    assert stream.texts() == {"answer": TEXT}
    assert stream.last["type"] == "stream_done"
    assert stream.last["metadata"]["source"] == "native"
    assert json.loads(stream.last["metadata"]["result"]) == BATCH[dialect]
    [asked] = upstream.asked
    settings = BLOCKS[dialect]["native"]
    assert asked.header(b"accept") == media_type.encode()
    assert asked.target == settings.get("request", f"POST {START}").partition(" ")[2].encode()
    sent = settings.get("body", {})
    if dialect.startswith("OpenAI"):
        sent = {"stream": True, "stream_options": {"include_usage": True}}
    assert json.loads(asked.body) == {"question": "é", **sent}


def parts(*said: dict[str, Any], **more: Any) -> tuple[str, Any]:
    return "", {"candidates": [{"content": {"parts": list(said), "role": "model"}, "index": 0, **more}]}


ODD = {
    "text after the end": (
        "Gemini",
        sse(gemini("Fever of "), gemini("38.9 °C", finishReason="STOP"), gemini(" 😀.\n\nRest.")),
        TEXT,
    ),
    "two parts in one event": (
        "Gemini",
        sse(
            parts({"text": "Fever of "}, {"text": "38.9 °C"}),
            parts({"text": " 😀.\n"}, {"text": "\nRest."}, finishReason="STOP"),
        ),
        TEXT,
    ),
    "what the model thinks": (
        "Gemini",
        sse(
            parts({"text": "**Considering** the fever", "thought": True}),
            parts({"text": "more of that", "thought": True}, {"text": TEXT}),
            parts({"text": "", "thoughtSignature": "c2ln"}, finishReason="STOP"),
        ),
        TEXT,
    ),
    "cut short by the limit": (
        "Gemini",
        sse(gemini("Fever of "), gemini("38.9", finishReason="MAX_TOKENS")),
        "Fever of 38.9",
    ),
    "a last line without its end": ("Ollama", STREAMS["Ollama"].removesuffix(b"\n"), TEXT),
    "a character in two halves": (
        "Ollama",
        rb'{"message": {"content": "Fever of 38.9 \u00b0C \ud83d"}}'
        + b"\n"
        + rb'{"message": {"content": "\ude00.\n\nRest."}, "done": true}'
        + b"\n",
        TEXT,
    ),
    "no text at all": ("Ollama", lines({"message": {"content": ""}, "done": True}), ""),
    "a foreign end after the end": (
        "Anthropic messages",
        STREAMS["Anthropic messages"] + sse(("", "[DONE]")),
        TEXT,
    ),
    "no usage": (
        "OpenAI chat completions",
        b"".join(chunk for chunk in chunks(TEXT) if b'"total_tokens"' not in chunk),
        TEXT,
    ),
}


@pytest.mark.parametrize("what", ODD)
async def test_text_that_arrives_is_shown(tmp_path: Path, what: str) -> None:
    """Text is shown however it comes; what is no text of the answer is not. The run is complete."""
    dialect, said, text = ODD[what]
    async with streaming(tmp_path, dialect, whole(said, media_type_of(dialect))) as (_, _, client):
        stream = await read(client, START, signed(), content=body())

    assert stream.texts().get("answer", "") == text
    assert stream.last["type"] == "stream_done"


FAILING = {
    "Vercel AI SDK, UI message stream": sse(
        ("", {"type": "text-delta", "id": "t", "delta": "Fever of "}),
        ("", {"type": "error", "errorText": "An error occurred."}),
        ("", {"type": "finish-step"}),
        ("", {"type": "finish", "finishReason": "error"}),
        ("", "[DONE]"),
    ),
    "LangServe": sse(
        ("data", langchain("Fever of ", None)),
        ("error", {"status_code": 500, "message": "Internal Server Error"}),
    ),
    "Ollama": lines(ollama("Fever of ", done=False), {"error": "an error was encountered"}),
}


@pytest.mark.parametrize("dialect", FAILING)
async def test_a_stream_that_says_it_has_failed_is_no_complete_run(tmp_path: Path, dialect: str) -> None:
    """Events after that change nothing, the usual end included."""
    said = whole(FAILING[dialect], media_type_of(dialect))
    async with streaming(tmp_path, dialect, said) as (_, _, client):
        stream = await read(client, START, signed(), content=body())

    assert stream.status == 502 or stream.last["type"] == "error"


@pytest.mark.parametrize(
    "said",
    [
        rb'{"message": {"content": "Fever \ud83d"}, "done": true}',
        rb'{"message": {"content": "Fever \ude00."}, "done": true}',
    ],
    ids=["first half", "second half"],
)
async def test_text_that_cannot_be_shown_is_no_complete_run(tmp_path: Path, said: bytes) -> None:
    """Half a character is none, and is not left out in silence."""
    async with streaming(tmp_path, "Ollama", whole(said + b"\n", media_type_of("Ollama"))) as (_, _, client):
        stream = await read(client, START, signed(), content=body())

    assert stream.status == 502 or stream.last["metadata"]["error_code"] == "malformed"


TWO_TEXTS = {
    "format": "ndjson",
    "events": [
        {"when": {"at": "$.done", "equals": True}, "means": "done", "at": "$.e", "stage": "extraction"},
        {"at": "$.e", "stage": "extraction"},
        {"at": "$.s", "stage": "summary"},
        {"at": "$.more", "stage": "summary"},
    ],
    "answer": {"result": {"extraction": "{{ text $.extraction }}", "summary": "{{ text $.summary }}"}},
}


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        (({"e": "one ", "s": "a "}, {"e": "two", "s": "b", "done": True}), ("one two", "a b")),
        (({"e": "one", "s": "a", "done": True}, {"more": " b"}), ("one", "a b")),
        (({"e": "one", "s": "a", "more": "b", "done": True},), None),
        (({"e": "one", "done": True}, {"s": "a", "more": "b"}), None),
    ],
    ids=["of two stages", "after the end", "of one stage", "of one stage after the end"],
)
async def test_every_text_of_an_event_is_shown_or_the_run_is_not_complete(
    tmp_path: Path, said: tuple[dict[str, Any], ...], texts: tuple[str, str] | None
) -> None:
    """Two texts of one stage may be one after the other, or one text twice: then there is no answer."""
    upstream = ScriptedUpstream(Streamer(whole(lines(*said), "application/x-ndjson"), b"{}"))
    async with (
        upstream.running(),
        headgate(upstream.url, tmp_path, routes=[route(source="native", native=TWO_TEXTS)]) as serving,
        browser(serving.url) as client,
    ):
        stream = await read(client, START, signed())

    if texts is None:
        assert stream.status == 502 or stream.last["metadata"]["error_code"] == "malformed"
    else:
        assert stream.texts() == dict(zip(("extraction", "summary"), texts, strict=True))
        assert stream.last["type"] == "stream_done"


def media_type_of(dialect: str) -> str:
    return "application/x-ndjson" if dialect == "Ollama" else "text/event-stream"


def test_the_docs_have_a_table_for_each_dialect_here() -> None:
    assert BLOCKS.keys() == STREAMS.keys() == BATCH.keys()


async def test_text_is_shown_while_the_stream_goes_on(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def halting(asked: Asked) -> None:
        await asked.send(head() + chunked(b"data: first words \n\n"))
        await go_on.wait()
        await asked.send(chunked(b"data: and last\n\ndata: [DONE]\n\n") + b"0\r\n\r\n")

    async with (
        streaming(tmp_path, "Plain text in events", halting) as (_, _, client),
        opened(client, START, signed()) as stream,
    ):
        await stream.until(lambda event: event["type"] == "content_chunk")
        go_on.set()
        await stream.rest()

    assert stream.texts() == {"answer": "first words and last"}


async def test_who_takes_batch_gets_the_upstreams_own_bytes(tmp_path: Path) -> None:
    """Not those that are put together of a stream, also while the same is being streamed."""
    dialect = "Plain text in events"
    release = asyncio.Event()

    async def held(asked: Asked) -> None:
        await release.wait()
        await whole(STREAMS[dialect])(asked)

    own = b'{"text": "own",   "spaces": true}'
    async with streaming(tmp_path, dialect, held, route={"commit_after": 0}) as (upstream, _, client):
        upstream.batch = own
        async with opened(client, START, signed(), content=body()) as stream:
            await stream.piece()
            batch = await client.post(START, headers=signed(accept="application/json"), content=body())
            release.set()
            await stream.rest()

    assert batch.content == own
    assert stream.texts() == {"answer": TEXT}


ANTHROPIC = STREAMS["Anthropic messages"]
STOP = ANTHROPIC.index(b"event: message_stop")
ERROR = sse(anthropic("error", error={"type": "overloaded_error", "message": "no"}))
FAILURES = {
    "cut": (cut(ANTHROPIC[:STOP]), "truncated"),
    "ended before its end": (closed(ANTHROPIC[:STOP]), "truncated"),
    "says that it has failed": (closed(ANTHROPIC[:STOP] + ERROR), "truncated"),
    "broken JSON": (closed(ANTHROPIC[:STOP] + b"event: content_block_delta\ndata: {\n\n"), "malformed"),
    "a text that is none": (
        closed(
            ANTHROPIC[:STOP] + sse(anthropic("content_block_delta", delta={"type": "text_delta", "text": 7}))
        ),
        "malformed",
    ),
    "a line without end": (closed(ANTHROPIC[:STOP] + b"data: " + b"x" * 1_100_000), "too_large"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_stream_that_fails_after_text_ends_truthfully(tmp_path: Path, failure: str) -> None:
    """One `error`, and what was shown is a beginning of the text; nothing is asked again."""
    play, fault = FAILURES[failure]
    async with streaming(tmp_path, "Anthropic messages", play) as (upstream, _, client):
        stream = await read(client, START, signed())

    assert stream.last["type"] == "error"
    assert stream.last["metadata"]["partial"] is True
    assert stream.last["metadata"]["error_code"] == fault
    assert TEXT.startswith(stream.texts()["answer"])
    assert stream.texts()["answer"]
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("failure", sorted(FAILURES.keys() - {"a line without end"}))
async def test_where_a_repetition_does_no_harm_the_batch_answer_follows(tmp_path: Path, failure: str) -> None:
    """The plain call, once, and what was shown is completed from it."""
    play, _ = FAILURES[failure]
    safe = {"route": {"replay": "safe"}}
    async with streaming(tmp_path, "Anthropic messages", play, **safe) as (upstream, _, client):
        stream = await read(client, START, signed(), content=body())

    assert stream.texts() == {"answer": TEXT}
    assert stream.last["metadata"]["recovered"] is True
    assert json.loads(stream.last["metadata"]["result"]) == BATCH["Anthropic messages"]
    assert [json.loads(asked.body).get("stream") for asked in upstream.asked] == [True, None]


@pytest.mark.parametrize("replay", ["never", "safe"])
async def test_a_stream_that_is_cut_anywhere_is_never_taken_for_whole(tmp_path: Path, replay: str) -> None:
    """At every event and at any byte: a beginning of the text and `error`, or the batch answer's text."""
    dice = random.Random(5)
    ends = [found.end() for found in re.finditer(rb"\n\n", ANTHROPIC)][:-1]
    places = [0, *ends, *(dice.randrange(len(ANTHROPIC) - 2) for _ in range(60))]

    async def cut_there(asked: Asked) -> None:
        at = json.loads(asked.body)["at"]
        await (cut if dice.random() < 0.5 else closed)(ANTHROPIC[:at])(asked)

    route_ = {"replay": replay, "join": False}
    async with streaming(tmp_path, "Anthropic messages", cut_there, route=route_) as (_, _, client):
        streams = await asyncio.gather(
            *(read(client, START, signed(accept=EITHER), content=body(at=at)) for at in places)
        )

    for stream in streams:
        if replay == "safe":
            assert stream.texts() == {"answer": TEXT}
            assert stream.types.count("stream_done") == 1
        elif stream.status == 200:
            assert stream.last["type"] == "error"
            assert TEXT.startswith(stream.texts().get("answer", ""))
        else:  # before the headers had gone out
            assert stream.status == 502


async def test_an_upstream_that_answers_in_json_has_answered_in_batch(tmp_path: Path) -> None:
    async def plain(asked: Asked) -> None:
        await asked.answer(json.dumps(BATCH["Ollama"]).encode())

    async with streaming(tmp_path, "Ollama", plain) as (upstream, serving, client):
        stream = await read(client, START, signed())
        figures = await scrape(client, serving.admin_url)

    assert stream.texts() == {"answer": TEXT}
    assert stream.last["metadata"]["recovered"] is False
    assert len(upstream.asked) == 1
    assert not any(value for name, value in figures.items() if name.startswith("headgate_faults_total"))


@pytest.mark.parametrize("status", [404, 405, 406, 415, 501])
async def test_an_upstream_that_offers_no_stream_is_asked_for_batch(tmp_path: Path, status: int) -> None:
    """Nothing was done yet, whatever the route says of repetitions."""

    async def refusing(asked: Asked) -> None:
        await asked.answer(b"{}", f"{status} No".encode())

    async with streaming(tmp_path, "Anthropic messages", refusing) as (upstream, serving, client):
        stream = await read(client, START, signed())
        figures = await scrape(client, serving.admin_url)

    assert stream.texts() == {"answer": TEXT}
    assert stream.last["metadata"]["recovered"] is True
    assert len(upstream.asked) == 2
    lost = [value for name, value in figures.items() if 'faults_total{fault="source_lost"' in name]
    assert sum(lost) == 1


@pytest.mark.parametrize("status", [401, 422, 500])
async def test_an_error_before_the_stream_is_passed_on(tmp_path: Path, status: int) -> None:
    async def refusing(asked: Asked) -> None:
        await asked.answer(b'{"detail":"no"}', f"{status} No".encode())

    async with streaming(tmp_path, "Anthropic messages", refusing) as (upstream, _, client):
        reply = await client.post(START, headers=signed(accept=EITHER), content=body())

    assert (reply.status_code, reply.json()) == (status, {"detail": "no"})
    assert len(upstream.asked) == 1


async def test_an_end_that_the_framing_does_not_say_is_none(tmp_path: Path) -> None:
    """`ends_by: close` needs an answer that says where it ends: a cut one would look whole."""

    async def unframed(asked: Asked) -> None:
        plain = head().replace(b"transfer-encoding: chunked\r\n", b"")
        await asked.send(plain + STREAMS["LangServe"])
        asked.writer.close()

    async with streaming(tmp_path, "LangServe", unframed) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.last["metadata"]["error_code"] == "truncated"


async def test_a_stalled_stream_is_ended_at_the_upstreams_idle_time(tmp_path: Path) -> None:
    """And comments keep one alive."""

    async def stalling(asked: Asked) -> None:
        await asked.send(head() + chunked(b"data: words that \n\n"))
        for _ in range(6):
            await asyncio.sleep(0.15)
            await asked.send(chunked(b": alive\n"))
        await asked.reader.read()

    timeouts = {"timeouts": {"idle_s": 0.4}}
    async with ScriptedUpstream(Streamer(stalling, b"{}")).running() as at:
        block = BLOCKS["Plain text in events"]
        made = route(source="native", native=block["native"], sections=block["sections"])
        upstream = {"url": at.url, **timeouts}
        async with (
            headgate(at.url, tmp_path, routes=[made], upstream=upstream) as serving,
            browser(serving.url) as client,
        ):
            began = asyncio.get_running_loop().time()
            stream = await read(client, START, signed())
            took_s = asyncio.get_running_loop().time() - began

    assert stream.last["metadata"]["error_code"] == "idle_timeout"
    assert took_s > 0.9 + 0.4


async def test_events_say_whose_text_it_is_and_the_answer(tmp_path: Path) -> None:
    """Several sections, and an event that is the batch answer; what is of no section is not shown."""
    texts = {"extraction": "one two", "summary": "three"}
    events = sse(
        ("token", {"of": "extraction", "text": "one "}),
        ("token", {"of": "summary", "text": "three"}),
        ("token", {"of": "thoughts", "text": "never"}),
        ("token", {"of": "extraction", "text": "two"}),
        ("result", {"wrapped": {"result": texts}}),
    )
    native = {
        "format": "sse",
        "events": [
            {"event": "token", "at": "$.text", "stage_at": "$.of"},
            {"event": "result", "means": "answer", "at": "$.wrapped"},
        ],
    }
    upstream = ScriptedUpstream(Streamer(whole(events), b"{}"))
    async with (
        upstream.running(),
        headgate(upstream.url, tmp_path, routes=[route(source="native", native=native)]) as serving,
        browser(serving.url) as client,
    ):
        stream = await read(client, START, signed())

    assert stream.texts() == texts
    assert json.loads(stream.last["metadata"]["result"]) == {"result": texts}
    assert "never" not in stream.raw.decode()
