"""`python -m tests.drawn`: the pictures of the dashboards, from a rollout with real traffic that goes wrong.

The demo's upstream, proxy and visitors, the real controller, and a real Prometheus, for about two minutes.
"""

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx

from dashboards.__main__ import HERE
from dashboards.draw import draw, view_of
from examples.rollout.__main__ import Places, running
from examples.rollout.visitors import Visitors
from flags.rollout.journal import entries_in
from flags.rollout.ledger import RolloutState, fold
from flags.rollout.moves import MoveReason
from flags.rollout.policy.file import load
from flags.rollout.policy.policy import Policy
from proxy.demo import process
from tests.dashboards.observed import CONTROLLER, PROXY, RULES, Page
from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.prometheus_server import Prometheus, prometheus

PICTURES = HERE.parent / "docs" / "pictures"
LOOK_S = 0.5
STEP_S = 90.0
"""The longest that one step may take on a slow machine."""

RATE_S = 8.0


class Watching:
    """The rollout as its journal has it, all the time."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._stop = threading.Event()
        self.state = RolloutState()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._follow)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.state = fold(entries_in(self._policy.journal))

    @property
    def reason(self) -> str:
        tick = self.state.last_tick
        return "" if tick is None else tick["move"]["reason"]

    async def until(self, share: int, *, approve: Places | None = None) -> None:
        """This share is written; a person approves where one is asked."""

        async def is_there() -> bool:
            if approve is not None and self.reason == MoveReason.APPROVAL:
                await asyncio.to_thread(command, approve, "approve")
            await asyncio.sleep(LOOK_S)
            return self.state.share == share and self.state.last_tick is not None

        await eventually(is_there, STEP_S)


def command(places: Places, what: str) -> None:
    """Run a command that an operator types."""
    arguments = ["--by", "ops", "--reason", "for the picture", "--policy", str(places.policy)]
    with process(["proxy", "rollout", what, *arguments], places.environment, quiet=True) as typed:
        typed.wait(30)


def pictures(server: Prometheus, began_s: float, *names: str) -> None:
    """All of the same moment: drawing keeps the machine busy, which would be seen."""
    with httpx.Client(base_url=server.url) as http:
        view = view_of(http, time.time() - began_s, RATE_S, {"job": PROXY, "controller": CONTROLLER})
        for name in names:
            draw(HERE / f"{name}.json", PICTURES / f"dashboard-{name}.png", view)
            click.echo(f"{name}: {view.seconds:.0f} s of data")


async def tell(places: Places, server: Prometheus, watching: Watching) -> None:
    """A drill; then a rollout that is drawn on its way, and the rest when its streaming has broken."""
    run = ["proxy", "rollout", "run", "--new", "--reason", "the picture", "--policy", str(places.policy)]
    began_s = time.time()
    with process(run, places.environment, quiet=True):
        await watching.until(10)
        await asyncio.to_thread(command, places, "kill")
        await watching.until(0)
        await asyncio.to_thread(command, places, "unkill")
        await asyncio.sleep(2)
    with process(run, places.environment, quiet=True):
        await watching.until(10)
        await watching.until(40, approve=places)
        await asyncio.sleep(4)
        await asyncio.to_thread(pictures, server, began_s, "rollout")
        await watching.until(70)
        await asyncio.sleep(5)
        await asyncio.to_thread(httpx.post, f"{places.upstream}/break")
        await watching.until(0)
        await asyncio.sleep(5)
        await asyncio.to_thread(pictures, server, began_s, "streams", "compare")


async def show() -> None:
    with running(free_port(3)) as places, tempfile.TemporaryDirectory() as directory:
        controller = Page(f"127.0.0.1:{free_port()}")
        with places.policy.open("a") as policy:
            policy.write(f"listen: {controller.address}\n")
        watching, stop = Watching(load(places.policy)), asyncio.Event()
        visitors = Visitors(places.url)
        with watching.running():
            jobs = {PROXY: [Page(places.environment["HEADGATE_ADMIN"])], CONTROLLER: [controller]}
            async with prometheus(Path(directory), jobs, [RULES]) as server, asyncio.TaskGroup() as tasks:
                tasks.create_task(visitors.ask_until(stop))
                try:
                    await asyncio.sleep(8)  # Prometheus scrapes first after about five seconds
                    await tell(places, server, watching)
                finally:
                    stop.set()


if __name__ == "__main__":
    asyncio.run(show())
