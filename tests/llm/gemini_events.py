"""Events of Gemini, and the answers that they make."""

import json
from typing import Any

import pytest
from google.genai import types

from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.dialects.gemini.calls import Gemini

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


def strictly(*events: Json) -> Json:
    """The answer to a call that was asked as a stream here."""
    assembler = Gemini().assembler(1)
    for each in events:
        assembler.feed(json.dumps(each))
    found: Json = json.loads(assembler.answer())
    return found


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


def rated(probability: str, *, blocked: bool = False, category: str = "HARM_CATEGORY_HARASSMENT") -> Json:
    return {"category": category, "probability": probability} | ({"blocked": True} if blocked else {})


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


DIFFERS = "a field comes again, and differs"
