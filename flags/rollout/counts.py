"""Judges that count: texts shown wrongly, the first answers of a step, users in the arms. Pure."""

import math
from collections.abc import Mapping, Sequence

from flags.rollout.evidence import BAD, ELIGIBLE, Arm, Batch
from flags.rollout.guardrails import Budget, EarlyGuard, SampleRatio, ZeroTolerance
from flags.rollout.judging import Frame, Judge, Tally, log10, sentence
from flags.rollout.processes import RateBet, RatioBet, early_limits
from flags.rollout.verdict import Finding, Verdict


class ParityJudge(Judge):
    """Texts that were shown and are not the answer's."""

    def __init__(self, rail: ZeroTolerance, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._missed = budget.missed
        self._whole = Tally()

    def add(self, batch: Batch) -> None:
        bad = sum(count for result, count in batch.parity.items() if result in self._rail.results)
        self._whole.add(bad, sum(batch.parity.values()))

    def judge(self, frame: Frame) -> Verdict:
        samples, needed = frame.answers.get(Arm.STREAM, 0), frame.exposure.min_samples
        whole = self._whole
        said = f"{whole.bad:,} of {whole.every:,} texts were shown otherwise than the answer has them"
        if not whole.bad and whole.every:
            excluded = -math.log(self._missed) / whole.every
            said += f", which rules out more than {100 * min(1.0, excluded):.2g} %"
        finding = Finding.SAFE if samples >= needed else Finding.UNCLEAR
        if not samples and not whole.every:
            finding = Finding.NO_DATA
        return Verdict(
            self.name,
            Finding.HARM if whole.bad else finding,
            self._rail.action if whole.bad else None,
            *(None, None, None, None, None),
            samples,
            needed,
            frame.users.get(Arm.STREAM, 0),
            0,
            sentence(self.name, said, finding if not whole.bad else Finding.HARM),
        )


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
        self._crossed = False
        self.harm = False

    def add(self, batch: Batch) -> None:
        for arm, tally in ((Arm.STREAM, self.stream), (Arm.CONTROL, self.control)):
            tally.add(batch.total(arm, BAD), batch.total(arm, ELIGIBLE))
        # A batch that goes beyond the last one is the comparison's: what of it came first is not known.
        if 0 < self.stream.every <= len(self._limits):
            self._crossed = self._crossed or self.stream.bad >= self._limits[self.stream.every - 1]
            self.harm = self.harm or (self._crossed and self._evidence() >= WORSE)

    def _evidence(self) -> float:
        """That the stream arm is worse than control."""
        mixture, share = self._bet.start(), self.stream.every / (self.stream.every + self.control.every)
        mixture.logs += self._bet.gain(self.stream.bad, self.control.bad, share)
        return mixture.log()


class EarlyJudge(Judge):
    """The first requests of the rollout, and those of each step, by an exact count; and control must not fail
    as they do.

    Harm needs both, so that each may be seen sooner than alone: too many failures for what is usual, and
    more than in the control arm. An upstream that is down for everybody has only the first.
    """

    def __init__(self, rail: EarlyGuard, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._limits = early_limits(rail.rate, rail.of, rail.alpha / 2)  # of two windows
        self._whole = self._step = _Window(self._limits)

    def enter(self, step: int, share: int) -> None:
        self._step = _Window(self._limits)

    def add(self, batch: Batch) -> None:
        for window in {self._whole, self._step}:
            window.add(batch)

    def judge(self, frame: Frame) -> Verdict:
        window = self._whole if self._whole.harm else self._step
        finding = Finding.SAFE if window.stream.every else Finding.NO_DATA
        if window.harm:
            finding = Finding.HARM
        of = "rollout" if window is self._whole else "step"
        said = (
            f"{window.stream.bad:,} of the first {window.stream.every:,} answers of this {of} failed, "
            f"{window.control.bad:,} of {window.control.every:,} in its control"
        )
        if window.stream.every > self._rail.of and not window.harm:
            said = f"the first {self._rail.of:,} answers of this step are past, and were not too bad"
        return Verdict(
            self.name,
            finding,
            self._rail.action if window.harm else None,
            *(None, None, None, None, None),
            window.stream.every,
            1,
            frame.users.get(Arm.STREAM, 0),
            0,
            sentence(self.name, said, finding),
        )


MOST_WAIT_S = 60.0
"""Until then the proxies have seen a new share, and count their users anew."""


class SampleJudge(Judge):
    """As many users in each arm as its share says."""

    def __init__(self, rail: SampleRatio, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._line = -math.log(rail.alpha)
        self._bet = RateBet.of_mismatch(0.5)
        self._evidence = self._bet.start()
        self._level: Mapping[str, int] = {}
        self._waits = False
        self._entered_s: float | None = None

    def enter(self, step: int, share: int) -> None:
        self._bet = RateBet.of_mismatch(share / (share + min(share, 100 - share)))
        self._evidence = self._bet.start()
        self._waits = any(self._level.values())
        self._entered_s = None

    def add(self, batch: Batch) -> None:
        before, self._level = self._level, batch.users
        if self._entered_s is None:
            self._entered_s = batch.since_s
        began_again = any(batch.users.get(arm, 0) < before.get(arm, 0) for arm in Arm)
        if self._waits and not began_again:
            # The proxies still count by the share before.
            self._waits = batch.until_s < self._entered_s + MOST_WAIT_S
            return
        before = {} if self._waits else before
        self._waits = False
        stream, control = (batch.users.get(arm, 0) - before.get(arm, 0) for arm in Arm)
        if stream >= 0 and control >= 0 and stream + control:  # else a proxy has begun anew within the step
            self._evidence.logs += self._bet.gain(stream, control)

    def judge(self, frame: Frame) -> Verdict:
        evidence, needed = self._evidence.log(), frame.exposure.min_users
        stream, control = (frame.users.get(arm, 0) for arm in Arm)
        finding = Finding.SAFE if frame.smaller_users >= needed else Finding.UNCLEAR
        if not stream + control:
            finding = Finding.NO_DATA
        if evidence >= self._line:
            finding = Finding.HARM
        expected = f"{100 * self._bet.null:.0f} % of them expected in the first"
        said = f"{stream:,} users met in the stream arm and {control:,} in its control, {expected}"
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
            needed,
            sentence(self.name, said, finding),
        )
