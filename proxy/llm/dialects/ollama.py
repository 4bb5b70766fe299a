"""Ollama's own chat and generate: its calls and its answers. No I/O.

Source: Ollama's API documentation, and what its server does for `stream: false`: it joins the contents and
thoughts of the lines, gathers the tool calls, and answers with the last line. A call without `stream` is a
stream.
"""

from collections.abc import Mapping
from typing import Any

from proxy.llm.assembly.call_fields import call_of, model_of, path_of, system_of, texts_of
from proxy.llm.assembly.dialect import Prompt, ProviderFailed, Unfaithful
from proxy.llm.assembly.joins import Join, Text, check_texts, fields, items, joined, last, same, text
from proxy.llm.assembly.json_dialect import JsonAnswer, JsonDialect
from proxy.llm.assembly.json_values import as_list, as_object, as_word, serialized, shown
from proxy.llm.assembly.usage import UsageFields

HARMLESS_FINISHES = frozenset({"stop", "length"})
"""Reasons to be done after which the batch answer has the stream's text."""


def gathered(so_far: list[Any] | None, new: Any) -> list[Any]:
    """Tool calls, each of which comes whole and once. Older versions give them no id."""
    calls = [*(so_far or []), *as_list(new)]
    ids = [call["id"] for call in calls if as_object(call).get("id")]
    if len({*map(str, ids)}) < len(ids):
        raise Unfaithful("a tool's call comes again")
    return calls


MESSAGE: Mapping[str, Join] = {
    "role": same,
    "content": text,
    "thinking": text,
    "tool_calls": gathered,
}

LINE: Mapping[str, Join] = {
    "model": same,
    "remote_model": same,
    "remote_host": same,
    "created_at": last,
    "message": fields(MESSAGE),
    "response": text,
    "thinking": text,
    "tool_calls": gathered,
    "logprobs": items,
    "done": last,
    "done_reason": same,
    "context": last,
    "total_duration": last,
    "load_duration": last,
    "prompt_eval_count": last,
    "prompt_eval_duration": last,
    "eval_count": last,
    "eval_duration": last,
}


class Ollama(JsonDialect):
    """Calls whose path ends with `/api/chat` or `/api/generate`."""

    media_type = b"application/x-ndjson"
    answer_type = b"application/json; charset=utf-8"
    usage = UsageFields(input=("prompt_eval_count",), output=("eval_count",))
    needed = ("model",)
    streams_by_default = True

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and path_of(target).endswith((b"/api/chat", b"/api/generate"))

    def not_streamable(self, call: Mapping[str, Any]) -> str:
        asks = call.get("messages") or call.get("prompt")
        return "" if asks else "it loads a model, and asks it nothing"

    def assembler(self, choices: int | None = None) -> "OllamaAnswer":
        return OllamaAnswer(is_own_stream=choices is None)

    def is_answer(self, body: bytes, choices: int) -> bool:
        answer = call_of(body, "model")
        return answer is not None and answer.get("done") is True and not answer.keys().isdisjoint(TEXTS)

    def prompt_of(self, call: Mapping[str, Any], target: bytes) -> Prompt:
        told = texts_of(call.get("system"))
        wants_json = bool(call.get("format"))
        return Prompt(model_of(call), "\n".join([*told, *system_of(call.get("messages"))]), wants_json)


TEXTS = frozenset({"message", "response"})
"""The fields with the text of a chat and of a generation."""


class OllamaAnswer(JsonAnswer):
    """The answer that one stream makes."""

    def __init__(self, *, is_own_stream: bool) -> None:
        super().__init__(is_own_stream=is_own_stream)
        self._has_called = False
        self._answer: dict[str, Any] = {}

    def take(self, line: dict[str, Any], data: str) -> str:
        error = line.get("error")
        if error or (error is not None and "done" not in line):  # an empty one beside all else is none
            status = line.get("status_code")
            if not isinstance(status, int) or not 400 <= status < 600:
                status = 500
            raise ProviderFailed(status, data.encode())
        self.unknown.events += 1
        joined(LINE, self._answer, line, self.unknown)
        self.is_terminated = line.get("done") is True
        message = line.get("message") or line
        if message.get("tool_calls") and not self._has_called:
            self._has_called = True
            self.arguments = _arguments(message["tool_calls"][0])
        said = line["message"].get("content") if line.get("message") is not None else line.get("response")
        return shown(said or "")

    def answer(self) -> bytes:
        """The answer as JSON."""
        if self._answer.keys().isdisjoint(TEXTS):
            raise Unfaithful("there is no text")
        if not self.is_own_stream:
            if as_word(self._answer.get("done_reason")) not in HARMLESS_FINISHES:
                raise Unfaithful("the answer has ended for a reason that is not known")
            message = as_object(self._answer.get("message") or {})
            check_texts([*message.values(), *self._answer.values()])
        return serialized(_without_empty(self._answer) | self.unknown.values())


def _arguments(call: Any) -> str:
    """A tool's arguments, which come whole."""
    return serialized(as_object(as_object(as_object(call).get("function")).get("arguments"))).decode()


def _without_empty(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer without thoughts that are none: Ollama leaves out what is empty."""
    kept = {name: value for name, value in answer.items() if name != "thinking" or value}
    message = kept.get("message")
    if isinstance(message, dict) and isinstance(thought := message.get("thinking"), Text) and not thought:
        kept["message"] = {name: value for name, value in message.items() if name != "thinking"}
    return kept
