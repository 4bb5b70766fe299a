"""The line between a worker and its supervisor, from the worker's side: commands in, reports out.

One byte a message. The supervisor alone holds the other end, so the line breaks when the supervisor is gone,
however it ended: that is a command, too.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum

from proxy.workers.fair_share import FairShare

HEARTBEAT_S = 0.5
"""Between two reports that the worker is alive."""


class Command(Enum):
    """Commands of the supervisor."""

    STOP = b"s"
    """Drain: nobody serves here any more."""

    HAND_OVER = b"h"
    """Drain: other workers serve here now."""

    ORPHANED = b""
    """The supervisor is gone. Drain, and release the ports, so that Headgate can be started again."""


class Report(Enum):
    """Reports of a worker."""

    READY = b"r"
    ALIVE = b"a"
    LEAVING = b"l"
    """Another process has sent SIGTERM: the worker asks its supervisor for a command."""


class SupervisorLink:
    """The line, from the worker's side. The process that made the socket closes it.

    Args:
        shares: the worker's, of the public port and the model port; none, if it is not counted.
    """

    def __init__(self, line: socket.socket, shares: Sequence[FairShare] = ()) -> None:
        line.setblocking(False)
        self._line = line
        self.shares = shares

    def report(self, report: Report) -> None:
        with contextlib.suppress(OSError):  # a supervisor that does not read is gone, or reads the next one
            self._line.send(report.value)

    async def command(self) -> Command:
        """The next command, once there is one."""
        try:
            received = await asyncio.get_running_loop().sock_recv(self._line, 1)
        except ConnectionError:
            return Command.ORPHANED
        return Command(received)

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """Report that the worker is ready, and that it is alive until the block is left."""
        self.report(Report.READY)
        heartbeat = asyncio.get_running_loop().create_task(self._send_heartbeats())
        try:
            yield
        finally:
            heartbeat.cancel()

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.report(Report.ALIVE)
