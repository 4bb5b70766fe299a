"""The arguments of the first tool that an answer calls, as each dialect streams them."""

import json
from typing import Any

import pytest

from proxy.llm.assembly.dialect import Dialect
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.cohere import Cohere
from proxy.llm.dialects.gemini.calls import Gemini
from proxy.llm.dialects.ollama import Ollama
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.dialects.openai.responses import Responses
from tests.llm import gemini_events as gemini
from tests.llm import test_llm_anthropic as claude
from tests.llm import test_llm_cohere as cohere
from tests.llm import test_llm_ollama as llama
from tests.llm import test_llm_openai as gpt

Json = dict[str, Any]

CALL = {"functionCall": {"name": "note", "args": {"a": 1}}}
CALLED = {"function": {"name": "note", "arguments": {"a": 1}}}


def of_responses(index: int, *pieces: str) -> list[Json]:
    kind = "response.function_call_arguments.delta"
    return [{"type": kind, "output_index": index, "delta": piece} for piece in pieces]


def of_openai(index: int, *pieces: str) -> list[Json]:
    begun = {
        "index": index,
        "id": f"c{index}",
        "type": "function",
        "function": {"name": "a", "arguments": ""},
    }
    calls = [begun, *({"index": index, "function": {"arguments": piece}} for piece in pieces)]
    return [gpt.chunk({"tool_calls": [call]}) for call in calls]


@pytest.mark.parametrize(
    ("dialect", "events"),
    [
        pytest.param(OpenAI(), [*of_openai(0, '{"a"', ": 1}"), *of_openai(1, "{}"), gpt.STOP], id="openai"),
        pytest.param(Responses(), [*of_responses(1, '{"a"', ": 1}"), *of_responses(2, "{}")], id="responses"),
        pytest.param(
            Anthropic(),
            [
                claude.start(),
                *claude.tool(0, '{"query": 1}', type="server_tool_use"),
                *claude.tool(1, '{"a"', ": 1}"),
                *claude.tool(2, "{}"),
            ],
            id="anthropic",
        ),
        pytest.param(
            Cohere(), [cohere.start(), *cohere.tool(0, '{"a"', ": 1}"), *cohere.tool(1, "{}")], id="cohere"
        ),
        pytest.param(
            Ollama(),
            [llama.line(tool_calls=[CALLED, CALLED]), llama.line(tool_calls=[llama.DOSE]), llama.last()],
            id="ollama, whole",
        ),
        pytest.param(
            Gemini(), [gemini.event(CALL, CALL), gemini.event(CALL), gemini.STOP], id="gemini, whole"
        ),
    ],
)
def test_they_come_as_they_grow_and_of_the_first_tool_alone(dialect: Dialect, events: list[Json]) -> None:
    assembler = dialect.assembler(1)
    pieces = []
    for event in events:
        assert assembler.feed(json.dumps(event)) == ""
        pieces.append(assembler.arguments)

    assert json.loads("".join(pieces)) == {"a": 1}


JSON = {"type": "json_schema", "schema": {}}


@pytest.mark.parametrize(
    ("dialect", "target", "more"),
    [
        (OpenAI(), b"/v1/chat/completions", {"response_format": JSON}),
        (OpenAI(), b"/v1/chat/completions", {"response_format": {"type": "json_object"}}),
        (Responses(), b"/v1/responses", {"text": {"format": JSON}}),
        (Anthropic(), b"/v1/messages", {"output_format": JSON}),
        (Anthropic(), b"/v1/messages", {"output_config": {"format": JSON}}),
        (Cohere(), b"/v2/chat", {"response_format": {"type": "json_object"}}),
        (Ollama(), b"/api/chat", {"format": "json"}),
        (Ollama(), b"/api/generate", {"format": {"type": "object"}}),
        (
            Gemini(),
            b"/m/models/m:generateContent",
            {"generationConfig": {"responseMimeType": "application/json"}},
        ),
    ],
)
def test_a_call_says_whether_it_wants_json(dialect: Dialect, target: bytes, more: Json) -> None:
    call = {"model": "m", "messages": [], "input": "a", "contents": []}

    said = [dialect.prompt("POST", target, json.dumps(call | each).encode()) for each in ({}, more)]

    assert [prompt is not None and prompt.wants_json for prompt in said] == [False, True]
