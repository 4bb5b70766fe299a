"""The parent of the processes that serve: it keeps them alive, and replaces them by some with new settings.

It holds the sockets, so that connections wait while nobody accepts them, and does nothing else that could end
it: no connection, no request, no event loop. Workers are forked from it: a new one is there in a moment, and
what all of them have loaded is in memory once.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait

from proxy.errors import SettingsError
from proxy.observe import logs
from proxy.settings.settings import Settings
from proxy.workers.link import Command, Report, SupervisorLink
from proxy.workers.process_metrics import ProcessMetrics
from proxy.workers.sockets import Sockets
from proxy.workers.systemd import ALIVE, READY, STOPPING, ServiceManager
from proxy.workers.worker import Worker, WorkerSlot

logger = logging.getLogger("headgate.workers")

START_S = 30.0
"""Seconds that workers have until they serve; then a reload has failed."""

MAX_LEAVING = 32
"""Processes that may drain at a time; with more of them a reload waits."""

SILENT_S = 3.0
"""A worker that says nothing for so long hangs, or for as long as the service manager's watchdog waits."""

TICK_S = 0.5
"""The parent looks around at least so often."""

RETRY_S = 0.05
"""The same, while the figures of a dead worker are yet to be put away."""

CANNOT_START = 1
"""The exit code, where no worker has ever served."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

Work = Callable[[Settings, SupervisorLink, bool], None]
"""With the settings, the line to the parent, and whether the settings are new, and yet to be proved."""


class Supervisor:
    """The parent's side.

    Args:
        work: what a worker does, in its own process, until it ends.
        read: the settings as they are now, to go on with instead of those given. Raises SettingsError.
    """

    def __init__(
        self,
        count: int,
        settings: Settings,
        sockets: Sockets,
        *,
        work: Work,
        read: Callable[[Settings], Settings],
        figures: ProcessMetrics,
        manager: ServiceManager,
    ) -> None:
        self._count = count
        self._settings = settings
        self._sockets = sockets
        self._work = work
        self._read = read
        self._figures = figures
        self._manager = manager
        self._places: list[WorkerSlot] = []
        self._was_ready = self._is_announced = False
        """Whether any worker ever was, and whether it was said that all are."""
        self._candidates: list[Worker] = []
        """They take the places, once all of them are ready."""
        self._candidates_settings = settings
        self._candidates_by = 0.0
        self._leaving: list[Worker] = []
        self._unburied: set[int] = set()
        self._signals: deque[int] = deque()
        self._reload_wanted = False
        self._stopping = False
        self._reassured_at = 0.0
        self._code = 0

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, and until all workers have ended. Returns the exit code."""
        with self._woken_by_signals() as wake:
            for _ in range(self._count):
                self._places.append(WorkerSlot(None))
                self._restart(time.monotonic())  # one by one: each closes the lines of those before it
            while self._all() or not self._stopping:
                self._wait(wake)
                now = time.monotonic()
                self._obey(now)
                self._hear(now)
                self._reap(now)
                self._announce()
                self._promote(now)
                self._restart(now)
                self._kill_overdue(now)
                self._bury()
                self._reassure(now)
        if self._code == CANNOT_START:  # said at the end: the other workers have had their say
            logger.error("headgate cannot start; what the worker said is above")
        return self._code

    def _all(self) -> list[Worker]:
        return [*self._serving(), *self._candidates, *self._leaving]

    def _serving(self) -> list[Worker]:
        return [place.worker for place in self._places if place.worker is not None]

    # What wakes the parent.

    @contextmanager
    def _woken_by_signals(self) -> Iterator[socket.socket]:
        wake, waker = socket.socketpair()
        with wake, waker:
            for end in (wake, waker):
                end.setblocking(False)
            for number in SIGNALS:
                signal.signal(number, lambda number, _: self._signals.append(number))
            before = signal.set_wakeup_fd(waker.fileno())
            try:
                yield wake
            finally:
                signal.set_wakeup_fd(before)

    def _wait(self, wake: socket.socket) -> None:
        timeout_s = RETRY_S if self._unburied else TICK_S
        if self._manager.watchdog_s is not None:
            timeout_s = min(timeout_s, self._manager.watchdog_s / 4)
        now = time.monotonic()
        due = [place.start_at - now for place in self._places if place.worker is None]
        wait([wake, *(worker.line for worker in self._all())], max(0.0, min([timeout_s, *due])))
        with contextlib.suppress(BlockingIOError):
            while wake.recv(1024):
                pass

    def _obey(self, now: float) -> None:
        while self._signals:
            number = self._signals.popleft()
            if number == signal.SIGHUP:
                self._reload_wanted = True
            elif number == signal.SIGINT and self._stopping:
                self._code = 128 + number
                for worker in self._all():
                    worker.kill()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(now)
        if self._reload_wanted and self._may_reload():
            self._reload_wanted = False
            self._reload()

    def _stop(self, now: float) -> None:
        self._stopping = True
        self._manager.tell(STOPPING)
        for worker in self._all():
            worker.tell(Command.STOP, now)
        self._leaving = self._all()
        self._places, self._candidates = [], []
        self._sockets.close()  # whoever comes now goes elsewhere

    # What workers say, and when they die.

    def _hear(self, now: float) -> None:
        for worker in self._all():
            for word in worker.words():
                worker.heard_at = now
                if word is Report.READY:
                    worker.is_ready = self._was_ready = True
                elif word is Report.LEAVING:
                    self._let_leave(worker, now)

    def _let_leave(self, worker: Worker, now: float) -> None:
        """Somebody else has told it to end: another takes its place."""
        for place in self._places:
            if place.worker is worker:
                logger.warning("worker was told to end, and is replaced", extra={"worker": worker.pid})
                worker.tell(Command.HAND_OVER, now)
                self._leaving.append(worker)
                place.worker, place.start_at = None, now

    def _reap(self, now: float) -> None:
        for worker in self._all():
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                worker.exit_code = os.waitstatus_to_exitcode(status)
                worker.line.close()
                self._unburied.add(pid)
        for place in list(self._places):
            if place.worker is not None and place.worker.exit_code is not None:
                self._replace(place.worker, place, now)
        self._leaving = [worker for worker in self._leaving if worker.exit_code is None]

    def _replace(self, worker: Worker, place: WorkerSlot, now: float) -> None:
        place.vacate(now)
        if worker.exit_code and worker.exit_code > 0 and not self._was_ready:
            # It ended by itself, and none has ever served: whoever starts Headgate is told.
            self._code = CANNOT_START
            self._stop(now)
            return
        logger.error(
            "worker died",
            extra={
                "worker": worker.pid,
                "exit_code": worker.exit_code,
                "deaths_in_a_row": place.deaths,
                "next_start_in_s": round(place.start_at - now, 2),
            },
        )

    def _announce(self) -> None:
        """All workers are ready, for the first time."""
        serving = self._serving()
        if not self._is_announced and len(serving) == self._count and all(w.is_ready for w in serving):
            self._is_announced = True
            logger.info("serving", extra={"workers": [worker.pid for worker in serving]})
            self._manager.tell(READY)

    def _restart(self, now: float) -> None:
        for place in self._places:
            if place.worker is None and now >= place.start_at:
                place.worker = self._start(self._settings)
                if place.worker is None:
                    place.vacate(now)

    def _kill_overdue(self, now: float) -> None:
        for worker in self._leaving:
            if worker.kill_at is not None and now >= worker.kill_at:
                logger.error("worker is killed: it has not ended in time", extra={"worker": worker.pid})
                worker.kill_at = None
                worker.kill()

    def _bury(self) -> None:
        for pid in list(self._unburied):
            try:
                is_done = self._figures.bury(pid)
            except Exception:  # what it has counted is lost, and nothing else
                logger.exception("the figures of a dead worker cannot be kept", extra={"worker": pid})
                is_done = True
            if is_done:
                self._unburied.discard(pid)

    def _reassure(self, now: float) -> None:
        """Tell the service manager that all is well, unless a worker hangs."""
        period_s = self._manager.watchdog_s
        if period_s is None or now - self._reassured_at < period_s / 4:
            return
        silent_s = max(period_s, SILENT_S)
        if all(now - worker.heard_at < silent_s for worker in self._serving() if worker.is_ready):
            self._reassured_at = now
            self._manager.tell(ALIVE)

    # Workers with other settings.

    def _may_reload(self) -> bool:
        is_busy = bool(self._candidates) or len(self._leaving) + self._count > MAX_LEAVING
        return not (self._stopping or is_busy)

    def _reload(self) -> None:
        self._manager.reloading()
        try:
            settings = self._read(self._settings)
        except SettingsError as exc:
            self._refuse(exc.problems)
        except Exception as exc:  # whatever is wrong with a file, those that serve go on
            logger.exception("settings cannot be read")
            self._refuse([f"cannot be read: {type(exc).__name__}"])
        else:
            self._launch(settings)

    def _refuse(self, problems: Sequence[str]) -> None:
        for problem in problems:
            logger.error("reload refused; the former settings hold", extra={"problem": problem})
        self._manager.tell(READY)

    def _launch(self, settings: Settings) -> None:
        self._candidates_settings = settings
        self._candidates_by = time.monotonic() + START_S
        for _ in range(self._count):
            worker = self._start(settings, is_new=True)
            if worker is None:
                self._fail("no process could be made")
                return
            self._candidates.append(worker)

    def _promote(self, now: float) -> None:
        if not self._candidates:
            return
        if any(worker.exit_code is not None for worker in self._candidates):
            self._fail("a new worker ended; what it said is above")
        elif all(worker.is_ready for worker in self._candidates):
            self._take_places(now)
        elif now >= self._candidates_by:
            self._fail(f"the new workers were not ready within {START_S:g} s")

    def _fail(self, why: str) -> None:
        """The candidates will not do."""
        candidates, self._candidates = self._candidates, []
        for worker in candidates:
            if worker.exit_code is None:
                worker.kill()
                self._leaving.append(worker)
        self._refuse([why])

    def _take_places(self, now: float) -> None:
        before = self._serving()
        for worker in before:
            worker.tell(Command.HAND_OVER, now)
        self._leaving += before
        self._places = [WorkerSlot(worker) for worker in self._candidates]
        self._candidates = []
        self._settings = self._candidates_settings
        logs.set_up(self._settings.log)
        self._was_ready = self._is_announced = True
        logger.info("reloaded", extra={"workers": [worker.pid for worker in self._serving()]})
        self._manager.tell(READY)

    # Inside.

    def _start(self, settings: Settings, *, is_new: bool = False) -> Worker | None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            logger.error("no process can be made", extra={"why": exc.strerror})
            return None
        ours.setblocking(False)
        try:
            pid = os.fork()
        except OSError as exc:
            ours.close()
            theirs.close()
            logger.error("no process can be made", extra={"why": exc.strerror})
            return None
        if pid == 0:
            # The parent's end of a line is the parent's alone: see `proxy.workers.link`.
            for line in (ours, *(worker.line for worker in self._all())):
                line.close()
            os._exit(self._worked(settings, theirs, is_new=is_new))
        theirs.close()
        now = time.monotonic()
        return Worker(pid, ours, settings.drain_s, now, now)

    def _worked(self, settings: Settings, line: socket.socket, *, is_new: bool) -> int:
        """The worker's exit code; whatever happens, nothing of the parent's is done here."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # The parent alone decides; a terminal's signals come to all of its processes.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        try:
            self._work(settings, SupervisorLink(line), is_new)
        except SystemExit as exc:
            return exc.code if isinstance(exc.code, int) else 1
        except BaseException:
            logger.exception("worker failed")
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        return 0
