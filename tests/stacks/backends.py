"""The backends of each stack, and what becomes of the model calls that they make.

One Headgate with a model port, one fake provider, and before all backends one address that hands each request
to the one that it names. The backends are started by `opentelemetry-instrument`, or with Node's `--require`,
as the docs say.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.servers.client import browser, eventually, read, scrape, signed
from tests.servers.ports import free_port, is_listened_on
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, headgate
from tests.servers.tapping import Provider
from tests.servers.unleash_server import NODE

HERE = Path(__file__).parent
VENV = HERE.parent.parent / "build" / "stacks"
"""With the packages of requirements/stacks.lock; made by `make stacks` and `make test`."""
NOT_MADE = "no build/stacks; make setup makes it"
STARTING_S = 180.0
STOPPING_S = 10.0
TEXT = "The text that the model has written, word by word."

QUIET = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "DJANGO_SETTINGS_MODULE": "django_settings",
}


def is_made() -> bool:
    """True if the backends' packages are here, all of them."""
    return (VENV / ".ready").exists()


@dataclass(frozen=True)
class Stack:
    """A backend, and what becomes of a model call of each of its endpoints."""

    name: str
    command: Sequence[str]
    """With `{port}`, and `{bin}` for the backends' venv."""
    expected: Mapping[str, str]
    """The result in `headgate_tap_calls_total`, by endpoint."""
    environ: Mapping[str, str] = field(default_factory=dict)
    match: str = "tracestate"
    worker: Sequence[str] = ()
    """The command of a process beside it."""


GUIDES = HERE.parents[1] / "docs" / "adopt.md"
OURS = {
    **{name: f"{{bin}}/{name}" for name in ("opentelemetry-instrument", "uvicorn", "gunicorn")},
    "node": str(NODE),
    "8000": "{port}",
    "127.0.0.1:8000": "127.0.0.1:{port}",
    "server.mjs": "express_backend.mjs",
}
"""What stands here in the place of what a reader of the guides has."""


def guided(heading: str, app: str = "") -> tuple[str, ...]:
    """The command by which a guide starts a backend; `app` is ours in the place of the reader's."""
    section = GUIDES.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].partition("\n## ")[0]
    [command] = re.findall(r"(?m)^\$ (.+)$", section)
    return tuple({**OURS, "main:app": app}.get(part, part) for part in command.split())


INSTRUMENT = "{bin}/opentelemetry-instrument"
FASTAPI = guided("FastAPI with the openai package", "fastapi_backend:app")
CELERY = (
    INSTRUMENT,
    "{bin}/celery",
    "-A",
    "celery_backend",
    "worker",
    "--pool",
    "solo",
    "--loglevel",
    "error",
)
GUNICORN = (INSTRUMENT, "{bin}/gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1", "--threads", "2")

MANY = (
    Stack("FastAPI", FASTAPI, dict.fromkeys(("async", "sync", "pool", "aiohttp"), "tapped")),
    Stack(
        "FastAPI, without threading's and aiohttp's",
        FASTAPI,
        {"async": "tapped", "sync": "tapped", "pool": "not_tapped", "aiohttp": "no_context"},
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "threading,aiohttp-client"},
    ),
    Stack("Flask, gunicorn", (*GUNICORN, "flask_backend:app"), {"flask": "tapped"}),
    Stack("Django, gunicorn", guided("Django", "django_backend:app"), {"django": "tapped"}),
    Stack(
        "aiohttp", (INSTRUMENT, "{bin}/python", "aiohttp_backend.py", "{port}"), {"aiohttp-server": "tapped"}
    ),
    Stack(
        "Express",
        guided("A Node backend"),
        {"express-fetch": "tapped", "express-http": "tapped"},
    ),
)
"""Those of the tests; `make stacks` has the others too."""

STACKS = (
    *MANY,
    Stack("FastAPI and a worker of Celery", FASTAPI, {"celery": "tapped"}, worker=CELERY),
    Stack("FastAPI, X-Ray's header alone", FASTAPI, {"async": "not_tapped"}, {"OTEL_PROPAGATORS": "xray"}),
    Stack(
        "FastAPI, X-Ray's header alone, match: traceparent",
        FASTAPI,
        {"async": "tapped", "pool": "tapped"},
        {"OTEL_PROPAGATORS": "xray"},
        match="traceparent",
    ),
    Stack("FastAPI, match: traceparent", FASTAPI, {"async": "tapped", "sync": "tapped"}, match="traceparent"),
)


def _route(match: str) -> dict[str, Any]:
    return {
        "name": match,
        "match": f"POST /{match}/{{port}}/{{how}}",
        "source": "tap",
        "tap": {"match": match, "calls": [{"stage": "summary", "panel": "chat"}]},
        "sections": [{"stage": "summary", "panel": "chat", "at": "$.text"}],
    }


async def _hand_on(asked: Asked) -> None:
    """Ask the backend whose port is in the path, with the trace context that came."""
    await asked.read_body()
    _, _, port, how = asked.target.decode().split("/")
    names = (b"traceparent", b"tracestate", b"x-amzn-trace-id")
    context = {name.decode(): value.decode() for name in names if (value := asked.header(name))}
    async with browser(f"http://127.0.0.1:{port}") as client:
        reply = await client.post(f"/ask/{how}", headers=context)
    await asked.answer(reply.content, b"%d Said" % reply.status_code)


@asynccontextmanager
async def _process(command: Sequence[str], log: Path, environ: Mapping[str, str]) -> AsyncIterator[None]:
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=HERE, env=environ, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOPPING_S)
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


async def _begun(stack: Stack, serving: Serving, directory: Path, resources: AsyncExitStack) -> int:
    """Start a backend; its port, on which it need not listen yet."""
    port = free_port()
    environ = {
        **os.environ,
        **QUIET,
        "MODEL_URL": f"{serving.model_url}/models",
        "QUEUE": str(directory / "queue"),
        **stack.environ,
    }
    for command in filter(None, (stack.worker, stack.command)):
        filled = [part.format(bin=VENV / "bin", port=port) for part in command]
        await resources.enter_async_context(_process(filled, directory / f"{port}.log", environ))
    return port


async def _result(client: httpx.AsyncClient, serving: Serving, path: str) -> str:
    """Return what became of the model call of one request, or why nothing did."""
    before = await scrape(client, serving.admin_url)
    stream = await read(client, path, signed())
    if stream.status != 200 or stream.texts() != {"summary": TEXT}:
        return f"no text: {stream.raw[-500:]!r}"

    async def new() -> list[str]:
        after = await scrape(client, serving.admin_url)
        calls = [name for name in after if name.startswith("headgate_tap_calls_total")]
        return [name.split('"')[1] for name in calls if after[name] > before[name]]

    async def is_counted() -> bool:
        return bool(await new())

    await eventually(is_counted)
    return ", ".join(await new())


async def results(stacks: Sequence[Stack], directory: Path) -> dict[tuple[str, str], str]:
    """Return what became of each endpoint's model call, by the stack's name and the endpoint."""
    provider = Provider({"summary": TEXT})
    found: dict[tuple[str, str], str] = {}
    async with (
        provider.upstream.running() as model,
        ScriptedUpstream(_hand_on).running() as upstream,
        headgate(
            upstream.url,
            directory,
            routes=[_route("tracestate"), _route("traceparent")],
            llm={"providers": [{"name": "models", "url": model.url}]},
        ) as serving,
        browser(serving.url) as client,
        AsyncExitStack() as resources,
    ):
        # All at once, since each takes seconds to import what it needs.
        ports = [await _begun(stack, serving, directory, resources) for stack in stacks]
        for stack, port in zip(stacks, ports, strict=True):
            try:
                await eventually(lambda port=port: is_listened_on(port), STARTING_S)  # type: ignore[misc]
            except TimeoutError:
                said = (directory / f"{port}.log").read_text()[-2000:]
                found |= dict.fromkeys(((stack.name, how) for how in stack.expected), f"no start: {said}")
                continue
            for how in stack.expected:
                path = f"/{stack.match}/{port}/{how}"
                found[stack.name, how] = await _result(client, serving, path)
    return found
