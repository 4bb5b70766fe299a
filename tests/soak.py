"""Ten minutes of traffic, and nothing grows: `python -m tests.soak`. Prints a table; 1 if something does.

Two replicas with a store; runs of all sources at a steady pace. Of their viewers some leave, and some come
back to the other replica. What is measured late is compared with what was measured early, once the bounds of
what is kept have been reached.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from tests.runs.test_forgotten import ANSWER, SOURCES, TEXT, answered, routes
from tests.servers.client import PATIENCE_S, browser
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream, talking
from tests.servers.serving import token
from tests.servers.streaming import Served, served
from tests.servers.tapping import Provider, chat, trace_context
from tests.servers.valkey_server import valkey

KEY = "a key for the soak that is long enough"
KEPT = {"runs": 400, "ttl_s": 15}
"""Reached within seconds, so that what grows after that grows without a bound."""

LEAVING, RESUMING = 0.15, 0.15
USERS = 200
MOST_OPEN = 400
"""Requests in flight; over it the machine is too slow for the pace, and the next ones are left out."""

WARM = 0.25
"""The share of the time that is not looked at."""


@dataclass(frozen=True)
class Sample:
    """The resources of both replicas together at a moment, and how long readers waited since the one
    before."""

    rss_mb: float
    descriptors: float
    tasks: float
    scrape_kb: float
    p99_ms: float


ROOM = Sample(rss_mb=24, descriptors=150, tasks=200, scrape_kb=4, p99_ms=250)
"""By how much the late ones may be above the early ones: what is in flight differs from moment to moment."""

GROWTH = 0.05
"""And by this share of them."""


@dataclass
class Soak:
    """The house, and what has become of its requests."""

    replicas: Sequence[Served]
    ended: Counter[str] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)
    """From the request to the first text, since the last sample."""
    open: set[asyncio.Task[None]] = field(default_factory=set)
    asked: Sequence[list[Any]] = ()
    """The calls that the upstream and its model remember, which mean nothing to the soak."""

    def begin(self) -> None:
        """One more run."""
        if len(self.open) >= MOST_OPEN:
            self.ended["left out"] += 1
            return
        task = asyncio.create_task(self._run())
        self.open.add(task)
        task.add_done_callback(self.open.discard)

    async def _run(self) -> None:
        first, second = random.sample(self.replicas, 2)
        source, user = random.choice(list(SOURCES)), f"user{random.randrange(USERS)}"
        chance = random.random()
        try:
            async with asyncio.timeout(30):
                if chance < LEAVING:
                    self.ended[await self._leave(first, source, user)] += 1
                elif chance < LEAVING + RESUMING:
                    self.ended[await self._resume(first, second, source, user)] += 1
                else:
                    self.ended[await self._read(first, source, user)] += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as exc:
            self.ended[f"broken: {type(exc).__name__}"] += 1

    async def _read(self, at: Served, source: str, user: str) -> str:
        began = time.monotonic()
        async with talking(at.url) as client:
            await client.send(post(source, user))
            await client.head()
            seen = b""
            async for chunk in client.chunks():
                if b"content_chunk" in chunk and b"content_chunk" not in seen:
                    self.waits_s.append(time.monotonic() - began)
                seen += chunk
        return "complete" if b'"stream_done"' in seen and TEXT[-9:].encode() in seen else "incomplete"

    async def _leave(self, at: Served, source: str, user: str) -> str:
        async with talking(at.url) as client:
            await client.send(post(source, user))
            await client.head()
        return "left"

    async def _resume(self, first: Served, second: Served, source: str, user: str) -> str:
        async with talking(first.url) as client:
            await client.send(post(source, user))
            run = (await client.head()).header(b"headgate-run") or b""
        async with talking(second.url) as client:
            head = b"GET /_headgate/runs/%b/events HTTP/1.1\r\nhost: h\r\nauthorization: Bearer %b\r\n\r\n"
            answer = await client.ask(head % (run, token(user).encode()))
        return "resumed" if b'"stream_done"' in answer.body else f"not resumed: {answer.status}"

    async def sample(self, client: httpx.AsyncClient) -> Sample:
        """Take a sample. Begins a new count of waits."""
        pids = [pid for replica in self.replicas for pid in replica.workers()]
        pages = [(await client.get(f"{replica.admin_url}/metrics")).content for replica in self.replicas]
        runs = [(await client.get(f"{replica.admin_url}/runs")).json() for replica in self.replicas]
        waits_s, self.waits_s = self.waits_s, []
        return Sample(
            rss_mb=sum(map(_rss_mb, pids)),
            descriptors=sum(map(_descriptors, pids)),
            tasks=sum(counts["tasks"] for counts in runs),
            scrape_kb=sum(map(len, pages)) / 1024,
            p99_ms=quantiles(waits_s, n=100)[-1] * 1000 if len(waits_s) > 1 else 0.0,
        )


def post(source: str, user: str) -> bytes:
    """A request that no other one joins."""
    body = json.dumps({"text": f"Fever since {random.random()}"}).encode()
    return (
        f"POST /api/{source} HTTP/1.1\r\nhost: h\r\naccept: text/event-stream\r\n"
        f"authorization: Bearer {token(user)}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@dataclass
class LightBackend:
    """Asks its model twice, at any replica's model port, with the trace context that it was given."""

    model_urls: list[str] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        context = "".join(f"{name}: {value}\r\n" for name, value in trace_context(asked).items())
        for prompt in ("extraction", "summary"):
            body = json.dumps(chat(prompt)).encode()
            head = f"POST /models/v1/chat/completions HTTP/1.1\r\nhost: h\r\n{context}"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            async with talking(random.choice(self.model_urls)) as client:
                await client.ask(head.encode() + body)
        await asked.answer(ANSWER)


@asynccontextmanager
async def house() -> AsyncIterator[Soak]:
    """Two replicas, their store, the upstream of all sources and its model."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await stack.enter_async_context(valkey(directory))
        provider = Provider({"extraction": TEXT, "summary": TEXT})
        model = await stack.enter_async_context(provider.upstream.running())
        backend = LightBackend()
        upstream = ScriptedUpstream(lambda asked: answered(backend, asked))
        await stack.enter_async_context(upstream.running())
        replicas = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            port = free_port()
            backend.model_urls.append(f"http://127.0.0.1:{port}")
            settings: dict[str, Any] = {
                "routes": routes(),
                "flags": {"settle_s": 0},
                "event_log": {
                    "memory": KEPT,
                    "valkey": {"url": store.url, "key": KEY, "ttl_s": KEPT["ttl_s"]},
                },
                "llm": {
                    "listen": f"127.0.0.1:{port}",
                    "providers": [{"name": "models", "url": model.url}],
                },
            }
            replicas.append(
                await stack.enter_async_context(served(upstream.url, directory / name, **settings))
            )
        yield Soak(replicas, asked=(upstream.asked, provider.upstream.asked, provider.bodies))


async def soak(seconds: float, rate: float) -> tuple[list[Sample], Counter[str]]:
    """Samples at even distances, and how the requests have ended."""
    samples: list[Sample] = []
    every_s = max(2.0, seconds / 20)
    async with house() as traffic, browser() as client:
        began = time.monotonic()
        due, sample_at = began, began + every_s
        while (now := time.monotonic()) < began + seconds:
            if now >= sample_at:
                samples.append(await traffic.sample(client))
                sample_at += every_s
                for remembered in traffic.asked:
                    remembered.clear()
            traffic.begin()
            due = max(due + 1 / rate, now - 1)  # what could not begin for a second is not made up for
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        async with asyncio.timeout(PATIENCE_S * 4):
            await asyncio.gather(*traffic.open)
    return samples, traffic.ended


def problems(samples: Sequence[Sample], ended: Mapping[str, int]) -> list[str]:
    """Return what has grown, and what did not end as it should have."""
    broken = [f"{count} {how}" for how, count in ended.items() if how not in {"complete", "left", "resumed"}]
    looked_at = samples[int(len(samples) * WARM) :]
    half = len(looked_at) // 2
    if not half:
        return [*broken, "too short: there is nothing to compare"]
    for of in fields(Sample):
        early = median(getattr(sample, of.name) for sample in looked_at[:half])
        late = median(getattr(sample, of.name) for sample in looked_at[-half:])
        if late > early * (1 + GROWTH) + getattr(ROOM, of.name):
            broken.append(f"{of.name} has grown from {early:.1f} to {late:.1f}")
    return broken


def table(samples: Sequence[Sample], ended: Mapping[str, int], title: str) -> Table:
    made = Table(title=f"{title}; {', '.join(f'{count} {how}' for how, count in sorted(ended.items()))}")
    for of in fields(Sample):
        made.add_column(of.name, justify="right")
    for sample in samples:
        made.add_row(*(f"{getattr(sample, of.name):.1f}" for of in fields(Sample)))
    return made


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=50, help="runs a second")
    options = parser.parse_args()
    samples, ended = asyncio.run(soak(options.seconds, options.rate))
    console = Console(width=110)
    console.print(table(samples, ended, f"{options.rate:.0f} runs/s for {options.seconds:.0f} s"))
    broken = problems(samples, ended)
    for problem in broken:
        console.print(problem, style="red", highlight=False)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
