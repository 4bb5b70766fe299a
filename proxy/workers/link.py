"""A worker's end of the line to its parent: what it is ordered, and what it says of itself.

One byte a message. The other end is the parent's alone, so that the line breaks when the parent is gone,
however it went: that is an order, too.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

BEAT_S = 0.5
"""Between two signs of life."""


class Command(Enum):
    """What the parent wants."""

    STOP = b"s"
    """Drain: nobody serves here any more."""

    HAND_OVER = b"h"
    """Drain: others serve here now."""

    ORPHANED = b""
    """Nobody: the parent is gone. Drain, and let go of the ports, for whoever starts Headgate again."""


class Report(Enum):
    """What a worker says."""

    READY = b"r"
    ALIVE = b"a"
    LEAVING = b"l"
    """It was told to end by somebody else, and asks what for."""


class SupervisorLink:
    """The line, from the worker's side. Whoever made the socket closes it."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line

    def say(self, word: Report) -> None:
        with contextlib.suppress(OSError):  # one that does not listen is gone, or will hear the next
            self._line.send(word.value)

    async def order(self) -> Command:
        """The next order, once there is one."""
        try:
            said = await asyncio.get_running_loop().sock_recv(self._line, 1)
        except ConnectionError:
            return Command.ORPHANED
        return Command(said)

    @asynccontextmanager
    async def hears(self) -> AsyncIterator[None]:
        """Ready, and alive until the block is left."""
        self.say(Report.READY)
        beating = asyncio.get_running_loop().create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self.say(Report.ALIVE)
