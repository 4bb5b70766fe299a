"""OpenAI's Responses API, and its like of Azure, xAI and LM Studio: its calls and its answers. No I/O.

Sources: OpenAI's API reference, "Responses" and "Streaming events", and recorded streams.

The last event has the whole response, so that nothing has to be joined: what comes before is shown, and
counts only where the last event lacks the output, which then is the items that came whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proxy.llm.assembly.call_fields import asks_for_json, call_of, model_of, path_of, system_of
from proxy.llm.assembly.dialect import AbnormalFinish, Prompt, ProviderFailed, Unfaithful
from proxy.llm.assembly.json_dialect import JsonAnswer, JsonDialect
from proxy.llm.assembly.json_values import as_list, as_object, as_text, as_word, serialized, shown
from proxy.llm.assembly.usage import UsageFields

MAX_ITEMS = 4096
"""Of one response's output."""

SHOWN = frozenset({"response.output_text.delta", "response.refusal.delta"})

ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})

STATUSES: Mapping[str, int] = {
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    **dict.fromkeys(
        (
            "empty_image_file",
            "failed_to_download_image",
            "image_content_policy_violation",
            "image_file_not_found",
            "image_file_too_large",
            "image_parse_error",
            "image_too_large",
            "image_too_small",
            "invalid_base64_image",
            "invalid_image",
            "invalid_image_format",
            "invalid_image_mode",
            "invalid_image_url",
            "unsupported_image_media_type",
        ),
        400,
    ),
}
"""Of an error in a stream, by its code. A picture that cannot be read is the caller's."""

OPENAI_HOSTS = frozenset({"api.openai.com", "eu.api.openai.com", "us.api.openai.com"})
"""They know `include_obfuscation`. Others may refuse it."""


class Responses(JsonDialect):
    """Calls whose path ends with `/responses`.

    Args:
        host: the provider's, "" if it does not matter.
    """

    needed = ("input", "prompt")
    usage = UsageFields(input=("usage.input_tokens",), output=("usage.output_tokens",))

    def __init__(self, host: str = "") -> None:
        if host in OPENAI_HOSTS:
            self.asked_with = {"stream": True, "stream_options": {"include_obfuscation": False}}

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and path_of(target).endswith(b"/responses")

    def not_streamable(self, call: Mapping[str, Any]) -> str:
        if call.get("background") or call.get("store"):
            return "its answer is kept for later"
        has_conversation = call.get("conversation") is not None
        return "asked again, it would be twice in its conversation" if has_conversation else ""

    def assembler(self, choices: int | None = None) -> "OpenAIResponse":
        return OpenAIResponse(is_own_stream=choices is None)

    def is_answer(self, body: bytes, choices: int) -> bool:
        answer = call_of(body, "output")
        return (
            answer is not None
            and answer.get("status") in ("completed", "incomplete")
            and isinstance(answer["output"], list)
        )

    def prompt_of(self, call: Mapping[str, Any], target: bytes) -> Prompt:
        instructions = call.get("instructions")
        told = [instructions] if isinstance(instructions, str) else []
        text = call.get("text")
        wants_json = isinstance(text, dict) and asks_for_json(text.get("format"))
        return Prompt(model_of(call), "\n".join([*told, *system_of(call.get("input"))]), wants_json)


class OpenAIResponse(JsonAnswer):
    """The answer that one stream makes."""

    def __init__(self, *, is_own_stream: bool) -> None:
        super().__init__(is_own_stream=is_own_stream)
        self._response: dict[str, Any] | None = None
        self._items: dict[int, dict[str, Any]] = {}
        self._has_strays = False
        """Whether an item came without its place: it counts in the whole response alone."""
        self._shown: list[str] = []
        self._tool: Any = None
        """The place of the first tool's call."""

    def take(self, event: dict[str, Any], data: str) -> str:
        kind = as_word(event.get("type"))
        if kind in SHOWN:
            piece = shown(as_text(event.get("delta")))
            self._shown.append(piece)
            return piece
        if kind == "response.function_call_arguments.delta":
            self._take_arguments(event)
        elif kind == "response.output_item.done":
            self._take_item(event)
        elif kind in ENDS:
            self._response = as_object(event.get("response"))
            self.is_terminated = True
        elif kind == "error" or (not kind and event.get("error") is not None):
            error = event.get("error") or {name: event.get(name) for name in ("code", "message", "param")}
            raise _failed(error)
        if kind == "response.failed":
            raise _failed((self._response or {}).get("error"))
        return ""

    def _take_arguments(self, event: Mapping[str, Any]) -> None:
        place = event.get("output_index", event.get("item_id"))
        if self._tool is None:
            self._tool = place
        if self._tool == place:
            self.arguments = as_text(event.get("delta"))

    def _take_item(self, event: Mapping[str, Any]) -> None:
        index = event.get("output_index")
        if index is None:  # llama.cpp's have none
            self._has_strays = True
            return
        if type(index) is not int or not 0 <= index < MAX_ITEMS or index in self._items:
            raise Unfaithful("an index is none, or comes again")
        self._items[index] = as_object(event.get("item"))

    def answer(self) -> bytes:
        """The response as JSON."""
        assert self._response is not None, "asked for the answer of a stream that is not complete"
        response = self._response
        if not self.is_own_stream:
            _check_end(response)
        if not response.get("output"):
            if self._has_strays or sorted(self._items) != list(range(len(self._items))):
                raise Unfaithful("an index is missing")
            items = [self._items[at] for at in range(len(self._items))]
            if self._shown and "".join(self._shown) != "".join(_texts(items)):
                raise Unfaithful("the items have another text than was shown")
            response = response | {"output": items}
        return serialized(response)

    def kept_fields(self) -> Iterable[str]:
        """None: the whole response comes in one event, so that nothing needs to be known of its fields."""
        return ()


def _texts(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The texts of an output that are shown."""
    for item in items:
        for part in item.get("content") or () if item.get("type") == "message" else ():
            yield as_text(part.get("text") if part.get("type") == "output_text" else part.get("refusal", ""))


def _check_end(response: Mapping[str, Any]) -> None:
    """Check that a response has ended so that its batch answer is the same."""
    status = response.get("status")
    reason = as_object(response.get("incomplete_details") or {}).get("reason")
    filters = [each for each in as_list(response.get("content_filters") or []) if isinstance(each, dict)]
    if any(each.get("blocked") for each in filters) or reason == "content_filter":
        raise AbnormalFinish("a filter has struck")
    if status != "completed" and (status != "incomplete" or reason != "max_output_tokens"):
        raise Unfaithful("the response has ended for a reason that is not known")
    if response.get("usage") is None:
        raise Unfaithful("the stream does not say what was used in all")


def _failed(error: Any) -> ProviderFailed:
    """An error in a stream, with the status and the body of the batch answer."""
    said = error if isinstance(error, dict) else {"message": None}
    named = (STATUSES.get(as_word(said.get(name))) for name in ("code", "type"))
    return ProviderFailed(next(filter(None, named), 500), serialized({"error": said}))
