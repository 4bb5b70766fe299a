"""The same call three ways: batch with no Headgate at all, tapped, and dark. Each must be told the same.

A round is three requests to a backend that asks its model twice and never again by itself; the first call
meets the fault. What the backend is told is compared, and what its user gets.
"""

import json
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from proxy.observe.labels import FaultPhase
from tests.faults import invariants
from tests.faults.provider import TIMEOUTS, reset_at
from tests.faults.rounds import Result
from tests.faults.shapes import SHAPES, Shape
from tests.faults.unlike import TEXT, Fault, of
from tests.faults.viewers import USER, Client, Saw
from tests.servers.client import browser
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import STREAMING, Serving, flag_document, headgate
from tests.servers.streaming import answer
from tests.servers.tapping import EVENT_STREAM, tapped_route, trace_context

TEXTS = {"extraction": TEXT, "summary": "Likely pneumonia."}
DARK = "headgate.dark"
ANY_FAULT = 0.7
"""The share of a long run's rounds that meet any fault; the others are reset somewhere."""

Told = tuple[int, Any]
"""Status and JSON of one model call."""


@dataclass
class Model:
    """A provider of every shape. `faults` are those of runs."""

    faults: dict[str, Fault] = field(default_factory=dict)
    own: dict[str, list[Told]] = field(default_factory=dict)

    def speaking(self, shape: Shape) -> ScriptedUpstream:
        async def script(asked: Asked) -> None:
            body = json.loads(await asked.read_body())
            run = shape.model_of(asked.target, body)
            prompt = shape.prompt_of(body)
            fault = self.faults[run] if prompt == "extraction" else None
            text = TEXTS[prompt]
            if shape.is_streamed(asked.target, body):
                await (fault.stream if fault else _well)(asked, shape.events(text))
            elif fault is not None and fault.batch is not None:
                await asked.answer(fault.batch[1], fault.batch[0])
            else:
                await asked.answer(json.dumps(shape.answer(text)).encode())

        return ScriptedUpstream(script)


async def _well(asked: Asked, events: list[bytes]) -> None:
    data = b"".join(events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    await asked.send(head % len(data) + data)


@dataclass
class Backend:
    """Asks each shape's provider at its address; `told` by run and way."""

    faults: dict[str, Fault]
    direct: dict[str, str] = field(default_factory=dict)
    port: str = ""
    told: dict[tuple[str, str], list[Told]] = field(default_factory=dict)

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        _, way, api, run = asked.target.decode().split("/")[:4]
        shape = next(shape for shape in SHAPES if shape.api == api)
        base = self.direct[api] if way == "batch" else f"{self.port}/{api}"
        told = self.told[run, way] = []
        texts = []
        async with browser(base) as client:
            for prompt in TEXTS:
                more = dict(self.faults[run].more)
                reply = await client.post(
                    shape.path.format(model=run),
                    json=shape.body(prompt, run) | more,
                    headers=trace_context(asked),
                )
                said = reply.json()
                told.append((reply.status_code, said))
                texts.append(
                    (shape.text(said) or "nothing") if reply.is_success else f"failed {reply.status_code}"
                )
        await asked.answer(answer(*texts))


@dataclass
class Ways:
    """The place where rounds are played."""

    model: Model
    backend: Backend
    serving: Serving
    upstream: str
    client: httpx.AsyncClient

    async def play(self, shape: Shape, fault: Fault) -> Result:
        run = str(uuid.uuid4())
        self.model.faults[run] = fault
        batch = await self._plain(self.upstream, "batch", shape, run)
        dark = await self._plain(self.serving.url, "dark", shape, run)
        # What was learned in the dark is not to spare the tapped one its fault.
        again = str(uuid.uuid4())
        self.model.faults[again] = fault
        viewer = Client(self.serving.url)
        saw = await viewer.view(viewer.start(f"/tapped/{shape.api}", again))
        self.backend.told[run, "tapped"] = self.backend.told.pop((again, "tapped"), [])
        problems = [*saw.problems, *self._unlike(run, fault)]
        problems += self._seen(saw, batch, dark, fault)
        return Result(f"{shape.api}: {fault.name}", FaultPhase.HEADERS, True, not problems, problems, "ways")

    def _seen(self, saw: Saw, batch: httpx.Response, dark: httpx.Response, fault: Fault) -> Iterator[str]:
        """Check what the user ends with; where a provider's own error was told, what the backend made of
        that."""
        done = saw.events[-1]["metadata"] if saw.events and saw.events[-1]["type"] == "stream_done" else {}
        results = [done.get("result", "no result"), dark.text]
        if not fault.is_told and results != [batch.text] * 2:
            yield f"the user's answers are {results}, and as batch {batch.text}"
        if fault.is_told and not (done and dark.is_success):
            yield "the user has no answer"
        if done and invariants.shown(saw.events) != json.loads(done["result"])["result"]:
            yield f"shown was {invariants.shown(saw.events)}"

    def _unlike(self, run: str, fault: Fault) -> Iterator[str]:
        batch = self.backend.told[run, "batch"]
        for way in ("tapped", "dark"):
            told = self.backend.told[run, way]
            own = fault.is_told and len(told) == 2 and told[0][0] == 429 and told[1] == batch[1]
            if told != batch and not own:
                yield f"{way} the backend was told {told}, and as batch {batch}"

    async def _plain(self, url: str, way: str, shape: Shape, run: str) -> httpx.Response:
        headers = {USER: "ann", "accept": "application/json"}
        return await self.client.post(f"{url}/{way}/{shape.api}/{run}/start", headers=headers, content=b"{}")


def every() -> list[tuple[Shape, Fault]]:
    """Each fault of each shape."""
    return [(shape, fault) for shape in SHAPES for fault in of(shape)]


def mixture(dice: random.Random, rounds: int) -> list[tuple[Shape, Fault]]:
    """Every one, and then any of them, and connections that are reset at any byte."""
    chosen = every()
    while len(chosen) < rounds:
        shape, fault = dice.choice(every())
        size = len(EVENT_STREAM + b"".join(shape.events(TEXT)))
        reset = Fault("reset at any byte", reset_at(dice.randrange(size)))
        chosen.append((shape, fault if dice.random() < ANY_FAULT else reset))
    return chosen


def _flags() -> dict[str, Any]:
    flags = flag_document()
    streaming = next(feature for feature in flags["features"] if feature["name"] == STREAMING)
    dark = streaming | {"name": DARK, "variants": [{"name": "dark", "weight": 1000}]}
    return flags | {"features": [*flags["features"], dark]}


@asynccontextmanager
async def house(directory: Path) -> AsyncIterator[Ways]:
    """Open for as long as the block."""
    async with AsyncExitStack() as stack:
        model = Model()
        backend = Backend(model.faults)
        providers = []
        for shape in SHAPES:
            at = await stack.enter_async_context(model.speaking(shape).running())
            backend.direct[shape.api] = at.url
            providers.append({"name": shape.api, "api": shape.api, "url": at.url, "timeouts": TIMEOUTS})
        upstream = await stack.enter_async_context(ScriptedUpstream(backend).running())
        match = {"tapped": "POST /tapped/{api}/{run}/start", "dark": "POST /dark/{api}/{run}/start"}
        routes = [
            tapped_route(name=name, match=match[name], stream_path=None, flag=flag)
            for name, flag in (("tapped", STREAMING), ("dark", DARK))
        ]
        opening = headgate(
            upstream.url,
            directory,
            identity={"jwt": None, "header": USER},
            routes=routes,
            flags=_flags(),
            llm={"providers": providers},
        )
        serving = await stack.enter_async_context(opening)
        backend.port = serving.model_url
        client = await stack.enter_async_context(browser())
        yield Ways(model, backend, serving, upstream.url, client)
