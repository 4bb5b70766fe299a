"""One simulated rollout from its beginning to its end, and many of them."""

import asyncio
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flags.rollout.controller import Controller, Ports
from flags.rollout.inbox import Inbox, act_request
from flags.rollout.journal import Journal
from flags.rollout.leases.lease import Fence
from flags.rollout.ledger import Act
from flags.rollout.moves import MoveKind, MoveReason, RolloutPhase
from flags.rollout.policy.policy import Policy
from flags.rollout.tick.looking import Clocks
from tests.simulate.peers import ArgoLike, FlaggerLike
from tests.simulate.world import ROUTE, Clock, FakeFlag, Truth, World

HOURS = 68
"""Of a rollout from 1 to 50 %, as in the figures that this is compared with."""

QUICK_DISK = Path("/dev/shm")
"""The journal is on a disk that forgets: what it costs to make it last is not what is simulated."""

POLICY: dict[str, Any] = {
    "flag": "simulated",
    "routes": [ROUTE],
    "where": {"file": "flags.json"},
    "evidence": {"pages": ["http://127.0.0.1:1/metrics"]},
    "journal": "rollout.sqlite",
    "lease": {"file": "rollout.lock"},
    "guardrails": {"early": {"rate": 0.0125, "of": 2000}},
    "steps": [
        {"share": 1, "at_least": "8h", "prove": False, "approve": True, "min_users": 1},
        {"share": 5, "at_least": "12h", "prove": False, "approve": True, "min_users": 5},
        {"share": 10, "at_least": "12h", "prove": False, "approve": True},
        {"share": 25, "at_least": "12h"},
        {"share": 50, "at_least": "12h"},
    ],
}


class AlwaysMine:
    """A lease that nobody contends for."""

    async def check(self, fence: Fence, *, for_s: float = 0.0) -> None:
        """It is."""


@dataclass(frozen=True, slots=True)
class Course:
    """The course of one rollout."""

    rolled_back: bool
    held: bool
    """True if a guardrail ever asked to hold."""
    hours: float
    """To the rollback, or to the end."""
    harmed: int
    proved: Sequence[int]
    """Shares of the steps that were proved to be safe."""
    flagger: bool
    argo: bool
    writes: int


@dataclass(frozen=True, slots=True)
class Case:
    """A case to simulate."""

    truth: Truth
    seed: int
    hours: float = HOURS
    or_points: float | None = None
    """Percentage points that rule out harm to answers beside a ratio of 2."""

    def policy(self) -> Policy:
        errors = {} if self.or_points is None else {"harm": {"or_points": self.or_points}}
        guardrails = {**POLICY["guardrails"], "errors": errors}
        return Policy.model_validate({**POLICY, "guardrails": guardrails})


async def course(case: Case) -> Course:
    """One rollout. A person approves each step that asks for it, after a tick."""
    clock, flag = Clock(), FakeFlag()
    world = World(case.truth, flag, clock, case.seed)
    policy = case.policy()
    flagger, argo = FlaggerLike(), ArgoLike()
    held, proved = False, []
    with tempfile.TemporaryDirectory(dir=QUICK_DISK) as directory:
        path = Path(directory) / "rollout.sqlite"
        with Journal.open(path) as journal:
            inbox = Inbox(path)
            ports = Ports(flag, world, journal, AlwaysMine(), Clocks(clock, clock), inbox)
            controller = Controller(policy, ports)
            await controller.begin("a person", "simulated")
            fence = Fence(1, "simulated")
            minutes = int(case.hours * 60)
            for _ in range(minutes):
                world.pass_minute()
                if "stream" in world.latest and controller.state.step >= 0:
                    flagger.look(*world.latest["stream"])
                    argo.look(*world.latest["stream"])
                move = await controller.tick(fence)
                if move.kind is MoveKind.ADVANCE and move.reason is MoveReason.PROVED:
                    proved.append(policy.steps[controller.state.step - 1].share)
                held = held or move.reason is MoveReason.WARNING
                if move.reason is MoveReason.APPROVAL:
                    inbox.put(act_request(Act.APPROVE, "a person", "simulated", 0))
                if controller.state.phase is RolloutPhase.ROLLED_BACK:
                    break
            hours = (clock.now_s - world.begun_s) / 3600
            return Course(
                controller.state.phase is RolloutPhase.ROLLED_BACK,
                held,
                hours,
                world.harmed,
                proved,
                flagger.rolled_back,
                argo.rolled_back,
                flag.writes,
            )


def _course(case: Case) -> Course:
    return asyncio.run(course(case))


def courses(cases: Iterable[Case], processes: int) -> list[Course]:
    """All of them, in order."""
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(_course, cases))  # each takes seconds
