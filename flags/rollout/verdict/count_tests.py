"""Tests of counts: texts shown wrongly, the first answers of a step, users in the arms. Pure."""

import math
from collections.abc import Sequence

import numpy as np

from flags.rollout.evidence.evidence import BAD, ELIGIBLE, Batch, ComparedArm
from flags.rollout.policy.guardrails import EarlyGuard, ErrorBudget, Exposure, SampleRatio, ZeroTolerance
from flags.rollout.verdict.binomial_limits import early_limits
from flags.rollout.verdict.buckets import BUCKETS, ROWS, by_bucket
from flags.rollout.verdict.e_processes import RateNull, RatioNull, dispersion
from flags.rollout.verdict.step_context import CONCLUSIONS, StepContext, Tally, figure, log10, sentence
from flags.rollout.verdict.verdict import Finding, Verdict


class ParityTest:
    """Test of shown texts that the answer does not have. One is harm, in all steps that follow."""

    def __init__(self, rail: ZeroTolerance, budget: ErrorBudget, steps: Sequence[Exposure]) -> None:
        self._rail = rail
        self.name = rail.name
        self._missed = budget.missed
        self._all_steps = Tally()
        self._this_step = 0

    def enter(self, step: int, share: int) -> None:
        self._this_step = 0

    def add(self, batch: Batch) -> None:
        bad = sum(count for result, count in batch.parity.items() if result in self._rail.results)
        total = sum(batch.parity.values())
        self._all_steps.add(bad, total)
        self._this_step += total

    def verdict(self, context: StepContext) -> Verdict:
        samples, needed = context.answers.get(ComparedArm.STREAM, 0), context.exposure.min_samples
        has_texts = bool(context.exposure.share) or context.exposure.compared
        if has_texts:
            samples = min(samples, self._this_step)  # answers whose texts nobody compared are no proof
        finding = Finding.SAFE if samples >= needed else Finding.UNCLEAR if samples else Finding.NO_DATA
        if self._all_steps.bad:
            finding = Finding.HARM
        conclusion = CONCLUSIONS[finding]
        if finding is not Finding.HARM and not has_texts:
            conclusion = "in the dark only the source tap has texts to compare, which no route has"
        return Verdict(
            self.name,
            finding,
            self._rail.action if finding is Finding.HARM else None,
            sentence(self.name, self._summary(), conclusion),
            samples=samples,
            samples_needed=needed,
            users=context.users.get(ComparedArm.STREAM, 0),
        )

    def _summary(self) -> str:
        whole = self._all_steps
        summary = f"{whole.bad:,} of {whole.total:,} texts were shown otherwise than the answer has them"
        if not whole.bad and whole.total:
            # At a higher rate the chance of so many clean texts is below `missed`, however often one looks.
            excluded = min(1.0, -math.log(self._missed) / whole.total)
            summary += f", which rules out more than {figure(100 * excluded)} %"
        return summary


NO_WORSE = 1.25
"""Ratio to the control arm's rate of failures up to which the stream arm is no worse."""

WORSE = math.log(20)
"""Log e-value from which the stream arm is worse. By itself, it would be a false alarm once in twenty."""


class _FirstRequests:
    """The first requests of a step or of the rollout, in both arms, and whether they are too bad.

    Args:
        limits: for each number of requests, the fewest failures that are too many.
        min_users: different users who must have failed answers.
    """

    def __init__(self, limits: Sequence[int], min_users: int) -> None:
        self._limits = limits
        self._min_users = min_users
        self._null = RatioNull.at_most(NO_WORSE)
        self.stream, self.control = Tally(), Tally()
        self.at_least = ""
        self._by_bucket = np.zeros((2, len(ROWS), BUCKETS))
        """Bad and all answers, by arm and bucket of users."""
        self._capped: dict[ComparedArm, int] | None = dict.fromkeys(ComparedArm, 0)
        """Bad answers, of each user as many as proxies let count. None: not all proxies said so."""
        self._maybe_late = 0
        self._too_many = False
        self.harm = False

    def add(self, batch: Batch) -> None:
        bad, total = batch.total(ComparedArm.STREAM, BAD), batch.total(ComparedArm.STREAM, ELIGIBLE)
        room = len(self._limits) - self.stream.total
        if not room:
            return
        self._by_bucket += by_bucket(batch)[:2]
        self._cap(batch)
        self.control.add(batch.total(ComparedArm.CONTROL, BAD), batch.total(ComparedArm.CONTROL, ELIGIBLE))
        # The order within a batch is not known: as many of the bad requests as possible count as too late.
        late = max(0, total - room)
        self._maybe_late = min(bad, late)
        self.at_least = "at least " if self._maybe_late else ""
        self.stream.add(bad - self._maybe_late, total - late)
        if self.stream.total:
            self._too_many = self._too_many or self.counted >= self.limit
            self.harm = self.harm or (self._too_many and self._evidence() >= WORSE)

    @property
    def limit(self) -> int:
        """The fewest bad requests that are too many by now."""
        return self._limits[self.stream.total - 1]

    @property
    def counted(self) -> int:
        """Bad requests, as far as they are of different users: none before `min_users` buckets have some.

        Of each user so many count as proxies let count in an hour. A user who goes to many processes counts
        at each of them; so the bucket that has the most counts as the second one at most. Where proxies do
        not count by user, each of the `min_users` buckets that have the most counts as the last one.
        """
        bad = np.sort(self._by_bucket[0, ROWS[ComparedArm.STREAM]])[::-1]
        last = bad[self._min_users - 1]
        if self._capped is None:
            return max(0, int(np.minimum(bad, last).sum()) - self._maybe_late)
        of_many = min(self._capped[ComparedArm.STREAM], int(np.minimum(bad, bad[1]).sum()))
        return max(0, of_many - self._maybe_late) if last else 0

    @property
    def why_not_all(self) -> str:
        """Why not all bad requests count."""
        if self._capped is None or not self.counted:
            return f"the others may be of fewer than {self._min_users} users"
        return "of one user only the first of an hour do"

    def _cap(self, batch: Batch) -> None:
        fails = any(batch.total(arm, BAD) for arm in ComparedArm)
        if self._min_users == 1 or (batch.capped is None and fails):
            self._capped = None
        elif self._capped is not None:
            for arm, count in (batch.capped or {}).items():
                self._capped[ComparedArm(arm)] += count

    def _evidence(self) -> float:
        """Log e-value that the stream arm is worse than control, divided by how much users differ in all
        failures: a storm of retries is seen there, though few of it count."""
        process, share = self._null.e_process(), self.stream.total / (self.stream.total + self.control.total)
        of_control = self.control.bad if self._capped is None else self._capped[ComparedArm.CONTROL]
        process.logs += self._null.log_increments(self.counted, of_control, share)
        return process.log(dispersion(*self._by_bucket) if self._min_users > 1 else 1.0)


class EarlyTest:
    """Exact test of the first requests of the rollout, and of those of each step.

    Harm needs two things, so that either threshold can be low: more failures than usual, and more than in the
    control arm. An upstream that is down for everybody fulfils the first alone.
    """

    def __init__(self, rail: EarlyGuard, budget: ErrorBudget, steps: Sequence[Exposure]) -> None:
        self._rail = rail
        self.name = rail.name
        self._limits = early_limits(rail.rate, rail.of, rail.alpha / 2)  # of two windows
        self._all_steps = _FirstRequests(self._limits, rail.min_users)
        self._step = _FirstRequests(self._limits, self._rail.min_users)

    def enter(self, step: int, share: int) -> None:
        self._step = _FirstRequests(self._limits, self._rail.min_users)

    def add(self, batch: Batch) -> None:
        self._all_steps.add(batch)
        self._step.add(batch)

    def verdict(self, context: StepContext) -> Verdict:
        window, of = (self._all_steps, "rollout") if self._all_steps.harm else (self._step, "step")
        finding = Finding.SAFE if window.stream.total else Finding.NO_DATA
        if window.harm:
            finding = Finding.HARM
        conclusion = {Finding.HARM: "that is too many", Finding.SAFE: "not too many"}.get(
            finding, CONCLUSIONS[finding]
        )
        stream, control = window.stream, window.control
        summary = (
            f"{window.at_least}{stream.bad:,} of the first {stream.total:,} answers of this {of} failed, "
            f"{control.bad:,} of {control.total:,} in its control"
        )
        if window.counted < stream.bad:
            summary += f"; {window.counted:,} of them count, for {window.why_not_all}"
        if finding is Finding.SAFE:
            summary += f" ({window.limit:,} would be harm if control has fewer)"
        return Verdict(
            self.name,
            finding,
            self._rail.action if window.harm else None,
            sentence(self.name, summary, conclusion),
            samples=stream.total,
            samples_needed=1,
            users=context.users.get(ComparedArm.STREAM, 0),
        )


class SampleRatioTest:
    """Test of the numbers of users in the arms against the share: a sample ratio mismatch."""

    def __init__(self, rail: SampleRatio, budget: ErrorBudget, steps: Sequence[Exposure]) -> None:
        self._rail = rail
        self.name = rail.name
        self._threshold = -math.log(rail.alpha)
        self.enter(0, 50)

    def enter(self, step: int, share: int) -> None:
        self._null = RateNull.of_mismatch(share / (share + min(share, 100 - share)))
        self._evidence = self._null.e_process()
        self._most = 0

    def add(self, batch: Batch) -> None:
        stream, control = (batch.users.get(arm, 0) for arm in ComparedArm)
        # A restarted proxy counts the same users again: only a number beyond the largest so far has new ones.
        if stream + control > self._most:
            self._most = stream + control
            self._evidence.logs = self._null.log_increments(stream, control)

    def verdict(self, context: StepContext) -> Verdict:
        evidence = self._evidence.log()
        finding = Finding.NO_DATA
        if evidence >= self._threshold:
            finding = Finding.HARM
        elif context.smaller_users >= context.exposure.min_users:
            finding = Finding.SAFE
        elif self._most:
            finding = Finding.UNCLEAR
        conclusion = _SAMPLE_RATIO_CONCLUSIONS.get(finding, CONCLUSIONS[finding])
        return Verdict(
            self.name,
            finding,
            self._rail.action if finding is Finding.HARM else None,
            sentence(self.name, self._summary(context), conclusion),
            log10_e=log10(evidence),
            hold_at=log10(self._threshold),
            users=context.smaller_users,
            users_needed=context.exposure.min_users,
        )

    def _summary(self, context: StepContext) -> str:
        stream, control = (context.users.get(arm, 0) for arm in ComparedArm)
        expected = f"{100 * self._null.bound:.0f} % of them expected in the first"
        return f"{stream:,} users met in the stream arm and {control:,} in its control, {expected}"


_SAMPLE_RATIO_CONCLUSIONS = {
    Finding.HARM: "that is not chance, so the arms or the counting are wrong",
    Finding.SAFE: "as it should be",
}
