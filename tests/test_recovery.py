"""The table of failures: total, and honest."""

import pytest

from proxy.errors import Fault
from proxy.recovery import LOSES_THE_SOURCE_ONLY, STEPS, Phase, Step, retry_available


def test_every_failure_has_a_step_in_every_phase() -> None:
    """Nothing that can fail is without an answer."""
    assert set(STEPS) == {(fault, phase) for fault in Fault for phase in Phase}


@pytest.mark.parametrize("phase", Phase)
def test_a_lost_source_waits_for_the_batch_answer(phase: Phase) -> None:
    """Live text beside the call may end; the call's own answer still comes, and is awaited."""
    assert {STEPS[fault, phase] for fault in LOSES_THE_SOURCE_ONLY} == {Step.AWAIT_ANSWER}


def test_a_status_is_only_honest_while_nothing_was_sent() -> None:
    """Before the headers a failure has its own status; after them it is an event."""
    for (fault, phase), step in STEPS.items():
        if fault not in LOSES_THE_SOURCE_ONLY:
            assert step is (Step.OWN_STATUS if phase is Phase.NOTHING else Step.ERROR_EVENT)


@pytest.mark.parametrize(
    ("fault", "status", "offered"),
    [
        (Fault.STATUS, 429, True),
        (Fault.STATUS, 503, True),
        (Fault.STATUS, 400, False),
        (Fault.STATUS, 401, False),
        (Fault.STATUS, 404, False),
        (Fault.CONNECT, 502, True),
        (Fault.FIRST_BYTE_TIMEOUT, 504, True),
        (Fault.FAILURE_TEXT, 200, True),
        (Fault.MALFORMED, 502, False),
        (Fault.TOO_LARGE, 502, False),
        (Fault.INTERNAL, 502, False),
    ],
)
def test_a_retry_is_offered_where_it_can_help(fault: Fault, status: int, offered: bool) -> None:
    """Asking again helps against what passes, and against nothing else."""
    assert retry_available(fault, status) is offered
