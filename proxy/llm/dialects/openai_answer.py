"""A stream of OpenAI's chat completions as the batch answer that it stands for. No I/O.

A stream's chunks are joined by tables, one for each level, that name every field and how it joins. A field
that no table names makes the stream unfaithful: then the call is asked again as batch. A field is in the
answer if a chunk had it, `null` too. Sources: OpenAI's API reference, "The chat completion chunk object";
Azure's "Content streaming", for its filters; DeepSeek's "Create chat completion", for `reasoning_content`.

JSON is read by the standard library, which keeps integers of any size.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from proxy.llm.dialects.dialect import ProviderFailed, Unfaithful
from proxy.llm.dialects.joins import (
    MAX_ANSWER_CHARS,
    AmbiguousFinish,
    AmbiguousList,
    Join,
    Text,
    as_list,
    as_object,
    as_text,
    last,
)
from proxy.llm.dialects.openai_finish import check_finishes

MAX_CHOICES = 128
"""`n` of the API."""

MAX_TOOL_CALLS = 1024
"""Of one choice."""

SEVERITIES = ("safe", "low", "medium", "high")
"""Of Azure's content filters, the worst last."""


def first(so_far: Any, new: Any) -> Any:
    """The same value in every chunk; empty in Azure's chunk about the prompt."""
    return so_far or new


def same(so_far: Any, new: Any) -> Any:
    """The same value in every chunk, or empty. Another value belongs to something else with the same
    index."""
    if so_far and new and so_far != new:
        raise Unfaithful("a field comes again, and differs")
    return so_far or new


def whole(so_far: Any, new: Any) -> Any:
    """A string in one piece. A second piece may be more of it or a repetition: nothing says which."""
    if so_far and new:
        raise Unfaithful("a name comes again")
    return so_far or as_text(new)


def once(so_far: Any, new: Any) -> Any:
    """A list that comes in one chunk."""
    if so_far and as_list(new):
        return AmbiguousList([*so_far, *new])
    return so_far or as_list(new)


def reason(so_far: Any, new: Any) -> str | None:
    """A reason to finish; some servers send "" until there is one. A second, different reason is
    ambiguous."""
    if so_far and so_far != new:
        return AmbiguousFinish(as_text(new) or so_far)
    return so_far or as_text(new) or None


def text(so_far: Text | None, new: Any) -> Text:
    piece = as_text(new)
    if so_far is None:
        return Text(piece)
    so_far.pieces.append(piece)
    return so_far


def items(so_far: list[Any] | None, new: Any) -> list[Any]:
    """Items of a list, some in each chunk. A chunk that begins with all earlier items is ambiguous."""
    so_far = [] if so_far is None else so_far
    comes_again = so_far and as_list(new)[: len(so_far)] == so_far
    so_far.extend(as_list(new))
    return AmbiguousList(so_far) if comes_again else so_far


def worst(so_far: dict[str, Any] | None, new: Any) -> dict[str, Any]:
    """Azure's verdict on each chunk. The whole answer gets the worst."""
    joined = dict(so_far or {})
    for category, verdict in as_object(new).items():
        before = joined.get(category)
        joined[category] = verdict if before is None else _worse(as_object(before), as_object(verdict))
    return joined


def fields(table: Mapping[str, Join]) -> Join:
    """Joins objects, field by field, as a table says."""

    def join(so_far: dict[str, Any] | None, new: Any) -> dict[str, Any]:
        return joined(table, {} if so_far is None else so_far, new)

    return join


def joined(table: Mapping[str, Join], so_far: dict[str, Any], new: Any) -> dict[str, Any]:
    """`so_far` with a chunk's fields joined to it.

    Raises:
        Unfaithful: the table does not name one of the fields.
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
    """Joins objects by their `index`, which is taken out of them."""

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
    """Choices by their index. One that goes on after its reason to finish is ambiguous."""
    finished = {index for index, choice in (so_far or {}).items() if choice.get("finish_reason")}
    by_index: dict[int, Any] = _choices(so_far, new)
    for index in (choice["index"] for choice in new if _adds(choice)):
        if index in finished:
            by_index[index]["finish_reason"] = AmbiguousFinish(by_index[index]["finish_reason"])
    return by_index


def _adds(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk's choice adds anything to its answer."""
    return any(value for name, value in (choice.get("delta") or {}).items() if name != "role")


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
"""Only in streams: padding that hides the lengths of tokens."""


class Completion:
    """The answer that one stream makes; for `choices` see `Dialect.assembler`."""

    def __init__(self, choices: int | None = None) -> None:
        self._choices = choices
        self.is_terminated = False
        """Whether `[DONE]` has come."""
        self._answer: dict[str, Any] = {}
        self._chars = 0
        self._is_counted = True

    def feed(self, data: str) -> str:
        """Take one event's data; the text that it adds to choice 0."""
        if self.is_terminated:
            raise Unfaithful("something comes after the end")
        if data == "[DONE]":
            self.is_terminated = True
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
        if chunk.get("usage") is not None or any(map(_adds, chunk.get("choices") or ())):
            self._is_counted = chunk.get("usage") is not None
        return _shown(chunk)

    @property
    def is_complete(self) -> bool:
        """Whether `[DONE]` has come; from servers that send none, usage and each choice's reason to
        finish."""
        if self.is_terminated:
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
        choices = [
            {"index": at} | _finished(choice) for at, choice in enumerate(_in_order(answer["choices"]))
        ]
        answer |= {"object": "chat.completion", "choices": choices}
        try:
            if self._choices is not None:
                check_finishes(answer, choices, self._choices)
            return json.dumps(answer, ensure_ascii=False, allow_nan=False, default=str).encode()
        except (ValueError, RecursionError):
            raise Unfaithful("a number is out of range, or a text is no Unicode, or it is too deep") from None


def _status(error: Any) -> int:
    """The status that an error in a stream would have had."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


def _shown(chunk: Mapping[str, Any]) -> str:
    """The text that a chunk adds to choice 0."""
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
        message["content"] = None  # a stream begins with an empty text, whatever follows
    return {name: value for name, value in choice.items() if name != "delta"} | {"message": message}


def _in_order(by_index: dict[int, Any]) -> list[Any]:
    """A list of what was kept by its index."""
    if sorted(by_index) != list(range(len(by_index))):
        raise Unfaithful("an index is missing")
    return [by_index[index] for index in range(len(by_index))]


def _worse(before: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """The worse of two verdicts on one category."""
    both = before | verdict
    for name in before.keys() & verdict.keys():
        if name in ("filtered", "detected"):
            both[name] = before[name] or verdict[name]
        elif name == "severity" and before[name] in SEVERITIES and verdict[name] in SEVERITIES:
            both[name] = max(before[name], verdict[name], key=SEVERITIES.index)
        elif before[name] != verdict[name]:
            raise Unfaithful("two verdicts of a filter cannot be one")
    return both
