"""The demo's model server: one text in batch and in stream, at a set speed, and faults on request."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from examples.clinic.model.texts import LAYOUTS, write
from tests.clinic_server import running_model

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
    """What a stream says, one item an event; the last is `[DONE]`."""
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
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(one["choices"][0]["delta"]) == {"content"} for one in tokens)
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == len(tokens)
    assert {one["object"] for one in events} == {"chat.completion.chunk"}
    assert len({one["id"] for one in events}) == 1


def test_both_modes_take_as_long_as_the_text(model: httpx.Client):
    """First token and speed decide; batch hides the wait, it does not save it."""
    expected_s = SPEED["first_token_s"] + len(write(prompt(), seed=7, tokens=60)) / SPEED["tokens_per_s"]

    for stream in (False, True):
        began = time.monotonic()
        model.post(PATH, json=asked(stream=stream))
        took_s = time.monotonic() - began

        assert expected_s <= took_s < expected_s + 0.5


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
def test_a_cut_answer_does_not_look_complete(model: httpx.Client, stream: bool):
    """The connection closes in the middle; HTTP itself shows that something is missing."""
    with pytest.raises(httpx.RemoteProtocolError):
        model.post(PATH, json=asked(stream=stream) | {"model": "fault-cut"})


def test_the_models_are_listed(model: httpx.Client):
    """One, under the name that the clinic asks for."""
    listed = model.get("/models").json()

    assert [one["id"] for one in listed["data"]] == ["clinic-synthetic"]
