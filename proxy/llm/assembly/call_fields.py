"""The fields of a call, as dialects read them and ask anew with others. No I/O."""

import json
from collections.abc import Mapping
from typing import Any

from proxy.llm.assembly.dialect import NotStreamable


def call_of(body: bytes, needed: str) -> dict[str, Any] | None:
    """A call's JSON object. None: the body is none, or lacks the field that is needed."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return call if isinstance(call, dict) and call.get(needed) is not None else None


def asked_as(call: Mapping[str, Any], more: Mapping[str, Any]) -> bytes:
    """A call's body with other fields. Raises `NotStreamable`."""
    try:
        return json.dumps({**call, **more}, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise NotStreamable("a number is out of range, or a text is no Unicode") from None


def model_of(call: Mapping[str, Any]) -> str:
    model = call.get("model")
    return model if isinstance(model, str) else ""


def asks_for_json(form: Any) -> bool:
    """True if a form of answer, as OpenAI and others name it, is JSON."""
    return isinstance(form, dict) and form.get("type") in ("json_object", "json_schema")


def path_of(target: bytes) -> bytes:
    return target.partition(b"?")[0]


def texts_of(content: Any) -> list[str]:
    """The texts of a message's content, which may be one, or a list of parts."""
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return [text for text in texts if isinstance(text, str)]


def system_of(messages: Any) -> list[str]:
    """The texts of the messages that instruct the model."""
    return [
        text
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict) and message.get("role") in ("system", "developer")
        for text in texts_of(message.get("content"))
    ]
