"""A stream of OpenAI's chat completions as the batch answer that it stands for. No I/O.

Each field of a chunk is joined as `fields.py` says.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from proxy.llm.assembly.dialect import AbnormalFinish, ProviderFailed, Unfaithful
from proxy.llm.assembly.joins import AmbiguousFinish, AmbiguousList, Text, check_texts, joined
from proxy.llm.assembly.json_dialect import JsonAnswer
from proxy.llm.assembly.json_values import as_list, as_object, serialized, shown
from proxy.llm.assembly.kept_fields import KeptFields
from proxy.llm.assembly.repeated_events import Growth
from proxy.llm.dialects.openai.fields import (
    CHOICE,
    CHUNK,
    DELTA,
    MAX_CHOICES,
    ONLY_IN_CHOICES,
    ONLY_IN_CHUNKS,
    ONLY_IN_DELTAS,
    PADDINGS,
    REPEATABLE,
    REPEATABLE_OF_CHOICES,
)

HARMLESS_FINISHES = frozenset({"stop", "length", "tool_calls", "function_call"})
"""Reasons to finish after which the batch answer has the stream's text. After `content_filter` it has no
text, or another one. After any other reason nothing is known: no batch answer with one was ever seen."""

FINISHES_OF_ONE_ANSWER = frozenset(
    {"content_filter", "insufficient_system_resource", "error", "abort", "sensitive", "network_error"}
)
"""Reasons that say nothing about the model's next answer: OpenAI's, DeepSeek's, Mistral's, SGLang's and, the
last two, Zhipu's."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a provider's batch answers are like where its streams do not show it."""

    keeps_index: bool = False
    """Whether they have the `index` of a tool's call."""
    stops_at_tools: bool = False
    """Whether they say `stop` beside a tool's call, too."""
    has_annotations: bool = False
    """Whether each message has a list of them, which may be empty."""
    no_text: Literal["as it came", "empty", "absent"] = "as it came"
    """The `content` of a message that only calls tools."""


class Completion(JsonAnswer):
    """The answer that one stream makes.

    Args:
        choices: see `Dialect.assembler`.
        habits: the provider's.
    """

    terminator = "[DONE]"
    repeats = True

    def __init__(self, choices: int | None = None, habits: Habits = Habits()) -> None:
        super().__init__(is_own_stream=choices is None)
        self._asked = choices
        self._habits = habits
        self._answer: dict[str, Any] = {}
        self._joined_last: dict[str, Any] | None = None
        """The last chunk without its choices, if it says nothing more when it comes again, as it mostly does.
        """
        self._choices: dict[int, dict[str, Any]] = {}
        self._unknown_of_choices: dict[int, KeptFields] = {}
        self._is_counted = True

    def take(self, chunk: dict[str, Any], data: str) -> str:
        is_none = bool(chunk) and "choices" not in chunk and chunk.keys().isdisjoint(CHUNK)
        found = as_list(chunk.pop("choices", None) or [])
        _check_error(chunk, found, data)
        if is_none:  # of what it says, a stream that fails may have said it
            raise Unfaithful("an event is no chunk")
        if chunk != self._joined_last:
            joined(CHUNK, self._answer, chunk, self.unknown)
            self._joined_last = chunk if chunk.keys() <= REPEATABLE else None
        adds, text, is_only = False, "", len(found) == 1
        for choice in found:
            delta = as_object(choice).pop("delta", None) or {}
            index = choice.pop("index", 0 if is_only else None)
            adds = self._join_choice(index, choice, as_object(delta)) or adds
            if index == 0:
                text += _text(delta.get("content"))
                if delta.get("tool_calls"):
                    self.arguments = _arguments(delta["tool_calls"])
        has_usage = _usage(chunk, found) is not None
        if found:
            self.unknown.events += 1
        if has_usage or adds:
            self._is_counted = has_usage
        return shown(text)

    def growth(self, event: dict[str, Any]) -> Growth | None:
        """See `JsonAnswer`. Most chunks of a text are such: one choice, whose delta has one text."""
        if self._joined_last is None or len(event.get("choices") or ()) != 1:
            return None
        choice = {"index": 0, **event["choices"][0]}
        index, delta = choice.pop("index"), choice.pop("delta", None) or {}
        so_far = self._choices[index]
        grown = [name for name, value in delta.items() if value and name not in NO_CONTENT]
        text = so_far["delta"].get(grown[0]) if len(grown) == 1 else None
        is_repeatable = all(
            name in REPEATABLE_OF_CHOICES or value is None or (name in CHOICE and not value)
            for name, value in choice.items()
        )
        if not isinstance(text, Text) or so_far.get("finish_reason") or not is_repeatable:
            return None
        is_shown = index == 0 and grown == ["content"]
        padding = [name for name in PADDINGS if event.get(name)]
        return Growth(("choices", 0, "delta", *grown), text.pieces, is_shown, padding[:1])

    def _join_choice(self, index: Any, choice: dict[str, Any], delta: dict[str, Any]) -> bool:
        """Join a chunk's choice to what came of it; whether it adds anything to its answer. One that goes on
        after its reason to finish is ambiguous."""
        if type(index) is not int or not 0 <= index < MAX_CHOICES:
            raise Unfaithful("an index is none")
        so_far = self._choices.get(index)
        if so_far is None:
            so_far = self._choices[index] = {"delta": {}}
            self._unknown_of_choices[index] = KeptFields("choices[].")
        unknown = self._unknown_of_choices[index]
        unknown.events += 1
        had_finished = so_far.get("finish_reason")
        joined(CHOICE, so_far, choice, unknown)
        if not delta:
            return False
        joined(DELTA, so_far["delta"], delta)
        adds = False
        for name, value in delta.items():
            if value and name not in NO_CONTENT:
                adds = True
        if adds and had_finished:
            so_far["finish_reason"] = AmbiguousFinish(so_far["finish_reason"])
        return adds

    @property
    def is_complete(self) -> bool:
        """True if `[DONE]` has come; from servers that send none, usage and each choice's reason to
        finish."""
        if self.is_terminated:
            return True
        found = self._choices.values()
        has_usage = bool(found) and _usage(self._answer, list(found)) is not None
        return has_usage and all(choice.get("finish_reason") is not None for choice in found)

    def answer(self) -> bytes:
        """The completion as JSON."""
        answer = {name: value for name, value in self._answer.items() if name not in ONLY_IN_CHUNKS}
        usage = _usage(answer, list(self._choices.values()))
        if self._asked is not None and not (self._is_counted and usage is not None):
            raise Unfaithful("the stream does not say what was used in all")
        if not self._choices:
            raise Unfaithful("the stream has no choice")
        if usage is not None:
            answer["usage"] = usage
        if answer.get("x_groq") is not None:
            if answer["x_groq"].get("usage_breakdown") is not None:
                answer.setdefault("usage_breakdown", answer["x_groq"]["usage_breakdown"])
            answer["x_groq"] = {
                name: answer["x_groq"][name] for name in ("id", "seed") if name in answer["x_groq"]
            }
        choices = [self._finished(at) for at in _in_order(self._choices)]
        answer |= self.unknown.values()
        answer |= {"object": "chat.completion", "choices": choices}
        if self._asked is not None:
            _check_finishes(answer, choices, self._asked)
            if not self._habits.stops_at_tools and any(map(_stops_at_tools, choices)):
                raise Unfaithful("a choice stops with a tool's call")
        return serialized(answer)

    def kept_fields(self) -> Iterator[str]:
        """See `Assembler`."""
        yield from self.unknown.names()
        for unknown in self._unknown_of_choices.values():
            yield from unknown.names()

    def _finished(self, index: int) -> dict[str, Any]:
        """A choice as the batch answer has it."""
        choice = self._choices[index]
        if choice.get("finish_reason") is None:
            raise Unfaithful("a choice has no end")
        delta = {name: value for name, value in choice["delta"].items() if name not in ONLY_IN_DELTAS}
        message = {"role": "assistant", "content": None} | delta
        if self._habits.has_annotations:
            message.setdefault("annotations", [])
        if message.get("tool_calls") is not None:
            made = message["tool_calls"]
            message["tool_calls"] = [
                made[at] | ({"index": at} if self._habits.keeps_index else {}) for at in _in_order(made)
            ]
        if message.get("refusal") is not None and not _text(message["content"]):
            message["content"] = None  # a stream begins with an empty text, whatever follows
        so_far = choice.get("message")
        if so_far is not None and as_object(so_far).get("content") != str(message["content"] or ""):
            raise Unfaithful("a message is another than its pieces")
        if message.get("tool_calls") and not message["content"]:
            if self._habits.no_text == "empty":
                message["content"] = ""
            elif self._habits.no_text == "absent":
                del message["content"]
        finished = {name: value for name, value in choice.items() if name not in ONLY_IN_CHOICES}
        return {"index": index} | finished | self._unknown_of_choices[index].values() | {"message": message}


NO_CONTENT = frozenset({"role", "channel", "index", "token_id", "type"})
"""Fields of a delta that add nothing to an answer."""


def _check_error(chunk: Mapping[str, Any], choices: list[Any], data: str) -> None:
    """Raises `ProviderFailed` if a chunk is an error: of OpenAI's shape, of vLLM's, or of OpenRouter's in a
    choice."""
    error = chunk.get("error")
    if not error and choices:
        error = None  # beside choices, "" is none
    if error is None and chunk.get("object") == "error":
        error = chunk
    is_whole = error is not None
    for choice in choices:
        if error is None and isinstance(choice, dict):
            error = choice.get("error") or None
    if error is not None:
        body = data if is_whole else json.dumps({"error": error})
        raise ProviderFailed(_status(error), body.encode())


def _status(error: Any) -> int:
    """The status that an error in a stream would have had."""
    for name in ("code", "status", "status_code") if isinstance(error, dict) else ():
        if re.fullmatch("[45][0-9][0-9]", str(error.get(name))):
            return int(error[name])
    return 500


def _usage(answer: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> Any:
    """The usage: at the top of a chunk, in the only choice, or in Groq's own field."""
    if answer.get("usage"):
        return answer["usage"]
    if len(choices) == 1 and (of_choice := choices[0].get("usage")):
        return of_choice
    groq = answer.get("x_groq")
    return groq.get("usage") or None if groq else None


def _text(content: Any) -> str:
    """The text of a content, or of Mistral's list of parts without what is thought."""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if part.get("type") == "text")
    return "" if content is None else str(content)


def _arguments(calls: list[dict[str, Any]]) -> str:
    """Return what a delta adds to the arguments of the first tool's call."""
    functions = [call.get("function") for call in calls if call.get("index", 0) == 0]
    return "".join(str(function.get("arguments") or "") for function in functions if function)


def _in_order(by_index: Mapping[int, Any]) -> range:
    """The indices of a list that was kept by them."""
    if sorted(by_index) != list(range(len(by_index))):
        raise Unfaithful("an index is missing")
    return range(len(by_index))


def _check_finishes(answer: Mapping[str, Any], choices: list[dict[str, Any]], asked: int) -> None:
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
    if message.get("refusal") and message.get("content"):
        raise Unfaithful("a model refuses after a part of its text")
    _check_arguments(message, reason)
    lists = [message.get("annotations"), message.get("images"), *(choice.get("logprobs") or {}).values()]
    if any(isinstance(each, AmbiguousList) for each in lists):
        raise Unfaithful("a list comes again")


def _check_arguments(message: Mapping[str, Any], reason: str) -> None:
    """A tool's arguments are one JSON object. Two objects in a row are one that came twice."""
    made = message.get("tool_calls") or ()
    if not all(call.get("id") for call in made):
        raise Unfaithful("a tool's call has no id")
    calls = [call.get("function") for call in made if "custom" not in call]
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


def _stops_at_tools(choice: Mapping[str, Any]) -> bool:
    """True if a choice that calls a tool says `stop`. Users of Gemini, vLLM and Ollama have reported streams
    that said so, and that end with `tool_calls` as batch."""
    message = choice["message"]
    calls = message.get("tool_calls") or message.get("function_call")
    return bool(calls) and choice["finish_reason"] == "stop"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_filtered(verdicts: Any) -> bool:
    """True if any of Azure's filters has struck, at any depth."""
    if isinstance(verdicts, dict):
        return verdicts.get("filtered") is True or _is_filtered(list(verdicts.values()))
    return isinstance(verdicts, list) and any(map(_is_filtered, verdicts))


def is_choice(found: Any) -> bool:
    """True if a value is a finished choice of a batch answer."""
    message = found.get("message") if isinstance(found, dict) else None
    content = ("content", "tool_calls", "function_call")
    has_content = isinstance(message, dict) and not message.keys().isdisjoint(content)
    return has_content and isinstance(found.get("finish_reason"), str) and bool(found["finish_reason"])
