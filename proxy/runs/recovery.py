"""Recovery from a failure: one table, failure class × phase → step. Pure."""

from enum import StrEnum

from proxy.errors import Fault
from proxy.observe.labels import FaultPhase


class RecoveryStep(StrEnum):
    """The steps of recovery."""

    ASK_AGAIN = "ask_again"
    """Send the call again, after a pause."""
    OWN_STATUS = "own_status"
    """Answer with the upstream's status and body if it gave one, else with a problem."""
    ERROR_EVENT = "error_event"
    """One terminal `error` that carries the status that can no longer be sent."""
    AWAIT_ANSWER = "await_answer"
    """Wait for the batch answer of the same call, which is still coming, and complete the run from it."""


class Repeat(StrEnum):
    """The condition on which a call may be sent again. The upstream's work has effects: in doubt it is
    not."""

    NOTHING_SENT = "nothing_sent"
    """Always: no byte of it has reached the upstream."""
    IF_SAFE = "if_safe"
    """If the route says that a repetition does no harm (`replay: safe`)."""
    IF_TOLD = "if_told"
    """If the upstream asked for it (429 or 503 with `Retry-After`), or the route says that it is safe."""
    NEVER = "never"


REPEATS: dict[Fault, Repeat] = {
    Fault.CONNECT: Repeat.NOTHING_SENT,
    Fault.BUSY: Repeat.NOTHING_SENT,
    Fault.RESET: Repeat.IF_SAFE,
    Fault.FIRST_BYTE_TIMEOUT: Repeat.IF_SAFE,
    Fault.IDLE_TIMEOUT: Repeat.IF_SAFE,
    Fault.TRUNCATED: Repeat.IF_SAFE,
    Fault.MALFORMED: Repeat.IF_SAFE,
    Fault.STATUS: Repeat.IF_TOLD,
    Fault.TOTAL_TIMEOUT: Repeat.NEVER,  # there is no time left
    Fault.TOO_LARGE: Repeat.NEVER,  # it would be too large again
    Fault.FAILURE_TEXT: Repeat.NEVER,  # it is the answer, and it is stored
    Fault.JOB_FAILED: Repeat.NEVER,  # as the API says, which has ended it
    Fault.SOURCE_LOST: Repeat.NEVER,  # the call itself goes on
    Fault.LOG_STORE: Repeat.NEVER,
    Fault.INTERNAL: Repeat.NEVER,
}

LOSES_NO_ANSWER = frozenset({Fault.SOURCE_LOST, Fault.LOG_STORE})
"""Failures beside the call itself, whose batch answer still comes."""

STEPS: dict[tuple[Fault, FaultPhase], tuple[RecoveryStep, ...]] = {
    (fault, phase): (RecoveryStep.AWAIT_ANSWER,)
    if fault in LOSES_NO_ANSWER
    else (
        *((RecoveryStep.ASK_AGAIN,) if REPEATS[fault] is not Repeat.NEVER else ()),
        RecoveryStep.OWN_STATUS if phase is FaultPhase.NOTHING else RecoveryStep.ERROR_EVENT,
    )
    for fault in Fault
    for phase in FaultPhase
}
"""Steps in their order. `ASK_AGAIN` applies only if `REPEATS` and the bounds below allow it; otherwise the
next step does."""

PAUSES_S = (0.2, 1.0)
"""Seconds before the second and the third time that a call is sent; there is no fourth."""

MAX_TIMES = len(PAUSES_S) + 1
"""The most times that a call is sent, by all replicas together."""

MAX_RETRY_AFTER_S = 10.0
"""The longest `Retry-After` that is waited for; with a longer one the user is told at once."""

RETRIABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of failures that may pass."""

SAYS_WHEN = frozenset({429, 503})
"""Statuses whose `Retry-After` is leave to ask again (RFC 6585 4, RFC 9110 15.6.4): nothing was done yet."""


def pause_before_repeat(
    fault: Fault,
    phase: FaultPhase,
    *,
    attempt: int,
    safe: bool,
    status: int = 0,
    retry_after_s: float | None = None,
) -> float | None:
    """Seconds until a call is sent again that has failed; None: it is not.

    Args:
        fault: how it has failed.
        phase: when.
        attempt: how often it has been sent, from 1.
        safe: whether the route says that a repetition does no harm.
        status: of its answer, if it has one.
        retry_after_s: what that answer asks for; `inf` if it asks for what cannot be counted in seconds.
    """
    if RecoveryStep.ASK_AGAIN not in STEPS[fault, phase] or attempt > len(PAUSES_S):
        return None
    told = status in SAYS_WHEN and retry_after_s is not None
    allowed = {
        Repeat.NOTHING_SENT: True,
        Repeat.IF_SAFE: safe,
        Repeat.IF_TOLD: told or (safe and status in RETRIABLE_STATUS),
    }
    wait_s = retry_after_s or 0.0  # what the upstream asks for holds for a safe call too
    if not allowed[REPEATS[fault]] or wait_s > MAX_RETRY_AFTER_S:
        return None
    return max(PAUSES_S[attempt - 1], wait_s)


RETRY_HELPS = frozenset(
    {
        Fault.CONNECT,
        Fault.BUSY,
        Fault.RESET,
        Fault.FIRST_BYTE_TIMEOUT,
        Fault.IDLE_TIMEOUT,
        Fault.TOTAL_TIMEOUT,
        Fault.TRUNCATED,
        Fault.FAILURE_TEXT,
        Fault.JOB_FAILED,
    }
)
"""Failures after which the user may sensibly ask again."""


def retry_available(fault: Fault, status: int) -> bool:
    """True if a viewer should offer to ask again."""
    return fault in RETRY_HELPS or (fault is Fault.STATUS and status in RETRIABLE_STATUS)
