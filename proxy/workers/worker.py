"""A worker as its supervisor sees it, and the slot that it has: when the next one is started there."""

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
"""A worker that has lived so long starts its slot's backoff anew when it dies."""

PAUSES_S = (0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""The backoff: before a slot's next start, by how many of its workers have died in a row."""

REPORTS = {report.value: report for report in Report}


def pause_s(deaths: int) -> float:
    """Before the next start, after so many deaths in a row."""
    return PAUSES_S[min(deaths, len(PAUSES_S)) - 1]


@dataclass(slots=True)
class Worker:
    """One process that serves, seen from its supervisor."""

    pid: int
    line: socket.socket
    drain_s: float
    started_at: float
    heard_at: float
    number: int | None = None
    """Of its fair shares; None: it is not counted."""
    is_ready: bool = False
    exit_code: int | None = None
    """The exit status of a dead worker; as subprocess has it, a signal is negative. None: it lives."""
    kill_at: float | None = None
    """The time at which the worker is killed if it still lives; None: it was not told to end."""

    def send(self, command: Command, now: float) -> None:
        """Tell it to end; it has its drain and `STOP_S` for that."""
        with contextlib.suppress(OSError):
            self.line.send(command.value)
        self.kill_at = now + self.drain_s + STOP_S

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reports(self) -> Iterator[Report]:
        """The reports that came since the last call."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while received := self.line.recv(1):
                if received in REPORTS:  # whatever a worker does, it cannot end its supervisor
                    yield REPORTS[received]


@dataclass(slots=True)
class WorkerSlot:
    """One of `--workers`: it has a worker, or will have one."""

    worker: Worker | None
    deaths: int = 0
    """Deaths in a row."""
    start_at: float = 0.0

    def vacate(self, now: float) -> None:
        """Its worker is dead, or could not be started."""
        if self.worker is not None and now - self.worker.started_at >= STEADY_S:
            self.deaths = 0
        self.deaths += 1
        self.worker = None
        self.start_at = now + pause_s(self.deaths)
