"""A whole rollout as ops have it: real Unleash, real Prometheus, real proxy under load, the real commands."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from examples.rollout.visitors import Visitors
from tests import prometheus_server, unleash_server
from tests.prometheus_server import prometheus
from tests.streaming import eventually, free_port
from tests.unleash_server import ENVIRONMENT, PROJECT, Unleash, unleash

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not unleash_server.is_installed(), reason="no Unleash: run tests/services/setup.sh"),
    pytest.mark.skipif(not prometheus_server.is_installed(), reason="no Prometheus: see setup.sh"),
]

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "rollout"
FLAG = "headgate.streaming"
ROLLOUT_S = 150.0
"""The longest that one of these rollouts may take on a slow machine."""


@dataclass(frozen=True)
class Page:
    """Of the proxy, for Prometheus."""

    address: str


@dataclass
class Ops:
    """What an operator has: the server, the policy, and the commands."""

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
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://{listen}/metrics")).text

    async def strategies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.server.ask("GET", self.server.strategies_of(FLAG))
        return found

    async def share(self) -> int:
        """As Unleash has it."""
        [strategy] = await self.strategies()
        return int(strategy["parameters"]["rollout"])

    async def until(self, reason: str, *, share: int) -> None:
        """Look until the rollout says this of itself; approve what asks for it."""
        await self._until(lambda status: (status["reason"], status["written"]) == (reason, share))

    async def reaches(self, share: int) -> None:
        """Look until it is written."""
        await self._until(lambda status: status["written"] == share)

    async def _until(self, is_there: Callable[[dict[str, Any]], bool]) -> None:
        async with asyncio.timeout(ROLLOUT_S):
            while not is_there(status := await self.status()):
                if status["reason"] == "approval":
                    await self.types("approve", "--by", "ops", "--reason", "the first users are content")
                await asyncio.sleep(0.2)


@asynccontextmanager
async def process(*command: str, environment: dict[str, str], ready: str) -> AsyncIterator[None]:
    """A part of the installation, up when its address answers."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
                return (await client.get(ready)).is_success
        except httpx.HTTPError:
            return False

    try:
        await eventually(answers, 30)
        yield
    finally:
        running.terminate()
        await running.wait()


@pytest.fixture
async def ops(tmp_path: Path) -> AsyncIterator[Ops]:
    async with installation(tmp_path) as ops:
        yield ops


@asynccontextmanager
async def installation(directory: Path) -> AsyncIterator[Ops]:
    """All of it, with visitors who keep asking."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(unleash(directory))
        await server.make_flag(FLAG, 0)
        await server.make_flag("headgate.kill", None, on=False)
        port, admin, upstream = free_port(), free_port(), free_port()
        environment = {
            **os.environ,
            "HEADGATE_LISTEN": f"127.0.0.1:{port}",
            "HEADGATE_ADMIN": f"127.0.0.1:{admin}",
            "HEADGATE_UPSTREAM": f"http://127.0.0.1:{upstream}",
            "UNLEASH_ADMIN_TOKEN": server.admin_token,
        }
        settings = yaml.safe_load((EXAMPLE / "headgate.yaml").read_text())
        settings["flags"] = {
            "unleash": {"url": server.url, "token": server.client_token, "refresh_s": 1},
            "settle_s": 2,
        }
        (directory / "headgate.yaml").write_text(yaml.safe_dump(settings))
        parts = (
            (("examples.rollout.upstream", "--port", str(upstream)), f"http://127.0.0.1:{upstream}/health"),
            (
                ("proxy", "serve", "--config", str(directory / "headgate.yaml")),
                f"http://127.0.0.1:{admin}/readyz",
            ),
        )
        for command, ready in parts:
            await stack.enter_async_context(process(*command, environment=environment, ready=ready))
        scraping = await stack.enter_async_context(
            prometheus(directory, {"headgate": [Page(f"127.0.0.1:{admin}")]})
        )
        policy = yaml.safe_load((EXAMPLE / "rollout.yaml").read_text())
        policy |= {
            "project": PROJECT,
            "environment": ENVIRONMENT,
            "where": {"unleash": {"url": server.url, "token": "${UNLEASH_ADMIN_TOKEN}"}},
            "evidence": {"prometheus": {"url": scraping.url, "selector": 'job="headgate"'}},
            "hold_back": 5,
            "listen": f"127.0.0.1:{free_port()}",
        }
        # Wide lines, so that a minute is enough; the arithmetic is tested elsewhere.
        policy["guardrails"] |= {"errors": {"harm": 5}, "slow": {"limit_s": 0.25, "harm": 5}}
        last = {"share": 95, "at_least": "5s", "prove": False, "approve": True, "min_samples": 10}
        policy["steps"] = [*policy["steps"][:2], last | {"min_users": 5}]
        (directory / "rollout.yaml").write_text(yaml.safe_dump(policy))
        visitors, stop = Visitors(f"http://127.0.0.1:{port}"), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(visitors.ask_until(stop))
            yield Ops(server, directory / "rollout.yaml", f"http://127.0.0.1:{upstream}", environment)
            stop.set()


async def test_from_nobody_to_everybody_and_back_when_it_breaks(ops: Ops) -> None:
    """Step by step to 95 %, though the controller is killed on the way; then another one, which harms."""
    assert (await ops.types("status"))[0] == 6
    async with ops.controller("--reason", "the pilot") as controller:
        await ops.reaches(40)
        controller.kill()
        await controller.wait()
    assert await ops.share() == 40
    async with ops.controller():
        await ops.until("complete", share=95)
        assert 'headgate_rollout_share_percent{kind="written"} 95.0' in await ops.metrics()
        assert await ops.share() == 95
        code, _ = await ops.types("rollback", "--by", "ops", "--reason", "another try, on purpose")
        assert code == 0
        await ops.until("rolled_back", share=0)
    assert (await ops.types("status"))[0] == 4

    async with ops.controller("--new", "--reason", "the second try"):
        await ops.reaches(40)
        async with httpx.AsyncClient() as client:
            await client.post(f"{ops.upstream}/break")
        await ops.until("rolled_back", share=0)
        assert await ops.share() == 0

    code, said = await ops.types("replay", "--json")
    assert code == 0, said
    assert json.loads(said)["differences"] == []
    events = (await ops.server.ask("GET", f"/search/events?feature=IS:{FLAG}&limit=100"))["events"]
    updates = [event["data"]["parameters"] for event in events if event["type"] == "feature-strategy-update"]
    assert [int(update["rollout"]) for update in updates[::-1]] == [10, 40, 95, 0, 10, 40, 0]
