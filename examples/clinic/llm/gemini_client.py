"""Gemini's shape through the `google-genai` package. The package repeats nothing by itself, so there is no
pause to scale.
"""

from typing import Any

import httpx2
from google import genai
from google.genai import errors, types

from examples.clinic.llm.conversation import MAX_TOKENS, TEMPERATURE, Message, ModelFailed, WrongFormat
from examples.clinic.settings import Model


class GeminiClient:
    def __init__(self, model: Model, retry_scale: float = 1.0) -> None:
        options = types.HttpOptions(base_url=model.url)
        self._client = genai.Client(api_key=model.api_key, http_options=options)
        self._model = model.name

    def answer(self, messages: list[Message]) -> str:
        """See `Client.answer`."""
        config = types.GenerateContentConfig(temperature=TEMPERATURE, max_output_tokens=MAX_TOKENS)
        contents: Any = [_content(message) for message in messages]
        try:
            reply = self._client.models.generate_content(model=self._model, contents=contents, config=config)
        except (errors.APIError, httpx2.TransportError) as exc:
            raise ModelFailed(str(exc)) from exc
        except ValueError as exc:  # no JSON, or none of this shape
            raise WrongFormat from exc
        if not reply.text:
            raise WrongFormat
        return reply.text

    def close(self) -> None:
        self._client.close()


def _content(message: Message) -> types.Content:
    role = "model" if message["role"] == "assistant" else "user"
    return types.Content(role=role, parts=[types.Part(text=message["content"])])
