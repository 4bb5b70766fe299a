"""Long work in turns: how long one task may hold the loop, which everybody's streams share."""

import asyncio
from collections.abc import Iterable
from time import perf_counter

TURN_S = 0.004
"""After so long the others have a turn. What is done in one step must be short enough by itself."""

STEP_BYTES = 128 * 1024
"""Of a long text or body that is hashed or encoded: as much takes less than a millisecond."""


class Turns:
    """One task's turns, from now on."""

    def __init__(self) -> None:
        self._since = perf_counter()

    async def breathe(self) -> None:
        """To be called between two steps: lets the others go on, if it is time."""
        if perf_counter() - self._since > TURN_S:
            await asyncio.sleep(0)
            self._since = perf_counter()


async def in_turns(steps: Iterable[object]) -> None:
    """Take all steps. Between two of them anything may happen."""
    turns = Turns()
    for _ in steps:
        await turns.breathe()
