"""One upstream, two Headgates, and rounds played against them, many at once."""

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.faults import invariants
from tests.faults.cases import healthy
from tests.faults.door import Door, quick
from tests.faults.invariants import Counts
from tests.faults.upstream import TIMEOUTS, Case, FaultyUpstream, Round, routes
from tests.faults.viewers import CONTENT, USER, Client, Saw, Stay
from tests.servers.client import browser, eventually, scrape
from tests.servers.serving import Serving, headgate

AT_ONCE = 32
BACK_S = 2.0
"""By then everything that a round has taken is given back."""

SETTINGS: dict[str, Any] = {
    "attach_wait_s": 0.1,
    "identity": {"jwt": None, "header": USER},
    "event_log": {"memory": {"runs": 256}},
    # Rounds fail one after another, which is what they are for.
    "upstream": {
        "timeouts": TIMEOUTS,
        "pool": {"keep_alive_s": 0.5},
        "breaker": {"failures": 1000, "window_s": 0.001, "open_s": 0.001},
    },
}


@dataclass
class Result:
    """One round as it ended."""

    kind: str
    """The class of its fault."""
    phase: str
    answer_existed: bool
    delivered: bool
    problems: list[str]
    route: str = ""

    def __str__(self) -> str:
        return f"{self.route or 'client'}: {self.kind} ({self.phase}): {'; '.join(self.problems)}"


@dataclass
class House:
    """Everything that rounds need. `door` is the second Headgate's, where connections can be refused."""

    upstream: FaultyUpstream
    gate: Serving
    door_gate: Serving
    door: Door
    admin: httpx.AsyncClient
    faults: Counts = field(default_factory=Counter)
    """The injector's own count so far, as the metrics should have it."""
    recoveries: Counts = field(default_factory=Counter)

    @property
    def client(self) -> Client:
        return Client(self.gate.url)

    @property
    def gates(self) -> list[Serving]:
        return [self.gate, self.door_gate]

    async def play(self, case: Case, dice: random.Random, manner: "Manner | None" = None) -> Result:
        """One round from its request to the end of its run, and what was wrong with it."""
        with self.upstream.round(case, dice) as round_:
            if case.refusals:
                async with self.door.refusing(round_):
                    saw, events = await watches(Client(self.door_gate.url), round_)
            else:
                saw, events = await (manner or watches)(self.client, round_)
            await self.run_ended(round_.run)
            problems = [
                *round_.problems,
                *saw.problems,
                *invariants.of_an_end(saw, events, round_),
                *invariants.of_the_outcome(saw, events, round_),
                *invariants.of_the_calls(round_),
                *invariants.of_the_log(round_),
            ]
            delivered = invariants.has_answer(events, round_)
            self.count(round_, complete=delivered)
            return Result(case.name, case.phase, case.answer_exists, delivered, problems, case.route)

    def count(self, round_: Round, *, complete: bool) -> None:
        """Remember what the metrics must say of a round."""
        faults, recoveries = invariants.counted(round_, complete=complete)
        self.faults += faults
        self.recoveries += recoveries

    async def run_ended(self, run: str) -> None:
        """Wait until a run is no longer in flight anywhere."""
        lives = [gate.app.runs._live for gate in self.gates]
        await eventually(lambda: not any(each.id == run for live in lives for each in live.values()))

    async def metrics(self) -> tuple[Counts, Counts]:
        """`headgate_faults_total` and `headgate_recoveries_total` of both Headgates."""
        faults: Counts = Counter()
        recoveries: Counts = Counter()
        for gate in self.gates:
            for sample, value in (await scrape(self.admin, gate.admin_url)).items():
                labels = dict(re.findall(r'(\w+)="([^"]*)"', sample))
                if sample.startswith("headgate_faults_total{"):
                    faults[labels["route"], labels["fault"], labels["phase"]] += int(value)
                elif sample.startswith("headgate_recoveries_total{"):
                    recoveries[labels["route"], labels["fault"], labels["result"]] += int(value)
        return faults, recoveries

    async def miscounted(self) -> list[str]:
        """Return where the metrics and the injector's own count differ."""
        faults, recoveries = await self.metrics()
        return [
            *invariants.of_metrics("faults", self.faults, faults),
            *invariants.of_metrics("recoveries", self.recoveries, recoveries),
        ]

    def resources(self) -> dict[str, int]:
        """Everything that a round may take and must give back."""
        found = {
            "tasks": len(asyncio.all_tasks()),
            "file descriptors": len(os.listdir("/proc/self/fd")),
            "connections at the upstream": self.upstream.open,
        }
        for gate in self.gates:
            runs = gate.app.runs
            mine = {
                "upstream slots": gate.app.gateway.relay._upstream.in_use,
                "runs in flight": len(runs._live) + len(runs._live_of) + len(runs._tasks),
                "viewers": len(runs._viewers),
                "waiting viewers": len(runs._waiters) + len(runs._waiters._waiting),
                "grace timers": len(runs._grace),
                "readers of logs": sum(len(run.log._readers) for run in runs._kept),
                "runs by target": len(runs._by_target) + len(runs._joinable),
                "runs of routes": sum(runs._capacity._on_route.values()) + len(runs._capacity._of_principal),
                "open streams": sum(
                    int(counted.viewers._value.get())
                    for counted in gate.app.gateway.metrics.by_route.values()
                ),
            }
            for name, value in mine.items():
                found[name] = found.get(name, 0) + value
        return found

    async def left_over(self, baseline: dict[str, int]) -> dict[str, int]:
        """Return what has not come back within its time."""

        def more() -> dict[str, int]:
            return {name: value for name, value in self.resources().items() if value > baseline[name]}

        try:
            await eventually(lambda: not more(), within_s=BACK_S)
        except TimeoutError:
            return more()
        return {}


Manner = Callable[[Client, Round], Awaitable[tuple[Saw, list[dict[str, object]]]]]
"""A function that reads a round's run as a client does: its last answer, and all events over all its
connections."""


def tells(round_: Round) -> Callable[[Saw], None]:
    """Lets the round's acts know how far the viewer is."""

    def heard(saw: Saw) -> None:
        if saw.is_stream:
            round_.headers.set()
        if any(event["type"] in CONTENT for event in saw.events):
            round_.content.set()

    return heard


async def watches(client: Client, round_: Round) -> tuple[Saw, list[dict[str, object]]]:
    """From the first byte to the last."""
    saw = await client.view(client.start(round_.case.prefix, round_.run), tells(round_))
    return saw, saw.events


async def comes_and_goes(
    client: Client, round_: Round, times: int = 4
) -> tuple[Saw, list[dict[str, object]]]:
    """Leaves somewhere, at any byte, and comes back with its cursor, again and again."""
    events: list[dict[str, object]] = []
    problems: list[str] = []
    request, cursor = client.start(round_.case.prefix, round_.run), None
    for turn in range(times + 1):
        stay = Stay(body_bytes=round_.dice.randrange(1500)) if turn < times else None
        saw = await client.view(request, tells(round_), stay)
        events += saw.events
        problems += saw.problems
        cursor = saw.cursor or cursor
        if not saw.has_left or saw.terminals:
            break
        request = client.resume(round_.run, cursor)
    # The framing's end may be what the last visit did not stay for.
    saw.is_clean = saw.is_clean or bool(saw.terminals and saw.has_left)
    saw.problems = problems
    return saw, events


async def leaves_before_the_headers(client: Client, round_: Round) -> tuple[Saw, list[dict[str, object]]]:
    """Leaves when the upstream has its request, and asks again for the same."""
    request = client.start(round_.case.prefix, round_.run)
    async with client.connected() as talker:
        await talker.send(request)
        await round_.wait(round_.called, "the upstream was never called")
    round_.release.set()
    return await watches(client, round_)


async def at_once(work: Iterable[Callable[[], Awaitable[Result]]], bound: int = AT_ONCE) -> list[Result]:
    """All of it, so much at a time."""
    turn = asyncio.Semaphore(bound)

    async def one(play: Callable[[], Awaitable[Result]]) -> Result:
        async with turn:
            return await play()

    return await asyncio.gather(*(one(play) for play in work))


@asynccontextmanager
async def house(directory: Path) -> AsyncIterator[House]:
    """Open for as long as the block, with short pauses."""
    async with AsyncExitStack() as stack:
        stack.enter_context(quick())
        upstream = await stack.enter_async_context(FaultyUpstream().running())
        gates = []
        # At the door only the first look comes in time, so that it is known whose each connection is.
        for name, every_ms in (("gate", 50), ("door", 5000)):
            (directory / name).mkdir()
            opening = headgate(upstream.url, directory / name, routes=routes(every_ms), **SETTINGS)
            gates.append(await stack.enter_async_context(opening))
        door = stack.enter_context(Door(gates[1].app.gateway.relay._upstream).open())
        admin = await stack.enter_async_context(browser())
        yield House(upstream, gates[0], gates[1], door, admin)


async def warm(house_: House) -> dict[str, int]:
    """Return what is taken while nothing happens, after one round of everything that is made once."""
    for case in healthy()[:2]:
        await house_.play(case, random.Random("warm"))
    await house_.metrics()
    await eventually(lambda: house_.upstream.open == 0)
    return house_.resources()
