"""A house that is looked at: a real proxy under load with faults, a rollout's page, and a real Prometheus."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

from flags.rollout.ledger import Act
from flags.rollout.reporting.metrics import RolloutMetrics
from tests.rollout.rolling import Now, Rolling, begun, flag_file, policy
from tests.servers.client import EITHER, browser, eventually, read, scrape, signed
from tests.servers.ports import free_port
from tests.servers.prometheus_server import Prometheus, prometheus
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, flag_document, headgate
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, route
from tests.servers.tapping import CALLS

RULES = Path(__file__).parents[2] / "dashboards" / "rules.yaml"
USERS, QUESTIONS, AT_ONCE = 53, 240, 12
LOOK_S = 30
"""Seconds that queries look back at least."""
PROXY, CONTROLLER = "headgate", "headgate-controller"

KINDS = {3: "500", 7: "lost", 11: "reset", 17: "lost", 23: "replaced", 29: "missing"}
"""Of 30 cases in a row, those that are not good."""

POLLED = route(
    source="poll",
    commit_after=15,
    tap=CALLS,
    poll={
        "path": "/rows/{case_id}",
        "every_ms": 50,
        "row": "$.rows[?@.stage == '{stage}']",
        "updated_at": "$.at",
    },
    sections=[
        {"stage": "extraction", "at": "$.result.extraction", "poll_at": "$.text"},
        {"stage": "summary", "panel": "chat", "at": "$.result.summary", "poll_at": "$.text"},
    ],
)
"""Live text from rows that appear while the call runs. The tap is there to be chosen by a variant."""

MODELS = {
    "providers": [
        {
            "name": "models",
            "url": "http://127.0.0.1:1",
            "models": [{"name": "m", "price": {"input": 1, "output": 2}}],
        }
    ]
}


@dataclass
class Clinic:
    """An upstream that stores stages while it works, and does what the case's number says."""

    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    async def __call__(self, asked: Asked) -> None:
        path = asked.target.decode().split("/")
        if path[1] == "rows":
            await self._look(asked, int(path[2]))
            return
        await asked.read_body()
        await self._work(asked, int(path[3]))

    async def _look(self, asked: Asked, case: int) -> None:
        if _kind(case) == "lost":
            await asked.answer(b"{}", b"500 Oh")
        else:
            await asked.answer(json.dumps({"rows": self.rows.get(case, [])}).encode())

    async def _work(self, asked: Asked, case: int) -> None:
        rows = self.rows.setdefault(case, [])
        shown = {"extraction": EXTRACTION, "summary": SUMMARY}
        if _kind(case) == "replaced":
            shown["summary"] = "Something else."
        for stage, text in shown.items():
            await asyncio.sleep(0.15)  # it works
            rows.append({"stage": stage, "text": text, "at": f"{case}"})
        await asyncio.sleep(0.15)
        match _kind(case):
            case "500":
                await asked.answer(b"{}", b"500 Oh")
            case "reset":
                asked.writer.close()
            case "missing":
                await asked.answer(answer(summary=None))
            case _:
                await asked.answer(answer())


def _kind(case: int) -> str:
    return KINDS.get(case % 30, "good")


@dataclass(frozen=True)
class Page:
    """A page that Prometheus scrapes."""

    address: str


@dataclass(frozen=True)
class Observed:
    """All of it, after the load."""

    server: Prometheus
    serving: Serving
    policy: Path
    """A file, whose journal is a real one's."""
    at_s: float
    """Prometheus' time at the end of the load: a slow machine asks long after it."""
    look_s: int
    """Seconds that queries look back: over all of the load, however long a slow machine took for it."""

    @property
    def variables(self) -> dict[str, str]:
        """Return what Grafana puts in the place of its variables here."""
        return {
            "cluster": ".*",
            "namespace": ".*",
            "job": PROXY,
            "pod": ".*",
            "route": ".*",
            "controller": CONTROLLER,
            "__rate_interval": "10s",
            "__range": f"{2 * self.look_s}s",
        }


async def ask_all(serving: Serving) -> None:
    """The load: half are allowed a stream, some are nobody, and some ask for what is no route."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots, browser(serving.url) as client:
            path = f"/api/cases/{number}/start"
            if number % 12 == 5:
                await client.get("/elsewhere/x/0")
            elif number % 12 == 8:
                await client.post(path, headers={"accept": EITHER})
            else:
                await read(client, path, signed(f"user-{number % USERS}", EITHER))

    await asyncio.gather(*(one(number) for number in range(QUESTIONS)), return_exceptions=True)


@contextmanager
def rollout_page(metrics: CollectorRegistry) -> Iterator[Page]:
    port = free_port()
    server, thread = start_http_server(port, "127.0.0.1", metrics)
    try:
        yield Page(f"127.0.0.1:{port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def roll(directory: Path, show: Callable[[Rolling, Any], None]) -> None:
    """A rollout that was killed in a drill, and another one that is under way, up to now."""
    flag_file(directory / "flags.json")
    rolling = Rolling(directory, policy(directory), now=Now(wall_s=time.time() - 3000))
    async with begun(rolling) as running:
        rolling.wants(Act.KILL, "a drill")
        await running.ticks(1)
        rolling.wants(Act.UNKILL, "the drill is over")
        rolling.edit(lambda flag: flag.update(enabled=False), flag=1)
        await running.ticks(1)
        await running.begin()
        await running.until(25)
        while rolling.now.wall_s < time.time() - 60:
            await running.ticks(1)
        show(rolling, running.controller.state)


@asynccontextmanager
async def observed(directory: Path) -> AsyncIterator[Observed]:
    """Up, loaded, and seen by Prometheus; the load is over."""
    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    rollout = directory / "rollout"
    rollout.mkdir()
    await roll(rollout, lambda rolling, state: metrics.show(state, rolling.policy))
    async with AsyncExitStack() as stack:
        clinic = Clinic()
        upstream = await stack.enter_async_context(ScriptedUpstream(clinic).running())
        flags = flag_document(rollout=50)
        serving = await stack.enter_async_context(
            headgate(upstream.url, directory, flags=flags, routes=[POLLED], llm=MODELS)
        )
        controller = stack.enter_context(rollout_page(registry))
        proxy = Page(serving.admin_url.removeprefix("http://"))
        jobs = {PROXY: [proxy], CONTROLLER: [controller]}
        server = await stack.enter_async_context(prometheus(directory, jobs, [RULES]))
        await eventually(lambda: _is_scraped(server), 30)
        began_s = float((await server.ask("time()"))[1])
        await ask_all(serving)
        await _all_seen(server, serving)
        at_s = float((await server.ask("time()"))[1])
        look_s = max(LOOK_S, math.ceil(at_s - began_s))
        yield Observed(server, serving, _policy_file(rollout), at_s, look_s)


async def _is_scraped(server: Prometheus) -> bool:
    return len(await server.ask("headgate_build_info or headgate_rollout_step")) == 2


async def _all_seen(server: Prometheus, serving: Serving) -> None:
    async with browser() as client:
        samples = await scrape(client, serving.admin_url)
    every = sum(value for name, value in samples.items() if name.startswith("headgate_requests_total{"))
    await server.shows("sum(headgate_requests_total)", every)
    # The rules have been evaluated after that.
    await eventually(lambda: _has_alert(server), 30)


async def _has_alert(server: Prometheus) -> bool:
    return bool(await server.ask('ALERTS{alertname="HeadgateTextWrong",alertstate="firing"}'))


def _policy_file(directory: Path) -> Path:
    """The same policy as a file, for the commands."""
    path = directory / "rollout.yaml"
    agreed = policy(directory)
    said = agreed.model_dump(mode="json", exclude_unset=True)
    for step, written in zip(agreed.steps, said["steps"], strict=True):
        written["at_least"] = f"{step.at_least.total_seconds():.0f}s"
    path.write_text(json.dumps(said))
    return path
