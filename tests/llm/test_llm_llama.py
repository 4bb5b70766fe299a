"""A real llama.cpp server: a tapped call gives what the batch call gives, in three dialects."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.llm.test_llm_clients import Call, Client, outcome
from tests.llm.test_model_port import counted
from tests.servers.client import read, signed
from tests.servers.llama_server import llama_server
from tests.servers.ollama_server import OllamaServer
from tests.servers.streaming import START
from tests.servers.tapping import tapped

ASKED = [{"role": "user", "content": "a"}]
SCHEMA = {"type": "object", "properties": {"word": {"enum": ["fever and cough"]}}, "required": ["word"]}
FORM = {"type": "json_schema", "json_schema": {"name": "said", "schema": SCHEMA, "strict": True}}
DIFFER = {"id", "created", "created_at", "completed_at", "timings", "prompt_tokens_details"}
DIFFER |= {"input_tokens_details", "cache_read_input_tokens", "input_tokens"}
"""Times, names, and how much of the prompt the server still knew from the call before."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(tmp_path_factory.mktemp("llama")) as url:
        yield url


def of_openai(url: str, headers: dict[str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", default_headers=headers, max_retries=0)


def chat(url: str, headers: dict[str, str], **more: Any) -> Any:
    with of_openai(url, headers) as client:
        return client.chat.completions.create(
            model="m", messages=ASKED, seed=1, temperature=0, max_tokens=60, **more
        )


def structured(url: str, headers: dict[str, str]) -> Any:
    return chat(url, headers, response_format=FORM)


def respond(url: str, headers: dict[str, str]) -> Any:
    with of_openai(url, headers) as client:
        return client.responses.create(model="m", input="a", temperature=0, max_output_tokens=24, store=False)


def message(url: str, headers: dict[str, str]) -> Any:
    with anthropic.Anthropic(base_url=url, api_key="k", default_headers=headers, max_retries=0) as client:
        return client.messages.create(
            model="m", max_tokens=24, messages=ASKED, extra_body={"temperature": 0, "seed": 1}
        )


def same(came: Any) -> Any:
    """An answer without what differs from call to call."""
    if isinstance(came, dict):
        return {name: same(value) for name, value in came.items() if name not in DIFFER}
    return [same(each) for each in came] if isinstance(came, list) else came


class Running:
    """A provider that runs already."""

    def __init__(self, url: str) -> None:
        self.upstream, self._url = self, url

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(url=self._url)


CALLS: dict[str, tuple[str, Call]] = {
    "chat": ("openai", chat),
    "structured output": ("openai", structured),
    "response": ("openai", respond),
    "message": ("anthropic", message),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_tapped_call_gives_what_the_batch_call_gives(tmp_path: Path, llama: str, name: str) -> None:
    api, call = CALLS[name]
    calls = [{"stage": "extraction", **({"at": "$.word"} if name == "structured output" else {})}]
    backend = Client(call)
    expected = await asyncio.to_thread(outcome, call, llama, {})
    settings = {"provider": {"api": api}}
    async with tapped(tmp_path, Running(llama), backend, llm=settings, route={"tap": {"calls": calls}}) as (
        serving,
        _,
        client,
    ):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert results == {"tapped": 1}
    assert same(json.loads(backend.came.to_json())) == same(json.loads(expected.to_json()))
    shown = "".join(event.get("content", "") for event in stream.events)
    assert shown.startswith("fever and cough" if name == "structured output" else text_of(backend.came))


def text_of(came: Any) -> str:
    """The text of an answer of any of the three."""
    if hasattr(came, "choices"):
        return str(came.choices[0].message.content)
    return str(came.output_text if hasattr(came, "output_text") else came.content[0].text)


def ollama_chat(url: str, headers: dict[str, str]) -> Any:
    options = {"temperature": 0, "seed": 1, "num_predict": 24}
    with ollama.Client(host=url, headers=headers) as client:
        return client.chat(model="m", messages=ASKED, options=options)


async def test_ollamas_package_gets_the_same_from_a_server_of_its_shape(tmp_path: Path, llama: str) -> None:
    """The words are llama.cpp's, as they are Ollama's."""
    async with OllamaServer(llama).upstream.running() as direct:
        expected = await asyncio.to_thread(outcome, ollama_chat, direct.url, {})
    provider, backend = OllamaServer(llama), Client(ollama_chat)
    llm = {"provider": {"api": "ollama"}}
    async with tapped(tmp_path, provider, backend, llm=llm) as (serving, _, client):
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)

    assert results == {"tapped": 1}
    assert provider.streams == [True]
    assert expected.message.content and backend.came == expected
    shown = "".join(event.get("content", "") for event in stream.events)
    assert shown.startswith(expected.message.content)
