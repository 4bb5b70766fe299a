"""Tests of an exchange's timer: at its time and not before, and as good as new for the next exchange."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from proxy.errors import UpstreamError, UpstreamSilent, UpstreamStalled
from proxy.timers.wheel import AGAIN_S, COARSE_S, HELD_UP_S, STEP_S, TICK_S
from proxy.upstream.response import UpstreamResponse
from proxy.upstream.timeouts import LONG_S, SLOW_S, ExchangeTimer, Timeouts
from tests.timers.hand_loop import HandLoop

LATE_S = TICK_S + AGAIN_S + STEP_S
"""Of a short wait."""
TIMEOUTS = Timeouts(first_byte_s=1.0, idle_s=0.5, total_s=3.0)


@dataclass
class Carried:
    """A connection as its timer sees it, and what it was told, with the time since the exchange began."""

    loop: HandLoop
    timeouts: Timeouts = TIMEOUTS
    told: list[tuple[str, float]] = field(default_factory=list)
    when_slow: Callable[[], None] | None = None
    """Called once, instead of what else is told."""

    def __post_init__(self) -> None:
        self.response = UpstreamResponse()
        self.timer = ExchangeTimer(cast(asyncio.AbstractEventLoop, self.loop), self.timeouts, self.response)
        self.begun_at = 0.0

    def tell(self, what: str) -> None:
        self.told.append((what, self.loop.now - self.begun_at))

    def fail(self, failure: UpstreamError) -> None:
        self.tell(f"{type(failure).__name__}: {failure}")
        self.timer.end()

    def wake(self) -> None:
        self.tell("wake")

    def tell_slow(self) -> None:
        when_slow, self.when_slow = self.when_slow, None
        if when_slow is None:
            self.tell("slow")
        else:
            when_slow()

    def tell_long(self) -> None:
        self.tell("long")

    def begin(self) -> None:
        self.begun_at = self.loop.now
        self.told = []
        self.response.reset()
        self.timer.begin(self)
        self.timer.tells_long = True

    def pass_s(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)


def assert_told(carried: Carried, *expected: tuple[str, float], late_s: float = LATE_S) -> None:
    """In this order, each at its time or a little later."""
    assert [what for what, _ in carried.told] == [what for what, _ in expected]
    for (what, at), (_, due) in zip(carried.told, expected, strict=True):
        assert due <= at <= due + late_s, what


def test_an_exchange_that_lasts_is_slow_and_then_long_and_then_silent() -> None:
    """Each is said once, at its time."""
    carried = Carried(HandLoop())
    carried.begin()
    carried.timer.sent(tells_slow=True)
    carried.pass_s(10)

    silent = f"{UpstreamSilent.__name__}: first_byte_s is over"
    assert_told(carried, ("slow", SLOW_S), ("long", LONG_S), (silent, 1.0))
    assert carried.loop.next_at is None


def test_a_head_without_a_body_wakes_its_reader_when_it_is_slow() -> None:
    """It waits for the first of the body no longer. A silence within the body is over from then on."""
    carried = Carried(HandLoop())
    carried.begin()
    carried.timer.sent(tells_slow=True)
    carried.response.status = 200
    carried.pass_s(0.2)
    carried.timer.begin_to_wait()
    carried.pass_s(0.3)
    carried.timer.wait_on()
    carried.pass_s(1)

    stalled = f"{UpstreamStalled.__name__}: idle_s is over"
    assert_told(carried, ("slow", SLOW_S), ("wake", SLOW_S), ("long", LONG_S), (stalled, 0.2 + 0.3 + 0.5))


def test_while_nobody_reads_it_is_not_the_upstream_that_is_slow() -> None:
    """Only the bound of the whole exchange counts then."""
    carried = Carried(HandLoop())
    carried.begin()
    carried.timer.sent()
    carried.response.status = 200
    carried.timer.begin_to_wait()
    carried.pass_s(0.2)
    carried.timer.waiting_since = 0.0
    carried.pass_s(10)

    total = f"{UpstreamStalled.__name__}: total_s is over"
    assert_told(carried, ("long", LONG_S), (total, 3.0))


def test_a_request_that_is_sent_in_parts_has_the_whole_time_alone() -> None:
    """And the answer's first byte has its own from when the last of them is out."""
    carried = Carried(HandLoop(), Timeouts(first_byte_s=1.0, idle_s=0.5, total_s=20.0))
    carried.begin()
    carried.timer.sending()
    carried.pass_s(15)
    assert not carried.told
    carried.timer.sent()
    carried.pass_s(2)

    silent = f"{UpstreamSilent.__name__}: first_byte_s is over"
    assert_told(carried, ("long", 15 + LONG_S), (silent, 16.0))
    carried.begin()
    carried.timer.sending()
    carried.pass_s(30)
    assert_told(carried, (f"{UpstreamStalled.__name__}: total_s is over", 20.0), late_s=COARSE_S + LATE_S)


@pytest.mark.parametrize("timeouts", [Timeouts(first_byte_s=0.02), Timeouts(total_s=0.02)])
def test_a_bound_below_that_of_a_slow_exchange_holds(timeouts: Timeouts) -> None:
    """Whichever it is."""
    carried = Carried(HandLoop(), timeouts)
    carried.begin()
    carried.timer.sent(tells_slow=True)
    carried.pass_s(1)

    (what, at), *rest = carried.told
    assert "is over" in what
    assert 0.02 <= at <= 0.02 + LATE_S
    assert not rest


def test_a_loop_that_was_held_up_is_not_taken_for_a_silent_upstream() -> None:
    """The answer came in time, and is read after the timers: it counts."""
    carried = Carried(HandLoop())
    carried.begin()
    carried.timer.sent()
    carried.pass_s(0.9)
    carried.loop.now += 0.2 + HELD_UP_S
    carried.loop.turn()
    carried.response.status = 200  # is read in that turn
    carried.timer.begin_to_wait()
    carried.pass_s(0.3)

    assert_told(carried, ("long", LONG_S))


def test_an_exchange_that_is_over_is_told_nothing() -> None:
    """Nor does a connection that has none any more wait in the wheel."""
    carried = Carried(HandLoop())
    carried.begin()
    carried.timer.sent(tells_slow=True)
    carried.pass_s(0.03)
    carried.timer.end()
    carried.pass_s(10)
    assert not carried.told
    carried.begin()
    carried.timer.sent(tells_slow=True)
    carried.timer.stop()
    carried.pass_s(10)

    assert not carried.told
    assert carried.loop.next_at is None


def test_an_exchange_may_end_and_another_begin_within_what_it_is_told() -> None:
    """The new one has the whole of its own time."""
    carried = Carried(HandLoop())

    def begin_another() -> None:
        carried.timer.end()
        carried.begin()
        carried.timer.sent(tells_slow=True)

    carried.begin()
    carried.when_slow = begin_another
    carried.timer.sent(tells_slow=True)
    carried.pass_s(SLOW_S + LATE_S)
    assert not carried.told
    carried.pass_s(10)

    silent = f"{UpstreamSilent.__name__}: first_byte_s is over"
    assert_told(carried, ("slow", SLOW_S), ("long", LONG_S), (silent, 1.0))


@pytest.mark.parametrize("seed", range(3))
def test_a_timer_is_as_good_as_new_for_each_exchange(seed: int) -> None:
    """Whatever the exchanges before were like, what is told is what a new connection's timer would tell."""
    chance = random.Random(seed)
    reused = Carried(HandLoop())
    for _ in range(150):
        steps = [(chance.choice(STEPS), chance.choice([0, 0.01, 0.06, 0.2, 0.7])) for _ in range(5)]
        in_parts, watches, gap_s = chance.random() < 0.3, chance.random() < 0.7, chance.choice([0, 0.01, 1])
        told = []
        for carried in (reused, Carried(HandLoop(reused.loop.now))):
            exchange(carried, steps, in_parts, watches)
            told.append(carried.told)
        reused.pass_s(gap_s)

        assert [what for what, _ in told[0]] == [what for what, _ in told[1]]
        for (what, at), (_, new_at) in zip(*told, strict=True):
            assert at == pytest.approx(new_at, abs=LATE_S), what


STEPS = ("head", "wait", "more", "take", "sent")


def exchange(carried: Carried, steps: list[tuple[str, float]], in_parts: bool, watches: bool) -> None:
    timer = carried.timer
    carried.begin()
    if in_parts:
        timer.sending()
    else:
        timer.sent(watches)
    for step, then_s in steps:
        if any("is over" in what for what, _ in carried.told):
            return
        if step == "head":
            carried.response.status = 200
        elif step == "wait":
            timer.begin_to_wait()
        elif step == "more" and timer.waiting_since:
            timer.wait_on()
        elif step == "take":
            timer.waiting_since = 0.0
        elif step == "sent" and not timer.is_sent:
            timer.sent()
        carried.pass_s(then_s)
    timer.end()
