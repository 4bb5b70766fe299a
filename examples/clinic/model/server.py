"""OpenAI's chat completions, batch and streamed, from made-up text; both modes take equally long."""

import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from examples.clinic.model import faults
from examples.clinic.model.faults import Fault
from examples.clinic.model.texts import TOKEN, find_task, write

MODEL = "clinic-synthetic"
Json = dict[str, Any]


class CutOff(Exception):
    """Ends the connection in the middle of an answer, as a fault asks."""


@dataclass(frozen=True)
class Pace:
    first_token_s: float
    tokens_per_s: float

    async def wait_for(self, token: int, began: float) -> None:
        """Until the time of that token, counted from 1. Each has its own time, so delays do not add up."""
        due = began + self.first_token_s + token / self.tokens_per_s
        await anyio.sleep(max(0.0, due - time.monotonic()))


@dataclass(frozen=True)
class Completion:
    """What one request is answered with."""

    model: str
    tokens: list[str]
    prompt_tokens: int
    began: float
    fault: Fault | None

    def head(self, kind: str) -> Json:
        # The same for the same text: two runs can be compared byte for byte, but for the time.
        digest = hashlib.sha256("".join(self.tokens).encode()).hexdigest()
        return {
            "id": f"chatcmpl-{digest[:24]}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
        }

    def usage(self) -> Json:
        answer = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answer,
            "total_tokens": self.prompt_tokens + answer,
        }

    def whole(self) -> bytes:
        message = {"role": "assistant", "content": "".join(self.tokens)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return _json(self.head("chat.completion") | {"choices": [choice], "usage": self.usage()})

    @property
    def is_cut(self) -> bool:
        return self.fault is not None and self.fault.kind == "cut"


def create_app(pace: Pace, *, tokens: int, seed: int) -> Starlette:
    async def complete(request: Request) -> Response:
        asked: Json = await request.json()
        fault = _fault(request, asked)
        if fault and fault.kind == "slow":
            await anyio.sleep_forever()
        if fault and fault.kind == "format":
            return JSONResponse({"output": "another shape"})
        if fault and fault.status:
            return _error(fault.status)
        return _answer(asked, _completion(asked, fault), pace)

    def _completion(asked: Json, fault: Fault | None) -> Completion:
        messages = asked["messages"]
        prompt = sum(len(TOKEN.findall(str(message.get("content", "")))) for message in messages)
        text = write(messages, seed=seed, tokens=tokens)
        return Completion(str(asked.get("model", MODEL)), text, prompt, time.monotonic(), fault)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", show_models),
        ]
    )


async def show_models(request: Request) -> Response:
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "clinic"}
    return JSONResponse({"object": "list", "data": [model]})


def _fault(request: Request, asked: Json) -> Fault | None:
    name = request.headers.get(faults.HEADER) or str(asked.get("model", ""))
    return faults.find_fault(name, find_task(asked["messages"]))


def _answer(asked: Json, completion: Completion, pace: Pace) -> Response:
    if asked.get("stream"):
        has_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        return StreamingResponse(_events(completion, pace, has_usage), media_type="text/event-stream")
    body = completion.whole()
    headers = {"content-length": str(len(body))}
    return StreamingResponse(_batch(completion, pace, body), media_type="application/json", headers=headers)


async def _batch(completion: Completion, pace: Pace, body: bytes) -> AsyncIterator[bytes]:
    await pace.wait_for(len(completion.tokens), completion.began)
    if completion.is_cut:
        yield body[: len(body) // 2]
        raise CutOff
    yield body


async def _events(completion: Completion, pace: Pace, has_usage: bool) -> AsyncIterator[bytes]:
    head = completion.head("chat.completion.chunk") | ({"usage": None} if has_usage else {})

    def chunk(delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event(_json(head | {"choices": [choice]}))

    yield chunk({"role": "assistant", "content": ""})
    for number, token in enumerate(completion.tokens, start=1):
        if completion.is_cut and number > len(completion.tokens) // 2:
            raise CutOff
        await pace.wait_for(number, completion.began)
        yield chunk({"content": token})
    yield chunk({}, "stop")
    if has_usage:
        yield _event(_json(head | {"choices": [], "usage": completion.usage()}))
    yield _event(b"[DONE]")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _json(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _error(status: int) -> Response:
    error = {"message": "A fault on request", "type": "server_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status)
