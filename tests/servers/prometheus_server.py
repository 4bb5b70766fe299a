"""A real Prometheus on loopback, and a page of a proxy's counters for it to scrape."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from flags.rollout.policy.guardrail_settings import FIRST_CONTENT_S, REQUEST_S
from tests.servers.client import browser, eventually
from tests.servers.ports import free_port
from tests.servers.programs import Program, says_200
from tests.servers.with_parent import WITH_PARENT

STARTING_S = 180.0
SCRAPE_S = 0.25

ARMS = ("stream", "control", "rest")
OUTCOMES = ("complete", "fell_back", "failed")


class Scraped(Protocol):
    """The page that Prometheus looks at."""

    @property
    def address(self) -> str: ...


EXPECTED = 2.0**-7
"""The chance of failure that a page's users are given."""

CV2 = 2.5
"""How much they differ."""


class ProxyPage:
    """A proxy's `/metrics`, as far as rollouts read it. Begins when told: until then nobody listens."""

    def __init__(self, route: str = "start") -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}/metrics"
        self._route = route
        self._server: Any = None
        self.dates = True
        """Whether it says when it began; older versions did not."""

    def begin(self) -> None:
        """A new process, which counts from zero."""
        registry = CollectorRegistry()
        self.registry = registry
        self._outcomes = Counter(
            "headgate_outcomes", "…", ["route", "arm", "bucket", "outcome"], registry=registry
        )
        self._expected = Counter(
            "headgate_expected_failures", "…", ["route", "arm", "bucket"], registry=registry
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
        Gauge("headgate_users_cv2", "…", ["route"], registry=registry).labels(self._route).set(CV2)
        Gauge("headgate_build_info", "…", ["version", "python"], registry=registry).labels("1", "3.11").set(1)
        self._kill_flag_on = Gauge("headgate_kill_flag_on_timestamp_seconds", "…", registry=registry)
        if self.dates:
            Gauge("process_start_time_seconds", "…", registry=registry).set(time.time())
        for arm, bucket, outcome in product(ARMS, range(16), OUTCOMES):
            self._outcomes.labels(self._route, arm, bucket, outcome)
        for arm, bucket in product(ARMS, range(16)):
            self._expected.labels(self._route, arm, bucket)
        for arm in ARMS:
            self._settled.labels(self._route, arm)
            self._users.labels(self._route, arm)
        for result in ("equal", "missing"):
            self._parity.labels(self._route, result)
        for result in ("recovered", "failed"):
            self._recoveries.labels(self._route, "source_lost", result)
        self._first_content.labels(self._route, "tap")
        self.show_again()

    def show_again(self) -> None:
        """The same process can be reached."""
        self._server, self._thread = start_http_server(self.port, "127.0.0.1", self.registry)

    def hide(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def settle(self, arm: str, outcome: str = "complete", *, seconds: float = 1, times: int = 1) -> None:
        """Requests of one arm, of users in the bucket 3."""
        for _ in range(times):
            self._settled.labels(self._route, arm).observe(seconds)
            self._expected.labels(self._route, arm, 3).inc(EXPECTED)
            self._outcomes.labels(self._route, arm, 3, outcome).inc()  # last: by it tests know a scrape

    def show(self, first_s: float) -> None:
        self._first_content.labels(self._route, "tap").observe(first_s)

    def compare(self, result: str) -> None:
        self._parity.labels(self._route, result).inc()

    def hit(self, result: str) -> None:
        self._recoveries.labels(self._route, "source_lost", result).inc()

    def find_kill_flag_on(self) -> None:
        """Now; it may be off in a moment."""
        self._kill_flag_on.set_to_current_time()

    def meet(self, arm: str, users: int) -> None:
        self._users.labels(self._route, arm).set(users)


class Prometheus(Program):
    """Scrapes the pages of each job; those that nobody serves are down."""

    def __init__(
        self,
        directory: Path,
        jobs: Mapping[str, Sequence[Scraped]],
        rules: Sequence[Path] = (),
        tells: str | None = None,
        scrape_s: float = SCRAPE_S,
    ) -> None:
        self._scrape_s = scrape_s
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._rules = [str(path) for path in rules]
        self._settings = directory / "prometheus.yml"
        self._jobs = jobs
        self._alertmanagers = [tells] if tells else []

    async def start(self) -> None:
        self._write_settings()
        with (self._directory / "prometheus.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(*WITH_PARENT, "prometheus"),
                f"--config.file={self._settings}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                stdout=log,
                stderr=log,
            )
        await eventually(lambda: says_200(f"{self.url}/-/ready"), STARTING_S)

    async def ask(self, query: str) -> list[Any]:
        """The rows of an instant query, now."""
        async with browser() as client:
            answer = await client.get(f"{self.url}/api/v1/query", params={"query": query})
            rows: list[Any] = answer.raise_for_status().json()["data"]["result"]
            return rows

    async def shows(self, query: str, value: float) -> None:
        """Wait until a query has just this value."""

        async def does() -> bool:
            return [float(row["value"][1]) for row in await self.ask(query)] == [value]

        await eventually(does)

    def _write_settings(self) -> None:
        interval = f"{int(self._scrape_s * 1000)}ms"
        scrapes = [
            {"job_name": job, "static_configs": [{"targets": [page.address for page in pages]}]}
            for job, pages in self._jobs.items()
        ]
        settings = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": f"{int(SCRAPE_S * 1000)}ms",
            },
            "rule_files": self._rules,
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": self._alertmanagers}]}]},
            "scrape_configs": scrapes,
        }
        self._settings.write_text(yaml.safe_dump(settings))


@asynccontextmanager
async def prometheus(
    directory: Path,
    jobs: Mapping[str, Sequence[Scraped]],
    rules: Sequence[Path] = (),
    tells: str | None = None,
    scrape_s: float = SCRAPE_S,
) -> AsyncIterator[Prometheus]:
    """Started on an empty directory, and gone at the end. It scrapes first after about five seconds.

    Args:
        tells: address of an Alertmanager that gets its alerts.
        scrape_s: between two scrapes, each of which may take as long.
    """
    server = Prometheus(directory, jobs, rules, tells, scrape_s)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


def is_installed() -> bool:
    return shutil.which("prometheus") is not None
