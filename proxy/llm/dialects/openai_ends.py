"""How a chat completion must have ended, so that its batch answer would say the same. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

from proxy.llm.dialects.dialect import OddEnd, Unfaithful
from proxy.llm.dialects.joins import UnsureEnd, UnsureList, check_texts

HARMLESS_ENDS = frozenset({"stop", "length", "tool_calls", "function_call"})
"""Reasons to finish after which the batch answer has the text that the stream had. After `content_filter` it
has none, or another one; what comes after a reason that is not known is not known."""

ENDS_OF_ONE = frozenset({"content_filter", "insufficient_system_resource"})
"""Reasons, OpenAI's and DeepSeek's, that one answer may have and the next one has not."""


def check_ends(answer: Mapping[str, Any], choices: list[dict[str, Any]], asked: int) -> None:
    """That each choice is there, and is for certain what it would be in the batch answer.

    Raises:
        Unfaithful: it may be another one.
    """
    if len(choices) != asked:
        raise Unfaithful("there are more or fewer choices than were asked for")
    for choice in choices:
        _check_choice(choice)
    struck = [choice.get("content_filter_results") for choice in choices]
    if _has_struck(struck) or _has_struck(answer.get("prompt_filter_results")):
        raise OddEnd("a filter has struck")
    if isinstance(answer.get("prompt_filter_results"), UnsureList):
        raise Unfaithful("a list comes again")


def _check_choice(choice: Mapping[str, Any]) -> None:
    reason, message = choice["finish_reason"], choice["message"]
    if isinstance(reason, UnsureEnd):
        raise Unfaithful("an answer goes on after its end")
    if reason in ENDS_OF_ONE:
        raise OddEnd("a choice was ended before its end")
    if reason not in HARMLESS_ENDS:
        raise Unfaithful("a choice has ended for a reason that is not known")
    check_texts(message.values())
    _check_arguments(message, reason)
    lists = [message.get("annotations"), *(choice.get("logprobs") or {}).values()]
    if any(isinstance(each, UnsureList) for each in lists):
        raise Unfaithful("a list comes again")


def _check_arguments(message: Mapping[str, Any], reason: str) -> None:
    """What a tool is called with is an object: two that stand one after the other are one that came twice."""
    calls = [call.get("function") for call in message.get("tool_calls") or () if "custom" not in call]
    if message.get("function_call") is not None:
        calls.append(message["function_call"])
    if reason == "tool_calls" and not message.get("tool_calls"):
        raise Unfaithful("a tool is called, and none is named")
    for call in calls:
        is_whole = _is_object(str((call or {}).get("arguments")))
        if not is_whole and reason == "length":
            raise OddEnd("the answer was too long for its tool's arguments")
        if not is_whole or not (call or {}).get("name"):
            raise Unfaithful("a tool's name or its arguments are none")


def _is_object(said: str) -> bool:
    try:
        return isinstance(json.loads(said), dict)
    except (ValueError, RecursionError):
        return False


def _has_struck(verdicts: Any) -> bool:
    """Whether any of Azure's filters has, wherever it says so."""
    if isinstance(verdicts, dict):
        return verdicts.get("filtered") is True or _has_struck(list(verdicts.values()))
    return isinstance(verdicts, list) and any(map(_has_struck, verdicts))


def is_choice(said: Any) -> bool:
    """One of a batch answer's: a message, and why it has ended."""
    message = said.get("message") if isinstance(said, dict) else None
    said_something = isinstance(message, dict) and not message.keys().isdisjoint(
        ("content", "tool_calls", "function_call")
    )
    return said_something and isinstance(said.get("finish_reason"), str) and bool(said["finish_reason"])
