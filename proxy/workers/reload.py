"""New settings for a process that serves: what SIGHUP may change, and the workers that try it."""

import logging
import time
from collections.abc import Callable, Sequence

from proxy.errors import SettingsError
from proxy.settings.settings import Settings
from proxy.workers.systemd import READY, ServiceManager
from proxy.workers.worker import Worker

logger = logging.getLogger("headgate.workers")

START_S = 30.0
"""Seconds that new workers have until they serve; then the reload has failed."""


def addresses(settings: Settings) -> dict[str, str | None]:
    """The addresses at which the settings listen, by name."""
    model = settings.llm.listen if settings.llm is not None else None
    return {"listen": settings.listen, "admin": settings.admin, "llm.listen": model}


def needs_restart(now: Settings, then: Settings, *, switch_engaged: bool) -> list[str]:
    """The reason why a process with the first settings cannot change to the second. Pure.

    Args:
        switch_engaged: the local kill switch is on, by the file that the first settings name.
    """
    listens = addresses(then)
    problems = [
        f"{name}: the parent process listens on {before or 'no such port'}; only a restart can change that"
        for name, before in addresses(now).items()
        if listens[name] != before
    ]
    if switch_engaged and now.flags.kill_file != then.flags.kill_file:
        problems.append("flags.kill_file: cannot change while the kill switch is on, which would release it")
    return problems


class Reload:
    """Candidates: workers with new settings. They replace the present workers together, or not at all.

    Args:
        count: how many workers there are to be.
        settings: those in force.
        read: the settings as they are now, to replace those given. Raises SettingsError.
        start: starts a worker with new settings; None if no process can be made.
        discard: called with a candidate that was killed.
    """

    def __init__(
        self,
        count: int,
        settings: Settings,
        manager: ServiceManager,
        *,
        read: Callable[[Settings], Settings],
        start: Callable[[Settings], Worker | None],
        discard: Callable[[Worker], None],
    ) -> None:
        self._count = count
        self._manager = manager
        self._read = read
        self._start = start
        self._discard = discard
        self._deadline = 0.0
        self.candidates: list[Worker] = []
        self.settings = settings
        """The settings of the candidates."""

    def begin(self, settings: Settings) -> None:
        """Read the new settings, and start candidates with them; or log why the former settings hold.

        Args:
            settings: the former ones.
        """
        self._manager.notify_reloading()
        try:
            new = self._read(settings)
        except SettingsError as exc:
            self._refuse(exc.problems)
        except Exception as exc:  # whatever is wrong with a file, the present workers go on
            logger.exception("settings cannot be read")
            self._refuse([f"cannot be read: {type(exc).__name__}"])
        else:
            self._start_candidates(new)

    def _start_candidates(self, settings: Settings) -> None:
        self.settings = settings
        self._deadline = time.monotonic() + START_S
        for _ in range(self._count):
            worker = self._start(settings)
            if worker is None:
                self._fail("no process could be made")
                return
            self.candidates.append(worker)

    def take_ready(self, now: float) -> list[Worker]:
        """The candidates, once all of them are ready: they are the caller's from then on. Before, none."""
        if any(worker.exit_code is not None for worker in self.candidates):
            self._fail("a new worker ended; what it said is above")
        elif all(worker.is_ready for worker in self.candidates):
            ready, self.candidates = self.candidates, []
            return ready
        elif now >= self._deadline:
            self._fail(f"the new workers were not ready within {START_S:g} s")
        return []

    def _fail(self, why: str) -> None:
        candidates, self.candidates = self.candidates, []
        for worker in candidates:
            if worker.exit_code is None:
                worker.kill()
                self._discard(worker)
        self._refuse([why])

    def _refuse(self, problems: Sequence[str]) -> None:
        for problem in problems:
            logger.error("reload refused; the former settings hold", extra={"problem": problem})
        self._manager.notify(READY)
