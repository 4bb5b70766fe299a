"""A whole rollout as ops have it: real Unleash, real Prometheus, real proxy under load, the real commands."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from examples.rollout.visitors import Visitors
from tests.rollout.operating import FLAG, ROLLOUT_S, ROOT, Ops, process
from tests.servers import prometheus_server, unleash_server
from tests.servers.ports import free_port
from tests.servers.prometheus_server import prometheus
from tests.servers.unleash_server import ENVIRONMENT, PROJECT, unleash

pytestmark = [
    pytest.mark.skipif(not unleash_server.is_installed(), reason="no Unleash: run tests/services/setup.sh"),
    pytest.mark.skipif(not prometheus_server.is_installed(), reason="no Prometheus: see setup.sh"),
]

EXAMPLE = ROOT / "examples" / "rollout"


@dataclass(frozen=True)
class Page:
    """Of the proxy, for Prometheus."""

    address: str


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
            "unverified_identity": "accepted",
            "evidence": {"prometheus": {"url": scraping.url, "selector": 'job="headgate"'}},
            "hold_back": 5,
            "listen": f"127.0.0.1:{free_port()}",
        }
        # Wide lines, so that a minute is enough, on a busy machine too; the arithmetic is tested elsewhere.
        first_content = policy["guardrails"]["first_content"] | {"limit_s": 30}
        policy["guardrails"] |= {
            "errors": {"harm": 5},
            "slow": {"limit_s": 0.25, "harm": 5},
            "first_content": first_content,
        }
        last = {"share": 95, "at_least": "5s", "prove": False, "approve": True, "min_samples": 10}
        policy["steps"] = [*policy["steps"][:2], last | {"min_users": 5}]
        (directory / "rollout.yaml").write_text(yaml.safe_dump(policy))
        visitors, stop = Visitors(f"http://127.0.0.1:{port}"), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(visitors.ask_until(stop))
            yield Ops(server, directory / "rollout.yaml", f"http://127.0.0.1:{upstream}", environment)
            stop.set()


async def approved(ops: Ops, share: int) -> None:
    """Approve the step where it asks for a person. On a slow machine it may say something else by then, for a
    moment, and does not take the approval."""
    async with asyncio.timeout(ROLLOUT_S):
        code = 1
        while code:
            await ops.until("approval", written=share)
            code, _ = await ops.types("approve", "--by", "ops", "--reason", "the first users are content")


async def test_from_nobody_to_everybody_and_back_when_it_breaks(ops: Ops) -> None:
    """Step by step to 95 %, though the controller is killed on the way; then another one, which harms."""
    assert (await ops.types("status"))[0] == 6
    async with ops.controller("--reason", "the pilot") as controller:
        await approved(ops, 10)
        await ops.reaches(40)
        controller.kill()
        await controller.wait()
    assert await ops.share() == 40
    async with ops.controller():
        await ops.until("complete", written=95)
        assert 'headgate_rollout_share_percent{kind="written"} 95.0' in await ops.metrics()
        assert await ops.share() == 95
        code, _ = await ops.types("rollback", "--by", "ops", "--reason", "another try, on purpose")
        assert code == 0
        await ops.until("rolled_back", written=0)
    assert (await ops.types("status"))[0] == 4

    async with ops.controller("--new", "--reason", "the second try"):
        await approved(ops, 10)
        await ops.reaches(40)
        await ops.types("pause", "--by", "ops", "--reason", "nobody is to get further")
        async with httpx.AsyncClient() as client:
            await client.post(f"{ops.upstream}/break")
        await ops.until("rolled_back", written=0)
        assert await ops.share() == 0

    code, said = await ops.types("replay", "--json")
    assert code == 0, said
    assert json.loads(said)["differences"] == []
    events = (await ops.server.ask("GET", f"/search/events?feature=IS:{FLAG}&limit=100"))["events"]
    updates = [event["data"]["parameters"] for event in events if event["type"] == "feature-strategy-update"]
    shares = [int(update["rollout"]) for update in updates[::-1]]
    # On a slow machine the pause may come after the last step: the way back is the same.
    assert shares in ([10, 40, 95, 0, 10, 40, 0], [10, 40, 95, 0, 10, 40, 95, 0])
