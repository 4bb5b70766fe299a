"""Tests of rates: the stream arm's against its control's, or against a ceiling. Pure.

A rate is only tested once there are users and samples enough to compare at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from flags.rollout.evidence.evidence import BAD, ELIGIBLE, Batch, ComparedArm
from flags.rollout.policy.guardrails import Ceiling, ErrorBudget, Exposure, RateRatio
from flags.rollout.verdict.e_processes import JointNull, RateNull, RatioNull
from flags.rollout.verdict.failure_evidence import FailureEvidence
from flags.rollout.verdict.rate_evidence import RateEvidence, Thresholds, rate_verdict
from flags.rollout.verdict.step_context import SampleSize, StepContext, Tally, figure, sentence
from flags.rollout.verdict.verdict import Finding, Verdict

FEW_FAULTS = 20
"""Runs that lost their live text: with fewer, how they ended proves nothing and is no reason to wait."""

POINTS_TO_HARM = 0.01
"""Log e-value of harm above which few events count. No evidence is 0, except for rounding."""


class RatioTest:
    """Test of the stream arm's rate of bad answers, as a ratio to the control arm's."""

    def __init__(self, rail: RateRatio, budget: ErrorBudget, steps: Sequence[Exposure]) -> None:
        self._rail = rail
        self.name = rail.name
        self._thresholds = Thresholds.of(budget, rail.weight)
        self._no_harm, self._harm = (
            RatioNull.at_most(rail.margin),
            JointNull.at_least(rail.harm, rail.or_points),
        )
        self._evidence = RateEvidence(self._no_harm, self._harm, len(steps))
        self._failures = FailureEvidence(rail, steps) if rail.limit_s is None else None
        self._all_steps = {arm: Tally() for arm in ComparedArm}
        self._this_step = {arm: Tally() for arm in ComparedArm}
        self._pending = {arm: Tally() for arm in ComparedArm}

    def enter(self, step: int, share: int) -> None:
        self._evidence.enter(step)
        if self._failures is not None:
            self._failures.enter(step, share)
        self._this_step = {arm: Tally() for arm in ComparedArm}
        self._pending = {arm: Tally() for arm in ComparedArm}

    def add(self, batch: Batch) -> None:
        if self._failures is not None:
            self._failures.add(batch)
        for arm in ComparedArm:
            counted = self._counted(batch, arm)
            for tallies in (self._all_steps, self._this_step, self._pending):
                tallies[arm].add(*counted)
        stream, control = self._pending[ComparedArm.STREAM], self._pending[ComparedArm.CONTROL]
        # While one arm is empty, the arm of an event says nothing: the event waits until the other arm has
        # requests too. When that is depends on who asks and not on what they get, so it selects no evidence.
        if not (stream.total and control.total):
            return
        share = stream.total / (stream.total + control.total)
        self._evidence.add(
            self._no_harm.log_increments(stream.bad, control.bad, share),
            self._harm.log_increments(stream.bad, stream.good, control.bad, control.good),
        )
        self._pending = {arm: Tally() for arm in ComparedArm}

    def _counted(self, batch: Batch, arm: ComparedArm) -> tuple[int, int]:
        if self._rail.limit_s is None:
            return batch.total(arm, BAD), batch.total(arm, ELIGIBLE)
        tail = batch.seconds.get((arm, self._rail.limit_s))
        return (0, 0) if tail is None else (tail.over, tail.all)

    def verdict(self, context: StepContext) -> Verdict:
        safe = self._evidence.safety(context.dispersion)
        if self._failures is None:
            histories, harm = None, self._evidence.harm(context.dispersion)
        else:
            histories, harm = self._failures.uses_histories, self._failures.log(context.exposure)
        here = SampleSize(min(tally.total for tally in self._this_step.values()), context.smaller_users)
        ever = SampleSize(min(tally.total for tally in self._all_steps.values()), context.smaller_users_ever)
        found = rate_verdict(
            self._rail, self._thresholds, context.exposure, (harm, safe), here, ever, self._summary()
        )
        return replace(found, histories=histories)

    def _summary(self) -> str:
        stream, control = self._this_step[ComparedArm.STREAM], self._this_step[ComparedArm.CONTROL]
        limit = self._rail.limit_s
        what = "failed" if limit is None else f"took over {limit:g} s"
        summary = (
            f"{stream.bad:,} of {stream.total:,} answers in the stream arm {what} ({stream.percent}), "
            f"{control.bad:,} of {control.total:,} in its control ({control.percent})"
        )
        if stream.total and control.bad:  # of nothing there is no ratio
            summary += f": {figure(stream.bad / stream.total / (control.bad / control.total))} times as often"
        return summary


class CeilingTest:
    """Test of a rate of the stream arm alone, against a fixed ceiling."""

    def __init__(self, rail: Ceiling, budget: ErrorBudget, steps: Sequence[Exposure]) -> None:
        self._rail = rail
        self.name = rail.name
        self._thresholds = Thresholds.of(budget, rail.weight)
        self._rate = _RATES[rail.of]
        self._no_harm, self._harm = RateNull.at_most(rail.at), RateNull.at_least(rail.harm)
        self._evidence = RateEvidence(self._no_harm, self._harm, len(steps))
        self._tally = Tally()
        self._samples_ever = 0

    def enter(self, step: int, share: int) -> None:
        self._evidence.enter(step)
        self._tally = Tally()

    def add(self, batch: Batch) -> None:
        bad, total = self._rate.counted(batch, self._rail)
        self._tally.add(bad, total)
        self._samples_ever += batch.total(ComparedArm.STREAM, ELIGIBLE) if self._rate.is_of_faults else total
        if total:
            self._evidence.add(
                self._no_harm.log_increments(bad, total - bad), self._harm.log_increments(bad, total - bad)
            )

    def verdict(self, context: StepContext) -> Verdict:
        answers = context.answers.get(ComparedArm.STREAM, 0)
        few = self._tally.total < FEW_FAULTS and self._rate.may_be_few(context.exposure)
        here = SampleSize(
            answers if few or self._rate.is_of_faults else self._tally.total,
            context.users.get(ComparedArm.STREAM, 0),
        )
        ever = SampleSize(self._samples_ever, context.users_ever.get(ComparedArm.STREAM, 0))
        harm, safe = self._evidence.harm(1.0), self._evidence.safety(1.0)
        found = rate_verdict(
            self._rail, self._thresholds, context.exposure, (harm, safe), here, ever, self._summary()
        )
        # So few events are no reason to wait, unless they point to harm.
        if (
            few
            and found.finding is Finding.UNCLEAR
            and here.suffice(context.exposure)
            and harm < POINTS_TO_HARM
        ):
            conclusion = "too few to judge, and no reason to wait"
            if not self._tally.total:
                conclusion = "nothing to recover from" if self._rate.is_of_faults else "nothing to go by"
            return replace(
                found, finding=Finding.SAFE, sentence=sentence(self.name, self._summary(), conclusion)
            )
        return found

    def _summary(self) -> str:
        limit = "" if self._rail.limit_s is None else f" {self._rail.limit_s:g} s"
        tally = self._tally
        fine = f"up to {figure(100 * self._rail.at)} % is fine"
        what = f"{self._rate.of} {self._rate.what}{limit}"
        return f"{tally.bad:,} of {tally.total:,} {what} ({tally.percent}; {fine})"


def _fell_back(batch: Batch, rail: Ceiling) -> tuple[int, int]:
    return batch.total(ComparedArm.STREAM, frozenset({"fell_back"})), batch.total(
        ComparedArm.STREAM, ELIGIBLE
    )


def _first_content(batch: Batch, rail: Ceiling) -> tuple[int, int]:
    assert rail.limit_s is not None, "the policy sees to it"
    tail = batch.first_content.get(rail.limit_s)
    return (0, 0) if tail is None else (tail.over, tail.all)


def _unrecovered(batch: Batch, rail: Ceiling) -> tuple[int, int]:
    return batch.recoveries.get("failed", 0), sum(batch.recoveries.values())


class _Rate(NamedTuple):
    counted: Callable[[Batch, Ceiling], tuple[int, int]]
    of: str
    what: str
    is_of_faults: bool = False
    """Faults are rare where all is well: the samples are the answers in which one could have happened."""
    is_of_shown: bool = False

    def may_be_few(self, exposure: Exposure) -> bool:
        """True if there may be few events for a good reason: nothing broke, or nothing is shown."""
        return self.is_of_faults or (self.is_of_shown and not exposure.share)


_RATES: Mapping[str, _Rate] = {
    "fallback": _Rate(_fell_back, "streamed answers", "fell back to batch"),
    "first_content": _Rate(_first_content, "streams", "showed their first text later than", is_of_shown=True),
    "unrecovered": _Rate(_unrecovered, "runs that lost their live text", "gave no answer", is_of_faults=True),
}
