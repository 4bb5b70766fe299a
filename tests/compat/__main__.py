"""Each client asks each framework, directly and through Headgate: what differs is printed."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click

from tests.compat.answers import HOP_BY_HOP
from tests.servers.ports import free_port
from tests.servers.programs import listening_program
from tests.servers.serving import headgate
from tests.servers.unleash_server import NODE
from tests.stacks.backends import NOT_MADE, VENV, is_made

HERE = Path(__file__).parent
BIN = VENV / "bin"
GUNICORN = (str(BIN / "gunicorn"), "--workers", "1", "--threads", "4", "--bind", "127.0.0.1:{port}")
BACKENDS: Mapping[str, tuple[str, ...]] = {
    "FastAPI": (str(BIN / "uvicorn"), "--port", "{port}", "--log-level", "warning", "fastapi_backend:app"),
    "Django": (*GUNICORN, "--log-level", "warning", "django_backend:app"),
    "Flask": (*GUNICORN, "--log-level", "warning", "flask_backend:app"),
    "aiohttp": (str(BIN / "python"), "aiohttp_backend.py", "{port}"),
    "Express": (str(NODE), "express_backend.mjs", "{port}"),
}
PYTHON = (str(BIN / "python"), "python_clients.py")
CLIENTS: Mapping[str, tuple[str, ...]] = {
    **{name: (*PYTHON, name) for name in ("curl", "requests", "httpx", "aiohttp")},
    **{name: (str(NODE), "node_clients.mjs", name) for name in ("undici", "axios")},
    "Java": ("java", "Client.java"),
}
OF_THE_MOMENT = HOP_BY_HOP | {"date"}
BODILESS = {"204", "304"}
"""Headgate leaves their Content-Length out, since RFC 9110 8.6 forbids it, or none could be right but that of
another answer."""


@asynccontextmanager
async def backend(command: tuple[str, ...], directory: Path) -> AsyncIterator[str]:
    """Its address, until the block is left."""
    port = free_port()
    filled = [part.format(port=port) for part in command]
    async with listening_program(filled, port, directory, cwd=HERE):
        yield f"http://127.0.0.1:{port}"


async def answers(command: tuple[str, ...], origins: list[str]) -> dict[tuple[str, str], list[str]]:
    """What a client got, by the origin and the case."""
    client = await asyncio.create_subprocess_exec(
        *command, "cases.tsv", *origins, cwd=HERE, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await client.communicate()
    if client.returncode:
        raise click.ClickException(f"{command} ended with {client.returncode}")
    found = {}
    for line in said.decode("latin-1").strip("\n").split("\n"):
        origin, case, *answer, fields = line.split("\t")
        dropped = OF_THE_MOMENT | ({"content-length"} if answer[0] in BODILESS else set())
        kept = [each for each in fields.split("\x1f") if each.partition(":")[0] not in dropped]
        found[origin, case] = [*answer, *kept]
    return found


async def main() -> int:
    missing = [name for name, command in CLIENTS.items() if not shutil.which(command[0])]
    asked = differ = 0
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pairs = {}
        for name, command in BACKENDS.items():
            (directory / name).mkdir()
            direct = await stack.enter_async_context(backend(command, directory / name))
            # Then the backend sees no more than what the client has sent.
            as_sent = {"forwarding": {"x_forwarded": "off"}}
            gate = await stack.enter_async_context(headgate(direct, directory / name, upstream=as_sent))
            pairs[name] = direct, gate.url
        for client, command in CLIENTS.items():
            if client in missing:
                continue
            found = await answers(command, [origin for pair in pairs.values() for origin in pair])
            for name, (direct, through) in pairs.items():
                cases = [case for origin, case in found if origin == direct]
                asked += len(cases)
                for case in cases:
                    want, got = found[direct, case], found.get((through, case))
                    if want != got:
                        differ += 1
                        click.echo(f"{client}, {name}, {case}:\n  direct  {want}\n  through {got}")
    ways = f"{len(CLIENTS) - len(missing)} clients, {len(BACKENDS)} frameworks"
    click.echo(f"{asked} requests of {ways}, directly and through Headgate: {differ} answers differ.")
    if missing:
        click.echo(f"not here, so not tried: {', '.join(missing)}")
    return 1 if differ or not asked else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()) if is_made() else NOT_MADE)
