"""Gemini's calls: which are asked as a stream, and how."""

import pytest

from proxy.llm.assembly.dialect import NotStreamable, Prompt
from proxy.llm.dialects.gemini.calls import Gemini
from tests.llm.gemini_events import STREAM, TARGET, Json, body


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
        (b"/v1beta/tunedModels/t:generateContent", b"/v1beta/tunedModels/t:streamGenerateContent?alt=sse"),
        (
            b"/v1/projects/p/locations/eu/endpoints/7:generateContent",
            b"/v1/projects/p/locations/eu/endpoints/7:streamGenerateContent?alt=sse",
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
