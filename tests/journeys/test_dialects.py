"""A run read by others' clients: `openai`, `ai` and `@ag-ui/client`, and openai for Python."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from tests.servers.client import browser, signed
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, flag_document, gated
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, answering, route

CLIENTS = Path(__file__).parents[1] / "clients"
NODE = Path(sys.executable).with_name("node")
DEADLINE_S = 120
PATH = "/v1/chat/completions"
FORMATS = {"openai": "openai", "ai": "ai-sdk", "ag-ui": "ag-ui"}
PACKAGES = {"openai": "openai", "ai": "ai", "ag-ui": "@ag-ui/client"}
LIBRARIES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not (CLIENTS / "node_modules" / package).is_dir(), reason="npm ci --prefix tests/clients"
        ),
    )
    for name, package in PACKAGES.items()
]


class Halfway:
    """An upstream that sends the half of its answer, and the rest when told; or breaks off there."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.breaks = breaks
        self.release = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        body = answer()
        half = body.index(b'"summary"')
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        await asked.send(head + body[:half])
        if self.breaks:
            asked.writer.close()
        else:
            await self.release.wait()
            await asked.send(body[half:])


@asynccontextmanager
async def house(script: Any, directory: Path, **more: Any) -> AsyncIterator[tuple[ScriptedUpstream, Serving]]:
    chat = route(match=f"POST {PATH}", stream_path=f"{PATH}/stream", replay="never")
    async with gated(script, directory, routes=[chat], **more) as (upstream, serving):
        yield upstream, serving


async def reading(
    library: str,
    base: str,
    mode: str = "",
    path: str = PATH,
    has_text: asyncio.Event | None = None,
    **more: str,
) -> dict[str, Any]:
    """Return what a library makes of a stream; `has_text` is set with the first.

    The dialect is a parameter of `Accept`, or of the query.
    """
    if library == "openai":
        url, headers = f"{base}/v1", signed(accept="text/event-stream;dialect=openai", **more)
    else:
        url, headers = f"{base}{path}?dialect={FORMATS[library]}", signed(**more)
    client = await asyncio.create_subprocess_exec(
        *(str(NODE), "dialects.mjs", library, url, json.dumps(headers), mode),
        cwd=CLIENTS,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert client.stdout is not None
            async for said in client.stdout:
                if said == b"text\n" and has_text is not None:
                    has_text.set()
            await client.wait()
    finally:
        if client.returncode is None:
            client.kill()
    got: dict[str, Any] = json.loads(said)
    return got


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_run_arrives_whole(tmp_path: Path, library: str) -> None:
    """Reasoning as reasoning, chat as the answer, and an end that the library calls a good one."""
    async with house(answering(answer()), tmp_path) as (_, serving):
        got = await reading(library, serving.url)

    assert (got["reasoning"], got["text"], got["ended"]) == (EXTRACTION, SUMMARY, "finished")


@pytest.mark.parametrize("library", LIBRARIES)
async def test_an_answer_that_breaks_off_is_an_error_and_never_an_end(tmp_path: Path, library: str) -> None:
    """The text that came is a beginning of the whole."""
    async with house(Halfway(breaks=True), tmp_path) as (_, serving):
        got = await reading(library, serving.url)

    assert got["ended"].startswith("error: ")
    assert got["reasoning"] and EXTRACTION.startswith(got["reasoning"]) and got["text"] == ""


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_refusal_is_the_apis_own(tmp_path: Path, library: str) -> None:
    """Before any text it has its status."""
    async with house(answering(b'{"detail":"no"}', b"403 Forbidden"), tmp_path) as (_, serving):
        got = await reading(library, serving.url)

    assert got["ended"].startswith("error: ")
    assert got["text"] == got["reasoning"] == ""


@pytest.mark.parametrize("library", LIBRARIES)
async def test_who_leaves_and_asks_again_gets_the_whole_run_and_the_api_is_asked_once(
    tmp_path: Path, library: str
) -> None:
    """The run goes on without a reader; the same request joins it, from its beginning."""
    halfway = Halfway()
    async with house(halfway, tmp_path) as (upstream, serving):
        left = await reading(library, serving.url, "abort")
        joined = asyncio.Event()
        back = asyncio.create_task(reading(library, serving.url, has_text=joined))
        async with asyncio.timeout(DEADLINE_S):
            await joined.wait()
        halfway.release.set()
        got = await back
        calls = len(upstream.asked)

    assert left["ended"] == "aborted"
    assert EXTRACTION.startswith(left["reasoning"]) and left["text"] == ""
    assert (got["reasoning"], got["text"], got["ended"]) == (EXTRACTION, SUMMARY, "finished")
    assert calls == 1


@pytest.mark.parametrize("library", [LIBRARIES[1]])
async def test_a_chat_resumes_its_stream_by_the_runs_address(tmp_path: Path, library: str) -> None:
    """`reconnectToStream` of the AI SDK, after a reload."""
    run = str(uuid4())
    async with house(answering(answer()), tmp_path) as (_, serving):
        await reading(library, serving.url, **{"headgate-run": run})
        got = await reading(library, serving.url, "resume", f"/_headgate/runs/{run}/events")

    assert (got["reasoning"], got["text"], got["ended"]) == (EXTRACTION, SUMMARY, "finished")


@pytest.mark.parametrize("breaks", [False, True])
async def test_openai_for_python_reads_it(tmp_path: Path, breaks: bool) -> None:
    """To its end, or to the error."""
    script = Halfway(breaks=True) if breaks else answering(answer())
    text = ""
    async with house(script, tmp_path) as (_, serving), httpx.AsyncClient(trust_env=False) as http:
        client = openai.AsyncOpenAI(
            api_key="none",
            base_url=f"{serving.url}/v1",
            http_client=http,
            max_retries=0,
            default_headers=signed(accept="text/event-stream;dialect=openai"),
        )
        try:
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            ended = chunk.choices[0].finish_reason
        except openai.APIError as exc:
            ended = type(exc).__name__

    assert (text, ended) == (("", "APIError") if breaks else (SUMMARY, "stop"))


@pytest.mark.parametrize("dialect", FORMATS.values())
async def test_a_dialect_opens_nobody_elses_run(tmp_path: Path, dialect: str) -> None:
    """Neither by the run's address nor by the id of its events; the answer is that for no run."""
    run = str(uuid4())
    asks: dict[str, Any] = {"params": {"dialect": dialect}}
    async with house(answering(answer()), tmp_path, attach_wait_s=0.1) as (upstream, serving):
        async with browser(serving.url) as client:
            named = signed(**{"headgate-run": run})
            await client.post(PATH, headers=named, content=b"{}", **asks)
            cursor = {"last-event-id": f"{run}:1"}
            found = [
                await client.get(f"/_headgate/runs/{run}/events", headers=signed("bob"), **asks),
                await client.get(f"/_headgate/runs/{run}/events", **asks),
                await client.post(PATH, headers=signed("bob", **cursor), content=b"{}", **asks),
                await client.get(f"{PATH}/stream", headers=signed("bob", **cursor), **asks),
            ]
        calls = len(upstream.asked)

    assert [answered.status_code for answered in found] == [404] * 4
    assert not any(SUMMARY[:20] in answered.text for answered in found)
    assert calls == 1


async def test_only_who_asks_for_a_dialect_gets_one(tmp_path: Path) -> None:
    """Another value is the API's own business, and the header names the AI SDK's stream alone."""
    async with house(answering(answer()), tmp_path) as (upstream, serving), browser(serving.url) as client:
        said = {}
        for value in ("none", "ai-sdk", "openai"):
            found = await client.post(PATH, params={"dialect": value}, headers=signed(), content=b"{}")
            said[value] = found.headers.get("x-vercel-ai-ui-message-stream"), found.text

    # What Headgate has acted on is not for the API.
    assert [asked.target.decode() for asked in upstream.asked] == [f"{PATH}?dialect=none", PATH, PATH]
    assert '"type":"stream_done"' in said["none"][1] and "[DONE]" not in said["none"][1]
    assert [header for header, _ in said.values()] == [None, "v1", None]
    assert all(said[value][1].endswith("data: [DONE]\n\n") for value in ("ai-sdk", "openai"))


async def test_in_the_batch_arm_the_same_stream_comes_when_the_answer_does(tmp_path: Path) -> None:
    """For a client that accepts nothing else: it can read nothing else."""
    async with (
        house(answering(answer()), tmp_path, flags=flag_document(0)) as (upstream, serving),
        browser(serving.url) as client,
    ):
        found = await client.post(PATH, params={"dialect": "openai"}, headers=signed(), content=b"{}")

    assert found.text.endswith("data: [DONE]\n\n")
    assert [asked.target.decode() for asked in upstream.asked] == [f"{PATH}?dialect=openai"]


@pytest.mark.parametrize("dialect", FORMATS.values())
async def test_an_eventsource_that_comes_back_after_the_end_asks_for_nothing_twice(
    tmp_path: Path, dialect: str
) -> None:
    """The end has an id, and nothing before it; with another one the run is read from its beginning."""
    asks = {"params": {"dialect": dialect}}
    async with house(answering(answer()), tmp_path) as (upstream, serving), browser(serving.url) as client:
        first = await client.get(f"{PATH}/stream", headers=signed(), **asks)
        (cursor,) = [line[4:] for line in first.text.split("\n") if line.startswith("id: ")]
        end = first.text[first.text.index("id: ") :]
        back = {}
        for name, path in (("again", f"{PATH}/stream"), ("run", f"/_headgate/runs/{cursor[:36]}/events")):
            found = await client.get(path, headers=signed(**{"last-event-id": cursor}), **asks)
            earlier = await client.get(path, headers=signed(**{"last-event-id": f"{cursor[:36]}:1"}), **asks)
            back[name] = found.status_code, found.text, earlier.text.endswith(end)
        calls = len(upstream.asked)

    assert back == {"again": (204, "", True), "run": (204, "", True)}
    assert calls == 1
