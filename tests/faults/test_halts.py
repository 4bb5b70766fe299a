"""A machine that halts the loop for longer than every timeout changes no round."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.clients import mixture
from tests.faults.loop import PatientLoop
from tests.faults.rounds import House, at_once
from tests.faults.upstream import TIMEOUTS
from tests.servers.client import eventually

pytestmark = pytest.mark.alone

HALT_S = 1.5
SHORT_S = 0.05
EVERY_S = 0.5


def halt(seconds: float) -> None:
    """Stop everything else of this thread, as on a machine that is busy with others."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@asynccontextmanager
async def halting() -> AsyncIterator[None]:
    """Now and then, for as long as the block."""

    async def now_and_then() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            halt(HALT_S)

    task = asyncio.create_task(now_and_then())
    try:
        yield
    finally:
        task.cancel()


async def test_rounds_end_the_same_on_a_machine_that_halts(rounds: House) -> None:
    """Halts are longer than the upstream may be silent; no timeout is over sooner, and none is missed."""
    assert TIMEOUTS["first_byte_s"] < HALT_S
    async with halting():
        results = await at_once(mixture(rounds, random.Random(5), 100))

    assert [str(result) for result in results if result.problems] == []
    assert await rounds.miscounted() == []


async def test_a_halt_is_left_out_of_the_clock_and_told() -> None:
    """Bytes that arrived in a halt are read before a timer that came due in it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PatientLoop)
    await asyncio.sleep(SHORT_S)
    began_s, still_s = loop.time(), loop.stood_still_s
    async with asyncio.timeout(HALT_S / 2):
        halt(HALT_S)
        await asyncio.sleep(SHORT_S)

    assert loop.time() - began_s < HALT_S / 2
    assert HALT_S / 2 < loop.stood_still_s - still_s < HALT_S
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_S):
            await asyncio.Event().wait()


async def test_a_timer_that_is_cancelled_never_fires() -> None:
    """Also when it was put off in a halt."""
    fired: list[str] = []
    loop = asyncio.get_running_loop()
    loop.call_later(SHORT_S, fired.append, "first")
    cancelled = loop.call_later(4 * SHORT_S, fired.append, "cancelled")
    loop.call_later(5 * SHORT_S, fired.append, "last")
    halt(HALT_S)
    await asyncio.sleep(SHORT_S)
    cancelled.cancel()
    await eventually(lambda: "last" in fired)

    assert fired == ["first", "last"]
