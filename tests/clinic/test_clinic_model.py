"""The demo's model server: one text in batch and in stream, at a set speed, and faults on request."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from examples.clinic.model.texts import LAYOUTS, write
from tests.servers.clinic_server import running_model

PATH = "/chat/completions"
SPEED = {"first_token_s": 0.05, "tokens_per_s": 600.0}


@pytest.fixture(scope="module")
def model() -> Iterator[httpx.Client]:
    # No TLS here, and loading the certificates for it takes longer than most tests.
    with running_model(**SPEED) as url, httpx.Client(base_url=f"{url}/v1", verify=False) as client:
        yield client


def prompt(task: str = "diagnosis") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Task: {task}\n\nfever and cough"}]


def asked(**more: object) -> dict[str, Any]:
    return {"model": "clinic-synthetic", "messages": prompt(), **more}


def chunks(model: httpx.Client, **more: object) -> list[Any]:
    """Return the content of a stream, one item for each event; the last is `[DONE]`."""
    answer = model.post(PATH, json=asked(stream=True, **more))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_batch_and_stream_say_the_same(model: httpx.Client):
    """Byte for byte, however it is asked for."""
    batch = model.post(PATH, json=asked()).json()

    deltas = [one["choices"][0]["delta"] for one in chunks(model)]

    assert "".join(delta.get("content", "") for delta in deltas) == batch["choices"][0]["message"]["content"]


def test_a_stream_has_the_shape_of_openais(model: httpx.Client):
    """The role first, then tokens, then the reason for the end, then the usage if it was asked for."""
    events = chunks(model, stream_options={"include_usage": True})

    first, *tokens, last, usage = events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(set(one["choices"][0]["delta"]) == {"content"} for one in tokens)
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == len(tokens)
    assert {one["object"] for one in events} == {"chat.completion.chunk"}
    assert len({one["id"] for one in events}) == 1


def test_both_modes_take_as_long_as_the_text(model: httpx.Client):
    """First token and speed decide; batch hides the wait, it does not save it."""
    expected_s = SPEED["first_token_s"] + len(write(prompt(), seed=7, tokens=60)) / SPEED["tokens_per_s"]

    for stream in (False, True):
        for _ in range(10):  # a machine that is busy gets ten tries
            began = time.monotonic()
            model.post(PATH, json=asked(stream=stream))
            took_s = time.monotonic() - began
            assert took_s >= expected_s
            if took_s < expected_s + 0.5:
                break

        assert took_s < expected_s + 0.5


@pytest.mark.parametrize("task", [*LAYOUTS, "summary"])
def test_a_text_depends_on_seed_and_messages_alone(task: str):
    """Clinical markdown: level 1 first, a table, characters beyond ASCII, about as long as asked."""
    text = write(prompt(task), seed=7, tokens=400)

    assert write(prompt(task), seed=7, tokens=400) == text
    assert write(prompt(task), seed=8, tokens=400) != text
    assert "".join(text).startswith("# ") and "| --- |" in "".join(text)
    assert not "".join(text).isascii()
    assert 340 < len(text) <= 400


def test_a_validation_says_yes():
    """The workflow looks for exactly this."""
    assert "✅ Yes" in "".join(write(prompt("validation"), seed=1, tokens=60))


@pytest.mark.parametrize("name", ["fault-503", "fault-503:diagnosis"])
def test_a_fault_is_asked_for_by_header_or_model(model: httpx.Client, name: str):
    """OpenAI's error JSON with the status in the name."""
    by_model = model.post(PATH, json=asked() | {"model": name})
    by_header = model.post(PATH, json=asked(), headers={"x-model-fault": name})

    assert by_model.status_code == by_header.status_code == 503
    assert by_model.json()["error"]["type"] == "server_error"


def test_a_fault_for_another_task_does_not_strike(model: httpx.Client):
    """`fault-503:validation` leaves a diagnosis alone."""
    assert model.post(PATH, json=asked() | {"model": "fault-503:validation"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["fault-cut", "fault-cut-3", "fault-cut-9999"])
def test_a_cut_answer_does_not_look_complete(model: httpx.Client, name: str, stream: bool):
    """The connection closes in the middle; HTTP itself shows that something is missing."""
    with pytest.raises(httpx.RemoteProtocolError):
        model.post(PATH, json=asked(stream=stream) | {"model": name})


def received(
    model: httpx.Client, name: str, path: str = PATH, body: dict[str, Any] | None = None
) -> list[str]:
    """The events of a stream with a fault, as far as they come."""
    text = ""
    body = body or asked(stream=True)
    with model.stream("POST", path, json=body, headers={"x-model-fault": name}, timeout=0.5) as answer:
        assert answer.status_code == 200
        with suppress(httpx.RemoteProtocolError, httpx.ReadTimeout):
            for part in answer.iter_text():
                text += part
    return [block.removeprefix("data: ") for block in text.replace("\r\n", "\n").split("\n\n") if block]


@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_a_stream_may_end_after_so_many_tokens(model: httpx.Client, kind: str):
    """The role and three tokens; a cut connection closes, a stalled one stays open."""
    events = received(model, f"fault-{kind}-3")

    assert len(events) == 1 + 3
    assert json.loads(events[-1])["choices"][0]["finish_reason"] is None


def test_a_stalled_batch_answer_stays_half(model: httpx.Client):
    """Bytes, and then nothing."""
    with pytest.raises(httpx.ReadTimeout):
        model.post(PATH, json=asked(model="fault-stall"), timeout=0.5)


def test_a_malformed_event_is_one_of_many(model: httpx.Client):
    """The events around it are whole, and the stream ends as it should; the batch answer is no JSON
    either."""
    events = received(model, "fault-malformed-3")
    batch = model.post(PATH, json=asked(model="fault-malformed"))

    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(events[4])
    assert events[-1] == "[DONE]"
    assert all(json.loads(event) for event in [*events[:4], *events[5:-1]])
    assert batch.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        batch.json()


def test_an_error_within_a_stream_is_its_last_event(model: httpx.Client):
    """In the shape of an error's body; in batch mode it is that body, with a status."""
    events = received(model, "fault-error-3")
    batch = model.post(PATH, json=asked(model="fault-error"))

    assert json.loads(events[-1]) == batch.json()
    assert batch.status_code == 500 and batch.json()["error"]["type"] == "server_error"
    assert len(events) == 1 + 3 + 1


def test_a_fault_for_once_strikes_each_prompt_once(model: httpx.Client):
    """With `retry-after`; other messages have their own first time."""
    first, second = ([{"role": "user", "content": text}] for text in ("one for once", "two for once"))
    statuses = []
    for messages in (first, first, second, second, first):
        answer = model.post(PATH, json={"model": "fault-429-once", "messages": messages})
        statuses.append(answer.status_code)
        assert answer.headers.get("retry-after") == ("1" if answer.status_code == 429 else None)

    assert statuses == [429, 200, 429, 200, 200]


@pytest.mark.parametrize(
    "path", [PATH, "/../openai/deployments/clinic-synthetic/chat/completions?api-version=1"]
)
def test_an_answer_is_the_same_byte_for_byte_every_time(model: httpx.Client, path: str):
    """Id and time of creation depend on the text; only header fields tell two calls apart."""
    batches = [model.post(path, json=asked()) for _ in range(2)]
    streams = [model.post(path, json=asked(stream=True)) for _ in range(2)]

    assert batches[0].content == batches[1].content
    assert streams[0].content == streams[1].content
    for one in batches:
        assert one.headers["x-request-id"].startswith("req_")
        assert {"openai-processing-ms", "x-ratelimit-remaining-tokens"} <= set(one.headers)
    assert batches[0].headers["x-request-id"] != batches[1].headers["x-request-id"]


def test_openais_stream_assembled_is_the_batch_answer(model: httpx.Client):
    """Field by field, except for what is a chunk's own."""
    batch = model.post(PATH, json=asked()).json()
    *events, usage = chunks(model, stream_options={"include_usage": True})

    delta: dict[str, Any] = {}
    for one in events:
        for name, value in one["choices"][0]["delta"].items():
            delta[name] = delta[name] + value if name == "content" and name in delta else value
    finish_reason = events[-1]["choices"][0]["finish_reason"]
    choice = {"index": 0, "message": delta, "logprobs": None, "finish_reason": finish_reason}
    assert usage | {"object": "chat.completion", "choices": [choice]} == batch


GEMINI = "/../v1beta/models/clinic-synthetic"
ASKED_OF_GEMINI = {"contents": [{"role": "user", "parts": [{"text": prompt()[0]["content"]}]}]}


def test_geminis_stream_assembled_is_the_batch_answer(model: httpx.Client):
    """The last event with all texts put together; and it is the text that OpenAI's shape gives."""
    batch = model.post(f"{GEMINI}:generateContent", json=ASKED_OF_GEMINI).json()
    stream = model.post(f"{GEMINI}:streamGenerateContent?alt=sse", json=ASKED_OF_GEMINI)

    events = [json.loads(block.removeprefix("data: ")) for block in stream.text.split("\r\n\r\n") if block]
    parts = [event["candidates"][0]["content"]["parts"][0] for event in events]
    parts[-1]["text"] = "".join(part["text"] for part in parts)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == batch
    assert parts[-1]["text"] == model.post(PATH, json=asked()).json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("name", "status", "word"), [("fault-429", 429, "RESOURCE_EXHAUSTED"), ("fault-error", 500, "INTERNAL")]
)
def test_geminis_failures_have_its_own_shape(model: httpx.Client, name: str, status: int, word: str):
    """A code, a sentence and a status in words; the same within a stream."""
    batch = model.post(f"{GEMINI}:generateContent", json=ASKED_OF_GEMINI, headers={"x-model-fault": name})

    assert batch.status_code == batch.json()["error"]["code"] == status
    assert batch.json()["error"]["status"] == word


def test_geminis_streams_fail_in_the_middle_too(model: httpx.Client):
    """Three tokens and the error; three tokens and nothing."""
    path = f"{GEMINI}:streamGenerateContent?alt=sse"

    failed = received(model, "fault-error-3", path, ASKED_OF_GEMINI)
    cut = received(model, "fault-cut-3", path, ASKED_OF_GEMINI)

    assert json.loads(failed[-1])["error"]["status"] == "INTERNAL"
    assert failed[:-1] == cut and len(cut) == 3


@pytest.mark.parametrize("path", [PATH, f"{GEMINI}:generateContent"])
def test_a_body_of_another_shape_is_400(model: httpx.Client, path: str):
    """In the provider's own words."""
    assert model.post(path, json={"messages": 1}).json()["error"]
    assert model.post(path, content=b"{").status_code == 400


def test_switches_add_blank_lines_and_obfuscation():
    """Off by default: a text then ends with its last word, and an event has nothing but its token."""
    with (
        running_model(switches=["--blank-end", "--obfuscation"]) as url,
        httpx.Client(base_url=f"{url}/v1", verify=False) as model,
    ):
        text = model.post(PATH, json=asked()).json()["choices"][0]["message"]["content"]
        events = chunks(model)

    assert text.endswith("\n\n")
    assert all(one["obfuscation"] for one in events)


def test_the_models_are_listed(model: httpx.Client):
    """One, under the name that the clinic asks for."""
    listed = model.get("/models").json()

    assert [one["id"] for one in listed["data"]] == ["clinic-synthetic"]
