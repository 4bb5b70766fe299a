"""When the upstream fails again and again: a circuit breaker, one per upstream. Pure: the time is passed in.

It opens when the last results were all failures, of `failures` different callers, and came within `window_s`:
one whose request fails each time proves nothing for the others. Consecutive in the order in which the runs
ended, since runs take 30 to 120 s and overlap, and when they began says little. Not a share of failures,
because an open breaker sends everybody to batch, which asks the same upstream. That is worth while only if
streaming has nothing to offer, which is when the upstream is down: one that fails every tenth run opens this
once in 100,000 runs, one that is down at its fifth. And not a count of failures alone: of a hundred runs in
flight, five in a minute may fail while all is well.

A success closes it in every state, for a whole answer has just come. One of a run begun long before may do so
too early; then as many failures as opened it open it again.
"""

from enum import StrEnum

from proxy.errors import Fault


class BreakerState(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    """Runs begin."""
    OPEN = "open"
    """None does; after `open_s` one does, to try."""
    HALF_OPEN = "half_open"
    """A trial is under way, for `open_s` at most: what is not known by then is tried by another."""


class BreakerEvent(StrEnum):
    """What happens to a breaker."""

    SUCCESS = "success"
    FAILURE = "failure"
    ONE_FAILURE_TOO_MANY = "one_failure_too_many"
    """Of as many callers as it takes, one after another, within `window_s`."""
    TRIAL = "trial"
    """`open_s` is over and a run begins."""
    TRIAL_UNUSED = "trial_unused"
    """It did not begin after all."""


MOVES: dict[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (BreakerState.CLOSED, BreakerEvent.SUCCESS): BreakerState.CLOSED,
    (BreakerState.CLOSED, BreakerEvent.FAILURE): BreakerState.CLOSED,
    (BreakerState.CLOSED, BreakerEvent.ONE_FAILURE_TOO_MANY): BreakerState.OPEN,
    (BreakerState.CLOSED, BreakerEvent.TRIAL): BreakerState.CLOSED,
    (BreakerState.CLOSED, BreakerEvent.TRIAL_UNUSED): BreakerState.CLOSED,
    (BreakerState.OPEN, BreakerEvent.SUCCESS): BreakerState.CLOSED,
    # Of a run begun before: that it is open is known already, and it stays so no longer for that.
    (BreakerState.OPEN, BreakerEvent.FAILURE): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.ONE_FAILURE_TOO_MANY): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.TRIAL): BreakerState.HALF_OPEN,
    (BreakerState.OPEN, BreakerEvent.TRIAL_UNUSED): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.SUCCESS): BreakerState.CLOSED,
    # The trial's, or an older run's: they are not told apart. The next trial is `open_s` away at most.
    (BreakerState.HALF_OPEN, BreakerEvent.FAILURE): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.ONE_FAILURE_TOO_MANY): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.TRIAL): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.TRIAL_UNUSED): BreakerState.OPEN,
}


class Breaker:
    """Of one upstream.

    Args:
        failures: of so many callers, one after another, open it; at least 1. So many are kept.
        window_s: seconds within which they must come.
        open_s: seconds until a run may try; an unfinished trial is followed by another after as many.
    """

    def __init__(self, failures: int, window_s: float, open_s: float) -> None:
        self.state = BreakerState.CLOSED
        self._window_s = window_s
        self._open_s = open_s
        self._failures = failures
        self._failed_at: dict[str | None, float] = {}
        """When each caller's latest was, the oldest first."""
        self._next_trial_at = 0.0

    def is_open(self, now: float) -> bool:
        """Whether no run may begin. False, unless it is closed, is leave for one run: the trial."""
        if self.state is BreakerState.CLOSED:
            return False
        if now < self._next_trial_at:
            return True
        self._next_trial_at = now + self._open_s
        self._move(BreakerEvent.TRIAL)
        return False

    def unused(self) -> None:
        """Give a trial back: nobody else may begin until its time is over, and the request became no run.

        To be called only by who has been told that the breaker is not open; a closed one does not care.
        """
        if self.state is BreakerState.HALF_OPEN:
            self._next_trial_at = 0.0
        self._move(BreakerEvent.TRIAL_UNUSED)

    def record(self, ok: bool, now: float, caller: str | None) -> None:
        """A run of a caller has ended, with an answer or by the upstream's fault; `result_of` says which.

        All that are nobody in particular count as one.
        """
        if ok:
            self._failed_at.clear()
            self._move(BreakerEvent.SUCCESS)
            return
        self._failed_at.pop(caller, None)
        self._failed_at[caller] = now
        while len(self._failed_at) > self._failures:
            del self._failed_at[next(iter(self._failed_at))]
        is_full = len(self._failed_at) == self._failures
        enough = is_full and now - min(self._failed_at.values()) <= self._window_s
        before = self.state
        self._move(BreakerEvent.ONE_FAILURE_TOO_MANY if enough else BreakerEvent.FAILURE)
        if self.state is BreakerState.OPEN and before is not BreakerState.OPEN:
            self._next_trial_at = now + self._open_s

    def _move(self, sign: BreakerEvent) -> None:
        self.state = MOVES[self.state, sign]


RESULTS: dict[Fault, bool | None] = {
    Fault.CONNECT: False,
    Fault.RESET: False,
    Fault.FIRST_BYTE_TIMEOUT: False,
    Fault.IDLE_TIMEOUT: False,
    Fault.TOTAL_TIMEOUT: False,
    Fault.TRUNCATED: False,  # a reset, once the status has come
    Fault.MALFORMED: None,  # it answers; what it says is nothing to begin no run for
    Fault.STATUS: True,  # below 500: it works, and refuses
    Fault.TOO_LARGE: True,  # a bound of ours on an answer that came
    Fault.FAILURE_TEXT: True,  # what failed is behind it, and batch has the same sentence
    Fault.BUSY: None,  # never asked
    Fault.SOURCE_LOST: None,  # the call itself goes on
    Fault.LOG_STORE: None,
    Fault.INTERNAL: None,
}
"""What the end of a run says about the upstream: that it works, that it does not, or nothing."""


def result_of(error_code: str | None, status: int) -> bool | None:
    """What to record about a run that has ended; None: nothing, for it says nothing about the upstream.

    Args:
        error_code: of its failure, a `Fault` or another end such as a cancellation; None: it is complete.
        status: of its failure; any if it is complete.
    """
    if error_code is None:
        return True
    if error_code == Fault.STATUS and status >= 500:
        return False
    return RESULTS[Fault(error_code)] if error_code in RESULTS else None
