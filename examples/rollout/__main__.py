"""`headgate demo --rollout`: a healthy rollout, then one whose streaming breaks, with real traffic."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from examples.rollout.visitors import Visitors
from flags.rollout.journal import entries_in
from flags.rollout.ledger import RolloutState, fold
from flags.rollout.moves import MoveReason, RolloutPhase
from flags.rollout.policy.file import load
from flags.rollout.policy.policy import Policy
from flags.rollout.reporting.status import Status, shown, status_of
from proxy.demo import HOST, await_ready, free_ports, process, terminable

HERE = Path(__file__).parent
LOOK_S = 0.5
MOST_S = 75.0
"""Of one rollout, which ends long before unless the machine is too slow for the demo."""


@dataclass(frozen=True, slots=True)
class Places:
    """Addresses and files of the demo."""

    directory: Path
    url: str
    upstream: str
    environment: dict[str, str]

    @property
    def policy(self) -> Path:
        return self.directory / "rollout.yaml"


class Screen:
    """The terminal: lines that stay, and below them the current status."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._began_s = time.monotonic()
        self._last = ""

    def print(self, text: str, style: str = "") -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began_s:5.1f} s[/dim]  {text}", style=style)

    def show(self, status: Status, visitors: Visitors) -> None:
        now = f"{status.written} %  {status.move} ({status.reason})" if status.run and status.reason else ""
        if now and now != self._last:
            self._last = now
            self.print(f"{status.run}  {now}  {status.detail}")
        self._live.update(Group(shown(status, time.time()), _traffic(visitors)), refresh=True)


def _traffic(visitors: Visitors) -> RenderableType:
    answers = visitors.answers
    said = f"visitors: {answers['streamed']:,} answers streamed, {answers['batch']:,} in one piece; "
    part = 100 * answers["none"] / max(1, answers.total())
    return Text(f"{said}{answers['none']:,} had none ({part:.1f} %)", style="dim")


@contextmanager
def running(port: int) -> Iterator[Places]:
    """Upstream and proxy, ready, with the flag at 0 %."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-rollout-")))
        upstream_port, admin_port = stack.enter_context(free_ports(2))
        url, upstream, admin = (f"http://{HOST}:{number}" for number in (port, upstream_port, admin_port))
        places = Places(
            directory,
            url,
            upstream,
            {
                **os.environ,
                "HEADGATE_LISTEN": url.removeprefix("http://"),
                "HEADGATE_ADMIN": admin.removeprefix("http://"),
                "HEADGATE_UPSTREAM": upstream,
                "HEADGATE_METRICS": f"{admin}/metrics",
            },
        )
        os.environ["HEADGATE_METRICS"] = places.environment["HEADGATE_METRICS"]  # for the policy
        for name in ("headgate.yaml", "flags.json", "rollout.yaml"):
            (directory / name).write_text((HERE / name).read_text())
        quiet = ["examples.rollout.upstream", "--port", str(upstream_port)]
        await_ready(f"{upstream}/health", stack.enter_context(process(quiet, places.environment)))
        proxy = ["proxy", "serve", "--config", str(directory / "headgate.yaml")]
        await_ready(f"{admin}/readyz", stack.enter_context(process(proxy, places.environment)))
        yield places


def _command(places: Places, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that an operator types."""
    command = [sys.executable, "-m", "proxy", "rollout", *arguments, "--policy", str(places.policy)]
    return subprocess.run(
        command, env=places.environment, cwd=HERE.parent.parent, capture_output=True, text=True, check=False
    )


def _state(policy: Policy) -> RolloutState:
    return fold(entries_in(policy.journal))


async def rollout(
    places: Places, screen: Screen, visitors: Visitors, *, breaks_at: int | None
) -> RolloutState:
    """One rollout to its end. A person approves where one is asked."""
    policy = load(places.policy)
    before = (await asyncio.to_thread(_state, policy)).run
    run = ["proxy", "rollout", "run", "--new", "--reason", "the demo", "--policy", str(places.policy)]
    broken = breaks_at is None
    with process(run, places.environment, quiet=True):
        deadline = time.monotonic() + MOST_S
        while time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
            state = await asyncio.to_thread(_state, policy)
            if state.run == before:
                continue
            status = status_of(state, policy, time.time())
            screen.show(status, visitors)
            if status.reason == MoveReason.APPROVAL:
                screen.print("         a person: headgate rollout approve", "bold")
                await asyncio.to_thread(_command, places, "approve", "--by", "ops", "--reason", "looks good")
            if not broken and status.written == breaks_at:
                broken = True
                await asyncio.to_thread(httpx.post, f"{places.upstream}/break")
                screen.print("         the upstream's streaming breaks", "bold red")
            if status.reason == MoveReason.COMPLETE or (
                state.phase is RolloutPhase.ROLLED_BACK and not state.share
            ):
                return state
    raise click.ClickException("no end within the time that it should take; is the machine busy?")


async def show(port: int) -> None:
    """Show both rollouts."""
    console = Console()
    with running(port) as places, Live(console=console, auto_refresh=False, transient=True) as live:
        screen, visitors, stop = Screen(console, live), Visitors(places.url), asyncio.Event()
        screen.print("600 users, 60 questions a second, everybody gets the batch answer", "bold")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(visitors.ask_until(stop))
            try:
                healthy = await rollout(places, screen, visitors, breaks_at=None)
                screen.print(f"complete: {healthy.share} % of the users stream", "bold green")
                _command(places, "rollback", "--by", "ops", "--reason", "begin the second part at 0 %")
                screen.print("again from 0 %, and this time it breaks at 40 %", "bold")
                harmed = await rollout(places, screen, visitors, breaks_at=40)
                screen.print(
                    f"rolled back to {harmed.share} %: everybody gets the batch answer", "bold green"
                )
            finally:
                stop.set()
        console.print(_traffic(visitors))
        replayed = _command(places, "replay")
        console.print(f"headgate rollout replay: {replayed.stdout.strip()}")


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
def main(port: int) -> None:
    """Run it."""
    with terminable():
        asyncio.run(show(port))


if __name__ == "__main__":
    main()
