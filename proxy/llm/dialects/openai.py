"""OpenAI's chat completions, and every API of that shape: Azure's, DeepSeek's, vLLM's. No I/O.

A stream's chunks are joined by tables, one for each level, that name every field and how it joins. What no
table names makes the stream unfaithful: then the call is asked as the batch call it was. A field is in the
answer if a chunk had it, `null` too. Sources: OpenAI's API reference, "The chat completion chunk object";
Azure's "Content streaming", for its filters; DeepSeek's "Create chat completion", for `reasoning_content`.

JSON is read by the standard library, which keeps integers of any size.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from proxy.llm.dialects.dialect import NotStreamable, Prompt, ProviderFailed, StreamCall, Unfaithful
from proxy.llm.dialects.joins import (
    MAX_ANSWER_CHARS,
    Join,
    Text,
    UnsureEnd,
    UnsureList,
    as_list,
    as_object,
    as_text,
    last,
)
from proxy.llm.dialects.openai_ends import check_ends, is_choice

MAX_CHOICES = 128
"""`n` of the API."""

MAX_TOOL_CALLS = 1024
"""Of one choice."""

AS_STREAM = {"stream": True, "stream_options": {"include_usage": True}}

SEVERITIES = ("safe", "low", "medium", "high")
"""Of Azure's content filters, the worst one last."""


def first(so_far: Any, new: Any) -> Any:
    """The same in every chunk; Azure's chunk about the prompt has it empty."""
    return so_far or new


def same(so_far: Any, new: Any) -> Any:
    """The same wherever it comes, or empty. Another one is of something else, under the same index."""
    if so_far and new and so_far != new:
        raise Unfaithful("a field comes again, and differs")
    return so_far or new


def whole(so_far: Any, new: Any) -> Any:
    """It comes in one piece: a second one is more of it, or the same once more, and nothing says which."""
    if so_far and new:
        raise Unfaithful("a name comes again")
    return so_far or as_text(new)


def once(so_far: Any, new: Any) -> Any:
    """A list that comes whole."""
    if so_far and as_list(new):
        return UnsureList([*so_far, *new])
    return so_far or as_list(new)


def reason(so_far: Any, new: Any) -> str | None:
    """Some servers say "" as long as there is none. After one it is no reason that is known."""
    if so_far and so_far != new:
        return UnsureEnd(as_text(new) or so_far)
    return so_far or as_text(new) or None


def text(so_far: Text | None, new: Any) -> Text:
    piece = as_text(new)
    if so_far is None:
        return Text(piece)
    so_far.pieces.append(piece)
    return so_far


def items(so_far: list[Any] | None, new: Any) -> list[Any]:
    """Each chunk has its own; one that begins with all there were has them again."""
    so_far = [] if so_far is None else so_far
    comes_again = so_far and as_list(new)[: len(so_far)] == so_far
    so_far.extend(as_list(new))
    return UnsureList(so_far) if comes_again else so_far


def worst(so_far: dict[str, Any] | None, new: Any) -> dict[str, Any]:
    """Azure judges each chunk, and the whole answer as badly as its worst chunk."""
    joined = dict(so_far or {})
    for category, verdict in as_object(new).items():
        before = joined.get(category)
        joined[category] = verdict if before is None else _worse(as_object(before), as_object(verdict))
    return joined


def fields(table: Mapping[str, Join]) -> Join:
    """An object whose fields join by a table of their own."""

    def join(so_far: dict[str, Any] | None, new: Any) -> dict[str, Any]:
        return joined(table, {} if so_far is None else so_far, new)

    return join


def joined(table: Mapping[str, Join], so_far: dict[str, Any], new: Any) -> dict[str, Any]:
    """`so_far` with a chunk's fields joined to it.

    Raises:
        Unfaithful: the table does not have one of them.
    """
    for name, value in as_object(new).items():
        if value is None:
            so_far.setdefault(name, None)
            continue
        join = table.get(name)
        if join is None:
            raise Unfaithful("a chunk has a field that is not known")
        so_far[name] = join(so_far.get(name), value)
    return so_far


def numbered(table: Mapping[str, Join], bound: int) -> Join:
    """Objects that say their own `index`; kept by it, and without it."""

    def join(so_far: dict[int, Any] | None, new: Any) -> dict[int, Any]:
        by_index = {} if so_far is None else so_far
        for item in as_list(new):
            rest = dict(as_object(item))
            index = rest.pop("index", None)
            if type(index) is not int or not 0 <= index < bound:
                raise Unfaithful("an index is none")
            joined(table, by_index.setdefault(index, {}), rest)
        return by_index

    return join


def choices(so_far: dict[int, Any] | None, new: Any) -> dict[int, Any]:
    """By their index; one that has ended should say no more."""
    over = {index for index, choice in (so_far or {}).items() if choice.get("finish_reason")}
    by_index: dict[int, Any] = _choices(so_far, new)
    for index in (choice["index"] for choice in new if _says(choice)):
        if index in over:
            by_index[index]["finish_reason"] = UnsureEnd(by_index[index]["finish_reason"])
    return by_index


def _says(choice: Mapping[str, Any]) -> bool:
    """Whether one of a chunk, which has joined, adds anything to its answer."""
    return any(said for name, said in (choice.get("delta") or {}).items() if name != "role")


LOGPROBS: Mapping[str, Join] = {"content": items, "refusal": items}
FUNCTION: Mapping[str, Join] = {"name": whole, "arguments": text}
TOOL_CALL: Mapping[str, Join] = {
    "id": same,  # servers are known that give every call of an answer the index 0
    "type": same,
    "function": fields(FUNCTION),
    "custom": fields({"name": whole, "input": text}),
}
DELTA: Mapping[str, Join] = {
    "role": same,
    "content": text,
    "refusal": text,
    "reasoning_content": text,
    "reasoning": text,
    "tool_calls": numbered(TOOL_CALL, MAX_TOOL_CALLS),
    "function_call": fields(FUNCTION),
    "annotations": once,
}
CHOICE: Mapping[str, Join] = {
    "delta": fields(DELTA),
    "logprobs": fields(LOGPROBS),
    "finish_reason": reason,
    "stop_reason": same,
    "content_filter_results": worst,
}
_choices = numbered(CHOICE, MAX_CHOICES)
CHUNK: Mapping[str, Join] = {
    "id": first,
    "object": first,
    "created": first,
    "model": first,
    "system_fingerprint": first,
    "service_tier": last,
    "usage": last,
    "prompt_filter_results": once,
    "moderation": last,
    "choices": choices,
    "obfuscation": last,
}

NOT_IN_THE_ANSWER = ("obfuscation",)
"""Of a stream alone: padding against who counts the bytes on the wire."""


class OpenAI:
    """Calls whose path ends with `/chat/completions`, wherever an API has them."""

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
            asked = json.dumps(call | AS_STREAM, ensure_ascii=False, allow_nan=False).encode()
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
        said = answer.get("choices") if isinstance(answer, dict) else None
        return isinstance(said, list) and len(said) == choices and all(map(is_choice, said))


class Completion:
    """The answer that one stream makes; for `choices` see `Dialect.assembler`."""

    def __init__(self, choices: int | None = None) -> None:
        self._choices = choices
        self.is_over = False
        """Whether `[DONE]` has come."""
        self._answer: dict[str, Any] = {}
        self._chars = 0
        self._is_counted = True

    def feed(self, data: str) -> str:
        """Take one event's data; the text that it adds to choice 0."""
        if self.is_over:
            raise Unfaithful("something comes after the end")
        if data == "[DONE]":
            self.is_over = True
            return ""
        self._chars += len(data)
        if self._chars > MAX_ANSWER_CHARS:
            raise Unfaithful("the answer is too large")
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            raise Unfaithful("a chunk is no JSON") from None
        if isinstance(chunk, dict) and chunk.get("error") is not None:
            raise ProviderFailed(_status(chunk["error"]), data.encode())
        joined(CHUNK, self._answer, chunk)
        if chunk.get("usage") is not None or any(map(_says, chunk.get("choices") or ())):
            self._is_counted = chunk.get("usage") is not None
        return _shown(chunk)

    @property
    def ended(self) -> bool:
        """Some servers say no `[DONE]`: then by what was used, and by each choice's reason to finish."""
        if self.is_over:
            return True
        choices = self._answer.get("choices") or {}
        has_usage = bool(choices) and self._answer.get("usage") is not None
        return has_usage and all(choice.get("finish_reason") is not None for choice in choices.values())

    def answer(self) -> bytes:
        """The completion as JSON."""
        answer = {name: value for name, value in self._answer.items() if name not in NOT_IN_THE_ANSWER}
        if self._choices is not None and not (self._is_counted and answer.get("usage") is not None):
            raise Unfaithful("the stream does not say what was used in all")
        if not answer.get("choices"):
            raise Unfaithful("the stream has no choice")
        said = [{"index": at} | _finished(choice) for at, choice in enumerate(_in_order(answer["choices"]))]
        answer |= {"object": "chat.completion", "choices": said}
        try:
            if self._choices is not None:
                check_ends(answer, said, self._choices)
            return json.dumps(answer, ensure_ascii=False, allow_nan=False, default=str).encode()
        except (ValueError, RecursionError):
            raise Unfaithful("a number is out of range, or a text is no Unicode, or it is too deep") from None


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
    """The model's name; of Azure's older paths the deployment's."""
    if isinstance(model := call.get("model"), str):
        return model
    _, found, deployment = target.partition(b"/deployments/")
    return deployment.partition(b"/")[0].decode("latin-1") if found else ""


def _system(call: Mapping[str, Any]) -> str:
    """The text of the messages that instruct the model, a line each."""
    said: list[str] = []
    for message in call["messages"]:
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [part.get("text") for part in parts if isinstance(part, dict)]
            said += [text for text in texts if isinstance(text, str)]
    return "\n".join(said)


def _status(error: Any) -> int:
    """The status that an error in a stream would have had."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


def _shown(chunk: Mapping[str, Any]) -> str:
    """The text that a chunk, which has joined, adds to choice 0."""
    shown = ""
    for choice in chunk.get("choices") or ():
        if choice["index"] == 0 and choice.get("delta") is not None:
            shown += choice["delta"].get("content") or ""
    if not shown.isascii() and any("\ud800" <= char <= "\udfff" for char in shown):
        raise Unfaithful("a text is no Unicode")
    return shown


def _finished(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice as the batch answer has it."""
    if choice.get("finish_reason") is None:
        raise Unfaithful("a choice has no end")
    message = {"role": "assistant", "content": None} | (choice.get("delta") or {})
    if message.get("tool_calls") is not None:
        message["tool_calls"] = _in_order(message["tool_calls"])
    if message.get("refusal") is not None and not str(message["content"] or ""):
        message["content"] = None  # a stream begins with an empty one, whatever follows
    return {name: value for name, value in choice.items() if name != "delta"} | {"message": message}


def _in_order(by_index: dict[int, Any]) -> list[Any]:
    """What was kept by its index, as the list it is."""
    if sorted(by_index) != list(range(len(by_index))):
        raise Unfaithful("an index is missing")
    return [by_index[index] for index in range(len(by_index))]


def _worse(before: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """One category's two verdicts as one."""
    both = before | verdict
    for name in before.keys() & verdict.keys():
        if name in ("filtered", "detected"):
            both[name] = before[name] or verdict[name]
        elif name == "severity" and before[name] in SEVERITIES and verdict[name] in SEVERITIES:
            both[name] = max(before[name], verdict[name], key=SEVERITIES.index)
        elif before[name] != verdict[name]:
            raise Unfaithful("two verdicts of a filter cannot be one")
    return both
