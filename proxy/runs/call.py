"""The call that a run executes, and the state of a run that another replica began."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.observe.spans.ports import RunSpan
from proxy.settings.routes import Route
from proxy.text.event_log import EventLog
from proxy.upstream.client import Request

JOB = "job"
"""The source of runs whose work goes on after the upstream's answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """The client's request, made ready for the upstream."""

    route: Route
    parameters: Mapping[str, str]
    request: Request
    asked_at: float | None = None
    """The time at which its request came, by the loop's time; None: not known here, so the run's start
    counts."""
    span: RunSpan | None = None
    """The run's; None: there is none."""


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """The work that goes on after the upstream's answer, and that is asked for until it is done."""

    target: bytes
    """Path and query of its status."""
    id: str
    """"" where no setting needs it."""
    after_s: float
    """Seconds from the run's start to the answer that named it."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """The state of a run that another replica began, and that this one continues."""

    log: EventLog
    """The log, which goes on: its readers notice nothing."""
    generation: int
    """The number of times that the run was taken over; at least 1."""
    times_asked: int
    """The number of times that its call was sent, as far as is known."""
    started_at: float
    """The loop's time."""
    headers_sent: bool
    job: AcceptedJob | None = None
    """The job that the upstream had accepted. Then the call is not sent again."""
