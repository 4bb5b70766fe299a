"""`python -m tests.stacks`: each stack's backend makes a model call; is it found to be its run's?

One Headgate with a model port and one fake provider for each row; the backends are started by
`opentelemetry-instrument`, or with Node's `--require`, as the docs say. Ends with 1 if a row is not so.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.servers.serving import headgate
from tests.servers.streaming import browser, eventually, free_port, read, scrape, signed
from tests.servers.tapping import Provider
from tests.servers.unleash_server import NODE

HERE = Path(__file__).parent
STARTING_S = 60.0
STOPPING_S = 10.0
TEXT = "The text that the model has written, word by word."

QUIET = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "DJANGO_SETTINGS_MODULE": "django_settings",
}


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


INSTRUMENT = "{bin}/opentelemetry-instrument"
FASTAPI = (INSTRUMENT, "{bin}/uvicorn", "--port", "{port}", "fastapi_backend:app")
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
AUTO = "@opentelemetry/auto-instrumentations-node/register"

EVERY_WAY = ("async", "sync", "pool", "aiohttp", "celery")

STACKS = (
    Stack("FastAPI", FASTAPI, dict.fromkeys(EVERY_WAY, "tapped"), worker=CELERY),
    Stack(
        "FastAPI, without threading's and aiohttp's",
        FASTAPI,
        {"async": "tapped", "sync": "tapped", "pool": "not_tapped", "aiohttp": "no_context"},
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "threading,aiohttp-client"},
    ),
    Stack("FastAPI, X-Ray's header alone", FASTAPI, {"async": "no_context"}, {"OTEL_PROPAGATORS": "xray"}),
    Stack(
        "FastAPI, X-Ray's header alone, match: traceparent",
        FASTAPI,
        {"async": "tapped", "pool": "tapped"},
        {"OTEL_PROPAGATORS": "xray"},
        match="traceparent",
    ),
    Stack("FastAPI, match: traceparent", FASTAPI, {"async": "tapped", "sync": "tapped"}, match="traceparent"),
    Stack("Flask, gunicorn", (*GUNICORN, "flask_backend:app"), {"flask": "tapped"}),
    Stack("Django, gunicorn", (*GUNICORN, "django_backend:app"), {"django": "tapped"}),
    Stack(
        "aiohttp", (INSTRUMENT, "{bin}/python", "aiohttp_backend.py", "{port}"), {"aiohttp-server": "tapped"}
    ),
    Stack(
        "Express",
        (str(NODE), "--require", AUTO, "express_backend.mjs", "{port}"),
        {"express-fetch": "tapped", "express-http": "tapped"},
    ),
)


def _route(match: str) -> dict[str, Any]:
    return {
        "name": "ask",
        "match": "POST /ask/{how}",
        "source": "tap",
        "tap": {"match": match, "calls": [{"stage": "summary", "panel": "chat"}]},
        "sections": [{"stage": "summary", "panel": "chat", "at": "$.text"}],
    }


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


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def results(stack: Stack, venv: Path, directory: Path) -> Mapping[str, str]:
    """Return what became of each endpoint's model call, or why nothing did."""
    port = free_port()
    provider = Provider({"summary": TEXT})
    log = directory / "backend.log"
    found: dict[str, str] = {}
    async with AsyncExitStack() as resources:
        model = await resources.enter_async_context(provider.upstream.running())
        llm = {"providers": [{"name": "models", "url": model.url}]}
        opened = headgate(f"http://127.0.0.1:{port}", directory, routes=[_route(stack.match)], llm=llm)
        serving = await resources.enter_async_context(opened)
        environ = {
            **os.environ,
            **QUIET,
            "MODEL_URL": f"{serving.model_url}/models",
            "QUEUE": str(directory / "queue"),
            **stack.environ,
        }
        for command in filter(None, (stack.worker, stack.command)):
            filled = [part.format(bin=venv / "bin", port=port) for part in command]
            await resources.enter_async_context(_process(filled, log, environ))
        try:
            await eventually(lambda: _listens(port), STARTING_S)
        except TimeoutError:
            return dict.fromkeys(stack.expected, f"did not start: {log.read_text()[-2000:]}")
        client = await resources.enter_async_context(browser(serving.url))
        for how in stack.expected:
            before = await scrape(client, serving.admin_url)
            stream = await read(client, f"/ask/{how}", signed())
            after = await scrape(client, serving.admin_url)
            new = [
                name.split('"')[1]
                for name, value in after.items()
                if name.startswith("headgate_tap_calls_total") and value > before[name]
            ]
            shown = stream.texts() == {"summary": TEXT} if stream.status == 200 else False
            found[how] = ", ".join(new) if shown else f"no text: {stream.raw[-500:]!r}"
    return found


async def main() -> int:
    """Print a line for each endpoint; 1 if one is not as expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.stacks", description=__doc__)
    parser.add_argument("venv", type=Path, help="with the packages of requirements/stacks.lock")
    parser.add_argument("--only", default="", help="stacks whose name begins so")
    arguments = parser.parse_args()
    is_right = True
    for stack in STACKS:
        if not stack.name.startswith(arguments.only):
            continue
        with tempfile.TemporaryDirectory(prefix="stacks-") as directory:
            found = await results(stack, arguments.venv.absolute(), Path(directory))
        for how, expected in stack.expected.items():
            sign = "ok  " if found[how] == expected else "FAIL"
            is_right = is_right and found[how] == expected
            click.echo(f"{sign} {stack.name:<52} /ask/{how:<16} {found[how]}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
