"""OpenAI's shape: what a stream makes is what the batch call would have been told, or it is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, ProviderFailed, Unfaithful
from proxy.llm.assembly.joins import Text
from proxy.llm.dialects.openai import fields as table
from proxy.llm.dialects.openai.calls import OpenAI

TARGET = b"/v1/chat/completions"
HEAD = {"id": "chatcmpl-1", "created": 1700000000, "model": "gpt-4o-2024-08-06"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
USED = {"choices": [], "usage": USAGE}

Chunk = dict[str, Any]


def chunk(delta: dict[str, Any], index: int = 0, *, reason: str | None = None, **more: Any) -> Chunk:
    """A chunk with one choice; `more` is the choice's."""
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason, **more}]}


def choice(message: dict[str, Any], reason: str = "stop", index: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", **message},
        "finish_reason": reason,
        **more,
    }


def assembled(*chunks: Chunk, choices: int | None = None) -> tuple[dict[str, Any], str]:
    """The answer that these chunks make, and the text that was shown."""
    assembler = OpenAI().assembler(choices)
    shown = ""
    for each in chunks:
        assert not assembler.is_complete
        shown += assembler.feed(json.dumps(HEAD | {"object": "chat.completion.chunk"} | each))
    assembler.feed("[DONE]")
    assert assembler.is_complete
    answer = json.loads(assembler.answer())
    ChatCompletion.model_validate(answer, strict=True)
    return answer, shown


def completion(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return HEAD | {"object": "chat.completion", "choices": list(choices), "usage": USAGE} | more


def logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.31725305, "bytes": list(token.encode()), "top_logprobs": []}


def verdict(severity: str = "safe", *, filtered: bool = False) -> dict[str, Any]:
    return {"filtered": filtered, "severity": severity}


def dose(call_id: str, function: Any = None) -> Chunk:
    """A tool call, the first of its choice."""
    function = function or {"name": "dose", "arguments": "{}"}
    return chunk({"tool_calls": [{"index": 0, "id": call_id, "type": "function", "function": function}]})


def said_again(arguments: str) -> Chunk:
    return chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})


def noted(*urls: str) -> Chunk:
    """A chunk with annotations."""
    where = {"start_index": 0, "end_index": 1, "title": "t"}
    cited = [{"type": "url_citation", "url_citation": where | {"url": url}} for url in urls]
    return chunk({"annotations": cited})


STRUCK = [{"prompt_index": 0, "content_filter_results": {"hate": verdict("high", filtered=True)}}]
START = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, reason="stop")


INTERLEAVED = [
    {"type": "reasoning.text", "text": "a", "index": 0},
    {"type": "reasoning.text", "text": "b", "index": 1},
    {"type": "reasoning.text", "text": "c", "index": 0},
]


def test_text_is_joined_and_shown() -> None:
    said = assembled(
        chunk({"role": "assistant", "content": "", "refusal": None}, logprobs=None),
        chunk({"content": "Fever of "}, logprobs=None),
        chunk({"content": "38.9 °C 😀"}, logprobs=None),
        chunk({}, reason="stop", logprobs=None),
        USED,
    )

    message = {"content": "Fever of 38.9 °C 😀", "refusal": None}
    assert said == (completion(choice(message, logprobs=None)), "Fever of 38.9 °C 😀")


def test_what_surrounds_the_text_is_what_the_batch_answer_has() -> None:
    """The padding of a stream is not in it; `usage` is null in all chunks but the last."""
    around = {"system_fingerprint": "fp_1", "service_tier": "default"}
    padded = around | {"obfuscation": "x7", "usage": None}
    answer, _ = assembled(START | padded, chunk({"content": "a"}) | padded, STOP | padded, USED | around)

    assert answer == completion(choice({"content": "a"}), **around)


def test_tool_calls_are_joined_by_their_index() -> None:
    def call(index: int, **more: Any) -> Chunk:
        return chunk({"tool_calls": [{"index": index, **more}]})

    answer, shown = assembled(
        chunk({"role": "assistant", "content": None}),
        call(0, id="call_a", type="function", function={"name": "dose", "arguments": ""}),
        call(0, function={"arguments": '{"mg":'}),
        call(0, id="call_a", type="function", function={"name": "", "arguments": "5}"}),
        call(1, id="call_b", type="function", function={"name": "stop", "arguments": "{}"}),
        chunk({}, reason="tool_calls"),
        USED,
    )

    calls = [
        {"id": "call_a", "type": "function", "function": {"name": "dose", "arguments": '{"mg":5}'}},
        {"id": "call_b", "type": "function", "function": {"name": "stop", "arguments": "{}"}},
    ]
    assert answer == completion(choice({"content": None, "tool_calls": calls}, "tool_calls"))
    assert shown == ""


def test_custom_tools_and_the_older_function_call_are_joined() -> None:
    custom = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "sql", "input": "SEL"}}
    answer, _ = assembled(
        chunk({"role": "assistant", "content": None, "tool_calls": [custom]}),
        chunk({"tool_calls": [{"index": 0, "custom": {"input": "ECT"}}]}),
        chunk({}, reason="tool_calls"),
        chunk({"role": "assistant", "function_call": {"name": "dose", "arguments": "{"}}, 1),
        chunk({"function_call": {"arguments": "}"}}, 1),
        chunk({}, 1, reason="function_call"),
        USED,
    )

    assert answer["choices"][0]["message"]["tool_calls"][0]["custom"] == {"name": "sql", "input": "SELECT"}
    assert answer["choices"][1]["message"]["function_call"] == {"name": "dose", "arguments": "{}"}


def test_a_refusal_has_no_content() -> None:
    """Its stream begins with an empty one, as every stream does."""
    refusal = [chunk({"refusal": piece}) for piece in ("I cannot ", "help.")]
    answer, shown = assembled(START, *refusal, STOP, USED)

    assert answer == completion(choice({"content": None, "refusal": "I cannot help."}))
    assert shown == ""


def test_an_empty_text_stays_one() -> None:
    assert assembled(START, STOP, USED) == (completion(choice({"content": ""})), "")


def test_logprobs_are_those_of_every_token() -> None:
    answer, _ = assembled(
        chunk({"role": "assistant", "content": ""}, logprobs={"content": [], "refusal": None}),
        chunk({"content": "a"}, logprobs={"content": [logprob("a")], "refusal": None}),
        chunk({"content": " b"}, logprobs={"content": [logprob(" b")], "refusal": None}),
        chunk({}, reason="length", logprobs=None),
        USED,
    )

    logprobs = {"content": [logprob("a"), logprob(" b")], "refusal": None}
    assert answer == completion(choice({"content": "a b"}, "length", logprobs=logprobs))


def test_of_several_choices_the_first_is_shown() -> None:
    answer, shown = assembled(
        chunk({"role": "assistant", "content": "B1"}, 1),
        chunk({"role": "assistant", "content": "A1"}),
        chunk({"content": "A2"}),
        chunk({"content": "B2"}, 1),
        chunk({}, 1, reason="length"),
        STOP,
        USED,
    )

    assert answer == completion(choice({"content": "A1A2"}), choice({"content": "B1B2"}, "length", 1))
    assert shown == "A1A2"


def test_thoughts_are_in_the_answer_and_not_shown() -> None:
    """DeepSeek's field, with null for what it is not saying at the time."""
    answer, shown = assembled(
        chunk({"role": "assistant", "content": None, "reasoning_content": "First"}),
        chunk({"content": None, "reasoning_content": ", fever."}),
        chunk({"content": "Flu.", "reasoning_content": None}),
        chunk({"content": "", "reasoning_content": None}, reason="stop") | {"usage": USAGE},
    )

    message = {"content": "Flu.", "reasoning_content": "First, fever."}
    assert answer == completion(choice(message))
    assert shown == "Flu."


def test_azures_filters_judge_the_answer_as_its_worst_chunk() -> None:
    prompt = [{"prompt_index": 0, "content_filter_results": {"hate": verdict(), "violence": verdict()}}]
    about_the_prompt = {"id": "", "created": 0, "model": "", "object": "", "choices": []}
    answer, _ = assembled(
        about_the_prompt | {"prompt_filter_results": prompt},
        chunk({"role": "assistant", "content": ""}, content_filter_results={}),
        chunk({"content": "a"}, content_filter_results={"hate": verdict(), "violence": verdict("low")}),
        chunk({"content": "b"}, content_filter_results={"hate": verdict(), "violence": verdict()}),
        chunk({}, reason="stop", content_filter_results={}),
        USED,
    )

    filters = {"hate": verdict(), "violence": verdict("low")}
    assert answer == completion(
        choice({"content": "ab"}, content_filter_results=filters), prompt_filter_results=prompt
    )


def test_a_filter_that_struck_once_has_struck_in_the_callers_own_stream() -> None:
    struck = {"hate": verdict("high", filtered=True), "jailbreak": {"detected": True, "filtered": False}}
    calm = {"hate": verdict(), "jailbreak": {"detected": False, "filtered": False}}
    answer, _ = assembled(
        START,
        chunk({"content": "a"}, content_filter_results=struck),
        chunk({}, reason="content_filter", content_filter_results=calm),
        USED,
    )

    assert answer["choices"][0]["content_filter_results"] == struck


def test_integers_of_any_size_and_unknown_nulls_are_kept() -> None:
    answer, _ = assembled(
        START, STOP | {"kv": None}, {"choices": [], "usage": USAGE | {"total_tokens": 2**80}}
    )

    assert answer["usage"]["total_tokens"] == 2**80
    assert answer["kv"] is None


names = st.sampled_from(
    sorted({*table.CHUNK, *table.CHOICE, *table.DELTA, *table.TOOL_CALL, *table.FUNCTION, "content"})
)
scalars = st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(["", "stop", "tool_calls", "{}"])
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*table.CHUNK]), anything, max_size=3)
        | st.fixed_dictionaries(
            {
                "choices": st.lists(
                    st.fixed_dictionaries(
                        {
                            "index": st.integers(0, 1),
                            "delta": st.dictionaries(st.sampled_from([*table.DELTA]), anything, max_size=3),
                            "finish_reason": scalars,
                        },
                        optional={"content_filter_results": anything},
                    ),
                    max_size=2,
                )
            }
        ),
        max_size=4,
    )
)
def test_whatever_comes_is_joined_or_refused(chunks: list[Any]) -> None:
    assembler = OpenAI().assembler(1)
    try:
        for each in chunks:
            assembler.feed(json.dumps(each))
            assert assembler.is_complete in (True, False)
        assembler.feed(json.dumps(USED))
        json.loads(assembler.answer())
    except (Unfaithful, ProviderFailed):
        pass


def certain(pieces: list[str]) -> bool:
    text = Text("")
    text.pieces = pieces
    return text.is_certain


pieces = st.lists(st.text(max_size=8), max_size=8).filter(certain)


@given(contents=st.lists(pieces, min_size=1, max_size=3), data=st.data())
def test_however_it_is_cut_the_answer_is_the_same(contents: list[list[str]], data: st.DataObject) -> None:
    """Several choices, their pieces in any interleaving and several in a chunk."""
    streams = [
        [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
            *({"index": index, "delta": {"content": piece}, "finish_reason": None} for piece in said),
            {"index": index, "delta": {}, "finish_reason": "stop"},
        ]
        for index, said in enumerate(contents)
    ]
    chunks: list[Chunk] = []
    while any(streams):
        stream = data.draw(st.sampled_from([stream for stream in streams if stream]))
        alone = not chunks or data.draw(st.booleans())
        chunks += [{"choices": []}] if alone else []
        chunks[-1]["choices"].append(stream.pop(0))

    answer, shown = assembled(*chunks, USED)

    texts = ["".join(said) for said in contents]
    assert answer == completion(*(choice({"content": text}, index=at) for at, text in enumerate(texts)))
    assert shown == texts[0]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([START | {"odd": 1}, STOP | {"odd": 2}, USED], id="an unknown field that changes"),
        pytest.param(
            [START | {"odd": 1}, chunk({"content": "a"}), STOP | {"odd": 1}, USED],
            id="an unknown field that comes again, and not always",
        ),
        pytest.param(
            [chunk({"content": "a"}, odd="a"), chunk({"content": "b"}, reason="stop", odd="ab"), USED],
            id="an unknown field of the choice that grows",
        ),
        pytest.param(
            [START | {f"odd{at}": at for at in range(33)}, STOP, USED], id="very many unknown fields"
        ),
        pytest.param([START, chunk({"audio": {"id": "a"}}), STOP, USED], id="a field of the delta"),
        pytest.param(
            [chunk({"tool_calls": [{"index": 0, "extra_content": {"google": {}}}]}), STOP, USED],
            id="a field of the tool call",
        ),
        pytest.param(
            [chunk({}, logprobs={"tokens": ["a"]}), STOP, USED],
            id="a field of the logprobs",
        ),
        pytest.param([dose("a"), dose("b"), STOP, USED], id="two tool calls under one index"),
        pytest.param([dose("a"), dose("a"), STOP, USED], id="a tool's name, or its two halves"),
        pytest.param([dose("a"), dose("", {"name": 7}), STOP, USED], id="a tool's name that is none"),
        pytest.param(
            [chunk({"function_call": {"name": "do"}}), chunk({"function_call": {"name": "se"}}), STOP, USED],
            id="a function's name in pieces",
        ),
        pytest.param([START, chunk({"role": "tool"}), STOP, USED], id="two roles"),
        pytest.param([chunk({"content": ["a"]}), STOP, USED], id="text that is none"),
        pytest.param([chunk({"tool_calls": {}}), STOP, USED], id="a list that is none"),
        pytest.param([chunk({"annotations": {}}), STOP, USED], id="annotations that are none"),
        pytest.param([{"choices": [7]}, USED], id="a choice that is none"),
        pytest.param([{"choices": [{"delta": {}}]}, USED], id="no index"),
        pytest.param([chunk({}, True), STOP, USED], id="an index that is none"),
        pytest.param([chunk({}, 128), STOP, USED], id="an index beyond the API's"),
        pytest.param([START, STOP, chunk({}, 2, reason="stop"), USED], id="an index left out"),
        pytest.param([START, USED], id="a choice without an end"),
        pytest.param([START, chunk({}, reason=""), USED], id="an end that is empty"),
        pytest.param([START, STOP, chunk({}, reason=""), USED], id="an end that is taken back"),
        pytest.param([START, STOP, chunk({}, reason="length"), USED], id="two ends"),
        pytest.param([START, STOP, chunk({"content": "more"}), USED], id="text after the end"),
        pytest.param([dose("a"), said_again("{}"), STOP, USED], id="arguments that come again"),
        pytest.param([dose("a", {"name": "f", "arguments": "[]"}), STOP, USED], id="arguments that are none"),
        pytest.param([dose("a", {"name": "f", "arguments": ""}), STOP, USED], id="no arguments"),
        pytest.param([dose("a", {"arguments": "{}"}), STOP, USED], id="a tool without a name"),
        pytest.param([START, chunk({}, reason="tool_calls"), USED], id="no tool is named"),
        pytest.param(
            [chunk({"function_call": {"name": "f", "arguments": "{}{}"}}), STOP, USED],
            id="a function's arguments that come again",
        ),
        pytest.param(
            [chunk({"content": piece}) for piece in ("Fever", " of ", "Fever of ")] + [STOP, USED],
            id="the whole text once more",
        ),
        pytest.param(
            [chunk({"content": piece}) for piece in ("Fe", "Fever", "Fever of")] + [STOP, USED],
            id="all of the text so far each time",
        ),
        pytest.param(
            [chunk({"reasoning": piece}) for piece in ("a", "ab", "abc")] + [STOP, USED],
            id="all of a thought so far each time",
        ),
        pytest.param(
            [START, noted("a"), noted("a", "b"), STOP, USED], id="annotations that come again, and more"
        ),
        pytest.param([START, noted("a"), noted("b"), STOP, USED], id="annotations in pieces"),
        pytest.param(
            [
                chunk({"content": "a"}, logprobs={"content": [logprob("a")]}),
                chunk({"content": "b"}, logprobs={"content": [logprob("a"), logprob("b")]}),
                STOP,
                USED,
            ],
            id="all of the logprobs so far each time",
        ),
        pytest.param([START | {"usage": USAGE}, chunk({"content": "a"}), STOP], id="what was used so far"),
        pytest.param([START, STOP], id="no usage"),
        pytest.param([dose("a"), STOP, USED], id="a tool's call, and no end that says so"),
        pytest.param([*[chunk({"images": [{"index": 0}]})] * 2, STOP, USED], id="a picture twice"),
        pytest.param(
            [*(chunk({"reasoning_details": [detail]}) for detail in INTERLEAVED), STOP, USED],
            id="a thought that goes on after the next",
        ),
        pytest.param(
            [chunk({"function_call": {"name": "f", "arguments": "{}"}}), STOP, USED],
            id="a function's call, and no end that says so",
        ),
        pytest.param([START, STOP, {"choices": [], "usage": {}}], id="usage that is empty"),
        pytest.param(
            [START, chunk({"content": "Fever"}), chunk({"refusal": "I cannot"}), STOP, USED],
            id="a refusal after a part of the text",
        ),
        pytest.param(
            [
                dose("a"),
                chunk({"tool_calls": [{"index": 1, "function": {"name": "f", "arguments": "{}"}}]}),
                chunk({}, reason="tool_calls"),
                USED,
            ],
            id="a tool call without an id",
        ),
        pytest.param(
            [chunk({"content": "Fever of 38.9 °C."})] * 2 + [STOP, USED], id="a long text twice, in one piece"
        ),
        pytest.param([USED], id="no choice"),
        pytest.param([chunk({"content": "\ud83d"}), STOP, USED], id="half a character that is shown"),
        pytest.param([chunk({"refusal": "\ud83d"}), STOP, USED], id="half a character that is not"),
        pytest.param([START, STOP, {"choices": [], "usage": {"cost": 1e999}}], id="a number out of range"),
        pytest.param(
            [
                chunk({}, content_filter_results={"hate": {"severity": "odd"}}),
                chunk({}, reason="stop", content_filter_results={"hate": {"severity": "safe"}}),
                USED,
            ],
            id="verdicts that cannot be one",
        ),
        pytest.param(
            [
                chunk({}, content_filter_results={"hate": {"severity": [1]}}),
                chunk({}, reason="stop", content_filter_results={"hate": {"severity": [2]}}),
                USED,
            ],
            id="verdicts that are none",
        ),
    ],
)
def test_what_cannot_be_joined_for_certain_is_refused(chunks: list[Chunk]) -> None:
    with pytest.raises(Unfaithful) as refused:
        assembled(*chunks, choices=1)

    assert str(refused.value)


ONE_ANSWERS = ["content_filter", "insufficient_system_resource", "error", "abort", "sensitive"]


@pytest.mark.parametrize(
    "reason", [*ONE_ANSWERS, "eos", "eos_token", "stop_sequence", "model_length", "a new reason"]
)
def test_an_end_that_is_not_known_to_be_harmless_is_no_answer(reason: str) -> None:
    """The batch answer has no text then, or another one."""
    chunks = [START, chunk({"content": "Fever of "}), chunk({}, reason=reason), USED]

    with pytest.raises(Unfaithful) as refused:
        assembled(*chunks, choices=1)

    assert isinstance(refused.value, AbnormalFinish) == (reason in ONE_ANSWERS)


@pytest.mark.parametrize("host", ["api.openai.com", "clinic.openai.azure.com"])
def test_openai_itself_stops_at_a_tool_that_the_call_names(host: str) -> None:
    """It documents `stop` for such a call, as a stream and as batch. Elsewhere the batch answer may end with
    `tool_calls`, see what is refused."""
    assembler = OpenAI(host).assembler(1)
    for each in (dose("a"), STOP, USED):
        assembler.feed(json.dumps(HEAD | each))
    (made,) = json.loads(assembler.answer())["choices"]

    assert (made["finish_reason"], len(made["message"]["tool_calls"])) == ("stop", 1)


def test_an_error_that_is_null_is_none() -> None:
    chunks = [START, chunk({"content": "a"}), STOP, USED]
    answer, shown = assembled(*({"error": None} | each for each in chunks), choices=1)

    assert shown == "a"
    assert answer == completion(choice({"content": "a"}), error=None)


def test_a_picture_is_in_the_answer() -> None:
    """OpenRouter and LiteLLM show it whole."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
    assembler = OpenAI().assembler(1)
    for each in (chunk({"content": "a", "images": [picture]}), STOP, USED):
        assembler.feed(json.dumps(HEAD | each))

    (made,) = json.loads(assembler.answer())["choices"]
    assert made == choice({"content": "a", "images": [picture]}, "stop")


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_end_that_is_known_to_be_harmless_is_an_answer(reason: str) -> None:
    """Also from servers that say "" as long as there is none."""
    chunks = [chunk({"content": "a"}, reason=""), chunk({}, reason=reason), USED]

    assert assembled(*chunks, choices=1)[0] == completion(choice({"content": "a"}, reason))


def test_the_callers_own_stream_is_its_answer_whatever_it_says_twice() -> None:
    """It is no other call's: nothing is held against it but what cannot be joined at all."""
    answer, _ = assembled(
        chunk({"content": "a"}),
        chunk({"content": "b"}),
        noted("a"),
        noted("a"),
        chunk({"content": "ab"}, reason="stop"),
        chunk({"content": "c"}, reason=""),
        USED,
    )

    message = answer["choices"][0]["message"]
    assert message["content"] == "ababc"
    assert [note["url_citation"]["url"] for note in message["annotations"]] == ["a", "a"]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_arguments_that_were_cut_for_their_length_say_nothing_of_the_next_call() -> None:
    with pytest.raises(AbnormalFinish):
        assembled(dose("a", {"name": "f", "arguments": '{"mg'}), chunk({}, reason="length"), USED, choices=1)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(START | {"prompt_filter_results": STRUCK}, id="the prompt"),
        pytest.param(chunk({}, content_filter_results=STRUCK[0]["content_filter_results"]), id="the answer"),
        pytest.param(
            chunk({}, content_filter_results={"custom_blocklists": [{"id": "b", "filtered": True}]}),
            id="a list of blocked words",
        ),
    ],
)
def test_a_filter_that_has_struck_makes_no_answer(where: Chunk) -> None:
    with pytest.raises(AbnormalFinish):
        assembled(where, START, STOP, USED, choices=1)


@pytest.mark.parametrize("choices", [1, 3])
def test_a_choice_that_is_missing_or_too_many_makes_no_answer(choices: int) -> None:
    two = [START, STOP, chunk({"content": "b"}, 1), chunk({}, 1, reason="stop"), USED]

    with pytest.raises(Unfaithful):
        assembled(*two, choices=choices)

    assert len(assembled(*two, choices=2)[0]["choices"]) == 2


@pytest.mark.parametrize(
    ("said", "is_answer"),
    [
        (completion(choice({"content": "a"})), True),
        (completion(choice({"content": None, "tool_calls": []}, "tool_calls")), True),
        ({"choices": [choice({"content": "a"})]}, True),
        (completion(choice({"content": "a"}), choice({"content": "b"}, index=1)), False),
        (completion(), False),
        (completion(choice({})), False),
        (completion(choice({"content": "a"}, "")), False),
        (completion(choice({"content": "a"}) | {"finish_reason": None}), False),
        (HEAD | chunk({"content": "a"}, reason="stop"), False),
        ({"error": "streaming is not enabled"}, False),
        ({"choices": [7]}, False),
        ([], False),
        ("", False),
    ],
)
def test_a_body_is_known_for_a_batch_answer_by_its_shape(said: Any, is_answer: bool) -> None:
    assert OpenAI().is_answer(json.dumps(said).encode(), 1) is is_answer
    assert not OpenAI().is_answer(json.dumps(said).encode() + b"}", 1)


@pytest.mark.parametrize(
    "data", ["{", "[]", "7", '{"detail": "overloaded"}', '{"choices": 7}', "{'a': 1}", "", "[" * 99_999]
)
def test_what_is_no_chunk_is_refused(data: str) -> None:
    with pytest.raises(Unfaithful):
        OpenAI().assembler().feed(data)


def test_nothing_may_come_after_the_end() -> None:
    assembler = OpenAI().assembler()
    assembler.feed("[DONE]")
    with pytest.raises(Unfaithful):
        assembler.feed(json.dumps(START))


def test_a_stream_is_gathered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.llm.assembly.json_dialect.MAX_ANSWER_CHARS", 1000)
    assembler = OpenAI().assembler()
    with pytest.raises(Unfaithful, match="too large"):
        for _ in range(1000):
            assembler.feed(json.dumps(chunk({"content": "word "})))


@pytest.mark.parametrize(
    ("code", "status"), [(503, 503), ("429", 429), ("server_error", 500), (None, 500), (200, 500), (42, 500)]
)
def test_an_error_in_the_stream_is_the_providers_own(code: Any, status: int) -> None:
    said = json.dumps({"error": {"message": "overloaded", "type": "server_error", "code": code}})
    with pytest.raises(ProviderFailed) as failed:
        OpenAI().assembler().feed(said)

    assert (failed.value.status, failed.value.body) == (status, said.encode())


def body(**more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "é"}], **more}).encode()


@pytest.mark.parametrize(
    ("target", "model"),
    [
        (b"/v1/chat/completions", "m"),
        (b"/chat/completions", "m"),
        (b"/api/v3/chat/completions?x=1", "m"),
        (b"/v1/agents/completions", "m"),
        (b"/openai/deployments/gpt4/chat/completions?api-version=2024-10-21", "m"),
    ],
)
def test_a_call_is_asked_as_a_stream_and_else_as_it_came(target: bytes, model: str) -> None:
    asked = OpenAI().as_stream("POST", target, body(seed=2**70, temperature=0.10, stream=False))

    assert asked is not None
    assert asked.target == target
    assert json.loads(asked.body) == json.loads(body(seed=2**70, temperature=0.1)) | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert asked.prompt.model == model


def test_azure_names_its_model_in_the_path() -> None:
    target = b"/openai/deployments/gpt4/chat/completions?api-version=2024-10-21"
    prompt = OpenAI().prompt("POST", target, b'{"messages": []}')

    assert prompt is not None
    assert prompt.model == "gpt4"


def test_the_system_prompt_is_all_that_instructs_the_model() -> None:
    said = [
        {"role": "system", "content": "You extract."},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}, {"type": "image"}]},
        {"role": "user", "content": "not this"},
        "nor this",
    ]
    prompt = OpenAI().prompt("POST", TARGET, json.dumps({"messages": said}).encode())

    assert prompt is not None
    assert (prompt.model, prompt.system) == ("", "You extract.\nBe brief.")


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"stream": "yes"},
        {"stream_options": {"include_usage": True}},
        {"n": 2, "logprobs": True},
        {"n": "2"},
        {"n": True},
        {"n": 129},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy"}},
        {"store": True},
        {"metadata": {"case": "7"}},
        {"temperature": 1e999},
    ],
)
def test_what_no_stream_could_answer_goes_through_as_batch(more: dict[str, Any]) -> None:
    with pytest.raises(NotStreamable):
        OpenAI().as_stream("POST", TARGET, body(**more))


@pytest.mark.parametrize("more", [{"n": 1, "logprobs": True}, {"n": 3}, {"modalities": ["text"]}])
def test_what_a_stream_can_answer_is_asked_as_one(more: dict[str, Any]) -> None:
    asked = OpenAI().as_stream("POST", TARGET, body(**more))

    assert asked is not None
    assert asked.choices == more.get("n", 1)


@pytest.mark.parametrize(
    ("method", "target", "said"),
    [
        ("GET", TARGET, body()),
        ("POST", b"/v1/embeddings", body()),
        ("POST", b"/v1/chat/completions/abc", body()),
        ("POST", TARGET, b"{"),
        ("POST", TARGET, b"[]"),
        ("POST", TARGET, b'{"messages": "hello"}'),
    ],
)
def test_what_is_no_call_for_text_is_none(method: str, target: bytes, said: bytes) -> None:
    dialect = OpenAI()

    assert dialect.as_stream(method, target, said) is None
    assert dialect.prompt(method, target, said) is None
    assert not dialect.is_stream(method, target, said)


@pytest.mark.parametrize(("stream", "is_stream"), [(True, True), (False, False), (None, False), (1, False)])
def test_a_caller_that_asks_for_a_stream_says_so(stream: Any, *, is_stream: bool) -> None:
    assert OpenAI().is_stream("POST", TARGET, body(stream=stream)) is is_stream
