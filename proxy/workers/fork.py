"""Makes a worker: a fork of the supervisor, with a line between the two."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable

from proxy.settings.settings import Settings
from proxy.workers.fair_share import FairShares
from proxy.workers.link import SupervisorLink
from proxy.workers.worker import Worker

logger = logging.getLogger("headgate.workers")

Work = Callable[[Settings, SupervisorLink, bool], None]
"""The work of a worker in its own process, until it ends. Its arguments are the settings, the line to the
supervisor, and whether the settings are new, and not yet proved."""


def fork_worker(
    work: Work, settings: Settings, others: Iterable[Worker], shares: FairShares, *, is_new: bool
) -> Worker | None:
    """Start a worker; None, logged, if the system has no room for a process.

    Args:
        others: the workers there are. The new one closes its copies of their lines: see `link.py`.
        shares: of all processes. Whoever sees the worker's end gives its number back.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as exc:
        logger.error("no process can be made", extra={"why": exc.strerror})
        return None
    ours.setblocking(False)
    number = shares.take()
    try:
        pid = os.fork()
    except OSError as exc:
        ours.close()
        theirs.close()
        shares.give_back(number)
        logger.error("no process can be made", extra={"why": exc.strerror})
        return None
    if pid == 0:
        for line in (ours, *(worker.line for worker in others)):
            line.close()
        own = shares.of(number) if number is not None else []
        os._exit(_exit_code(work, settings, SupervisorLink(theirs, own), is_new=is_new))
    theirs.close()
    now = time.monotonic()
    return Worker(pid, ours, settings.drain_s, now, now, number)


def _exit_code(work: Work, settings: Settings, supervisor: SupervisorLink, *, is_new: bool) -> int:
    """The worker's whole life. Whatever happens, none of the supervisor's code runs in the worker."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # A terminal sends its signals to all processes; the supervisor alone acts on them.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        work(settings, supervisor, is_new)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        logger.exception("worker failed")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
