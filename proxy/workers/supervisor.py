"""The parent of the processes that serve: it keeps a worker alive in each slot.

The supervisor holds the sockets, so that connections wait while no worker accepts them. It does nothing else
that could end it: no connection, no request, no event loop. Workers are forked from it: a new one is there in
a moment, and what all of them have loaded is in memory once.

`worker.py` has the pauses between a worker's death and the next start.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait

from proxy.observe import logs
from proxy.settings.settings import Settings
from proxy.workers.fair_share import FairShares
from proxy.workers.fork import Work, fork_worker
from proxy.workers.link import Command, Report
from proxy.workers.process_metrics import ProcessMetrics
from proxy.workers.reload import Reload
from proxy.workers.signals import SignalQueue, queued
from proxy.workers.sockets import Sockets
from proxy.workers.systemd import ALIVE, READY, STOPPING, ServiceManager
from proxy.workers.worker import Worker, WorkerSlot

logger = logging.getLogger("headgate.workers")

MAX_LEAVING = 32
"""Processes that may drain at a time; with more of them a reload waits."""

SILENT_S = 3.0
"""A worker that reports nothing for so long hangs; or for a period of the watchdog, if that is longer."""

TICK_S = 0.5
"""The supervisor looks at its workers at least so often."""

RETRY_S = 0.05
"""The same, while the metrics of a dead worker are yet to be archived."""

CANNOT_START = 1
"""The exit code, where no worker has ever served."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Supervisor:
    """Keeps workers alive until SIGTERM or SIGINT.

    Args:
        work: what a worker does, in its own process, until it ends.
        read: the settings as they are now, to replace those given. Raises SettingsError.
    """

    def __init__(
        self,
        count: int,
        settings: Settings,
        sockets: Sockets,
        *,
        work: Work,
        read: Callable[[Settings], Settings],
        metrics: ProcessMetrics,
        manager: ServiceManager,
    ) -> None:
        self._count = count
        self._settings = settings
        self._sockets = sockets
        self._work = work
        self._metrics = metrics
        self._manager = manager
        self._shares = FairShares()
        self._slots: list[WorkerSlot] = []
        self._reload = Reload(
            count,
            settings,
            manager,
            read=read,
            start=lambda settings: self._start(settings, is_new=True),
            discard=lambda worker: self._leaving.append(worker),
        )
        self._was_ready = self._is_announced = False
        """Whether any worker ever was ready, and whether it was logged that all are."""
        self._leaving: list[Worker] = []
        self._unarchived: set[int] = set()
        """Dead workers whose metrics are in files of their own."""
        self._is_reload_wanted = False
        self._is_stopping = False
        self._watchdog_fed_at = 0.0
        self._exit_code = 0

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, and until all workers have ended. Returns the exit code."""
        with queued(SIGNALS) as signals:
            for _ in range(self._count):
                self._slots.append(WorkerSlot(None))
                self._fill_slots(time.monotonic())  # one by one: each worker closes the earlier ones' lines
            while self._all() or not self._is_stopping:
                self._wait(signals)
                now = time.monotonic()
                self._handle_signals(signals, now)
                self._read_reports(now)
                self._reap(now)
                self._announce()
                self._finish_reload(now)
                self._fill_slots(now)
                self._kill_overdue(now)
                self._archive_metrics()
                self._feed_watchdog(now)
        if self._exit_code == CANNOT_START:  # logged at the end: the workers have logged why by now
            logger.error("headgate cannot start; what the worker said is above")
        return self._exit_code

    def _all(self) -> list[Worker]:
        return [*self._serving(), *self._reload.candidates, *self._leaving]

    def _serving(self) -> list[Worker]:
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def _start(self, settings: Settings, *, is_new: bool = False) -> Worker | None:
        return fork_worker(self._work, settings, self._all(), self._shares, is_new=is_new)

    # Signals.

    def _wait(self, signals: SignalQueue) -> None:
        timeout_s = RETRY_S if self._unarchived else TICK_S
        if self._manager.watchdog_s is not None:
            timeout_s = min(timeout_s, self._manager.watchdog_s / 4)
        now = time.monotonic()
        due = [slot.start_at - now for slot in self._slots if slot.worker is None]
        wait([signals.fileno(), *(worker.line for worker in self._all())], max(0.0, min([timeout_s, *due])))

    def _handle_signals(self, signals: SignalQueue, now: float) -> None:
        for number in signals.drain():
            if number == signal.SIGHUP:
                self._is_reload_wanted = True
            elif number == signal.SIGINT and self._is_stopping:
                self._exit_code = 128 + number
                for worker in self._all():
                    worker.kill()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(now)
        if self._is_reload_wanted and self._may_reload():
            self._is_reload_wanted = False
            self._reload.begin(self._settings)

    def _may_reload(self) -> bool:
        is_busy = bool(self._reload.candidates) or len(self._leaving) + self._count > MAX_LEAVING
        return not (self._is_stopping or is_busy)

    def _stop(self, now: float) -> None:
        self._is_stopping = True
        self._manager.notify(STOPPING)
        for worker in self._all():
            worker.send(Command.STOP, now)
        self._leaving = self._all()
        self._slots, self._reload.candidates = [], []
        self._sockets.close()  # new connections go elsewhere

    # Workers that report, leave and die.

    def _read_reports(self, now: float) -> None:
        for worker in self._all():
            for report in worker.reports():
                worker.heard_at = now
                if report is Report.READY:
                    worker.is_ready = self._was_ready = True
                elif report is Report.LEAVING:
                    self._replace_leaving(worker, now)

    def _replace_leaving(self, worker: Worker, now: float) -> None:
        """Another process has told a worker to end: a new one takes its slot."""
        for slot in self._slots:
            if slot.worker is worker:
                logger.warning("worker was told to end, and is replaced", extra={"worker": worker.pid})
                worker.send(Command.HAND_OVER, now)
                self._leaving.append(worker)
                slot.worker, slot.start_at = None, now

    def _reap(self, now: float) -> None:
        for worker in self._all():
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                worker.exit_code = os.waitstatus_to_exitcode(status)
                worker.line.close()
                self._shares.give_back(worker.number)
                self._unarchived.add(pid)
        for slot in list(self._slots):
            if slot.worker is not None and slot.worker.exit_code is not None:
                self._vacate(slot, slot.worker, now)
        self._leaving = [worker for worker in self._leaving if worker.exit_code is None]

    def _vacate(self, slot: WorkerSlot, worker: Worker, now: float) -> None:
        slot.vacate(now)
        if worker.exit_code and worker.exit_code > 0 and not self._was_ready:
            # It ended by itself, and no worker has ever served: starting Headgate has failed.
            self._exit_code = CANNOT_START
            self._stop(now)
            return
        logger.error(
            "worker died",
            extra={
                "worker": worker.pid,
                "exit_code": worker.exit_code,
                "deaths_in_a_row": slot.deaths,
                "next_start_in_s": round(slot.start_at - now, 2),
            },
        )

    def _announce(self) -> None:
        """Log and notify once that all workers are ready."""
        serving = self._serving()
        if not self._is_announced and len(serving) == self._count and all(w.is_ready for w in serving):
            self._is_announced = True
            logger.info("serving", extra={"workers": [worker.pid for worker in serving]})
            self._manager.notify(READY)

    def _finish_reload(self, now: float) -> None:
        ready = self._reload.take_ready(now)
        if not ready:
            return
        former = self._serving()
        for worker in former:
            worker.send(Command.HAND_OVER, now)
        self._leaving += former
        self._slots = [WorkerSlot(worker) for worker in ready]
        self._settings = self._reload.settings
        logs.set_up(self._settings.log)
        self._was_ready = self._is_announced = True
        logger.info("reloaded", extra={"workers": [worker.pid for worker in ready]})
        self._manager.notify(READY)

    def _fill_slots(self, now: float) -> None:
        for slot in self._slots:
            if slot.worker is None and now >= slot.start_at:
                slot.worker = self._start(self._settings)
                if slot.worker is None:
                    slot.vacate(now)

    def _kill_overdue(self, now: float) -> None:
        for worker in self._leaving:
            if worker.kill_at is not None and now >= worker.kill_at:
                logger.error("worker is killed: it has not ended in time", extra={"worker": worker.pid})
                worker.kill_at = None
                worker.kill()

    def _archive_metrics(self) -> None:
        for pid in list(self._unarchived):
            try:
                is_done = self._metrics.archive(pid)
            except Exception:  # what the worker has counted is lost, and nothing else
                logger.exception("the figures of a dead worker cannot be kept", extra={"worker": pid})
                is_done = True
            if is_done:
                self._unarchived.discard(pid)

    def _feed_watchdog(self, now: float) -> None:
        """Tell the service manager that all is well, unless a worker hangs."""
        period_s = self._manager.watchdog_s
        if period_s is None or now - self._watchdog_fed_at < period_s / 4:
            return
        silent_s = max(period_s, SILENT_S)
        if all(now - worker.heard_at < silent_s for worker in self._serving() if worker.is_ready):
            self._watchdog_fed_at = now
            self._manager.notify(ALIVE)
