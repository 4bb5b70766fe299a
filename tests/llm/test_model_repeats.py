"""A model call that is asked again: why, on which connection, how it counts, and what the denylist gets of
it."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.downstream import bodies
from tests.llm.test_model_port import counted
from tests.llm.test_model_stream_ends import CHUNKED, END, framed, saying, without_done
from tests.servers.client import browser, read, scrape, signed
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream, talking
from tests.servers.serving import flag_document
from tests.servers.streaming import EXTRACTION, START, SUMMARY, served
from tests.servers.tapping import (
    COMPLETIONS,
    Backend,
    Provider,
    chat,
    chunks,
    completion,
    tapped,
    tapped_route,
    trace_context,
    whole,
)
from tests.servers.valkey_server import valkey

TEXTS = {"extraction": EXTRACTION, "summary": SUMMARY}
BATCH = [completion(text) for text in TEXTS.values()]
NO_STREAMS = b'{"error": {"message": "streaming is not enabled"}}'

Script = Callable[[Asked, list[bytes]], Awaitable[None]]


def answering(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> Script:
    """A provider that says this to whatever is asked as a stream."""

    async def script(asked: Asked, events: list[bytes]) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % (status, kind, len(body)) + body)

    return script


STREAM = b"".join(chunks(EXTRACTION))
NDJSON = b"\n".join(event[6:].strip() for event in chunks(EXTRACTION))
NO_STREAM = {
    "events as JSON": answering(STREAM),
    "lines as JSON": answering(NDJSON),
    "lines": answering(NDJSON, kind=b"application/x-ndjson"),
    "an error": answering(NO_STREAMS),
    "an answer without text": answering(b'{"choices": []}'),
    "an answer without an end": answering(json.dumps(completion("x")).replace('"stop"', "null").encode()),
    "nothing": answering(b""),
    "a page": answering(b"<html>", kind=b"text/html"),
    "no events": answering(b"", kind=b"text/event-stream"),
    "JSON as events": answering(json.dumps(completion("x")).encode(), kind=b"text/event-stream"),
    "another good status": answering(json.dumps(completion("x")).encode(), b"202 Accepted"),
    "an answer that is too large": answering(json.dumps(completion("x" * 2_000_000)).encode()),
    "an answer in two halves": answering(json.dumps(completion("x")).encode() + b"{}"),
}


async def asked_once_more(directory: Path, provider: Provider) -> list[dict[str, Any]]:
    """Check that the first call is asked again as batch, and the second at once; return what was learned."""
    async with tapped(directory, provider) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)
        shown = (await client.get(f"{serving.admin_url}/learned")).json()["learned"]

    assert [reply.json() for reply in backend.answers] == BATCH
    assert [body.get("stream") for body in provider.bodies] == [True, None, None]
    assert stream.texts() == TEXTS
    assert results == {"lost": 1, "avoided": 1}
    learned: list[dict[str, Any]] = shown
    return learned


@pytest.mark.parametrize("script", NO_STREAM.values(), ids=NO_STREAM)
async def test_a_good_status_that_is_no_stream_is_asked_again_as_batch_and_remembered(
    tmp_path: Path, script: Script
) -> None:
    """Passed on, the backend's SDK would fail, or have an empty answer."""
    provider = Provider(stream=script)
    shown = await asked_once_more(tmp_path, provider)

    assert [(lesson["provider"], lesson["model"], lesson["why"]) for lesson in shown] == [
        ("models", "m", "no_stream")
    ]
    assert 86000 < shown[0]["for_s"] <= 86400


async def test_a_batch_answer_to_a_streamed_call_is_passed_on_as_it_is(tmp_path: Path) -> None:
    """Some gateways answer so: it is the answer that the backend asked for, in every byte."""
    said = json.dumps(completion(EXTRACTION), indent=1).encode()
    provider = Provider(stream=answering(said, kind=b"application/json; charset=utf-8"))
    async with tapped(tmp_path, provider, Backend(prompts=["extraction"])) as (serving, backend, client):
        await client.post(START, headers=signed(accept="text/event-stream"))
        results = await counted(client, serving.admin_url)

    assert backend.answers[0].content == said
    assert backend.answers[0].headers["content-type"] == "application/json; charset=utf-8"
    assert results == {"batch": 1}


@pytest.mark.parametrize("status", [b"500 Oh", b"502 Bad", b"503 Busy", b"529 Overloaded"])
async def test_a_provider_that_fails_only_when_asked_to_stream_is_asked_once_more(
    tmp_path: Path, status: bytes
) -> None:
    """The second call is a batch call; then this model, and no other, is on the denylist."""
    provider = Provider(stream=answering(NO_STREAMS, status))
    shown = await asked_once_more(tmp_path, provider)

    assert [(lesson["why"], lesson["for_s"] <= 600) for lesson in shown] == [("fails", True)]


@pytest.mark.parametrize(
    ("status", "streams"),
    [
        (b"403 Forbidden", [True, None, None]),
        (b"406 Not Acceptable", [True, None, None]),
        (b"501 Not Implemented", [True, None, None]),
        (b"408 Request Timeout", [True, None, True, None]),
        (b"409 Conflict", [True, None, True, None]),
    ],
)
async def test_a_provider_that_refuses_streams_is_asked_for_no_more_of_them(
    tmp_path: Path, status: bytes, streams: list[bool | None]
) -> None:
    """Except for a transient status."""
    provider = Provider(stream=answering(NO_STREAMS, status))
    async with tapped(tmp_path, provider) as (_, backend, client):
        await read(client, START, signed())

    assert [reply.json() for reply in backend.answers] == BATCH
    assert [body.get("stream") for body in provider.bodies] == streams


@pytest.mark.parametrize(("said", "streams"), [(1, [True, True]), (4, [True, None, True, None])])
async def test_a_model_that_thinks_is_waited_for_as_long_as_for_its_batch_answer(
    tmp_path: Path, said: int, streams: list[bool | None]
) -> None:
    """Its stream begins, and is silent for longer than one that has begun to speak may be."""

    async def thinking(asked: Asked, events: list[bytes]) -> None:
        await asked.send(CHUNKED + framed(b"".join(events[:said])))
        await asyncio.sleep(0.5)
        await asked.send(framed(b"".join(events[said:])) + END)

    provider = Provider(stream=thinking)
    timeouts = {"first_byte_s": 20, "idle_s": 0.2}
    async with tapped(tmp_path, provider, llm={"provider": {"timeouts": timeouts}}) as (_, backend, client):
        await read(client, START, signed())

    assert [reply.json() for reply in backend.answers] == BATCH
    assert [body.get("stream") for body in provider.bodies] == streams


async def test_a_provider_that_says_in_its_first_event_that_it_fails_is_asked_once_more(
    tmp_path: Path,
) -> None:
    error = b'data: {"error": {"message": "no streams", "code": 500}}\n\n'
    provider = Provider(stream=saying(lambda data: error))
    async with tapped(tmp_path, provider) as (_, backend, client):
        await read(client, START, signed())

    assert [reply.json() for reply in backend.answers] == BATCH
    assert [body.get("stream") for body in provider.bodies] == [True, None, None]


@pytest.mark.parametrize("status", [b"400 Bad", b"401 No", b"403 No", b"404 None", b"500 Oh", b"503 Busy"])
async def test_a_failure_that_the_batch_call_has_too_is_told_and_nothing_is_remembered(
    tmp_path: Path, status: bytes
) -> None:
    """The answer to the batch call is told. The same call again is asked once; the next may be streamed."""
    fails = True

    async def refusing(asked: Asked) -> None:
        await asked.read_body()
        body = json.loads(asked.body)
        provider.bodies.append(body)
        if fails:
            said = b"of a stream" if body.get("stream") else b"of the call"
            await asked.answer(b'{"error": {"message": "%b"}}' % said, status, b"connection: close\r\n")
        elif body.get("stream"):
            await whole(asked, chunks(EXTRACTION))

    provider = Provider()
    provider.upstream.script = refusing
    backend = Backend(prompts=["extraction"], attempts=2)
    async with tapped(tmp_path, provider, backend) as (serving, _, client):
        await client.post(START, headers=signed(accept="text/event-stream"))
        fails = False
        await client.post(START, headers=signed("bob", accept="text/event-stream"))
        results = await counted(client, serving.admin_url)
        shown = (await client.get(f"{serving.admin_url}/learned")).json()["learned"]

    told = [(reply.status_code, reply.json()) for reply in backend.answers[:2]]
    assert told == [(int(status[:3]), {"error": {"message": "of the call"}})] * 2
    assert [body.get("stream") for body in provider.bodies] == [True, None, None, True]
    assert results == {"failed": 2, "tapped": 1}
    assert shown == []


async def test_what_was_asked_again_in_vain_is_failed_and_not_lost(tmp_path: Path) -> None:
    async def unfaithful(asked: Asked) -> None:
        body = json.loads(await asked.read_body())
        if body.get("stream"):
            await saying(lambda data: data.replace(b'"stop"', b'"content_filter"'))(asked, chunks("a b"))
        else:
            await asked.answer(b'{"error": {"message": "down"}}', b"503 Busy")

    provider = Provider()
    provider.upstream.script = unfaithful
    async with tapped(tmp_path, provider, Backend(prompts=["extraction"])) as (serving, backend, client):
        await client.post(START, headers=signed(accept="text/event-stream"))
        results = await counted(client, serving.admin_url)

    assert (backend.answers[0].status_code, backend.answers[0].json()["error"]["message"]) == (503, "down")
    assert results == {"failed": 1}


async def test_a_provider_that_closes_after_its_answer_without_a_word_costs_nothing(tmp_path: Path) -> None:
    """llama.cpp's server does. The call that is asked again goes out on a connection of its own."""

    async def closing(asked: Asked, events: list[bytes]) -> None:
        strange = b"".join(events).replace(b'"content": ""', b'"content": "", "new_kind": 1')
        await asked.send(CHUNKED + framed(strange) + END)
        await asked.reader.read(1)  # what comes next on this connection meets its end
        asked.writer.close()

    provider = Provider(stream=closing)
    async with tapped(tmp_path, provider) as (serving, backend, client):
        async with asyncio.timeout(10):
            await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert [reply.json() for reply in backend.answers] == BATCH
    assert provider.upstream.connections == 2
    assert results == {"lost": 1, "avoided": 1}


class Forgetful(ScriptedUpstream):
    """A provider that closes each connection when it is asked for the second time, and says nothing."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.used: set[int] = set()

    async def _answer(self, asked: Asked) -> None:
        body = json.loads(await asked.read_body())
        if id(asked.writer) in self.used:
            asked.writer.close()
            return
        self.used.add(id(asked.writer))
        text = TEXTS[body["messages"][-1]["content"].partition(":")[0]]
        if body.get("stream"):
            await asked.send(CHUNKED + framed(b"".join(chunks(text))) + END)
        else:
            await asked.answer(json.dumps(completion(text)).encode())


DARK = flag_document(variants=[{"name": "dark", "weight": 1000}])


@pytest.mark.parametrize(
    ("passes", "flags"),
    [(trace_context, None), (trace_context, DARK), (lambda asked: {}, None)],
    ids=["of a run", "in the dark", "of none"],
)
async def test_a_first_call_on_a_connection_that_was_closed_is_asked_on_a_fresh_one(
    tmp_path: Path, passes: Callable[[Asked], dict[str, str]], flags: dict[str, Any] | None
) -> None:
    """Every SDK does so; one behind the port cannot, for its own connection is well. Also a large one."""
    provider = Provider()
    provider.upstream = Forgetful()
    async with tapped(tmp_path, provider, Backend(passes=passes), flags=flags) as (serving, backend, client):
        await client.post(START, headers=signed(accept="text/event-stream, application/json"))
        large = chat("summary", user="x" * 300_000)
        async with browser() as direct:
            replies = [
                await direct.post(f"{serving.model_url}/models{COMPLETIONS}", json=large) for _ in range(3)
            ]

    assert [reply.json() for reply in backend.answers] == BATCH
    assert [reply.json() for reply in replies] == [completion(SUMMARY)] * 3


async def test_a_backend_that_asks_again_by_itself_is_answered_as_batch(tmp_path: Path) -> None:
    """Under the setting that says so: its own repetition is no stream, and no other run's call is avoided."""
    provider = Provider(stream=saying(without_done, end=b""))

    async def cut(asked: Asked, events: list[bytes]) -> None:
        await asked.send(CHUNKED + framed(b"".join(events[:5])))
        asked.writer.close()

    provider.stream = cut
    backend = Backend(prompts=["extraction"], attempts=2)
    async with tapped(tmp_path, provider, backend, llm={"ask_again": "unbilled"}) as (_, _, client):
        for user in ("ann", "bob"):
            await client.post(START, headers=signed(user, accept="text/event-stream"))

    assert [body.get("stream") for body in provider.bodies] == [True, None, True, None]


STRANGE: Script = saying(lambda data: data.replace(b'"content": ""', b'"content": "", "new_kind": 1'))


async def test_what_is_learned_is_learned_in_the_dark_before_anybody_sees_it(tmp_path: Path) -> None:
    """A dark call costs nobody anything; the first who streams gets no text that is withdrawn."""
    provider = Provider(stream=STRANGE)
    async with tapped(tmp_path, provider, flags=DARK) as (serving, backend, client):
        await client.post(START, headers=signed(accept="application/json"))
        serving.flag_file.write_text(json.dumps(flag_document()))
        async with asyncio.timeout(10):
            while True:
                stream = await client.post(
                    START, headers=signed(accept="text/event-stream, application/json")
                )
                if stream.headers["content-type"].startswith("text/event-stream"):
                    break
        results = await counted(client, serving.admin_url)

    assert all(reply.json() in BATCH for reply in backend.answers)
    assert "content_replace" not in stream.text
    assert sum(body.get("stream") is True for body in provider.bodies) == 1
    assert results["lost"] == 1


MOST_CALLS = 200


@pytest.mark.parametrize("shares", ["workers", "replicas"])
async def test_what_one_process_has_learned_no_other_pays_for(tmp_path: Path, shares: str) -> None:
    """Two workers of one host, or two replicas with a store: of all their calls one is streamed in vain."""
    provider = Provider(stream=STRANGE)
    backend = Backend()
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(provider.upstream.running())
        upstream = await stack.enter_async_context(ScriptedUpstream(backend).running())
        client = await stack.enter_async_context(browser())
        listens = [f"127.0.0.1:{free_port()}" for _ in range(1 if shares == "workers" else 2)]
        settings: dict[str, Any] = {"routes": [tapped_route()]}
        if shares == "replicas":
            store = await stack.enter_async_context(valkey(tmp_path))
            settings["event_log"] = {"valkey": {"url": store.url, "key": "k" * 32}}
        urls = []
        for number, listen in enumerate(listens):
            (tmp_path / str(number)).mkdir()
            llm = {"listen": listen, "providers": [{"name": "models", "url": model.url}]}
            arguments = ["--workers", "2"] if shares == "workers" else []
            urls.append(
                await stack.enter_async_context(
                    served(upstream.url, tmp_path / str(number), *arguments, llm=llm, **settings)
                )
            )
        after_the_first = 0
        for number in range(MOST_CALLS):
            at = urls[number % len(urls)]
            backend.model_url = f"http://{listens[number % len(listens)]}"
            # Of workers, a call that comes to the other one's port is nobody's, and not streamed. Each
            # request comes on a connection of its own, so it is not always the other one's.
            async with browser() as another:
                await read(another, at.url + START, signed(f"user{number}"))
            after_the_first += any(body.get("stream") is True for body in provider.bodies)
            if after_the_first == 8:
                break
        shown = [
            (await client.get(f"{at.admin_url}/learned")).json()["learned"] for at in urls for _ in range(8)
        ]

    streamed = sum(body.get("stream") is True for body in provider.bodies)
    assert streamed == 1
    assert [lesson["why"] for lessons in shown for lesson in lessons] == ["unfaithful"] * len(shown)


async def log_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: Backend) -> list[Any]:
    with caplog.at_level(logging.DEBUG, logger="headgate"):
        async with tapped(tmp_path, Provider(), backend) as (_, _, client):
            await read(client, START, signed())
    return caplog.records


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (Backend(prompts=[]), "no model call came to this process's model port"),
        (Backend(passes=lambda asked: {}), "calls came, none of them with this run's trace context"),
        (
            Backend(passes=lambda asked: {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}),
            "calls came, none of them with this run's trace context",
        ),
        (Backend(), None),
    ],
    ids=["no call", "without context", "of another trace", "tapped"],
)
async def test_the_log_says_why_a_run_had_no_live_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: Backend, why: str | None
) -> None:
    said = [
        record.why
        for record in await log_of(tmp_path, caplog, backend)
        if record.getMessage() == "source lost"
    ]

    assert [each.partition(":")[0] for each in said] == ([why] if why else [])


async def test_every_call_has_a_line_for_who_wants_to_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the level `debug`; with nothing of the call's own."""
    lines = [
        record for record in await log_of(tmp_path, caplog, Backend()) if record.getMessage() == "model call"
    ]

    assert [(line.levelname, line.provider, line.result) for line in lines] == [
        ("DEBUG", "models", "tapped")
    ] * 2
    assert all(line.took_ms > 0 for line in lines)


@pytest.mark.parametrize(
    ("headers", "result"),
    [
        ({}, "no_context"),
        ({"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}, "not_tapped"),
        ({"tracestate": "congo=t61"}, "not_tapped"),
        ({"tracestate": "hg=forged-forged-forged-forged-forged"}, "unmatched"),
    ],
)
async def test_calls_of_no_run_are_told_apart(tmp_path: Path, headers: dict[str, str], result: str) -> None:
    """So that it can be seen during a rollout, too, whether the backend passes trace context on."""
    async with tapped(tmp_path, Provider()) as (serving, _, client):
        await client.post(f"{serving.model_url}/models{COMPLETIONS}", json=chat("summary"), headers=headers)
        results = await counted(client, serving.admin_url)

    assert results == {result: 1}


async def test_a_call_whose_body_does_not_come_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read before it is sent on, within a bound."""
    monkeypatch.setattr(bodies, "COLLECT_S", 0.05)
    async with tapped(tmp_path, Provider()) as (serving, _, _), talking(serving.model_url) as caller:
        head = b"POST /models/v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf"
        answered = await caller.ask(head)

    assert answered.status == 408


async def test_a_batch_users_calls_are_not_tapped(tmp_path: Path) -> None:
    flags = flag_document(0)
    traced = signed(accept="application/json", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    async with tapped(tmp_path, Provider(), flags=flags) as (serving, backend, client):
        reply: httpx.Response = await client.post(START, headers=traced)
        results = await counted(client, serving.admin_url)

    assert reply.status_code == 200
    assert [each.json() for each in backend.answers] == BATCH
    assert results == {"not_tapped": 2}


async def test_a_run_without_its_calls_has_fallen_back_also_in_the_dark(tmp_path: Path) -> None:
    """Its texts come with the answer alone, which nobody has waited less for: that rings."""
    backend = Backend(passes=lambda asked: {})
    fell_back = 'headgate_runs_total{arm="stream",outcome="fell_back",route="start",source="tap"}'
    for number, flags in enumerate([None, DARK]):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with tapped(directory, Provider(), backend, flags=flags) as (serving, _, client):
            await client.post(START, headers=signed(accept="text/event-stream, application/json"))
            figures = await scrape(client, serving.admin_url)

        assert figures[fell_back] == 1
