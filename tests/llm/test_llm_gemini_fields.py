"""The fields beside Gemini's texts: each is joined by its rule, or the answer is refused."""

import json
from typing import Any

import pytest
from google.genai import types

from proxy.llm.dialects.gemini import answer as gemini
from proxy.llm.dialects.gemini.calls import Gemini
from tests.llm.gemini_events import DIFFERS, GROUNDING, REPEATED, STOP, Json, assembled, event, rated, refusal

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
