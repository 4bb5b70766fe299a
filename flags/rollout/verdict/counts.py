"""Judges that count: texts shown wrongly, the first answers of a step, users in the arms. Pure."""

import math
from collections.abc import Sequence

from flags.rollout.evidence.evidence import BAD, ELIGIBLE, Batch, ComparedArm
from flags.rollout.policy.guardrails import EarlyGuard, ErrorBudget, SampleRatio, ZeroTolerance
from flags.rollout.verdict.processes import RateBet, RatioBet, early_limits
from flags.rollout.verdict.step_context import ENDS, StepContext, Tally, figure, log10, sentence
from flags.rollout.verdict.verdict import Finding, Verdict


class ParityTest:
    """Texts that were shown and are not the answer's. One stays harm in all steps that follow."""

    def __init__(self, rail: ZeroTolerance, budget: ErrorBudget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._missed = budget.missed
        self._whole = Tally()
        self._here = 0

    def enter(self, step: int, share: int) -> None:
        self._here = 0

    def add(self, batch: Batch) -> None:
        bad = sum(count for result, count in batch.parity.items() if result in self._rail.results)
        every = sum(batch.parity.values())
        self._whole.add(bad, every)
        self._here += every

    def judge(self, frame: StepContext) -> Verdict:
        # Answers whose texts nobody compared are no proof.
        samples, needed = (
            min(frame.answers.get(ComparedArm.STREAM, 0), self._here),
            frame.exposure.min_samples,
        )
        finding = Finding.SAFE if samples >= needed else Finding.UNCLEAR if samples else Finding.NO_DATA
        if self._whole.bad:
            finding = Finding.HARM
        return Verdict(
            self.name,
            finding,
            self._rail.action if finding is Finding.HARM else None,
            *(None, None, None, None, None),
            samples,
            needed,
            frame.users.get(ComparedArm.STREAM, 0),
            0,
            sentence(self.name, self._said(), ENDS[finding]),
        )

    def _said(self) -> str:
        whole = self._whole
        said = f"{whole.bad:,} of {whole.every:,} texts were shown otherwise than the answer has them"
        if not whole.bad and whole.every:
            # So many clean ones are rarer than `missed` where the rate is higher, whenever one looks.
            excluded = min(1.0, -math.log(self._missed) / whole.every)
            said += f", which rules out more than {figure(100 * excluded)} %"
        return said


NO_WORSE = 1.25
"""Up to so many times the control arm's rate of failures is no worse than it."""

WORSE = math.log(20)
"""Evidence that it is worse. Chance gives so much once in twenty, but not together with too many failures."""


class _Window:
    """The first requests of something, in both arms."""

    def __init__(self, limits: Sequence[int]) -> None:
        self._limits = limits
        self._bet = RatioBet.of_harm(NO_WORSE)
        self.stream, self.control = Tally(), Tally()
        self.at_least = ""
        self._crossed = False
        self.harm = False

    def add(self, batch: Batch) -> None:
        bad, every = batch.total(ComparedArm.STREAM, BAD), batch.total(ComparedArm.STREAM, ELIGIBLE)
        room = len(self._limits) - self.stream.every
        if not room:
            return
        self.control.add(batch.total(ComparedArm.CONTROL, BAD), batch.total(ComparedArm.CONTROL, ELIGIBLE))
        # Which of a batch came first is not known: as many of the bad ones as can be came too late.
        late = max(0, every - room)
        sure = max(0, bad - late)
        self.at_least = "at least " if sure < bad else ""
        self.stream.add(sure, every - late)
        if self.stream.every:
            self._crossed = self._crossed or self.stream.bad >= self.limit
            self.harm = self.harm or (self._crossed and self._evidence() >= WORSE)

    @property
    def limit(self) -> int:
        """So many bad ones are too many by now."""
        return self._limits[self.stream.every - 1]

    def _evidence(self) -> float:
        """That the stream arm is worse than control."""
        mixture, share = self._bet.start(), self.stream.every / (self.stream.every + self.control.every)
        mixture.logs += self._bet.gain(self.stream.bad, self.control.bad, share)
        return mixture.log()


class EarlyTest:
    """The first requests of the rollout, and those of each step, by an exact count; and control must not fail
    as they do.

    Harm needs both, so that each may be seen sooner than alone: too many failures for what is usual, and
    more than in the control arm. An upstream that is down for everybody has only the first.
    """

    def __init__(self, rail: EarlyGuard, budget: ErrorBudget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._limits = early_limits(rail.rate, rail.of, rail.alpha / 2)  # of two windows
        self._whole = _Window(self._limits)
        self._step = _Window(self._limits)

    def enter(self, step: int, share: int) -> None:
        self._step = _Window(self._limits)

    def add(self, batch: Batch) -> None:
        self._whole.add(batch)
        self._step.add(batch)

    def judge(self, frame: StepContext) -> Verdict:
        window, of = (self._whole, "rollout") if self._whole.harm else (self._step, "step")
        finding = Finding.SAFE if window.stream.every else Finding.NO_DATA
        if window.harm:
            finding = Finding.HARM
        end = {Finding.HARM: "that is too many", Finding.SAFE: "not too many"}.get(finding, ENDS[finding])
        stream, control = window.stream, window.control
        said = (
            f"{window.at_least}{stream.bad:,} of the first {stream.every:,} answers of this {of} failed, "
            f"{control.bad:,} of {control.every:,} in its control"
        )
        if finding is Finding.SAFE:
            said += f" ({window.limit:,} would be harm if control has fewer)"
        return Verdict(
            self.name,
            finding,
            self._rail.action if window.harm else None,
            *(None, None, None, None, None),
            stream.every,
            1,
            frame.users.get(ComparedArm.STREAM, 0),
            0,
            sentence(self.name, said, end),
        )


class SampleRatioTest:
    """As many users in each arm as its share says."""

    def __init__(self, rail: SampleRatio, budget: ErrorBudget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._line = -math.log(rail.alpha)
        self.enter(0, 50)

    def enter(self, step: int, share: int) -> None:
        self._bet = RateBet.of_mismatch(share / (share + min(share, 100 - share)))
        self._evidence = self._bet.start()
        self._most = 0

    def add(self, batch: Batch) -> None:
        stream, control = (batch.users.get(arm, 0) for arm in ComparedArm)
        # Proxies that begin anew count the same users again: only beyond the most seen there are others.
        if stream + control > self._most:
            self._most = stream + control
            self._evidence.logs = self._bet.gain(stream, control)

    def judge(self, frame: StepContext) -> Verdict:
        evidence = self._evidence.log()
        finding = Finding.NO_DATA
        if evidence >= self._line:
            finding = Finding.HARM
        elif frame.smaller_users >= frame.exposure.min_users:
            finding = Finding.SAFE
        elif self._most:
            finding = Finding.UNCLEAR
        return Verdict(
            self.name,
            finding,
            self._rail.action if finding is Finding.HARM else None,
            log10(evidence),
            log10(self._line),
            None,
            None,
            None,
            0,
            0,
            frame.smaller_users,
            frame.exposure.min_users,
            sentence(self.name, self._said(frame), _SAMPLE_ENDS.get(finding, ENDS[finding])),
        )

    def _said(self, frame: StepContext) -> str:
        stream, control = (frame.users.get(arm, 0) for arm in ComparedArm)
        expected = f"{100 * self._bet.null:.0f} % of them expected in the first"
        return f"{stream:,} users met in the stream arm and {control:,} in its control, {expected}"


_SAMPLE_ENDS = {
    Finding.HARM: "that is not chance, so the arms or the counting are wrong",
    Finding.SAFE: "as it should be",
}
