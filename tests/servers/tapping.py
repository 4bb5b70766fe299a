"""The things that tests of the tap share: a provider in bytes, and a backend that passes trace context on to
it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.servers.client import browser
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, headgate
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, route

CALLS = {"calls": [{"stage": "extraction", "panel": "reasoning"}, {"stage": "summary", "panel": "chat"}]}
COMPLETIONS = "/v1/chat/completions"
EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req-1\r\nconnection: close\r\n\r\n"
)


def tapped_route(**more: Any) -> dict[str, Any]:
    return route(**{"source": "tap", "tap": CALLS, **more})


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    """A call as a backend makes it."""
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": 0.5, **more}


def head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1700000000, "model": "m-2024"}


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def completion(text: str) -> dict[str, Any]:
    """The batch answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return head("chat.completion") | {"choices": [choice], "usage": USAGE, "system_fingerprint": "fp"}


def chunks(text: str, size: int = 4) -> list[bytes]:
    """The same as a stream: its events, the last one `[DONE]`."""

    def chunk(choices: list[dict[str, Any]], usage: Any = None) -> bytes:
        said = head("chat.completion.chunk") | {
            "system_fingerprint": "fp",
            "choices": choices,
            "usage": usage,
        }
        return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\n\n"

    def choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [
        chunk(choice({"role": "assistant", "content": "", "refusal": None})),
        *(chunk(choice({"content": piece})) for piece in pieces),
        chunk(choice({}, "stop")),
        chunk([], USAGE),
        b"data: [DONE]\n\n",
    ]


@dataclass
class Provider:
    """A language model: what it says to a prompt, streamed if it is asked to. `asked` has what came."""

    texts: Mapping[str, str] = field(default_factory=lambda: {"extraction": EXTRACTION, "summary": SUMMARY})
    stream: Callable[[Asked, list[bytes]], Awaitable[None]] | None = None
    """Sends a stream in its own way."""
    batch: Mapping[str, Any] = field(default_factory=dict)
    """Batch answers that are not made of the texts."""
    upstream: ScriptedUpstream = field(init=False)

    def __post_init__(self) -> None:
        self.upstream = ScriptedUpstream(self._answer)
        self.bodies: list[dict[str, Any]] = []

    async def _answer(self, asked: Asked) -> None:
        body = json.loads(await asked.read_body())
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"].partition(":")[0]
        text = self.texts[prompt]
        if not body.get("stream"):
            said = self.batch.get(prompt, completion(text))
            await asked.answer(json.dumps(said).encode(), extra=b"x-request-id: req-1\r\n")
            return
        await (self.stream or whole)(asked, chunks(text))


async def whole(asked: Asked, events: list[bytes]) -> None:
    await asked.send(EVENT_STREAM)
    for event in events:
        await asked.send(event)
    asked.writer.close()


Refused = Callable[[Asked, list[bytes]], Awaitable[None]]


@dataclass
class Backend:
    """An upstream that asks its model once a stage, in order, with the trace context that it was given."""

    prompts: Sequence[str] = ("extraction", "summary")
    postprocess: Callable[[str], str] = str
    stream: bool = False
    """True if it asks for streams by itself."""
    attempts: int = 1
    """The number of times that it makes a call that fails."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of its calls."""
    text_of: Callable[[httpx.Response], str] = field(default_factory=lambda: _text)
    passes: Callable[[Asked], dict[str, str]] = field(default_factory=lambda: trace_context)

    def __post_init__(self) -> None:
        self.model_url = ""
        self.answers: list[httpx.Response] = []

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        texts: list[str] = []
        async with browser(self.model_url) as client:
            for prompt in self.prompts:
                reply = await self._ask(client, prompt, self.passes(asked))
                texts.append(self.postprocess(self.text_of(reply)))
        await asked.answer(answer(*texts))

    async def _ask(self, client: httpx.AsyncClient, prompt: str, headers: dict[str, str]) -> httpx.Response:
        more = {**self.more, **({"stream": True} if self.stream else {})}
        for _ in range(self.attempts):
            reply = await client.post(f"/models{COMPLETIONS}", json=chat(prompt, **more), headers=headers)
            self.answers.append(reply)
            if reply.is_success:
                break
        return reply


def trace_context(asked: Asked) -> dict[str, str]:
    """Return what zero-code tracing passes on to every call."""
    names = (b"traceparent", b"tracestate")
    return {name.decode(): (asked.header(name) or b"").decode() for name in names if asked.header(name)}


def _text(reply: httpx.Response) -> str:
    if not reply.is_success:
        return f"Error generating response after 1 attempts: {reply.status_code}"
    if reply.headers["content-type"].startswith("text/event-stream"):
        lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
        choices = [choice for line in lines for choice in json.loads(line)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    return str(reply.json()["choices"][0]["message"]["content"])


@asynccontextmanager
async def tapped(
    directory: Path,
    provider: Provider,
    backend: Backend | None = None,
    *,
    llm: Mapping[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[tuple[Serving, Backend, httpx.AsyncClient]]:
    """A backend behind a Headgate, and its model behind the same one's model port."""
    backend = backend or Backend()
    routes = more.pop("routes", None) or [tapped_route(**more.pop("route", {}))]
    async with provider.upstream.running() as model, ScriptedUpstream(backend).running() as upstream:
        providers = [{"name": "models", "url": model.url, **(llm or {}).get("provider", {})}]
        settings = {"providers": providers, **{k: v for k, v in (llm or {}).items() if k != "provider"}}
        async with headgate(upstream.url, directory, routes=routes, llm=settings, **more) as serving:
            backend.model_url = serving.model_url
            async with browser(serving.url) as client:
                yield serving, backend, client
