"""An installation as ops have it, and what they type: for tests of whole rollouts."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.servers.client import browser, eventually
from tests.servers.unleash_server import Unleash
from tests.servers.with_parent import WITH_PARENT

ROOT = Path(__file__).parents[2]
FLAG = "headgate.streaming"
LOOKED_S = 0.5
"""Between two looks at a status, each of which starts a process."""

PAGED_S = 0.1
"""Between two looks at the controller's page."""

SAYS = {"step": "step", "written": 'share_percent{kind="written"}'}
"""Metrics of the controller."""

ROLLOUT_S = 600.0
"""The longest that one of these rollouts may take on a slow machine with much other work."""


@dataclass
class Ops:
    """The things of an operator: the server, the policy, and the commands."""

    server: Unleash
    policy: Path
    upstream: str
    environment: dict[str, str]

    async def types(self, *arguments: str) -> tuple[int, str]:
        """`headgate rollout …`: its exit code, and what it says."""
        command = (sys.executable, "-m", "proxy", "rollout", *arguments, "--policy", str(self.policy))
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=self.environment, stdout=PIPE, stderr=PIPE
        )
        said, complained = await process.communicate()
        assert process.returncode is not None
        return process.returncode, (said or complained).decode()

    async def status(self) -> dict[str, Any]:
        _, said = await self.types("status", "--json")
        assert said.startswith("{"), said
        found: dict[str, Any] = json.loads(said)
        return found

    @asynccontextmanager
    async def controller(self, *arguments: str) -> AsyncIterator[Process]:
        command = (sys.executable, "-m", "proxy", "rollout", "run", *arguments, "--policy", str(self.policy))
        with (self.policy.parent / "controller.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def metrics(self) -> str:
        """The controller's own."""
        listen = yaml.safe_load(self.policy.read_text())["listen"]
        async with browser() as client:
            return (await client.get(f"http://{listen}/metrics", timeout=10)).text

    async def strategies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.server.ask("GET", self.server.strategies_of(FLAG))
        return found

    async def share(self) -> int:
        """Return the share that Unleash has."""
        [strategy] = await self.strategies()
        return int(strategy["parameters"]["rollout"])

    async def until(self, reason: str, **said: int) -> None:
        """Look until the rollout says this of itself: why, and its `step`, or the share that is `written`."""
        lines = {f'reason{{reason="{reason}"}} 1.0'}
        lines |= {f"{SAYS[name]} {value:.1f}" for name, value in said.items()}
        await eventually(lambda: self._shows(lines), ROLLOUT_S, every_s=PAGED_S)

    async def reaches(self, share: int) -> None:
        """Look until it is written."""
        await eventually(lambda: self._shows({f"{SAYS['written']} {share:.1f}"}), ROLLOUT_S, every_s=PAGED_S)

    async def _shows(self, lines: set[str]) -> bool:
        """True if the controller's page has these. It is asked, since each `status` starts a process."""
        try:
            page = await self.metrics()
        except httpx.TransportError:  # it has not begun yet
            return False
        return {f"headgate_rollout_{line}" for line in lines} <= set(page.splitlines())


@asynccontextmanager
async def process(
    *command: str, environment: dict[str, str], ready: str, checkout: Path = ROOT
) -> AsyncIterator[Process]:
    """A part of the installation, up when its address answers."""
    running = await asyncio.create_subprocess_exec(
        *(*WITH_PARENT, sys.executable, "-m", *command), cwd=checkout, env=environment, stdout=DEVNULL
    )

    async def answers() -> bool:
        try:
            async with browser() as client:
                return (await client.get(ready, timeout=10)).is_success
        except httpx.HTTPError:
            return False

    try:
        await eventually(answers, 30)
        yield running
    finally:
        running.terminate()
        await running.wait()
