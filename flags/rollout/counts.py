"""Judges that count: texts shown wrongly, the first answers of a step, users in the arms. Pure."""

import math
from collections.abc import Mapping

from flags.rollout.evidence import BAD, ELIGIBLE, Arm, Batch
from flags.rollout.guardrails import Budget, EarlyGuard, SampleRatio, ZeroTolerance
from flags.rollout.judging import Frame, Judge, Tally, log10, sentence
from flags.rollout.processes import RateBet, early_limits
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


class EarlyJudge(Judge):
    """The first requests of a step, by an exact count."""

    def __init__(self, rail: EarlyGuard, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._limits = early_limits(rail.rate, rail.of, rail.alpha)
        self._tally = Tally()
        self._harm = False

    def enter(self, step: int, share: int) -> None:
        self._tally = Tally()
        self._harm = False

    def add(self, batch: Batch) -> None:
        self._tally.add(batch.total(Arm.STREAM, BAD), batch.total(Arm.STREAM, ELIGIBLE))
        number = self._tally.every
        # A batch that goes beyond the last one is the comparison's: what of it came first is not known.
        if 0 < number <= len(self._limits) and self._tally.bad >= self._limits[number - 1]:
            self._harm = True

    def judge(self, frame: Frame) -> Verdict:
        tally = self._tally
        finding = Finding.HARM if self._harm else Finding.SAFE if tally.every else Finding.NO_DATA
        said = f"{tally.bad:,} of the first {tally.every:,} answers of this step failed"
        if tally.every > self._rail.of:
            said = f"the first {self._rail.of:,} answers of this step are past, and were not too bad"
        return Verdict(
            self.name,
            finding,
            self._rail.action if self._harm else None,
            *(None, None, None, None, None),
            tally.every,
            1,
            frame.users.get(Arm.STREAM, 0),
            0,
            sentence(self.name, said, finding),
        )


class SampleJudge(Judge):
    """As many users in each arm as its share says."""

    def __init__(self, rail: SampleRatio, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._line = -math.log(rail.alpha)
        self._bet = RateBet.of_mismatch(0.5)
        self._evidence = self._bet.start()
        self._level: Mapping[str, int] = {}

    def enter(self, step: int, share: int) -> None:
        self._bet = RateBet.of_mismatch(share / (share + min(share, 100 - share)))
        self._evidence = self._bet.start()
        self._level = {}

    def add(self, batch: Batch) -> None:
        stream, control = (batch.users.get(arm, 0) - self._level.get(arm, 0) for arm in Arm)
        self._level = batch.users
        if stream >= 0 and control >= 0 and stream + control:  # else a proxy has begun to count anew
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
