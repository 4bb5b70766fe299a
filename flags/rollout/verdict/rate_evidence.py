"""Evidence on a rate: its e-processes over the steps, their thresholds, and the verdict. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flags.rollout.policy.guardrails import Action, Ceiling, ErrorBudget, Exposure, RateRatio
from flags.rollout.verdict.e_processes import EProcess, JointNull, RateNull, RatioNull, Vector
from flags.rollout.verdict.step_context import CONCLUSIONS, SampleSize, figure, log10, sentence
from flags.rollout.verdict.verdict import Finding, Verdict

ALL_STEPS_WEIGHT = 2 / 3
"""Weight of the e-process over all steps in the evidence of harm; the steps share the rest."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Evidence that is enough, as natural logarithms. The error budget of harm is split by weight."""

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

    def action(self, harm: float, most: Action) -> Action | None:
        """The action that this evidence of harm asks for, if any."""
        if harm >= self.roll_back and most is Action.ROLL_BACK:
            return most
        return Action.HOLD if harm >= self.hold else None


class HarmEvidence:
    """E-processes against "no harm": one for all steps, and one for each."""

    def __init__(self, no_harm: RatioNull | RateNull, steps: int) -> None:
        self._no_harm = no_harm
        self._steps = steps
        self._all_steps = no_harm.e_process()
        self._by_step: dict[int, EProcess] = {}
        self._this_step = no_harm.e_process()

    def enter(self, step: int) -> None:
        # A step that comes back goes on with its own e-process: one that starts again at 1 has a higher rate
        # of false alarms.
        self._this_step = self._by_step.setdefault(step, self._no_harm.e_process())

    def add(self, increments: Vector) -> None:
        self._all_steps.logs += increments
        self._this_step.logs += increments

    def log(self, dispersion: float) -> float:
        """The log of their weighted mean, which is an e-process too; steps that have not begun stand at 1."""
        each = (1 - ALL_STEPS_WEIGHT) / self._steps
        logs = [math.log(ALL_STEPS_WEIGHT) + self._all_steps.log(dispersion)]
        logs += [math.log(each) + process.log(dispersion) for process in self._by_step.values()]
        waiting = (self._steps - len(self._by_step)) * each
        if waiting > 0:
            logs.append(math.log(waiting))
        return log_sum(logs)


class RateEvidence:
    """Evidence of harm, over all steps, and an e-process against "harm", for the present step."""

    def __init__(self, no_harm: RatioNull | RateNull, harm: JointNull | RateNull, steps: int) -> None:
        self._harm = harm
        self._of_harm = HarmEvidence(no_harm, steps)
        self._safety = harm.e_process()

    def enter(self, step: int) -> None:
        self._of_harm.enter(step)
        self._safety = self._harm.e_process()

    def add(self, of_harm: Vector, of_safety: Vector) -> None:
        self._of_harm.add(of_harm)
        self._safety.logs += of_safety

    def harm(self, dispersion: float) -> float:
        return self._of_harm.log(dispersion)

    def safety(self, dispersion: float) -> float:
        return self._safety.log(dispersion)


def log_sum(logs: Sequence[float]) -> float:
    """The logarithm of the sum of numbers, by their logarithms."""
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs))


def rate_verdict(
    rail: RateRatio | Ceiling,
    thresholds: Thresholds,
    exposure: Exposure,
    evidence: tuple[float, float],
    here: SampleSize,
    ever: SampleSize,
    summary: str,
) -> Verdict:
    """The verdict of one guardrail: harm may rest on all steps so far, safety rests on the present one.

    Args:
        evidence: of harm and of safety, as natural logarithms.
        here: the sample size in this step.
        ever: the sample size in all steps so far.
    """
    harm, safe = evidence
    action = thresholds.action(harm, rail.action) if here.samples and ever.suffice(exposure) else None
    finding = Finding.UNCLEAR
    if action is not None:
        finding = Finding.HARM
    elif not here.samples:
        finding = Finding.NO_DATA
    elif here.suffice(exposure) and safe >= thresholds.safe:
        finding = Finding.SAFE
    conclusion = _conclusion(finding, action, rail, here.suffice(exposure), safe / thresholds.safe)
    return Verdict(
        rail.name,
        finding,
        action,
        sentence(rail.name, summary, conclusion),
        log10_e=log10(harm),
        hold_at=log10(thresholds.hold),
        roll_back_at=log10(thresholds.roll_back) if rail.action is Action.ROLL_BACK else None,
        log10_safe=log10(safe),
        safe_at=log10(thresholds.safe),
        samples=here.samples,
        samples_needed=exposure.min_samples,
        users=here.users,
        users_needed=exposure.min_users,
    )


def _conclusion(
    finding: Finding, action: Action | None, rail: RateRatio | Ceiling, enough: bool, progress: float
) -> str:
    if finding is Finding.HARM and action is not rail.action:
        return "that looks like harm"
    if finding is Finding.UNCLEAR and enough:
        return f"no harm shown, and {100 * min(1.0, max(0.0, progress)):.0f} % of the way to shown to be safe"
    if finding is Finding.SAFE:
        return f"safe, since {_ruled_out(rail)} or more is ruled out"
    return CONCLUSIONS[finding]


def _ruled_out(rail: RateRatio | Ceiling) -> str:
    if isinstance(rail, Ceiling):
        return f"{figure(100 * rail.harm)} %"
    if rail.or_points is None:
        return f"{rail.harm:g} times"
    return f"harm of {rail.harm:g} times and {rail.or_points:g} percentage points"
