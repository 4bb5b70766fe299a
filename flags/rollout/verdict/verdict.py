"""A verdict: what the evidence says of one guardrail. `evaluator` finds verdicts, `moves` acts on them."""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

from flags.rollout.policy.guardrails import Action


class Finding(StrEnum):
    """The result of a guardrail test."""

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
    """The action that harm asks for; None without harm."""
    sentence: str
    _: KW_ONLY
    log10_e: float | None = None
    """Evidence of harm so far; None where the test has no e-process."""
    hold_at: float | None = None
    roll_back_at: float | None = None
    log10_safe: float | None = None
    """Evidence of safety in this step; `safe_at` is its threshold."""
    safe_at: float | None = None
    samples: int = 0
    """The smaller arm's, in this step."""
    samples_needed: int = 0
    users: int = 0
    """The smaller arm's, at least."""
    users_needed: int = 0
    histories: bool | None = None
    """True if users' own histories are in the evidence of harm; None: this test has no use for them."""
