"""Long work in turns: how long one task may block the loop, which all streams share."""

import asyncio
from collections.abc import Iterable
from time import perf_counter

TURN_S = 0.004
"""Seconds after which other tasks get a turn. One step of the work must be short by itself."""

STEP_BYTES = 128 * 1024
"""Bytes of a long text or body that are hashed or encoded in one step: less than a millisecond."""


class Turns:
    """The turns of one task, from now on."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = perf_counter()

    async def breathe(self) -> None:
        """Let other tasks go on, if it is time. Call it between two steps."""
        if perf_counter() - self._since > TURN_S:
            await asyncio.sleep(0)
            self._since = perf_counter()


async def in_turns(steps: Iterable[object]) -> None:
    """Take all steps. Other tasks may run between any two of them."""
    turns = Turns()
    for _ in steps:
        await turns.breathe()
