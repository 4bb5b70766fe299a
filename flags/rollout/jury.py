"""All guardrails of one rollout before the same evidence. Pure.

A jury is a function of its batches alone: the same ones in the same order give the same verdicts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from flags.rollout.comparisons import CeilingJudge, RatioJudge
from flags.rollout.counts import EarlyJudge, ParityJudge, SampleJudge
from flags.rollout.evidence import BAD, ELIGIBLE, Arm, Batch
from flags.rollout.guardrails import (
    Budget,
    Ceiling,
    EarlyGuard,
    Exposure,
    Guardrail,
    RateRatio,
    SampleRatio,
    ZeroTolerance,
)
from flags.rollout.judging import Frame, Judge
from flags.rollout.processes import dispersion
from flags.rollout.verdict import Verdict

BUCKETS = 16
"""Of users, in the evidence's counts."""


_JUDGES: Mapping[type, Callable[..., Judge]] = {
    RateRatio: RatioJudge,
    Ceiling: CeilingJudge,
    ZeroTolerance: ParityJudge,
    EarlyGuard: EarlyJudge,
    SampleRatio: SampleJudge,
}


class Jury:
    """All guardrails of one rollout."""

    def __init__(
        self, guardrails: Sequence[Guardrail], exposures: Sequence[Exposure], budget: Budget
    ) -> None:
        self._exposures = exposures
        self._rails = [_JUDGES[type(rail)](rail, budget, len(exposures)) for rail in guardrails]
        self._step = 0
        self._answers: dict[str, int] = {}
        self._users: Mapping[str, int] = {}
        self._bad = {arm: np.zeros(BUCKETS) for arm in Arm}
        self._every = {arm: np.zeros(BUCKETS) for arm in Arm}

    def enter(self, step: int) -> None:
        """A step begins: what is to be proved of it is proved anew."""
        self._step = step
        self._answers = {}
        self._users = {}
        for rail in self._rails:
            rail.enter(step, self._share())

    def add(self, batch: Batch) -> None:
        """More evidence of this step. Raises ValueError for counts that are none."""
        _refuse_uncountable(batch)
        for each in Arm:
            self._answers[each] = self._answers.get(each, 0) + batch.total(each, ELIGIBLE)
        self._users = batch.users
        for (arm, bucket, outcome), count in batch.outcomes.items():
            if arm in self._every and outcome in ELIGIBLE:
                self._every[Arm(arm)][bucket] += count
                self._bad[Arm(arm)][bucket] += count if outcome in BAD else 0
        for rail in self._rails:
            rail.add(batch)

    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each guardrail, in their order, of the present step."""
        frame = Frame(
            exposure=self._exposures[self._step],
            answers=self._answers,
            users=self._users,
            dispersion=dispersion([(self._bad[arm], self._every[arm]) for arm in Arm]),
        )
        return tuple(rail.judge(frame) for rail in self._rails)

    def _share(self) -> int:
        return self._exposures[self._step].share or self._exposures[self._step + 1].share


def _refuse_uncountable(batch: Batch) -> None:
    for name, counts in _counts(batch):
        for count in counts:
            if type(count) is not int or count < 0:
                raise ValueError(f"{name} holds {count!r}: counts are whole numbers from 0 on")


def _counts(batch: Batch) -> Iterator[tuple[str, Iterable[int]]]:
    yield "outcomes", batch.outcomes.values()
    yield "seconds", [n for tail in batch.seconds.values() for n in (tail.over, tail.all - tail.over)]
    yield "first_content", [n for t in batch.first_content.values() for n in (t.over, t.all - t.over)]
    yield "recoveries", batch.recoveries.values()
    yield "parity", batch.parity.values()
    yield "users", batch.users.values()
