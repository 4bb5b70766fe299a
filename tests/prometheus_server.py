"""A real Prometheus on loopback, and a page of a proxy's counters for it to scrape."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from flags.rollout.guardrail_settings import FIRST_CONTENT_S, REQUEST_S
from tests.streaming import eventually, free_port

STARTING_S = 30.0
SCRAPE_S = 0.2

ARMS = ("stream", "control", "rest")
OUTCOMES = ("complete", "fell_back", "failed")


class ProxyPage:
    """A proxy's `/metrics`, as far as rollouts read it. `die` and `live` again: then it counts from zero."""

    def __init__(self, route: str = "start") -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}/metrics"
        self._route = route
        self._server: Any = None

    def live(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self._outcomes = Counter(
            "headgate_outcomes", "…", ["route", "arm", "bucket", "outcome"], registry=registry
        )
        self._settled = Histogram(
            "headgate_settled_seconds", "…", ["route", "arm"], buckets=REQUEST_S, registry=registry
        )
        self._first_content = Histogram(
            "headgate_first_content_seconds",
            "…",
            ["route", "source"],
            buckets=FIRST_CONTENT_S,
            registry=registry,
        )
        self._recoveries = Counter(
            "headgate_recoveries", "…", ["route", "fault", "result"], registry=registry
        )
        self._parity = Counter("headgate_parity", "…", ["route", "result"], registry=registry)
        self._users = Gauge("headgate_users", "…", ["route", "arm"], registry=registry)
        Gauge("headgate_build_info", "…", ["version", "python"], registry=registry).labels("1", "3.11").set(1)
        for arm, bucket, outcome in product(ARMS, range(16), OUTCOMES):
            self._outcomes.labels(self._route, arm, bucket, outcome)
        for arm in ARMS:
            self._settled.labels(self._route, arm)
            self._users.labels(self._route, arm)
        for result in ("equal", "missing"):
            self._parity.labels(self._route, result)
        for result in ("recovered", "failed"):
            self._recoveries.labels(self._route, "reset", result)
        self._first_content.labels(self._route, "tap")
        self._server, self._thread = start_http_server(self.port, "127.0.0.1", registry)

    def die(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def settle(self, arm: str, outcome: str = "complete", *, seconds: float = 1, times: int = 1) -> None:
        """Requests of one arm, of users in the bucket 3."""
        for _ in range(times):
            self._outcomes.labels(self._route, arm, 3, outcome).inc()
            self._settled.labels(self._route, arm).observe(seconds)

    def show(self, first_s: float) -> None:
        self._first_content.labels(self._route, "tap").observe(first_s)

    def compare(self, result: str) -> None:
        self._parity.labels(self._route, result).inc()

    def hit(self, result: str) -> None:
        self._recoveries.labels(self._route, "reset", result).inc()

    def meet(self, arm: str, users: int) -> None:
        self._users.labels(self._route, arm).set(users)


class Prometheus:
    """Started with nothing to scrape; `scrape` says what, by job."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._settings = directory / "prometheus.yml"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._write({})
        with (self._directory / "prometheus.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "prometheus",
                f"--config.file={self._settings}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--web.enable-lifecycle",
                stdout=log,
                stderr=log,
            )
        await eventually(self._is_ready, STARTING_S)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def scrape(self, jobs: dict[str, Sequence[ProxyPage]]) -> None:
        """From now on these and no others."""
        self._write(jobs)
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(f"{self.url}/-/reload")).raise_for_status()

    async def ask(self, query: str) -> list[Any]:
        """The rows of an instant query, now."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{self.url}/api/v1/query", params={"query": query})
            rows: list[Any] = answer.raise_for_status().json()["data"]["result"]
            return rows

    async def shows(self, query: str, value: float) -> None:
        """Wait until a query has just this value."""

        async def does() -> bool:
            return [float(row["value"][1]) for row in await self.ask(query)] == [value]

        await eventually(does)

    def _write(self, jobs: dict[str, Sequence[ProxyPage]]) -> None:
        interval = f"{int(SCRAPE_S * 1000)}ms"
        scrapes = [
            {"job_name": job, "static_configs": [{"targets": [page.address for page in pages]}]}
            for job, pages in jobs.items()
        ]
        settings = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": scrapes,
        }
        self._settings.write_text(yaml.safe_dump(settings))

    async def _is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
                return (await client.get(f"{self.url}/-/ready")).status_code == 200
        except httpx.HTTPError:
            return False


@asynccontextmanager
async def prometheus(directory: Path) -> AsyncIterator[Prometheus]:
    """Started on an empty directory, and gone at the end."""
    server = Prometheus(directory)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


def is_installed() -> bool:
    return shutil.which("prometheus") is not None
