"""The state of a rollout as metrics; of the journal's state and the policy alone. It opens no port.

What is shown is replaced as a whole, so that no scrape sees half of one look and half of the next. Before the
first `show` the names are there, without a value. Who acted is in the journal; here nobody is named.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flags.rollout.ledger import RolloutState
from flags.rollout.moves import ControlMode, MoveKind, MoveReason, RolloutPhase
from flags.rollout.policy.policy import Policy
from flags.rollout.reporting.status import Status, status_of
from flags.rollout.verdict.verdict import Finding

NO_PHASE = "none"
"""The phase of a controller whose journal has no rollout yet."""

FAMILIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "info": (("run", "flag", "mode"), "Always 1"),
    "phase": (("phase",), "1 for the phase it is in"),
    "move": (("move",), "1 for the move of the last look"),
    "reason": (("reason",), "1 for the reason of that move"),
    "step": ((), "The step in force, from 1; 0 before the first one"),
    "steps": ((), "Steps of the policy"),
    "share_percent": (("kind",), "Users who stream, in percent"),
    "evidence_log10": (("guardrail", "towards"), "Evidence of a guardrail, as a power of ten"),
    "line_log10": (("guardrail", "line"), "Evidence at which a guardrail acts, as a power of ten"),
    "finding": (("guardrail", "finding"), "1 for what a guardrail comes to"),
    "samples": (("guardrail",), "Settled requests in the smaller arm, in this step"),
    "samples_needed": (("guardrail",), "So many before anything counts as safe"),
    "users": (("guardrail",), "Users met in the smaller arm"),
    "users_needed": (("guardrail",), "So many before the arms are compared"),
    "not_in_force": ((), "1 while what is in force is not what was decided"),
    "dwelt_seconds": ((), "Time with evidence in this step"),
    "dwell_needed_seconds": ((), "The least that the policy asks for"),
    "look_interval_seconds": ((), "Between two looks, by the policy"),
    "last_look_timestamp_seconds": ((), "Unix time of the last look; 0: never"),
    "last_evidence_timestamp_seconds": ((), "Unix time of the last evidence; 0: never"),
    "last_act_timestamp_seconds": ((), "Unix time of a person's last act; 0: never"),
    "last_kill_timestamp_seconds": ((), "Unix time of the last kill, drills too; 0: never"),
    "journal_entries": ((), "Entries of the journal"),
}
"""Without their prefix: labels, and what it is."""

_LINES = {"hold": "hold_at", "roll_back": "roll_back_at", "safe": "safe_at"}
_TOWARDS = {"harm": "log10_e", "safe": "log10_safe"}

LABELS: Mapping[str, type[Enum] | tuple[str, ...] | str] = {
    "run": "the rollout's id: `r1`, `r2`, …",
    "flag": "its name",
    "mode": ControlMode,
    "phase": (NO_PHASE, *RolloutPhase),
    "move": MoveKind,
    "reason": MoveReason,
    "kind": ("planned", "decided", "written", "in_force", "expected", "observed"),
    "guardrail": "its name in the policy",
    "towards": tuple(_TOWARDS),
    "line": tuple(_LINES),
    "finding": Finding,
}
"""The values of labels, for the reference."""

_Sample = tuple[tuple[str, ...], float]
_COUNTS = ("samples", "samples_needed", "users", "users_needed")


STARTED = "process_start_time_seconds"


class ControllerProcess(Collector):
    """The controller's own CPU, memory and descriptors.

    Not when it started: by that metric a reader of the job's pages knows proxies, and a controller is none.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._process = ProcessCollector(registry=None)
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        return (metric for metric in self._process.collect() if metric.name != STARTED)


class RolloutMetrics(Collector):
    """The metrics of one controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: Mapping[str, Sequence[_Sample]] = {}
        registry.register(self)

    def show(self, state: RolloutState, policy: Policy) -> None:
        """Set what every scrape sees from now on."""
        self._shown = {name: list(samples) for name, samples in _samples(state, policy).items()}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        shown = self._shown
        for name, (labels, text) in FAMILIES.items():
            family = GaugeMetricFamily(f"headgate_rollout_{name}", text, labels=labels)
            for values, value in shown.get(name, ()):
                family.add_metric(values, value)
            yield family


def _samples(state: RolloutState, policy: Policy) -> dict[str, Iterable[_Sample]]:
    status = status_of(state, policy, now_s=0)  # nothing of it that is shown here depends on the time
    return {
        "info": [((state.run, policy.flag, policy.mode), 1)],
        "phase": _one_of((NO_PHASE, *RolloutPhase), status.phase or NO_PHASE),
        "move": _one_of(MoveKind, status.move),
        "reason": _one_of(MoveReason, status.reason),
        "share_percent": _shares(status),
        **_of_verdicts(status.verdicts),
        **{name: [((), value)] for name, value in _plain(state, status, policy).items()},
    }


def _plain(state: RolloutState, status: Status, policy: Policy) -> Mapping[str, float]:
    """The metrics without labels."""
    return {
        "step": status.step,
        "steps": status.steps,
        "not_in_force": float(bool(status.gap)),
        "dwelt_seconds": status.dwelt_s,
        "dwell_needed_seconds": status.at_least_s,
        "look_interval_seconds": policy.tick_s,
        "last_look_timestamp_seconds": state.last_tick_s,
        "last_evidence_timestamp_seconds": state.last_good_s,
        "last_act_timestamp_seconds": state.last_act_s,
        "last_kill_timestamp_seconds": state.last_kill_s,
        "journal_entries": state.seq,
    }


def _one_of(names: Iterable[str], chosen: str) -> list[_Sample]:
    """All of them from the first scrape, so that a change can be seen."""
    return [((str(name),), float(name == chosen)) for name in names]


def _shares(status: Status) -> Iterator[_Sample]:
    yield ("planned",), status.planned
    yield ("decided",), status.decided
    yield ("written",), status.written
    if status.in_force is not None:
        yield ("in_force",), status.in_force["share"]
        if status.in_force["expected"] is not None:
            yield ("expected",), status.in_force["expected"]
    if status.observed is not None:
        yield ("observed",), status.observed


def _of_verdicts(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Iterable[_Sample]]:
    return {
        "evidence_log10": _parts(verdicts, _TOWARDS),
        "line_log10": _parts(verdicts, _LINES),
        "finding": [
            ((said["guardrail"], finding.value), float(finding == said["finding"]))
            for said in verdicts
            for finding in Finding
        ],
        **{name: [((said["guardrail"],), said[name]) for said in verdicts] for name in _COUNTS},
    }


def _parts(verdicts: Sequence[Mapping[str, Any]], fields: Mapping[str, str]) -> Iterator[_Sample]:
    """A guardrail without a process has no evidence and no line, rather than one at 0."""
    for said in verdicts:
        for part, field in fields.items():
            if said[field] is not None:
                yield (said["guardrail"], part), said[field]
