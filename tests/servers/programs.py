"""Programs that listen: started, waited for, killed or held up, and gone at the end."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.servers.client import browser, eventually
from tests.servers.ports import is_listened_on

STARTING_S = 180.0


class Program:
    """A server's process, once somebody has started it."""

    _process: asyncio.subprocess.Process | None = None

    async def stop(self, number: int = signal.SIGKILL) -> None:
        """By this signal; as `kill -9` does, if no other is given."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.send_signal(number)
            await self._process.wait()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


async def says_200(url: str) -> bool:
    """True if a server says so at its page for that."""
    try:
        async with browser() as client:
            return (await client.get(url, timeout=10)).status_code == 200
    except httpx.HTTPError:
        return False


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
