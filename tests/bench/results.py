"""The results of a run of the bench: samples, rows, goals. No I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

DISTURBED = 0.1
"""Share of the proxy's core that others may take: ticks of 10 ms cannot tell less in a run of a second."""

SLOW = 0.85
"""A proxy's core slower than this, as a share of its best, had a neighbour; its own changes stay above."""

FEW = 2
"""Of good samples; with fewer, the others count too."""


class Target(StrEnum):
    """A server that is measured."""

    HEADGATE = "headgate"
    NGINX = "nginx"  # proxy_buffering off
    NGINX_BUFFERED = "nginx_buffered"  # as it comes
    NAIVE = "naive"
    DIRECT = "direct"  # no proxy between


@dataclass(frozen=True, slots=True)
class Measured:
    """One short run, as the load saw it."""

    figures: Mapping[str, float]
    operations: int
    """Requests or events, to share the proxy's CPU time among."""
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One short run, with what it cost."""

    figures: Mapping[str, float]
    errors: int = 0
    cpu_us: float = 0.0
    """The proxy's CPU time for one request or event."""
    proxy_core: float = 0.0
    """Busy share of the proxy's core, 0 to 1, whoever kept it busy."""
    proxy_share: float = 0.0
    """The part of it that was the proxy."""
    load_core: float = 0.0
    speed: float = 1.0
    """Of the proxy's core, as a share of its best; see `cores.Gauge`."""

    @property
    def good(self) -> bool:
        """Had the proxy the whole of its core, at full speed?"""
        return self.disturbance <= DISTURBED and self.speed >= SLOW

    @property
    def disturbance(self) -> float:
        """Share of the proxy's core that something else took."""
        return max(0.0, self.proxy_core - self.proxy_share)


Samples = Mapping[Target, list[Sample]]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one of a row's comparisons."""

    text: str
    shown: str
    """The format of the comparison, with one field."""
    targets: tuple[Target, ...]
    """The servers that it compares."""
    measure: Callable[["Row"], float | None]
    at_least: float | None = None
    at_most: float | None = None

    def met(self, row: "Row") -> bool | None:
        """None: it could not be measured."""
        value = self.measure(row)
        if value is None:
            return None
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    unit: str
    figure: str
    """The figure of the samples that it shows."""
    samples: Samples
    goals: tuple[Goal, ...] = ()
    added: bool = False
    """Is the figure a delay, shown as what a proxy adds to `DIRECT`?"""
    saturating: bool = False
    """Should the proxy's core have been the limit?"""

    def value(self, target: Target) -> float | None:
        """The median; for `added` rows, what it is more than that of `DIRECT`."""
        value = self.cost(target, lambda one: one.figures[self.figure])
        if not self.added or target is Target.DIRECT:
            return value
        direct = self.cost(Target.DIRECT, lambda one: one.figures[self.figure])
        return value - direct if value is not None and direct is not None else None

    def ratio(self, of: Target) -> float | None:
        """Headgate's figure divided by another's."""
        mine, other = self.value(Target.HEADGATE), self.value(of)
        return mine / other if mine is not None and other else None

    def cpu_ratio(self, of: Target) -> float | None:
        """Another's CPU time for one request, divided by Headgate's. Hardly sees who else is busy."""
        mine, other = (self.cost(target, lambda one: one.cpu_us) for target in (Target.HEADGATE, of))
        return other / mine if mine and other else None

    def fair_ratio(self, of: Target) -> float | None:
        """The ratio of the rates; that of the CPU times, which is requests per core, if one was disturbed."""
        disturbed = max(self.disturbance(Target.HEADGATE), self.disturbance(of)) > DISTURBED
        return self.cpu_ratio(of) if disturbed else self.ratio(of)

    def disturbance(self, target: Target) -> float:
        """The median share of the proxy's core that others took."""
        return self.cost(target, lambda one: one.disturbance) or 0.0

    def cost(self, target: Target, of: Callable[[Sample], float]) -> float | None:
        """The median of something in the good samples of `target`."""
        samples = self.counted(target)
        return median(of(sample) for sample in samples) if samples else None

    def counted(self, target: Target) -> list[Sample]:
        """The good samples, or all of them if those are too few."""
        samples = self.samples.get(target, [])
        good = [sample for sample in samples if sample.good]
        return good if len(good) >= FEW else samples

    def errors(self, target: Target) -> int:
        """Failed requests over all runs."""
        return sum(sample.errors for sample in self.samples.get(target, []))


def share_goal(of: Target, at_least: float, text: str) -> Goal:
    """Headgate's rate is at least this part of that of another."""
    return Goal(text, "{:.0%}", (Target.HEADGATE, of), lambda row: row.fair_ratio(of), at_least=at_least)


def times_goal(of: Target, at_least: float, text: str) -> Goal:
    """Headgate's rate is at least this many times that of another."""
    return Goal(text, "{:.0f} ×", (Target.HEADGATE, of), lambda row: row.fair_ratio(of), at_least=at_least)


def at_most_times_goal(of: Target, most: float, text: str) -> Goal:
    """Headgate's figure is at most this many times that of another, which must be more than nothing."""

    def times(row: Row) -> float | None:
        return row.ratio(of) if (row.value(of) or 0) > 0 else None

    return Goal(text, "{:.1f} ×", (Target.HEADGATE, of), times, at_most=most)


def at_most_goal(most: float, text: str, shown: str) -> Goal:
    """Headgate's figure is at most this."""
    return Goal(text, shown, (Target.HEADGATE,), lambda row: row.value(Target.HEADGATE), at_most=most)


def added_goal(most_us: float, text: str) -> Goal:
    """Headgate adds at most this."""
    return at_most_goal(most_us, text, "{:,.0f} µs")


def cpu_goal(most_us: float, text: str) -> Goal:
    """Headgate's own time for one request or event is at most this."""
    return Goal(
        text,
        "{:.0f} µs",
        (Target.HEADGATE,),
        lambda row: row.cost(Target.HEADGATE, lambda one: one.cpu_us) or None,
        at_most=most_us,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """The amount to measure. The default stays under 8 minutes, `QUICK` under 90 seconds."""

    repeats: int = 4
    spare_repeats: int = 3
    """Rounds that may be added to have `good` good samples of each target."""
    good: int = 3
    watch_s: float = 3.0
    """Seconds for which the proxy's core is watched before, to learn its best speed."""
    run_s: int = 1
    connections: tuple[int, ...] = (1, 32, 256)
    first_events: int = 60
    paced_s: float = 1.5
    flood_s: float = 1.0
    naive_delays: bool = True
    open_streams: int = 1000
    decisions: int = 20_000
    open_runs: int = 1000
    run_rounds: int = 3
    run_window_s: float = 1.5
    starts: int = 7
    pure: bool = False
    """Is Headgate measured without its machine code?"""


QUICK = Plan(
    repeats=2,
    spare_repeats=1,
    good=2,
    watch_s=1.0,
    connections=(32,),
    first_events=30,
    paced_s=0.8,
    flood_s=0.5,
    naive_delays=False,
    decisions=5_000,
    run_rounds=2,
    run_window_s=0.8,
    starts=3,
)


@dataclass(slots=True)
class Results:
    """Everything that one `python -m tests.bench` found."""

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    absent: dict[Target, str] = field(default_factory=dict)
    """Targets that did not start, and why."""
