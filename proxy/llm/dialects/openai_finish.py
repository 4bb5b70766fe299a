"""How a chat completion must have finished, so that its batch answer would be the same. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

from proxy.llm.dialects.dialect import AbnormalFinish, Unfaithful
from proxy.llm.dialects.joins import AmbiguousFinish, AmbiguousList, check_texts

HARMLESS_FINISHES = frozenset({"stop", "length", "tool_calls", "function_call"})
"""Reasons to finish after which the batch answer has the stream's text. After `content_filter` it has no
text, or another one. After an unknown reason nothing is known."""

FINISHES_OF_ONE_ANSWER = frozenset({"content_filter", "insufficient_system_resource"})
"""Reasons, OpenAI's and DeepSeek's, that say nothing about the model's next answer."""


def check_finishes(answer: Mapping[str, Any], choices: list[dict[str, Any]], asked: int) -> None:
    """Check that each choice is there, and is for certain what the batch answer would have.

    Raises:
        Unfaithful: the batch answer may differ.
    """
    if len(choices) != asked:
        raise Unfaithful("there are more or fewer choices than were asked for")
    for choice in choices:
        _check_choice(choice)
    verdicts = [choice.get("content_filter_results") for choice in choices]
    if _is_filtered(verdicts) or _is_filtered(answer.get("prompt_filter_results")):
        raise AbnormalFinish("a filter has struck")
    if isinstance(answer.get("prompt_filter_results"), AmbiguousList):
        raise Unfaithful("a list comes again")


def _check_choice(choice: Mapping[str, Any]) -> None:
    reason, message = choice["finish_reason"], choice["message"]
    if isinstance(reason, AmbiguousFinish):
        raise Unfaithful("an answer goes on after its end")
    if reason in FINISHES_OF_ONE_ANSWER:
        raise AbnormalFinish("a choice was ended before its end")
    if reason not in HARMLESS_FINISHES:
        raise Unfaithful("a choice has ended for a reason that is not known")
    check_texts(message.values())
    _check_arguments(message, reason)
    lists = [message.get("annotations"), *(choice.get("logprobs") or {}).values()]
    if any(isinstance(each, AmbiguousList) for each in lists):
        raise Unfaithful("a list comes again")


def _check_arguments(message: Mapping[str, Any], reason: str) -> None:
    """A tool's arguments are one JSON object. Two objects in a row are one that came twice."""
    calls = [call.get("function") for call in message.get("tool_calls") or () if "custom" not in call]
    if message.get("function_call") is not None:
        calls.append(message["function_call"])
    if reason == "tool_calls" and not message.get("tool_calls"):
        raise Unfaithful("a tool is called, and none is named")
    for call in calls:
        is_whole = _is_object(str((call or {}).get("arguments")))
        if not is_whole and reason == "length":
            raise AbnormalFinish("the answer was too long for its tool's arguments")
        if not is_whole or not (call or {}).get("name"):
            raise Unfaithful("a tool's name or its arguments are none")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_filtered(verdicts: Any) -> bool:
    """Whether any of Azure's filters has struck, at any depth."""
    if isinstance(verdicts, dict):
        return verdicts.get("filtered") is True or _is_filtered(list(verdicts.values()))
    return isinstance(verdicts, list) and any(map(_is_filtered, verdicts))


def is_choice(found: Any) -> bool:
    """Whether a value is a finished choice of a batch answer."""
    message = found.get("message") if isinstance(found, dict) else None
    content = ("content", "tool_calls", "function_call")
    has_content = isinstance(message, dict) and not message.keys().isdisjoint(content)
    return has_content and isinstance(found.get("finish_reason"), str) and bool(found["finish_reason"])
