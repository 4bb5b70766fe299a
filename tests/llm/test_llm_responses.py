"""OpenAI's Responses: what a stream makes is what the batch call would have been told, or it is refused."""

import json
from typing import Any

import pytest
from openai.types.responses import Response

from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, Prompt, ProviderFailed, Unfaithful
from proxy.llm.dialects.openai.responses import Responses
from tests.llm import assembling

TARGET = b"/v1/responses"
CALL = {"model": "gpt-5", "input": "a"}

Json = dict[str, Any]


def message(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": []}


USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 7,
}


def response(*output: Json, status: str = "completed", **more: Any) -> Json:
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None}
    said = {"id": "resp_1", "object": "response", "created_at": 1.0, "model": "gpt-5", "status": status}
    return said | rest | {"output": list(output), "usage": USAGE} | more


def said(*pieces: str) -> list[Json]:
    deltas = [{"type": "response.output_text.delta", "output_index": 1, "delta": piece} for piece in pieces]
    return [{"type": "response.created", "response": response(status="in_progress")}, *deltas]


def done(index: int, item: Json) -> Json:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def ends(how: str, answer: Json) -> Json:
    return {"type": f"response.{how}", "sequence_number": 9, "response": answer}


def assembled(*events: Json, choices: int | None = 1) -> tuple[Json, str]:
    answer, shown = assembling.assembled(Responses(), *events, choices=choices)
    Response.model_validate(answer, strict=True)
    return answer, shown


def test_the_last_event_is_the_answer_and_its_text_was_shown() -> None:
    whole = response(THOUGHT, message("Hey 😀"), billing={"payer": "developer"})

    events = [*said("He", "y 😀"), {"type": "response.new_event", "new": 1}, ends("completed", whole)]
    assert assembled(*events) == (whole, "Hey 😀")


def test_a_refusal_is_shown_too() -> None:
    refused = message("") | {"content": [{"type": "refusal", "refusal": "No."}]}
    delta = {"type": "response.refusal.delta", "delta": "No."}

    assert assembled(*said(), delta, ends("completed", response(refused)))[1] == "No."


@pytest.mark.parametrize("output", [None, []])
def test_an_output_that_the_last_event_lacks_is_made_of_the_items(output: Any) -> None:
    """They come in any order, each with its place."""
    items = [done(1, message("Hey")), done(0, THOUGHT)]
    last = ends("completed", response() | {"output": output})

    assert assembled(*said("Hey"), *items, last)[0] == response(THOUGHT, message("Hey"))


def test_items_without_a_place_count_in_the_last_event_alone() -> None:
    """llama.cpp's have none."""
    stray = {"type": "response.output_item.done", "item": message("Hi")}

    assert assembled(stray, ends("completed", response(message("Hi"))))[0] == response(message("Hi"))
    with pytest.raises(Unfaithful):
        assembled(stray, ends("completed", response() | {"output": None}))


def test_an_answer_that_is_too_long_is_the_batch_answer() -> None:
    cut = response(message("a"), status="incomplete", incomplete_details={"reason": "max_output_tokens"})

    assert assembled(*said("a"), ends("incomplete", cut)) == (cut, "a")


@pytest.mark.parametrize(
    "last",
    [
        ends(
            "incomplete",
            response(message("a"), status="incomplete", incomplete_details={"reason": "content_filter"}),
        ),
        ends("completed", response(message("a"), content_filters=[{"blocked": True}])),
    ],
)
def test_a_filter_makes_no_answer_and_says_nothing_of_the_next(last: Json) -> None:
    with pytest.raises(AbnormalFinish):
        assembled(*said("a"), last)
    assert assembled(*said("a"), last, choices=None)[1] == "a"


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([ends("cancelled", response(status="cancelled"))], id="cancelled"),
        pytest.param([ends("completed", response(status="queued"))], id="a status that is no end"),
        pytest.param([done(1, THOUGHT), ends("completed", response())], id="an item that is missing"),
        pytest.param([done(0, THOUGHT), done(0, THOUGHT)], id="an item that comes again"),
        pytest.param([done(-1, THOUGHT)], id="no index"),
        pytest.param([{"type": "response.output_text.delta", "delta": "\ud83d"}], id="half a character"),
        pytest.param([{"type": "response.output_text.delta"}], id="no text"),
        pytest.param([{"type": "response.completed"}], id="no response"),
        pytest.param([ends("completed", response(THOUGHT)), *said()], id="more after the end"),
        pytest.param([*said("a"), ends("completed", response(message("a"), usage=None))], id="no usage"),
        pytest.param([*said("a"), ends("completed", response())], id="a text that no item has"),
        pytest.param(
            [*said("a"), done(0, message("")), ends("completed", response())], id="an item without its text"
        ),
    ],
)
def test_what_cannot_be_joined_for_certain_is_refused(events: list[Json]) -> None:
    with pytest.raises(Unfaithful):
        assembled(*events)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "no", "param": None}, 429),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, 400),
        ({"error": {"message": "no"}}, 500),
        (ends("failed", response(status="failed", error={"code": "server_error", "message": "no"})), 500),
        (ends("failed", response(status="failed", error={"code": "insufficient_quota"})), 429),
        (ends("failed", response(status="failed", error={"code": "invalid_image_url"})), 400),
        (ends("failed", response(status="failed", error=None)), 500),
    ],
)
def test_an_error_in_the_stream_has_its_status_and_the_shape_of_an_error(event: Json, status: int) -> None:
    with pytest.raises(ProviderFailed) as failed:
        Responses().assembler(1).feed(json.dumps(event))

    assert failed.value.status == status
    assert json.loads(failed.value.body).keys() == {"error"}


@pytest.mark.parametrize(
    ("host", "more"),
    [
        ("api.openai.com", {"stream": True, "stream_options": {"include_obfuscation": False}}),
        ("api.x.ai", {"stream": True}),
    ],
)
def test_a_call_is_asked_as_a_stream_and_else_as_it_came(host: str, more: Json) -> None:
    """Without padding, where the provider is known to have that option."""
    told = CALL | {"instructions": "Be brief.", "input": [{"role": "developer", "content": "Be kind."}]}
    stream = Responses(host).as_stream("POST", TARGET + b"?api-version=1", json.dumps(told).encode())

    assert stream is not None
    assert stream.target == TARGET + b"?api-version=1"
    assert stream.prompt == Prompt("gpt-5", "Be brief.\nBe kind.")
    assert json.loads(stream.body) == told | more


@pytest.mark.parametrize(
    "more",
    [
        {"background": True},
        {"store": True},
        {"conversation": "conv_1"},
        {"stream": True},
        {"stream_options": {}},
    ],
)
def test_what_is_kept_for_later_goes_through_as_batch(more: Json) -> None:
    with pytest.raises(NotStreamable):
        Responses().as_stream("POST", TARGET, json.dumps(CALL | more).encode())


@pytest.mark.parametrize("target", [TARGET + b"/resp_1", TARGET + b"/input_tokens", b"/v1/completions"])
def test_what_is_no_call_for_a_response_is_none(target: bytes) -> None:
    assert Responses().as_stream("POST", target, json.dumps(CALL).encode()) is None
    assert Responses().prompt("POST", TARGET, b"[]") is None


@pytest.mark.parametrize(
    ("body", "is_answer"),
    [(response(THOUGHT), True), (response(status="queued"), False), ({"error": {}}, False)],
)
def test_a_body_is_known_for_a_batch_answer_by_its_shape(body: Any, *, is_answer: bool) -> None:
    assert Responses().is_answer(json.dumps(body).encode(), 1) is is_answer
