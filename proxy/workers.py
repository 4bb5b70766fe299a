"""`--workers N`: N processes that share their listening sockets, kept alive by their parent."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from proxy.admin import MULTIPROCESS_DIR
from proxy.sockets import Sockets

STOP_S = 10.0
"""Seconds beyond a worker's own drain until it is killed, if it still lives after SIGTERM."""

RESTART_S = 1.0
"""At least so long between two starts of one worker, so that one that cannot start does not spin."""

Work = Callable[[Path, Sockets, Path], None]


class Workers:
    """The parent's side. `work` runs in each child, and is importable there by name."""

    def __init__(
        self,
        count: int,
        work: Work,
        config: Path,
        sockets: Sockets,
        state_dir: Path,
        *,
        drain_s: float,
    ) -> None:
        self._drain_s = drain_s
        self._context = multiprocessing.get_context("spawn")
        self._count = count
        self._work = work
        self._arguments = (config, sockets, state_dir)
        self._processes: list[BaseProcess] = []
        self._stopping = False

    def run(self) -> None:
        """Keep all workers alive until SIGTERM or SIGINT, then stop them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._processes = [self._start() for _ in range(self._count)]
        while not self._stopping:
            wait([process.sentinel for process in self._processes], timeout=0.5)
            self._restart_dead()
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                process.terminate()
        deadline = time.monotonic() + self._drain_s + STOP_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self) -> BaseProcess:
        process = self._context.Process(target=self._work, args=self._arguments)
        process.start()
        return process

    def _restart_dead(self) -> None:
        for index, process in enumerate(self._processes):
            if not process.is_alive() and not self._stopping:
                if MULTIPROCESS_DIR in os.environ and process.pid is not None:
                    # Or its open streams would be counted for ever.
                    mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
                time.sleep(RESTART_S)
                self._processes[index] = self._start()
