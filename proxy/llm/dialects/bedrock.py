"""Amazon Bedrock's Converse, and InvokeModel with bodies of Anthropic's: their calls. No I/O.

Sources: Amazon Bedrock's API reference, "Converse", "ConverseStream", "InvokeModel" and
"InvokeModelWithResponseStream"; and botocore's model of the service.

A stream has a path of its own, the same body, and another permission in IAM. Its events are framed in binary;
`stream_events.py` hands them on as JSON, each an object with the event's kind.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from proxy.llm.assembly.call_fields import asks_for_json, call_of, path_of, texts_of
from proxy.llm.assembly.dialect import Assembler, NotStreamable, Prompt, StreamCall
from proxy.llm.assembly.usage import UsageFields
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.converse_answer import Conversation
from proxy.llm.dialects.invoked_answer import InvokedMessage

EVENT_STREAM = b"application/vnd.amazon.eventstream"

_NO_TEXT = re.compile(r"embed|rerank|image|stability|canvas|reel|sonic", re.IGNORECASE)
"""In the names of models that are invoked for something else than text."""


class BedrockCall(NamedTuple):
    """A call of a model."""

    path: bytes
    """The path up to and including the slash before its last part."""
    model: str
    is_stream: bool
    body: dict[str, Any]


class Converse:
    """Calls whose path ends with `/model/NAME/converse`, or `/converse-stream`."""

    media_type = EVENT_STREAM
    answer_type = b"application/json"
    usage = UsageFields(
        input=("usage.inputTokens", "usage.cacheReadInputTokens", "usage.cacheWriteInputTokens"),
        output=("usage.outputTokens",),
    )
    batch, streamed = b"converse", b"converse-stream"
    renamed: Mapping[bytes, bytes] = {}

    def __init__(self) -> None:
        self._target = re.compile(rb"(.*/model/([^/]+)/)(%b|%b)" % (self.batch, self.streamed))

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and self._target.fullmatch(path_of(target)) is not None

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        call = self.call(method, target, body)
        return call is not None and call.is_stream

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        call = self.call(method, target, body)
        return None if call is None else self.prompt_of(call)

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        call = self.call(method, target, body)
        if call is None:
            return None
        if call.is_stream:
            raise NotStreamable("it asks for a stream itself")
        if why := self.not_streamable(call.body):
            raise NotStreamable(why)
        streamed = call.path + self.streamed + target[len(path_of(target)) :]
        return StreamCall(streamed, body, self.prompt_of(call), renamed=self.renamed)

    def assembler(self, choices: int | None = None) -> Assembler:
        return Conversation(is_own_stream=choices is None)

    def is_answer(self, body: bytes, choices: int) -> bool:
        answer = call_of(body, "output")
        return answer is not None and isinstance(answer.get("stopReason"), str)

    def call(self, method: str, target: bytes, body: bytes) -> BedrockCall | None:
        """A call for text."""
        found = self._target.fullmatch(path_of(target))
        if method != "POST" or found is None or (call := call_of(body, "messages")) is None:
            return None
        return BedrockCall(found[1], unquote(found[2].decode("latin-1")), found[3] == self.streamed, call)

    def prompt_of(self, call: BedrockCall) -> Prompt:
        """Return the properties by which a call is told from others."""
        config = call.body.get("outputConfig")
        form = config.get("textFormat") if isinstance(config, dict) else None
        return Prompt(call.model, "\n".join(texts_of(call.body.get("system"))), asks_for_json(form))

    def not_streamable(self, call: Mapping[str, Any]) -> str:
        """Return why the answer to a batch call could not be made of a stream; "" if it can."""
        has_guardrail = call.get("guardrailConfig") is not None
        return "a guardrail reads a whole answer, and a stream in parts" if has_guardrail else ""


class InvokeModel(Converse):
    """Calls whose path ends with `/model/NAME/invoke`, or `/invoke-with-response-stream`."""

    batch, streamed = b"invoke", b"invoke-with-response-stream"
    usage = Anthropic.usage
    renamed: Mapping[bytes, bytes] = {b"accept": b"x-amzn-bedrock-accept"}

    def is_call(self, method: str, target: bytes) -> bool:
        found = self._target.fullmatch(path_of(target))
        return method == "POST" and found is not None and not _NO_TEXT.search(found[2].decode("latin-1"))

    def assembler(self, choices: int | None = None) -> Assembler:
        return InvokedMessage(is_own_stream=choices is None)

    def is_answer(self, body: bytes, choices: int) -> bool:
        return Anthropic().is_answer(body, choices)

    def prompt_of(self, call: BedrockCall) -> Prompt:
        told = Anthropic().prompt_of(call.body, b"")
        return Prompt(call.model, told.system, told.wants_json)

    def not_streamable(self, call: Mapping[str, Any]) -> str:
        return "" if "anthropic_version" in call else "its body is not of Anthropic's shape"
