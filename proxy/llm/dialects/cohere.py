"""Cohere's chat, version 2: its calls and its answers. No I/O.

Sources: Cohere's API reference, "Chat" and "Chat with streaming", and recorded streams. A batch answer has no
empty lists and no empty plan, though a stream begins with them.
"""

from collections.abc import Mapping
from typing import Any

from proxy.llm.assembly.call_fields import asks_for_json, call_of, model_of, path_of, system_of
from proxy.llm.assembly.dialect import AbnormalFinish, Prompt, Unfaithful
from proxy.llm.assembly.joins import Text, check_texts
from proxy.llm.assembly.json_dialect import JsonAnswer, JsonDialect
from proxy.llm.assembly.json_values import as_arguments, as_object, as_text, as_word, serialized, shown
from proxy.llm.assembly.repeated_events import Growth
from proxy.llm.assembly.usage import UsageFields

MAX_ITEMS = 4096
"""Of each list of one message."""

HARMLESS_FINISHES = frozenset({"COMPLETE", "MAX_TOKENS", "STOP_SEQUENCE", "TOOL_CALL"})
"""Reasons to finish after which the batch answer has the stream's text."""

IGNORED = frozenset({"content-end", "tool-call-end", "citation-end", "debug"})

LISTS: Mapping[str, str] = {
    "content-start": "content",
    "tool-call-start": "tool_calls",
    "citation-start": "citations",
}
"""Events that begin an item, and the list of the message that it belongs to."""

FIELDS = frozenset({"type", "id", "index", "delta", "logprobs"})
"""Of all events that are read."""

GROWING = frozenset({"text", "thinking", "arguments"})
"""Fields of an item whose texts are joined."""


class Cohere(JsonDialect):
    """Calls whose path ends with `/v2/chat`."""

    usage = UsageFields(input=("usage.tokens.input_tokens",), output=("usage.tokens.output_tokens",))

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and path_of(target).endswith(b"/v2/chat")

    def not_streamable(self, call: Mapping[str, Any]) -> str:
        return "it asks for logprobs" if call.get("logprobs") else ""

    def assembler(self, choices: int | None = None) -> "CohereMessage":
        return CohereMessage(is_own_stream=choices is None)

    def is_answer(self, body: bytes, choices: int) -> bool:
        answer = call_of(body, "finish_reason")
        return answer is not None and isinstance(answer.get("message"), dict)

    def prompt_of(self, call: Mapping[str, Any], target: bytes) -> Prompt:
        wants_json = asks_for_json(call.get("response_format"))
        return Prompt(model_of(call), "\n".join(system_of(call["messages"])), wants_json)


class CohereMessage(JsonAnswer):
    """The answer that one stream makes."""

    repeats = True

    def __init__(self, *, is_own_stream: bool) -> None:
        super().__init__(is_own_stream=is_own_stream)
        self._answer: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._lists: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS.values()}
        self._plan = Text("")

    def take(self, event: dict[str, Any], data: str) -> str:
        kind = as_word(event.get("type"))
        if kind in IGNORED:
            return ""
        delta = as_object(event.get("delta"))
        self.unknown.events += 1
        for name in event.keys() - FIELDS if not event.keys() <= FIELDS else ():
            self.unknown.take(name, event[name])
        if kind == "message-start":
            self._start(event, delta)
        elif kind == "message-end":
            self._end(event, delta)
        elif kind == "tool-plan-delta":
            self._plan.pieces.append(as_text(_only(delta, "tool_plan")))
        elif kind in LISTS:
            return self._begin(LISTS[kind], event, delta)
        elif kind == "content-delta":
            return self._grow("content", event, delta)
        elif kind == "tool-call-delta":
            self._grow("tool_calls", event, delta)
        else:
            raise Unfaithful("an event is not known")
        return ""

    def _start(self, event: Mapping[str, Any], delta: Mapping[str, Any]) -> None:
        if self._answer:
            raise Unfaithful("a second message begins")
        self._answer = {"id": event.get("id")}
        self._message = {name: value for name, value in as_object(delta.get("message")).items() if value}
        if not self._message.keys().isdisjoint({*self._lists, "tool_plan"}):
            raise Unfaithful("a message begins with content")

    def _begin(self, name: str, event: Mapping[str, Any], delta: Mapping[str, Any]) -> str:
        found = self._lists[name]
        if event.get("index") != len(found) or len(found) >= MAX_ITEMS:
            raise Unfaithful("an item is out of order")
        item = _only(delta, name)
        found.append(_growing(as_object(item)))
        return shown(as_text(item.get("text", ""))) if name == "content" else ""

    def _grow(self, name: str, event: Mapping[str, Any], delta: Mapping[str, Any]) -> str:
        found = self._lists[name]
        if not found or event.get("index") != len(found) - 1:
            raise Unfaithful("an item is out of order")
        if event.get("logprobs") is not None:
            raise Unfaithful("logprobs were not asked for")
        piece = as_object(_only(delta, name))
        _add(found[-1], piece)
        if name == "tool_calls" and len(found) == 1:
            self.arguments = as_text(as_object(piece.get("function", {})).get("arguments", ""))
        return shown(as_text(piece.get("text", ""))) if name == "content" else ""

    def growth(self, event: dict[str, Any]) -> Growth | None:
        """See `JsonAnswer`."""
        if event["type"] != "content-delta" or not event.keys() <= FIELDS:
            return None
        piece, grown = event["delta"]["message"]["content"], self._lists["content"][-1]
        texts = {name: text for name in piece if isinstance(text := grown.get(name), Text)}
        if len(texts) != 1:
            return None
        ((name, text),) = texts.items()
        return Growth(("delta", "message", "content", name), text.pieces, name == "text")

    def _end(self, event: Mapping[str, Any], delta: Mapping[str, Any]) -> None:
        self._answer |= {name: delta.get(name) for name in ("finish_reason", "usage")}
        for name in delta.keys() - {"finish_reason", "usage"}:
            if name != "error" or delta[name] is not None:  # in a stream alone
                self.unknown.take(name, delta[name])
        self.is_terminated = True

    def answer(self) -> bytes:
        """The answer as JSON."""
        if not self._message or self._answer.get("usage") is None:
            raise Unfaithful("the message has no beginning, or does not say what was used")
        if not self.is_own_stream:
            self._check_end()
        message = self._message | {name: found for name, found in self._lists.items() if found}
        if self._plan:
            message["tool_plan"] = self._plan
        return serialized(self._answer | {"message": message} | self.unknown.values())

    def _check_end(self) -> None:
        reason = as_word(self._answer["finish_reason"])
        if reason not in HARMLESS_FINISHES:
            raise AbnormalFinish("the answer was ended before its end")
        check_texts([self._plan, *(part.get(name) for part in self._lists["content"] for name in GROWING)])
        try:
            for call in self._lists["tool_calls"]:
                as_arguments(as_object(call.get("function")).get("arguments"))
        except Unfaithful:
            if reason == "MAX_TOKENS":
                raise AbnormalFinish("the answer was too long for its tool's arguments") from None
            raise


def _only(delta: Mapping[str, Any], name: str) -> Any:
    """The one field of the message in a delta. Raises `Unfaithful` for another or more."""
    message = as_object(delta.get("message"))
    if delta.keys() != {"message"} or message.keys() != {name}:
        raise Unfaithful("a delta has a field that is not known")
    return message[name]


def _growing(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item whose texts can grow, at any depth."""
    grown: dict[str, Any] = {}
    for name, value in item.items():
        if name in GROWING and "start" not in item:  # a citation has a text that does not
            grown[name] = Text(as_text(value))
        else:
            grown[name] = _growing(value) if name == "function" and isinstance(value, dict) else value
    return grown


def _add(item: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for name, value in piece.items():
        before = item.get(name)
        if isinstance(before, Text):
            before.pieces.append(as_text(value))
        elif isinstance(before, dict) and name == "function":
            _add(before, as_object(value))
        elif before != value:
            raise Unfaithful("a delta has a field that is not known")
