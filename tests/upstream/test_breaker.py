"""The circuit breaker: when it opens, who may try, and that it never stays open for good."""

from itertools import count, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.errors import Fault
from proxy.settings.blocks.upstream import BreakerSettings
from proxy.upstream.breaker import MOVES, RESULTS, Breaker, BreakerEvent, BreakerState, result_of

FAILURES, WINDOW_S, OPEN_S = 3, 60.0, 15.0
somebody = map(str, count()).__next__
"""Another caller each time."""


def closed() -> Breaker:
    return Breaker(FAILURES, WINDOW_S, OPEN_S)


def opened(at: float = 0.0) -> Breaker:
    """Open since `at`."""
    breaker = closed()
    for _ in range(FAILURES):
        breaker.record(False, at, somebody())
    assert breaker.is_open(at)
    return breaker


def half_open(at: float = OPEN_S) -> Breaker:
    """With a trial under way since `at`."""
    breaker = opened(at - OPEN_S)
    assert not breaker.is_open(at)
    return breaker


# When it opens


def test_it_opens_with_the_last_of_enough_failures() -> None:
    """One fewer changes nothing."""
    breaker = closed()
    for number in range(1, FAILURES + 1):
        breaker.record(False, 10.0 * number, somebody())
        assert breaker.is_open(10.0 * number) is (number == FAILURES)


def test_each_caller_counts_once() -> None:
    """A caller whose requests fail each time stops nobody's streams, nor do all that are nobody."""
    breaker = closed()
    for now in range(50):
        breaker.record(False, now / 10, "ann" if now % 2 else None)
    assert not breaker.is_open(5)
    breaker.record(False, 5, "bob")

    assert breaker.is_open(5)


@pytest.mark.parametrize("fault", [Fault.MALFORMED, Fault.TOO_LARGE, Fault.FAILURE_TEXT])
def test_an_answer_that_came_is_no_failure_of_the_upstream(fault: Fault) -> None:
    """A breaker opens by connect, reset, timeout and 5xx."""
    assert result_of(fault, 502) is not False


def test_one_success_among_them_says_that_the_upstream_works() -> None:
    """They count one after another, in the order in which the runs ended."""
    breaker = closed()
    for now, ok in enumerate([False, False, True, False, False, True, False, False]):
        breaker.record(ok, now, somebody())

    assert not breaker.is_open(8)


@pytest.mark.parametrize(("took_s", "is_open"), [(WINDOW_S, True), (WINDOW_S + 0.001, False)])
def test_failures_count_together_within_the_window(took_s: float, is_open: bool) -> None:
    """From the first of them to the last, the bound included."""
    breaker = closed()
    for now in (0.0, 1.0, took_s):
        breaker.record(False, now, somebody())

    assert breaker.is_open(took_s) is is_open


def test_the_window_moves_with_the_failures() -> None:
    """An old one drops out, and the later ones are enough by themselves."""
    breaker = closed()
    for now in (0.0, 100.0, 101.0):
        breaker.record(False, now, somebody())
    assert not breaker.is_open(101)
    breaker.record(False, 102, somebody())

    assert breaker.is_open(102)


def test_a_failure_can_be_enough() -> None:
    """With `failures: 1` the first one opens it, whatever the window."""
    breaker = Breaker(1, 0.001, OPEN_S)
    breaker.record(False, 5, somebody())

    assert breaker.is_open(5)


def test_the_settings_make_one() -> None:
    """The settings have the names of the breaker's arguments."""
    breaker = Breaker(**BreakerSettings().model_dump())

    assert not breaker.is_open(0)


# While it is open


def test_nobody_may_begin_until_open_s_is_over() -> None:
    """Then one may, and only one."""
    breaker = opened(100)
    assert all(breaker.is_open(now) for now in (100, 107, 114.999))

    assert [breaker.is_open(115) for _ in range(4)] == [False, True, True, True]
    assert breaker.state is BreakerState.HALF_OPEN


def test_late_failures_do_not_prolong_it() -> None:
    """Runs that began before it opened go on failing for minutes, which proves nothing new."""
    breaker = opened(0)
    for now in range(1, 15):
        breaker.record(False, now, somebody())

    assert breaker.is_open(14.9)
    assert not breaker.is_open(15)


def test_a_late_success_closes_it() -> None:
    """A whole answer has just come, whenever its run began."""
    breaker = opened(0)
    breaker.record(True, 1, somebody())

    assert [breaker.is_open(1) for _ in range(3)] == [False] * 3


def test_after_closing_it_takes_as_many_failures_again() -> None:
    """Those before the success are forgotten."""
    breaker = half_open(15)
    breaker.record(True, 16, somebody())
    for now in (17, 18):
        breaker.record(False, now, somebody())
        assert not breaker.is_open(now)
    breaker.record(False, 19, somebody())

    assert breaker.is_open(19)


# The trial


@pytest.mark.parametrize("at", [20.0, 20 + WINDOW_S])
@pytest.mark.parametrize(("ok", "state"), [(True, BreakerState.CLOSED), (False, BreakerState.OPEN)])
def test_its_result_decides(ok: bool, state: BreakerState, at: float) -> None:
    """Success closes; one failure opens for another `open_s`, however long ago the others were."""
    breaker = half_open(15)
    breaker.record(ok, at, somebody())

    assert breaker.state is state
    assert breaker.is_open(at + OPEN_S - 0.001) is not ok
    assert not breaker.is_open(at + OPEN_S)


def test_a_trial_that_says_nothing_is_followed_by_another() -> None:
    """Its client left, or it takes longer than `open_s`: the next one is let through then, and one alone."""
    breaker = half_open(15)

    assert breaker.is_open(29.999)
    assert [breaker.is_open(30) for _ in range(3)] == [False, True, True]
    assert [breaker.is_open(45) for _ in range(3)] == [False, True, True]


def test_the_result_of_a_trial_counts_after_its_time_too() -> None:
    """A run of two minutes closes it when it ends, though others have tried since."""
    breaker = half_open(15)
    assert not breaker.is_open(30)
    breaker.record(False, 31, somebody())
    breaker.record(True, 40, somebody())

    assert breaker.state is BreakerState.CLOSED


def test_a_trial_that_is_given_back_is_the_next_ones() -> None:
    """The request became no run: with streams for one user in a hundred, most trials would be lost."""
    breaker = half_open(15)
    breaker.give_back_trial()

    assert [breaker.is_open(15) for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize(("make", "state"), [(closed, BreakerState.CLOSED), (opened, BreakerState.OPEN)])
def test_giving_back_what_was_not_taken_changes_nothing(make: Any, state: BreakerState) -> None:
    """The caller need not know whether its request was the trial."""
    breaker = make()
    breaker.give_back_trial()

    assert breaker.state is state
    assert breaker.is_open(OPEN_S / 2) is (state is BreakerState.OPEN)


# Any sequence


class AnySequence(RuleBasedStateMachine):
    """Results, questions and time in any order, against what was promised in words."""

    @initialize(
        failures=st.integers(1, 5),
        window_s=st.sampled_from([0.5, 10.0, 60.0]),
        open_s=st.sampled_from([0.5, 15.0, 200.0]),
    )
    def begin(self, failures: int, window_s: float, open_s: float) -> None:
        self.breaker = Breaker(failures, window_s, open_s)
        self.failures, self.window_s, self.open_s = failures, window_s, open_s
        self.now = 1000.0
        self.since_success: list[float] = []
        self.next_trial_at = 0.0

    @rule(step_s=st.floats(0, 100) | st.sampled_from([0.5, 15.0, 200.0]))
    def time_passes(self, step_s: float) -> None:
        self.now += step_s

    @rule(ok=st.booleans())
    def a_run_ends(self, ok: bool) -> None:
        was = self.breaker.state
        self.since_success = [] if ok else [*self.since_success, self.now]
        self.breaker.record(ok, self.now, somebody())
        if self.breaker.state is BreakerState.OPEN and was is not BreakerState.OPEN:
            self.next_trial_at = self.now + self.open_s
        if ok:
            assert self.breaker.state is BreakerState.CLOSED
        elif was is not BreakerState.CLOSED:
            assert self.breaker.state is BreakerState.OPEN

    @rule()
    def somebody_asks(self) -> None:
        was = self.breaker.state
        is_open = self.breaker.is_open(self.now)
        if was is BreakerState.CLOSED:
            assert not is_open
        elif was is BreakerState.OPEN:
            assert is_open is (self.now < self.next_trial_at), "always half-open after open_s"
        else:
            assert is_open is (self.now < self.next_trial_at), "one trial at a time"
        if was is not BreakerState.CLOSED and not is_open:
            self.next_trial_at = self.now + self.open_s
            assert self.breaker.state is BreakerState.HALF_OPEN
            assert self.breaker.is_open(self.now)
        if is_open:
            assert self.enough(), "never open without enough failures"

    @precondition(lambda self: self.breaker.state is BreakerState.HALF_OPEN)
    @rule()
    def a_trial_is_not_used(self) -> None:
        self.breaker.give_back_trial()
        self.next_trial_at = self.now
        self.somebody_asks()

    @precondition(lambda self: self.breaker.state is not BreakerState.CLOSED)
    @rule(ok=st.booleans())
    def somebody_waits(self, ok: bool) -> None:
        """Never stuck: whatever has happened, after `open_s` one may try."""
        self.now += self.open_s
        self.somebody_asks()
        assert self.breaker.state is BreakerState.HALF_OPEN
        self.a_run_ends(ok)

    @invariant()
    def remembers_no_more_than_it_must(self) -> None:
        if hasattr(self, "breaker"):
            assert len(self.breaker._failed_at) <= self.failures

    def enough(self) -> bool:
        """True if so many failures, one after another, ever came within the window since the last success."""
        ends = zip(self.since_success, self.since_success[self.failures - 1 :], strict=False)
        return any(last - first <= self.window_s for first, last in ends)


TestAnySequence = AnySequence.TestCase


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60))
def test_a_closed_one_opens_as_soon_as_enough_failures_are_there(results: list[tuple[float, bool]]) -> None:
    """Neither sooner nor later, for any results at any times."""
    breaker, now, last = closed(), 0.0, []
    for pause_s, ok in results:
        now += pause_s
        breaker.record(ok, now, somebody())
        last = [] if ok else [*last, now]
        enough = len(last) >= FAILURES and last[-1] - last[-FAILURES] <= WINDOW_S
        assert (breaker.state is BreakerState.OPEN) is enough
        if enough:
            return


# The tables


def test_every_state_has_a_move_for_every_sign() -> None:
    """Nothing that happens is without an answer."""
    assert set(MOVES) == set(product(BreakerState, BreakerEvent))


def test_only_failures_open_and_only_a_success_closes() -> None:
    """A closed one opens by enough of them alone; another closes by a success alone."""
    for (state, sign), after in MOVES.items():
        if state is BreakerState.CLOSED:
            assert after is (
                BreakerState.OPEN if sign is BreakerEvent.ONE_FAILURE_TOO_MANY else BreakerState.CLOSED
            )
        else:
            assert (after is BreakerState.CLOSED) is (sign is BreakerEvent.SUCCESS)


def test_every_fault_says_something_or_nothing() -> None:
    """The table is whole; against the upstream are those that are its own."""
    assert set(RESULTS) == set(Fault)
    assert {fault for fault, result in RESULTS.items() if result is False} == {
        Fault.CONNECT,
        Fault.RESET,
        Fault.FIRST_BYTE_TIMEOUT,
        Fault.IDLE_TIMEOUT,
        Fault.TOTAL_TIMEOUT,
        Fault.TRUNCATED,
    }


@pytest.mark.parametrize("fault", Fault)
def test_an_end_by_a_fault_says_what_the_table_says(fault: Fault) -> None:
    """The status must be no failure of the upstream's own."""
    assert result_of(fault, 404) is RESULTS[fault]


@pytest.mark.parametrize(
    ("error_code", "status", "result"),
    [
        (None, 200, True),
        ("status", 302, True),
        ("status", 401, True),
        ("status", 429, True),
        ("status", 499, True),
        ("status", 500, False),
        ("status", 503, False),
        ("status", 599, False),
        ("connect", 502, False),
        ("first_byte_timeout", 504, False),
        ("busy", 503, None),
        ("internal", 502, None),
        ("cancelled", 409, None),
        ("shutdown", 503, None),
    ],
)
def test_only_what_the_upstream_itself_did_is_held_against_it(
    error_code: str | None, status: int, result: bool | None
) -> None:
    """A refusal is an answer; what is ours, or the user's, says nothing."""
    assert result_of(error_code, status) is result
