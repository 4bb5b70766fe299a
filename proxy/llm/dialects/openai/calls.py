"""Calls of OpenAI's chat completions, and of every API of that shape: Azure's, DeepSeek's, vLLM's. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

from proxy.llm.assembly.call_fields import asks_for_json, path_of, system_of
from proxy.llm.assembly.dialect import Prompt
from proxy.llm.assembly.json_dialect import JsonDialect
from proxy.llm.assembly.usage import UsageFields
from proxy.llm.dialects.openai.answer import Completion, Habits, is_choice
from proxy.llm.dialects.openai.fields import MAX_CHOICES

REFUSING_OPTIONS = frozenset({"api.mistral.ai", "codestral.mistral.ai"})
"""Hosts that refuse `stream_options`, and say what was used in any case."""


HABITS: Mapping[str, Habits] = {
    "api.openai.com": Habits(stops_at_tools=True, has_annotations=True),
    ".openai.azure.com": Habits(stops_at_tools=True),
    ".aliyuncs.com": Habits(keeps_index=True, no_text="empty"),
    "api.groq.com": Habits(no_text="absent"),
    "api.mistral.ai": Habits(no_text="absent"),
}
"""Of providers, by the ends of their hosts. OpenAI documents `stop` for a call that names the tool, as a
stream and as batch; the others' are of recorded answers."""


PATHS = (b"/chat/completions", b"/agents/completions")
"""Ends of paths; the second is Mistral's, of a model that was told before what it is to do."""


class OpenAI(JsonDialect):
    """Calls whose path ends with one of `PATHS`, wherever an API has them.

    Args:
        host: the provider's, "" if it does not matter.
    """

    usage = UsageFields(input=("usage.prompt_tokens",), output=("usage.completion_tokens",))

    def __init__(self, host: str = "") -> None:
        self._habits = next((HABITS[end] for end in HABITS if host.endswith(end)), Habits())
        if host not in REFUSING_OPTIONS:
            self.asked_with = {"stream": True, "stream_options": {"include_usage": True}}

    def is_call(self, method: str, target: bytes) -> bool:
        return method == "POST" and path_of(target).endswith(PATHS)

    def assembler(self, choices: int | None = None) -> "Completion":
        return Completion(choices, self._habits)

    def is_answer(self, body: bytes, choices: int) -> bool:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return False
        found = answer.get("choices") if isinstance(answer, dict) else None
        return isinstance(found, list) and len(found) == choices and all(map(is_choice, found))

    def prompt_of(self, call: Mapping[str, Any], target: bytes) -> Prompt:
        wants_json = asks_for_json(call.get("response_format"))
        return Prompt(_model(call, target), "\n".join(system_of(call["messages"])), wants_json)

    def choices_of(self, call: Mapping[str, Any]) -> int:
        return call.get("n") or 1

    def not_streamable(self, call: Mapping[str, Any]) -> str:
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
    """The model's name; in Azure's older paths the deployment's."""
    if isinstance(model := call.get("model"), str):
        return model
    _, found, deployment = target.partition(b"/deployments/")
    return deployment.partition(b"/")[0].decode("latin-1") if found else ""
