"""Gemini's generateContent and streamGenerateContent."""

import time

from starlette.requests import Request

from examples.clinic.model.completion import Asked, Completion, Json, as_json

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
ROLES = {"model": "assistant"}


class GeminiShape:
    """Every event of a stream is an answer of its own, with the tokens so far; the last has the reason."""

    def read(self, request: Request, body: Json) -> Asked:
        """See `Shape.read`."""
        system = body.get("systemInstruction")
        messages = [_message(content) for content in body["contents"]]
        if system:
            messages.insert(0, {"role": "system", "content": _message(system)["content"]})
        is_stream = request.url.path.endswith(":streamGenerateContent")
        return Asked(request.path_params["model"], messages, is_stream=is_stream)

    def whole(self, completion: Completion) -> Json:
        return _answer(completion, completion.text, len(completion.tokens), "STOP")

    def opening(self, completion: Completion) -> list[bytes]:
        return []

    def token(self, completion: Completion, number: int) -> bytes:
        reason = "STOP" if number == len(completion.tokens) else None
        return self.event(as_json(_answer(completion, completion.tokens[number - 1], number, reason)))

    def closing(self, completion: Completion) -> list[bytes]:
        return []

    def error(self, status: int) -> Json:
        name = STATUSES.get(status, "INTERNAL")
        return {"error": {"code": status, "message": "A fault on request", "status": name}}

    def event(self, data: bytes) -> bytes:
        return b"data: " + data + b"\r\n\r\n"

    def headers(self, completion: Completion | None) -> dict[str, str]:
        """See `Shape.headers`."""
        took_ms = 0 if completion is None else int(1000 * (time.monotonic() - completion.began))
        return {"server-timing": f"gfet4t7; dur={took_ms}", "vary": "Origin, X-Origin, Referer"}


def _message(content: Json) -> Json:
    role = str(content.get("role", "user"))
    return {"role": ROLES.get(role, role), "content": "".join(part["text"] for part in content["parts"])}


def _answer(completion: Completion, text: str, answered: int, reason: str | None) -> Json:
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}}
    if reason:
        candidate["finishReason"] = reason
    prompt = completion.prompt_tokens
    return {
        "candidates": [candidate | {"index": 0}],
        "usageMetadata": {
            "promptTokenCount": prompt,
            "candidatesTokenCount": answered,
            "totalTokenCount": prompt + answered,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
        },
        "modelVersion": completion.asked.model,
        "responseId": completion.digest[:22],
    }
