"""The servers of the day, all up before anybody comes, and the readers who ask all day."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.monday.day import DAY_S, Day
from tests.monday.looks import operators_pages
from tests.rollout.operating import FLAG, ROOT, Ops, process
from tests.rollout.readers import Readers
from tests.servers.alertmanager_server import OnCall, alertmanager
from tests.servers.authority import certificates
from tests.servers.client import eventually
from tests.servers.corporate_proxy import CorporateProxy, behind_tls
from tests.servers.otlp_receiver import OtlpReceiver
from tests.servers.ports import free_port
from tests.servers.prometheus_server import Prometheus, prometheus
from tests.servers.release_before import is_known, release_before, this_release
from tests.servers.unleash_server import ENVIRONMENT, PROJECT, unleash
from tests.servers.valkey_server import valkey

EXAMPLE = ROOT / "examples" / "rollout"

OUTSIDE = ("unleash.test", "prometheus.test", "collector.test")
"""Servers that only the corporate proxy finds."""

CREDENTIAL = "house:word"

SCRAPED_S = 1.0
"""Between two scrapes; so long may one take. A quarter of a second is too little on a busy machine."""

FAILING = 0.005

HASTE = 20
"""The rules' windows are so many times shorter: 5 minutes are 15 seconds."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PROXIES = 2


def hastened(rules: str) -> str:
    """The rules with shorter windows and waits, and the same thresholds."""

    def shorter(found: re.Match[str]) -> str:
        milliseconds = int(found[2]) * SECONDS[found[3]] * 1000 // HASTE
        return f"{found[1]}{milliseconds}ms"

    return re.sub(r"(\[|for: |interval: )(\d+)([smhd])\b", shorter, rules)


@asynccontextmanager
async def morning(directory: Path, say: Callable[[str], None], pictures: Path) -> AsyncIterator[Day]:
    """Unleash, Redis, Alertmanager, Prometheus, the upstream and two proxies, all up, and readers who ask."""
    on_call, collector = OnCall(), OtlpReceiver()
    ca_file, served = certificates(directory, names=[*OUTSIDE])
    out = CorporateProxy(credential=CREDENTIAL)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(out.running())
        await stack.enter_async_context(collector.running(tls=served))
        server = await stack.enter_async_context(unleash(directory))
        await server.make_flag(FLAG, 0)
        await server.make_flag("headgate.kill", None, on=False)
        store = await stack.enter_async_context(valkey(directory, binary="redis-server"))
        environment = {
            **os.environ,
            "HEADGATE_UPSTREAM": f"http://127.0.0.1:{free_port()}",
            "UNLEASH_ADMIN_TOKEN": server.admin_token,
            "UNLEASH_CLIENT_TOKEN": server.client_token,
            "HEADGATE_VALKEY_KEY": "a key of the tests, of 32 characters or more",
            "HEADGATE_ADMIN_TOKEN": "the-admin-token-of-the-tests",
            "HTTPS_PROXY": out.url.replace("//", f"//{CREDENTIAL}@"),
        }
        controller = Address(f"127.0.0.1:{free_port()}")
        found = settings(store.url, ca_file, controller.address)
        (directory / "headgate.yaml").write_text(yaml.safe_dump(found))
        release = this_release(directory)
        before = release_before(directory) if is_known() else release
        unleash_port = await stack.enter_async_context(behind_tls(server.port, served))
        out.places = {"unleash.test:443": unleash_port, "collector.test:443": collector.server.port}
        await stack.enter_async_context(upstream(environment))
        places = [ProxyPlace(directory, environment) for _ in range(PROXIES)]
        for place in places:
            stack.push_async_callback(place.stop)
            await place.start(before)
        alerts = await stack.enter_async_context(alertmanager(directory, on_call))
        rules = directory / "rules.yaml"
        rules.write_text(hastened((ROOT / "dashboards" / "rules.yaml").read_text()))
        jobs = {"headgate": [*places, controller]}
        scraping = await stack.enter_async_context(
            prometheus(directory, jobs, [rules], alerts, scrape_s=SCRAPED_S)
        )
        port = int(scraping.url.rpartition(":")[2])
        out.places |= {"prometheus.test:443": await stack.enter_async_context(behind_tls(port, served))}
        await eventually(lambda: _sees(scraping, PROXIES), DAY_S)
        on_call.told.clear()  # of the night, when a Prometheus that was just started had seen nobody
        (directory / "rollout.yaml").write_text(yaml.safe_dump(policy(controller.address, ca_file)))
        typed = environment | {
            "PATH": f"{command_in(directory, before)}:{os.environ['PATH']}",
            "ADMIN": f"http://{places[0].address}",
            "ALERTMANAGER": f"http://{alerts}",
            "HEADGATE_LISTEN": places[0].public,
            "HEADGATE_ADMIN": places[0].address,
            "PROMETHEUS": scraping.url,
        }
        ops = Ops(server, directory / "rollout.yaml", environment["HEADGATE_UPSTREAM"], environment)
        pages = await stack.enter_async_context(operators_pages(pictures))
        readers, stop = Readers([f"http://{place.public}" for place in places]), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(readers.ask_until(stop))
            yield Day(ops, readers, on_call, typed, say, out, collector, places, pages, release)
            stop.set()


@dataclass(frozen=True)
class Address:
    """Where Prometheus looks."""

    address: str


class ProxyPlace:
    """Where a proxy is, of one release or another."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.public, self.address = (f"127.0.0.1:{free_port()}" for _ in range(2))
        own = {"HEADGATE_LISTEN": self.public, "HEADGATE_ADMIN": self.address}
        self._environment = {**environment, **own}
        self._serve = ("proxy", "serve", "--config", str(directory / "headgate.yaml"))
        self._running = AsyncExitStack()
        self.parent = 0
        """Its process id."""
        self.release = ""
        """As the release itself says it."""

    async def start(self, checkout: Path) -> None:
        ready = f"http://{self.address}/readyz"
        served = process(*self._serve, environment=self._environment, ready=ready, checkout=checkout)
        self.parent = (await self._running.enter_async_context(served)).pid
        [build] = await self._samples("headgate_build_info")
        self.release = build.labels["version"]

    async def stop(self) -> None:
        await self._running.aclose()

    async def ready(self) -> dict[str, Any]:
        """What `/readyz` says."""
        found: dict[str, Any] = json.loads(await self._asked("readyz"))
        return found

    async def streamed(self) -> int:
        """Requests that were decided to be streamed, since it began."""
        samples = await self._samples("headgate_requests_total")
        return int(sum(each.value for each in samples if each.labels["mode"] == "stream"))

    async def _samples(self, name: str) -> list[Sample]:
        families = text_string_to_metric_families(await self._asked("metrics"))
        return [each for family in families for each in family.samples if each.name == name]

    async def _asked(self, path: str) -> str:
        async with httpx.AsyncClient(trust_env=False, timeout=DAY_S) as client:
            return (await client.get(f"http://{self.address}/{path}")).text


def upstream(environment: Mapping[str, str]) -> AbstractAsyncContextManager[Process]:
    url = environment["HEADGATE_UPSTREAM"]
    play = ("--port", url.rpartition(":")[2], "--failing", str(FAILING))
    return process("examples.rollout.upstream", *play, environment=dict(environment), ready=f"{url}/health")


def settings(store_url: str, ca_file: Path, controller: str) -> dict[str, Any]:
    """The example's, with Unleash, a store and a controller; a private authority has signed all outside."""
    found: dict[str, Any] = yaml.safe_load((EXAMPLE / "headgate.yaml").read_text())
    return found | {
        "admin_token": "${HEADGATE_ADMIN_TOKEN}",
        "controller": f"http://{controller}",
        "flags": {
            "unleash": {"url": "https://unleash.test", "token": "${UNLEASH_CLIENT_TOKEN}", "refresh_s": 1},
            "settle_s": 2,
        },
        "tls": {"ca_file": str(ca_file)},
        "event_log": {"valkey": {"url": store_url, "key": "${HEADGATE_VALKEY_KEY}"}},
    }


def command_in(directory: Path, checkout: Path) -> Path:
    """A folder with `headgate`, which is a checkout's."""
    folder = directory / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "headgate").write_text(
        f'#!/bin/sh\nPYTHONPATH={checkout} exec {sys.executable} -m proxy "$@"\n'
    )
    (folder / "headgate").chmod(0o755)
    return folder


async def _sees(server: Prometheus, proxies: int) -> bool:
    return len(await server.ask("headgate_build_info")) == proxies


def policy(listen: str, ca_file: Path) -> dict[str, Any]:
    """Dark, then five percent, which a person approves each; then a quarter, which must prove itself."""
    found: dict[str, Any] = yaml.safe_load((EXAMPLE / "rollout.yaml").read_text())
    return found | {
        "project": PROJECT,
        "environment": ENVIRONMENT,
        "tls": {"ca_file": str(ca_file)},
        "where": {"unleash": {"url": "https://unleash.test", "token": "${UNLEASH_ADMIN_TOKEN}"}},
        "unverified_identity": "accepted",
        "evidence": {"prometheus": {"url": "https://prometheus.test", "selector": 'job="headgate"'}},
        "hold_back": 5,
        "listen": listen,
        "steps": [
            {"share": 0, "at_least": "4s", "prove": False, "approve": True, "min_users": 3, "min_samples": 5},
            {"share": 5, "at_least": "4s", "prove": False, "approve": True, "min_users": 3, "min_samples": 5},
            {"share": 25, "at_least": "1h", "min_users": 10, "min_samples": 100},
            {"share": 50, "at_least": "1h", "min_users": 10, "min_samples": 100},
        ],
        "guardrails": found["guardrails"] | {"slow": {"limit_s": 5, "harm": 5}, "early": {"rate": 0.02}},
    }
