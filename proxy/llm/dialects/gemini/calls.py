"""Google's generateContent, of the Gemini API and of Vertex AI: its calls. No I/O."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

import orjson

from proxy.llm.assembly.dialect import NotStreamable, Prompt, StreamCall
from proxy.llm.assembly.usage import UsageFields
from proxy.llm.dialects.gemini.answer import Response, is_candidate

SHAPES_THE_ANSWER = frozenset({b"$alt", b"fields", b"$fields", b"callback"})
"""Query parameters of all of Google's APIs that change the shape of an answer, or of a stream's event."""

_TARGET = re.compile(
    rb"(.*/(?:models|tunedModels|endpoints)/([^/:]+):)(generateContent|streamGenerateContent)(?:\?(.*))?",
    re.DOTALL,
)


class GeminiCall(NamedTuple):
    """A call for content."""

    path: bytes
    """The path up to and including the colon."""
    model: str
    is_stream: bool
    query: bytes
    body: dict[str, Any]

    @property
    def parameters(self) -> dict[bytes, bytes]:
        return dict(map(_parameter, self.query.split(b"&")))


class Gemini:
    """Calls whose path ends with `/models/NAME:generateContent`, or `:streamGenerateContent`. Tuned models
    stand at `/tunedModels/`, on Vertex AI at `/endpoints/`."""

    media_type = b"text/event-stream"
    answer_type = b"application/json; charset=UTF-8"
    usage = UsageFields(
        input=("usageMetadata.promptTokenCount", "usageMetadata.toolUsePromptTokenCount"),
        output=("usageMetadata.candidatesTokenCount", "usageMetadata.thoughtsTokenCount"),
    )

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and _TARGET.fullmatch(target) is not None

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        """True if the call asks for a stream with `alt=sse`. Without that a stream is a JSON array, which no
        assembler reads."""
        call = _call(method, target, body)
        return call is not None and call.is_stream and call.parameters.get(b"alt") == b"sse"

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        call = _call(method, target, body)
        return None if call is None else _prompt(call)

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        call = _call(method, target, body)
        if call is None:
            return None
        if why := _not_streamable(call):
            raise NotStreamable(why)
        query = [pair for pair in call.query.split(b"&") if pair and _parameter(pair)[0] != b"alt"]
        streamed = call.path + b"streamGenerateContent?" + b"&".join([*query, b"alt=sse"])
        return StreamCall(streamed, body, _prompt(call))

    def assembler(self, choices: int | None = None) -> "Response":
        return Response(choices)

    def is_answer(self, body: bytes, choices: int) -> bool:
        try:
            answer = orjson.loads(body)
        except ValueError:
            return False
        if not isinstance(answer, dict):
            return False
        found, feedback = answer.get("candidates"), answer.get("promptFeedback")
        if found is None:
            return isinstance(feedback, dict) and "blockReason" in feedback
        return isinstance(found, list) and len(found) == choices and all(map(is_candidate, found))


def _call(method: str, target: bytes, body: bytes) -> GeminiCall | None:
    match = _TARGET.fullmatch(target)
    if method != "POST" or match is None:
        return None
    try:
        call = orjson.loads(body)
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("contents"), list):
        return None
    model = unquote(match[2].decode("latin-1"))
    return GeminiCall(match[1], model, match[3] == b"streamGenerateContent", match[4] or b"", call)


def _prompt(call: GeminiCall) -> Prompt:
    config = _field(call.body, "generationConfig", "generation_config")
    kind = _field(config, "responseMimeType", "response_mime_type") if isinstance(config, dict) else None
    return Prompt(call.model, _system(call.body), kind == "application/json")


def _parameter(pair: bytes) -> tuple[bytes, bytes]:
    name, _, value = pair.partition(b"=")
    return unquote_to_bytes(name), unquote_to_bytes(value)


def _not_streamable(call: GeminiCall) -> str:
    """Return why a call's answer could not be made of a stream; "" if it can."""
    config = _field(call.body, "generationConfig", "generation_config") or {}
    if call.is_stream:
        return "it asks for a stream itself"
    if call.parameters.get(b"alt", b"json") != b"json" or call.parameters.keys() & SHAPES_THE_ANSWER:
        return "it asks for another shape of answer"
    if not isinstance(config, dict) or _field(config, "candidateCount", "candidate_count") not in (None, 1):
        return "several candidates"
    if _field(config, "responseModalities", "response_modalities") not in (None, [], ["TEXT"]):
        return "it asks for more than text"
    if _streams_arguments(call.body):
        return "it asks for arguments in pieces"
    if _field(config, "responseLogprobs", "response_logprobs") or config.get("logprobs") is not None:
        return "it asks for logprobs"
    return ""


def _streams_arguments(call: Mapping[str, Any]) -> bool:
    """True if tools' arguments are to come in pieces, which a batch answer does not have."""
    config = _field(call, "toolConfig", "tool_config") or {}
    calling = (
        _field(config, "functionCallingConfig", "function_calling_config")
        if isinstance(config, dict)
        else None
    )
    if not isinstance(calling, dict):
        return False
    return bool(_field(calling, "streamFunctionCallArguments", "stream_function_call_arguments"))


def _system(call: Mapping[str, Any]) -> str:
    """The text that instructs the model, a line each part."""
    system = _field(call, "systemInstruction", "system_instruction")
    found = system.get("parts") if isinstance(system, dict) else None
    texts = [part.get("text") for part in found if isinstance(part, dict)] if isinstance(found, list) else []
    return "\n".join(text for text in texts if isinstance(text, str))


def _field(of: Mapping[str, Any], camel: str, snake: str) -> Any:
    """A field of a call, in either spelling that Protocol Buffers' JSON allows."""
    return of.get(camel, of.get(snake))
