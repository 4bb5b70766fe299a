"""Ollama's own chat and generate: its calls and its answers. No I/O.

Source: Ollama's API documentation, and what its server does for `stream: false`: it joins the contents and
thoughts of the lines, gathers the tool calls, and answers with the last line. A call without `stream` is a
stream.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.llm.dialects.dialect import (
    NotStreamable,
    Prompt,
    ProviderFailed,
    StreamCall,
    Unfaithful,
    asked_as,
    call_of,
    model_of,
    path_of,
    system_of,
    texts_of,
)
from proxy.llm.dialects.joins import (
    MAX_ANSWER_CHARS,
    Join,
    Text,
    as_list,
    as_object,
    as_word,
    check_texts,
    fields,
    items,
    joined,
    last,
    parsed,
    same,
    serialized,
    shown,
    text,
)
from proxy.llm.dialects.kept_fields import KeptFields

HARMLESS_FINISHES = frozenset({"stop", "length"})
"""Reasons to be done after which the batch answer has the stream's text."""


def gathered(so_far: list[Any] | None, new: Any) -> list[Any]:
    """Tool calls, each of which comes whole and once."""
    return [*(so_far or []), *as_list(new)]


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


class Ollama:
    """Calls whose path ends with `/api/chat` or `/api/generate`."""

    media_type = b"application/x-ndjson"

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and path_of(target).endswith((b"/api/chat", b"/api/generate"))

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        call = self._call(method, target, body)
        return call is not None and call.get("stream") in (None, True)

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        call = self._call(method, target, body)
        return None if call is None else _prompt(call)

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        call = self._call(method, target, body)
        if call is None:
            return None
        if call.get("stream") is not False:
            raise NotStreamable("it speaks of streams itself")
        if not call.get("messages") and not call.get("prompt"):
            raise NotStreamable("it loads a model, and asks it nothing")
        return StreamCall(target, asked_as(call, {"stream": True}), _prompt(call))

    def assembler(self, choices: int | None = None) -> "OllamaAnswer":
        return OllamaAnswer(is_own_stream=choices is None)

    def is_answer(self, body: bytes, choices: int) -> bool:
        answer = call_of(body, "model")
        return answer is not None and answer.get("done") is True and not answer.keys().isdisjoint(TEXTS)

    def _call(self, method: str, target: bytes, body: bytes) -> dict[str, Any] | None:
        return call_of(body, "model") if self.is_call(method, target) else None


TEXTS = frozenset({"message", "response"})
"""Where a chat's and a generation's text stands."""


def _prompt(call: Mapping[str, Any]) -> Prompt:
    told = texts_of(call.get("system"))
    wants_json = bool(call.get("format"))
    return Prompt(model_of(call), "\n".join([*told, *system_of(call.get("messages"))]), wants_json)


class OllamaAnswer:
    """The answer that one stream makes.

    Args:
        is_own_stream: whether the caller asked for it, so that it may finish in any way.
    """

    def __init__(self, *, is_own_stream: bool) -> None:
        self._is_own_stream = is_own_stream
        self.arguments = ""
        self._has_called = False
        self.is_terminated = False
        """Whether the line that is `done` has come."""
        self._answer: dict[str, Any] = {}
        self._unknown = KeptFields()
        self._chars = 0

    def feed(self, data: str) -> str:
        """Take one line; the text that it adds."""
        if self.is_terminated:
            raise Unfaithful("something comes after the end")
        self._chars += len(data)
        if self._chars > MAX_ANSWER_CHARS:
            raise Unfaithful("the answer is too large")
        line = parsed(data)
        if line.get("error") is not None:
            status = line.get("status_code")
            if not isinstance(status, int) or not 400 <= status < 600:
                status = 500
            raise ProviderFailed(status, data.encode())
        self._unknown.events += 1
        joined(LINE, self._answer, line, self._unknown)
        self.is_terminated = line.get("done") is True
        message = line.get("message") or line
        self.arguments = ""
        if message.get("tool_calls") and not self._has_called:
            self._has_called = True
            self.arguments = _arguments(message["tool_calls"][0])
        said = line["message"].get("content") if line.get("message") is not None else line.get("response")
        return shown(said or "")

    @property
    def is_complete(self) -> bool:
        return self.is_terminated

    def answer(self) -> bytes:
        """The answer as JSON."""
        if self._answer.keys().isdisjoint(TEXTS):
            raise Unfaithful("there is no text")
        if not self._is_own_stream:
            if as_word(self._answer.get("done_reason")) not in HARMLESS_FINISHES:
                raise Unfaithful("the answer has ended for a reason that is not known")
            message = as_object(self._answer.get("message") or {})
            check_texts([*message.values(), *self._answer.values()])
        return serialized(_without_empty(self._answer) | self._unknown.values())

    def kept_fields(self) -> Iterable[str]:
        """See `Assembler`."""
        return self._unknown.names()


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
