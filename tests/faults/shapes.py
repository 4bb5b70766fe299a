"""The shapes of API that the model port knows, as a provider speaks them: calls, batch answers, streams."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.servers.tapping import COMPLETIONS, chat, chunks, completion

Json = dict[str, Any]
EVENTS = Callable[[str], list[bytes]]


@dataclass(frozen=True)
class Shape:
    """One of them. A call's model is called as its run is, so that rounds learn nothing of each other."""

    api: str
    path: str
    """Of a batch call; `{model}` stands for the model's name."""
    body: Callable[[str, str], Json]
    """Of a call with a prompt for a model."""
    answer: Callable[[str], Json]
    events: EVENTS
    """Of its stream; so many are without text at the beginning as `silent` says."""
    text: Callable[[Json], str | None]
    """Of a batch answer."""
    silent: int
    model_of: Callable[[bytes, Json], str]
    prompt_of: Callable[[Json], str]
    is_streamed: Callable[[bytes, Json], bool]


def event(said: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\r\n\r\n"


def _gemini(text: str, reason: str | None) -> Json:
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m-2024", "responseId": "r-1"}


def _gemini_events(text: str, size: int = 4) -> list[bytes]:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [*(event(_gemini(piece, None)) for piece in pieces), event(_gemini("", "STOP"))]


def _gemini_text(said: Json) -> str | None:
    parts = said["candidates"][0].get("content", {}).get("parts", [])
    return "".join(part.get("text", "") for part in parts) if parts else None


OPENAI = Shape(
    api="openai",
    path=COMPLETIONS,
    body=lambda prompt, model: chat(prompt, model=model),
    answer=completion,
    events=chunks,
    text=lambda said: said["choices"][0]["message"].get("content"),
    silent=1,
    model_of=lambda target, body: str(body["model"]),
    prompt_of=lambda body: str(body["messages"][-1]["content"]),
    is_streamed=lambda target, body: bool(body.get("stream")),
)
GEMINI = Shape(
    api="gemini",
    path="/v1beta/models/{model}:generateContent",
    body=lambda prompt, model: {"contents": [{"role": "user", "parts": [{"text": prompt}]}]},
    answer=lambda text: _gemini(text, "STOP"),
    events=_gemini_events,
    text=_gemini_text,
    silent=0,
    model_of=lambda target, body: target.partition(b"/models/")[2].partition(b":")[0].decode(),
    prompt_of=lambda body: str(body["contents"][-1]["parts"][0]["text"]),
    is_streamed=lambda target, body: b":streamGenerateContent" in target,
)


def _anthropic(content: list[Json], **more: Any) -> Json:
    head = {"id": "msg-1", "type": "message", "role": "assistant", "model": "m-2024", "content": content}
    return head | {"stop_reason": "end_turn", "stop_sequence": None} | more


def _anthropic_events(text: str, size: int = 4) -> list[bytes]:
    start = _anthropic([], stop_reason=None, usage={"input_tokens": 5, "output_tokens": 1})
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    said: list[Json] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in pieces
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {each['type']}\n".encode() + event(each) for each in said]


ANTHROPIC = Shape(
    api="anthropic",
    path="/v1/messages",
    body=lambda prompt, model: chat(prompt, model=model, max_tokens=99),
    answer=lambda text: _anthropic(
        [{"type": "text", "text": text}], usage={"input_tokens": 5, "output_tokens": 7}
    ),
    events=_anthropic_events,
    text=lambda said: "".join(block.get("text", "") for block in said["content"]) or None,
    silent=2,
    model_of=lambda target, body: str(body["model"]),
    prompt_of=lambda body: str(body["messages"][-1]["content"]),
    is_streamed=lambda target, body: bool(body.get("stream")),
)


def _cohere(text: str) -> Json:
    said = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return {
        "id": "r-1",
        "message": said,
        "finish_reason": "COMPLETE",
        "usage": {"tokens": {"input_tokens": 5}},
    }


def _cohere_events(text: str, size: int = 4) -> list[bytes]:
    empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    end = {name: _cohere(text)[name] for name in ("finish_reason", "usage")}
    begun = {"message": {"content": {"type": "text", "text": ""}}}
    said: list[Json] = [
        {"id": "r-1", "type": "message-start", "delta": {"message": empty}},
        {"type": "content-start", "index": 0, "delta": begun},
        *(
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece}}}}
            for piece in pieces
        ),
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": end},
    ]
    return [event(each) for each in said]


COHERE = Shape(
    api="cohere",
    path="/v2/chat",
    body=lambda prompt, model: chat(prompt, model=model),
    answer=_cohere,
    events=_cohere_events,
    text=lambda said: "".join(part.get("text", "") for part in said["message"].get("content") or ()) or None,
    silent=2,
    model_of=lambda target, body: str(body["model"]),
    prompt_of=lambda body: str(body["messages"][-1]["content"]),
    is_streamed=lambda target, body: bool(body.get("stream")),
)
SHAPES = (OPENAI, GEMINI, ANTHROPIC, COHERE)
