"""All guardrail tests of one rollout on the same evidence. Pure.

The verdicts are a function of the batches alone: the same batches in the same order give the same verdicts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flags.rollout.evidence.evidence import APART, ELIGIBLE, Batch, ComparedArm
from flags.rollout.policy.guardrails import (
    Ceiling,
    EarlyGuard,
    ErrorBudget,
    Exposure,
    Guardrail,
    RateRatio,
    SampleRatio,
    UsualTime,
    ZeroTolerance,
)
from flags.rollout.verdict.buckets import BUCKETS, ROWS, by_bucket
from flags.rollout.verdict.count_tests import EarlyTest, ParityTest, SampleRatioTest
from flags.rollout.verdict.e_processes import dispersion
from flags.rollout.verdict.rate_tests import CeilingTest, RatioTest
from flags.rollout.verdict.step_context import GuardrailTest, StepContext
from flags.rollout.verdict.usual_times import UsualTest
from flags.rollout.verdict.verdict import Verdict

MOST_WAIT_S = 60.0
"""By then the proxies have seen a new share, and count their users anew."""

_TESTS: Mapping[type, Callable[..., GuardrailTest]] = {
    RateRatio: RatioTest,
    Ceiling: CeilingTest,
    UsualTime: UsualTest,
    ZeroTolerance: ParityTest,
    EarlyGuard: EarlyTest,
    SampleRatio: SampleRatioTest,
}


class Evaluator:
    """The guardrail tests of one rollout."""

    def __init__(
        self, guardrails: Sequence[Guardrail], exposures: Sequence[Exposure], budget: ErrorBudget
    ) -> None:
        self._exposures = exposures
        self._tests = [_TESTS[type(rail)](rail, budget, exposures) for rail in guardrails]
        self._shares = _shares_written(exposures)
        self._users_ever: dict[str, int] = {}
        self._bad, self._total = np.zeros((2, len(ROWS), BUCKETS))
        self._histories: tuple[bool, bool] | None = None
        """Whether proxies say what is expected, and weigh it, as of the first answers; None: there were
        none."""
        self._users_before: Mapping[str, int] = {}
        self.enter(0)

    def enter(self, step: int) -> None:
        """Begin a step: its safety must be proved anew, and evidence of harm stays."""
        self._step = step
        self._answers: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self._waits_until_s = math.inf if any(self._users_before.values()) else -math.inf
        for test in self._tests:
            test.enter(step, self._shares[step])

    def add(self, batch: Batch) -> None:
        """Add evidence of this step. Raises ValueError for an invalid batch, and then nothing has changed."""
        if batch.step != self._step:
            raise ValueError(
                f"evidence of step {batch.step} says nothing of step {self._step}: enter it first"
            )
        _refuse_invalid(batch)
        batch = self._with_expected(self._with_users_of_step(batch))
        for arm in ComparedArm:
            self._answers[arm] = self._answers.get(arm, 0) + batch.total(arm, ELIGIBLE)
            # A restarted proxy has forgotten its users, who were there all the same.
            for users in (self._users, self._users_ever):
                users[arm] = max(users.get(arm, 0), batch.users.get(arm, 0))
        counts = by_bucket(batch)
        self._bad += counts[0]
        self._total += counts[1]
        for test in self._tests:
            test.add(batch)

    def _with_expected(self, batch: Batch) -> Batch:
        """The batch, without what was expected if proxies did not say so from the first answers on, or say it
        otherwise now.

        A rollout that began without it ends without it: whether the other e-processes take part would else
        depend on how the first one stands, and the mean of all would be no e-process.
        """
        said = batch.expected is not None, batch.weighed is not None
        if self._histories is None and any(batch.total(arm, ELIGIBLE) for arm in ComparedArm):
            self._histories = said
        if said[0] and self._histories == said:
            return batch
        routes = {name: replace(of_route, expected=None) for name, of_route in batch.routes.items()}
        return replace(batch, expected=None, routes=routes)

    def _with_users_of_step(self, batch: Batch) -> Batch:
        """The batch, without users as long as proxies still count those of the share before."""
        before, self._users_before = self._users_before, batch.users
        if self._waits_until_s == math.inf:
            self._waits_until_s = batch.since_s + MOST_WAIT_S
        if any(batch.users.get(arm, 0) < before.get(arm, 0) for arm in ComparedArm):
            self._waits_until_s = -math.inf
        return replace(batch, users={}) if batch.until_s < self._waits_until_s else batch

    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each guardrail, in their order, of the present step."""
        context = StepContext(
            exposure=self._exposures[self._step],
            answers=self._answers,
            users=self._users,
            users_ever=self._users_ever,
            dispersion=dispersion(self._bad, self._total),
        )
        return tuple(test.verdict(context) for test in self._tests)


def _shares_written(exposures: Sequence[Exposure]) -> tuple[int, ...]:
    """The flag's share, by step; a dark step has that of the next. Raises ValueError without a control."""
    shares = [step.share for step in exposures]
    written = tuple(share or following for share, following in zip(shares, [*shares, 0][1:], strict=True))
    if not written or not all(0 < share < 100 for share in written):
        raise ValueError(f"steps of {shares} % have no control: end under 100, and do not end with dark")
    return written


def _refuse_invalid(batch: Batch) -> None:
    for _, bucket, outcome in batch.outcomes:
        _refuse_bucket("outcomes", bucket)
        if outcome not in ELIGIBLE | APART:
            raise ValueError(f"outcomes holds {outcome!r}: nobody knows whether that is bad")
    for name, by_bucket_of in (
        ("expected", batch.expected),
        ("weighed", batch.weighed),
        ("slower", batch.slower),
    ):
        for arm, bucket in by_bucket_of or {}:
            _refuse_bucket(name, bucket)
            _refuse_arm(name, arm)
    for arm in batch.capped or {}:
        _refuse_arm("capped", arm)
    for name, counts in _counts(batch):
        for count in counts:
            if type(count) is not int or count < 0:
                raise ValueError(f"{name} holds {count!r}: counts are whole numbers from 0 on")
    for of_route in batch.routes.values():
        _refuse_invalid(of_route)


def _refuse_arm(name: str, arm: str) -> None:
    if arm not in ROWS:
        raise ValueError(f"{name} holds the arm {arm!r}: it is not compared")


def _refuse_bucket(name: str, bucket: int) -> None:
    if bucket not in range(BUCKETS):
        raise ValueError(f"{name} holds the bucket {bucket!r}: buckets are 0 to {BUCKETS - 1}")


def _counts(batch: Batch) -> Iterator[tuple[str, Iterable[int]]]:
    yield "outcomes", batch.outcomes.values()
    yield "expected", (batch.expected or {}).values()
    yield "weighed", (batch.weighed or {}).values()
    yield "capped", (batch.capped or {}).values()
    yield "worse", batch.worse.values()
    yield "slower", (batch.slower or {}).values()
    yield "seconds", [n for tail in batch.seconds.values() for n in (tail.over, tail.all - tail.over)]
    yield "first_content", [n for t in batch.first_content.values() for n in (t.over, t.all - t.over)]
    yield "recoveries", batch.recoveries.values()
    yield "parity", batch.parity.values()
    yield "users", batch.users.values()
