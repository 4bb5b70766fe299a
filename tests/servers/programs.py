"""A program that listens: started, waited for, and gone at the end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.servers.client import eventually
from tests.servers.ports import is_listened_on

STARTING_S = 60.0


@asynccontextmanager
async def listening_program(
    command: Sequence[str], port: int, directory: Path, *, cwd: Path | None = None
) -> AsyncIterator[None]:
    """Until the block is left. What it says is in the directory's `log`, and shown if it does not listen."""
    log = directory / "log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=cwd,
            start_new_session=True,
        )

    async def listens() -> bool:
        assert process.returncode is None, log.read_text()
        return await is_listened_on(port)

    try:
        await eventually(listens, STARTING_S)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
