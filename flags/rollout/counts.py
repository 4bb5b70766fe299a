"""Judges that count: texts shown wrongly, the first answers of a step, users in the arms. Pure."""

import math

from flags.rollout.evidence import BAD, ELIGIBLE, Arm, Batch
from flags.rollout.guardrails import Budget, EarlyGuard, SampleRatio, ZeroTolerance
from flags.rollout.judging import ENDS, Frame, Judge, Tally, figure, log10, sentence
from flags.rollout.processes import RateBet, early_limits
from flags.rollout.verdict import Finding, Verdict


class ParityJudge(Judge):
    """Texts that were shown and are not the answer's. One stays harm in all steps that follow."""

    def __init__(self, rail: ZeroTolerance, budget: Budget, steps: int) -> None:
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

    def judge(self, frame: Frame) -> Verdict:
        # Answers whose texts nobody compared are no proof.
        samples, needed = min(frame.answers.get(Arm.STREAM, 0), self._here), frame.exposure.min_samples
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
            frame.users.get(Arm.STREAM, 0),
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


class EarlyJudge(Judge):
    """The first requests of a step, by an exact count."""

    def __init__(self, rail: EarlyGuard, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._limits = early_limits(rail.rate, rail.of, rail.alpha)
        self._first = Tally()
        self._at_least = ""
        self._harm = False

    def enter(self, step: int, share: int) -> None:
        self._first = Tally()
        self._at_least = ""
        self._harm = False

    def add(self, batch: Batch) -> None:
        bad, every = batch.total(Arm.STREAM, BAD), batch.total(Arm.STREAM, ELIGIBLE)
        room = len(self._limits) - self._first.every
        if not room or not every:
            return
        if every > room:
            # Which of a batch came first is not known: as many of the bad ones as can be came too late.
            sure = max(0, bad - (every - room))
            self._at_least = "at least " if sure < bad else ""
            bad, every = sure, room
        self._first.add(bad, every)
        self._harm = self._harm or self._first.bad >= self._limit

    @property
    def _limit(self) -> int:
        return self._limits[self._first.every - 1]

    def judge(self, frame: Frame) -> Verdict:
        first = self._first
        finding = Finding.HARM if self._harm else Finding.SAFE if first.every else Finding.NO_DATA
        end = {Finding.HARM: "that is too many", Finding.SAFE: "not too many"}.get(finding, ENDS[finding])
        said = f"{self._at_least}{first.bad:,} of the first {first.every:,} answers of this step failed"
        if finding is Finding.SAFE:
            said += f" ({self._limit:,} would be harm)"
        return Verdict(
            self.name,
            finding,
            self._rail.action if self._harm else None,
            *(None, None, None, None, None),
            first.every,
            1,
            frame.users.get(Arm.STREAM, 0),
            0,
            sentence(self.name, said, end),
        )


class SampleJudge(Judge):
    """As many users in each arm as its share says."""

    def __init__(self, rail: SampleRatio, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._line = -math.log(rail.alpha)
        self.enter(0, 50)

    def enter(self, step: int, share: int) -> None:
        self._bet = RateBet.of_mismatch(share / (share + min(share, 100 - share)))
        self._evidence = self._bet.start()
        self._most = 0

    def add(self, batch: Batch) -> None:
        stream, control = (batch.users.get(arm, 0) for arm in Arm)
        # Proxies that begin anew count the same users again: only beyond the most seen there are others.
        if stream + control > self._most:
            self._most = stream + control
            self._evidence.logs = self._bet.gain(stream, control)

    def judge(self, frame: Frame) -> Verdict:
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

    def _said(self, frame: Frame) -> str:
        stream, control = (frame.users.get(arm, 0) for arm in Arm)
        expected = f"{100 * self._bet.null:.0f} % of them expected in the first"
        return f"{stream:,} users met in the stream arm and {control:,} in its control, {expected}"


_SAMPLE_ENDS = {
    Finding.HARM: "that is not chance, so the arms or the counting are wrong",
    Finding.SAFE: "as it should be",
}
