"""Rollouts that never were: users, their requests and their luck, as batches of evidence. Seeded.

Users are drawn for the arms by a hash, as Unleash does it, and may differ in how much they ask and how often
they fail. A path keeps what the verdicts were at each look; it goes on to the end, whatever they were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from flags.rollout.evidence.evidence import Batch
from flags.rollout.policy.guardrails import Action, ErrorBudget, Exposure, Guardrail
from flags.rollout.verdict.evaluator import BUCKETS, Evaluator
from flags.rollout.verdict.verdict import Finding, Verdict

ARMS = ("stream", "control")
LOOK_MINUTES = 10


@dataclass(frozen=True)
class World:
    """What is true, and the verdict does not know."""

    per_minute: float
    rate: float
    """Of bad answers, in the control arm."""
    ratio: float = 1.0
    """How many times as often the stream arm fails."""
    users: int = 2000
    spread: float = 0.0
    """Squared coefficient of variation of the users' rates; 0: all are alike."""
    hours: Sequence[float] = (12, 12, 12, 16, 16)
    shares: Sequence[int] = (1, 5, 10, 25, 50)

    def exposures(self) -> tuple[Exposure, ...]:
        return tuple(Exposure(share) for share in self.shares)


@dataclass
class Path:
    """What came of one rollout."""

    rolled_back: bool = False
    held: bool = False
    miscounted: bool = False
    """Held by the sample ratio."""
    harmed: int = 0
    """Bad answers of the stream arm up to the rollback."""
    safe_steps: set[int] = field(default_factory=set)
    """Those whose proof of safety was there at some look."""

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


def batches(world: World, random: np.random.Generator) -> Iterator[Batch]:
    """One rollout's evidence, look by look."""
    place = random.integers(1, 101, world.users)
    bucket = random.integers(0, BUCKETS, world.users)
    asks = random.gamma(1.0, 1.0, world.users) if world.spread else np.ones(world.users)
    asks *= world.per_minute * LOOK_MINUTES / world.users
    shape = 1 / world.spread if world.spread else np.inf
    fails = world.rate * (random.gamma(shape, 1 / shape, world.users) if world.spread else 1.0)
    since = 0
    for step, (share, hours) in enumerate(zip(world.shares, world.hours, strict=True)):
        looks = round(hours * 60 / LOOK_MINUTES)
        inside = (place <= share, place > 100 - min(share, 100 - share))
        every, bad, users = {}, {}, {}
        for arm, within, ratio in zip(ARMS, inside, (world.ratio, 1.0), strict=True):
            asked = random.poisson(asks[within], (looks, int(within.sum())))
            failed = random.binomial(asked, np.minimum(1.0, fails * np.ones(world.users) * ratio)[within])
            sorted_in = np.eye(BUCKETS, dtype=int)[bucket[within]]
            every[arm], bad[arm] = asked @ sorted_in, failed @ sorted_in
            users[arm] = (asked.cumsum(axis=0) > 0).sum(axis=1)
        for look in range(looks):
            outcomes = {}
            for arm in ARMS:
                for b in np.flatnonzero(every[arm][look]).tolist():
                    n, x = int(every[arm][look, b]), int(bad[arm][look, b])
                    outcomes[arm, b, "complete"], outcomes[arm, b, "failed"] = n - x, x
            yield Batch(
                since,
                since + LOOK_MINUTES * 60,
                step,
                outcomes=outcomes,
                users={arm: int(users[arm][look]) for arm in ARMS},
            )
            since += LOOK_MINUTES * 60


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
    """So many rollouts in this world; the same ones each time."""
    return [followed(world, rails, (2026, at), to_the_end=to_the_end) for at in range(number)]
