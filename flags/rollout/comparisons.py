"""Judges that bet: a rate of the stream arm against its control's, or against a ceiling. Pure.

A bet is settled only once there are users and samples enough to compare at all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flags.rollout.evidence import BAD, ELIGIBLE, Arm, Batch
from flags.rollout.guardrails import Action, Budget, Ceiling, RateRatio
from flags.rollout.judging import Frame, Judge, Tally, log10, sentence
from flags.rollout.processes import Mixture, RateBet, RatioBet, Vector
from flags.rollout.verdict import Finding, Verdict

CUMULATIVE = 2 / 3
"""Weight of the bet on harm that is there in all steps; the rest is shared by bets on each step alone."""

FEW_FAULTS = 20
"""Runs that lost their live text, below which how they ended proves nothing, and is no reason to wait."""


@dataclass(frozen=True, slots=True)
class Lines:
    """How much evidence is enough, as natural logarithms. Of harm the budget is split by weight."""

    hold: float
    roll_back: float
    safe: float

    @classmethod
    def of(cls, budget: Budget, weight: float) -> "Lines":
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

    def __init__(self, bet: RatioBet | RateBet, safety: RatioBet | RateBet, steps: int) -> None:
        self._bet = bet
        self._safety = safety
        self._steps = steps
        self._whole = bet.start()
        self._stages: dict[int, Mixture] = {}
        self._stage = bet.start()
        self._safe = safety.start()

    def enter(self, step: int) -> None:
        self._stage = self._stages[step] = self._bet.start()
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


class RatioJudge(Judge):
    """The stream arm against its control."""

    def __init__(self, rail: RateRatio, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._lines = Lines.of(budget, rail.weight)
        self._harm, self._safe = RatioBet.of_harm(rail.margin), RatioBet.of_safety(rail.harm)
        self._evidence = _Compared(self._harm, self._safe, steps)
        self._tallies = {arm: Tally() for arm in Arm}

    def enter(self, step: int, share: int) -> None:
        self._evidence.enter(step)
        self._tallies = {arm: Tally() for arm in Arm}

    def add(self, batch: Batch) -> None:
        counted = {arm: self._counted(batch, arm) for arm in Arm}
        for arm, (bad, every) in counted.items():
            self._tallies[arm].add(bad, every)
        (stream_bad, stream), (control_bad, control) = counted[Arm.STREAM], counted[Arm.CONTROL]
        # Where one arm is empty, where an event is says nothing.
        if stream and control and stream_bad + control_bad:
            share = stream / (stream + control)
            self._evidence.add(
                self._harm.gain(stream_bad, control_bad, share),
                self._safe.gain(stream_bad, control_bad, share),
            )

    def _counted(self, batch: Batch, arm: Arm) -> tuple[int, int]:
        if self._rail.limit_s is None:
            return batch.total(arm, BAD), batch.total(arm, ELIGIBLE)
        tail = batch.seconds.get((arm, self._rail.limit_s))
        return (0, 0) if tail is None else (tail.over, tail.all)

    def judge(self, frame: Frame) -> Verdict:
        harm, safe = self._evidence.harm(frame.dispersion), self._evidence.safe(frame.dispersion)
        samples = min(tally.every for tally in self._tallies.values()), frame.exposure.min_samples
        return _verdict(
            self._rail, self._lines, frame, (harm, safe), samples, frame.smaller_users, self._said()
        )

    def _said(self) -> str:
        stream, control = self._tallies[Arm.STREAM], self._tallies[Arm.CONTROL]
        limit = self._rail.limit_s
        what = "failed" if limit is None else f"took over {limit:g} s"
        said = (
            f"{stream.bad:,} of {stream.every:,} answers in the stream arm {what} ({stream.percent}), "
            f"{control.bad:,} of {control.every:,} in its control ({control.percent})"
        )
        if stream.every and control.bad:
            said += f": {stream.bad / stream.every / (control.bad / control.every):.2g} times as often"
        return said


class CeilingJudge(Judge):
    """A rate of the stream arm alone."""

    def __init__(self, rail: Ceiling, budget: Budget, steps: int) -> None:
        self._rail = rail
        self.name = rail.name
        self._lines = Lines.of(budget, rail.weight)
        self._harm, self._safe = RateBet.of_harm(rail.at), RateBet.of_safety(rail.harm)
        self._evidence = _Compared(self._harm, self._safe, steps)
        self._tally = Tally()

    def enter(self, step: int, share: int) -> None:
        self._evidence.enter(step)
        self._tally = Tally()

    def add(self, batch: Batch) -> None:
        bad, every = _RATES[self._rail.of](batch, self._rail)
        self._tally.add(bad, every)
        if every:
            self._evidence.add(self._harm.gain(bad, every - bad), self._safe.gain(bad, every - bad))

    def judge(self, frame: Frame) -> Verdict:
        answers = frame.answers.get(Arm.STREAM, 0)
        optional = self._rail.of == "unrecovered" or not frame.exposure.share
        few = optional and self._tally.every < FEW_FAULTS
        samples = answers if few else self._tally.every
        needed = FEW_FAULTS if optional and not few else frame.exposure.min_samples
        evidence = self._evidence.harm(1.0), self._evidence.safe(1.0)
        users = frame.users.get(Arm.STREAM, 0)
        made = _verdict(self._rail, self._lines, frame, evidence, (samples, needed), users, self._said())
        if few and made.finding is Finding.UNCLEAR and answers >= frame.exposure.min_samples:
            sentence = f"{made.sentence} Too few to judge, and no reason to wait."
            return replace(made, finding=Finding.SAFE, sentence=sentence)
        return made

    def _said(self) -> str:
        what, of = _RATE_WORDS[self._rail.of]
        limit = "" if self._rail.limit_s is None else f" {self._rail.limit_s:g} s"
        tally = self._tally
        fine = f"up to {100 * self._rail.at:.2g} % is fine"
        return f"{tally.bad:,} of {tally.every:,} {of} {what}{limit} ({tally.percent}; {fine})"


def _fell_back(batch: Batch, rail: Ceiling) -> tuple[int, int]:
    return batch.total(Arm.STREAM, frozenset({"fell_back"})), batch.total(Arm.STREAM, ELIGIBLE)


def _first_content(batch: Batch, rail: Ceiling) -> tuple[int, int]:
    assert rail.limit_s is not None, "the policy sees to it"
    tail = batch.first_content.get(rail.limit_s)
    return (0, 0) if tail is None else (tail.over, tail.all)


def _unrecovered(batch: Batch, rail: Ceiling) -> tuple[int, int]:
    return batch.recoveries.get("failed", 0), sum(batch.recoveries.values())


_RATES: Mapping[str, Callable[[Batch, Ceiling], tuple[int, int]]] = {
    "fallback": _fell_back,
    "first_content": _first_content,
    "unrecovered": _unrecovered,
}
_RATE_WORDS: Mapping[str, tuple[str, str]] = {
    "fallback": ("fell back to batch", "streamed answers"),
    "first_content": ("showed their first text later than", "streams"),
    "unrecovered": ("gave no answer", "runs that lost their live text"),
}


def _verdict(
    rail: RateRatio | Ceiling,
    lines: Lines,
    frame: Frame,
    evidence: tuple[float, float],
    samples: tuple[int, int],
    users: int,
    said: str,
) -> Verdict:
    """Of a guardrail that bets, once there are samples as needed and enough users to compare at all."""
    harm, safe = evidence
    there, needed = samples
    exposure = frame.exposure
    enough = there >= needed and users >= exposure.min_users
    action = lines.action(harm, rail.action) if enough else None
    finding = Finding.UNCLEAR
    if action is not None:
        finding = Finding.HARM
    elif enough and safe >= lines.safe:
        finding = Finding.SAFE
    elif not there:
        finding = Finding.NO_DATA
    return Verdict(
        rail.name,
        finding,
        action,
        log10(harm),
        log10(lines.hold),
        log10(lines.roll_back) if rail.action is Action.ROLL_BACK else None,
        log10(safe),
        log10(lines.safe),
        there,
        needed,
        users,
        exposure.min_users,
        sentence(rail.name, said, finding, max(0.0, safe / lines.safe)),
    )
