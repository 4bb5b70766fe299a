"""The longest turns of the event loop, with where it was: a thread looks when the loop's beat is late.

While the loop is on time the thread does nothing but compare two numbers, 20 times a second. Of a frame it
keeps the file, the line and the function; never a local variable, which may be a user's text.
"""

import asyncio
import heapq
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic, time
from types import FrameType
from typing import Any, Self

BEAT_S = 0.05
"""Between two beats of the loop, and between two looks of the thread."""

LATE_S = 0.1
"""A beat that is so late belongs to a stall."""

SAMPLE_S, MOST_SAMPLES = 0.02, 100
"""Between two looks at the stack in a stall, and the most of them: a stall may last for ever."""

MOST_STALLS, MOST_STACKS, MOST_FRAMES = 20, 3, 40
"""Stalls that are kept, the longest; stacks of each, the most frequent; frames of each, the innermost."""

Stack = tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Stall:
    """One turn, or several without a beat between them."""

    seconds: float
    at: float
    """Unix time at which it was noticed."""
    stacks: tuple[tuple[int, Stack], ...] = field(compare=False)
    """The number of times that each was seen, the most frequent first; a stack has its innermost frame
    first."""

    def shown(self) -> dict[str, Any]:
        """Return the stall as the admin port shows it."""
        stacks = [{"seen": seen, "frames": list(stack)} for seen, stack in self.stacks]
        return {"at": round(self.at, 3), "seconds": round(self.seconds, 3), "stacks": stacks}


class StallWatch:
    """Watches the loop of the task that enters it, until it is left. Owns its thread."""

    def __init__(self) -> None:
        self._beat_at = 0.0
        self._stop = threading.Event()
        self._stalls: list[Stall] = []
        self.samples = 0
        """Looks at the stack, since the beginning."""

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="headgate stalls", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._timer.cancel()
        self._thread.join()

    def longest(self) -> list[Stall]:
        """The longest first."""
        return sorted(list(self._stalls), reverse=True)

    def _beat(self) -> None:
        self._beat_at = monotonic()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _watch(self) -> None:
        while not self._stop.wait(BEAT_S):
            if monotonic() - self._beat_at > BEAT_S + LATE_S:
                self._look_until_it_beats()

    def _look_until_it_beats(self) -> None:
        beat_at, noticed_at = self._beat_at, time()
        seen: Counter[Stack] = Counter()
        while self._beat_at == beat_at:
            if sum(seen.values()) < MOST_SAMPLES:
                seen[_stack(sys._current_frames().get(self._loop_thread))] += 1
                self.samples += 1
            if self._stop.wait(SAMPLE_S):
                return
        late_s = self._beat_at - beat_at - BEAT_S
        self.keep(Stall(late_s, noticed_at, tuple((n, stack) for stack, n in seen.most_common(MOST_STACKS))))

    def keep(self, stall: Stall) -> None:
        """Keep it if it is one of the longest."""
        if len(self._stalls) < MOST_STALLS:
            heapq.heappush(self._stalls, stall)
        else:
            heapq.heappushpop(self._stalls, stall)


def _stack(frame: FrameType | None) -> Stack:
    found: list[str] = []
    while frame is not None and len(found) < MOST_FRAMES:
        code = frame.f_code
        found.append(f"{_short(code.co_filename)}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return tuple(found)


def _short(filename: str) -> str:
    """From the package on: where it is installed says nothing."""
    *_, inner = filename.rpartition("/site-packages/")
    return "/".join(inner.split("/")[-4:])
