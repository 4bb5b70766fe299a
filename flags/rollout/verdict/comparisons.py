"""Judges that bet: a rate of the stream arm against its control's, or against a ceiling. Pure.

A bet is settled only once there are users and samples enough to compare at all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from flags.rollout.evidence.evidence import BAD, ELIGIBLE, Batch, ComparedArm
from flags.rollout.policy.guardrails import Action, Ceiling, ErrorBudget, Exposure, RateRatio
from flags.rollout.verdict.processes import EitherBet, Mixture, RateBet, RatioBet, Vector
from flags.rollout.verdict.step_context import ENDS, SampleSize, StepContext, Tally, figure, log10, sentence
from flags.rollout.verdict.verdict import Finding, Verdict

CUMULATIVE = 2 / 3
"""Weight of the bet on harm that is there in all steps; the rest is shared by bets on each step alone."""

FEW_FAULTS = 20
"""Runs that lost their live text, below which how they ended proves nothing, and is no reason to wait."""

POINTS_TO_HARM = 0.01
"""No evidence at all is 0, but for the rounding of sums."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How much evidence is enough, as natural logarithms. Of harm the budget is split by weight."""

    hold: float
    roll_back: float
    safe: float

    @classmethod
    def of(cls, budget: ErrorBudget, weight: float) -> "Thresholds":
        return cls(
            hold=-math.log(weight * budget.hold),
            roll_back=-math.log(weight * budget.roll_back),
            safe=-math.log(budget.missed),
        )

    def action(self, evidence: float, most: Action) -> Action | None:
        """What so much evidence of harm asks for."""
        if evidence >= self.roll_back and most is Action.ROLL_BACK:
            return most
        return Action.HOLD if evidence >= self.hold else None


class _Compared:
    """Bets of harm over all steps and in each, and of safety in the present one."""

    def __init__(self, bet: RatioBet | RateBet, safety: EitherBet | RateBet, steps: int) -> None:
        self._bet = bet
        self._safety = safety
        self._steps = steps
        self._whole = bet.start()
        self._stages: dict[int, Mixture] = {}
        self._stage = bet.start()
        self._safe = safety.start()

    def enter(self, step: int) -> None:
        # A bet that was lost may not begin again at 1: who comes back to a step goes on with its bet.
        self._stage = self._stages.setdefault(step, self._bet.start())
        self._safe = self._safety.start()

    def add(self, gain: Vector, safe_gain: Vector) -> None:
        self._whole.logs += gain
        self._stage.logs += gain
        self._safe.logs += safe_gain

    def harm(self, tempering: float) -> float:
        """A mean of fair bets is one; those on steps that have not begun stand at 1."""
        each = (1 - CUMULATIVE) / self._steps
        logs = [math.log(CUMULATIVE) + self._whole.log(tempering)]
        logs += [math.log(each) + stage.log(tempering) for stage in self._stages.values()]
        waiting = (self._steps - len(self._stages)) * each
        if waiting > 0:
            logs.append(math.log(waiting))
        most = max(logs)
        return most + math.log(sum(math.exp(log - most) for log in logs))

    def safe(self, tempering: float) -> float:
        return self._safe.log(tempering)


class RatioTest:
    """The stream arm against its control."""

    def __init__(self, rail: RateRatio, budget: ErrorBudget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._lines = Thresholds.of(budget, rail.weight)
        self._harm, self._safe = RatioBet.of_harm(rail.margin), EitherBet.of_safety(rail.harm, rail.or_points)
        self._evidence = _Compared(self._harm, self._safe, steps)
        self._ever = {arm: Tally() for arm in ComparedArm}
        self._tallies = {arm: Tally() for arm in ComparedArm}
        self._block = {arm: Tally() for arm in ComparedArm}

    def enter(self, step: int, share: int) -> None:
        self._evidence.enter(step)
        self._tallies = {arm: Tally() for arm in ComparedArm}
        self._block = {arm: Tally() for arm in ComparedArm}

    def add(self, batch: Batch) -> None:
        for arm in ComparedArm:
            counted = self._counted(batch, arm)
            for tallies in (self._ever, self._tallies, self._block):
                tallies[arm].add(*counted)
        stream, control = self._block[ComparedArm.STREAM], self._block[ComparedArm.CONTROL]
        # While one arm is empty, in which arm an event is says nothing: it waits for the other arm. When that
        # comes depends on how many ask and not on what they get, so waiting is no choice of evidence.
        if not (stream.every and control.every):
            return
        share = stream.every / (stream.every + control.every)
        self._evidence.add(
            self._harm.gain(stream.bad, control.bad, share),
            self._safe.gain(stream.bad, stream.good, control.bad, control.good),
        )
        self._block = {arm: Tally() for arm in ComparedArm}

    def _counted(self, batch: Batch, arm: ComparedArm) -> tuple[int, int]:
        if self._rail.limit_s is None:
            return batch.total(arm, BAD), batch.total(arm, ELIGIBLE)
        tail = batch.seconds.get((arm, self._rail.limit_s))
        return (0, 0) if tail is None else (tail.over, tail.all)

    def judge(self, frame: StepContext) -> Verdict:
        harm, safe = self._evidence.harm(frame.dispersion), self._evidence.safe(frame.dispersion)
        here = SampleSize(min(tally.every for tally in self._tallies.values()), frame.smaller_users)
        ever = SampleSize(min(tally.every for tally in self._ever.values()), frame.smaller_users_ever)
        return _verdict(self._rail, self._lines, frame.exposure, (harm, safe), here, ever, self._said())

    def _said(self) -> str:
        stream, control = self._tallies[ComparedArm.STREAM], self._tallies[ComparedArm.CONTROL]
        limit = self._rail.limit_s
        what = "failed" if limit is None else f"took over {limit:g} s"
        said = (
            f"{stream.bad:,} of {stream.every:,} answers in the stream arm {what} ({stream.percent}), "
            f"{control.bad:,} of {control.every:,} in its control ({control.percent})"
        )
        if stream.every and control.bad:  # of nothing there is no ratio
            said += f": {figure(stream.bad / stream.every / (control.bad / control.every))} times as often"
        return said


class CeilingTest:
    """A rate of the stream arm alone."""

    def __init__(self, rail: Ceiling, budget: ErrorBudget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._lines = Thresholds.of(budget, rail.weight)
        self._rate = _RATES[rail.of]
        self._harm, self._safe = RateBet.of_harm(rail.at), RateBet.of_safety(rail.harm)
        self._evidence = _Compared(self._harm, self._safe, steps)
        self._tally = Tally()
        self._samples_ever = 0

    def enter(self, step: int, share: int) -> None:
        self._evidence.enter(step)
        self._tally = Tally()

    def add(self, batch: Batch) -> None:
        bad, every = self._rate.counted(batch, self._rail)
        self._tally.add(bad, every)
        self._samples_ever += batch.total(ComparedArm.STREAM, ELIGIBLE) if self._rate.is_of_faults else every
        if every:
            self._evidence.add(self._harm.gain(bad, every - bad), self._safe.gain(bad, every - bad))

    def judge(self, frame: StepContext) -> Verdict:
        answers = frame.answers.get(ComparedArm.STREAM, 0)
        few = self._tally.every < FEW_FAULTS and self._rate.may_be_few(frame.exposure)
        here = SampleSize(
            answers if few or self._rate.is_of_faults else self._tally.every,
            frame.users.get(ComparedArm.STREAM, 0),
        )
        ever = SampleSize(self._samples_ever, frame.users_ever.get(ComparedArm.STREAM, 0))
        harm, safe = self._evidence.harm(1.0), self._evidence.safe(1.0)
        made = _verdict(self._rail, self._lines, frame.exposure, (harm, safe), here, ever, self._said())
        # Few are no reason to wait, unless what there is points to harm.
        if few and made.finding is Finding.UNCLEAR and here.suffice(frame.exposure) and harm < POINTS_TO_HARM:
            end = "too few to judge, and no reason to wait"
            if not self._tally.every:
                end = "nothing to recover from" if self._rate.is_of_faults else "nothing to go by"
            return replace(made, finding=Finding.SAFE, sentence=sentence(self.name, self._said(), end))
        return made

    def _said(self) -> str:
        limit = "" if self._rail.limit_s is None else f" {self._rail.limit_s:g} s"
        tally = self._tally
        fine = f"up to {figure(100 * self._rail.at)} % is fine"
        what = f"{self._rate.of} {self._rate.what}{limit}"
        return f"{tally.bad:,} of {tally.every:,} {what} ({tally.percent}; {fine})"


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
    """They are rare where all is well: its samples are the answers among which they could have been."""
    is_of_shown: bool = False

    def may_be_few(self, exposure: Exposure) -> bool:
        """There may be none for a good reason: nothing broke, or nothing is shown."""
        return self.is_of_faults or (self.is_of_shown and not exposure.share)


_RATES: Mapping[str, _Rate] = {
    "fallback": _Rate(_fell_back, "streamed answers", "fell back to batch"),
    "first_content": _Rate(_first_content, "streams", "showed their first text later than", is_of_shown=True),
    "unrecovered": _Rate(_unrecovered, "runs that lost their live text", "gave no answer", is_of_faults=True),
}


def _verdict(
    rail: RateRatio | Ceiling,
    lines: Thresholds,
    exposure: Exposure,
    evidence: tuple[float, float],
    here: SampleSize,
    ever: SampleSize,
    said: str,
) -> Verdict:
    """Of a guardrail that bets. Harm may stand on all steps so far, safety stands on this one."""
    harm, safe = evidence
    action = lines.action(harm, rail.action) if here.samples and ever.suffice(exposure) else None
    finding = Finding.UNCLEAR
    if action is not None:
        finding = Finding.HARM
    elif not here.samples:
        finding = Finding.NO_DATA
    elif here.suffice(exposure) and safe >= lines.safe:
        finding = Finding.SAFE
    return Verdict(
        rail.name,
        finding,
        action,
        log10(harm),
        log10(lines.hold),
        log10(lines.roll_back) if rail.action is Action.ROLL_BACK else None,
        log10(safe),
        log10(lines.safe),
        here.samples,
        exposure.min_samples,
        here.users,
        exposure.min_users,
        sentence(rail.name, said, _end(finding, action, rail, here.suffice(exposure), safe / lines.safe)),
    )


def _end(
    finding: Finding, action: Action | None, rail: RateRatio | Ceiling, enough: bool, proved: float
) -> str:
    if finding is Finding.HARM and action is not rail.action:
        return "that looks like harm"
    if finding is Finding.UNCLEAR and enough:
        return f"no harm shown, and {100 * min(1.0, max(0.0, proved)):.0f} % of the way to shown to be safe"
    if finding is Finding.SAFE:
        return f"safe, since {_harm_said(rail)} or more is ruled out"
    return ENDS[finding]


def _harm_said(rail: RateRatio | Ceiling) -> str:
    """What is ruled out."""
    if isinstance(rail, Ceiling):
        return f"{figure(100 * rail.harm)} %"
    if rail.or_points is None:
        return f"{rail.harm:g} times"
    return f"harm of {rail.harm:g} times and {rail.or_points:g} percentage points"
