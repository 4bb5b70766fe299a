"""What became of a relayed request."""

from collections.abc import Callable
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


class RelayResult:
    """The outcome of one relayed request, for metrics and the log.

    Attributes:
        overhead_s: seconds spent in this process, and not waiting for the upstream's first byte.
        took_s: seconds from the request's head to the answer's end.
    """

    __slots__ = ("error", "outcome", "overhead_s", "status", "took_s")

    def __init__(
        self,
        outcome: Outcome = Outcome.COMPLETE,
        status: int = 0,
        *,
        took_s: float = 0.0,
        error: UpstreamError | None = None,
    ) -> None:
        self.outcome = outcome
        self.status = status
        self.overhead_s = 0.0
        self.took_s = took_s
        self.error = error


OnEnd = Callable[[RelayResult], None]
