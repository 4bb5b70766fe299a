"""What all judges share: what they go by, and how they say what they found. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flags.rollout.evidence import Arm, Batch
from flags.rollout.guardrails import Exposure
from flags.rollout.verdict import Finding, Verdict


@dataclass(slots=True)
class Tally:
    """What one arm, or one rate, has come to in a step."""

    bad: int = 0
    every: int = 0

    def add(self, bad: int, every: int) -> None:
        self.bad += bad
        self.every += every

    @property
    def percent(self) -> str:
        return f"{100 * self.bad / self.every:.3g} %" if self.every else "none"


@dataclass(frozen=True, slots=True)
class Frame:
    """What all guardrails of one step go by."""

    exposure: Exposure
    answers: Mapping[str, int]
    """Settled requests by arm, in this step."""
    users: Mapping[str, int]
    """Different ones met by arm, at least."""
    dispersion: float
    """How much more users differ than chance makes them; 1 or more."""

    @property
    def smaller_users(self) -> int:
        return min(self.users.get(arm, 0) for arm in Arm)


class Judge:
    """One guardrail's evidence."""

    name: str

    def enter(self, step: int, share: int) -> None:
        """A step begins, in which this share is written."""

    def add(self, batch: Batch) -> None:
        raise NotImplementedError

    def judge(self, frame: Frame) -> Verdict:
        raise NotImplementedError


def log10(natural: float) -> float:
    """Of what is kept as a natural logarithm."""
    return natural / math.log(10)


def sentence(name: str, said: str, finding: Finding, proved: float | None = None) -> str:
    """One that a clinician understands."""
    ends = {
        Finding.HARM: "that is harm",
        Finding.SAFE: "shown to be safe",
        Finding.NO_DATA: "nothing to go by yet",
        Finding.UNCLEAR: "too few yet"
        if proved is None
        else f"no harm shown, {100 * min(1.0, proved):.0f} % of the way to proof",
    }
    return f"{name.capitalize()}: {said}; {ends[finding]}."
