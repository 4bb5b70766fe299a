"""A timer wheel: what waits long and needs no precision waits here. A timer may be late, and never early.

A timer of the loop takes 600 bytes and a turn of the loop; one that waits here is an entry in a set, and
those that are due together cost one turn. How late a timer may be is bounded by `TICK_S` and `COARSE_S`.

The wheel is a ring of slots, one for each tick to come within `HORIZON_S`. See Varghese and Lauck, "Hashed
and Hierarchical Timing Wheels", 1987.
"""

import asyncio
from asyncio.events import Handle
from contextvars import Context
from threading import Lock
from typing import Final, Protocol
from weakref import ref

TICKS: Final = 128
"""Ticks in a second; a power of two, so that the ticks of a time are exact."""

TICK_S: Final = 1 / TICKS
"""Seconds by which a timer may be late, in a loop that is not held up."""

COARSE_TICKS: Final = 32
COARSE_S: Final = COARSE_TICKS * TICK_S
"""Seconds by which a timer of `LONG_WAIT_S` and more may be late: it is due with its neighbours then."""

LONG_WAIT_S: Final = 16 * COARSE_S

SLOTS: Final = 2048
HORIZON_S: Final = (SLOTS - 2 * COARSE_TICKS) * TICK_S
"""Seconds until a timer is looked at, at most. One that is due later gets another place then."""

AT_A_TURN: Final = 64
"""Timers that are called in one turn of the loop: each may have a client to write to."""

HELD_UP_S: Final = 0.02
"""A wheel that comes so late finds a loop that was held up, by its own work or by the machine's. What came
meanwhile is not read yet, since a loop runs its timers first: until it is, nobody can say who was silent."""

AGAIN_S: Final = 0.002
"""Seconds after which such a wheel comes again."""

STEP_S: Final = 0.001
"""Loops count in milliseconds, and round: a wait that is so much longer is never too short."""

MOST_AGAIN: Final = 8
"""Times in a row that it does. A loop that is always held up must still end what is over."""


class Timer(Protocol):
    """What waits in a wheel: itself, since a handle beside it would take as much again."""

    wake_at: float
    """The loop's time when it is called. Its owner may move it later, which costs nothing."""
    slot: "set[Timer] | None"
    """Its place; None: it does not wait. For the wheel alone, and for `stop`."""

    def on_time(self, now: float) -> None:
        """It is due, and waits no more. `now` is the loop's time, not before `wake_at`."""


def stop(timer: Timer) -> None:
    """End its wait, if it waits: nothing holds it any more."""
    slot = timer.slot
    if slot is not None:
        slot.discard(timer)
        timer.slot = None


def tick_of(due: float, now: float) -> int:
    """The first tick after `due` at which a timer may be called that begins to wait now."""
    if due - now < LONG_WAIT_S:
        return int(due * TICKS) + 1
    return (int(min(due, now + HORIZON_S) * TICKS) // COARSE_TICKS + 1) * COARSE_TICKS


class Wheel:
    """The wheel of one loop; `wheel_of` has it. It lives as long as something holds it or waits in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: list[set[Timer] | None] = [None] * SLOTS
        self._used = bytearray(SLOTS)
        """1 for each slot that there is, to find the next one quickly."""
        self._passed = int(loop.time() * TICKS)
        """The last tick that is over: no timer of it or of one before waits any more."""
        self._handle: Handle | None = None
        """The loop's timer, or its word that this goes on in the next turn."""
        self._next = 0
        """The tick for which that is armed."""
        self._expected_at = 0.0
        """The loop's time when it is due."""
        self._is_turning = False
        self._times_again = 0
        self.kept = {self}
        """By which it is found while it lives: a set can be referred to weakly, what is compiled cannot."""

    def wake(self, timer: Timer, due: float, now: float) -> None:
        """Call `timer.on_time` at `due`, or a little later, and no more at any time given before.

        `now` is the loop's time, or a moment before it.
        """
        slot = timer.slot
        if slot is not None:
            slot.discard(timer)
        if not self._is_turning:
            self._pass(now)
        # A wheel that is late itself has less room ahead.
        tick = min(max(tick_of(due, now), self._passed + 1), self._passed + SLOTS - 1)
        at = tick % SLOTS
        slot = self._slots[at]
        if slot is None:
            slot = self._slots[at] = set()
            self._used[at] = 1
        slot.add(timer)
        timer.slot = slot
        timer.wake_at = due
        if self._handle is None:
            if not self._is_turning:
                self._arm(tick, now)
        elif tick < self._next:
            self._handle.cancel()
            self._arm(tick, now)

    def _pass(self, now: float) -> None:
        """Let the ticks be over in which nothing waits: that makes room ahead."""
        over = int(now * TICKS)
        if self._handle is not None:
            over = min(over, self._next - 1)
        self._passed = max(self._passed, over)

    def _arm(self, tick: int, now: float) -> None:
        self._next = tick
        self._arm_at(max(tick * TICK_S, now + AGAIN_S), now)

    def _arm_at(self, expected_at: float, now: float) -> None:
        self._expected_at = expected_at
        # A context of its own: that of the request which happens to arm it would be every other timer's, too.
        self._handle = self._loop.call_later(expected_at - now + STEP_S, self._turn, context=Context())

    def _turn(self) -> None:
        """The loop's timer: call what is due, unless the loop was held up."""
        now = self._loop.time()
        if now > self._expected_at + HELD_UP_S and self._times_again < MOST_AGAIN:
            self._times_again += 1
            self._arm_at(now + AGAIN_S, now)
        else:
            self._times_again = 0
            self._go_on()

    def _go_on(self) -> None:
        """Call what is due, and arm for what is next."""
        self._handle = None
        now = self._loop.time()
        self._is_turning = True
        try:
            self._call_due(now)
        finally:
            self._is_turning = False
            tick = self._first()
            if tick is not None and tick * TICK_S <= now:
                self._next = tick
                self._handle = self._loop.call_soon(self._go_on, context=Context())
            elif tick is not None:
                self._arm(tick, now)

    def _call_due(self, now: float) -> None:
        left = AT_A_TURN
        while left and (tick := self._first()) is not None and tick * TICK_S <= now:
            self._passed = tick  # so that who waits anew gets a later one
            slot = self._slots[tick % SLOTS]
            while slot and left:
                left -= 1
                timer = slot.pop()
                timer.slot = None
                if timer.wake_at > now:
                    self.wake(timer, timer.wake_at, now)
                else:
                    self._call(timer, now)

    def _call(self, timer: Timer, now: float) -> None:
        try:
            timer.on_time(now)
        except Exception as exc:  # noqa: BLE001 - as a loop does: what fails in one stops no other
            self._loop.call_exception_handler({"message": "Exception in a timer", "exception": exc})

    def _first(self) -> int | None:
        """The first tick for which something waits. Slots before it that are empty now are given up."""
        start = self._passed
        while True:
            at = self._used.find(1, start % SLOTS)
            if at < 0:
                at = self._used.find(1)
                if at < 0:
                    return None
            if self._slots[at]:
                return start + (at - start) % SLOTS
            self._slots[at] = None
            self._used[at] = 0


_wheels: Final[dict[int, "ref[set[Wheel]]"]] = {}
_making: Final = Lock()


def wheel_of(loop: asyncio.AbstractEventLoop) -> Wheel:
    """The wheel of a loop, which all share that wait on it."""
    known = _wheels.get(id(loop))  # a wheel holds its loop, so no other has that id
    kept = None if known is None else known()
    if kept is not None:
        for wheel in kept:
            return wheel
    with _making:  # a process may have loops in several threads
        for ended in [number for number, known in _wheels.items() if known() is None]:
            del _wheels[ended]
        made = Wheel(loop)
        _wheels[id(loop)] = ref(made.kept)
    return made
