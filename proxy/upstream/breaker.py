"""A circuit breaker for an upstream that fails again and again. Pure: the time is passed in.

It opens when the last `failures` results were failures of different callers, all within `window_s`. Callers
count once: one whose request fails each time proves nothing for the others. Results count in the order in
which the runs ended, since runs take 30 to 120 s and overlap. The rule is no share of failures: with an open
breaker all requests are batch, which asks the same upstream, so it helps only if the upstream is down. An
upstream that fails every tenth run opens it once in 100,000 runs; one that is down opens it at its fifth. Nor
is it a plain count: of a hundred runs in flight, five in a minute may fail while all is well.

A success closes it in every state, for a whole answer has just come. A run begun long before may close it too
early; then as many failures open it again.
"""

from enum import StrEnum

from proxy.errors import Fault


class BreakerState(StrEnum):
    """The state of a breaker."""

    CLOSED = "closed"
    """Runs may begin."""
    OPEN = "open"
    """No run may begin; after `open_s` one may, as a trial."""
    HALF_OPEN = "half_open"
    """A trial is under way; if it has no result within `open_s`, there is another one."""


class BreakerEvent(StrEnum):
    """The events of a breaker."""

    SUCCESS = "success"
    FAILURE = "failure"
    ONE_FAILURE_TOO_MANY = "one_failure_too_many"
    """A failure of the last caller that it takes, within `window_s`."""
    TRIAL = "trial"
    """`open_s` is over and a run may begin."""
    TRIAL_UNUSED = "trial_unused"
    """The run of that trial did not begin after all."""


MOVES: dict[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (BreakerState.CLOSED, BreakerEvent.SUCCESS): BreakerState.CLOSED,
    (BreakerState.CLOSED, BreakerEvent.FAILURE): BreakerState.CLOSED,
    (BreakerState.CLOSED, BreakerEvent.ONE_FAILURE_TOO_MANY): BreakerState.OPEN,
    (BreakerState.CLOSED, BreakerEvent.TRIAL): BreakerState.CLOSED,
    (BreakerState.CLOSED, BreakerEvent.TRIAL_UNUSED): BreakerState.CLOSED,
    (BreakerState.OPEN, BreakerEvent.SUCCESS): BreakerState.CLOSED,
    # Of a run begun before: it does not prolong the time for which the breaker is open.
    (BreakerState.OPEN, BreakerEvent.FAILURE): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.ONE_FAILURE_TOO_MANY): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.TRIAL): BreakerState.HALF_OPEN,
    (BreakerState.OPEN, BreakerEvent.TRIAL_UNUSED): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.SUCCESS): BreakerState.CLOSED,
    # Of the trial or of an older run: the two look alike. The next trial comes within `open_s`.
    (BreakerState.HALF_OPEN, BreakerEvent.FAILURE): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.ONE_FAILURE_TOO_MANY): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.TRIAL): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.TRIAL_UNUSED): BreakerState.OPEN,
}


class Breaker:
    """The circuit breaker of one upstream.

    Args:
        failures: consecutive ones, each of another caller, that open it; at least 1.
        window_s: seconds within which all of them must come.
        open_s: seconds until a trial, and from one trial to the next.
    """

    def __init__(self, failures: int, window_s: float, open_s: float) -> None:
        self.state = BreakerState.CLOSED
        self._window_s = window_s
        self._open_s = open_s
        self._failures = failures
        self._failed_at: dict[str | None, float] = {}
        """The time of each caller's latest failure, the oldest first."""
        self._next_trial_at = 0.0

    def is_open(self, now: float) -> bool:
        """True if no run may begin. Unless the breaker is closed, False allows one run: the trial."""
        if self.state is BreakerState.CLOSED:
            return False
        if now < self._next_trial_at:
            return True
        self._next_trial_at = now + self._open_s
        self._move(BreakerEvent.TRIAL)
        return False

    def give_back_trial(self) -> None:
        """Give a trial back whose request became no run, so that another one may try.

        Call it only after `is_open` was False. A closed breaker ignores it.
        """
        if self.state is BreakerState.HALF_OPEN:
            self._next_trial_at = 0.0
        self._move(BreakerEvent.TRIAL_UNUSED)

    def record(self, ok: bool, now: float, caller: str | None) -> None:
        """A run has ended, with an answer or by the upstream's fault: see `result_of`.

        Args:
            caller: the run's principal. All unknown clients count as one.
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
        is_enough = is_full and now - min(self._failed_at.values()) <= self._window_s
        before = self.state
        self._move(BreakerEvent.ONE_FAILURE_TOO_MANY if is_enough else BreakerEvent.FAILURE)
        if self.state is BreakerState.OPEN and before is not BreakerState.OPEN:
            self._next_trial_at = now + self._open_s

    def _move(self, event: BreakerEvent) -> None:
        self.state = MOVES[self.state, event]


RESULTS: dict[Fault, bool | None] = {
    Fault.CONNECT: False,
    Fault.RESET: False,
    Fault.FIRST_BYTE_TIMEOUT: False,
    Fault.IDLE_TIMEOUT: False,
    Fault.TOTAL_TIMEOUT: False,
    Fault.TRUNCATED: False,  # a reset, once the status has come
    Fault.MALFORMED: None,  # it answers, so that runs may begin
    Fault.STATUS: True,  # below 500: it works, and refuses
    Fault.TOO_LARGE: True,  # an answer came, and Headgate's own bound refused it
    Fault.FAILURE_TEXT: True,  # what failed is behind it, and batch has the same sentence
    Fault.JOB_FAILED: True,  # the same: a client that polls by itself is told the same
    Fault.BUSY: None,  # never asked
    Fault.SOURCE_LOST: None,  # the call itself goes on
    Fault.LOG_STORE: None,
    Fault.INTERNAL: None,
}
"""The proof that a run's end gives of the upstream: it works, it does not, or (None) nothing."""


def result_of(error_code: str | None, status: int) -> bool | None:
    """The result to record of a run that has ended; None: it proves nothing about the upstream.

    Args:
        error_code: of its failure, a `Fault` or another end such as a cancellation; None: it is complete.
        status: of its failure; not read if it is complete.
    """
    if error_code is None:
        return True
    if error_code == Fault.STATUS and status >= 500:
        return False
    return RESULTS[Fault(error_code)] if error_code in RESULTS else None
