"""The values of `llm.providers[].api`, and the dialects that a provider of each may speak. No I/O.

Dialects are told apart by a call's path. Many providers offer OpenAI's beside their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.llm.assembly.dialect import Dialect
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.bedrock import Converse, InvokeModel
from proxy.llm.dialects.cohere import Cohere
from proxy.llm.dialects.gemini.calls import Gemini
from proxy.llm.dialects.ollama import Ollama
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.dialects.openai.responses import Responses

APIS: Mapping[str, Callable[[str], Sequence[Dialect]]] = {
    "openai": lambda host: (OpenAI(host), Responses(host)),
    "anthropic": lambda host: (Anthropic(), OpenAI(host)),
    "gemini": lambda host: (Gemini(), Anthropic(), OpenAI(host)),
    "ollama": lambda host: (Ollama(), OpenAI(host), Responses(host), Anthropic()),
    "cohere": lambda host: (Cohere(), OpenAI(host)),
    "bedrock": lambda host: (Converse(), InvokeModel(), OpenAI(host), Responses(host)),
}
"""The function from a provider's host to its dialects, for each `api`."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A provider of which recorded streams went through the assemblers, whole and cut at every event."""

    name: str
    hosts: tuple[str, ...]
    """Ends of its hosts' names; none for what everybody runs at a host of their own."""
    streams: tuple[str, ...]
    """The calls whose streams were recorded."""


CHAT, RESPONSES, MESSAGES, CONTENT = "chat completions", "responses", "messages", "content"

TRIED = (
    Tried("Alibaba", ("aliyuncs.com",), (CHAT,)),
    Tried("Amazon Bedrock", ("amazonaws.com",), ("converse",)),
    Tried("Anthropic", ("api.anthropic.com",), (MESSAGES,)),
    Tried("Azure", ("openai.azure.com", "azure.com"), (CHAT, RESPONSES)),
    Tried("Cerebras", ("api.cerebras.ai",), (CHAT,)),
    Tried("Cohere", ("api.cohere.com", "api.cohere.ai"), ("chat, version 2",)),
    Tried("DeepSeek", ("api.deepseek.com",), (CHAT,)),
    Tried("Gemini", ("generativelanguage.googleapis.com",), (CONTENT,)),
    Tried("Groq", ("api.groq.com",), (CHAT,)),
    Tried("LM Studio", (), (RESPONSES,)),
    Tried("Mistral", ("api.mistral.ai",), (CHAT,)),
    Tried("Moonshot", ("api.moonshot.ai", "api.moonshot.cn"), (CHAT,)),
    Tried("OpenAI", ("api.openai.com",), (RESPONSES,)),
    Tried("Perplexity", ("api.perplexity.ai",), (CHAT,)),
    Tried("Vertex AI", ("aiplatform.googleapis.com",), (CONTENT,)),
    Tried("xAI", ("api.x.ai",), (CHAT, RESPONSES)),
)


def tried(host: str) -> Tried | None:
    """Return what was tried of a host's provider; None: nothing, so its streams are read as documented."""
    return next((each for each in TRIED if host.endswith(each.hosts)), None)
