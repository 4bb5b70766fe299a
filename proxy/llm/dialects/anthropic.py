"""Anthropic's Messages API, also through Vertex AI's and other paths: its calls and its answers. No I/O.

Sources: Anthropic's API reference, "Streaming Messages" and "Errors"; its own joiner of streams,
`accumulate_event` of its Python SDK; and recorded streams.

A stream's first event has the message, mostly without content: a tool's call out of running code comes whole.
Blocks follow one another: each begins with an event
that has the block, and grows by deltas; what a server's tool returned comes whole. The last events say why
the message ended, and what was used in all.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from proxy.llm.assembly.call_fields import asks_for_json, call_of, model_of, path_of, texts_of
from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, Prompt, ProviderFailed, Unfaithful
from proxy.llm.assembly.joins import Text, check_texts
from proxy.llm.assembly.json_dialect import JsonAnswer, JsonDialect
from proxy.llm.assembly.json_values import (
    as_arguments,
    as_list,
    as_object,
    as_text,
    as_word,
    serialized,
    shown,
)
from proxy.llm.assembly.repeated_events import Growth
from proxy.llm.assembly.usage import UsageFields

MAX_BLOCKS = 4096
"""The most blocks of one message."""

HARMLESS_FINISHES = frozenset(
    {
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "tool_use",
        "pause_turn",
        "compaction",
        "model_context_window_exceeded",
    }
)
"""Reasons to stop after which the batch answer has the stream's text. After `refusal` it may have another."""

STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status of an error in a stream, by its type."""

_VERTEX = re.compile(rb"(.*/publishers/anthropic/models/([^/:]+):)(rawPredict|streamRawPredict)")


class Anthropic(JsonDialect):
    """Calls whose path ends with `/messages`, or on Vertex AI with `:rawPredict`."""

    usage = UsageFields(
        input=("usage.input_tokens", "usage.cache_creation_input_tokens", "usage.cache_read_input_tokens"),
        output=("usage.output_tokens",),
    )

    def is_call(self, method: str, target: bytes) -> bool:
        path = path_of(target)
        return method == "POST" and (path.endswith(b"/messages") or _VERTEX.fullmatch(path) is not None)

    def stream_target(self, target: bytes) -> bytes:
        vertex = _VERTEX.fullmatch(path_of(target))
        if vertex is None:
            return target
        if vertex[3] != b"rawPredict":
            raise NotStreamable("it speaks of streams itself")
        return vertex[1] + b"streamRawPredict" + target[len(vertex[0]) :]

    def assembler(self, choices: int | None = None) -> "ClaudeMessage":
        return ClaudeMessage(is_own_stream=choices is None)

    def is_answer(self, body: bytes, choices: int) -> bool:
        answer = call_of(body, "stop_reason")
        return answer is not None and answer.get("type") == "message" and type(answer.get("content")) is list

    def prompt_of(self, call: Mapping[str, Any], target: bytes) -> Prompt:
        vertex = _VERTEX.fullmatch(path_of(target))
        model = vertex[2].decode("latin-1") if vertex else model_of(call)
        config = call.get("output_config")
        form = config.get("format") if isinstance(config, dict) else call.get("output_format")
        return Prompt(model, "\n".join(texts_of(call.get("system"))), asks_for_json(form))


class ClaudeMessage(JsonAnswer):
    """The answer that one stream makes."""

    repeats = True

    def __init__(self, *, is_own_stream: bool) -> None:
        super().__init__(is_own_stream=is_own_stream)
        self._message: dict[str, Any] | None = None
        self._blocks: list[dict[str, Any]] = []
        self._arguments: list[str] = []
        """Of the block that is open, a tool's use."""
        self._is_open = False
        self._is_counted = False
        """Whether an event said what was used, and nothing came after it."""

    def take(self, event: dict[str, Any], data: str) -> str:
        kind = as_word(event.get("type"))
        if kind == "error":
            raise ProviderFailed(_status(event.get("error")), data.encode())
        take = EVENTS.get(kind)
        if take is None:
            raise Unfaithful("an event is not known")
        if kind not in FREE and not event.keys() <= FIELDS:
            raise Unfaithful("an event has a field that is not known")
        return take(self, event)

    def _start(self, event: Mapping[str, Any]) -> str:
        if self._message is not None:
            raise Unfaithful("a second message begins")
        self._message = as_object(event.get("message"))
        self._blocks = [as_object(block) for block in as_list(self._message.get("content"))]
        is_whole = self._message.get("stop_reason") is not None
        self._is_counted = is_whole and "output_tokens" in as_object(self._message.get("usage"))
        return shown(
            "".join(as_text(block.get("text")) for block in self._blocks if block.get("type") == "text")
        )

    def _start_block(self, event: Mapping[str, Any]) -> str:
        block = dict(as_object(event.get("content_block")))
        if self._message is None or self._is_open or event.get("index") != len(self._blocks):
            raise Unfaithful("a block is out of order")
        if len(self._blocks) >= MAX_BLOCKS:
            raise Unfaithful("there are too many blocks")
        if self._message.get("stop_reason") is not None:
            raise Unfaithful("an answer goes on after its end")
        if block.get("type") == "fallback":
            # Another model goes on: the batch answer names the one that ended it.
            self._message["model"] = as_text(as_object(block.get("to")).get("model"))
        text = as_text(block.get("text", "")) if block.get("type") == "text" else ""
        for name in ("text", "thinking"):
            if isinstance(block.get(name), str) and block.get("type") == name:
                block[name] = Text(block[name])
        self._blocks.append(block)
        self._arguments, self._is_open, self._is_counted = [], True, False
        return shown(text)

    def _add(self, event: Mapping[str, Any]) -> str:
        if not self._is_open or event.get("index") != len(self._blocks) - 1:
            raise Unfaithful("a block is out of order")
        delta = as_object(event.get("delta"))
        kind = as_word(delta.get("type"))
        name = DELTAS.get(kind)
        if name is None or (delta.keys() != {"type", name} and delta.keys() != COMPACTED):
            raise Unfaithful("a delta is not known, or has a field that is not")
        if kind == "compaction_delta" and delta.get("encrypted_content") is not None:
            self._join("encrypted_content", delta["encrypted_content"])
        return self._join(name, delta[name])

    def growth(self, event: dict[str, Any]) -> Growth | None:
        """See `JsonAnswer`."""
        name = DELTAS[event["delta"]["type"]] if event["type"] == "content_block_delta" else ""
        text = self._blocks[-1].get(name) if name in ("text", "thinking") else None
        return Growth(("delta", name), text.pieces, name == "text") if isinstance(text, Text) else None

    def _join(self, name: str, value: Any) -> str:
        """Join a delta's value to the open block; the text that is shown."""
        block = self._blocks[-1]
        if block.get("type") != BLOCKS.get(name, block.get("type")):
            raise Unfaithful("a delta is of another kind than its block")
        if name in ("text", "thinking"):
            if not isinstance(block.get(name), Text):
                raise Unfaithful("a delta is of another kind than its block")
            block[name].pieces.append(as_text(value))
            return shown(value) if name == "text" else ""
        if name == "partial_json":
            self._arguments.append(as_text(value))
            if block is next((each for each in self._blocks if each.get("type") == "tool_use"), None):
                self.arguments = value
        elif name == "citation":
            if block.get("citations") is None:
                block["citations"] = []
            as_list(block["citations"]).append(as_object(value))
        elif name == "signature":
            block[name] = as_text(value)
        elif block.get(name) is not None:
            raise Unfaithful("a content comes again")
        else:
            block[name] = value
        return ""

    def _stop_block(self, event: Mapping[str, Any]) -> str:
        if not self._is_open or event.get("index") != len(self._blocks) - 1:
            raise Unfaithful("a block is out of order")
        self._is_open = False
        if arguments := "".join(self._arguments):
            block = self._blocks[-1]
            if "input" not in block or block["input"]:
                raise Unfaithful("a tool's arguments come twice, or are of no tool")
            block["input"] = Text(arguments)  # parsed at the end: they may have been cut for their length
        return ""

    def _change(self, event: Mapping[str, Any]) -> str:
        """Take in what is known at the end only: why it ended, and what was used. A null says nothing."""
        if self._message is None:
            raise Unfaithful("a message has not begun")
        if self._is_open:
            raise Unfaithful("a block is out of order")
        for name, value in as_object(event.get("delta")).items():
            before = self._message.get(name)
            if value is not None and name in ("stop_reason", "stop_sequence") and before:
                raise Unfaithful("a message ends twice")
            if value is not None and before is not None and before != value:
                raise Unfaithful("a field of the message comes again, and differs")
            if value is not None or name not in self._message:
                self._message[name] = value
            if name not in OF_THE_END:
                self.unknown.take(name, value)
        used = {name: of for name, of in as_object(event.get("usage") or {}).items() if of is not None}
        self._is_counted = self._is_counted or "output_tokens" in used
        as_object(self._message.setdefault("usage", {})).update(used)
        for name in event.keys() - FIELDS:
            if name in KNOWN_AT_THE_END:
                self._message[name] = event[name]
            else:
                self.unknown.take(name, event[name])
        return ""

    def _stop(self, _: Mapping[str, Any]) -> str:
        self.is_terminated = True
        return ""

    def _ignore(self, _: Mapping[str, Any]) -> str:
        return ""

    def answer(self) -> bytes:
        """The message as JSON."""
        if self._message is None or self._is_open:
            raise Unfaithful("the message, or its last block, has no end")
        reason = as_word(self._message.get("stop_reason"))
        if not self.is_own_stream:
            check_texts(block.get(name) for block in self._blocks for name in ("text", "thinking"))
            if reason == "refusal":
                raise AbnormalFinish("the answer was ended before its end")
            if reason not in HARMLESS_FINISHES:
                raise Unfaithful("the message has ended for a reason that is not known")
            if not self._is_counted:
                raise Unfaithful("the stream does not say what was used in all")
        blocks = [_finished(block, reason) for block in self._blocks]
        return serialized(self._message | {"content": blocks} | self.unknown.values())


FIELDS = frozenset(
    {"type", "index", "message", "content_block", "delta", "usage", "amazon-bedrock-invocationMetrics"}
)
"""Of all events; Amazon's is in the last event of streams alone."""

FREE = frozenset({"message_delta", "ping"})
"""Events that may have other fields: of a ping nothing is read."""

OF_THE_END = frozenset({"stop_reason", "stop_sequence", "stop_details", "container"})
"""Fields of the message that are known at its end only, in that event's delta."""

KNOWN_AT_THE_END = frozenset({"context_management", "input_transformations"})
"""Fields of the message that stand in the event of its end, and replace what its beginning said."""

DELTAS: Mapping[str, str] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "citations_delta": "citation",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
}
"""The field of each kind of delta. Texts and thoughts grow, arguments grow and are parsed, citations are
appended, and a signature replaces an earlier one."""

COMPACTED = frozenset({"type", "content", "encrypted_content"})
"""The fields of a delta of a compaction, which come whole; the last one may be missing."""

BLOCKS: Mapping[str, str] = {
    "signature": "thinking",
    "citation": "text",
    "content": "compaction",
    "encrypted_content": "compaction",
}
"""The only kind of block that has a delta's field."""

EVENTS: Mapping[str, Callable[[ClaudeMessage, Mapping[str, Any]], str]] = {
    "message_start": ClaudeMessage._start,
    "content_block_start": ClaudeMessage._start_block,
    "content_block_delta": ClaudeMessage._add,
    "content_block_stop": ClaudeMessage._stop_block,
    "message_delta": ClaudeMessage._change,
    "message_stop": ClaudeMessage._stop,
    "ping": ClaudeMessage._ignore,
}
"""The function for each kind of event; an `error` is dealt with before."""


def _finished(block: Mapping[str, Any], reason: Any) -> dict[str, Any]:
    """A block as the batch answer has it."""
    if not isinstance(block.get("input"), Text):
        as_object(block.get("input", {}))
        return dict(block)
    try:
        return {**block, "input": as_arguments(block["input"])}
    except Unfaithful:
        if reason in ("max_tokens", "model_context_window_exceeded"):
            raise AbnormalFinish("the answer was too long for its tool's arguments") from None
        raise


def _status(error: Any) -> int:
    return STATUSES.get(as_word(error.get("type")), 500) if isinstance(error, dict) else 500
