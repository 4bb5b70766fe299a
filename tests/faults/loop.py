"""Production's event loop with a clock that stands still while the loop does. No thread, no second timer.

Upstream, Headgate and viewers of a round live on one loop. When the machine halts it, all of them halt; the
kernel's clock goes on, and without this a timeout of a second would be over before the bytes that are there
have been read.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

import uvloop

TICK_S = 0.01
LONGEST_S = 0.015
"""Seconds that one turn of the loop adds to the clock at most. So a second of it is at least 66 turns, in
each of which all that is there is read: enough for whatever a round does before its timeouts, on any
machine."""

EARLY_S = 0.0005
"""Half of the millisecond in which libuv counts: a timer that is so near is due."""


class _Timer(asyncio.TimerHandle):
    """Cancelling it cancels the kernel's timer below."""

    below: asyncio.TimerHandle

    def cancel(self) -> None:
        self.below.cancel()
        asyncio.Handle.cancel(self)


class PatientLoop(uvloop.Loop):
    """`stood_still_s` is what its clock has left out so far, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.stood_still_s = 0.0
        self._elapsed_s = 0.0
        self._ticked_at = super().time()

    def time(self) -> float:
        """Seconds that the loop has had."""
        return self._elapsed_s + min(super().time() - self._ticked_at, LONGEST_S)

    def run_forever(self) -> None:
        self._tick()
        try:
            super().run_forever()
        finally:
            self._ticker.cancel()

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        self._arm(timer)
        return timer

    def _arm(self, timer: _Timer) -> None:
        timer.below = super().call_later(max(0.0, timer.when() - self.time()), self._fire, timer)

    def _fire(self, timer: _Timer) -> None:
        if timer.when() > self.time() + EARLY_S:  # the loop stood still meanwhile
            self._arm(timer)
        else:
            timer._run()

    def _tick(self) -> None:
        now = super().time()
        passed_s = now - self._ticked_at
        self._ticked_at = now
        self._elapsed_s += min(passed_s, LONGEST_S)
        self.stood_still_s += max(0.0, passed_s - LONGEST_S)
        self._ticker = super().call_later(TICK_S, self._tick)
