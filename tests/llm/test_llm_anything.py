"""Each dialect makes an answer of what a provider sends, or refuses it: it never fails in another way."""

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.llm.assembly.dialect import Dialect, NotStreamable, ProviderFailed, Unfaithful
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
from tests.llm import test_llm_responses as responses
from tests.llm.test_llm_providers import STREAMS

Json = dict[str, Any]

SAID: dict[str, tuple[Dialect, bytes, list[list[Json]]]] = {
    "openai": (OpenAI(), b"/v1/chat/completions", [events for events, _, _ in STREAMS.values()]),
    "anthropic": (Anthropic(), b"/v1/messages", [events for events, _, _ in claude.ANSWERS.values()]),
    "responses": (
        Responses(),
        b"/v1/responses",
        [
            [
                *responses.said("a", "b"),
                responses.done(0, responses.THOUGHT),
                responses.ends("completed", responses.response()),
            ],
            [responses.ends("incomplete", responses.response(incomplete_details={"reason": "a"}))],
            [{"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{"}],
            [{"type": "error", "error": {"code": "server_error"}}],
        ],
    ),
    "gemini": (
        Gemini(),
        b"/v1beta/models/m:generateContent",
        [
            [*gemini.argument("$.a", "bc"), gemini.event({"functionCall": {}}), gemini.STOP],
            [gemini.event({"text": "a"}, safetyRatings=[gemini.rated("LOW")]), gemini.STOP],
            [gemini.event(gemini.CODE, groundingMetadata=gemini.GROUNDING), gemini.STOP],
        ],
    ),
    "ollama": (
        Ollama(),
        b"/api/chat",
        [
            [llama.line("a", thinking="b"), llama.line(tool_calls=[llama.DOSE]), llama.last()],
            [llama.generated("a"), llama.generated("", done=True, done_reason="stop")],
            [{"error": "no", "status_code": 429}],
        ],
    ),
    "cohere": (
        Cohere(),
        b"/v2/chat",
        [
            [cohere.start(), *cohere.content(0, "text", "a", "b"), *cohere.tool(0, "{}"), cohere.end()],
            [cohere.start(), cohere.says("citation-start", 0, citations=cohere.CITED), cohere.end()],
            [cohere.start(), cohere.says("tool-plan-delta", tool_plan="a"), cohere.end()],
        ],
    ),
}

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.sampled_from(["", "text", "tool_use", "\ud83d", 1e999]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "text", "index", "delta", "new"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document, with each key or index of it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *places(inner))]


@pytest.mark.parametrize("name", SAID)
@settings(max_examples=150)
@given(data=st.data())
def test_a_stream_with_anything_anywhere_is_joined_or_refused(name: str, data: st.DataObject) -> None:
    dialect, _, streams = SAID[name]
    events = copy.deepcopy(data.draw(st.sampled_from(streams)))
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(places(events)))
        container[key] = data.draw(ANYTHING)
    for choices in (1, None):
        assembler = dialect.assembler(choices)
        try:
            for event in events:
                assert isinstance(assembler.feed(json.dumps(event)), str)
                assert isinstance(assembler.arguments, str)
                if assembler.is_complete:
                    json.loads(assembler.answer())
        except (Unfaithful, ProviderFailed):
            pass
        assert all(isinstance(field, str) for field in assembler.kept_fields())


@pytest.mark.parametrize("name", SAID)
@settings(max_examples=100)
@given(
    call=ANYTHING,
    fields=st.dictionaries(st.sampled_from(["stream", "n", "store", "system", "input"]), ANYTHING),
)
def test_a_call_with_anything_in_it_is_asked_or_goes_through(name: str, call: Any, fields: Json) -> None:
    dialect, target, _ = SAID[name]
    plain = {"model": "m", "messages": call, "contents": call, "input": call, "prompt": call} | fields
    for body in (json.dumps(plain).encode(), json.dumps(call).encode(), b"\xff"):
        dialect.is_stream("POST", target, body)
        dialect.prompt("POST", target, body)
        dialect.is_answer(body, 1)
        with suppress(NotStreamable):
            dialect.as_stream("POST", target, body)
