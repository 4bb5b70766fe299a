"""What all judges share: what they go by, and how they say what they found. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from flags.rollout.evidence.evidence import Batch, ComparedArm
from flags.rollout.policy.guardrails import Exposure
from flags.rollout.verdict.verdict import Finding, Verdict


@dataclass(slots=True)
class Tally:
    """What one arm, or one rate, has come to in a step."""

    bad: int = 0
    every: int = 0

    def add(self, bad: int, every: int) -> None:
        self.bad += bad
        self.every += every

    @property
    def good(self) -> int:
        return self.every - self.bad

    @property
    def percent(self) -> str:
        return f"{figure(100 * self.bad / self.every)} %" if self.every else "none"


@dataclass(frozen=True, slots=True)
class SampleSize:
    """What a comparison stands on, in the smaller arm."""

    samples: int
    users: int

    def suffice(self, exposure: Exposure) -> bool:
        """Fewer are a few people's luck, and no rate."""
        return self.samples >= exposure.min_samples and self.users >= exposure.min_users


@dataclass(frozen=True, slots=True)
class StepContext:
    """What all guardrails of one step go by."""

    exposure: Exposure
    answers: Mapping[str, int]
    """Settled requests by arm, in this step."""
    users: Mapping[str, int]
    """Different ones met by arm in this step, at least."""
    users_ever: Mapping[str, int]
    """The same of the step in which they were most: who is in an arm stays there while the share grows."""
    dispersion: float
    """How much more users differ than chance makes them; 1 or more."""

    @property
    def smaller_users(self) -> int:
        return min(self.users.get(arm, 0) for arm in ComparedArm)

    @property
    def smaller_users_ever(self) -> int:
        return min(self.users_ever.get(arm, 0) for arm in ComparedArm)


class GuardrailTest(Protocol):
    """One guardrail's evidence."""

    name: str

    def enter(self, step: int, share: int) -> None:
        """A step begins, in which this share is written."""

    def add(self, batch: Batch) -> None:
        """What has settled in this step since the last one."""

    def judge(self, frame: StepContext) -> Verdict:
        """What all of it says by now."""


def log10(natural: float) -> float:
    """Of what is kept as a natural logarithm."""
    return natural / math.log(10)


def figure(number: float) -> str:
    """Two digits, as people write them."""
    if 0 < number < 0.01:
        return "under 0.01"
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


ENDS: Mapping[Finding, str] = {
    Finding.HARM: "that is harm",
    Finding.SAFE: "shown to be safe",
    Finding.UNCLEAR: "too few yet",
    Finding.NO_DATA: "nothing to go by yet",
}


def sentence(name: str, said: str, end: str) -> str:
    """One that a clinician understands."""
    return f"{name.replace('_', ' ').capitalize()}: {said}; {end}."
