"""The end of a run, and what is counted of it. Nothing here keeps a run, or its text, alive."""

import logging
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from flags.decision import Decision
from proxy.errors import Fault
from proxy.identity import Identity
from proxy.observe.labels import FaultPhase
from proxy.observe.metrics import RouteMetrics
from proxy.observe.spans.ports import REQUEST, SpanEnd, exemplar
from proxy.relay.outcomes import OF_STRANGERS
from proxy.runs.call import Call

logger = logging.getLogger("headgate.runs")

CANCELLED = "cancelled"
SHUTDOWN = "shutdown"
"""Ends of a run that are no failures of the upstream; their `error_code` and their outcome."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a run has no complete answer.

    `code` is a `Fault`, `CANCELLED`, `SHUTDOWN`, or `REPLICA_LOST` of a followed run.
    """

    code: str
    status: int
    detail: str


class RunEnd(NamedTuple):
    """The facts of a run at its end. Times are the loop's, in seconds."""

    run_id: str
    outcome: str
    failure: Failure | None
    is_watched: bool
    started_at: float
    ended_at: float
    first_content_s: float | None
    """From its start to its first text; None: it had none, or another replica has counted it."""
    events: int
    status: int | None
    """Of the upstream's answer, or of the failure; None: there is neither."""
    times_asked: int
    """The number of times that its call was sent."""
    accepted_s: float | None
    """From its start to the upstream's answer that it will do the work; None: its answer was the work."""


class RunAccount:
    """Counts one run in the metrics: its failures while it runs, its outcome at its end.

    Args:
        durations: seconds that the route's last complete runs took; those of this one are added.
    """

    def __init__(
        self,
        call: Call,
        decision: Decision,
        identity: Identity | None,
        metrics: RouteMetrics,
        durations: "deque[float]",
    ) -> None:
        self._route = call.route.name
        self._span = call.span
        self._asked_at = call.asked_at
        self._decision = decision
        self._identity = identity
        self._metrics = metrics
        self._durations = durations
        self._faults: list[tuple[Fault, FaultPhase]] = []

    @property
    def is_recovered(self) -> bool:
        """True if anything has failed so far."""
        return bool(self._faults)

    def note(self, fault: Fault, phase: FaultPhase) -> None:
        """Count a failure, also one that is overcome. One of the log store costs the run nothing."""
        if fault is not Fault.LOG_STORE:
            self._faults.append((fault, phase))
        self._metrics.faults[fault, phase].inc()

    def outcome_of_success(self) -> str:
        """The outcome of a complete run."""
        if not self._faults:
            return "complete"
        without_live_text = any(
            fault is Fault.SOURCE_LOST and phase is not FaultPhase.CONTENT for fault, phase in self._faults
        )
        return "fell_back" if without_live_text else "recovered"

    def close(self, end: RunEnd) -> None:
        """Count the run's end, and log it."""
        took_s = end.ended_at - end.started_at
        arm, source = self._decision.arm.value, self._decision.source
        self._metrics.runs[arm, source, end.outcome].inc()
        self._metrics.run_seconds[arm].observe(took_s, exemplar(REQUEST.get()))
        if self._span is not None:
            error = end.failure.code if end.failure else None
            self._span.end(end.run_id, end.outcome, end.times_asked, SpanEnd(end.status, error))
        if self._identity is not None:
            began_at = end.started_at if self._asked_at is None else self._asked_at
            compared = _compared_as(end)
            # A relayed request ends when its job is accepted.
            ended_at = end.ended_at if end.accepted_s is None else end.started_at + end.accepted_s
            if compared is not None:
                self._metrics.settle(self._decision, self._identity, compared, began_at, ended_at)
        result = end.outcome if end.outcome in {"recovered", "fell_back"} else "failed"
        for fault in {fault for fault, _ in self._faults}:
            self._metrics.recoveries[fault, result].inc()
        if end.failure is None:
            self._durations.append(took_s)
            if end.first_content_s is not None and took_s > 0:
                self._metrics.perceived_wait[source].observe(end.first_content_s / took_s)
        self._log(end, took_s)

    def _log(self, end: RunEnd, took_s: float) -> None:
        first = end.first_content_s
        logger.info(
            "run ended",
            extra={
                "run": end.run_id,
                "route": self._route,
                "mode": self._decision.mode,
                "source": self._decision.source,
                "outcome": end.outcome,
                "status": end.status,
                "fault": end.failure.code if end.failure else None,
                "events": end.events,
                "first_content_ms": None if first is None else round(first * 1000),
                "took_ms": round(took_s * 1000),
            },
        )


def _compared_as(end: RunEnd) -> str | None:
    """The outcome that the arms are compared by: what it would be called if the request were relayed.

    None: it is compared with nothing, see `proxy.relay.outcomes`.
    """
    failure = end.failure
    if failure is not None and _counts_for_nobody(failure):
        return None
    if end.outcome in {CANCELLED, SHUTDOWN}:
        return end.outcome
    if not end.is_watched:
        # A client that leaves a relayed answer never learns what it would have been, and slow ones are left
        # more often: counted for runs alone, they would make streams look slow.
        return "client_left"
    is_refusal = failure is not None and failure.code == Fault.STATUS and failure.status < 500
    has_failed_later = failure is not None and failure.code == Fault.JOB_FAILED
    return "complete" if is_refusal or has_failed_later else end.outcome


def _counts_for_nobody(failure: Failure) -> bool:
    return failure.code == Fault.BUSY or (failure.code == Fault.STATUS and failure.status in OF_STRANGERS)
