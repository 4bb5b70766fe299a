"""The things that tests of streams share: a route, an answer, a client that reads piece by piece, a real
process."""

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson

from proxy.observe.logs import JsonFormatter
from proxy.settings.blocks.route import RouteSettings
from proxy.text.sse import Decoder
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, Script, ScriptedUpstream
from tests.servers.serving import ADMIN_TOKEN, Serving, flag_document, headgate, token

PATIENCE_S = 60.0
"""Seconds that a test waits for what should come at once: a guard against hanging alone."""

EXTRACTION = "Fever of 38.9 °C — productive cough, SpO₂ 91 %.\n\n| Sign | ✅ |\n"
SUMMARY = "Likely pneumonia 🫁. Start treatment now."
WHOLE = {"extraction": EXTRACTION, "summary": SUMMARY}
START = "/api/cases/7/start"

SSE = "text/event-stream"
EITHER = "text/event-stream, application/json"


def route(**more: Any) -> dict[str, Any]:
    """A route with two sections, as the settings have it."""
    return {
        "name": "start",
        "match": "POST /api/cases/{case_id}/start",
        "stream_path": "/api/cases/{case_id}/start/stream",
        "failure_text": "^Error generating response",
        "sections": [
            {"stage": "extraction", "at": "$.result.extraction"},
            {"stage": "summary", "panel": "chat", "at": "$.result.summary"},
        ],
        **more,
    }


def answer(extraction: str | None = EXTRACTION, summary: str | None = SUMMARY) -> bytes:
    """The batch answer: raw UTF-8, as the reference upstream writes it."""
    texts = {"extraction": extraction, "summary": summary}
    result = {name: text for name, text in texts.items() if text is not None}
    return json.dumps({"result": result, "next_stage": "diagnosis"}, ensure_ascii=False).encode()


def answering(body: bytes, status: bytes = b"200 OK", extra: bytes = b"") -> Script:
    """An upstream that answers at once."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(body, status, extra)

    return script


@dataclass
class Held:
    """An upstream that answers when told. `come` says that the next request is here."""

    script: Script

    def __post_init__(self) -> None:
        self.come = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        self.come.set()
        await self.release.wait()
        await self.script(asked)


def signed(user: str = "ann", accept: str | None = SSE, **more: str) -> dict[str, str]:
    """Headers of a signed-in client."""
    headers = {"authorization": f"Bearer {token(user)}", **more}
    return headers if accept is None else {"accept": accept, **headers}


@asynccontextmanager
async def browser(url: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client with no manners of its own."""
    async with httpx.AsyncClient(
        base_url=url,
        timeout=PATIENCE_S,
        trust_env=False,
        verify=False,  # nothing here speaks TLS, and reading the authorities takes longer than most tests
        limits=httpx.Limits(max_connections=None),
    ) as client:
        yield client


@asynccontextmanager
async def house(
    script: Script, directory: Path, **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, Serving, httpx.AsyncClient]]:
    """An upstream, a Headgate in front of it, and a client.

    Without `routes` there is one route, and what can be set of a route in `more` is set of that one. All else
    is for `headgate`.
    """
    if "routes" not in more:
        of_route = {name: more.pop(name) for name in RouteSettings.model_fields if name in more}
        more["routes"] = [route(**of_route)]
    async with (
        ScriptedUpstream(script).running() as upstream,
        headgate(upstream.url, directory, **more) as serving,
        browser(serving.url) as client,
    ):
        yield upstream, serving, client


async def kill(serving: Serving, client: httpx.AsyncClient) -> None:
    """Turn the kill switch on."""
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    (await client.post(f"{serving.admin_url}/kill", headers=headers)).raise_for_status()


class Stream:
    """A stream while it is read. `events` are the payloads, each with its `id`."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.raw = b""
        self.events: list[dict[str, Any]] = []
        self.retries: list[int] = []
        self._decoder = Decoder(max_event_bytes=1 << 25)
        self._pieces = response.aiter_raw()

    async def piece(self) -> bytes | None:
        """The next bytes; None at the end."""
        async with asyncio.timeout(PATIENCE_S):
            data = await anext(self._pieces, None)
        if data is not None:
            self.raw += data
            for event in self._decoder.feed(data):
                self.events.append({"id": event.id, **json.loads(event.data)})
                self.retries += [] if event.retry is None else [event.retry]
        return data

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event like this; reads on if it has not come yet."""
        async with asyncio.timeout(PATIENCE_S):  # of the whole: heartbeats come for ever
            while not (found := [event for event in self.events if wanted(event)]):
                assert await self.piece() is not None, f"the stream ended: {self.raw!r}"
        return found[0]

    async def rest(self) -> "Stream":
        while await self.piece() is not None:
            pass
        return self

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def run(self) -> str:
        return str(self.headers["headgate-run"])

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def texts(self) -> dict[str, str]:
        """Return what a reader ends up with, stage by stage."""
        return texts(self.events)


def texts(events: list[dict[str, Any]]) -> dict[str, str]:
    """Return what these events leave on the screen, stage by stage."""
    shown: dict[str, str] = {}
    for event in events:
        if event["type"] == "stage_start":
            assert event["stage"] not in shown
            shown[event["stage"]] = ""
        elif event["type"] == "content_chunk":
            shown[event["stage"]] += event["content"]
        elif event["type"] == "content_replace":
            shown[event["stage"]] = event["content"]
    return shown


@asynccontextmanager
async def opened(
    client: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    **more: Any,
) -> AsyncIterator[Stream]:
    async with client.stream(method, url, headers=headers, **more) as response:
        yield Stream(response)


async def read(
    client: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    **more: Any,
) -> Stream:
    """A whole stream, or whatever was answered instead."""
    async with opened(client, url, headers, method=method, **more) as stream:
        return await stream.rest()


async def eventually(
    true: Callable[[], bool] | Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S
) -> None:
    """Wait until something is true, looking often."""
    async with asyncio.timeout(within_s):
        while True:
            result = true()
            if (await result) if isinstance(result, Awaitable) else result:
                return
            await asyncio.sleep(0.01)


async def scrape(client: httpx.AsyncClient, admin_url: str) -> dict[str, float]:
    """Every sample of `/metrics` by its name and labels, as they are written."""
    page = (await client.get(f"{admin_url}/metrics")).raise_for_status().text
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


class Lines(logging.Handler):
    """Every line of every logger, as the JSON log would have it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(orjson.loads(self.format(record)))

    def __call__(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]


@contextmanager
def logged() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    levels = {logger: logger.level for logger in (root, logging.getLogger("headgate"))}
    for logger in levels:
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        for logger, level in levels.items():
            logger.setLevel(level)


def _allow(descriptors: int) -> None:
    """In the process that is to begin: no more than so many, whatever it wants."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


@dataclass
class Served:
    """`headgate serve` as a process of its own."""

    process: asyncio.subprocess.Process
    """The parent."""
    url: str
    admin_url: str
    directory: Path
    log: Path

    def workers(self) -> list[int]:
        """The processes that serve, and those that drain."""
        return children(self.process.pid)

    def send_all(self, number: signal.Signals) -> None:
        """A signal for each of its processes, the parent first: as if the machine were gone, or held up."""
        for pid in (self.process.pid, *self.workers()):
            os.kill(pid, number)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def served(
    upstream_url: str, directory: Path, *arguments: str, descriptors: int | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """Started, ready, and gone at the end, with every process it made; with so many file descriptors."""
    listen, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    (directory / "flags.json").write_text(json.dumps(flag_document()))
    config = directory / "headgate.yaml"
    document = {
        "listen": listen,
        "admin": admin,
        "admin_token": ADMIN_TOKEN,
        "upstream": {"url": upstream_url},
        "routes": [route()],
        **settings,
    }
    config.write_text(json.dumps(document))
    log = directory / "log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "serve", "--config", str(config), *arguments),
            stderr=errors,
            cwd=Path(__file__).parents[2],
            preexec_fn=None if descriptors is None else partial(_allow, descriptors),
        )
    found = Served(process, f"http://{listen}", f"http://{admin}", directory, log)
    try:
        async with browser() as client:

            async def ready() -> bool:
                assert process.returncode is None, log.read_text()
                try:
                    return (await client.get(f"{found.admin_url}/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, within_s=60)
        yield found
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(35):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
