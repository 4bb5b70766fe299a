"""The values of `llm.providers[].api`, and the dialects that a provider of each may speak. No I/O.

Dialects are told apart by a call's path. Many providers offer OpenAI's beside their own.
"""

from collections.abc import Callable, Mapping, Sequence

from proxy.llm.dialects.dialect import Dialect
from proxy.llm.dialects.gemini import Gemini
from proxy.llm.dialects.openai import OpenAI

APIS: Mapping[str, Callable[[str], Sequence[Dialect]]] = {
    "openai": lambda host: (OpenAI(host),),
    "gemini": lambda host: (Gemini(), OpenAI(host)),
}
"""By `api`: from the provider's host to its dialects."""
