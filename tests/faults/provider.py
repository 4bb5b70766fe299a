"""A language model that fails by plan, a backend that asks it again as its SDK would, a Headgate around both.

A round is one run, which asks its model twice. The plan is for the attempts of its first call; whatever is
asked after them is answered well.
"""

import asyncio
import json
import random
import socket
import struct
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from proxy.observe.labels import CallResult, FaultPhase
from tests.faults import invariants
from tests.faults.rounds import Result
from tests.faults.viewers import USER, Client, Saw
from tests.servers.client import browser, scrape
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, headgate
from tests.servers.streaming import answer
from tests.servers.tapping import (
    COMPLETIONS,
    EVENT_STREAM,
    chat,
    chunks,
    completion,
    tapped_route,
    trace_context,
)

TEXTS = {"extraction": "Fever of 38.9 °C, a cough 🫁.", "summary": "Likely pneumonia."}
EVENTS = len(chunks(TEXTS["extraction"]))
FIRST_TEXT = 4
"""After so many events a whole word is known."""

ATTEMPTS = 3
"""Of a call, as OpenAI's SDK makes them if it is not told otherwise."""

TIMEOUTS = {"connect_s": 2.0, "first_byte_s": 0.5, "idle_s": 0.5, "total_s": 5.0}

Play = Callable[[Asked, list[bytes]], Awaitable[None]]
"""A function of a call that asks for a stream, and of the events of its good answer: the model's act."""


@dataclass(frozen=True)
class Plan:
    """The acts on the first attempts of a round's first call, and the result that each is counted as."""

    name: str
    plays: tuple[Play, ...]
    counted: tuple[CallResult, ...]
    phase: FaultPhase = FaultPhase.HEADERS


def cut_after(events: int) -> Play:
    async def play(asked: Asked, good: list[bytes]) -> None:
        await asked.send(EVENT_STREAM + b"".join(good[:events]))
        asked.writer.close()

    return play


def reset_at(byte: int) -> Play:
    async def play(asked: Asked, good: list[bytes]) -> None:
        await asked.send((EVENT_STREAM + b"".join(good))[:byte])
        await asyncio.sleep(0)
        peer = asked.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asked.writer.transport.abort()

    return play


def stall_after(events: int | None) -> Play:
    """None: not even the head comes."""

    async def play(asked: Asked, good: list[bytes]) -> None:
        if events is not None:
            await asked.send(EVENT_STREAM + b"".join(good[:events]))
        await asked.reader.read()  # until Headgate has had enough
        asked.writer.close()

    return play


def status(line: bytes, extra: bytes = b"") -> Play:
    async def play(asked: Asked, good: list[bytes]) -> None:
        await asked.answer(b'{"error":{"message":"not now","type":"busy"}}', line, extra)

    return play


def changed(events: Callable[[list[bytes]], list[bytes]], head: bytes = EVENT_STREAM) -> Play:
    """A stream that ends in good order, with other events than the good ones."""

    async def play(asked: Asked, good: list[bytes]) -> None:
        await asked.send(head + b"".join(events(good)))
        asked.writer.close()

    return play


def _in_place(at: int, event: bytes) -> Play:
    return changed(lambda good: [*good[:at], event, *good[at + 1 :]])


UNKNOWN = b'data: {"choices":[{"index":0,"delta":{"content":"x","vision":{"x":1}}}]}\n\n'
FAILED = b'data: {"error":{"message":"overloaded","code":503}}\n\n'
GZIP = EVENT_STREAM.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
HTML = EVENT_STREAM.replace(b"text/event-stream", b"text/html")


def plans() -> Iterator[Plan]:
    """Every fault of a provider, in every phase."""
    for events in range(EVENTS):
        phase = FaultPhase.CONTENT if events > FIRST_TEXT else FaultPhase.HEADERS
        yield Plan("cut at every token", (cut_after(events),), (CallResult.LOST,), phase)
    for name, at in (("broken JSON", b"data: {\n\n"), ("a list", b"data: []\n\n"), ("unknown", UNKNOWN)):
        for events in (0, FIRST_TEXT + 2):
            phase = FaultPhase.CONTENT if events else FaultPhase.HEADERS
            yield Plan(f"malformed delta: {name}", (_in_place(events, at),), (CallResult.LOST,), phase)
    yield Plan(
        "no usage", (changed(lambda good: [*good[:-2], good[-1]]),), (CallResult.LOST,), FaultPhase.CONTENT
    )
    yield Plan("no finish reason", (changed(lambda good: [*good[:-3], *good[-2:]]),), (CallResult.LOST,))
    yield Plan("an event of 10 MB", (_in_place(2, b"data: " + b"x" * 10_000_000),), (CallResult.LOST,))
    yield Plan("a stream that is compressed", (changed(list, GZIP),), (CallResult.LOST,))
    yield Plan("a page in place of a stream", (changed(list, HTML),), (CallResult.LOST,))
    yield Plan("an error in the stream", (_in_place(6, FAILED),), (CallResult.LOST,), FaultPhase.CONTENT)
    yield Plan("silent", (stall_after(None),), (CallResult.LOST,))
    yield Plan("silent after the head", (stall_after(0),), (CallResult.LOST,))
    yield Plan("stalls", (stall_after(6),), (CallResult.LOST,), FaultPhase.CONTENT)
    too_many = status(b"429 Too Many", b"retry-after: 0\r\n")
    yield Plan("429", (too_many,), (CallResult.FAILED,))
    yield Plan("429, then a cut", (too_many, cut_after(6)), (CallResult.FAILED, CallResult.LOST))
    for line in (b"500 Oh", b"503 Busy"):
        yield Plan(line.decode(), (status(line, b"retry-after: 0\r\n"),), (CallResult.LOST,))
    for line in (b"400 Bad", b"404 None", b"422 No"):
        yield Plan(f"refuses the stream: {line.decode()}", (status(line),), (CallResult.BATCH,))


def mixture(dice: random.Random, rounds: int) -> list[Plan]:
    """Any of them."""
    every = list(plans())
    return [dice.choice(every) if dice.random() < 0.5 else next(resets(dice, 1)) for _ in range(rounds)]


def resets(dice: random.Random, times: int) -> Iterator[Plan]:
    """Anywhere in the answer, also within its head and within a character."""
    size = len(EVENT_STREAM + b"".join(chunks(TEXTS["extraction"])))
    for _ in range(times):
        yield Plan("reset at any byte", (reset_at(dice.randrange(size)),), ())


@dataclass
class Model:
    """The provider. `calls` is how often each prompt was asked."""

    plans: dict[str, list[Play]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    async def __call__(self, asked: Asked) -> None:
        body = json.loads(await asked.read_body())
        stage, _, run = body["messages"][-1]["content"].partition(":")
        self.calls[run] += 1
        plays = self.plans[run] if stage == "extraction" else []
        if not body.get("stream"):
            await asked.answer(json.dumps(completion(TEXTS[stage])).encode())
        elif plays:
            await plays.pop(0)(asked, chunks(TEXTS[stage]))
        else:
            await asked.send(EVENT_STREAM + b"".join(chunks(TEXTS[stage])))
            asked.writer.close()


class Backend:
    """Asks for both texts. Keeps every good answer that its model gave."""

    def __init__(self) -> None:
        self.model_url = ""
        self.told: dict[str, list[object]] = {}

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        run = asked.target.split(b"/")[2].decode()
        replies = self.told[run] = []
        async with browser(self.model_url) as client:
            for stage in TEXTS:
                replies.append(await self._ask(client, f"{stage}:{run}", trace_context(asked)))
        await asked.answer(answer(**TEXTS))

    async def _ask(self, client: httpx.AsyncClient, prompt: str, headers: dict[str, str]) -> object:
        for _ in range(ATTEMPTS):
            # A model of its own for each run: one that is unfaithful is avoided, and the others are not.
            body = chat(prompt, model=prompt.partition(":")[2])
            reply = await client.post(COMPLETIONS, json=body, headers=headers)
            if reply.is_success:
                return reply.json()
        raise ConnectionError("the model has not answered")


@dataclass
class Tapped:
    """The place where rounds are played."""

    model: Model
    backend: Backend
    serving: Serving
    counted: Counter[str] = field(default_factory=Counter)
    """Calls by what became of them, as the metrics should have it; of plans that say it."""

    async def play(self, plan: Plan) -> Result:
        run = str(uuid.uuid4())
        self.model.plans[run] = list(plan.plays)
        client = Client(self.serving.url)
        saw = await client.view(client.start("/tap", run))
        problems = [*saw.problems, *invariants.of_a_log(saw.events, run), *self._wrong(saw, run, plan)]
        delivered = saw.is_clean and bool(saw.events) and saw.events[-1]["type"] == "stream_done"
        return Result(f"model: {plan.name}", plan.phase, True, delivered, problems, "tap")

    def _wrong(self, saw: Saw, run: str, plan: Plan) -> Iterator[str]:
        if invariants.shown(saw.events) != TEXTS:
            yield f"shown was {invariants.shown(saw.events)}"
        if self.backend.told[run] != [completion(text) for text in TEXTS.values()]:
            yield f"the backend was told {self.backend.told[run]}"
        if not len(TEXTS) < self.model.calls[run] <= len(TEXTS) + 2 * len(plan.plays):
            yield f"the model was asked {self.model.calls[run]} times"

    async def results(self, client: httpx.AsyncClient) -> Counter[str]:
        """`headgate_tap_calls_total`."""
        figures = await scrape(client, self.serving.admin_url)
        return Counter(
            {ended: int(figures[f'headgate_tap_calls_total{{result="{ended}"}}']) for ended in CallResult}
        )


@asynccontextmanager
async def house(directory: Path, **llm: object) -> AsyncIterator[Tapped]:
    """Open for as long as the block."""
    async with AsyncExitStack() as stack:
        model, backend = Model(), Backend()
        at = await stack.enter_async_context(ScriptedUpstream(model).running())
        upstream = await stack.enter_async_context(ScriptedUpstream(backend).running())
        provider = {"name": "models", "path": "/", "url": at.url, "timeouts": TIMEOUTS}
        opening = headgate(
            upstream.url,
            directory,
            identity={"jwt": None, "header": USER},
            routes=[tapped_route(name="tap", match="POST /tap/{run}/start", stream_path=None)],
            llm={"providers": [provider], **llm},
        )
        serving = await stack.enter_async_context(opening)
        backend.model_url = serving.model_url
        yield Tapped(model, backend, serving)
