"""Service level objectives, as ratios of counters, for burn-rate alerts and the lines of dashboards.

A ratio is bad events over all events. While nothing happens it is 0/0, and no comparison with it is true.
"""

from dataclasses import dataclass

from proxy.runs.recovery import LOSES_NO_ANSWER

DELIVERY_S = 0.1
"""Text known to the proxy is handed to the viewer's socket within this; an edge of the histogram."""

BY = "namespace, job, route"
"""A deployment's route is one thing, however many proxies serve it. Labels that are not there do no harm."""

APART = "client_left|cancelled|shutdown"
"""Outcomes that are neither good nor bad: somebody ended the run, or it continues elsewhere."""

BAD = "failed|truncated"

RECOVERABLE = "|".join(sorted(fault.value for fault in LOSES_NO_ANSWER))
"""Faults that leave an answer to be had, so that giving none is the proxy's own failure."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective. In `bad` and `every`, `$w` stands for the window."""

    name: str
    """Of its recorded series."""
    alert: str
    goal: float
    """The share of events that must be good, below 1."""
    bad: str
    every: str
    events: int
    """The least number of events in the longer window for an alert."""
    summary: str
    """The definition of a bad event."""
    critical: bool = True
    """True if a person is needed now, when the budget burns fast."""

    @property
    def budget(self) -> float:
        return round(1 - self.goal, 6)

    def ratio(self, window: str) -> str:
        """The share of bad events."""
        return f"({self.bad}) / ({self.every})".replace("$w", window)

    def count(self, window: str) -> str:
        """The number of all events."""
        return self.every.replace("rate(", "increase(").replace("$w", window)


def _sum(selector: str, by: str = BY) -> str:
    return f"sum by ({by}) (rate({selector}[$w]))"


_DELIVERED = _sum("headgate_delivery_seconds_count")

OBJECTIVES = (
    Objective(
        name="delivery_slow",
        alert="HeadgateDeliverySlow",
        goal=0.99,
        bad=f'{_DELIVERED} - {_sum(f"""headgate_delivery_seconds_bucket{{le="{DELIVERY_S}"}}""")}',
        every=_DELIVERED,
        events=1000,
        summary=f"text takes over {DELIVERY_S * 1000:.0f} ms through the proxy",
        critical=False,  # nothing is lost or wrong: the text comes in jerks
    ),
    Objective(
        name="answers_failed",
        alert="HeadgateAnswersFail",
        goal=0.99,
        bad=_sum(f'headgate_outcomes_total{{arm="stream",outcome=~"{BAD}"}}'),
        every=_sum(f'headgate_outcomes_total{{arm="stream",outcome!~"{APART}"}}'),
        events=50,
        summary="requests of users who stream end without a whole answer",
    ),
    Objective(
        name="recoveries_failed",
        alert="HeadgateRecoveryFails",
        goal=0.95,
        bad=_sum(f'headgate_recoveries_total{{fault=~"{RECOVERABLE}",result="failed"}}'),
        every=_sum(f'headgate_recoveries_total{{fault=~"{RECOVERABLE}"}}'),
        events=20,
        summary="runs that lost their live text give no answer, though there was one to be had",
    ),
)
