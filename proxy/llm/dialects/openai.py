"""Calls of OpenAI's chat completions, and of every API of that shape: Azure's, DeepSeek's, vLLM's. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

from proxy.llm.dialects.dialect import NotStreamable, Prompt, StreamCall
from proxy.llm.dialects.openai_answer import Completion
from proxy.llm.dialects.openai_fields import MAX_CHOICES
from proxy.llm.dialects.openai_finish import is_choice

AS_STREAM = {"stream": True, "stream_options": {"include_usage": True}}

WITHOUT_OPTIONS = {"stream": True}

REFUSING_OPTIONS = frozenset({"api.mistral.ai", "codestral.mistral.ai"})
"""Hosts that refuse `stream_options`, and say what was used in any case."""


class OpenAI:
    """Calls whose path ends with `/chat/completions`, wherever an API has them.

    Args:
        host: the provider's, "" if it does not matter.
    """

    media_type = b"text/event-stream"

    def __init__(self, host: str = "") -> None:
        self._as_stream = WITHOUT_OPTIONS if host in REFUSING_OPTIONS else AS_STREAM

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and target.partition(b"?")[0].endswith(b"/chat/completions")

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        call = _call(method, target, body)
        return call is not None and call.get("stream") is True

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        call = _call(method, target, body)
        return None if call is None else Prompt(_model(call, target), _system(call))

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        call = _call(method, target, body)
        if call is None:
            return None
        if why := _not_streamable(call):
            raise NotStreamable(why)
        try:
            asked = json.dumps(call | self._as_stream, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            raise NotStreamable("a number is out of range, or a text is no Unicode") from None
        return StreamCall(target, asked, Prompt(_model(call, target), _system(call)), call.get("n") or 1)

    def assembler(self, choices: int | None = None) -> "Completion":
        return Completion(choices)

    def is_answer(self, body: bytes, choices: int) -> bool:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return False
        found = answer.get("choices") if isinstance(answer, dict) else None
        return isinstance(found, list) and len(found) == choices and all(map(is_choice, found))


def _call(method: str, target: bytes, body: bytes) -> dict[str, Any] | None:
    """The body of a call for a chat completion."""
    if method != "POST" or not target.partition(b"?")[0].endswith(b"/chat/completions"):
        return None
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return call if isinstance(call, dict) and isinstance(call.get("messages"), list) else None


def _not_streamable(call: Mapping[str, Any]) -> str:
    """Why a call's answer could not be made of a stream; "" if it can."""
    if call.get("stream") not in (None, False) or call.get("stream_options") is not None:
        return "it speaks of streams itself"
    n = call.get("n", 1) or 1
    if type(n) is not int or not 0 < n <= MAX_CHOICES:
        return "its number of choices is none"
    if n > 1 and call.get("logprobs"):
        return "several choices with logprobs"
    if call.get("audio") is not None or call.get("modalities") not in (None, ["text"]):
        return "it asks for more than text"
    if call.get("store") or call.get("metadata"):
        return "a stored answer has fields that a stream has not"
    return ""


def _model(call: Mapping[str, Any], target: bytes) -> str:
    """The model's name; in Azure's older paths the deployment's."""
    if isinstance(model := call.get("model"), str):
        return model
    _, found, deployment = target.partition(b"/deployments/")
    return deployment.partition(b"/")[0].decode("latin-1") if found else ""


def _system(call: Mapping[str, Any]) -> str:
    """The text of the messages that instruct the model, a line each."""
    lines: list[str] = []
    for message in call["messages"]:
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [part.get("text") for part in parts if isinstance(part, dict)]
            lines += [text for text in texts if isinstance(text, str)]
    return "\n".join(lines)
