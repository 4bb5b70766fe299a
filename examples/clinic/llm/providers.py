"""The providers, and the client of each."""

from collections.abc import Callable

from examples.clinic.llm.conversation import Client, Llm
from examples.clinic.llm.postprocess import POSTPROCESS
from examples.clinic.settings import Model, Settings


def open_llm(settings: Settings) -> Llm:
    """A new client, as `with`."""
    connect = load(settings.model)
    client = connect(settings.model, settings.retry_scale)
    return Llm(client, POSTPROCESS[settings.postprocess], settings.retry_scale)


def load(model: Model) -> Callable[[Model, float], Client]:
    """Import the provider's package, and no other: each takes more than half a second."""
    if model.provider == "gemini":
        from examples.clinic.llm.gemini_client import GeminiClient

        return GeminiClient
    from examples.clinic.llm.openai_client import OpenAiClient

    return OpenAiClient
