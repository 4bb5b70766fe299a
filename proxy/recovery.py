"""What is done about a failure: one table, failure class x phase -> step. Pure."""

from enum import StrEnum

from proxy.errors import Fault


class Phase(StrEnum):
    """What the viewer has when a failure comes."""

    NOTHING = "nothing"
    HEADERS = "headers"
    CONTENT = "content"


class Step(StrEnum):
    """What is done."""

    OWN_STATUS = "own_status"
    """Answer with the upstream's status and body if it gave one, else with a problem."""
    ERROR_EVENT = "error_event"
    """One terminal `error` that carries the status that can no longer be sent."""
    AWAIT_ANSWER = "await_answer"
    """The same call's batch answer is still coming: wait for it and complete from it."""


LOSES_THE_SOURCE_ONLY = frozenset({Fault.SOURCE_LOST})
"""Failures beside the call itself, whose batch answer still comes."""

STEPS: dict[tuple[Fault, Phase], Step] = {
    (fault, phase): Step.AWAIT_ANSWER
    if fault in LOSES_THE_SOURCE_ONLY
    else Step.OWN_STATUS
    if phase is Phase.NOTHING
    else Step.ERROR_EVENT
    for fault in Fault
    for phase in Phase
}

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
    }
)
"""Failures after which the user may sensibly ask again."""

RETRIABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def retry_available(fault: Fault, status: int) -> bool:
    """Whether a viewer should offer to ask again."""
    return fault in RETRY_HELPS or (fault is Fault.STATUS and status in RETRIABLE_STATUS)
