"""A plan: the traffic seen, and for each step its hours, its harm, and what speaks against it."""

from dataclasses import dataclass, field

import numpy as np

from flags.rollout.plan.stopping_times import NEVER
from flags.rollout.verdict.e_processes import Vector

MAX_PROOF_S = 30 * 86_400.0
"""The longest that a step may need for its proof, where the policy sets no `at_most`."""

FEW_EVENTS = 10
"""With fewer events a rate is not known."""

POISSON_95 = (3.00, 4.74, 6.30, 7.75, 9.15, 10.51, 11.84, 13.15, 14.43, 15.71)
"""Upper 95 % limits of a Poisson mean, where 0, 1, … 9 events were seen."""

HOUR_S = 3600.0

BETWEEN = 1.5
"""By default between the ratio that is no harm and the one that safety rules out: such a build may count as
safe, and what that costs is good to know."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate that the plan assumes, and the counts that it comes from."""

    bad: int
    of: int
    limit_s: float | None = None
    """Seconds that were exceeded; None: answers that failed."""
    at: float = field(init=False)
    """The assumed rate, 0 to 1; never 0, since failures that were not seen may still happen."""
    is_guess: bool = field(init=False)
    """True if too few were seen: then `at` is an upper confidence limit."""

    def __post_init__(self) -> None:
        is_guess = self.bad < FEW_EVENTS
        most = POISSON_95[self.bad] if is_guess else self.bad
        object.__setattr__(self, "at", min(1.0, most / max(1, self.of)))
        object.__setattr__(self, "is_guess", is_guess)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of the policy's routes, in all arms together."""

    looked_s: float
    """Seconds for which the traffic was watched; above 0."""
    failed: Rate
    """Failures among the settled requests that are compared."""
    slow: tuple[Rate, ...] = ()
    """Slow answers among the whole ones; one rate for each limit."""
    users: int | None = None
    """Different users; None: not known."""
    dispersion: float = 1.0
    """The factor by which groups of users differ more than by chance; 1 or more."""
    missing: int = 0
    """Proxies that gave no reading, whose traffic is not in here."""
    unverified: tuple[str, ...] = ()
    """Routes on which the proxies do not verify who asks."""
    cv2: float | None = None
    """Squared coefficient of variation of users' rates of failure, as their histories show it. None: the
    proxies do not say."""
    requests_per_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requests_per_s", self.failed.of / self.looked_s)


@dataclass(frozen=True, slots=True)
class Hours:
    """Quantiles of a time: 10, 50 and 90 % of rollouts. None: longer than was simulated."""

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

    ratio: float
    """The factor by which failures become more frequent."""
    found: float
    """The power: part of such rollouts that go back within the step's `at_most`, or 30 days; 0 to 1."""
    hours: float | None
    """Hours until half of such rollouts have gone back; None: fewer than half do."""
    answers: float
    """Failures that the build caused, on average, until it goes back or somebody is asked."""
    users: float | None
    """Users that they hit. None: the number of users is not known."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of the policy."""

    index: int
    share: int
    """The share in the policy; 0 is dark."""
    stream_per_h: float
    """Requests of the stream arm, and of its control."""
    control_per_h: float
    users: int | None
    """Expected users of the smaller arm. None: not known."""
    users_needed: int
    at_least_h: float
    at_most_h: float | None
    prove: bool
    approve: bool
    ready: Hours
    """Hours until there are enough users and samples to compare at all."""
    proof: Hours | None
    """Hours until every guardrail of a clean build is shown to be safe. None: the policy asks for no
    proof."""
    proved: float | None
    """The proof's power: the part of clean builds that are proved within `at_most`, or 30 days."""
    slowest: str
    """The guardrail that proof waits for longest, in most rollouts; "" where it waits for samples alone."""
    harms: tuple[Harm, ...]

    @property
    def limit_h(self) -> float:
        """The longest that this step should need."""
        return self.at_most_h or MAX_PROOF_S / HOUR_S


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, what they rest on, and why the policy should not begin like this."""

    flag: str
    traffic: Traffic
    steps: tuple[StepPlan, ...]
    assumptions: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
