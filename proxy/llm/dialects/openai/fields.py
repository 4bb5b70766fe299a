"""The fields of a chat completion's chunks, and the function that joins each: OpenAI's, and those of every
API of that shape. No I/O.

Sources: the API references of the providers named beside the fields, and recorded streams of theirs. A field
that no table names is dealt with in `kept_fields.py`.
"""

from collections.abc import Mapping
from typing import Any

from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.assembly.joins import (
    Join,
    Text,
    fields,
    first,
    items,
    last,
    numbered,
    once,
    reason,
    same,
    text,
    whole,
)
from proxy.llm.assembly.json_values import as_list, as_object, as_text

MAX_CHOICES = 128
"""`n` of the API."""

MAX_TOOL_CALLS = 1024
"""The most tool calls of one choice."""

SEVERITIES = ("safe", "low", "medium", "high")
"""Severities of Azure's content filters, the worst last."""

WHOLE_PARTS = frozenset({"reference", "tool_reference", "image_url", "document_url"})
"""Parts of Mistral's contents that come in one piece."""


class Parts(list[dict[str, Any]]):
    """A content in parts, the last of which may grow."""


def worst(so_far: dict[str, Any] | None, new: Any) -> dict[str, Any]:
    """Azure's verdict on each chunk. The whole answer gets the worst."""
    joined = dict(so_far or {})
    for category, verdict in as_object(new).items():
        before = joined.get(category)
        joined[category] = verdict if before is None else _worse(as_object(before), as_object(verdict))
    return joined


def longer(so_far: Any, new: Any) -> Any:
    """A list of which each chunk has all items so far. Perplexity's and xAI's sources."""
    if so_far and as_list(new)[: len(so_far)] != so_far:
        raise Unfaithful("a list comes again, and differs")
    return as_list(new)


def content(so_far: Any, new: Any) -> Any:
    """A text, or Mistral's list of parts, after which texts may follow."""
    if isinstance(new, str) and not isinstance(so_far, Parts):
        return text(so_far, new)
    parts = so_far if isinstance(so_far, Parts) else Parts()
    if isinstance(so_far, Text) and so_far:
        parts.append({"type": "text", "text": so_far})
    for part in [{"type": "text", "text": new}] if isinstance(new, str) else as_list(new):
        _add_part(parts, as_object(part))
    return parts


def _add_part(parts: Parts, part: Mapping[str, Any]) -> None:
    kind, before = part.get("type"), parts[-1] if parts else {}
    goes_on = before.get("type") == kind
    if kind == "text" and part.keys() == {"type", "text"}:
        if goes_on:
            before["text"].pieces.append(as_text(part["text"]))
        elif part["text"]:
            parts.append({"type": "text", "text": Text(as_text(part["text"]))})
    elif kind == "thinking" and part.keys() - {"closed", "signature"} == {"type", "thinking"}:
        thought = _thought(part["thinking"])
        rest = {name: part[name] for name in ("closed", "signature") if part.get(name) is not None}
        if goes_on:
            before["thinking"][0]["text"].pieces.append(thought)
            before |= rest
        else:
            parts.append({"type": kind, "thinking": [{"type": "text", "text": Text(thought)}], **rest})
    elif isinstance(kind, str) and kind in WHOLE_PARTS:
        parts.append(dict(part))
    else:
        raise Unfaithful("a part of a content is not known")


def _thought(found: Any) -> str:
    """The text of Mistral's thinking, which is itself a list of texts."""
    pieces = [as_object(piece) for piece in as_list(found)]
    if any(piece.keys() != {"type", "text"} or piece["type"] != "text" for piece in pieces):
        raise Unfaithful("a part of a content is not known")
    return "".join(as_text(piece["text"]) for piece in pieces)


def growing(key: tuple[str, ...], grows: tuple[str, ...]) -> Join:
    """Joins lists of objects: one that has the `key` of the last one goes on with it.

    Args:
        key: fields by which two objects are the same.
        grows: fields whose texts are joined. All others come once, or unchanged.
    """
    table: Mapping[str, Join] = {name: text for name in grows}

    def join(so_far: list[dict[str, Any]] | None, new: Any) -> list[dict[str, Any]]:
        found = [] if so_far is None else so_far
        for item in as_list(new):
            before = found[-1] if found else None
            if before is None or any(before.get(name) != as_object(item).get(name) for name in key):
                if "index" in key and any(_is_same(each, item, key) for each in found):
                    raise Unfaithful("a part goes on after the next has begun")
                found.append(before := {})
            for name, value in as_object(item).items():
                if value is None:
                    before.setdefault(name, None)
                else:
                    before[name] = table.get(name, same)(before.get(name), value)
        return found

    return join


def _is_same(before: Mapping[str, Any], item: Mapping[str, Any], key: tuple[str, ...]) -> bool:
    """True if two objects have the same place."""
    return item.get("index") is not None and all(before.get(name) == item.get(name) for name in key)


def finished_tools(so_far: list[dict[str, Any]] | None, new: Any) -> list[dict[str, Any]]:
    """Tools that Groq runs: each comes when it begins, and again with its output."""
    found = [] if so_far is None else so_far
    for tool in as_list(new):
        before = next((each for each in found if each.get("index") == as_object(tool).get("index")), None)
        if before is None:
            found.append(dict(as_object(tool)))
            continue
        for name, value in tool.items():
            before[name] = same(before.get(name), value)
    return found


def tool_calls(so_far: dict[int, Any] | None, new: Any) -> dict[int, Any]:
    """Tool calls by their index. Mistral's have none, and come whole."""
    by_index: dict[int, Any] = {} if so_far is None else so_far
    for call in as_list(new):
        if as_object(call).get("index") is None:
            if not call.get("id") or not as_object(call.get("function")).get("name"):
                raise Unfaithful("a tool's call has no index, and is not whole")
            call = {**call, "index": max(by_index, default=-1) + 1}
        _tool_calls(by_index, [call])
    return by_index


LOGPROBS: Mapping[str, Join] = {"content": items, "refusal": items}

FUNCTION: Mapping[str, Join] = {"name": whole, "arguments": text}

TOOL_CALL: Mapping[str, Join] = {
    "id": same,  # servers are known that give every call of an answer the index 0
    "type": same,
    "function": fields(FUNCTION),
    "custom": fields({"name": whole, "input": text}),
    "extra_content": same,  # Gemini's signature of a thought
    "provider_specific_fields": same,  # LiteLLM
}

_tool_calls = numbered(TOOL_CALL, MAX_TOOL_CALLS)

THINKING_BLOCKS = growing(("type",), ("thinking", "signature"))

DELTA: Mapping[str, Join] = {
    "role": same,
    "content": content,
    "refusal": text,
    "reasoning_content": text,  # DeepSeek, xAI, Alibaba, Moonshot, vLLM, SGLang, llama.cpp, LiteLLM
    "reasoning": text,  # Groq, OpenRouter, Cerebras, Ollama, vLLM
    "reasoning_details": growing(("type", "index"), ("text", "summary")),  # OpenRouter
    "tool_calls": tool_calls,
    "function_call": fields(FUNCTION),
    "annotations": once,
    "images": once,  # OpenRouter, LiteLLM
    "executed_tools": finished_tools,  # Groq
    "thinking_blocks": THINKING_BLOCKS,  # LiteLLM, of Anthropic's models
    "provider_specific_fields": fields({"thinking_blocks": THINKING_BLOCKS}),  # LiteLLM
    "name": same,
    # Only in streams:
    "channel": last,  # Groq: whether a piece is thought
    "index": last,  # Mistral: the choice's
    "token_id": last,  # Together, Hugging Face
    "type": last,  # Snowflake
}

CHOICE: Mapping[str, Join] = {
    "logprobs": fields(LOGPROBS),
    "finish_reason": reason,
    "native_finish_reason": same,  # OpenRouter
    "stop_reason": same,  # vLLM
    "matched_stop": same,  # SGLang
    "seed": same,  # Together
    "token_ids": items,  # vLLM
    "content_filter_results": worst,  # Azure
    "content_filter_result": worst,
    # Only in streams:
    "content_filter_offsets": last,  # Azure's asynchronous filter
    "text": last,  # Together, Hugging Face: the content again
    "message": last,  # Perplexity: all of the content so far
    "usage": last,  # Moonshot: stands at the top of the batch answer
}

CHUNK: Mapping[str, Join] = {
    "id": first,
    "object": first,
    "created": first,
    "model": same,
    "system_fingerprint": same,
    "provider": same,  # OpenRouter
    "service_tier": last,
    "usage": last,
    "prompt_filter_results": once,  # Azure
    "moderation": last,
    "citations": longer,  # Perplexity, xAI
    "search_results": longer,  # Perplexity
    "images": longer,
    "related_questions": longer,
    "videos": longer,
    "x_groq": fields({"id": same, "seed": same, "usage": last, "usage_breakdown": last}),
    "usage_breakdown": last,  # Groq
    "time_info": last,  # Cerebras
    "timings": last,  # llama.cpp
    # Only in streams:
    "obfuscation": last,
    "p": last,  # Mistral's padding
    "prompt_progress": last,  # llama.cpp
}

REPEATABLE = CHUNK.keys() - {"prompt_filter_results"}
"""Fields of a chunk that say nothing more when they come again with the same value."""

REPEATABLE_OF_CHOICES = frozenset(
    {
        "content_filter_results",
        "content_filter_result",
        "native_finish_reason",
        "stop_reason",
        "matched_stop",
        "seed",
        "usage",
    }
)
"""The same of a choice."""

PADDINGS = ("obfuscation", "p")
"""Fields of a chunk that hide its length from those who see it pass."""

ONLY_IN_CHUNKS = (*PADDINGS, "prompt_progress")

ONLY_IN_CHOICES = ("delta", "content_filter_offsets", "text", "message", "usage")

ONLY_IN_DELTAS = ("channel", "index", "token_id", "type")


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
