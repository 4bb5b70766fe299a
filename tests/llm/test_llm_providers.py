"""Chat completions as others than OpenAI speak them: what their streams make is what their batch answers are.

The fixtures are written for these tests, with the fields and shapes of each provider's real streams.
"""

import json
from typing import Any

import pytest

from proxy.llm.assembly.dialect import ProviderFailed, Unfaithful
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.kept_counts import MAX_NAMES, KeptCounts
from tests.llm.test_llm_openai import HEAD, START, STOP, TARGET, USAGE, USED, body, choice, chunk, completion

CALLS = chunk({}, reason="tool_calls")
LINKS = [{"url": "https://example.org/a"}, {"url": "https://example.org/b"}]


def thinking(text: str) -> dict[str, Any]:
    """A part of Mistral's."""
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def detail(**more: Any) -> dict[str, Any]:
    """A piece of OpenRouter's reasoning."""
    return {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0} | more


def called(call_id: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "dose", "arguments": arguments}} | more


STREAMS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "Groq": (
        [
            chunk({"role": "assistant", "content": ""}) | {"x_groq": {"id": "req_1", "seed": 7}},
            chunk({"channel": "analysis", "reasoning": "Hm"}),
            chunk({"channel": "analysis", "reasoning": "m."}),
            chunk({"channel": "final", "content": "Yes"}),
            STOP
            | {"x_groq": {"id": "req_1", "usage": USAGE, "usage_breakdown": {"models": []}}, "usage": USAGE},
        ],
        completion(
            choice({"content": "Yes", "reasoning": "Hmm."}),
            x_groq={"id": "req_1", "seed": 7},
            usage_breakdown={"models": []},
        ),
        "Yes",
    ),
    "Groq, usage in its own field": (
        [START, chunk({"content": "a"}), STOP | {"x_groq": {"id": "req_1", "usage": USAGE}}],
        completion(choice({"content": "a"}), x_groq={"id": "req_1"}),
        "a",
    ),
    "Groq, a tool that it runs": (
        [
            START,
            chunk({"executed_tools": [{"index": 0, "type": "search", "arguments": "{}", "output": None}]}),
            chunk({"executed_tools": [{"index": 0, "type": "search", "arguments": "{}", "output": "found"}]}),
            chunk({"content": "Found"}),
            STOP,
            USED,
        ],
        completion(
            choice(
                {
                    "content": "Found",
                    "executed_tools": [{"index": 0, "type": "search", "arguments": "{}", "output": "found"}],
                }
            )
        ),
        "Found",
    ),
    "OpenRouter": (
        [
            {"provider": "P"} | each
            for each in (
                chunk(
                    {
                        "role": "assistant",
                        "content": "",
                        "reasoning": "So",
                        "reasoning_details": [detail(text="So")],
                    }
                ),
                chunk({"content": "", "reasoning": "…", "reasoning_details": [detail(text="…")]}),
                chunk({"content": "", "reasoning_details": [detail(signature="sig")]}),
                chunk({"content": "Yes"}, native_finish_reason=None),
                chunk({"content": ""}, reason="stop", native_finish_reason="end_turn"),
                chunk({"role": "assistant", "content": ""}, native_finish_reason=None) | {"usage": USAGE},
            )
        ],
        completion(
            choice(
                {
                    "content": "Yes",
                    "reasoning": "So…",
                    "reasoning_details": [detail(text="So…", signature="sig")],
                },
                native_finish_reason="end_turn",
            ),
            provider="P",
        ),
        "Yes",
    ),
    "Mistral, thinking": (
        [
            chunk({"role": "assistant", "content": ""}) | {"p": "abc"},
            chunk({"content": [thinking("Let ")]}) | {"p": "defgh"},
            chunk({"content": [thinking("me see.")]}) | {"p": "i"},
            chunk({"content": [text("Ye")]}) | {"p": "i"},
            chunk({"content": "s"}) | {"p": "i"},
            STOP | {"usage": USAGE, "p": "jk"},
        ],
        completion(choice({"content": [thinking("Let me see."), text("Yes")]})),
        "Yes",
    ),
    "Mistral, tools without an index": (
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"tool_calls": [called("a", "{}"), called("b", '{"mg":5}')]}, reason="tool_calls")
            | {"usage": USAGE},
        ],
        completion(
            choice({"content": "", "tool_calls": [called("a", "{}"), called("b", '{"mg":5}')]}, "tool_calls")
        ),
        "",
    ),
    "Mistral, a model of another maker": (
        [
            chunk({"tool_calls": [called("a", "", index=0)], "index": 0, "content": ""}),
            chunk({"tool_calls": [{"index": 0, "function": {"name": "", "arguments": "{}"}}], "index": 0}),
            chunk({"index": 0, "content": ""}, reason="tool_calls") | {"usage": USAGE},
        ],
        completion(choice({"content": "", "tool_calls": [called("a", "{}")]}, "tool_calls")),
        "",
    ),
    "Perplexity": (
        [
            chunk({"role": "assistant", "content": "It "}, message={"role": "assistant", "content": "It "})
            | {"usage": USAGE, "citations": ["u"], "search_results": LINKS[:1]},
            chunk({"role": "assistant", "content": "is"}, message={"role": "assistant", "content": "It is"})
            | {"usage": USAGE, "citations": ["u"], "search_results": LINKS},
            chunk(
                {"role": "assistant", "content": ""},
                reason="stop",
                message={"role": "assistant", "content": "It is"},
            )
            | {"usage": USAGE, "citations": ["u"], "search_results": LINKS, "object": "chat.completion.done"},
        ],
        completion(choice({"content": "It is"}), citations=["u"], search_results=LINKS),
        "It is",
    ),
    "xAI": (
        [
            chunk({"role": "assistant", "reasoning_content": "First"}),
            chunk({"reasoning_content": ", …"}),
            chunk({"content": "Hello"}),
            STOP,
            USED | {"citations": ["u"]},
        ],
        completion(choice({"content": "Hello", "reasoning_content": "First, …"}), citations=["u"]),
        "Hello",
    ),
    "Together": (
        [
            chunk({"token_id": 9, "role": "assistant", "content": "He"}, text="He", seed=None, logprobs=None),
            chunk({"token_id": 8, "content": "y", "tool_calls": None}, text="y", seed=None, logprobs=None),
            chunk({"token_id": 7, "content": ""}, reason="stop", text="", seed=11, logprobs=None)
            | {"usage": USAGE},
        ],
        completion(choice({"content": "Hey", "tool_calls": None}, seed=11, logprobs=None)),
        "Hey",
    ),
    "Fireworks": (
        [
            START | {"prompt_token_ids": [1, 2]},
            chunk({"content": "Hey"}),
            STOP | {"usage": USAGE, "perf_metrics": {"prompt-tokens": 9}},
        ],
        completion(choice({"content": "Hey"}), prompt_token_ids=[1, 2], perf_metrics={"prompt-tokens": 9}),
        "Hey",
    ),
    "Cerebras": (
        [
            {"choices": [{"delta": {"role": "assistant"}, "index": 0}]},
            {"choices": [{"delta": {"reasoning": "The"}, "index": 0}]},
            {"choices": [{"delta": {"content": "Hey"}, "index": 0}]},
            STOP | {"usage": USAGE, "time_info": {"queue_time": 0.1}},
        ],
        completion(choice({"content": "Hey", "reasoning": "The"}), time_info={"queue_time": 0.1}),
        "Hey",
    ),
    "Hugging Face": (
        [
            chunk({"role": "assistant", "content": "He", "token_id": 3}),
            chunk({"role": "assistant", "content": "y", "token_id": 4}),
            chunk({"role": "assistant", "content": "", "token_id": 5}, reason="stop"),
            USED,
        ],
        completion(choice({"content": "Hey"})),
        "Hey",
    ),
    "Snowflake": (
        [
            {"choices": [{"delta": {"role": "assistant", "type": "text", "content": "He"}}]},
            {"choices": [{"delta": {"type": "text", "content": "y"}}]},
            {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}], "usage": USAGE},
        ],
        completion(choice({"content": "Hey"})),
        "Hey",
    ),
    "Azure, its asynchronous filter": (
        [
            {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
            START,
            chunk({"content": "Hey"}),
            chunk({}, content_filter_results={}, content_filter_offsets={"check_offset": 0, "end_offset": 2}),
            STOP,
            chunk({}, content_filter_results={}, content_filter_offsets={"check_offset": 2, "end_offset": 3}),
            USED,
        ],
        completion(
            choice({"content": "Hey"}, content_filter_results={}),
            prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {}}],
        ),
        "Hey",
    ),
    "DeepSeek": (
        [
            chunk({"role": "assistant", "content": None, "reasoning_content": ""}, logprobs=None),
            chunk({"content": None, "reasoning_content": "So"}, logprobs=None),
            chunk({"content": "Hey", "reasoning_content": None}, logprobs=None),
            chunk({"content": "", "reasoning_content": None}, reason="stop", logprobs=None)
            | {"usage": USAGE},
        ],
        completion(choice({"content": "Hey", "reasoning_content": "So"}, logprobs=None)),
        "Hey",
    ),
    "Moonshot, usage in the choice": (
        [
            chunk({"role": "assistant", "content": "Hey"}),
            chunk({}, reason="stop", usage=USAGE),
        ],
        completion(choice({"content": "Hey"})),
        "Hey",
    ),
    "vLLM": (
        [
            chunk({"role": "assistant", "content": ""}) | {"prompt_token_ids": [1]},
            chunk({"content": "He"}, token_ids=[5], stop_reason=None),
            chunk({"content": "y"}, token_ids=[6], reason="stop", stop_reason=42),
            USED,
        ],
        completion(choice({"content": "Hey"}, token_ids=[5, 6], stop_reason=42), prompt_token_ids=[1]),
        "Hey",
    ),
    "SGLang": (
        [
            chunk({"role": "assistant", "content": ""}, matched_stop=None, logprobs=None),
            chunk({"content": "Hey"}, matched_stop=None, logprobs=None),
            chunk({}, reason="stop", matched_stop=151645, logprobs=None),
            USED,
        ],
        completion(choice({"content": "Hey"}, matched_stop=151645, logprobs=None)),
        "Hey",
    ),
    "llama.cpp": (
        [
            chunk({"role": "assistant", "content": None}),
            chunk({"content": "Hey"}) | {"timings": {"predicted_n": 1}},
            STOP,
            USED | {"timings": {"predicted_n": 2}},
        ],
        completion(choice({"content": "Hey"}), timings={"predicted_n": 2}),
        "Hey",
    ),
    "LiteLLM, a thinking model": (
        [
            chunk(
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": "So",
                    "thinking_blocks": [{"type": "thinking", "thinking": "So", "signature": None}],
                    "provider_specific_fields": None,
                }
            ),
            chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "sig"}]}),
            chunk({"content": "Hey"}),
            STOP,
            USED,
        ],
        completion(
            choice(
                {
                    "content": "Hey",
                    "reasoning_content": "So",
                    "thinking_blocks": [{"type": "thinking", "thinking": "So", "signature": "sig"}],
                    "provider_specific_fields": None,
                }
            )
        ),
        "Hey",
    ),
    "Ollama": (
        [
            chunk({"role": "assistant", "content": "", "reasoning": "So"})
            | {"system_fingerprint": "fp_ollama"},
            chunk({"role": "assistant", "content": "Hey"}) | {"system_fingerprint": "fp_ollama"},
            chunk({"role": "assistant", "content": ""}, reason="stop") | {"system_fingerprint": "fp_ollama"},
            USED | {"system_fingerprint": "fp_ollama"},
        ],
        completion(choice({"content": "Hey", "reasoning": "So"}), system_fingerprint="fp_ollama"),
        "Hey",
    ),
}


@pytest.mark.parametrize("provider", STREAMS)
def test_a_providers_stream_makes_its_batch_answer(provider: str) -> None:
    """Field for field; the shown text is the answer's, without what is thought; and no beginning of the
    stream makes another answer."""
    events, batch, shown = STREAMS[provider]
    events = [HEAD | {"object": "chat.completion.chunk"} | event for event in events]

    for cut in range(len(events) + 1):
        assembler = OpenAI().assembler(1)
        pieces = [assembler.feed(json.dumps(event)) for event in events[:cut]]
        if cut == len(events):
            assembler.feed("[DONE]")
            assert "".join(pieces) == shown
        if assembler.is_complete:
            assert json.loads(assembler.answer()) == batch, cut


@pytest.mark.parametrize(
    ("events", "why"),
    [
        pytest.param([chunk({"content": [{"type": "audio"}]})], "content", id="a part of a content"),
        pytest.param([chunk({"tool_calls": [{"function": {"arguments": "{"}}]})], "index", id="half a call"),
        pytest.param([START | {"citations": ["a"]}, STOP | {"citations": ["b"]}], "list", id="other sources"),
        pytest.param(
            [chunk({"content": "a"}, message={"content": "b"}), STOP, USED], "message", id="another message"
        ),
        pytest.param(
            [chunk({"reasoning_details": [detail(id="a")]}), chunk({"reasoning_details": [detail(id="b")]})],
            "differs",
            id="another thought at the same place",
        ),
    ],
)
def test_what_a_provider_says_in_two_ways_is_refused(events: list[dict[str, Any]], why: str) -> None:
    assembler = OpenAI().assembler(1)

    with pytest.raises(Unfaithful, match=why):
        for event in [*events, STOP, USED]:
            assembler.feed(json.dumps(event))
        assembler.answer()


@pytest.mark.parametrize(
    ("event", "status", "told"),
    [
        ({"error": {"code": 502, "message": "no"}, "provider": "P"}, 502, None),
        ({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, 400, None),
        (chunk({}, reason="error", error={"code": 429}), 429, {"error": {"code": 429}}),
        ({"error": "no"}, 500, None),
        ({"error": {"code": "rate_limited", "status_code": 429}}, 429, None),
    ],
)
def test_a_providers_error_has_its_status_and_body(
    event: dict[str, Any], status: int, told: dict[str, Any] | None
) -> None:
    """OpenRouter's in a chunk or its choice, and vLLM's own shape."""
    with pytest.raises(ProviderFailed) as failed:
        OpenAI().assembler(1).feed(json.dumps(event))

    assert failed.value.status == status
    assert json.loads(failed.value.body) == (told or event)


def test_an_unknown_field_that_cannot_change_the_answer_is_kept_and_named() -> None:
    """One that is the same in every chunk, and one that comes once, at the top or beside the choice."""
    assembler = OpenAI().assembler(1)
    same = {"region": "eu", "null": None}
    for event in (
        HEAD | START | same,
        chunk({"content": "a"}, rank={"of": [1]}) | same,
        chunk({}, reason="stop", seat=3) | same | {"cost": 0.1},
        USED,
    ):
        assembler.feed(json.dumps(event))
    assembler.feed("[DONE]")

    more = {"region": "eu", "null": None, "cost": 0.1}
    assert json.loads(assembler.answer()) == completion(
        choice({"content": "a"}, rank={"of": [1]}, seat=3), **more
    )
    assert sorted(assembler.kept_fields()) == ["choices[].rank", "choices[].seat", "cost", "region"]


def test_a_name_that_is_none_is_not_shown() -> None:
    """A provider may call a field anything, a patient's name for one."""
    assembler = OpenAI().assembler(1)
    assembler.feed(json.dumps({"Jane Doe, born 1970": 1, "choices": []}))

    assert list(assembler.kept_fields()) == ["(a name of another kind)"]


def test_kept_fields_are_counted_up_to_a_bound() -> None:
    counts = KeptCounts()
    for at in range(MAX_NAMES + 5):
        counts.note("p", [f"f{at}"])
    counts.note("p", ["f0", "f0"])

    assert counts.shown()[0] == {"provider": "", "field": "", "answers": 5}
    assert counts.shown()[1] == {"provider": "p", "field": "f0", "answers": 2}
    assert len(counts.shown()) == MAX_NAMES + 1


@pytest.mark.parametrize(
    ("host", "index", "content"),
    [
        ("dashscope.aliyuncs.com", {"index": 0}, {"content": ""}),
        ("api.groq.com", {}, {}),
        ("api.mistral.ai", {}, {}),
        ("api.deepseek.com", {}, {"content": None}),
        ("eu.api.openai.com", {}, {"content": None, "annotations": []}),
    ],
)
def test_a_tools_call_has_what_is_beside_it_in_batch_answers(
    host: str, index: dict[str, int], content: dict[str, Any]
) -> None:
    """Its index, and a content where there is no text; a text is always there."""
    call = {"tool_calls": [called("a", "{}", index=0)]}
    made = {"tool_calls": [called("a", "{}") | index]}
    for text, expected in ((None, content | made), ("Hm", content | {"content": "Hm"} | made)):
        assembler = OpenAI(host).assembler(1)
        for event in (chunk({"role": "assistant", "content": text}), chunk(call), CALLS, USED):
            assembler.feed(json.dumps(HEAD | event))

        assert json.loads(assembler.answer()) == completion(choice(expected, "tool_calls"))


@pytest.mark.parametrize(("host", "asks"), [("api.mistral.ai", False), ("api.groq.com", True)])
def test_what_was_used_is_asked_for_where_that_is_allowed(host: str, *, asks: bool) -> None:
    call = OpenAI(host).as_stream("POST", TARGET, body())

    assert call is not None
    assert ("stream_options" in json.loads(call.body)) is asks
