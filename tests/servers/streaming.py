"""The things that tests of streams share: a route, an answer, a whole house, a real process."""

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson

from proxy.observe.logs import JsonFormatter
from proxy.settings.blocks.route import RouteSettings
from tests.servers.client import browser, eventually
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, Script, ScriptedUpstream
from tests.servers.serving import ADMIN_TOKEN, Serving, flag_document, gated

EXTRACTION = "Fever of 38.9 °C — productive cough, SpO₂ 91 %.\n\n| Sign | ✅ |\n"
SUMMARY = "Likely pneumonia 🫁. Start treatment now."
WHOLE = {"extraction": EXTRACTION, "summary": SUMMARY}
START = "/api/cases/7/start"


def route(**more: Any) -> dict[str, Any]:
    """A route with two sections, as the settings have it.

    It waits for text as long as a route may: a failure before any text has a status of its own on a slow
    machine, too.
    """
    return {
        "commit_after": 15,
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
        gated(script, directory, **more) as (upstream, serving),
        browser(serving.url) as client,
    ):
        yield upstream, serving, client


async def kill(serving: Serving, client: httpx.AsyncClient) -> None:
    """Turn the kill switch on."""
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    (await client.post(f"{serving.admin_url}/kill", headers=headers)).raise_for_status()


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

            await eventually(ready, within_s=180)
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


@asynccontextmanager
async def served_before(
    script: Script, directory: Path, *arguments: str, **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, Served, httpx.AsyncClient]]:
    """An upstream that plays a script, a Headgate in front of it as a process of its own, and a client."""
    async with (
        ScriptedUpstream(script).running() as upstream,
        served(upstream.url, directory, *arguments, **more) as serving,
        browser(serving.url) as client,
    ):
        yield upstream, serving, client
