"""Providers' own Python packages as a backend's client: through the model port a batch call gives the object
that it gives without it, in each dialect.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import cohere as coheres
import httpx
import ollama
import openai
import pytest
from google import genai
from google.genai import errors as google_errors
from pydantic import BaseModel

from tests.llm import gemini_events as gemini
from tests.llm import test_llm_anthropic as claude
from tests.llm import test_llm_cohere as cohere
from tests.llm import test_llm_ollama as llama
from tests.llm import test_llm_openai as gpt
from tests.llm import test_llm_responses as responses
from tests.llm.test_llm_providers import STREAMS
from tests.llm.test_model_port import counted
from tests.servers.client import read, signed
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.streaming import START, answer
from tests.servers.tapping import Backend, tapped, trace_context

Json = dict[str, Any]
Call = Callable[[str, dict[str, str]], Any]
"""Makes one batch call with a package, from a base URL and headers that every request has."""

ASKED = [{"role": "user", "content": "a"}]


class Dose(BaseModel):
    """A structured output."""

    mg: int


def of_openai(url: str, headers: dict[str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", default_headers=headers, max_retries=0)


def chat(url: str, headers: dict[str, str]) -> Any:
    with of_openai(url, headers) as client:
        return client.chat.completions.create(model="m", messages=ASKED)


def parsed(url: str, headers: dict[str, str]) -> Any:
    with of_openai(url, headers) as client:
        return client.chat.completions.parse(model="m", messages=ASKED, response_format=Dose)


def respond(url: str, headers: dict[str, str]) -> Any:
    with of_openai(url, headers) as client:
        return client.responses.create(model="m", input="a", store=False)


def respond_parsed(url: str, headers: dict[str, str]) -> Any:
    with of_openai(url, headers) as client:
        return client.responses.parse(model="m", input="a", text_format=Dose)


def message(url: str, headers: dict[str, str]) -> Any:
    with anthropic.Anthropic(base_url=url, api_key="k", default_headers=headers, max_retries=0) as client:
        return client.messages.create(model="m", max_tokens=9, messages=ASKED)


def content(url: str, headers: dict[str, str]) -> Any:
    options = genai.types.HttpOptions(base_url=url, headers=headers)
    with genai.Client(api_key="k", http_options=options) as client:
        said = client.models.generate_content(model="m", contents="a")
    return said.model_copy(update={"sdk_http_response": None})  # headers, of which some are the framing's


def cohere_chat(url: str, headers: dict[str, str]) -> Any:
    with httpx.Client(trust_env=False) as http:
        client = coheres.ClientV2("k", base_url=url, httpx_client=http)
        options = {"additional_headers": headers, "max_retries": 0}
        said = [coheres.UserChatMessageV2(content="a")]
        return client.chat(model="m", messages=said, request_options=options)


def llama_chat(url: str, headers: dict[str, str]) -> Any:
    with ollama.Client(host=url, headers=headers) as client:
        return client.chat(model="m", messages=ASKED)


def llama_generate(url: str, headers: dict[str, str]) -> Any:
    with ollama.Client(host=url, headers=headers) as client:
        return client.generate(model="m", prompt="a")


def sse(events: list[Json], *, ends: str = "") -> bytes:
    named = [
        (f"event: {each['type']}\n" if isinstance(each.get("type"), str) else "", each) for each in events
    ]
    return "".join(f"{name}data: {json.dumps(each)}\n\n" for name, each in named).encode() + ends.encode()


def ndjson(lines: list[Json]) -> bytes:
    return "".join(f"{json.dumps(each)}\n" for each in lines).encode()


class Model:
    """A provider with one answer, as a stream and as batch."""

    def __init__(self, stream: bytes, batch: Any, status: int = 200, stream_status: int = 200) -> None:
        self._stream, self._batch = stream, batch
        self._status, self._stream_status = status, stream_status
        self.upstream = ScriptedUpstream(self._answer)
        self.streams: list[bool] = []

    async def _answer(self, asked: Asked) -> None:
        body = json.loads(await asked.read_body())
        is_stream = body.get("stream") is True or b":stream" in asked.target
        self.streams.append(is_stream)
        if is_stream:
            await self._say(asked)
        else:
            await asked.answer(json.dumps(self._batch).encode(), b"%d Said" % self._status)

    async def _say(self, asked: Asked) -> None:
        """Answer a call for a stream."""
        if self._stream_status != 200:
            await asked.answer(json.dumps(self._batch).encode(), b"%d Said" % self._stream_status)
        else:
            await asked.send(head_of(self._stream) + self._stream)


def head_of(stream: bytes) -> bytes:
    kind = b"application/x-ndjson" if stream.startswith(b"{") else b"text/event-stream"
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(stream))


class Client(Backend):
    """An upstream that makes one call with a package, and keeps what came."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self.came: Any = None

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        url, headers = f"{self.model_url}/models", trace_context(asked)
        self.came = await asyncio.to_thread(outcome, self._call, url, headers)
        await asked.answer(answer("a", "b"))


FAILURES = (openai.APIStatusError, anthropic.APIStatusError, google_errors.APIError)


def outcome(call: Call, url: str, headers: dict[str, str]) -> Any:
    """Return the result of a call: its object, or the status of its error."""
    try:
        return call(url, headers)
    except FAILURES as failed:
        status = failed.code if isinstance(failed, google_errors.APIError) else failed.status_code
        return type(failed), status
    except ollama.ResponseError as failed:
        return failed.error, failed.status_code


def of_chat(name: str) -> tuple[bytes, Json]:
    events, batch, _ = STREAMS[name]
    whole = [gpt.HEAD | {"object": "chat.completion.chunk"} | event for event in events]
    return sse(whole, ends="data: [DONE]\n\n"), batch


def of_claude(name: str) -> tuple[bytes, Json]:
    events, batch, _ = claude.ANSWERS[name]
    return sse(events), batch


STRUCTURED = [
    gpt.HEAD | each
    for each in (
        gpt.START,
        gpt.chunk({"content": '{"mg"'}),
        gpt.chunk({"content": ": 5}"}),
        gpt.STOP,
        gpt.USED,
    )
]
CALLED = [
    gpt.HEAD | each
    for each in (
        gpt.chunk({"role": "assistant", "content": None}),
        gpt.dose("call_1", {"name": "dose", "arguments": '{"mg"'}),
        gpt.said_again(": 5}"),
        gpt.chunk({}, reason="tool_calls"),
        gpt.USED,
    )
]
DOSE = {"id": "call_1", "type": "function", "function": {"name": "dose", "arguments": '{"mg": 5}'}}
REFUSED = [
    gpt.HEAD | each
    for each in (
        gpt.chunk({"role": "assistant", "content": "", "refusal": None}),
        gpt.chunk({"refusal": "I "}),
        gpt.chunk({"refusal": "can't."}),
        gpt.STOP,
        gpt.USED,
    )
]
WHOLE = responses.response(responses.THOUGHT, responses.message('{"mg": 5}'))
FUNCTION = {"functionCall": {"name": "dose", "args": {"mg": 5}}}
THOUGHT, TEXT = {"text": "Hmm", "thought": True}, {"text": '{"mg": 5}'}

OFTEN_MET = ("Groq", "OpenRouter", "Mistral, thinking", "Perplexity", "DeepSeek", "vLLM", "llama.cpp")
"""Of `STREAMS`, of which each is tried without a server: these also through the package."""

COHERE_THOUGHTS = (
    cohere.answer(
        "MAX_TOKENS", content=[{"type": "thinking", "thinking": "Hmm"}, {"type": "text", "text": "So"}]
    ),
    *cohere.content(0, "thinking", "Hm", "m"),
    *cohere.content(1, "text", "So"),
    cohere.end("MAX_TOKENS"),
)
COHERE_TOOLS = (
    cohere.answer("TOOL_CALL", tool_plan="I will.", tool_calls=[cohere.call('{"mg":5}')]),
    cohere.says("tool-plan-delta", tool_plan="I "),
    cohere.says("tool-plan-delta", tool_plan="will."),
    *cohere.tool(0, '{"mg":', "5}"),
    cohere.end("TOOL_CALL"),
)
"""Batch answers, and the events of their streams."""

CASES: dict[str, tuple[str, Call, bytes, Any]] = {
    **{f"openai, chat of {name}": ("openai", chat, *of_chat(name)) for name in OFTEN_MET},
    "openai, tools": (
        "openai",
        chat,
        sse(CALLED, ends="data: [DONE]\n\n"),
        gpt.completion(gpt.choice({"content": None, "tool_calls": [DOSE]}, "tool_calls")),
    ),
    "openai, structured output": (
        "openai",
        parsed,
        sse(STRUCTURED, ends="data: [DONE]\n\n"),
        gpt.completion(gpt.choice({"content": '{"mg": 5}'})),
    ),
    "openai, refusal": (
        "openai",
        chat,
        sse(REFUSED, ends="data: [DONE]\n\n"),
        gpt.completion(gpt.choice({"content": None, "refusal": "I can't."})),
    ),
    "openai, response": (
        "openai",
        respond,
        sse([*responses.said("{", '"mg": 5}'), responses.ends("completed", WHOLE)]),
        WHOLE,
    ),
    "openai, structured response": (
        "openai",
        respond_parsed,
        sse([*responses.said("{", '"mg": 5}'), responses.ends("completed", WHOLE)]),
        WHOLE,
    ),
    **{f"anthropic, {name}": ("anthropic", message, *of_claude(name)) for name in claude.ANSWERS},
    "google-genai, thoughts and structured output": (
        "gemini",
        content,
        sse(
            [
                gemini.event(THOUGHT),
                gemini.event({"text": '{"mg"'}),
                gemini.event({"text": ": 5}"}, reason="STOP"),
            ]
        ),
        gemini.event(THOUGHT, TEXT, reason="STOP"),
    ),
    "google-genai, tools": (
        "gemini",
        content,
        sse([gemini.event(FUNCTION), gemini.event({"text": ""}, reason="STOP")]),
        gemini.event(FUNCTION, reason="STOP"),
    ),
    **{
        f"cohere, {name}": ("cohere", cohere_chat, sse([cohere.start(), *events]), batch)
        for name, (batch, *events) in (("thoughts", COHERE_THOUGHTS), ("tools", COHERE_TOOLS))
    },
    "ollama, chat with thoughts": (
        "ollama",
        llama_chat,
        ndjson([llama.line(thinking="Hm"), llama.line("So"), llama.last(".")]),
        llama.last(".") | {"message": {"role": "assistant", "content": "So.", "thinking": "Hm"}},
    ),
    "ollama, tools": (
        "ollama",
        llama_chat,
        ndjson([llama.line(tool_calls=[llama.DOSE]), llama.last()]),
        llama.last(tool_calls=[llama.DOSE]),
    ),
    "ollama, a last line without its end": (
        "ollama",
        llama_chat,
        ndjson([llama.line("So"), llama.last(".")]).removesuffix(b"\n"),
        llama.last(".") | {"message": {"role": "assistant", "content": "So."}},
    ),
    "ollama, generate": (
        "ollama",
        llama_generate,
        ndjson([llama.generated("He"), llama.generated("y", done=True, done_reason="stop")]),
        llama.generated("Hey", done=True, done_reason="stop"),
    ),
}


async def through(directory: Path, model: Model, api: str, call: Call) -> tuple[Any, dict[str, int]]:
    """Return the call's result through the model port, and how it was counted."""
    backend = Client(call)
    llm = {"provider": {"api": api}}
    async with tapped(directory, model, backend, llm=llm) as (serving, _, client):
        await read(client, START, signed())
        results = await counted(client, serving.admin_url)
    return backend.came, results


@pytest.mark.parametrize("case", CASES)
async def test_a_package_gets_the_object_that_it_gets_without_us(tmp_path: Path, case: str) -> None:
    api, call, stream, batch = CASES[case]
    model = Model(stream, batch)
    async with model.upstream.running() as direct:
        expected = await asyncio.to_thread(outcome, call, direct.url, {})
    model = Model(stream, batch)

    came, results = await through(tmp_path, model, api, call)

    assert not isinstance(expected, tuple), expected
    assert came == expected
    assert results == {"tapped": 1}
    assert model.streams == [True]


def type_of(path: str, **asked: Any) -> Call:
    """Return a call that says of which type its answer is."""

    def call(url: str, headers: dict[str, str]) -> str:
        reply = httpx.post(url + path, json=asked, headers=headers, trust_env=False)
        return str(reply.headers["content-type"])

    return call


TYPED: dict[str, tuple[Call, str]] = {
    "google-genai, tools": (
        type_of("/v1beta/models/m:generateContent", contents=[{"parts": [{"text": "a"}]}]),
        "application/json; charset=UTF-8",
    ),
    "ollama, tools": (
        type_of("/api/chat", model="m", messages=ASKED, stream=False),
        "application/json; charset=utf-8",
    ),
    "openai, tools": (type_of("/v1/chat/completions", model="m", messages=ASKED), "application/json"),
}


@pytest.mark.parametrize("case", TYPED)
async def test_an_answer_says_its_charset_where_the_providers_do(tmp_path: Path, case: str) -> None:
    """Clients that decode a text themselves would otherwise guess it."""
    api, _, stream, batch = CASES[case]
    call, content_type = TYPED[case]

    came, results = await through(tmp_path, Model(stream, batch), api, call)

    assert came == content_type
    assert results == {"tapped": 1}


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
QUOTA = {
    "error": {"code": "insufficient_quota", "message": "no", "type": "insufficient_quota", "param": None}
}
GOOGLES = {"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}

FAILING: dict[str, tuple[str, Call, bytes, Any, int]] = {
    "anthropic, overloaded": ("anthropic", message, sse([claude.start(), OVERLOADED]), OVERLOADED, 529),
    "openai, chat": ("openai", chat, sse([{"error": {"code": 503, "message": "no"}}]), {"error": {}}, 503),
    "openai, response": ("openai", respond, sse([*responses.said(), {"type": "error"} | QUOTA]), QUOTA, 429),
    "google-genai": ("gemini", content, sse([gemini.event({"text": "a"}), GOOGLES]), GOOGLES, 503),
    "ollama": ("ollama", llama_chat, ndjson([llama.line("a"), {"error": "no"}]), {"error": "no"}, 500),
}


@pytest.mark.parametrize("case", FAILING)
@pytest.mark.parametrize("in_stream", [True, False], ids=["in the stream", "as the status"])
async def test_a_package_raises_the_error_that_it_raises_without_us(
    tmp_path: Path, case: str, *, in_stream: bool
) -> None:
    """An error of the provider's, in the stream or instead of it, is the batch call's own."""
    api, call, stream, batch, status = FAILING[case]
    model = Model(stream, batch, status)
    async with model.upstream.running() as direct:
        expected = await asyncio.to_thread(outcome, call, direct.url, {})
    model = Model(stream, batch, status, 200 if in_stream else status)

    came, results = await through(tmp_path, model, api, call)

    assert expected[1] == status
    assert came == expected
    assert results == {"failed": 1}


PLAIN = (
    "openai, tools",
    "openai, response",
    "anthropic, tools",
    "google-genai, thoughts and structured output",
    "ollama, chat with thoughts",
    "cohere, tools",
)
"""One case of each dialect, to which faults are added."""


class Faulty(Model):
    """A provider whose streams have a fault, and whose batch answers have none."""

    def __init__(self, fault: str, stream: bytes, batch: Any) -> None:
        super().__init__(stream, batch)
        self._fault = fault

    async def _say(self, asked: Asked) -> None:
        if self._fault == "cut":
            half = self._stream[: len(self._stream) * 2 // 3]
            await asked.send(head_of(self._stream) + half)
            asked.writer.close()
        elif self._fault == "failing":
            await asked.answer(b'{"error": "no"}', b"500 No")
        elif self._fault == "refused":
            await asked.answer(b'{"error": "no streams"}', b"400 No")
        elif self._fault == "no stream":
            await asked.answer(b'{"error": "streaming is not enabled"}')
        else:
            await asked.answer(json.dumps(self._batch).encode())


FAULTS = {"cut": "lost", "failing": "lost", "refused": "batch", "no stream": "lost", "batch": "batch"}
"""Faults of a stream, and how the call is counted."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("case", PLAIN)
async def test_a_package_notices_no_fault_of_a_stream(tmp_path: Path, case: str, fault: str) -> None:
    """The call is asked again as batch, once, or was answered as batch already."""
    api, call, stream, batch = CASES[case]
    model = Model(stream, batch)
    async with model.upstream.running() as direct:
        expected = await asyncio.to_thread(outcome, call, direct.url, {})
    model = Faulty(fault, stream, batch)

    came, results = await through(tmp_path, model, api, call)

    assert not isinstance(expected, tuple), expected
    assert came == expected
    assert results == {FAULTS[fault]: 1}
    assert model.streams == ([True] if fault == "batch" else [True, False])
