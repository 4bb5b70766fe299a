"""The model port: a run's calls are streamed and answered as batch; all else goes through untouched."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.llm.dialects.openai.answer import Completion
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.taps.tap import LocalCall
from proxy.observe.labels import CallResult
from tests.servers.client import browser, eventually, opened, read, scrape, signed
from tests.servers.scripted import Asked
from tests.servers.serving import flag_document
from tests.servers.streaming import EXTRACTION, START, SUMMARY, answer
from tests.servers.tapping import (
    COMPLETIONS,
    EVENT_STREAM,
    Backend,
    Provider,
    chat,
    chunks,
    completion,
    tapped,
    trace_context,
    whole,
)

TEXTS = {"extraction": EXTRACTION, "summary": SUMMARY}


async def counted(client: httpx.AsyncClient, admin: str) -> dict[str, int]:
    """Calls by result, those of none left out."""
    figures = await scrape(client, admin)
    found = {name: int(figures[f'headgate_tap_calls_total{{result="{name}"}}']) for name in CallResult}
    return {name: count for name, count in found.items() if count}


async def test_tokens_are_shown_while_the_backend_still_waits_for_its_answer(tmp_path: Path) -> None:
    """The first words are with the viewer before the provider has said its last."""
    go_on = asyncio.Event()

    async def halting(asked: Asked, events: list[bytes]) -> None:
        await asked.send(EVENT_STREAM + b"".join(events[:8]))
        await go_on.wait()
        await asked.send(b"".join(events[8:]))
        asked.writer.close()

    async with (
        tapped(tmp_path, Provider(stream=halting)) as (serving, backend, client),
        opened(client, START, signed()) as stream,
    ):
        first = await stream.until(lambda event: event["type"] == "content_chunk")
        assert backend.answers == []
        go_on.set()
        await stream.rest()
        results = await counted(client, serving.admin_url)

    assert EXTRACTION.startswith(first["content"])
    assert stream.texts() == TEXTS
    assert stream.last["metadata"]["recovered"] is False
    assert stream.last["metadata"]["source"] == "tap"
    assert json.loads(stream.last["metadata"]["result"]) == json.loads(answer())
    assert "content_replace" not in stream.types
    assert results == {"tapped": 2}


async def test_the_backend_gets_the_batch_answer_it_asked_for(tmp_path: Path) -> None:
    """Every field, the provider's own headers, and no sign of a stream."""
    provider = Provider()
    async with tapped(tmp_path, provider) as (_, backend, client):
        await read(client, START, signed())

    for reply, text in zip(backend.answers, TEXTS.values(), strict=True):
        assert reply.status_code == 200
        assert reply.json() == completion(text)
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-request-id"] == "req-1"
        assert int(reply.headers["content-length"]) == len(reply.content)
    for body, prompt in zip(provider.bodies, TEXTS, strict=True):
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        assert body == chat(prompt) | asked


async def test_the_provider_learns_nothing_of_ours_and_all_of_the_clients_trace(tmp_path: Path) -> None:
    """Our member is taken out; the client's trace, its other members and its own headers go on."""
    provider = Provider()
    traced = signed(
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        tracestate="congo=t61,hg=forged-forged-forged-forged-forged",
    )
    async with tapped(tmp_path, provider) as (_, _, client):
        stream = await read(client, START, traced)

    assert stream.texts() == TEXTS
    for asked in provider.upstream.asked:
        assert asked.header(b"traceparent") == traced["traceparent"].encode()
        assert asked.header(b"tracestate") == b"congo=t61"
        assert asked.target == COMPLETIONS.encode()
        assert asked.header(b"host") == f"127.0.0.1:{provider.upstream.port}".encode()
        assert asked.header(b"x-forwarded-for") is None


async def test_a_backend_that_passes_no_trace_on_is_answered_all_the_same(tmp_path: Path) -> None:
    """Its calls belong to no run: they are relayed, the text comes with the batch answer, it is counted."""
    provider = Provider()
    async with tapped(tmp_path, provider, Backend(passes=lambda asked: {})) as (serving, _, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)
        figures = await scrape(client, serving.admin_url)

    assert stream.texts() == TEXTS
    assert [body.get("stream") for body in provider.bodies] == [None, None]
    assert results == {"no_context": 2}
    runs = 'headgate_runs_total{arm="stream",outcome="fell_back",route="start",source="tap"}'
    assert figures[runs] == 1
    assert stream.last["metadata"]["recovered"] is True


@pytest.mark.parametrize("token", ["forged-forged-forged-forged-forged", ""])
async def test_a_call_of_no_run_goes_through_untouched(tmp_path: Path, token: str) -> None:
    """Byte for byte, streaming calls too, under the provider's path and query."""
    provider = Provider()
    async with tapped(tmp_path, provider) as (serving, _, _), browser(serving.model_url) as client:
        headers = {"tracestate": f"hg={token}"} if token else {}
        batch = await client.post(f"/models{COMPLETIONS}?v=1", json=chat("summary"), headers=headers)
        live = await client.post(f"/models{COMPLETIONS}", json=chat("summary", stream=True), headers=headers)

    assert batch.json() == completion(SUMMARY)
    assert live.content == b"".join(chunks(SUMMARY))
    assert provider.upstream.asked[0].target == b"/v1/chat/completions?v=1"
    assert provider.bodies == [chat("summary"), chat("summary", stream=True)]


async def test_a_token_is_good_for_nothing_once_its_run_has_its_answer(tmp_path: Path) -> None:
    """Replayed, it matches nothing."""
    provider, kept = Provider(), []

    def keeping(asked: Asked) -> dict[str, str]:
        kept.append(trace_context(asked))
        return kept[-1]

    async with tapped(tmp_path, provider, Backend(passes=keeping)) as (serving, _, client):
        stream = await read(client, START, signed())
        again = await client.post(
            f"{serving.model_url}/models{COMPLETIONS}", json=chat("summary"), headers=kept[0]
        )
        results = await counted(client, serving.admin_url)

    assert stream.texts() == TEXTS
    assert again.json() == completion(SUMMARY)
    assert provider.bodies[-1] == chat("summary")
    assert results == {"tapped": 2, "unmatched": 1}


async def test_a_backend_that_asks_for_a_stream_itself_is_tapped_too(tmp_path: Path) -> None:
    """Its stream goes through byte for byte."""
    async with tapped(tmp_path, Provider(), Backend(stream=True)) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert [reply.content for reply in backend.answers] == [b"".join(chunks(text)) for text in TEXTS.values()]
    assert stream.texts() == TEXTS
    assert "content_replace" not in stream.types
    assert results == {"tapped": 2}


@pytest.mark.parametrize(
    "postprocess",
    [str.strip, lambda text: f"## Answer\n\n{text}", str.upper],
    ids=["stripped", "wrapped", "changed"],
)
async def test_what_the_backend_stores_is_what_the_viewer_ends_with(
    tmp_path: Path, postprocess: Callable[[str], str]
) -> None:
    """The viewer ends with the stored text also if a backend changes the model's."""
    provider = Provider({"extraction": "  one two three  ", "summary": "four five"})
    async with tapped(tmp_path, provider, Backend(postprocess=postprocess)) as (_, _, client):
        stream = await read(client, START, signed())

    stored = {stage: postprocess(text) for stage, text in provider.texts.items()}
    assert stream.texts() == stored
    assert stream.last["type"] == "stream_done"
    assert "content_replace" in stream.types


async def test_a_providers_error_reaches_the_backend_as_it_is(tmp_path: Path) -> None:
    """Status, body and headers; a call that the backend repeats keeps its stage."""
    tries = 0

    async def limited(asked: Asked, events: list[bytes]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            error = b'{"error":{"message":"slow down","type":"rate_limit"}}'
            await asked.answer(
                error, b"429 Too Many Requests", b"retry-after: 0\r\nx-ratelimit-limit-requests: 9\r\n"
            )
        else:
            await whole(asked, events)

    async with tapped(tmp_path, Provider(stream=limited), Backend(attempts=2)) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    error = backend.answers[0]
    assert error.status_code == 429
    assert error.json() == {"error": {"message": "slow down", "type": "rate_limit"}}
    assert error.headers["retry-after"] == "0"
    assert error.headers["x-ratelimit-limit-requests"] == "9"
    assert stream.texts() == TEXTS
    assert "content_replace" not in stream.types
    assert results == {"failed": 1, "tapped": 2}


async def test_a_provider_that_refuses_the_stream_is_asked_as_the_backend_did(tmp_path: Path) -> None:
    """A 400 may be about the stream: the call itself gets its own answer."""

    async def refusing(asked: Asked, events: list[bytes]) -> None:
        await asked.answer(b'{"error":{"message":"no streams"}}', b"400 Bad Request")

    provider = Provider(stream=refusing)
    async with tapped(tmp_path, provider) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert [reply.status_code for reply in backend.answers] == [200, 200]
    assert stream.texts() == TEXTS
    assert [body.get("stream") for body in provider.bodies] == [True, None, None]
    assert results == {"batch": 1, "avoided": 1}


def cutting(events_sent: int, times: int = 1) -> Any:
    """A provider whose connection ends after so many events, the first `times` that it is asked."""
    left = times

    async def cut(asked: Asked, events: list[bytes]) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            await asked.send(EVENT_STREAM + b"".join(events[:events_sent]))
            asked.writer.close()
        else:
            await whole(asked, events)

    return cut


@pytest.mark.parametrize(
    ("ask_again", "events_sent", "statuses", "streams"),
    [
        ("never", 0, [502, 200, 200], [True, True, True]),
        ("never", 5, [502, 200, 200], [True, None, True]),
        ("unbilled", 0, [200, 200], [True, None, True]),
        ("unbilled", 5, [502, 200, 200], [True, None, True]),
        ("always", 5, [200, 200], [True, None, True]),
        (None, 5, [200, 200], [True, None, True]),
    ],
)
async def test_a_stream_that_breaks_is_asked_again_as_the_setting_says(
    tmp_path: Path,
    ask_again: str | None,
    events_sent: int,
    statuses: list[int],
    streams: list[bool | None],
) -> None:
    """By default once, as batch; else the backend gets the error, and repeats it or not.

    A call whose stream broke under way is no stream when it comes again: a provider that cuts every long
    stream would fail it every time.
    """
    provider = Provider(stream=cutting(events_sent))
    llm = {"ask_again": ask_again} if ask_again else {}
    async with tapped(tmp_path, provider, Backend(attempts=2), llm=llm) as (_, backend, client):
        stream = await read(client, START, signed())

    assert [reply.status_code for reply in backend.answers] == statuses
    assert [body.get("stream") for body in provider.bodies] == streams
    assert stream.texts() == TEXTS
    assert stream.last["type"] == "stream_done"


async def test_text_of_an_attempt_that_failed_is_withdrawn(tmp_path: Path) -> None:
    """The batch answer's text is shown in its place, from the beginning."""
    provider = Provider(stream=cutting(6))
    async with tapped(tmp_path, provider, Backend(attempts=2)) as (_, _, client):
        stream = await read(client, START, signed())

    replaced = [event for event in stream.events if event["type"] == "content_replace"]
    assert [event["content"] for event in replaced] == [""]
    assert stream.texts() == TEXTS


async def test_a_stream_with_something_unknown_is_asked_again_and_not_streamed_after_it(
    tmp_path: Path,
) -> None:
    """No batch answer can be made of it for certain: the model's calls go through as batch from then on."""

    async def strange(asked: Asked, events: list[bytes]) -> None:
        await whole(
            asked, [event.replace(b'"content": ""', b'"content": "", "new_kind": 1') for event in events]
        )

    provider = Provider(stream=strange)
    async with tapped(tmp_path, provider) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert [reply.status_code for reply in backend.answers] == [200, 200]
    assert [body.get("stream") for body in provider.bodies] == [True, None, None]
    assert stream.texts() == TEXTS
    assert results == {"lost": 1, "avoided": 1}


async def test_a_field_that_nobody_knows_and_that_changes_nothing_is_kept_and_counted(tmp_path: Path) -> None:
    """The backend gets it as it came, and the admin port names it."""

    async def strange(asked: Asked, events: list[bytes]) -> None:
        await whole(asked, [event.replace(b'"model"', b'"region": "eu", "model"') for event in events])

    async with tapped(tmp_path, Provider(stream=strange)) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)
        kept = (await client.get(f"{serving.admin_url}/llm")).json()["kept_fields"]

    assert results == {"tapped": 2}
    assert [reply.json() for reply in backend.answers] == [
        completion(text) | {"region": "eu"} for text in TEXTS.values()
    ]
    assert stream.texts() == TEXTS
    assert kept == [{"provider": "models", "field": "region", "answers": 2}]


@pytest.mark.parametrize("reason", ["content_filter", "a new one"])
async def test_an_answer_that_a_filter_ended_is_asked_again_and_its_text_withdrawn(
    tmp_path: Path, reason: str
) -> None:
    """The batch answer has no text then: what was shown of it is no answer, and the backend never has it."""
    refused = completion("")
    refused["choices"][0] |= {"finish_reason": reason, "message": {"role": "assistant", "content": None}}
    provider = Provider(
        {"extraction": EXTRACTION, "summary": SUMMARY}, batch={"extraction": refused}, stream=filtered(reason)
    )
    async with tapped(tmp_path, provider) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert backend.answers[0].json() == refused
    assert "None" in stream.texts()["extraction"]
    assert [event["content"] for event in stream.events if event["type"] == "content_replace"] == [""]
    assert [body.get("stream") for body in provider.bodies[:2]] == [True, None]
    assert results["lost"] == 1


def filtered(reason: str) -> Any:
    """The first call's stream ends early, for a reason of its own."""

    async def script(asked: Asked, events: list[bytes]) -> None:
        if EXTRACTION[:4].encode() in events[1]:
            ended = events[-3].replace(b'"stop"', json.dumps(reason).encode())
            events = [*events[:6], ended, *events[-2:]]
        await whole(asked, events)

    return script


async def test_what_cannot_be_streamed_faithfully_goes_through_as_batch(tmp_path: Path) -> None:
    """Several choices with log probabilities, for one."""
    provider = Provider()

    async def backend(asked: Asked) -> None:
        await asked.read_body()
        async with browser() as client:
            for prompt in TEXTS:
                body = chat(prompt, n=2, logprobs=True)
                await client.post(model_url + COMPLETIONS, json=body, headers=trace_context(asked))
        await asked.answer(answer())

    async with tapped(tmp_path, provider, backend) as (serving, _, client):  # type: ignore[arg-type]
        model_url = f"{serving.model_url}/models"
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert [body.get("stream") for body in provider.bodies] == [None, None]
    assert stream.texts() == TEXTS
    assert results == {"batch": 2}


async def test_a_backend_that_gives_a_call_up_closes_the_providers_stream(tmp_path: Path) -> None:
    """The provider's call is aborted, and the text that was shown is withdrawn."""

    async def endless(asked: Asked, events: list[bytes]) -> None:
        await asked.send(EVENT_STREAM + b"".join(events[:6]))
        await asked.reader.read()  # until it is closed
        asked.writer.close()

    provider = Provider(stream=endless)
    showing = asyncio.Event()

    async def backend(asked: Asked) -> None:
        await asked.read_body()
        async with browser() as client:
            call = asyncio.create_task(
                client.post(model_url + COMPLETIONS, json=chat("extraction"), headers=trace_context(asked))
            )
            await showing.wait()
            call.cancel()
            await asyncio.wait({call})
            await eventually(lambda: provider.upstream.open == 0)
        await asked.answer(answer())

    async with tapped(tmp_path, provider, backend) as (serving, _, client):  # type: ignore[arg-type]
        model_url = f"{serving.model_url}/models"
        async with opened(client, START, signed()) as stream:
            await stream.until(lambda event: event["type"] == "content_chunk")
            showing.set()
            await stream.rest()
        results = await counted(client, serving.admin_url)

    assert stream.texts() == TEXTS
    assert results == {"left": 1}


async def test_a_path_of_no_provider_is_told_so(tmp_path: Path) -> None:
    """And not that of the public port: what comes there is passed on to no model."""
    async with tapped(tmp_path, Provider()) as (serving, _, client):
        reply = await client.post(f"{serving.model_url}/other{COMPLETIONS}", json=chat("summary"))

    assert reply.status_code == 404
    assert "llm.providers" in reply.json()["detail"]


async def test_a_variant_called_dark_takes_the_tokens_and_shows_nobody(tmp_path: Path) -> None:
    """Batch for everybody, byte for byte, at no extra call; first text and parity are counted."""
    flags = flag_document(variants=[{"name": "dark", "weight": 1000}])
    provider = Provider()
    async with tapped(tmp_path, provider, flags=flags) as (serving, _, client):
        plain = await client.post(START, headers=signed(accept="application/json"))
        either = await client.post(START, headers=signed(accept="text/event-stream, application/json"))
        figures = await scrape(client, serving.admin_url)
        results = await counted(client, serving.admin_url)

    assert plain.content == either.content == answer()
    assert plain.headers["content-type"] == "application/json"
    assert len(provider.bodies) == 4
    assert all(body["stream"] for body in provider.bodies)
    assert results == {"tapped": 4}
    assert figures['headgate_requests_total{mode="batch",reason="dark",route="start"}'] == 2
    assert figures['headgate_parity_total{result="equal",route="start"}'] == 4
    assert figures['headgate_first_content_seconds_count{route="start",source="tap"}'] == 2
    assert figures['headgate_runs_total{arm="stream",outcome="complete",route="start",source="tap"}'] == 2
    assert figures['headgate_viewers{route="start"}'] == 0


async def test_a_mistake_of_ours_costs_the_live_text_and_not_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In reading a call or its stream, and in showing it: the backend is told what it would have been."""

    def mistake(*_: Any) -> Any:
        raise TypeError("unhashable type: 'list'")

    for owner, name in (
        (OpenAI, "is_call"),
        (OpenAI, "prompt"),
        (OpenAI, "as_stream"),
        (Completion, "feed"),
        (Completion, "answer"),
        (LocalCall, "add"),
        (LocalCall, "end"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, mistake)
            async with tapped(tmp_path, Provider()) as (_, backend, client):
                stream = await read(client, START, signed())

        assert stream.texts() == TEXTS, name
        assert [reply.json() for reply in backend.answers] == [completion(text) for text in TEXTS.values()]


async def test_in_the_dark_texts_are_kept_as_far_as_there_is_room(tmp_path: Path) -> None:
    """They share it with copies of answers. Without it nothing is compared, and the answer is the same."""
    flags = flag_document(variants=[{"name": "dark", "weight": 1000}])
    provider = Provider({"extraction": "a long finding " * 200, "summary": SUMMARY})
    backend, limits = Backend(postprocess=lambda text: text[:20]), {"answers": 2_000}
    async with tapped(tmp_path, provider, backend, flags=flags, limits=limits) as (serving, _, client):
        plain = await client.post(START, headers=signed(accept="application/json"))
        figures = await scrape(client, serving.admin_url)

        assert plain.content == answer("a long finding a lon", SUMMARY[:20])
        assert figures['headgate_over_budget_total{budget="answers"}'] == 1
        assert figures['headgate_parity_total{result="replaced",route="start"}'] == 0
        assert serving.app.gateway.batch.answers.held == 0


async def test_a_call_of_very_many_values_goes_through_as_batch(tmp_path: Path) -> None:
    """Reading it would block the loop. It is passed on byte for byte, and its run has no live text."""
    provider = Provider()
    values = {"tools": [[]] * 150_000}

    class Crowded(Backend):
        async def _ask(self, client: httpx.AsyncClient, prompt: str, headers: dict[str, str]) -> Any:
            body = chat(prompt, **values)
            reply = await client.post(f"/models{COMPLETIONS}", json=body, headers=headers)
            self.answers.append(reply)
            return reply

    async with tapped(tmp_path, provider, Crowded()) as (serving, _, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert stream.texts() == TEXTS
    assert provider.bodies == [chat(prompt, **values) for prompt in TEXTS]
    assert results == {"batch": 2}


async def test_a_stream_that_there_is_no_room_for_is_asked_again_as_batch(tmp_path: Path) -> None:
    """All calls' bodies and streams have one budget. Nothing is learned, and the room is given back."""
    long = "more of the very same finding " * 200
    provider = Provider({"extraction": long, "summary": SUMMARY})
    limits = {"bodies": 8_000}
    async with tapped(tmp_path, provider, limits=limits) as (serving, backend, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)
        figures = await scrape(client, serving.admin_url)

    assert stream.texts() == {"extraction": long, "summary": SUMMARY}
    assert [reply.json() for reply in backend.answers] == [completion(long), completion(SUMMARY)]
    assert [body.get("stream") for body in provider.bodies] == [True, None, True]
    assert results == {"lost": 1, "tapped": 1}
    assert figures['headgate_over_budget_total{budget="bodies"}'] == 1


STRUCTURED = [json.dumps({"thought": "Hm", "summary": text, "confidence": 0.9}) for text in TEXTS.values()]


def in_json(pieces_of: Callable[[str], list[bytes]], *at: str) -> tuple[Provider, Backend, dict[str, Any]]:
    """A model that writes the texts in JSON, a backend that takes them out, and the settings for it."""

    async def stream(asked: Asked, events: list[bytes]) -> None:
        said = STRUCTURED[0 if b"extraction" in asked.body else 1]
        await whole(asked, pieces_of(said))

    calls = [{"stage": stage, "at": list(at) or "$.summary"} for stage in TEXTS]
    return Provider(stream=stream), Backend(), {"route": {"tap": {"calls": calls}}}


def as_arguments(said: str) -> list[bytes]:
    """The events of a stream whose text are a tool's arguments."""
    events = [json.loads(event[6:]) for event in chunks(said)[:-1]]
    for event in events:
        for choice in event["choices"]:
            delta = choice["delta"]
            if piece := delta.pop("content", None):
                delta["tool_calls"] = [{"index": 0, "function": {"arguments": piece}}]
            if choice["finish_reason"]:
                choice["finish_reason"] = "tool_calls"
    first = {"index": 0, "id": "c", "type": "function", "function": {"name": "note", "arguments": ""}}
    events[0]["choices"][0]["delta"]["tool_calls"] = [first]
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


@pytest.mark.parametrize("pieces_of", [chunks, as_arguments], ids=["content", "a tool's arguments"])
async def test_of_an_answer_in_json_its_text_alone_is_shown_as_it_grows(
    tmp_path: Path, pieces_of: Callable[[str], list[bytes]]
) -> None:
    """The backend gets the JSON; the viewer sees no brace of it, and nothing is replaced."""
    provider, backend, more = in_json(pieces_of)
    backend.text_of = structured
    async with tapped(tmp_path, provider, backend, **more) as (serving, _, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert results == {"tapped": 2}
    assert stream.texts() == TEXTS
    assert "content_replace" not in stream.types
    assert stream.types.count("content_chunk") > 4
    assert stream.last["metadata"]["recovered"] is False


async def test_several_texts_of_an_answer_in_json_are_shown_in_the_order_of_the_list(tmp_path: Path) -> None:
    """Each is a paragraph, also where the model writes them in another order."""
    provider, backend, more = in_json(as_arguments, "$.summary", "$.thought")
    backend.text_of = lambda reply: f"{structured(reply)}\n\nHm"
    async with tapped(tmp_path, provider, backend, **more) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.texts() == {stage: f"{text}\n\nHm" for stage, text in TEXTS.items()}
    assert "content_replace" not in stream.types
    assert stream.types.count("content_chunk") > 4


async def test_json_that_was_asked_for_is_not_shown_raw(tmp_path: Path) -> None:
    """Without a path its text comes with the batch answer, and no brace of it before."""
    provider, backend, _ = in_json(chunks)
    backend.text_of, backend.more = structured, {"response_format": {"type": "json_object"}}
    async with tapped(tmp_path, provider, backend) as (serving, _, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert results == {"tapped": 2}
    assert stream.texts() == TEXTS
    assert not any("{" in event.get("content", "") for event in stream.events)
    assert "content_replace" not in stream.types


def structured(reply: httpx.Response) -> str:
    """The text of an answer in JSON, or of a tool's arguments."""
    message = reply.json()["choices"][0]["message"]
    said = message["content"] or message["tool_calls"][0]["function"]["arguments"]
    return str(json.loads(said)["summary"])
