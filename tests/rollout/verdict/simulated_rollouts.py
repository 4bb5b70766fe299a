"""Rollouts that never were: users, their requests and their luck, as batches of evidence. Seeded.

Users are drawn for the arms by a hash, as Unleash does it, and may differ in how much they ask and how often
they fail. A path keeps what the verdicts were at each look; it goes on to the end, whatever they were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flags.rollout.evidence.evidence import EXPECTED_UNITS, Batch
from flags.rollout.policy.guardrails import Action, ErrorBudget, Exposure, Guardrail
from flags.rollout.verdict.buckets import BUCKETS
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Finding, Verdict
from proxy.observe.users.histories import Histories

ARMS = ("stream", "control")
LOOK_MINUTES = 10


@dataclass(frozen=True)
class World:
    """The truth, which the verdict does not know."""

    per_minute: float
    rate: float
    """Of bad answers, in the control arm."""
    ratio: float = 1.0
    """The factor by which the stream arm fails more often."""
    users: int = 2000
    spread: float = 0.0
    """Squared coefficient of variation of the users' rates; 0: all are alike."""
    history_hours: float = 0.0
    """Hours for which the proxy has known its users when it begins; 0: it says nothing of what it expects."""
    hours: Sequence[float] = (12, 12, 12, 16, 16)
    shares: Sequence[int] = (1, 5, 10, 25, 50)

    def exposures(self) -> tuple[Exposure, ...]:
        return tuple(Exposure(share) for share in self.shares)


@dataclass
class Path:
    """The course of one rollout."""

    rolled_back: bool = False
    held: bool = False
    miscounted: bool = False
    """Held by the sample ratio."""
    harmed: int = 0
    """Bad answers of the stream arm up to the rollback."""
    safe_steps: set[int] = field(default_factory=set)
    """The steps whose proof of safety was there at some look."""

    def see(self, step: int, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.log10_safe is None:
                self.miscounted |= verdict.finding is Finding.HARM
                continue
            self.rolled_back |= verdict.action is Action.ROLL_BACK
            self.held |= verdict.finding is Finding.HARM
            enough = verdict.samples >= verdict.samples_needed and verdict.users >= verdict.users_needed
            if enough and verdict.safe_at is not None and verdict.log10_safe >= verdict.safe_at:
                self.safe_steps.add(step)


@dataclass
class Users:
    """The users, and what a proxy knows of them."""

    world: World
    random: np.random.Generator
    histories: Histories = field(default_factory=Histories)

    def __post_init__(self) -> None:
        world, random = self.world, self.random
        self.place = random.integers(1, 101, world.users)
        self.bucket = random.integers(0, BUCKETS, world.users)
        asks = random.gamma(1.0, 1.0, world.users) if world.spread else np.ones(world.users)
        self.asks = asks * (world.per_minute * LOOK_MINUTES / world.users)
        shape = 1 / world.spread if world.spread else np.inf
        fails = random.gamma(shape, 1 / shape, world.users) if world.spread else np.ones(world.users)
        self.fails = np.minimum(1.0, world.rate * fails)
        self.names = [number.to_bytes(8) for number in range(world.users)]
        for _ in range(round(world.history_hours * 60 / LOOK_MINUTES)):
            asked = random.poisson(self.asks)
            self.learn(np.ones(world.users, bool), asked, random.binomial(asked, self.fails))

    def learn(self, of: NDArray[np.bool_], asked: NDArray[np.int64], failed: NDArray[np.int64]) -> None:
        """Learn what users of neither arm did."""
        for user in np.flatnonzero(of & (asked > 0)).tolist():
            self.histories.add(self.names[user], 0.0, int(failed[user]), int(asked[user]))

    def expected(self, of: NDArray[np.bool_], asked: NDArray[np.int64]) -> dict[int, int]:
        """Failures that are expected of users of an arm, by bucket, in EXPECTED_UNITS."""
        found: dict[int, int] = {}
        for user in np.flatnonzero(of & (asked > 0)).tolist():
            bucket, chance = int(self.bucket[user]), self.histories.expected(self.names[user])
            found[bucket] = found.get(bucket, 0) + round(int(asked[user]) * chance * EXPECTED_UNITS)
        return found


def batches(world: World, random: np.random.Generator) -> Iterator[Batch]:
    """One rollout's evidence, look by look."""
    users = Users(world, random)
    look = 0
    for step, (share, hours) in enumerate(zip(world.shares, world.hours, strict=True)):
        arms = {
            "stream": (users.place <= share, world.ratio),
            "control": (users.place > 100 - min(share, 100 - share), 1.0),
        }
        rest = ~(arms["stream"][0] | arms["control"][0])
        met = np.zeros(world.users, bool)
        for _ in range(round(hours * 60 / LOOK_MINUTES)):
            ratios = np.ones(world.users)
            for within, ratio in arms.values():
                ratios[within] = ratio
            asked = random.poisson(users.asks)
            failed = random.binomial(asked, np.minimum(1.0, users.fails * ratios))
            met |= asked > 0
            expected, outcomes = {}, {}
            for arm, (within, _) in arms.items():
                of = users.bucket[within]
                every = np.bincount(of, asked[within], BUCKETS).astype(int).tolist()
                bad = np.bincount(of, failed[within], BUCKETS).astype(int).tolist()
                for b in range(BUCKETS):
                    if every[b]:
                        outcomes[arm, b, "complete"] = every[b] - bad[b]
                        outcomes[arm, b, "failed"] = bad[b]
                if world.history_hours:
                    expected |= {(arm, b): units for b, units in users.expected(within, asked).items()}
            yield Batch(
                look * LOOK_MINUTES * 60,
                (look + 1) * LOOK_MINUTES * 60,
                step,
                outcomes=outcomes,
                expected=expected if world.history_hours else None,
                users={arm: int((met & within).sum()) for arm, (within, _) in arms.items()},
            )
            look += 1
            if world.history_hours:
                for user in np.flatnonzero(arms["control"][0] & (asked > 0)).tolist():
                    users.histories.check(users.names[user], int(failed[user]), int(asked[user]))
                users.learn(rest, asked, failed)


def followed(world: World, rails: Sequence[Guardrail], seed: Sequence[int], *, to_the_end: bool) -> Path:
    """One rollout, evaluated after each batch; or only until it would go back."""
    evaluator = Evaluator(rails, world.exposures(), ErrorBudget())
    path, step = Path(), 0
    for batch in batches(world, np.random.default_rng(seed)):
        if batch.step != step:
            step = batch.step
            evaluator.enter(step)
        evaluator.add(batch)
        path.harmed += 0 if path.rolled_back else batch.total("stream", frozenset({"failed"}))  # type: ignore[arg-type]
        path.see(step, evaluator.verdicts())
        if path.rolled_back and not to_the_end:
            break
    return path


def paths(world: World, rails: Sequence[Guardrail], number: int, *, to_the_end: bool = False) -> list[Path]:
    """Return so many rollouts in this world; the same ones each time."""
    return [followed(world, rails, (2026, at), to_the_end=to_the_end) for at in range(number)]
