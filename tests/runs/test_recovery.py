"""The table of failures: total, honest, and what decides whether a call is sent again."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Fault
from proxy.observe.labels import FaultPhase
from proxy.runs.recovery import (
    LOSES_NO_ANSWER,
    MAX_RETRY_AFTER_S,
    PAUSES_S,
    REPEATS,
    RETRIABLE_STATUS,
    STEPS,
    RecoveryStep,
    Repeat,
    pause_before_repeat,
    retry_available,
)

FIRST, SECOND = PAUSES_S
LAST = len(PAUSES_S)
UNSAFE, SAFE = False, True


def faults(*repeats: Repeat) -> list[Fault]:
    return [fault for fault in Fault if REPEATS[fault] in repeats]


# The tables


def test_every_failure_has_steps_in_every_phase() -> None:
    """Nothing that can fail is without an answer."""
    assert set(STEPS) == set(product(Fault, FaultPhase))
    assert set(REPEATS) == set(Fault)


@pytest.mark.parametrize(("fault", "phase"), STEPS)
def test_every_failure_comes_to_one_end(fault: Fault, phase: FaultPhase) -> None:
    """The call may be sent again first; then its viewer is told, or the batch answer is awaited."""
    *before, end = STEPS[fault, phase]

    assert before in ([], [RecoveryStep.ASK_AGAIN])
    assert end is not RecoveryStep.ASK_AGAIN


@pytest.mark.parametrize("phase", FaultPhase)
def test_a_lost_source_waits_for_the_batch_answer(phase: FaultPhase) -> None:
    """Live text beside the call may end; the call's own answer still comes, and is awaited, not asked for."""
    assert {STEPS[fault, phase] for fault in LOSES_NO_ANSWER} == {(RecoveryStep.AWAIT_ANSWER,)}


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in LOSES_NO_ANSWER])
def test_a_status_is_only_honest_while_nothing_was_sent(fault: Fault) -> None:
    """Before the headers a failure has its own status; after them it is an event."""
    assert {phase: STEPS[fault, phase][-1] for phase in FaultPhase} == {
        FaultPhase.NOTHING: RecoveryStep.OWN_STATUS,
        FaultPhase.HEADERS: RecoveryStep.ERROR_EVENT,
        FaultPhase.CONTENT: RecoveryStep.ERROR_EVENT,
    }


@pytest.mark.parametrize("fault", faults(Repeat.NEVER))
def test_what_a_repetition_cannot_help_is_never_asked_again(fault: Fault) -> None:
    """No time left, too large again, stored already, still under way, or a mistake of ours."""
    assert not [phase for phase in FaultPhase if RecoveryStep.ASK_AGAIN in STEPS[fault, phase]]


def test_only_what_reached_nobody_is_repeated_without_leave() -> None:
    """The upstream's work has effects: of these two no byte has left, of all others one may have."""
    assert faults(Repeat.NOTHING_SENT) == [Fault.CONNECT, Fault.BUSY]


# Whether a call is sent again, and when


@pytest.mark.parametrize("phase", FaultPhase)
@pytest.mark.parametrize("safe", [UNSAFE, SAFE])
@pytest.mark.parametrize("fault", faults(Repeat.NOTHING_SENT))
def test_a_call_that_was_never_sent_is_sent_again(fault: Fault, safe: bool, phase: FaultPhase) -> None:
    """Three times in all, whatever the route says."""
    pauses = [pause_before_repeat(fault, phase, attempt=attempt, safe=safe) for attempt in (1, 2, 3, 4)]

    assert pauses == [FIRST, SECOND, None, None]


@pytest.mark.parametrize("phase", FaultPhase)
@pytest.mark.parametrize("fault", faults(Repeat.IF_SAFE))
def test_a_call_that_broke_is_sent_again_if_the_route_says_it_is_safe(
    fault: Fault, phase: FaultPhase
) -> None:
    """`replay: safe` is the promise; without it a POST is sent once."""
    safe = [pause_before_repeat(fault, phase, attempt=attempt, safe=SAFE) for attempt in (1, 2, 3)]
    unsafe = [pause_before_repeat(fault, phase, attempt=attempt, safe=UNSAFE) for attempt in (1, 2, 3)]

    assert safe == [FIRST, SECOND, None]
    assert unsafe == [None, None, None]


@pytest.mark.parametrize(("safe", "phase"), list(product([UNSAFE, SAFE], FaultPhase)))
@pytest.mark.parametrize("fault", faults(Repeat.NEVER))
def test_some_calls_are_never_sent_again(fault: Fault, safe: bool, phase: FaultPhase) -> None:
    """Neither a promise nor an invitation changes that."""
    assert pause_before_repeat(fault, phase, attempt=1, safe=safe) is None
    assert pause_before_repeat(fault, phase, attempt=1, safe=safe, status=503, retry_after_s=1) is None


@pytest.mark.parametrize(
    ("status", "retry_after_s", "safe", "attempt", "pause_s"),
    [
        # The upstream says when: it has done nothing yet.
        (503, 1, UNSAFE, 1, 1),
        (429, 1, UNSAFE, 1, 1),
        (503, 0, UNSAFE, 1, FIRST),
        (503, 0, UNSAFE, 2, SECOND),
        (503, 3, UNSAFE, 2, 3),
        (503, 3, SAFE, 1, 3),
        (503, MAX_RETRY_AFTER_S, UNSAFE, 1, MAX_RETRY_AFTER_S),
        # Too long, or not in seconds: the user is told at once, and a safe call is no exception.
        (503, MAX_RETRY_AFTER_S + 1, UNSAFE, 1, None),
        (503, MAX_RETRY_AFTER_S + 1, SAFE, 1, None),
        (429, math.inf, UNSAFE, 1, None),
        (429, math.inf, SAFE, 1, None),
        (500, math.inf, SAFE, 1, None),
        (503, 1, UNSAFE, LAST + 1, None),
        (503, 1, SAFE, LAST + 1, None),
        # It does not say.
        (503, None, UNSAFE, 1, None),
        (429, None, UNSAFE, 1, None),
        (503, None, SAFE, 1, FIRST),
        (503, None, SAFE, 2, SECOND),
        # Of other statuses, `Retry-After` is no sign that nothing was done.
        (500, 1, UNSAFE, 1, None),
        (500, 1, SAFE, 1, 1),
        (504, 1, UNSAFE, 1, None),
        (502, None, UNSAFE, 1, None),
        (502, None, SAFE, 1, FIRST),
        (408, None, SAFE, 1, FIRST),
        # Answers that a repetition would only bring again.
        (200, None, SAFE, 1, None),
        (200, 1, SAFE, 1, None),
        (301, 1, SAFE, 1, None),
        (400, 1, SAFE, 1, None),
        (404, None, SAFE, 1, None),
        (409, 1, SAFE, 1, None),
        (501, 1, SAFE, 1, None),
    ],
)
@pytest.mark.parametrize("phase", FaultPhase)
def test_an_answer_that_is_a_failure_is_asked_for_again(
    status: int,
    retry_after_s: float | None,
    safe: bool,
    attempt: int,
    pause_s: float | None,
    phase: FaultPhase,
) -> None:
    """The upstream said when, or the route says that it is safe and the status is one that passes."""
    told = pause_before_repeat(
        Fault.STATUS, phase, attempt=attempt, safe=safe, status=status, retry_after_s=retry_after_s
    )

    assert told == pause_s


@given(
    fault=st.sampled_from(Fault),
    phase=st.sampled_from(FaultPhase),
    attempt=st.integers(1, 10),
    safe=st.booleans(),
    status=st.integers(0, 599) | st.sampled_from(sorted(RETRIABLE_STATUS)),
    retry_after_s=st.none() | st.floats(0, allow_nan=False) | st.floats(0, 20),
)
def test_pauses_and_repetitions_are_bounded(
    fault: Fault, phase: FaultPhase, attempt: int, safe: bool, status: int, retry_after_s: float | None
) -> None:
    """There are three calls at most, never at once, and never a user who waits for long."""
    pause_s = pause_before_repeat(
        fault, phase, attempt=attempt, safe=safe, status=status, retry_after_s=retry_after_s
    )
    if pause_s is not None:
        assert attempt <= LAST
        assert PAUSES_S[attempt - 1] <= pause_s <= MAX_RETRY_AFTER_S
        assert pause_s >= (retry_after_s or 0)
        assert RecoveryStep.ASK_AGAIN in STEPS[fault, phase]
        if not safe:
            assert REPEATS[fault] is Repeat.NOTHING_SENT or status in {429, 503}


@pytest.mark.parametrize(("fault", "phase"), STEPS)
def test_the_table_decides(fault: Fault, phase: FaultPhase) -> None:
    """With every leave there is, a call is sent again where its line says so, and nowhere else."""
    pause_s = pause_before_repeat(fault, phase, attempt=1, safe=SAFE, status=503, retry_after_s=0)

    assert (pause_s is not None) is (RecoveryStep.ASK_AGAIN in STEPS[fault, phase])


# What the user is offered


@pytest.mark.parametrize(
    ("fault", "status", "offered"),
    [
        (Fault.STATUS, 429, True),
        (Fault.STATUS, 503, True),
        (Fault.STATUS, 400, False),
        (Fault.STATUS, 401, False),
        (Fault.STATUS, 404, False),
        (Fault.CONNECT, 502, True),
        (Fault.BUSY, 503, True),
        (Fault.RESET, 502, True),
        (Fault.FIRST_BYTE_TIMEOUT, 504, True),
        (Fault.TOTAL_TIMEOUT, 504, True),
        (Fault.FAILURE_TEXT, 200, True),
        (Fault.MALFORMED, 502, False),
        (Fault.TOO_LARGE, 502, False),
        (Fault.INTERNAL, 502, False),
        (Fault.INTERNAL, 503, False),
    ],
)
def test_a_retry_is_offered_where_it_can_help(fault: Fault, status: int, offered: bool) -> None:
    """Asking again helps against what passes, and against nothing else."""
    assert retry_available(fault, status) is offered
