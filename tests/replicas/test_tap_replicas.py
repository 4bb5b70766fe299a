"""Many runs of many users at once, their model calls at any replica: each text comes to its own run."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.servers.client import Stream, browser, eventually, read, scrape, signed
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.streaming import Served, served
from tests.servers.tapping import (
    CALLS,
    COMPLETIONS,
    EVENT_STREAM,
    chat,
    chunks,
    completion,
    tapped_route,
    trace_context,
)
from tests.servers.valkey_server import valkey

REPLICAS = 3
RUNS = 200
USERS = 20
WORDS = 40
STAGES = ("extraction", "summary")
ROUTES = ("start", "traced")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PREFIX = ("equal", "suffix", "unshown")
KEY = "a key for the tests that is long enough"


def text_of(prompt: str) -> str:
    """Each of its words says whose it is: `summary:17` has `summary.17.0 summary.17.1 …`."""
    return " ".join(f"{prompt.replace(':', '.')}.{number}" for number in range(WORDS))


async def provider(asked: Asked) -> None:
    """A seeded model: the same text to the same prompt, streamed or whole."""
    body = json.loads(await asked.read_body())
    text = text_of(body["messages"][-1]["content"])
    if not body.get("stream"):
        await asked.answer(json.dumps(completion(text)).encode())
        return
    await asked.send(EVENT_STREAM)
    for event in chunks(text, size=6):
        await asked.send(event)
        await asyncio.sleep(0)
    asked.writer.close()


@dataclass
class Backend:
    """Asks its model for both stages at once, each through any of `model_urls`; answers with all it was
    told."""

    model_urls: list[str] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        case = asked.target.split(b"/")[3].decode()
        await asked.answer(await self.answer(case, trace_context(asked)))

    async def answer(self, case: str, headers: dict[str, str]) -> bytes:
        # A client of its own: httpx's pool at times closes a connection that it has just given out.
        async with browser() as client:
            replies = [await self._ask(client, f"{stage}:{case}", headers) for stage in STAGES]
        told = dict(zip(STAGES, replies, strict=True))
        texts = {stage: reply["choices"][0]["message"]["content"] for stage, reply in told.items()}
        return json.dumps({"result": texts, "told": told}, sort_keys=True).encode()

    async def _ask(
        self, client: httpx.AsyncClient, prompt: str, headers: dict[str, str]
    ) -> dict[str, list[dict[str, dict[str, str]]]]:
        url = random.choice(self.model_urls) + COMPLETIONS
        reply = (await client.post(url, json=chat(prompt), headers=headers)).raise_for_status()
        assert reply.headers["content-type"] == "application/json"
        told: dict[str, list[dict[str, dict[str, str]]]] = reply.json()
        return told


COUNTED = ("headgate_tap_calls_total{", "headgate_parity_total{")


async def counts(client: httpx.AsyncClient, found: list[tuple[Served, str]]) -> Counter[str]:
    """Calls and texts of all replicas together, by what became of them."""
    counted: Counter[str] = Counter()
    for at, _ in found:
        figures = await scrape(client, at.admin_url)
        counted += Counter(
            {sample: int(value) for sample, value in figures.items() if sample.startswith(COUNTED)}
        )
    return counted


async def are_all_counted(client: httpx.AsyncClient, found: list[tuple[Served, str]]) -> bool:
    """Each call and each text, whatever became of it."""
    counted = await counts(client, found)
    return all(
        sum(count for sample, count in counted.items() if sample.startswith(name)) >= RUNS * len(STAGES)
        for name in COUNTED
    )


def _route(name: str, match: str) -> dict[str, Any]:
    path = f"/api/cases/{{case_id}}/{name}"
    # A machine that is busy with 200 runs may have no text for a reader for longer than a test waits.
    more = {"stream_path": None, "max_runs": RUNS, "heartbeat_s": 2}
    return tapped_route(name=name, match=f"POST {path}", tap={**CALLS, "match": match}, **more)


@asynccontextmanager
async def replicas(directory: Path, upstream: str, model: str) -> AsyncIterator[list[tuple[Served, str]]]:
    """Each with the URL of its model port."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey(directory))
        found = []
        for number in range(REPLICAS):
            folder = directory / str(number)
            folder.mkdir()
            listen = f"127.0.0.1:{free_port()}"
            settings = {
                "event_log": {"valkey": {"url": store.url, "key": KEY}},
                "routes": [_route("start", "tracestate"), _route("traced", "traceparent")],
                "llm": {"listen": listen, "providers": [{"name": "models", "url": model}]},
            }
            at = await stack.enter_async_context(served(upstream, folder, **settings))
            found.append((at, f"http://{listen}/models"))
        yield found


async def test_no_token_comes_to_another_run_and_no_answer_changes(tmp_path: Path) -> None:
    """200 runs of 20 users at three replicas, all of one client trace, known by a member or by a trace id.

    Every byte that a viewer sees is its own case's, and what the backend says is what it says with no proxy
    before it and none behind.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(browser())
        model = await stack.enter_async_context(ScriptedUpstream(provider).running())
        backend = Backend()
        upstream = await stack.enter_async_context(ScriptedUpstream(backend).running())
        found = await stack.enter_async_context(replicas(tmp_path, upstream.url, model.url))
        backend.model_urls = [url for _, url in found]

        async def run(case: int) -> Stream:
            at, _ = found[case % REPLICAS]
            path = f"/api/cases/{case}/{ROUTES[case % 2]}"
            return await read(client, at.url + path, signed(f"user{case % USERS}", traceparent=PARENT))

        streams = await asyncio.gather(*(run(case) for case in range(RUNS)))
        # A call is counted when all is done that follows its answer; who asked does not wait for that.
        await eventually(lambda: are_all_counted(client, found), within_s=30)
        counted = await counts(client, found)
        backend.model_urls = [model.url]
        direct = [await backend.answer(str(case), {}) for case in range(RUNS)]

    for case, stream in enumerate(streams):
        assert stream.texts() == {stage: text_of(f"{stage}:{case}") for stage in STAGES}
        shown = "".join(event["content"] for event in stream.events)
        assert {word.split(".")[1] for word in shown.split() if "." in word} == {str(case)}
    answers = [stream.last["metadata"]["result"].encode() for stream in streams]
    assert answers == direct
    tapped = counted.pop('headgate_tap_calls_total{result="tapped"}')
    # A store that is too slow on a machine that is too busy costs calls their place, and never moves others.
    for result in ("unmatched", "not_tapped"):
        tapped += counted.pop(f'headgate_tap_calls_total{{result="{result}"}}', 0)
    # What comes by way of another replica may come after the answer, which then has the last words of it.
    as_shown = sum(
        counted.pop(f'headgate_parity_total{{result="{parity}",route="{name}"}}', 0)
        for parity in PREFIX
        for name in ROUTES
    )
    assert tapped == as_shown == RUNS * len(STAGES)
    assert not counted
