"""Cohere's chat: what a stream makes is what the batch call would have been told, or it is refused."""

import json
from functools import partial
from typing import Any

import pytest

from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, Prompt, Unfaithful
from proxy.llm.dialects.cohere import Cohere
from tests.llm import assembling

TARGET = b"/v2/chat"
CALL = {"model": "command-a", "messages": [{"role": "system", "content": "Be brief."}]}
USAGE = {"billed_units": {"input_tokens": 9}, "tokens": {"input_tokens": 99}}

Json = dict[str, Any]


def start() -> Json:
    empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    return {"id": "1", "type": "message-start", "delta": {"message": empty}}


def says(kind: str, index: int | None = None, **message: Any) -> Json:
    at = {} if index is None else {"index": index}
    return {"type": kind} | at | ({"delta": {"message": message}} if message else {})


def content(index: int, kind: str, *pieces: str) -> list[Json]:
    return [
        says("content-start", index, content={"type": kind, kind: ""}),
        *(says("content-delta", index, content={kind: piece}) for piece in pieces),
        says("content-end", index),
    ]


def call(arguments: str = "", call_id: str = "c") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": "dose", "arguments": arguments}}


def tool(index: int, *pieces: str) -> list[Json]:
    return [
        says("tool-call-start", index, tool_calls=call()),
        *(says("tool-call-delta", index, tool_calls={"function": {"arguments": piece}}) for piece in pieces),
        says("tool-call-end", index),
    ]


def end(reason: str = "COMPLETE", **more: Any) -> Json:
    return {"type": "message-end", "delta": {"finish_reason": reason, "usage": USAGE} | more}


def answer(reason: str = "COMPLETE", **message: Any) -> Json:
    return {"id": "1", "message": {"role": "assistant"} | message, "finish_reason": reason, "usage": USAGE}


assembled = partial(assembling.assembled, Cohere())


CITED = {
    "start": 0,
    "end": 2,
    "text": "So",
    "sources": [{"type": "document", "id": "d"}],
    "type": "TEXT_CONTENT",
}


@pytest.mark.parametrize(
    ("events", "batch", "shown"),
    [
        pytest.param(
            [start(), *content(0, "text", "So", " 😀"), end()],
            answer(content=[{"type": "text", "text": "So 😀"}]),
            "So 😀",
            id="text",
        ),
        pytest.param(
            [start(), *content(0, "thinking", "Hm", "m"), *content(1, "text", "So"), end("MAX_TOKENS")],
            answer(
                "MAX_TOKENS",
                content=[{"type": "thinking", "thinking": "Hmm"}, {"type": "text", "text": "So"}],
            ),
            "So",
            id="thoughts",
        ),
        pytest.param(
            [
                start(),
                says("tool-plan-delta", tool_plan="I "),
                says("tool-plan-delta", tool_plan="will."),
                *tool(0, '{"mg":', "5}"),
                *tool(1, "{}"),
                end("TOOL_CALL"),
            ],
            answer("TOOL_CALL", tool_plan="I will.", tool_calls=[call('{"mg":5}'), call("{}")]),
            "",
            id="tools",
        ),
        pytest.param(
            [
                start(),
                *content(0, "text", "So"),
                says("citation-start", 0, citations=CITED),
                says("citation-end", 0),
                end(error=None),
            ],
            answer(content=[{"type": "text", "text": "So"}], citations=[CITED]),
            "So",
            id="citations",
        ),
    ],
)
def test_a_stream_makes_the_batch_answer(events: list[Json], batch: Json, shown: str) -> None:
    """Field for field, without the lists that a stream begins with; no beginning of it makes an answer."""
    assert assembled(*events) == (batch, shown)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([start(), start()], id="a second message"),
        pytest.param([*content(0, "text", "a"), end()], id="no message"),
        pytest.param([start(), {"type": "new", "delta": {}}], id="an unknown event"),
        pytest.param([start(), *content(1, "text", "a")], id="an item that is missing"),
        pytest.param(
            [start(), says("content-start", 0, content={"type": "text", "text": ""}, more=1)], id="two fields"
        ),
        pytest.param(
            [start(), *content(0, "text"), says("content-delta", 0, content={"new": "a"})],
            id="an unknown field beside the text",
        ),
        pytest.param([start(), *tool(0), end("TOOL_CALL")], id="no arguments"),
        pytest.param([start(), *tool(0, "{}{}"), end("TOOL_CALL")], id="arguments that come again"),
        pytest.param([start(), *content(0, "text", "a"), end(), end() | {"new": 1}], id="more after the end"),
        pytest.param([start(), *content(0, "text", "\ud83d")], id="half a character"),
        pytest.param([start(), *content(0, "text", "a"), end(), end()], id="more after the end"),
        pytest.param([start(), *content(0, "text", "a"), end(usage=None)], id="no usage"),
    ],
)
def test_what_cannot_be_joined_for_certain_is_refused(events: list[Json]) -> None:
    with pytest.raises(Unfaithful) as refused:
        assembled(*events)

    assert not isinstance(refused.value, AbnormalFinish)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([start(), *content(0, "text", "a"), end("ERROR", error="no")], id="an error"),
        pytest.param([start(), *tool(0, '{"mg"'), end("MAX_TOKENS")], id="arguments that were cut"),
    ],
)
def test_an_end_of_this_answer_alone_says_nothing_of_the_next(events: list[Json]) -> None:
    with pytest.raises(AbnormalFinish):
        assembled(*events)


def test_a_call_is_asked_as_a_stream_and_else_as_it_came() -> None:
    stream = Cohere().as_stream("POST", TARGET, json.dumps(CALL).encode())

    assert stream is not None
    assert (stream.target, stream.prompt) == (TARGET, Prompt("command-a", "Be brief."))
    assert json.loads(stream.body) == CALL | {"stream": True}


@pytest.mark.parametrize("more", [{"stream": True}, {"logprobs": True}])
def test_what_no_stream_could_answer_goes_through_as_batch(more: Json) -> None:
    with pytest.raises(NotStreamable):
        Cohere().as_stream("POST", TARGET, json.dumps(CALL | more).encode())


@pytest.mark.parametrize("target", [b"/v1/chat", b"/v2/embed"])
def test_what_is_no_call_for_text_is_none(target: bytes) -> None:
    assert Cohere().as_stream("POST", target, json.dumps(CALL).encode()) is None


@pytest.mark.parametrize(("body", "is_answer"), [(answer(), True), ({"message": "no"}, False)])
def test_a_body_is_known_for_a_batch_answer_by_its_shape(body: Any, *, is_answer: bool) -> None:
    assert Cohere().is_answer(json.dumps(body).encode(), 1) is is_answer
