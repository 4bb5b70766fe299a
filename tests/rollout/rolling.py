"""A rollout under test: a real flag file, journal, lease and inbox; counts and clocks as the test says."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from flags.errors import EvidenceError, FlagAdminError, ReadingProblem
from flags.rollout.controller import Controller, Ports
from flags.rollout.evidence.readings import (
    FIRST_CONTENT_S,
    OUTCOMES,
    PARITY,
    RECOVERIES,
    SETTLED_S,
    Page,
    Reading,
    Series,
)
from flags.rollout.inbox import Inbox, act_request
from flags.rollout.journal import Journal, JournalEntry, JournalReader
from flags.rollout.leases.lease import Fence, FileLease
from flags.rollout.ledger import Act
from flags.rollout.moves import Move
from flags.rollout.policy.policy import Policy
from flags.rollout.tick.looking import Clocks
from flags.rollout.writing.file_admin import FileAdmin
from flags.rollout.writing.flag_admin import Flag, FlagAdmin, ManagedFlag, Strategy

FLAG = "headgate.streaming"
PROXY = "proxy-1"
TICK_S = 60.0


def flag_file(path: Path, share: int = 0) -> Path:
    """Flags as ops have them before a rollout."""
    strategy = {
        "name": "flexibleRollout",
        "parameters": {"rollout": str(share), "stickiness": "userId", "groupId": FLAG},
    }
    kill = {"name": "headgate.kill", "enabled": False, "strategies": [{"name": "default", "parameters": {}}]}
    streaming = {"name": FLAG, "enabled": True, "strategies": [strategy]}
    path.write_text(json.dumps({"version": 2, "features": [streaming, kill]}))
    return path


def policy(directory: Path, **changes: Any) -> Policy:
    """As `policy_said` says it."""
    return Policy.model_validate(policy_said(**changes), context={"base": directory})


def policy_said(**changes: Any) -> dict[str, Any]:
    """Three steps of three minutes, of which the first is a person's to judge."""
    return {
        "flag": FLAG,
        "routes": ["start"],
        "where": {"file": "flags.json"},
        "evidence": {"pages": ["http://127.0.0.1:1/metrics"]},
        "journal": "rollout.sqlite",
        "lease": {"file": "rollout.lease"},
        "steps": [
            {"share": 5, "at_least": "3m", "prove": False, "approve": True, "min_samples": 50},
            {"share": 25, "at_least": "3m", "min_samples": 50},
            {"share": 50, "at_least": "3m", "min_samples": 50},
        ],
        "guardrails": {"early": {"rate": 0.3}},
        **changes,
    }


@dataclass
class Now:
    """The two clocks of a machine."""

    wall_s: float = 1_800_000_000.0
    monotonic_s: float = 1000.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


@dataclass
class Traffic:
    """One proxy's counters. A Readings."""

    counters: dict[Series, int] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=lambda: {"stream": 0, "control": 0})
    problem: str = ""
    proxies: tuple[str, ...] = (PROXY,)
    missing: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    killed_s: float = 0.0
    brief: int = 0
    """The number of proxies that live and die before the next look, and each shows a wrong text."""
    source: str = "tap"
    is_dark: bool = False
    """True if nobody is shown anything: only the source tap then has texts to compare."""
    _turn: int = 0

    def __post_init__(self) -> None:
        for arm in ("stream", "control"):
            for bucket, outcome in product(range(16), ("complete", "failed")):
                self._count(OUTCOMES, (arm, str(bucket), outcome), 0)
            self._settled(arm, 0)
        self._count(RECOVERIES, ("source_lost", "fell_back"), 0)
        self._count(PARITY, ("equal",), 0)
        self._count(PARITY, ("missing",), 0)
        self.rests(0)
        self._first_content(0)

    def flows(self, per_arm: int = 100, *, stream_bad: float = 0.1, control_bad: float = 0.1) -> None:
        """Add so many answers to each arm, of which this part failed."""
        for arm, bad in (("stream", stream_bad), ("control", control_bad)):
            failed = round(per_arm * bad)
            for number in range(per_arm):
                # In turn, so that users do not differ.
                self._turn += 1
                outcome = "failed" if number < failed else "complete"
                self._count(OUTCOMES, (arm, str(self._turn % 16), outcome), 1)
            self._settled(arm, per_arm, over=per_arm // 10)
            self.users[arm] = self.users.get(arm, 0) + 30
        if self.source == "tap" or not self.is_dark:
            self._first_content(per_arm)
            self._count(PARITY, ("equal",), per_arm)

    def rests(self, every: int) -> None:
        """Add so many answers of users in neither arm."""
        self._count(OUTCOMES, ("rest", "0", "complete"), every)

    @property
    def has_streamed(self) -> bool:
        """True if an answer was counted in the stream arm."""
        return any(
            n for each, n in self.counters.items() if each.metric == OUTCOMES and "stream" in each.labels
        )

    def shows_wrong_text(self) -> None:
        self._count(PARITY, ("missing",), 1)

    async def read(self, now_s: float, before: Reading | None = None) -> Reading:
        if self.problem:
            raise EvidenceError(ReadingProblem.ERROR, self.problem)
        seen = dict.fromkeys(self.proxies, now_s)
        counters, users = dict(self.counters), dict(self.users)
        departed = []
        if before is not None:
            departed = [self._brief(f"pod {now_s} {number}", now_s) for number in range(self.brief)]
            self.brief = 0
        beside = {"unverified": self.unverified, "killed_s": self.killed_s, "departed": departed}
        return Reading(now_s, counters, seen, users, self.missing, **beside)  # type: ignore[arg-type]

    def _brief(self, instance: str, now_s: float) -> Page:
        return Page(instance, now_s - 0.1, now_s - 0.2, {Series(PARITY, instance, ("start", "missing")): 1})

    def _settled(self, arm: str, every: int, over: int = 0) -> None:
        self._count(SETTLED_S, (arm, "inf"), every)
        self._count(SETTLED_S, (arm, "120.0"), every - over)

    def _first_content(self, every: int) -> None:
        self._count(FIRST_CONTENT_S, (self.source, "inf"), every)
        self._count(FIRST_CONTENT_S, (self.source, "5.0"), every)

    def _count(self, metric: str, labels: tuple[str, ...], more: int) -> None:
        series = Series(metric, PROXY, ("start", *labels))
        self.counters[series] = self.counters.get(series, 0) + more


class Crash(BaseException):
    """The process ends here: nothing catches it."""


@dataclass
class Rolling:
    """One controller at a time, on one directory. `crash_at` names where it dies next."""

    directory: Path
    policy: Policy
    now: Now = field(default_factory=Now)
    traffic: Traffic = field(default_factory=Traffic)
    incident: bool = False
    writes: list[int] = field(default_factory=list)
    """Shares, as the controller wrote them."""
    crash_at: Callable[[str], bool] = lambda point: False
    disk_is_full: bool = False
    refuses_writes: bool = False
    admin: FlagAdmin | None = None
    """The admin that changes the flag, where it is in no file."""

    @property
    def path(self) -> Path:
        return self.directory / "flags.json"

    @contextmanager
    def running(self, lease: FileLease | None = None) -> Iterator["Running"]:
        """A controller from its journal."""
        with Journal.open(self.policy.journal, at=self.reach) as journal:
            lease = lease or self.lease()
            admin = Watched(self.admin or FileAdmin(self.path, ManagedFlag(FLAG)), self)
            clocks, inbox = Clocks(self.now.wall, self.now.monotonic), Inbox(self.policy.journal)
            ports = Ports(admin, self.traffic, journal, lease, clocks, inbox, lambda: self.incident)
            controller = Controller(self.policy, ports)
            controller.load()
            yield Running(controller, lease, self)

    def lease(self, holder: str = "this machine") -> FileLease:
        assert self.policy.lease.file is not None
        return FileLease(self.policy.lease.file, ttl_s=100, clock=self.now.wall, holder=holder)

    def reach(self, point: str) -> None:
        if self.crash_at(point):
            raise Crash(point)
        if self.disk_is_full and point == "begun":
            raise sqlite3.OperationalError("database or disk is full")

    def entries(self) -> list[JournalEntry]:
        with JournalReader.open(self.policy.journal) as journal:
            return list(journal.entries())

    def wants(self, what: Act, reason: str = "because", seen: int = 0) -> None:
        """A person says so, by a command, who has seen the journal up to this entry; 0: nobody knows."""
        Inbox(self.policy.journal).put(act_request(what, "ops", reason, seen))

    @property
    def flags(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.path.read_text())["features"]
        return found

    @property
    def flag(self) -> dict[str, Any]:
        return next(each for each in self.flags if each["name"] == FLAG)

    @property
    def share(self) -> int:
        return int(self.flag["strategies"][0]["parameters"]["rollout"])

    def edit(self, change: Callable[[dict[str, Any]], None], flag: int = 0) -> None:
        """A person changes a flag by hand."""
        document = json.loads(self.path.read_text())
        change(document["features"][flag])
        self.path.write_text(json.dumps(document))

    def set_share(self, share: int) -> None:
        def change(flag: dict[str, Any]) -> None:
            flag["strategies"][0]["parameters"]["rollout"] = str(share)

        self.edit(change)


@dataclass
class Running:
    """A controller that runs."""

    controller: Controller
    lease: FileLease
    rolling: Rolling
    fence: Fence | None = None

    async def begin(self, *, again: bool = False) -> None:
        await self.controller.begin("ops", "first try", again=again)

    async def tick(self, seconds: float = TICK_S) -> Move:
        self.rolling.now.passes(seconds)
        if self.fence is None:
            self.fence = await self.lease.acquire()
            assert self.fence is not None, "nobody else has it"
        await self.lease.renew(self.fence)
        return await self.controller.tick(self.fence)

    async def ticks(self, number: int, per_tick: int = 200, **traffic: float) -> list[Move]:
        """Let so many minutes with traffic pass."""
        moves = []
        for _ in range(number):
            self.rolling.traffic.flows(per_tick, **traffic)
            moves.append(await self.tick())
        return moves

    async def until(self, share: int, **traffic: float) -> None:
        """Minutes with traffic, until this share is written; a person approves what needs it."""
        async for _ in self._to(share, traffic):
            pass

    async def _to(self, share: int, traffic: dict[str, float]) -> AsyncIterator[Move]:
        for _ in range(200):
            if self.controller.state.share == share:
                return
            [move] = await self.ticks(1, **traffic)
            if move.reason == "approval":
                self.rolling.wants(Act.APPROVE)
            yield move
        raise AssertionError(f"{share} % was not reached: {self.controller.last_move}")


class Watched:
    """A FlagAdmin that tells what it wrote, and dies where it is told to."""

    def __init__(self, admin: FlagAdmin, rolling: Rolling) -> None:
        self._admin = admin
        self._rolling = rolling

    async def problems(self) -> list[str]:
        return await self._admin.problems()

    async def read(self) -> Flag:
        return await self._admin.read()

    async def write(self, strategy: Strategy, expected: Flag) -> Flag:
        self._rolling.reach("before the flag")
        if self._rolling.refuses_writes:
            raise FlagAdminError("answers 403: no right to write")
        flag = await self._admin.write(strategy, expected)
        self._rolling.writes.append(strategy.share)
        self._rolling.reach("after the flag")
        return flag

    async def kill(self, on: bool) -> None:
        await self._admin.kill(on)


@asynccontextmanager
async def told_to_begin(rolling: Rolling) -> AsyncIterator[Running]:
    """A controller that somebody has told to begin a rollout."""
    with rolling.running() as running:
        await running.begin()
        yield running


@asynccontextmanager
async def begun(rolling: Rolling) -> AsyncIterator[Running]:
    """A controller whose rollout has begun and stands at its first step."""
    async with told_to_begin(rolling) as running:
        await running.until(5)
        yield running
