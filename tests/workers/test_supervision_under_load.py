"""`headgate serve` loses its worker, or gets another, while requests, streams and calls are under way."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.servers.client import Stream, browser, eventually, opened, read, scrape, signed
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.streaming import EXTRACTION, START, SUMMARY, WHOLE, answer, route, served, served_before
from tests.servers.tapping import EVENT_STREAM, Provider, tapped_route, trace_context
from tests.workers.test_supervision import RELAYED, reload

LETTER = "/api/letters/7/start"
CONNECTIONS = 20


@dataclass
class Load:
    """Relayed requests at a steady rate, on connections that are kept for as long as the other side likes."""

    url: str
    per_s: int
    ends: Counter[str] = field(default_factory=Counter)
    """`refused`: nobody listened; `cut`: the connection went while a request was under way."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        done = asyncio.Event()
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(self._client(number / self.per_s, CONNECTIONS / self.per_s, done))
            yield
            done.set()

    async def _client(self, first_s: float, every_s: float, done: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due, connection = loop.time() + first_s, None
        while not done.is_set():
            await asyncio.sleep(max(0.0, due - loop.time()))  # the rate: who is late catches up
            due += every_s
            try:
                connection = connection or await asyncio.open_connection(*address(self.url))
                head = await self._ask(*connection)
                is_last = b"\r\nconnection: close" in head
                self.ends["ok" if head.startswith(b"HTTP/1.1 200 ") else "failed"] += 1
            except ConnectionRefusedError:
                self.ends["refused"] += 1
                continue
            except (asyncio.IncompleteReadError, ConnectionError):
                self.ends["cut"] += 1
                is_last = True
            if is_last:
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    @staticmethod
    async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET /anything HTTP/1.1\r\nhost: headgate\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(b"{}"))
        return head


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


@dataclass
class Clinic:
    """An upstream that asks its model by the provider's own package, as that comes: with two retries."""

    release: asyncio.Event
    """A letter is answered then."""
    model: openai.AsyncOpenAI | None = None
    texts: list[str | None] = field(default_factory=list)
    failed: list[openai.OpenAIError] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        if asked.target == START.encode():
            await asked.answer(answer(*[await self._text(stage, asked) for stage in WHOLE]))
        elif asked.target == LETTER.encode():
            await self.release.wait()
            await asked.answer(answer())
        else:
            await asked.answer(b"{}")

    async def _text(self, stage: str, asked: Asked) -> str | None:
        assert self.model is not None
        try:
            completion = await self.model.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": stage}],
                extra_headers=trace_context(asked),
            )
        except openai.OpenAIError as exc:
            self.failed.append(exc)
            return None
        self.texts.append(completion.choices[0].message.content)
        return self.texts[-1]


async def cut(stream: Stream) -> None:
    """Wait until its connection is gone."""
    with pytest.raises(httpx.HTTPError):
        await stream.rest()


@pytest.mark.alone
async def test_a_killed_worker_costs_no_connection_and_no_text(tmp_path: Path) -> None:
    """SIGKILL for the only worker, under 100 requests a second, with 20 open streams and 20 model calls of
    tapped runs. No connection is refused; no stream that is cut looks complete, and who asks again has all of
    it; the backend's calls of its model all have their text, by its package's own retries."""
    release = asyncio.Event()

    async def speak_later(asked: Asked, events: list[bytes]) -> None:
        await asked.send(EVENT_STREAM + b"".join(events[:4]))
        await release.wait()
        for event in events[4:]:
            await asked.send(event)
        asked.writer.close()

    provider, clinic = Provider(stream=speak_later), Clinic(release)
    model_port = f"127.0.0.1:{free_port()}"
    letters = route(name="letter", match="POST /api/letters/{id}/start", stream_path=None, commit_after=0)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(provider.upstream.running())
        upstream = await stack.enter_async_context(ScriptedUpstream(clinic).running())
        more: dict[str, Any] = {
            "llm": {"listen": model_port, "providers": [{"name": "models", "url": model.url}]},
            "routes": [tapped_route(), letters],
        }
        serving = await stack.enter_async_context(served(upstream.url, tmp_path, **more))
        clinic.model = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=f"http://{model_port}/models/v1", api_key="none")
        )
        client = await stack.enter_async_context(browser(serving.url))
        load = Load(serving.url, per_s=100)
        async with load.running():
            async with AsyncExitStack() as open_streams:

                async def open_all(url: str) -> list[Stream]:
                    asked = (opened(client, url, signed(f"user{number}")) for number in range(20))
                    return [await open_streams.enter_async_context(one) for one in asked]

                letters_open, tapped = await open_all(LETTER), await open_all(START)
                for stream in letters_open:
                    await stream.piece()
                for stream in tapped:
                    await stream.until(lambda event: event["type"] == "content_chunk")
                calls_before = len(provider.bodies)
                (worker,) = serving.workers()
                os.kill(worker, signal.SIGKILL)
                release.set()
                await asyncio.gather(*map(cut, [*letters_open, *tapped]))
            again = [
                read(client, url, signed(f"user{number}")) for number in range(20) for url in (LETTER, START)
            ]
            whole = await asyncio.gather(*again)
            await eventually(lambda: len(clinic.texts) + len(clinic.failed) == 4 * 20, 30)
        ends = load.ends

    assert calls_before == 20
    assert not any("stream_done" in stream.types for stream in (*letters_open, *tapped))
    assert all(EXTRACTION.startswith(stream.texts()["extraction"]) for stream in tapped)
    assert [stream.texts() for stream in whole] == [WHOLE] * 40
    assert {stream.last["type"] for stream in whole} == {"stream_done"}
    assert clinic.failed == []
    assert Counter(clinic.texts) == {EXTRACTION: 40, SUMMARY: 40}
    assert set(ends) <= {"ok", "cut"}
    assert ends["cut"] <= CONNECTIONS, "no more than were under way"
    assert ends["ok"] > 50


@pytest.mark.alone
async def test_twenty_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    """200 relayed requests a second, 50 open streams, and SIGHUP at least 20 times: each request has its
    answer, each stream all of its text and its end, and the counters have each of them once."""
    done = asyncio.Event()

    async def clinic(asked: Asked) -> None:
        await asked.read_body()
        if asked.target == START.encode():
            await asyncio.sleep(0.5)  # it takes a while, so that streams are open while workers go
            await asked.answer(answer())
        else:
            await asked.answer(b"{}")

    streams: list[Stream] = []

    async def watch(client: httpx.AsyncClient, user: str) -> None:
        while not done.is_set():
            streams.append(await read(client, START, signed(user)))

    async with served_before(
        clinic, tmp_path, routes=[route(commit_after=0)], flags={"file": "flags.json", "settle_s": 0}
    ) as (_, serving, client):
        load = Load(serving.url, per_s=200)
        first = serving.workers()
        async with load.running(), asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(watch(client, f"user{number}"))
            reloads = 0
            while reloads < 20 or load.ends["ok"] <= 400 or len(streams) <= 100:
                await reload(serving)
                reloads += 1
            done.set()
        async with browser() as ops:

            async def all_counted() -> bool:
                page = await scrape(ops, serving.admin_url)
                runs = [page[name] for name in page if name.startswith("headgate_runs_total{")]
                return page[RELAYED] == load.ends["ok"] and sum(runs) == len(streams)

            await eventually(all_counted)
        last = serving.workers()

    assert set(load.ends) == {"ok"}
    assert {stream.last["type"] for stream in streams} == {"stream_done"}
    assert all(stream.texts() == WHOLE for stream in streams)
    assert not set(first) & set(last)
