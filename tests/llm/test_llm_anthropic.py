"""Anthropic's Messages: what a stream makes is what the batch call would have been told, or it is refused."""

import json
from functools import partial
from typing import Any

import pytest

from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, Prompt, ProviderFailed, Unfaithful
from proxy.llm.dialects.anthropic import Anthropic
from tests.llm import assembling

TARGET = b"/v1/messages"
CALL = {"model": "claude-sonnet-5", "max_tokens": 99, "messages": [{"role": "user", "content": "a"}]}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5"}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "dose", "input": {}}
PING = {"type": "ping"}
END = {"type": "message_stop"}

Json = dict[str, Any]


def start(*content: Json, **more: Any) -> Json:
    begun = {"content": list(content), "stop_reason": None, "stop_sequence": None}
    used = {"usage": {"input_tokens": 9, "output_tokens": 1, "service_tier": "standard"}}
    return {"type": "message_start", "message": MESSAGE | begun | used | more}


def block(index: int, begun: Json, *deltas: Json) -> list[Json]:
    """The events of one block."""
    grows = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    ends = {"type": "content_block_stop", "index": index}
    return [{"type": "content_block_start", "index": index, "content_block": begun}, *grows, ends]


def text(index: int, *pieces: str) -> list[Json]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def tool(index: int, *pieces: str, **more: Any) -> list[Json]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, TOOL | more, *deltas)


def stops(reason: str | None = "end_turn", **more: Any) -> Json:
    said = {"stop_reason": reason, "stop_sequence": None} | more.pop("delta", {})
    return {
        "type": "message_delta",
        "delta": said,
        "usage": {"output_tokens": 7, "input_tokens": None},
    } | more


def answer(*content: Json, reason: str = "end_turn", **more: Any) -> Json:
    used = {"input_tokens": 9, "output_tokens": 7, "service_tier": "standard"}
    ends = {"stop_reason": reason, "stop_sequence": None, "usage": used}
    return MESSAGE | {"content": list(content)} | ends | more


assembled = partial(assembling.assembled, Anthropic())


def cited(url: str) -> Json:
    return {"type": "web_search_result_location", "url": url, "cited_text": "…"}


FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]}

FALLBACK = {
    "type": "fallback",
    "from": {"model": "claude-sonnet-5"},
    "to": {"model": "claude-opus-5"},
    "trigger": {"type": "refusal"},
}

ANSWERS: dict[str, tuple[list[Json], Json, str]] = {
    "text": (
        [start(), *text(0, "Fever of ", "38.9 °C 😀"), PING, stops(), END],
        answer({"type": "text", "text": "Fever of 38.9 °C 😀"}),
        "Fever of 38.9 °C 😀",
    ),
    "thoughts, whose last signature counts": (
        [
            start(),
            *block(
                0,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": "Hm"},
                {"type": "thinking_delta", "thinking": "m"},
                {"type": "signature_delta", "signature": "one"},
                {"type": "signature_delta", "signature": "two"},
            ),
            *block(1, {"type": "redacted_thinking", "data": "xyz"}),
            *text(2, "Yes"),
            stops(),
            END,
        ],
        answer(
            {"type": "thinking", "thinking": "Hmm", "signature": "two"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "text", "text": "Yes"},
        ),
        "Yes",
    ),
    "tools": (
        [
            start(),
            *text(0, "Let me see."),
            *tool(1, "", '{"mg": ', '5,  "of": ["ü", null]}'),
            *tool(2, "", id="toolu_2"),
            *tool(3, id="toolu_3", input={"whole": 1}),
            stops("tool_use"),
            END,
        ],
        answer(
            {"type": "text", "text": "Let me see."},
            TOOL | {"input": {"mg": 5, "of": ["ü", None]}},
            TOOL | {"id": "toolu_2"},
            TOOL | {"id": "toolu_3", "input": {"whole": 1}},
            reason="tool_use",
        ),
        "Let me see.",
    ),
    "what a server's tool found, and citations of it": (
        [
            start(),
            *tool(0, '{"query": "a"}', type="server_tool_use"),
            *block(1, FOUND),
            *block(
                2,
                {"type": "text", "text": "", "citations": []},
                {"type": "text_delta", "text": "So"},
                {"type": "citations_delta", "citation": cited("a")},
                {"type": "citations_delta", "citation": cited("a")},
            ),
            *block(
                3,
                {"type": "text", "text": ""},
                {"type": "citations_delta", "citation": cited("b")},
                {"type": "text_delta", "text": "."},
            ),
            stops(),
            END,
        ],
        answer(
            TOOL | {"type": "server_tool_use", "input": {"query": "a"}},
            FOUND,
            {"type": "text", "text": "So", "citations": [cited("a"), cited("a")]},
            {"type": "text", "text": ".", "citations": [cited("b")]},
        ),
        "So.",
    ),
    "what is known at the end": (
        [
            start(),
            *block(
                0,
                {"type": "compaction", "content": None},
                {"type": "compaction_delta", "content": "In short"},
            ),
            *block(
                1,
                {"type": "compaction", "content": None, "encrypted_content": None},
                {"type": "compaction_delta", "content": "More", "encrypted_content": "xyz"},
            ),
            *text(2, "a"),
            stops(
                "stop_sequence",
                delta={"stop_sequence": "###", "container": {"id": "c"}, "stop_details": None},
                context_management={"applied_edits": []},
                input_transformations=[{"type": "thinking_dropped"}],
            ),
            END | {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 9}},
        ],
        answer(
            {"type": "compaction", "content": "In short"},
            {"type": "compaction", "content": "More", "encrypted_content": "xyz"},
            {"type": "text", "text": "a"},
            reason="stop_sequence",
            stop_sequence="###",
            container={"id": "c"},
            stop_details=None,
            context_management={"applied_edits": []},
            input_transformations=[{"type": "thinking_dropped"}],
        ),
        "a",
    ),
    "another model, which goes on after the first has declined": (
        [start(input_transformations=[]), *text(0, "So"), *block(1, FALLBACK), *text(2, "."), stops(), END],
        answer(
            {"type": "text", "text": "So"},
            FALLBACK,
            {"type": "text", "text": "."},
            model="claude-opus-5",
            input_transformations=[],
        ),
        "So.",
    ),
    "a message that begins with all of it": (
        [start(TOOL, stop_reason="tool_use"), END],
        answer(TOOL, reason="tool_use")
        | {"usage": {"input_tokens": 9, "output_tokens": 1, "service_tier": "standard"}},
        "",
    ),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_a_stream_makes_the_batch_answer(what: str) -> None:
    """Field for field, and no beginning of the stream makes an answer."""
    events, batch, shown = ANSWERS[what]

    assert assembled(*events) == (batch, shown)
    assert assembled(*events, choices=None) == (batch, shown)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([start(), start()], id="a second message"),
        pytest.param([start(), {"type": "new_event"}], id="an unknown event"),
        pytest.param([start(), text(0, "a")[0] | {"new": 1}], id="an unknown field of an event"),
        pytest.param(
            [start(), *block(0, {"type": "text", "text": ""}, {"type": "new_delta", "text": "a"})],
            id="an unknown delta",
        ),
        pytest.param(
            [start(), *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a", "b": 1})],
            id="an unknown field beside the text",
        ),
        pytest.param([start(), *text(1, "a")], id="a block that is missing"),
        pytest.param([*text(0, "a")], id="a block of no message"),
        pytest.param([start(), *text(0, "a")[:2], stops(), END], id="a block without its end"),
        pytest.param([start(), *text(0, "a")[:1], *text(1, "b")], id="a block within a block"),
        pytest.param(
            [start(), *block(0, TOOL, {"type": "text_delta", "text": "a"})], id="a text in a tool's block"
        ),
        pytest.param([start(), *tool(0, '{"a": 1}', input={"a": 1}), stops(), END], id="arguments twice"),
        pytest.param([start(), *tool(0, '{"a": 1}{"a": 1}'), stops("tool_use"), END], id="arguments, two"),
        pytest.param([start(), *tool(0, "[1]"), stops("tool_use"), END], id="arguments that are a list"),
        pytest.param([start(), *tool(0, '{"a": 1e999}'), stops("tool_use"), END], id="a number out of range"),
        pytest.param(
            [
                start(),
                *block(0, {"type": "text", "text": ""}, {"type": "input_json_delta", "partial_json": "{}"}),
            ],
            id="arguments of a text",
        ),
        pytest.param(
            [
                start(),
                *block(
                    0, {"type": "compaction", "content": "a"}, {"type": "compaction_delta", "content": "b"}
                ),
            ],
            id="a content that comes again",
        ),
        pytest.param([start(), *text(0, "a"), stops(), stops(), END], id="two ends"),
        pytest.param([start(), *text(0, "a"), stops("new_reason"), END], id="an unknown reason"),
        pytest.param([start(), *text(0, "a"), END], id="no reason"),
        pytest.param(
            [start(), *text(0, "a", "ab", "abc", "abcd"), stops(), END], id="a text that comes again"
        ),
        pytest.param([start(), *text(0, "\ud83d")], id="half a character"),
        pytest.param([start(), *text(0, "a"), stops(), END, PING], id="more after the end"),
    ],
)
def test_what_cannot_be_joined_for_certain_is_refused(events: list[Json]) -> None:
    with pytest.raises(Unfaithful) as refused:
        assembled(*events)

    assert not isinstance(refused.value, AbnormalFinish)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([start(), *text(0, "I "), stops("refusal"), END], id="a refusal"),
        pytest.param([start(), *tool(0, '{"mg"'), stops("max_tokens"), END], id="arguments that were cut"),
    ],
)
def test_an_end_of_this_answer_alone_says_nothing_of_the_next(events: list[Json]) -> None:
    with pytest.raises(AbnormalFinish):
        assembled(*events)


def test_the_callers_own_stream_may_end_in_any_way() -> None:
    assert assembled(start(), *text(0, "I "), stops("refusal"), END, choices=None)[1] == "I "


def test_an_unknown_field_of_the_end_is_kept_and_named() -> None:
    assembler = Anthropic().assembler(1)
    for event in (start(), *text(0, "a"), stops(cost=0.1), END):
        assembler.feed(json.dumps(event))

    assert json.loads(assembler.answer()) == answer({"type": "text", "text": "a"}, cost=0.1)
    assert list(assembler.kept_fields()) == ["cost"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("timeout_error", 504), ("new", 500), (7, 500)],
)
def test_an_error_in_the_stream_has_its_status(kind: Any, status: int) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_1"}
    assembler = Anthropic().assembler(1)
    assembler.feed(json.dumps(start()))

    with pytest.raises(ProviderFailed) as failed:
        assembler.feed(json.dumps(error))
    assert (failed.value.status, json.loads(failed.value.body)) == (status, error)


@pytest.mark.parametrize(
    ("target", "streamed", "model"),
    [
        (TARGET, TARGET, "claude-sonnet-5"),
        (b"/anthropic/v1/messages?beta=true", b"/anthropic/v1/messages?beta=true", "claude-sonnet-5"),
        (
            b"/v1/projects/p/locations/l/publishers/anthropic/models/claude-5@1:rawPredict",
            b"/v1/projects/p/locations/l/publishers/anthropic/models/claude-5@1:streamRawPredict",
            "claude-5@1",
        ),
    ],
)
def test_a_call_is_asked_as_a_stream_and_else_as_it_came(target: bytes, streamed: bytes, model: str) -> None:
    told = CALL | {"system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]}
    stream = Anthropic().as_stream("POST", target, json.dumps(told).encode())

    assert stream is not None
    assert (stream.target, stream.prompt) == (streamed, Prompt(model, "Be\nbrief."))
    assert json.loads(stream.body) == told | {"stream": True}


@pytest.mark.parametrize("target", [TARGET + b"/count_tokens", TARGET + b"/batches", b"/v1/complete"])
def test_what_is_no_call_for_a_message_is_none(target: bytes) -> None:
    dialect = Anthropic()

    assert not dialect.is_call("POST", target)
    assert dialect.as_stream("POST", target, json.dumps(CALL).encode()) is None
    assert dialect.as_stream("POST", TARGET, b"{") is None
    assert not dialect.is_call("GET", TARGET)


def test_a_caller_that_asks_for_a_stream_says_so() -> None:
    said = json.dumps(CALL | {"stream": True}).encode()

    assert Anthropic().is_stream("POST", TARGET, said)
    with pytest.raises(NotStreamable):
        Anthropic().as_stream("POST", TARGET, said)


@pytest.mark.parametrize(
    ("said", "is_answer"),
    [
        (answer({"type": "text", "text": "a"}), True),
        (start()["message"], False),
        ({"type": "error", "error": {}}, False),
        ([], False),
    ],
)
def test_a_body_is_known_for_a_batch_answer_by_its_shape(said: Any, *, is_answer: bool) -> None:
    assert Anthropic().is_answer(json.dumps(said).encode(), 1) is is_answer
