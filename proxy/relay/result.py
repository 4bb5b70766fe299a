"""What became of a relayed request."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from proxy.errors import UpstreamError


class Outcome(StrEnum):
    """The end of a relayed request."""

    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    TRUNCATED = "truncated"
    CLIENT_LEFT = "client_left"
    SHUTDOWN = "shutdown"
    """The process has ended before it."""


@dataclass(slots=True)
class RelayResult:
    """The outcome of one relayed request, for metrics and the log."""

    outcome: Outcome = Outcome.COMPLETE
    status: int = 0
    overhead_s: float = 0.0
    """Seconds spent in this process, and not waiting for the upstream's first byte."""
    took_s: float = 0.0
    """Seconds from the request's head to the answer's end."""
    error: UpstreamError | None = None


OnEnd = Callable[[RelayResult], None]
