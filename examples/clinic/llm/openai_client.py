"""OpenAI's shape through the `openai` package: OpenAI itself, Azure, and DeepSeek under OpenAI's own paths.

The package repeats a failed call twice by itself, after 0.5 s and 1 s or what `retry-after` says, waits five
seconds for a connection and ten minutes for an answer. None of that is set here: the app this
stands for does not set it either.
"""

import json
from typing import Any, cast

from openai import AzureOpenAI, OpenAI, OpenAIError, omit
from openai.types.chat import ChatCompletionMessageParam
from openai.types.shared_params import ResponseFormatJSONSchema

from examples.clinic.llm.conversation import MAX_TOKENS, TEMPERATURE, Message, ModelFailed, WrongFormat
from examples.clinic.settings import Model

FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
    },
}


class OpenAiClient:
    def __init__(self, model: Model, retry_scale: float = 1.0) -> None:
        self._client = _connect(model)
        self._model = model.name
        self._is_structured = model.is_structured
        _scale_pauses(self._client, retry_scale)

    def answer(self, messages: list[Message]) -> str:
        """See `Client.answer`."""
        try:
            reply = self._client.chat.completions.create(
                model=self._model,
                messages=cast(list[ChatCompletionMessageParam], messages),
                temperature=TEMPERATURE,
                max_tokens=MAX_TOKENS,
                stream=False,
                response_format=FORMAT if self._is_structured else omit,
            )
        except OpenAIError as exc:
            raise ModelFailed(str(exc)) from exc
        except ValueError as exc:  # JSON by its content type, but not by what it is
            raise WrongFormat from exc
        return _inside(_text(reply)) if self._is_structured else _text(reply)

    def close(self) -> None:
        self._client.close()


def _connect(model: Model) -> OpenAI:
    if model.provider == "azure":
        return AzureOpenAI(azure_endpoint=model.url, api_version=model.api_version, api_key=model.api_key)
    return OpenAI(base_url=model.url, api_key=model.api_key)


def _text(reply: Any) -> str:
    """The package checks no shapes: of an answer in another one, any part may be missing or of any type."""
    try:
        content = reply.choices[0].message.content
    except (AttributeError, LookupError, TypeError) as exc:
        raise WrongFormat from exc
    if not isinstance(content, str):
        raise WrongFormat
    return content


def _inside(content: str) -> str:
    """The text in an answer of this schema."""
    try:
        text = json.loads(content)["text"]
    except (ValueError, LookupError, TypeError) as exc:
        raise WrongFormat from exc
    if not isinstance(text, str):
        raise WrongFormat
    return text


def _scale_pauses(client: OpenAI, scale: float) -> None:
    """Scale the package's pauses, for which it has no setting. Only tests do; 1 leaves them as they are."""
    if scale == 1:
        return
    pause_s = client._calculate_retry_timeout

    def scaled_s(*arguments: Any, **options: Any) -> float:
        return pause_s(*arguments, **options) * scale

    client._calculate_retry_timeout = scaled_s  # type: ignore[method-assign]
