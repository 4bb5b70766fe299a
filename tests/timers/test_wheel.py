"""Tests of the timer wheel: never early, hardly late, bounded in a turn, and nothing left behind."""

import asyncio
import gc
import random
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import cast

import pytest
import uvloop

from proxy.timers.wheel import (
    AGAIN_S,
    AT_A_TURN,
    COARSE_S,
    HELD_UP_S,
    HORIZON_S,
    LONG_WAIT_S,
    MOST_AGAIN,
    SLOTS,
    STEP_S,
    TICK_S,
    Timer,
    Wheel,
    stop,
    tick_of,
    wheel_of,
)
from tests.timers.hand_loop import HandLoop


class Waiting:
    """A timer that remembers when it was called, and does something then."""

    def __init__(self, then: Callable[["Waiting", float], object] | None = None) -> None:
        self.wake_at = 0.0
        self.slot: set[Timer] | None = None
        self.called_at: list[float] = []
        self._then = then

    def on_time(self, now: float) -> None:
        assert self.slot is None, "it waits no more"
        self.called_at.append(now)
        if self._then is not None:
            self._then(self, now)


def made(now: float = 1000.0) -> tuple[HandLoop, Wheel]:
    loop = HandLoop(now)
    return loop, Wheel(cast(asyncio.AbstractEventLoop, loop))


def latest(wait_s: float) -> float:
    """Seconds by which a timer may be late in a loop that is not held up."""
    return (TICK_S if wait_s < LONG_WAIT_S else COARSE_S) + AGAIN_S + STEP_S


@pytest.mark.parametrize("seed", range(3))
def test_a_timer_is_called_once_and_never_early(seed: int) -> None:
    """Over many rounds of the ring, whatever is set, moved, stopped or set anew at whatever time."""
    chance = random.Random(seed)
    loop, wheel = made(chance.uniform(0, 1e6))
    timers = [Waiting() for _ in range(300)]
    due: dict[Waiting, tuple[float, float]] = {}
    for _ in range(1000):
        timer = chance.choice(timers)
        wait_s = chance.choice([0, chance.uniform(0, 0.1), chance.uniform(0, 5), chance.uniform(0, 60)])
        what = chance.random()
        if what < 0.2:
            stop(timer)
            due.pop(timer, None)
        elif what < 0.4 and timer in due:
            timer.wake_at = max(due[timer][0], loop.now + wait_s)
            due[timer] = (timer.wake_at, 60.0)
        else:
            wheel.wake(timer, loop.now + wait_s, loop.now)
            due[timer] = (loop.now + wait_s, wait_s)
        loop.run_until(loop.now + chance.expovariate(20))
        for each in timers:
            if each.called_at:
                (called_at,) = each.called_at
                wake_at, waited_s = due.pop(each)
                assert wake_at <= called_at <= wake_at + latest(waited_s)
                each.called_at.clear()
            elif each in due:
                assert loop.now <= due[each][0] + latest(due[each][1])
    loop.run_until(loop.now + 100)
    assert {each for each in timers if each.called_at} == set(due)
    assert loop.next_at is None


@pytest.mark.parametrize("wait_s", [0.0, 0.05, LONG_WAIT_S, HORIZON_S])
def test_a_timer_costs_one_turn(wait_s: float) -> None:
    """At the first tick after its time, however long nothing has waited before."""
    loop, wheel = made()
    for _ in range(50):
        loop.run_until(loop.now + 77.7)
        timer = Waiting()
        wheel.wake(timer, loop.now + wait_s, loop.now)
        turns = loop.turns
        loop.run_until(loop.now + wait_s + latest(wait_s))

        assert len(timer.called_at) == 1
        assert loop.turns == turns + 1


def test_a_timer_whose_time_is_over_is_called_at_once() -> None:
    """Not a round of the ring later."""
    loop, wheel = made()
    for before_s in (0.1, 1.0, 100.0):
        timer = Waiting()
        wheel.wake(timer, loop.now - before_s, loop.now)
        loop.run_until(loop.now + latest(0))
        assert timer.called_at


def test_a_timer_beyond_the_horizon_is_called_at_its_time() -> None:
    """It is looked at on the way, which nobody notices."""
    loop, wheel = made()
    timer = Waiting()
    wheel.wake(timer, loop.now + 900, loop.now)
    loop.run_until(1900)
    assert not timer.called_at
    loop.run_until(1901)

    assert len(timer.called_at) == 1
    assert loop.turns <= 900 / HORIZON_S + 3


def test_neighbours_that_wait_long_cost_one_turn_together() -> None:
    """A thousand heartbeats in 15 seconds are 60 turns and not a thousand: what is late is late together."""
    loop, wheel = made()
    timers = [Waiting() for _ in range(1000)]
    for number, timer in enumerate(timers):
        wheel.wake(timer, loop.now + LONG_WAIT_S + number * 0.01, loop.now)
    loop.run_until(loop.now + 20)

    assert all(timer.called_at for timer in timers)
    assert loop.turns <= 1000 * 0.01 / COARSE_S + 2


def test_many_that_are_due_at_once_are_called_some_in_each_turn() -> None:
    """Five thousand viewers' heartbeats do not hold the loop: others have their turn between them."""
    loop, wheel = made()
    calls = 0

    def count(_: Waiting, __: float) -> None:
        nonlocal calls
        calls += 1

    timers = [Waiting(count) for _ in range(5000)]
    for timer in timers:
        wheel.wake(timer, 1015.0, loop.now)
    loop.now = 1015.2
    before = most = 0
    while calls < len(timers):
        loop.now = max(loop.now, loop.next_at or 0)
        loop.turn()
        most, before = max(most, calls - before), calls

    assert most <= 2 * AT_A_TURN  # a loop's timers and what is to run soon are of one turn
    assert all(len(timer.called_at) == 1 for timer in timers)


def test_one_that_is_stopped_within_anothers_call_is_not_called() -> None:
    """Though both were due at once."""
    loop, wheel = made()
    pair: list[Waiting] = []

    def stop_both(_: Waiting, __: float) -> None:
        for timer in pair:
            stop(timer)

    pair += [Waiting(stop_both), Waiting(stop_both)]
    for timer in pair:
        wheel.wake(timer, 1000.1, loop.now)
    loop.run_until(1001)

    assert [len(timer.called_at) for timer in pair] in ([0, 1], [1, 0])


def test_one_that_waits_anew_within_its_call_is_called_a_tick_later() -> None:
    """And not again and again in the same one: the others would never have their turn."""
    loop, wheel = made()
    again = Waiting(lambda timer, now: wheel.wake(timer, now, now))
    other = Waiting()
    wheel.wake(again, 1000.1, loop.now)
    wheel.wake(other, 1000.2, loop.now)
    loop.run_until(1001)

    assert len(other.called_at) == 1
    assert 0.9 / (2 * TICK_S) <= len(again.called_at) <= 0.9 / TICK_S + 1
    assert len(set(again.called_at)) == len(again.called_at)


def test_what_fails_in_one_stops_no_other() -> None:
    """The loop's handler of exceptions is told, as of a timer of its own."""
    loop, wheel = made()

    def fail(_: Waiting, __: float) -> None:
        raise ValueError("a defect")

    timers = [Waiting(fail), Waiting(), Waiting(fail), Waiting()]
    for timer in timers:
        wheel.wake(timer, 1000.1, loop.now)
    loop.run_until(1001)

    assert all(timer.called_at for timer in timers)
    assert [str(failure) for failure in loop.failures] == ["a defect"] * 2


def test_an_interrupt_leaves_the_wheel_whole() -> None:
    """What ends the loop's run is not swallowed, and the other timers are called when it runs again."""
    loop, wheel = made()

    def interrupt(_: Waiting, __: float) -> None:
        raise KeyboardInterrupt

    first, second = Waiting(interrupt), Waiting()
    wheel.wake(first, 1000.1, loop.now)
    wheel.wake(second, 1000.5, loop.now)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until(1001)
    loop.run_until(1001)

    assert len(first.called_at) == len(second.called_at) == 1


def test_a_loop_that_was_held_up_reads_first() -> None:
    """What came meanwhile is read before anybody is called: a silence that was broken in time is none."""
    loop, wheel = made()
    heard, silent = Waiting(), Waiting()
    wheel.wake(heard, 1000.1, loop.now)
    wheel.wake(silent, 1000.1, loop.now)
    loop.now = 1000.1 + TICK_S + 1
    loop.turn()
    assert not silent.called_at
    heard.wake_at = 1002.0  # its bytes have been read in this turn
    loop.run_until(1001.5)

    assert len(silent.called_at) == 1
    assert not heard.called_at
    loop.run_until(1003)
    assert len(heard.called_at) == 1


def test_what_is_set_before_a_late_wheel_has_its_turn_delays_nobody() -> None:
    """A loop that was held up for long runs others first, who set timers of their own, near and far."""
    loop, wheel = made()
    first, near, far = Waiting(), Waiting(), Waiting()
    wheel.wake(first, 1000.1, loop.now)
    loop.now = 1030.0
    wheel.wake(near, 1030.1, loop.now)
    wheel.wake(far, 1030.0 + HORIZON_S, loop.now)
    loop.run_until(1030.2)
    assert first.called_at
    assert near.called_at
    assert not far.called_at
    loop.run_until(1031 + HORIZON_S)

    assert [len(timer.called_at) for timer in (first, near, far)] == [1, 1, 1]


def test_a_loop_that_is_always_held_up_still_ends_what_is_over() -> None:
    """After a few turns that were late, too."""
    loop, wheel = made()
    timer = Waiting()
    wheel.wake(timer, 1000.1, loop.now)
    turns = 0
    while not timer.called_at:
        loop.now += 1 + 2 * HELD_UP_S
        loop.turn()
        turns += 1

    assert turns == MOST_AGAIN + 1


def test_while_the_clock_stands_still_nobody_is_called() -> None:
    """And the wheel does not spin."""
    loop, wheel = made()
    timer = Waiting()
    wheel.wake(timer, 1000.1, loop.now)
    loop.now = tick_of(1000.1, 1000.0) * TICK_S - 0.0001
    for _ in range(5):
        loop.fire_next()
        assert loop.next_at is not None
        assert loop.next_at >= loop.now + AGAIN_S
    assert not timer.called_at
    loop.run_until(1001)

    assert len(timer.called_at) == 1


def test_what_was_stopped_is_not_held() -> None:
    """Nor what was called: whatever has a user's text goes with its owner, without the collector."""
    loop, wheel = made()
    gc.collect()
    gc.disable()
    try:
        stopped, called = Waiting(), Waiting()
        for timer in (stopped, called):
            wheel.wake(timer, 1000.1, loop.now)
        stop(stopped)
        watched = [weakref.ref(stopped), weakref.ref(called)]
        loop.run_until(1001)
        del stopped, called, timer

        assert [ref() for ref in watched] == [None, None]
    finally:
        gc.enable()


def test_a_wheel_in_which_nothing_waits_costs_no_turns() -> None:
    """Of what was stopped, one turn is left at most."""
    loop, wheel = made()
    timers = [Waiting() for _ in range(SLOTS)]
    for number, timer in enumerate(timers):
        wheel.wake(timer, loop.now + number * TICK_S, loop.now)
    for timer in timers:
        stop(timer)
    loop.run_until(1100)

    assert loop.turns <= 1
    assert loop.next_at is None


SECRET: ContextVar[str] = ContextVar("secret", default="nobody's")


@pytest.mark.parametrize("make", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_two_loops_in_one_process_have_a_wheel_each(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Each calls its own, also after a stop, in no request's context; and a closed loop leaves nothing."""
    loops = [make(), make()]
    seen: list[tuple[asyncio.AbstractEventLoop, str]] = []

    async def wait(loop: asyncio.AbstractEventLoop) -> None:
        done = loop.create_future()

        def told(_: Waiting, now: float) -> None:
            seen.append((asyncio.get_running_loop(), SECRET.get()))
            done.set_result(None)

        SECRET.set("a patient's")
        wheel_of(loop).wake(timers[loop], loop.time() + 0.05, loop.time())
        timers[loop]._then = told
        await done

    timers = {loop: Waiting() for loop in loops}
    for loop in loops:
        wheel_of(loop).wake(timers[loop], loop.time() + 0.01, loop.time())
    assert wheel_of(loops[0]) is not wheel_of(loops[1])
    for loop in (*loops, *loops):
        loop.run_until_complete(wait(loop))
    assert seen == [(loop, "nobody's") for loop in (*loops, *loops)]
    wheels = [weakref.ref(wheel_of(loop).kept) for loop in loops]
    for loop in loops:
        wheel_of(loop).wake(timers[loop], loop.time() + 60, loop.time())
        stop(timers[loop])
        loop.close()
    del loop
    loops.clear()
    timers.clear()
    seen.clear()
    gc.collect()

    assert [ref() for ref in wheels] == [None, None]


def test_each_thread_has_loops_of_its_own() -> None:
    """Threads that change in the middle of a look-up find each its loop's wheel."""

    def come_and_go(_: int) -> None:
        kept = [Wheel(HandLoop())]
        for _ in range(100):
            loop = HandLoop()
            kept.append(wheel_of(loop))
            assert wheel_of(loop) is kept[-1]
            wheel_of(HandLoop())  # nothing holds it for long

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(come_and_go, range(8)))
    finally:
        sys.setswitchinterval(interval)
