"""What is known of the arms: counts of what settled between two readings. Pure; no person is in it.

Source of the outcomes: `headgate_outcomes_total`, counted once for each request of a route when it settles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Arm(StrEnum):
    """The arms that are compared. Everybody else is in neither."""

    STREAM = "stream"
    CONTROL = "control"


BAD = frozenset({"failed", "truncated"})
"""Outcomes by which a user has no answer, or not all of it."""

GOOD = frozenset({"complete", "recovered", "fell_back"})

APART = frozenset({"client_left", "cancelled", "shutdown"})
"""Shown by arm, and in no comparison: they say nothing about the answer."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How many of all were over a limit."""

    over: int
    all: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What settled between two readings within one step. Counts are whole and >= 0; what is absent is 0."""

    since_s: float
    """Unix time of the earlier reading."""
    until_s: float
    """Unix time of the later one."""
    step: int
    """Index of the policy's step that was in force all the time."""
    outcomes: Mapping[tuple[str, int, str], int] = field(default_factory=dict)
    """By arm, user bucket (0 to 15) and outcome."""
    seconds: Mapping[tuple[str, float], Tail] = field(default_factory=dict)
    """By arm and limit in seconds: whole answers that took longer."""
    first_content: Mapping[float, Tail] = field(default_factory=dict)
    """By limit in seconds: streams whose first text came later."""
    recoveries: Mapping[str, int] = field(default_factory=dict)
    """Runs hit by a failure, by result: `recovered`, `fell_back`, `failed`."""
    parity: Mapping[str, int] = field(default_factory=dict)
    """Sections compared with the batch answer, by result."""
    users: Mapping[str, int] = field(default_factory=dict)
    """By arm: at least so many different users since the share last changed. A level, not a difference."""

    def total(self, arm: str, outcomes: frozenset[str]) -> int:
        """Requests of one arm with one of these outcomes."""
        return sum(n for (of, _, outcome), n in self.outcomes.items() if of == arm and outcome in outcomes)
