"""What a plan is: the traffic seen, and for each step its hours, its harm, and what speaks against it."""

from dataclasses import dataclass, field

import numpy as np

from flags.rollout.plan.walks import NEVER
from flags.rollout.verdict.processes import Vector

MAX_PROOF_S = 30 * 86_400.0
"""A step that cannot be proved in so long is none, whatever its policy leaves open."""

FEW_EVENTS = 10
"""With fewer a rate is not known."""

MOST = (3.00, 4.74, 6.30, 7.75, 9.15, 10.51, 11.84, 13.15, 14.43, 15.71)
"""Where 0, 1, … 9 were seen, so many are expected at most: by Poisson's law, and wrong once in 20."""

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something was seen, and what the plan takes it for."""

    bad: int
    of: int
    limit_s: float | None = None
    """Seconds that were exceeded; None: answers that failed."""
    at: float = field(init=False)
    """0 to 1; never 0, since not to have seen a failure is not to have none."""
    is_guess: bool = field(init=False)
    """Too few were seen: `at` is the most that fits."""

    def __post_init__(self) -> None:
        is_guess = self.bad < FEW_EVENTS
        most = MOST[self.bad] if is_guess else self.bad
        object.__setattr__(self, "at", min(1.0, most / max(1, self.of)))
        object.__setattr__(self, "is_guess", is_guess)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the policy's routes do, in all arms together."""

    looked_s: float
    """How long it was looked at; above 0."""
    failed: Rate
    """Of settled requests that are compared."""
    slow: tuple[Rate, ...] = ()
    """Of whole answers; one for each limit."""
    users: int | None = None
    """Different ones; None: not known."""
    dispersion: float = 1.0
    """How much more users differ than chance makes them; 1 or more."""
    missing: int = 0
    """Proxies that gave no reading, whose traffic is not in here."""
    unverified: tuple[str, ...] = ()
    """Routes on which the proxies do not verify who asks."""
    requests_per_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requests_per_s", self.failed.of / self.looked_s)


@dataclass(frozen=True, slots=True)
class Hours:
    """So long it takes: one rollout in ten, half of them, nine in ten. None: longer than was looked ahead."""

    p10: float | None
    p50: float | None
    p90: float | None

    @classmethod
    def of(cls, times_s: Vector) -> "Hours":
        found = np.quantile(times_s, [0.1, 0.5, 0.9], method="higher") / HOUR_S
        return cls(*(float(hours) if hours < NEVER else None for hours in found))


@dataclass(frozen=True, slots=True)
class Harm:
    """A build whose streams fail more often from this step on."""

    ratio: int
    """So many times as often."""
    found: float
    """Part of such rollouts that go back within the step's `at_most`, or 30 days; 0 to 1."""
    hours: float | None
    """Until half of them are back; None: fewer are."""
    answers: float
    """That failed and would not have, on average, until it goes back or somebody is asked."""
    users: float | None
    """Whom they hit, at most. None: the number of users is not known."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of the policy."""

    index: int
    share: int
    """As the policy has it: 0 is dark."""
    stream_per_h: float
    """Requests of the stream arm, and of its control."""
    control_per_h: float
    users: int | None
    """Of the smaller arm, as expected. None: not known."""
    users_needed: int
    at_least_h: float
    at_most_h: float | None
    prove: bool
    approve: bool
    ready: Hours
    """Until there are users and samples enough to compare at all."""
    proof: Hours | None
    """Until every guardrail of a clean build is shown to be safe. None: the policy asks for no proof."""
    proved: float | None
    """Part of clean builds that are proved within `at_most`, or 30 days."""
    slowest: str
    """The guardrail that proof waits for longest, in most rollouts; "" where it waits for samples alone."""
    harms: tuple[Harm, ...]

    @property
    def limit_h(self) -> float:
        """Longer than this a step should not need."""
        return self.at_most_h or MAX_PROOF_S / HOUR_S


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, what they rest on, and why the policy should not be begun like this."""

    flag: str
    traffic: Traffic
    steps: tuple[StepPlan, ...]
    assumptions: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
