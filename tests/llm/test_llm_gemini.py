"""Gemini's shape: what a stream makes is what the batch call would have been told, or it is refused."""

import base64
import json
from itertools import pairwise
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, Prompt, ProviderFailed, Unfaithful
from proxy.llm.dialects import gemini_answer as gemini
from proxy.llm.dialects.gemini import Gemini

Json = dict[str, Any]

TARGET = b"/v1beta/models/gemini-3.8-flash:generateContent"
STREAM = b"/v1beta/models/gemini-3.8-flash:streamGenerateContent"
CALL: Json = {"contents": [{"role": "user", "parts": [{"text": "Wheels?"}]}]}
HEAD = {"modelVersion": "gemini-3.8-flash", "responseId": "k22kauewLpKzg8UP-_Os-AY"}
USAGE = {"promptTokenCount": 20, "candidatesTokenCount": 4, "totalTokenCount": 24, "thoughtsTokenCount": 470}
SIGNED = "EmcKZQERTTIP3XgdOjfcfk6RoBGnDZ9aGnO2vfHecLcvL49H"


def body(**more: Any) -> bytes:
    return json.dumps(CALL | more).encode()


def event(*parts: Json, reason: str | None = None, **more: Any) -> Json:
    """An event of the Gemini API with one candidate; `more` is the candidate's."""
    candidate: Json = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate | more], "usageMetadata": USAGE} | HEAD


STOP = event({"text": ""}, reason="STOP")
A, CODE, RAN = {"text": "a"}, {"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}}


def assembled(*events: Json) -> tuple[Json, str]:
    """The answer that these events make, and the text that was shown."""
    assembler = Gemini().assembler()
    shown = "".join([assembler.feed(json.dumps(each)) for each in events])
    assert assembler.is_complete
    answer = json.loads(assembler.answer())
    types.GenerateContentResponse.model_validate(json.loads(assembler.answer()))
    return answer, shown


def parts_of(*events: Json) -> list[Json]:
    found: list[Json] = assembled(*events)[0]["candidates"][0]["content"]["parts"]
    return found


def refusal(*events: Any) -> str:
    """Return why these events make no answer."""
    assembler = Gemini().assembler()
    with pytest.raises(Unfaithful) as caught:
        for each in events:
            assembler.feed(each if isinstance(each, str) else json.dumps(each))
        assembler.answer()
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "streamed"),
    [
        (TARGET, STREAM + b"?alt=sse"),
        (TARGET + b"?", STREAM + b"?alt=sse"),
        (TARGET + b"?key=a%2Bb&alt=json&x=", STREAM + b"?key=a%2Bb&x=&alt=sse"),
        (TARGET + b"?%61lt=json&prettyPrint=false", STREAM + b"?prettyPrint=false&alt=sse"),
        (
            b"/v1/projects/p/locations/eu/publishers/google/models/g:generateContent?$.xgafv=2",
            b"/v1/projects/p/locations/eu/publishers/google/models/g:streamGenerateContent?$.xgafv=2&alt=sse",
        ),
    ],
)
def test_a_call_is_asked_as_a_stream_with_its_query_and_its_body_as_they_came(
    target: bytes, streamed: bytes
) -> None:
    said = b'{ "contents":[],\n "generationConfig":{"temperature":0.10} }'
    asked = Gemini().as_stream("POST", target, said)

    assert asked is not None
    assert (asked.target, asked.body) == (streamed, said)
    assert Gemini().is_stream("POST", asked.target, asked.body)


@pytest.mark.parametrize(
    ("method", "target", "said"),
    [
        ("GET", TARGET, body()),
        ("POST", b"/v1beta/models", body()),
        ("POST", b"/v1beta/models/gemini-3.8-flash", body()),
        ("POST", b"/v1beta/models/gemini-3.8-flash:countTokens", body()),
        ("POST", b"/v1beta/models/gemini-3.8-flash:embedContent", body()),
        ("POST", b"/v1beta/models/gemini-3.8-flash:batchGenerateContent", body()),
        ("POST", b"/v1beta/models/a/b:generateContent", body()),
        ("POST", TARGET + b"/x", body()),
        ("POST", TARGET, b""),
        ("POST", TARGET, b"[]"),
        ("POST", TARGET, b"{"),
        ("POST", TARGET, b"[" * 100_000),
        ("POST", TARGET, b'{"contents": "Wheels?"}'),
        ("POST", TARGET, b"{}"),
    ],
)
def test_what_is_no_call_for_content_is_left_alone(method: str, target: bytes, said: bytes) -> None:
    assert Gemini().as_stream(method, target, said) is None
    assert Gemini().prompt(method, target, said) is None
    assert not Gemini().is_stream(method, target, said)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (TARGET, body(generationConfig={"candidateCount": 2})),
        (TARGET, body(generation_config={"candidate_count": 2})),
        (TARGET, body(generationConfig=["candidateCount"])),
        (TARGET, body(generationConfig={"responseModalities": ["TEXT", "IMAGE"]})),
        (TARGET, body(generationConfig={"response_modalities": ["AUDIO"]})),
        (TARGET, body(generationConfig={"responseLogprobs": True})),
        (TARGET, body(generationConfig={"logprobs": 0})),
        (TARGET + b"?alt=proto", body()),
        (TARGET + b"?$alt=json;enum-encoding=int", body()),
        (TARGET + b"?%24alt=json", body()),
        (TARGET + b"?fields=candidates.content", body()),
        (TARGET + b"?callback=show", body()),
        (STREAM, body()),
        (STREAM + b"?alt=sse", body()),
    ],
)
def test_a_call_whose_answer_is_not_sure_to_join_is_not_streamed(target: bytes, said: bytes) -> None:
    """It is a call for content all the same."""
    with pytest.raises(NotStreamable):
        Gemini().as_stream("POST", target, said)
    assert Gemini().prompt("POST", target, said) == Prompt("gemini-3.8-flash", "")


@pytest.mark.parametrize(
    "config",
    [
        {},
        None,
        {"candidateCount": 1, "responseModalities": ["TEXT"], "responseLogprobs": False, "logprobs": None},
        {"responseModalities": []},
        {"responseMimeType": "application/json", "thinkingConfig": {"includeThoughts": True}},
    ],
)
def test_a_call_for_one_text_is_streamed(config: Json | None) -> None:
    assert Gemini().as_stream("POST", TARGET, body(generationConfig=config)) is not None


@pytest.mark.parametrize(
    ("target", "is_stream"),
    [
        (STREAM + b"?alt=sse", True),
        (STREAM + b"?key=k&alt=sse", True),
        (STREAM, False),
        (STREAM + b"?alt=json", False),
        (STREAM + b"?salt=sse", False),
        (TARGET + b"?alt=sse", False),
    ],
)
def test_a_stream_without_alt_sse_is_an_array_that_is_not_read(target: bytes, is_stream: bool) -> None:
    assert Gemini().is_stream("POST", target, body()) is is_stream


@pytest.mark.parametrize(
    ("said", "system"),
    [
        (
            body(systemInstruction={"parts": [{"text": "Be brief."}, {"text": "Be kind."}]}),
            "Be brief.\nBe kind.",
        ),
        (body(system_instruction={"parts": [{"text": "Be brief."}]}), "Be brief."),
        (body(systemInstruction={"parts": [{"inlineData": {}}, "x", {"text": 1}]}), ""),
        (body(systemInstruction={"parts": "x"}), ""),
        (body(systemInstruction="x"), ""),
    ],
)
def test_a_call_is_named_by_its_model_and_its_system_instruction(said: bytes, system: str) -> None:
    target = b"/v1/projects/p/models/gemini%2D3:generateContent"
    asked = Gemini().as_stream("POST", target, said)

    assert Gemini().prompt("POST", target, said) == Prompt("gemini-3", system)
    assert asked is not None
    assert asked.prompt == Prompt("gemini-3", system)


def test_text_is_joined_and_shown_and_gemini_3_signs_it_in_an_empty_last_piece() -> None:
    """As a stream of the Gemini API came, and as the batch answer has it."""
    answer, shown = assembled(
        event({"text": "Fever of "}),
        event({"text": "38.9 °C 😀"}),
        event({"text": "", "thoughtSignature": SIGNED}, reason="MAX_TOKENS"),
    )

    assert answer == event({"text": "Fever of 38.9 °C 😀", "thoughtSignature": SIGNED}, reason="MAX_TOKENS")
    assert shown == "Fever of 38.9 °C 😀"


def test_vertex_leaves_out_the_index_and_counts_at_the_end() -> None:
    def vertex(text: str, usage: Json, **more: Any) -> Json:
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, **more}
        created = {"createTime": "2026-10-06T19:23:34.699816Z"}
        return {"candidates": [candidate], "usageMetadata": {"trafficType": "ON_DEMAND"} | usage} | created

    answer, shown = assembled(vertex("a", {}), vertex(" b", {}), vertex("", USAGE, finishReason="STOP"))

    assert answer == vertex("a b", USAGE, finishReason="STOP")
    assert shown == "a b"


def test_gemini_2_5_signs_the_first_piece() -> None:
    said = parts_of(event({"text": "a", "thoughtSignature": SIGNED}), event({"text": "b"}), STOP)

    assert said == [{"text": "ab", "thoughtSignature": SIGNED}]


def test_a_signature_may_come_without_a_text() -> None:
    said = parts_of(event({"text": "a"}), event({"thoughtSignature": SIGNED}, reason="STOP"))

    assert said == [{"text": "a", "thoughtSignature": SIGNED}]


def test_a_signature_may_come_beside_the_text_it_is_of() -> None:
    said = parts_of(event({"text": "a"}, {"text": "", "thoughtSignature": SIGNED}, reason="STOP"))

    assert said == [{"text": "a", "thoughtSignature": SIGNED}]


def test_an_empty_text_that_is_signed_is_a_part_if_there_is_no_text_before_it() -> None:
    signed, call = {"text": "", "thoughtSignature": SIGNED}, {"functionCall": {"name": "a"}}

    assert parts_of(event(call), event(signed, reason="STOP")) == [call, signed]
    assert parts_of(event(signed), event(call, reason="STOP")) == [signed, call]


def test_thoughts_are_a_part_of_their_own_and_not_shown() -> None:
    thought = {"thought": True}
    answer, shown = assembled(
        event({"text": "First", **thought}),
        event({"text": ", fever.", **thought}, {"text": "Fl"}),
        event({"text": "u."}),
        STOP,
    )

    said: list[Json] = [{"text": "First, fever.", **thought}, {"text": "Flu."}]
    assert answer == event(*said, reason="STOP")
    assert shown == "Flu."


def test_other_parts_come_whole_and_in_order() -> None:
    """Two calls of functions in a row are two; the empty texts around them are of the stream alone."""
    call = {"functionCall": {"id": "1", "name": "dose", "args": {"mg": 5, "of": [0.1, None, "ü"]}}}
    code: Json = {"executableCode": {"language": "PYTHON", "code": "1 + 1"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}}
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}
    signed_call = {"functionCall": {**call["functionCall"], "id": "2"}, "thoughtSignature": SIGNED}
    said = parts_of(
        event({"text": ""}),
        event(signed_call, call),
        event({"text": ""}),
        event(code),
        event(result, picture),
        STOP,
    )

    assert said == [signed_call, call, code, result, picture]


def test_an_answer_without_a_text_has_the_empty_one_that_came() -> None:
    assert parts_of(event({"text": ""}), STOP) == [{"text": ""}]


@pytest.mark.parametrize("content", [{}, {"content": {}}, {"content": {"role": "model"}}])
def test_an_answer_without_parts_stays_one(content: Json) -> None:
    answer = {"candidates": [{"finishReason": "SAFETY", "index": 0, **content}], "usageMetadata": USAGE}

    assert assembled(answer) == (answer, "")


def test_candidates_are_told_apart_by_their_index() -> None:
    """The caller's own streams may have several; the text of the first is shown."""
    answer, shown = assembled(
        event({"text": "B1"}, index=1),
        event({"text": "A1"}),
        event({"text": "B2"}, index=1, reason="STOP"),
        event({"text": "A2"}, reason="STOP"),
    )

    both = [event({"text": text}, index=at, reason="STOP") for at, text in enumerate(["A1A2", "B1B2"])]
    assert answer["candidates"] == [each["candidates"][0] for each in both]
    assert shown == "A1A2"


def test_a_blocked_prompt_is_a_complete_answer_of_the_callers_own_stream() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}} | HEAD

    assert assembled(blocked) == (blocked, "")
    with pytest.raises(AbnormalFinish):
        strictly(blocked)


def strictly(*events: Json) -> Json:
    """The answer to a call that was asked as a stream here."""
    assembler = Gemini().assembler(1)
    for each in events:
        assembler.feed(json.dumps(each))
    found: Json = json.loads(assembler.answer())
    return found


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "OTHER", "A_NEW_ONE"])
def test_an_end_that_is_not_known_to_be_harmless_is_no_answer(reason: str) -> None:
    """The batch answer has no text then, or another one. It says nothing of the model's next answer."""
    with pytest.raises(AbnormalFinish):
        strictly(event(A), event({"text": ""}, reason=reason))


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS"])
def test_an_end_that_is_known_to_be_harmless_is_an_answer(reason: str) -> None:
    assert strictly(event(A), event({"text": ""}, reason=reason)) == event(A, reason=reason)


def test_a_rating_that_has_blocked_makes_no_answer() -> None:
    with pytest.raises(AbnormalFinish):
        strictly(event(A, reason="STOP", safetyRatings=[{"category": "X", "blocked": True}]))


@pytest.mark.parametrize("texts", [("a", "b", "ab"), ("Fe", "Fever", "Fever of")])
def test_a_text_that_comes_again_makes_no_answer(texts: tuple[str, ...]) -> None:
    """All of it in the end, or all of it so far each time."""
    with pytest.raises(Unfaithful):
        strictly(*(event({"text": text}) for text in texts), STOP)


def test_a_candidate_too_many_makes_no_answer() -> None:
    with pytest.raises(Unfaithful):
        strictly(event(A, reason="STOP"), event(A, reason="STOP", index=1))


@pytest.mark.parametrize(
    ("said", "is_answer"),
    [
        (event(A, reason="STOP"), True),
        ({"candidates": [{"finishReason": "SAFETY"}]}, True),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, True),
        (event(A), False),
        ({"candidates": [{"finishReason": "STOP", "content": "a"}]}, False),
        ({"candidates": []}, False),
        ({"candidates": [7]}, False),
        ([event(A, reason="STOP")], False),
        ({"error": {"code": 400}}, False),
        ({}, False),
    ],
)
def test_a_body_is_known_for_a_batch_answer_by_its_shape(said: Any, is_answer: bool) -> None:
    """Not an array of events, which is a stream without `alt=sse`."""
    assert Gemini().is_answer(json.dumps(said).encode(), 1) is is_answer
    assert not Gemini().is_answer(json.dumps(said).encode() + b"}", 1)


def test_a_prompt_that_is_blocked_midway_ends_the_stream() -> None:
    """There is no answer to be made of it; see what is refused."""
    assembler = Gemini().assembler()
    assembler.feed(json.dumps(event({"text": "a"})))
    assembler.feed(json.dumps({"promptFeedback": {"blockReason": "OTHER"}}))

    assert assembler.is_complete


def test_an_answer_that_does_not_say_what_was_used_is_no_batch_answer() -> None:
    """Every batch answer of Google's says it. The caller's own stream need not."""
    without = event(A, reason="STOP")
    del without["usageMetadata"]

    assert assembled(without)[0] == without
    with pytest.raises(Unfaithful):
        strictly(without)


def test_an_error_that_is_null_is_no_error_to_be_told() -> None:
    with pytest.raises(Unfaithful):
        strictly({"error": None} | event(A, reason="STOP"))


def test_an_event_about_neither_candidates_nor_usage_changes_neither() -> None:
    assert assembled(event(A, reason="STOP"), HEAD, {})[0] == event(A, reason="STOP")


def test_a_stream_has_ended_when_every_candidate_has() -> None:
    assembler = Gemini().assembler()
    has_ended = []
    events: list[Json] = [
        {"usageMetadata": USAGE},
        {"promptFeedback": {"safetyRatings": []}},
        {"candidates": []},
        event({"text": "B"}, index=1, reason="STOP"),
        event({"text": "A"}),
        event({"text": ""}, reason="STOP"),
        {"usageMetadata": USAGE},
    ]
    for each in events:
        assembler.feed(json.dumps(each))
        has_ended.append(assembler.is_complete)

    assert has_ended == [False, False, False, False, False, True, True]


REPEATED: dict[str, Any] = {
    "finishMessage": "Done.",
    "citationMetadata": {"citations": [{"startIndex": 1, "endIndex": 9, "uri": "https://a.example/"}]},
    "urlContextMetadata": {"urlMetadata": [{"retrievedUrl": "https://a.example/"}]},
}
GROUNDING: dict[str, Any] = {
    "groundingChunks": [{"web": {"uri": "https://a.example/", "title": "a"}}],
    "groundingSupports": [{"segment": {"endIndex": 9, "text": "a"}, "confidenceScores": [0.97, 0.1]}],
    "webSearchQueries": ["wheels"],
    "imageSearchQueries": ["wheels"],
    "retrievalQueries": ["wheels"],
    "searchEntryPoint": {"renderedContent": "<a>"},
    "retrievalMetadata": {"googleSearchDynamicRetrievalScore": 0.3},
    "sourceFlaggingUris": [{"sourceId": "1"}],
    "googleMapsWidgetContextToken": "w",
}
AROUND: dict[str, Any] = {
    "modelVersion": "gemini-3.8-flash",
    "responseId": "k22",
    "createTime": "2026-10-06T19:23:34.699816Z",
    "modelStatus": {"modelStage": "STABLE"},
    "promptFeedback": {"safetyRatings": []},
}


@pytest.mark.parametrize("name", [*REPEATED, "groundingMetadata"])
def test_what_is_said_of_a_candidate_is_said_once_or_again_unchanged(name: str) -> None:
    value = (REPEATED | {"groundingMetadata": GROUNDING})[name]
    once, twice = event({"text": "a"}, **{name: value}), event({"text": "b"}, **{name: value})

    for events in ([once, event({"text": "b"}), STOP], [once, twice, STOP]):
        assert assembled(*events)[0] == event({"text": "ab"}, reason="STOP", **{name: value})


def rated(probability: str, *, blocked: bool = False, category: str = "HARM_CATEGORY_HARASSMENT") -> Json:
    return {"category": category, "probability": probability} | ({"blocked": True} if blocked else {})


def test_the_last_ratings_are_of_the_whole_answer() -> None:
    """Vertex AI rates each event anew. What was blocked once stays so, and other categories are refused."""
    rating = [rated("NEGLIGIBLE"), rated("LOW")]
    first, last = (
        event({"text": "a"}, safetyRatings=rating[:1]),
        event({"text": "b"}, safetyRatings=rating[1:]),
    )
    assert assembled(first, last, STOP)[0] == event({"text": "ab"}, reason="STOP", safetyRatings=rating[1:])

    struck = event({"text": "a"}, safetyRatings=[rated("HIGH", blocked=True)])
    answer, _ = assembled(struck, last, STOP)
    assert answer["candidates"][0]["safetyRatings"] == [rated("LOW", blocked=True)]
    other = event({"text": "b"}, safetyRatings=[rated("LOW", category="HARM_CATEGORY_HATE_SPEECH")])
    assert refusal(first, other) == DIFFERS


def argument(path: str, value: str) -> list[Json]:
    """A call in pieces whose only argument is a text, without its end."""
    more = {"willContinue": True}
    return [
        event({"functionCall": {"name": "dose"} | more}),
        event(
            {"functionCall": {"partialArgs": [{"jsonPath": path, "stringValue": value[:1]} | more]} | more}
        ),
        event({"functionCall": {"partialArgs": [{"jsonPath": path, "stringValue": value[1:]}]} | more}),
    ]


def test_arguments_in_pieces_are_put_together() -> None:
    """Vertex AI streams them on request. Each piece says where it stands; a call ends with one that does not
    continue, or with an empty one."""

    def more(path: str, *, ends: bool = False, **value: Any) -> Json:
        rest = {} if ends else {"willContinue": True}
        return event({"functionCall": {"partialArgs": [{"jsonPath": path} | value]} | rest})

    said = parts_of(
        *argument("$.drugs[0].name", "ASS"),
        more("$.drugs[0].mg", numberValue=100),
        more("$.drugs[1]['of it']", nullValue="NULL_VALUE"),
        more("$.urgent", boolValue=False, ends=True),
        *argument("$.a", "b"),
        event({"functionCall": {}}),
        STOP,
    )

    drugs = [{"name": "ASS", "mg": 100}, {"of it": None}]
    assert said == [
        {"functionCall": {"name": "dose", "args": {"drugs": drugs, "urgent": False}}},
        {"functionCall": {"name": "dose", "args": {"a": "b"}}},
    ]


def test_arguments_in_pieces_are_not_asked_for_by_a_batch_call() -> None:
    config = {"toolConfig": {"functionCallingConfig": {"streamFunctionCallArguments": True}}}
    with pytest.raises(NotStreamable):
        Gemini().as_stream("POST", TARGET, body(**config))


def test_an_unknown_field_that_cannot_change_the_answer_is_kept_and_named() -> None:
    assembler = Gemini().assembler(1)
    for each in (event({"text": "a"}, rank=3) | {"region": "eu"}, STOP | {"region": "eu"}):
        assembler.feed(json.dumps(each))

    assert json.loads(assembler.answer()) == event({"text": "a"}, reason="STOP", rank=3) | {"region": "eu"}
    assert sorted(assembler.kept_fields()) == ["candidates[].rank", "region"]


@pytest.mark.parametrize("name", AROUND)
def test_what_surrounds_the_candidates_is_said_once_or_again_unchanged(name: str) -> None:
    around = {name: AROUND[name]}

    assert (
        assembled(event({"text": "a"}) | around, STOP | around)[0]
        == event({"text": "a"}, reason="STOP") | around
    )


@pytest.mark.parametrize("name", GROUNDING)
def test_sources_may_come_in_several_events_of_which_each_says_something_else(name: str) -> None:
    """An empty object comes before them."""
    some, rest = {name: GROUNDING[name]}, {key: value for key, value in GROUNDING.items() if key != name}
    first, second = event({"text": "a"}, groundingMetadata={}), event({"text": "b"}, groundingMetadata=some)
    answer, _ = assembled(first, second, event({"text": ""}, reason="STOP", groundingMetadata=rest))

    assert answer["candidates"][0]["groundingMetadata"] == GROUNDING


def differing(table: dict[str, Any]) -> list[Any]:
    return [pytest.param({name: value}, {name: "other"}, id=name) for name, value in table.items()]


@pytest.mark.parametrize(("said", "other"), differing({**REPEATED, "finishReason": "STOP"}))
def test_what_differs_from_what_was_said_of_a_candidate_is_refused(said: Json, other: Json) -> None:
    assert refusal(event(**said), event(**other)) == "a field comes again, and differs"


@pytest.mark.parametrize(("said", "other"), differing(GROUNDING))
def test_sources_that_differ_are_refused(said: Json, other: Json) -> None:
    """They may be more, or all there are so far."""
    other = {"groundingSupports": []} if "groundingSupports" in other else other
    first, second = event(groundingMetadata=said), event(groundingMetadata=other)

    assert refusal(first, second) == "a field comes again, and differs"


@pytest.mark.parametrize(
    ("said", "other"),
    differing({name: value for name, value in AROUND.items() if name != "promptFeedback"}),
)
def test_what_differs_around_the_candidates_is_refused(said: Json, other: Json) -> None:
    assert refusal(event() | said, event() | other) == "a field comes again, and differs"


@pytest.mark.parametrize("name", ["avgLogprobs", "logprobsResult", "tokenCount", "continuationToken"])
def test_what_may_be_about_a_part_of_the_answer_is_refused(name: str) -> None:
    refused = "a field is about a part of the answer, or about all of it"

    said: Json = {name: 1}
    assert refusal(event({"text": "a"}, **said)) == refused


CHANGES = "a field that is not known changes"
DIFFERS = "a field comes again, and differs"
UNKNOWN = "an event has a field that is not known"
UNKNOWN_PART = "a part has a field that is not known"
TWICE = {"text": "b", "thoughtSignature": "c2Vjb25k"}


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        pytest.param(["{"], "an event is no JSON", id="no JSON"),
        pytest.param(["[DONE]"], "an event is no JSON", id="another API's end"),
        pytest.param(['{"modelVersion": "\\ud800"}'], "an event is no JSON", id="no Unicode"),
        pytest.param(['{"modelVersion": 1e999}'], "an event is no JSON", id="no number"),
        pytest.param(["[" * 2000], "an event is no JSON", id="too deep to read"),
        pytest.param([[1]], "an object is none", id="an array"),
        pytest.param([{"detail": "overloaded"}], "an event is no chunk", id="an event of another kind"),
        pytest.param([{"candidates": {}}], "a list is none", id="candidates"),
        pytest.param([{"candidates": [[]]}], "an object is none", id="candidate"),
        pytest.param([event() | {"new": 1}, event() | {"new": 2}], CHANGES, id="unknown, and changes"),
        pytest.param([event(new=1), event(new=2)], CHANGES, id="unknown in a candidate, and changes"),
        pytest.param(
            [event(new=1), event(A), STOP | event(new=1)],
            "a field that is not known comes again, and not always",
            id="unknown now and then",
        ),
        pytest.param([event(finishReason=None)], UNKNOWN, id="null, which Google never writes"),
        pytest.param([event(content={"new": 1})], UNKNOWN, id="unknown in a content"),
        pytest.param([event(groundingMetadata={"new": 1})], UNKNOWN, id="unknown in sources"),
        pytest.param([{"promptFeedback": {"new": 1}}], UNKNOWN, id="unknown about the prompt"),
        pytest.param([event(content=[])], "an object is none", id="content"),
        pytest.param([event(content={"parts": {}})], "a list is none", id="parts"),
        pytest.param([event(content={"role": "a"}), event(content={"role": "b"})], DIFFERS, id="role"),
        pytest.param([event(index=-1)], "an index is none", id="index below"),
        pytest.param([event(index=gemini.MAX_CANDIDATES)], "an index is none", id="index above"),
        pytest.param([event(index=True)], "an index is none", id="no index"),
        pytest.param([event({"text": 1})], "a text is no string", id="text"),
        pytest.param([event({})], "a part has nothing that is known", id="empty part"),
        pytest.param([event({"videoMetadata": {}})], UNKNOWN_PART, id="unknown part"),
        pytest.param([event({"text": "a", "functionCall": {}})], UNKNOWN_PART, id="two parts in one"),
        pytest.param(
            [event({"functionCall": {}, "inlineData": {}})], UNKNOWN_PART, id="two whole parts in one"
        ),
        pytest.param([event({"functionCall": []})], "an object is none", id="call"),
        pytest.param(
            [event({"functionCall": {"name": "a", "willContinue": True}}), STOP],
            "a call has no end",
            id="call without its end",
        ),
        pytest.param([*argument("$.a", "b"), STOP], "a call has no end", id="pieces without their end"),
        pytest.param(
            [*argument("$.a", "b"), event({"functionCall": {"name": "c"}})],
            "a part begins within a call",
            id="a call within a call",
        ),
        pytest.param([*argument("$[?(@.a)]", "b")], "an argument's path is none", id="another path"),
        pytest.param([*argument("$.a[1]", "b")], "an argument's path is none", id="a gap in a list"),
        pytest.param(
            [*argument("$.a", "b"), *argument("$.a", "b")[1:]],
            "an argument comes again",
            id="argument twice",
        ),
        pytest.param(
            [event({"functionCall": {"partialArgs": []}})], "a call's piece follows none", id="piece of none"
        ),
        pytest.param(
            [event({"functionCall": {"id": "1"}}), event({"functionCall": {"id": "1"}}, reason="STOP")],
            "a part comes again",
            id="a call that comes again",
        ),
        pytest.param([event(A, A)], "two texts of one event may be one or two", id="two texts"),
        pytest.param([event(CODE), event(CODE)], "two parts with code may be one or two", id="code"),
        pytest.param([event(RAN), event(RAN)], "two parts with code may be one or two", id="code that ran"),
        pytest.param(
            [event({"text": "a", "thoughtSignature": SIGNED}), event(TWICE)], DIFFERS, id="two signatures"
        ),
        pytest.param([STOP, event(A)], "an answer goes on after its end", id="text after the end"),
        pytest.param(
            [STOP, event({"functionCall": {"name": "a"}})],
            "an answer goes on after its end",
            id="call after the end",
        ),
        pytest.param(
            [event(A), {"promptFeedback": {"blockReason": "OTHER"}}],
            "the prompt was blocked after its answer began",
            id="blocked midway",
        ),
        pytest.param(
            [event(A), {"candidates": [{"finishReason": "STOP"}]}],
            "the last event does not say what was used",
            id="usage of an earlier event",
        ),
        pytest.param(
            [event(groundingMetadata={"groundingSupports": [{"segment": {"partIndex": 1}}]})],
            "a source is of a part that may have another number",
            id="source of another part",
        ),
        pytest.param(
            ['{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"n":-9999999999999999999}}}]}}]}'],
            "an integer may have more than 64 bits",
            id="long integer",
        ),
    ],
)
def test_what_cannot_be_joined_for_certain_is_refused(events: list[Any], reason: str) -> None:
    assert refusal(*events) == reason


@pytest.mark.parametrize("depth", [300, 1010])
def test_what_is_too_deep_to_compare_or_to_write_is_refused(depth: int) -> None:
    deep = f'{{"modelVersion": {"[" * depth}1{"]" * depth}}}'

    assert refusal(deep, deep) == "an event is too deep"


@pytest.mark.parametrize(
    "number", ["999999999999999999", "0.1234567890123456789012", "123456789012345678901.5"]
)
@pytest.mark.parametrize(
    "text", ["a", "12345678901234567890", '"12345678901234567890', "[12345678901234567890\\"]
)
def test_long_numbers_in_texts_are_text_and_a_double_is_one_however_long(text: str, number: str) -> None:
    """Every client reads a number with a point as a double."""
    said: list[Json] = [{"text": text}, {"functionCall": {"name": "n", "args": {"n": "NUMBER"}}}]
    assembler = Gemini().assembler()

    shown = assembler.feed(json.dumps(event(*said)).replace('"NUMBER"', number))
    parts = json.loads(assembler.answer())["candidates"][0]["content"]["parts"]
    assert (shown, parts[1]["functionCall"]["args"]["n"]) == (text, json.loads(number))


def test_an_answer_that_is_too_large_is_refused() -> None:
    """What surrounds the text counts too."""
    piece = json.dumps(event({"text": "a" * (gemini.MAX_ANSWER_CHARS // 4)}))

    assert refusal(*[piece] * 4) == "the answer is too large"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}, 503),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, 429),
        ({"code": "503"}, 500),
        ({"code": 200}, 500),
        ({"code": True}, 500),
        ({}, 500),
        ("Overloaded", 500),
    ],
)
def test_an_error_in_a_stream_is_the_answer_that_the_batch_call_would_have_had(
    error: Any, status: int
) -> None:
    said = json.dumps({"error": error}, indent=1)
    assembler = Gemini().assembler()
    assembler.feed(json.dumps(event(A)))

    with pytest.raises(ProviderFailed) as caught:
        assembler.feed(said)
    assert (caught.value.status, caught.value.body) == (status, said.encode())


def aliases(of: Any) -> set[str]:
    return {str(field.alias) for field in of.model_fields.values()}


@pytest.mark.parametrize(
    ("of", "decided"),
    [
        (
            types.GenerateContentResponse,
            {
                *gemini.RESPONSE,
                "candidates",
                "sdkHttpResponse",
                "automaticFunctionCallingHistory",
                "parsed",
            },  # the client's own
        ),
        (types.Candidate, {*gemini.CANDIDATE}),
        (types.GroundingMetadata, {*gemini.GROUNDING}),
        (types.FunctionCall, {*gemini.WHOLE_PARTS["functionCall"], "partialArgs", "willContinue"}),
        (types.Blob, {*gemini.WHOLE_PARTS["inlineData"]}),
        (types.ExecutableCode, {*gemini.WHOLE_PARTS["executableCode"]}),
        (types.CodeExecutionResult, {*gemini.WHOLE_PARTS["codeExecutionResult"]}),
    ],
)
def test_every_field_that_googles_client_knows_has_its_row(of: Any, decided: set[str]) -> None:
    """A new one is to be looked at, until when what has it is refused."""
    assert aliases(of) <= decided


base64s = st.binary(min_size=1, max_size=8).map(lambda raw: base64.b64encode(raw).decode())
scalars = st.none() | st.booleans() | st.integers(1 - 10**18, 10**18 - 1) | st.text(max_size=5)
values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
calls = st.fixed_dictionaries(
    {"name": st.text()}, optional={"args": st.dictionaries(st.text(), values, max_size=3)}
)
whole = (
    calls.map(lambda call: {"functionCall": call})
    | base64s.map(lambda data: {"inlineData": {"mimeType": "image/png", "data": data}})
    | st.text().map(lambda code: {"executableCode": {"language": "PYTHON", "code": code}})
    | st.text().map(lambda output: {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": output}})
)
texts = st.fixed_dictionaries(
    {"text": st.text(min_size=1, max_size=20)},
    optional={"thought": st.just(True), "thoughtSignature": base64s},
)
usages = st.fixed_dictionaries({}, optional=dict.fromkeys(USAGE, st.integers(0, 10**6)))


def kind(part: Json) -> str:
    """Parts of these kinds that follow one another are not told apart in a stream."""
    for name in ("executableCode", "codeExecutionResult"):
        if name in part:
            return name
    return f"text {part.get('thought', False)}" if "text" in part else ""


@st.composite
def batch_candidates(draw: st.DrawFn, index: int) -> Json:
    """A candidate as the batch answer has it."""
    parts: list[Json] = []
    for part in draw(st.lists(whole | texts, max_size=5)):
        if not parts or not kind(part) or kind(part) != kind(parts[-1]):
            parts.append(part)
    said = REPEATED | {"groundingMetadata": GROUNDING}
    chosen = draw(st.lists(st.sampled_from(sorted(said)), unique=True))
    content = {"role": "model", "parts": parts} if parts else {"role": "model"}
    reason = draw(st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY"]))
    return {"content": content, "finishReason": reason, "index": index} | {
        name: said[name] for name in chosen
    }


@st.composite
def pieces(draw: st.DrawFn, part: Json) -> list[Json]:
    """A part as a stream has it: a text in pieces, whose first or last is signed, or one that is empty."""
    if "text" not in part:
        return [part]
    text, signature = part["text"], part.get("thoughtSignature")
    unsigned = {name: value for name, value in part.items() if name != "thoughtSignature"}
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)) | {0, len(text)})
    found = [unsigned | {"text": text[start:end]} for start, end in pairwise(cuts)]
    if signature is not None:
        found += [unsigned | {"text": ""}] if draw(st.booleans()) else []
        found[draw(st.sampled_from([0, -1]))]["thoughtSignature"] = signature
    return found


@st.composite
def streams_of(draw: st.DrawFn, candidate: Json) -> list[Json]:
    """Its events: each piece of its parts in one, the rest in any of them, or in several."""
    contents: list[Json] = [
        {"role": "model", "parts": [piece]}
        for part in candidate["content"].get("parts", [])
        for piece in draw(pieces(part))
    ]
    if contents:
        empty = [{"role": "model", "parts": [{"text": ""}]}]
        contents = empty * draw(st.integers(0, 1)) + contents + empty * draw(st.integers(0, 1))
    index = candidate["index"]
    events: list[Json] = [{"content": each, "index": index} for each in contents or [{"role": "model"}]]
    for name in candidate.keys() - {"content", "index", "finishReason"}:
        for at in draw(st.sets(st.integers(0, len(events) - 1), min_size=1, max_size=2)):
            events[at][name] = candidate[name]
    events[-1]["finishReason"] = candidate["finishReason"]
    return events


@given(data=st.data())
def test_however_a_batch_answer_is_cut_into_a_stream_it_is_made_of_it_again(data: st.DataObject) -> None:
    """Any answer of what can be joined, its candidates in any interleaving; and Google's client reads it."""
    count = data.draw(st.integers(1, 3))
    batch = [data.draw(batch_candidates(index)) for index in range(count)]
    usage = data.draw(usages)
    streams = [data.draw(streams_of(candidate)) for candidate in batch]
    events: list[Json] = []
    while any(streams):
        stream = data.draw(st.sampled_from([stream for stream in streams if stream]))
        events.append({"candidates": [stream.pop(0)], "usageMetadata": data.draw(usages)} | HEAD)
    events[-1]["usageMetadata"] = usage

    answer, shown = assembled(*events)

    assert answer == {"candidates": batch, "usageMetadata": usage} | HEAD
    said = batch[0]["content"].get("parts", [])
    assert shown == "".join(part.get("text", "") for part in said if not part.get("thought"))


names = st.sampled_from(
    [*gemini.RESPONSE, *gemini.CANDIDATE, *gemini.TEXT_PART, *gemini.WHOLE_PARTS, "parts", "blockReason"]
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
candidates_of_anything = st.lists(
    st.dictionaries(st.sampled_from([*gemini.CANDIDATE]), anything, max_size=4)
    | st.fixed_dictionaries({"content": st.fixed_dictionaries({"parts": st.lists(anything, max_size=3)})}),
    max_size=2,
)


@given(st.lists(anything | st.fixed_dictionaries({"candidates": candidates_of_anything}), max_size=4))
def test_whatever_comes_is_joined_or_refused(events: list[Any]) -> None:
    assembler = Gemini().assembler()
    try:
        for each in events:
            assembler.feed(json.dumps(each))
            assert assembler.is_complete in (True, False)
        json.loads(assembler.answer())
    except (Unfaithful, ProviderFailed):
        pass
