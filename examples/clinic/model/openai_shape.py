"""OpenAI's chat completions, and the same under Azure's paths."""

import time
from dataclasses import dataclass
from uuid import uuid4

from starlette.requests import Request

from examples.clinic.model.completion import Asked, Completion, Json, as_json

FINGERPRINT = "fp_c11111c000"
KINDS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
"""Type and code of an error by its status; all others are the server's."""

LIMITS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999950",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "1ms",
}


@dataclass(frozen=True)
class OpenAiShape:
    has_obfuscation: bool = False
    """Events of a stream are filled up to hide the lengths of their tokens, as OpenAI does."""

    def read(self, request: Request, body: Json) -> Asked:
        """See `Shape.read`."""
        options = body.get("stream_options") or {}
        return Asked(
            # Azure's path names the deployment; the body then says what it likes.
            request.path_params.get("deployment") or str(body["model"]),
            [dict(message) for message in body["messages"]],
            is_stream=bool(body.get("stream")),
            has_usage=bool(options.get("include_usage")),
            is_structured=(body.get("response_format") or {}).get("type") == "json_schema",
        )

    def whole(self, completion: Completion) -> Json:
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {
            **_head(completion, "chat.completion"),
            "choices": [choice],
            "usage": _usage(completion),
            **_origin(),
        }

    def opening(self, completion: Completion) -> list[bytes]:
        return [self._chunk(completion, {"role": "assistant", "content": "", "refusal": None})]

    def token(self, completion: Completion, number: int) -> bytes:
        return self._chunk(completion, {"content": completion.tokens[number - 1]})

    def closing(self, completion: Completion) -> list[bytes]:
        """See `Shape.closing`."""
        events = [self._chunk(completion, {}, "stop")]
        if completion.asked.has_usage:
            head = _head(completion, "chat.completion.chunk") | _origin()
            events.append(self.event(as_json(head | {"choices": [], "usage": _usage(completion)})))
        return [*events, self.event(b"[DONE]")]

    def error(self, status: int) -> Json:
        kind, code = KINDS.get(status, ("server_error", None))
        return {"error": {"message": "A fault on request", "type": kind, "param": None, "code": code}}

    def event(self, data: bytes) -> bytes:
        return b"data: " + data + b"\n\n"

    def headers(self, completion: Completion | None) -> dict[str, str]:
        """See `Shape.headers`."""
        took_ms = 0 if completion is None else int(1000 * (time.monotonic() - completion.began))
        return {
            "openai-processing-ms": str(took_ms),
            "openai-version": "2020-10-01",
            "x-request-id": f"req_{uuid4().hex}",
            **LIMITS,
        }

    def _chunk(self, completion: Completion, delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = _head(completion, "chat.completion.chunk") | _origin() | {"choices": [choice]}
        if completion.asked.has_usage:
            chunk["usage"] = None
        if self.has_obfuscation:
            chunk["obfuscation"] = "." * (16 - len(str(delta.get("content", ""))) % 16)
        return self.event(as_json(chunk))


def _head(completion: Completion, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{completion.digest[:24]}",
        "object": kind,
        "created": completion.created,
        "model": completion.asked.model,
    }


def _origin() -> Json:
    return {"service_tier": "default", "system_fingerprint": FINGERPRINT}


def _usage(completion: Completion) -> Json:
    prompt, answer = completion.prompt_tokens, len(completion.tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
