"""Providers' own packages for Node as a backend's client: through the model port a batch call gives the
object that it gives without it. One process of Node makes all calls, `tests/clients/models.mjs`.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.llm import test_llm_bedrock as amazon
from tests.llm import test_llm_clients as python
from tests.llm import test_llm_cohere as cohere
from tests.llm.test_llm_clients import Client, Model, of_chat, sse
from tests.llm.test_model_port import counted
from tests.servers.bedrock import ROLE, Bedrock
from tests.servers.client import read, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import START, answer
from tests.servers.tapping import tapped, trace_context

Json = dict[str, Any]

CLIENTS = Path(__file__).parents[1] / "clients"
NODE = Path(sys.executable).with_name("node")
PATIENCE_S = 120.0
"""Seconds for one call; the first one of a package loads it."""

PACKAGES = (
    "openai",
    "@anthropic-ai/sdk",
    "@google/genai",
    "ollama",
    "cohere-ai",
    "@mistralai/mistralai",
    "@aws-sdk/client-bedrock-runtime",
)
ABSENT = [package for package in PACKAGES if not (CLIENTS / "node_modules" / package).is_dir()]
if ABSENT:
    pytest.skip(f"npm ci --prefix tests/clients ({', '.join(ABSENT)})", allow_module_level=True)

KEY = {"accessKeyId": "AKIDCALLER", "secretAccessKey": "caller's"}
ROLES_KEY = {
    "accessKeyId": ROLE["AWS_ACCESS_KEY_ID"],
    "secretAccessKey": ROLE["AWS_SECRET_ACCESS_KEY"],
    "sessionToken": ROLE["AWS_SESSION_TOKEN"],
}


@pytest.fixture(scope="module")
def node() -> Iterator["subprocess.Popen[str]"]:
    command = [str(NODE), "--no-deprecation", str(CLIENTS / "models.mjs")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process
        assert process.stdin is not None
        process.stdin.close()  # it has read its last call


@pytest.fixture(autouse=True)
def role(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headgate's own credentials for AWS."""
    for name, value in ROLE.items():
        monkeypatch.setenv(name, value)


def made(node: "subprocess.Popen[str]", call: str, url: str, headers: dict[str, str]) -> Json:
    """Return the result of a call."""
    assert node.stdin is not None and node.stdout is not None
    said = {"call": call, "url": url, "headers": headers, "key": KEY if headers else ROLES_KEY}
    node.stdin.write(json.dumps(said) + "\n")
    node.stdin.flush()
    return dict(json.loads(node.stdout.readline()))


class NodeClient(Client):
    """An upstream that makes one call with a package."""

    def __init__(self, node: "subprocess.Popen[str]", call: str) -> None:
        super().__init__(lambda url, headers: made(node, call, url, headers))

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        url, headers = f"{self.model_url}/models", trace_context(asked)
        self.came = await asyncio.to_thread(self._call, url, headers)
        await asked.answer(answer("a", "b"))


Provider = Model | Bedrock
Case = tuple[str, str, Callable[[], Provider]]
"""`api`, the call, and a provider of which it is asked."""


def of_python(call: str, name: str) -> Case:
    """A case of the Python packages."""
    api, _, stream, batch = python.CASES[name]
    return api, call, lambda: Model(stream, batch)


def of_mistral(name: str) -> Case:
    stream, batch = of_chat(name)
    return "openai", "mistral", lambda: Model(stream, batch)


def of_cohere(batch: Json, *events: Json) -> Case:
    return "cohere", "cohere", lambda: Model(sse([cohere.start(), *events]), batch)


def of_amazon(name: str) -> Case:
    stream, batch, _ = amazon.CONVERSED[name]
    return "bedrock", "bedrock", lambda: Bedrock(stream, batch)


THOUGHTS = "thoughts, whose last signature counts"
CASES: dict[str, Case] = {
    "openai, tools": of_python("openai.chat", "openai, tools"),
    "openai, structured output": of_python("openai.parsed", "openai, structured output"),
    "openai, refusal": of_python("openai.chat", "openai, refusal"),
    "openai, reasoning": of_python("openai.chat", "openai, chat of DeepSeek"),
    "openai, response": of_python("openai.respond", "openai, response"),
    "anthropic, tools": of_python("anthropic", "anthropic, tools"),
    "anthropic, reasoning": of_python("anthropic", f"anthropic, {THOUGHTS}"),
    "gemini, reasoning": of_python("gemini", "google-genai, thoughts and structured output"),
    "gemini, tools": of_python("gemini", "google-genai, tools"),
    "ollama, reasoning": of_python("ollama.chat", "ollama, chat with thoughts"),
    "ollama, tools": of_python("ollama.chat", "ollama, tools"),
    "ollama, generate": of_python("ollama.generate", "ollama, generate"),
    "cohere, reasoning": of_cohere(*python.COHERE_THOUGHTS),
    "cohere, tools": of_cohere(*python.COHERE_TOOLS),
    "mistral, reasoning": of_mistral("Mistral, thinking"),
    "mistral, tools": of_mistral("Mistral, tools without an index"),
    "bedrock, text": of_amazon("text"),
    "bedrock, tools": of_amazon("tools"),
    "bedrock, reasoning": of_amazon("reasoning"),
}


async def through(
    directory: Path, provider: Provider, api: str, backend: NodeClient
) -> tuple[Json, dict[str, int]]:
    """Return the call's result through the model port, and how it was counted."""
    llm = {"provider": {"api": api}}
    async with tapped(directory, provider, backend, llm=llm) as (serving, _, client):
        await read(client, START, signed())
        results = await counted(client, serving.admin_url)
    return backend.came, results


async def direct(provider: Provider, node: "subprocess.Popen[str]", call: str) -> Json:
    async with provider.upstream.running() as upstream:
        return await asyncio.to_thread(made, node, call, upstream.url, {})


@pytest.mark.parametrize("case", CASES)
async def test_a_package_gets_the_object_that_it_gets_without_us(
    tmp_path: Path, node: "subprocess.Popen[str]", case: str
) -> None:
    api, call, provider = CASES[case]
    async with asyncio.timeout(PATIENCE_S):
        expected = await direct(provider(), node, call)
        came, results = await through(tmp_path, provider(), api, NodeClient(node, call))

    assert expected.keys() == {"came"}, expected
    assert came == expected
    assert results == {"tapped": 1}


def failing(name: str, call: str) -> Case:
    api, _, stream, batch, status = python.FAILING[name]
    return api, call, lambda: Model(stream, batch, status)


def throttled() -> Bedrock:
    return Bedrock([*amazon.TEXT[:2], amazon.THROTTLES], amazon.BATCH, status=amazon.THROTTLED)


FAILING: dict[str, Case] = {
    "openai": failing("openai, chat", "openai.chat"),
    "openai, response": failing("openai, response", "openai.respond"),
    "anthropic": failing("anthropic, overloaded", "anthropic"),
    "gemini": failing("google-genai", "gemini"),
    "ollama": failing("ollama", "ollama.chat"),
    "mistral": failing("openai, chat", "mistral"),
    "bedrock": ("bedrock", "bedrock", throttled),
}


@pytest.mark.parametrize("case", FAILING)
async def test_a_package_raises_the_error_that_it_raises_without_us(
    tmp_path: Path, node: "subprocess.Popen[str]", case: str
) -> None:
    """An error in the stream, which the batch call gets as well."""
    api, call, provider = FAILING[case]
    async with asyncio.timeout(PATIENCE_S):
        expected = await direct(provider(), node, call)
        came, results = await through(tmp_path, provider(), api, NodeClient(node, call))

    assert isinstance(expected["failed"]["status"], int), expected
    assert came == expected
    assert results == {"failed": 1}
