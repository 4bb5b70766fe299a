"""An event loop whose clock is moved by hand: as much of one as a wheel needs."""

import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context
from itertools import count
from typing import Any


class Handle:
    def __init__(self, callback: Callable[[], object], context: Context | None) -> None:
        self._callback: Callable[[], object] | None = callback
        self._context = context or Context()

    def cancel(self) -> None:
        self._callback = None

    @property
    def is_cancelled(self) -> bool:
        return self._callback is None

    def run(self) -> None:
        if self._callback is not None:
            self._context.run(self._callback)


class HandLoop:
    """`turns` counts the loop's turns in which something ran; `failures` has what the handler was told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.turns = 0
        self.failures: list[BaseException] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._soon: deque[Handle] = deque()
        self._order = count()

    def time(self) -> float:
        return self.now

    def call_later(
        self, delay: float, callback: Callable[[], object], *, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, context)
        heapq.heappush(self._timers, (self.now + delay, next(self._order), handle))
        return handle

    def call_soon(self, callback: Callable[[], object], *, context: Context | None = None) -> Handle:
        handle = Handle(callback, context)
        self._soon.append(handle)
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context["exception"])

    @property
    def next_at(self) -> float | None:
        """When the next timer is due; None: there is none."""
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def turn(self) -> None:
        """One turn: the timers that are due, then what was to run soon."""
        self.turns += 1
        while (due := self.next_at) is not None and due <= self.now:
            heapq.heappop(self._timers)[2].run()
        for _ in range(len(self._soon)):
            self._soon.popleft().run()

    def fire_next(self) -> None:
        """The next timer, though the clock is not there yet."""
        assert self.next_at is not None
        heapq.heappop(self._timers)[2].run()

    def run_until(self, end: float) -> None:
        """Turns of a loop that is never held up."""
        while self._soon or ((due := self.next_at) is not None and due <= end):
            if not self._soon:
                due = self.next_at
                assert due is not None
                self.now = max(self.now, due)
            self.turn()
        self.now = end
