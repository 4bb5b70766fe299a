"""A worker as its parent sees it, and the place that it has: when the next one is started there."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.workers.link import Command, Report

STOP_S = 10.0
"""Seconds beyond a worker's own drain until it is killed, if it still lives after it was told to end."""

STEADY_S = 10.0
"""A worker that has lived so long does not die again and again."""

PAUSES_S = (0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Before a worker is started anew that has died, by how often it did without being steady in between."""

WORDS = {word.value: word for word in Report}


def pause_s(deaths: int) -> float:
    """Before the next start, after so many deaths in a row."""
    return PAUSES_S[min(deaths, len(PAUSES_S)) - 1]


@dataclass(slots=True)
class Worker:
    """One process that serves, seen from its parent."""

    pid: int
    line: socket.socket
    drain_s: float
    started_at: float
    heard_at: float
    is_ready: bool = False
    exit_code: int | None = None
    """Once it is dead; as subprocess has it, a signal is negative."""
    kill_at: float | None = None
    """It was told to end, and has until then."""

    def tell(self, order: Command, now: float) -> None:
        """Order it to end."""
        with contextlib.suppress(OSError):
            self.line.send(order.value)
        self.kill_at = now + self.drain_s + STOP_S

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def words(self) -> Iterator[Report]:
        """What it has said since."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while said := self.line.recv(1):
                if said in WORDS:  # whatever a worker does, it cannot end its parent
                    yield WORDS[said]


@dataclass(slots=True)
class WorkerSlot:
    """One of `--workers`: it has a worker, or will have one."""

    worker: Worker | None
    deaths: int = 0
    """In a row."""
    start_at: float = 0.0

    def vacate(self, now: float) -> None:
        """Its worker is dead."""
        if self.worker is not None and now - self.worker.started_at >= STEADY_S:
            self.deaths = 0
        self.deaths += 1
        self.worker = None
        self.start_at = now + pause_s(self.deaths)
