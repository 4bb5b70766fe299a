"""What the evidence says of one guardrail. `evaluator` finds the verdicts, `moves` acts on them."""

from dataclasses import dataclass
from enum import StrEnum

from flags.rollout.policy.guardrails import Action


class Finding(StrEnum):
    """What a guardrail test found."""

    HARM = "harm"
    SAFE = "safe"
    UNCLEAR = "unclear"
    NO_DATA = "no_data"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one guardrail test. Logarithms are to the base of 10."""

    guardrail: str
    finding: Finding
    action: Action | None
    """What harm asks for; None without it."""
    log10_e: float | None
    """Evidence of harm so far; None where the test has no e-process."""
    hold_at: float | None
    roll_back_at: float | None
    log10_safe: float | None
    """Evidence of safety in this step; `safe_at` is its threshold."""
    safe_at: float | None
    samples: int
    """The smaller arm's, in this step."""
    samples_needed: int
    users: int
    """The smaller arm's, at least."""
    users_needed: int
    sentence: str
