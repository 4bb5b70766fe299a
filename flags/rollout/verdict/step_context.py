"""The context of a step for all guardrail tests, and the sentences of their verdicts. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from flags.rollout.evidence.evidence import Batch, ComparedArm
from flags.rollout.policy.guardrails import Exposure
from flags.rollout.verdict.verdict import Finding, Verdict


@dataclass(slots=True)
class Tally:
    """Bad events among all, of one arm or one rate."""

    bad: int = 0
    total: int = 0

    def add(self, bad: int, total: int) -> None:
        self.bad += bad
        self.total += total

    @property
    def good(self) -> int:
        return self.total - self.bad

    @property
    def percent(self) -> str:
        return f"{figure(100 * self.bad / self.total)} %" if self.total else "none"


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Of a comparison: the numbers of its smaller arm."""

    samples: int
    users: int

    def suffice(self, exposure: Exposure) -> bool:
        """True if there are enough: fewer are a few people's luck, and no rate."""
        return self.samples >= exposure.min_samples and self.users >= exposure.min_users


@dataclass(frozen=True, slots=True)
class StepContext:
    """The context that the tests of one step share."""

    exposure: Exposure
    answers: Mapping[str, int]
    """Settled requests by arm, in this step."""
    users: Mapping[str, int]
    """Different users by arm in this step, at least."""
    users_ever: Mapping[str, int]
    """The same, of the step with the most: a user of an arm stays in it while the share grows."""
    dispersion: float
    """The factor by which users differ more than by chance; 1 or more."""

    @property
    def smaller_users(self) -> int:
        return min(self.users.get(arm, 0) for arm in ComparedArm)

    @property
    def smaller_users_ever(self) -> int:
        return min(self.users_ever.get(arm, 0) for arm in ComparedArm)


class GuardrailTest(Protocol):
    """The sequential test of one guardrail."""

    name: str

    def enter(self, step: int, share: int) -> None:
        """Begin a step, in which the flag has this share in percent."""

    def add(self, batch: Batch) -> None:
        """Add what has settled in this step since the last batch."""

    def verdict(self, context: StepContext) -> Verdict:
        """The verdict of all evidence so far."""


def log10(natural: float) -> float:
    """The logarithm to the base of 10 of a natural one."""
    return natural / math.log(10)


def figure(number: float) -> str:
    """A number with two significant digits, as people write it."""
    if 0 < number < 0.01:
        return "under 0.01"
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


CONCLUSIONS: Mapping[Finding, str] = {
    Finding.HARM: "that is harm",
    Finding.SAFE: "shown to be safe",
    Finding.UNCLEAR: "too few yet",
    Finding.NO_DATA: "nothing to go by yet",
}


def sentence(name: str, summary: str, conclusion: str) -> str:
    """A verdict in words that a clinician understands."""
    return f"{name.replace('_', ' ').capitalize()}: {summary}; {conclusion}."
