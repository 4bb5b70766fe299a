"""Test of answers that took longer than is usual for their user, in the arms. Pure."""

from collections.abc import Sequence

import numpy as np

from flags.rollout.evidence.evidence import GOOD, Batch, ComparedArm
from flags.rollout.policy.guardrails import Action, ErrorBudget, Exposure, UsualTime
from flags.rollout.verdict.buckets import BUCKETS, ROWS
from flags.rollout.verdict.e_processes import RatioNull, dispersion
from flags.rollout.verdict.rate_evidence import HarmEvidence, Thresholds
from flags.rollout.verdict.step_context import SampleSize, StepContext, Tally, log10, sentence
from flags.rollout.verdict.verdict import Finding, Verdict


class UsualTest:
    """The ratio of slow answers, as that of failures, divided by how much users differ in it.

    A user's own usual time is known before the user comes into an arm, and is the same rule in both. It looks
    for harm: safe means that users and answers were enough, and none was shown.
    """

    def __init__(self, rail: UsualTime, budget: ErrorBudget, steps: Sequence[Exposure]) -> None:
        self._rail = rail
        self.name = rail.name
        self._thresholds = Thresholds.of(budget, rail.weight)
        self._no_harm = RatioNull.at_most(rail.margin)
        self._evidence = HarmEvidence(self._no_harm, len(steps))
        # Slow answers and all of them, by arm and bucket, in all steps.
        self._counts = np.zeros((2, len(ROWS), BUCKETS))
        self._this_step = {arm: Tally() for arm in ComparedArm}
        self._pending = {arm: Tally() for arm in ComparedArm}

    def enter(self, step: int, share: int) -> None:
        self._evidence.enter(step)
        self._this_step = {arm: Tally() for arm in ComparedArm}
        self._pending = {arm: Tally() for arm in ComparedArm}

    def add(self, batch: Batch) -> None:
        """Add a batch in which all proxies compare answers with what is usual."""
        if batch.slower is None:
            return
        for (of, bucket, outcome), count in batch.outcomes.items():
            if of in ROWS and outcome in GOOD:
                self._counts[1, ROWS[of], bucket] += count
        for (of, bucket), count in batch.slower.items():
            self._counts[0, ROWS[of], bucket] += count
        for arm in ComparedArm:
            slow = sum(count for (of, _), count in batch.slower.items() if of == arm)
            for tallies in (self._this_step, self._pending):
                tallies[arm].add(slow, batch.total(arm, GOOD))
        stream, control = self._pending[ComparedArm.STREAM], self._pending[ComparedArm.CONTROL]
        if not (stream.total and control.total):
            return  # the event waits until the other arm has answers, too
        share = stream.total / (stream.total + control.total)
        self._evidence.add(self._no_harm.log_increments(stream.bad, control.bad, share))
        self._pending = {arm: Tally() for arm in ComparedArm}

    def verdict(self, context: StepContext) -> Verdict:
        harm = self._evidence.log(dispersion(*self._counts))
        stream, control = self._this_step[ComparedArm.STREAM], self._this_step[ComparedArm.CONTROL]
        here = SampleSize(min(stream.total, control.total), context.smaller_users)
        ever = SampleSize(int(self._counts[1].sum(axis=1).min()), context.smaller_users_ever)
        enough = here.samples > 0 and ever.suffice(context.exposure)
        action = self._thresholds.action(harm, self._rail.action) if enough else None
        finding = Finding.UNCLEAR if here.samples else Finding.NO_DATA
        if action is not None:
            finding = Finding.HARM
        elif here.suffice(context.exposure):
            finding = Finding.SAFE
        summary = (
            f"{stream.bad:,} of {stream.total:,} answers in the stream arm took 1.5 times what is usual for "
            f"their user ({stream.percent}), {control.bad:,} of {control.total:,} in its control "
            f"({control.percent})"
        )
        return Verdict(
            self.name,
            finding,
            action,
            sentence(self.name, summary, _CONCLUSIONS[finding]),
            log10_e=log10(harm),
            hold_at=log10(self._thresholds.hold),
            roll_back_at=log10(self._thresholds.roll_back) if self._rail.action is Action.ROLL_BACK else None,
            samples=here.samples,
            samples_needed=context.exposure.min_samples,
            users=here.users,
            users_needed=context.exposure.min_users,
        )


_CONCLUSIONS = {
    Finding.HARM: "that is harm",
    Finding.SAFE: "not shown to be slower",
    Finding.UNCLEAR: "too few yet",
    Finding.NO_DATA: "nothing to go by yet",
}
