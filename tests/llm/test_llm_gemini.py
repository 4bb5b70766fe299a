"""Gemini's answers: a stream makes what the batch call would have been told."""

import json
from typing import Any

import pytest

from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, ProviderFailed, Unfaithful
from proxy.llm.dialects.gemini.calls import Gemini
from tests.llm.gemini_events import (
    HEAD,
    SIGNED,
    STOP,
    TARGET,
    USAGE,
    A,
    Json,
    argument,
    assembled,
    body,
    event,
    parts_of,
    strictly,
)


def test_text_is_joined_and_shown_and_gemini_3_signs_it_in_an_empty_last_piece() -> None:
    """The stream is as the Gemini API's came, the result as its batch answer has it."""
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


@pytest.mark.parametrize(
    "number",
    ["999999999999999999", "-9999999999999999999", "0.1234567890123456789012", "123456789012345678901.5"],
)
@pytest.mark.parametrize(
    "text", ["a", "12345678901234567890", '"12345678901234567890', "[12345678901234567890\\"]
)
def test_a_number_in_a_text_is_text_and_any_other_is_itself_however_long(text: str, number: str) -> None:
    """An integer beyond 64 bits is none the less one, and a number with a point is a double."""
    said: list[Json] = [{"text": text}, {"functionCall": {"name": "n", "args": {"n": "NUMBER"}}}]
    assembler = Gemini().assembler()

    shown = assembler.feed(json.dumps(event(*said)).replace('"NUMBER"', number))
    parts = json.loads(assembler.answer())["candidates"][0]["content"]["parts"]
    assert (shown, parts[1]["functionCall"]["args"]["n"]) == (text, json.loads(number))


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
