"""The first Monday, played in two minutes: all that ops have is real, and the commands are the docs' own.

It begins on an earlier release, and is upgraded in the middle, proxy by proxy, with readers at both.

`make monday` prints its timeline; a test says what must be true of it. Time is hastened: what the rules
call a minute is three seconds, and the policy's steps last seconds. Upstream and readers are played.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import yaml

from tests.project.shell_blocks import commands
from tests.rollout.operating import FLAG, ROOT, Ops, process
from tests.rollout.readers import USERS, Readers
from tests.servers.alertmanager_server import OnCall, alertmanager
from tests.servers.authority import certificates
from tests.servers.corporate_proxy import CorporateProxy, behind_tls
from tests.servers.otlp_receiver import OtlpReceiver
from tests.servers.ports import free_port
from tests.servers.prometheus_server import Prometheus, prometheus
from tests.servers.release_before import is_known, release_before
from tests.servers.streaming import eventually
from tests.servers.unleash_server import ENVIRONMENT, PROJECT, unleash
from tests.servers.valkey_server import valkey
from tests.servers.with_parent import WITH_PARENT

EXAMPLE = ROOT / "examples" / "rollout"
ALERT = "HeadgateAnswersFail"
"""The alert that must ring when the streams of one arm break off."""

HANDBOOK = ROOT / "docs" / "first-monday.md"
RUNBOOK = ROOT / "docs" / "runbooks" / f"{ALERT}.md"

OUTSIDE = ("unleash.test", "prometheus.test", "collector.test")
"""Servers that only the corporate proxy finds."""

CREDENTIAL = "house:word"

SCRAPED_S = 1.0
"""Between two scrapes; so long may one take. A quarter of a second is too little on a busy machine."""

FAILING = 0.005
HEALTHY_S = 8.0
"""At 25 %, before it breaks."""

DAY_S = 120.0
"""The longest wait for any one thing of the day."""

HASTE = 20
"""The rules' windows are so many times shorter: 5 minutes are 15 seconds."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PROXIES = 2

MIXED = 5
"""So many streamed answers are read at both an old and a new proxy."""


@dataclass
class Day:
    """The servers of the day, and what has happened."""

    ops: Ops
    readers: Readers
    on_call: OnCall
    environment: dict[str, str]
    say: Callable[[str], None]
    out: CorporateProxy
    """Between Headgate and all that is not in its own house."""
    collector: OtlpReceiver
    proxies: "list[ProxyPlace]"
    cause: str = ""
    """The output of the runbook's commands."""
    began_s: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    """What `headgate --version` said, before the upgrade and after it."""
    shown: dict[str, float] = field(default_factory=dict)
    """Percent of users, at two moments of the drill."""
    typed: set[str] = field(default_factory=set)
    """Commands, as they stand in the docs."""

    def mark(self, what: str, said: str) -> None:
        """Note when it was, in seconds from the beginning, and say it."""
        self.marks[what] = time.monotonic() - self.began_s
        self.say(f"{self.marks[what]:6.1f} s  {said}")

    async def types(self, beginning: str) -> str:
        """The command of the docs that begins like this, as it stands there. Returns what it says."""
        running = await self._begins(beginning, PIPE)
        said, _ = await running.communicate()
        assert running.returncode in CODES.get(beginning, (0,)), f"{beginning}: {said.decode()}"
        return said.decode()

    @asynccontextmanager
    async def runs(self, beginning: str) -> AsyncIterator[None]:
        """The command that goes on, in the background; ended as a terminal or Kubernetes ends it."""
        said = self.ops.policy.parent / "controller.log"
        with said.open("ab") as log:
            running = await self._begins(beginning, log)
        try:
            yield
        finally:
            assert running.returncode is None, f"it has ended: {said.read_text()[-2000:]}"
            running.terminate()
            await running.wait()

    async def _begins(self, beginning: str, output: Any) -> Process:
        command = documented(beginning)
        self.typed.add(command)
        return await asyncio.create_subprocess_exec(
            *(*WITH_PARENT, "bash", "-o", "pipefail", "-c"),
            f"exec {hurried(command)}" if "|" not in command else command,
            cwd=self.ops.policy.parent,
            env=self.environment,
            stdout=output,
            stderr=STDOUT,
        )


CODES = {
    "headgate rollout status": (0, 3, 4),
    "headgate rollout plan": (0, 1),
    "headgate rollout resume": (0, 1),
    "headgate rollout approve": (0, 1),
}
"""Exit codes that are no mistake, where they are not only 0. A day of a minute is too short for plans, and a
controller that has just begun, or sees something new, must look first."""


def hurried(command: str) -> str:
    """Return a command with a shorter look at the traffic than ten minutes."""
    return command.replace("--seconds 600", "--seconds 5")


def documented(beginning: str) -> str:
    """The first command of the handbook, or of the alert's runbook, that begins so."""
    for command in commands(HANDBOOK, RUNBOOK):
        if command.startswith(beginning):
            return command
    raise LookupError(f"the docs have no command that begins with {beginning}")


def hastened(rules: str) -> str:
    """The rules with shorter windows and waits, and the same thresholds."""

    def shorter(found: re.Match[str]) -> str:
        milliseconds = int(found[2]) * SECONDS[found[3]] * 1000 // HASTE
        return f"{found[1]}{milliseconds}ms"

    return re.sub(r"(\[|for: |interval: )(\d+)([smhd])\b", shorter, rules)


@asynccontextmanager
async def morning(directory: Path, say: Callable[[str], None]) -> AsyncIterator[Day]:
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
        (directory / "headgate.yaml").write_text(yaml.safe_dump(settings(store.url, ca_file)))
        before = release_before(directory) if is_known() else ROOT
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
        controller = Address(f"127.0.0.1:{free_port()}")
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
        readers, stop = Readers([f"http://{place.public}" for place in places]), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(readers.ask_until(stop))
            yield Day(ops, readers, on_call, typed, say, out, collector, places)
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

    async def start(self, checkout: Path) -> None:
        ready = f"http://{self.address}/readyz"
        served = process(*self._serve, environment=self._environment, ready=ready, checkout=checkout)
        self.parent = (await self._running.enter_async_context(served)).pid

    async def stop(self) -> None:
        await self._running.aclose()


def upstream(environment: Mapping[str, str]) -> AbstractAsyncContextManager[Process]:
    url = environment["HEADGATE_UPSTREAM"]
    play = ("--port", url.rpartition(":")[2], "--failing", str(FAILING))
    return process("examples.rollout.upstream", *play, environment=dict(environment), ready=f"{url}/health")


def settings(store_url: str, ca_file: Path) -> dict[str, Any]:
    """The example's, with Unleash and a store; a private authority has signed all that is outside."""
    found: dict[str, Any] = yaml.safe_load((EXAMPLE / "headgate.yaml").read_text())
    return found | {
        "admin_token": "${HEADGATE_ADMIN_TOKEN}",
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


async def monday(directory: Path, say: Callable[[str], None]) -> Day:
    """The whole day. Raises TimeoutError when something that must happen does not."""
    async with morning(directory, say) as day:
        day.mark("up", f"{PROXIES} proxies, Unleash, Redis, Prometheus, Alertmanager; {USERS} users ask")
        await week_before(day)
        await nine_o_clock(day)
        async with day.runs("headgate rollout run --new"):
            await first_users(day)
            await proxies_are_upgraded(day)
        async with day.runs("headgate rollout run --reason"):
            await a_quarter(day)
            await it_breaks(day)
        await evening(day)
    return day


async def week_before(day: Day) -> None:
    """Try everything before anybody streams."""
    await day.types("headgate check")
    await day.types("amtool alert add HeadgateDrill")
    await eventually(lambda: ("HeadgateDrill", "critical") in day.on_call.told, DAY_S)
    day.say(await day.types("headgate rollout plan"))
    day.mark("tried", "the settings are checked, the drill has come, the plan is looked at")


async def nine_o_clock(day: Day) -> None:
    """The beginning, and the drill of the way back."""

    async def killed() -> bool:
        return "=>" in await day.types("promtool query instant $PROMETHEUS 'sum by (route)")

    await day.types("curl -fsS $ADMIN/readyz")
    async with day.runs("headgate rollout run --reason"):
        await within(day.ops.reaches(5))
        day.mark("begun", "5 % in the dark: the controller has begun")
        await day.types("headgate rollout status")
        day.shown["in the dark"] = await shown(day)
        await day.types("headgate rollout kill")
        await eventually(killed, DAY_S)
        await day.types("headgate rollout unkill")
        await within(day.ops.reaches(0))
        day.mark("drill", "the kill switch has been tried: everybody got batch")


async def shown(day: Day) -> float:
    """Percent of users who are shown something, by the flag's own evaluation."""
    return float((await day.ops.status())["in_force"]["expected"])


async def first_users(day: Day) -> None:
    """A person's yes, and the first users."""
    await approved(day, step=1)
    await within(day.ops.until("approval", step=2))
    day.shown["after the drill"] = await shown(day)
    day.mark("first", "5 %: the first users")
    await day.types("headgate rollout pause")


async def approved(day: Day, *, step: int) -> None:
    """A person approves what the controller has asked for; looks again, if it says something else by then."""

    async def is_taken() -> bool:
        status = await day.ops.status()
        if status["step"] == step and status["reason"] == "approval":
            await day.types("headgate rollout approve")
        return bool(status["step"] > step)

    await eventually(is_taken, DAY_S)


async def proxies_are_upgraded(day: Day) -> None:
    """One after the other, under the users' hands; then what only the new release has is turned on."""
    day.releases.append(await day.types("headgate --version"))
    directory = day.ops.policy.parent
    first, *others = day.proxies
    await _replace(day, first)
    day.mark("mixed", "one proxy is new, the other is old: both serve, on one store")
    so_far = day.readers.elsewhere["too"]
    await eventually(lambda: day.readers.elsewhere["too"] >= so_far + MIXED, DAY_S)
    for place in others:
        await _replace(day, place)
    command_in(directory, ROOT)
    day.releases.append(await day.types("headgate --version"))
    found = yaml.safe_load((directory / "headgate.yaml").read_text())
    found["traces"] = {"endpoint": "https://collector.test/v1/traces", "ratio": 0.2}
    (directory / "headgate.yaml").write_text(yaml.safe_dump(found))
    await day.types("headgate check")
    for place in day.proxies:
        os.kill(place.parent, signal.SIGHUP)
    await eventually(lambda: bool(day.collector.spans), DAY_S)
    await eventually(lambda: _counts(day, PROXIES), DAY_S)
    day.mark("upgraded", "both are new, and traces are turned on; now the controller is upgraded")


async def _replace(day: Day, place: ProxyPlace) -> None:
    """As Kubernetes does it: its endpoints forget a pod, then it is told to end, and drains."""
    url = f"http://{place.public}"
    day.readers.leaving.add(url)
    await eventually(lambda: not day.readers.unheard[url], DAY_S)
    await place.stop()
    await place.start(ROOT)
    day.readers.leaving.clear()


async def _counts(day: Day, proxies: int) -> bool:
    return f"=> {proxies} @" in await day.types("promtool query instant $PROMETHEUS 'count by (version)")


async def a_quarter(day: Day) -> None:
    """The new controller goes on by the journal of the old one: a quarter of all for a while."""

    async def is_resumed() -> bool:
        """Not at once: a controller that has just begun must have looked."""
        is_paused = (await day.ops.status())["phase"] == "paused"
        if is_paused:
            await day.types("headgate rollout resume")
        return not is_paused

    await eventually(is_resumed, DAY_S)
    await within(day.ops.until("approval", step=2))
    day.shown["after the upgrade"] = await shown(day)
    await approved(day, step=2)
    await within(day.ops.reaches(25))
    day.mark("quarter", "25 %: somebody has looked at the first users, and approved")
    await asyncio.sleep(HEALTHY_S)
    assert (ALERT, "critical") not in day.on_call.told, "it rang before anything was wrong"


async def it_breaks(day: Day) -> None:
    """The streams of the upstream break off; what rings, what goes back, and what the runbook finds."""
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{day.ops.upstream}/break")
    day.mark("fault", "the upstream's streams now break off in the middle; its batch answers do not")
    async with asyncio.TaskGroup() as waits:
        waits.create_task(within(_rung(day)))
        waits.create_task(within(_back(day)))
    queries = [command for command in commands(RUNBOOK) if command.startswith("promtool")]
    day.cause = "\n".join([await day.types(query) for query in queries])
    day.mark("cause", "the runbook of the alert has found the cause:")
    day.say(day.cause)


async def evening(day: Day) -> None:
    """A second try is begun and rolled back by hand; then the journal is made to tell it all again."""
    async with day.runs("headgate rollout run --new"):
        await within(day.ops.reaches(5))
        await day.types("headgate rollout rollback")
        await within(day.ops.until("rolled_back", written=0))
    day.say(await day.types("headgate rollout replay"))
    day.mark("evening", "another try was rolled back by hand; the readers go home")


async def within(waited_for: Awaitable[None]) -> None:
    async with asyncio.timeout(DAY_S):
        await waited_for


async def _rung(day: Day) -> None:
    await eventually(lambda: (ALERT, "critical") in day.on_call.told, DAY_S)
    day.mark("alert", f"the webhook of who is on call gets {ALERT}, as critical")


async def _back(day: Day) -> None:
    await day.ops.until("rolled_back", written=0)
    day.mark("rollback", "0 %: the controller has rolled back")


def summary(day: Day) -> str:
    """The figures of the day."""
    since = {what: day.marks[what] - day.marks["fault"] for what in ("alert", "rollback")}
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(day.readers.answered.items()))
    before, after = (release.strip().rpartition(" version ")[2] for release in day.releases)
    rang = ", ".join(sorted(f"{name} ({severity})" for name, severity in day.on_call.told))
    return (
        f"Upgraded from {before} to {after}. What rang: {rang}. "
        f"From the fault to the alert {since['alert']:.1f} s, to the rollback {since['rollback']:.1f} s. "
        f"Answers: {kinds}; {day.readers.unanswered} never came, {len(day.readers.wrong)} were wrong. "
        f"{len(day.readers.noticed)} of {USERS} users saw an answer break off, and had it on asking again."
    )


@click.command()
def main() -> None:
    """Play it, and print what happens."""
    with tempfile.TemporaryDirectory() as directory:
        click.echo(summary(asyncio.run(monday(Path(directory), click.echo))))


if __name__ == "__main__":
    main()
