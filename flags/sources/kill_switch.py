"""The kill switch: a file that all processes of a machine watch."""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from flags.errors import KillSwitchError
from flags.sources.in_force import Condition
from flags.sources.kill_order import MAX_CHARS, KillOrder
from flags.sources.watcher import Watcher

_log = logging.getLogger("headgate.flags")


class KillSwitch:
    """Streaming off for every process of this machine: on while the file at `path` exists.

    `async with` makes the directory if need be, or raises KillSwitchError, and owns the task that watches.
    The process that is asked obeys at once, the others within `poll_s`. A directory that vanishes or cannot
    be read says nothing about the switch: it stays as it was last known, and `problem` says so.
    """

    def __init__(self, path: Path | str, *, poll_s: float = 0.25) -> None:
        self._path = Path(path)
        self.order: KillOrder | None = None
        """Who turned the switch on, and why; None while it is off, or while that cannot be read."""
        self._stamp: tuple[int, int, int] | None = None
        self._seen = False
        self._unshared = False  # engaged here, though the file could not be written
        self._condition = Condition(f"kill switch {self._path}")
        self._watcher = Watcher(self._look, poll_s)

    def __repr__(self) -> str:
        return f"<KillSwitch {self._path} engaged={self.engaged} problem={self.problem!r}>"

    async def __aenter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._note(self._status())
        except OSError as exc:
            raise KillSwitchError(self._path, f"cannot be watched: {exc.strerror}") from exc
        await self._watcher.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._watcher.__aexit__(*exc)

    @property
    def engaged(self) -> bool:
        return self._seen or self._unshared

    @property
    def problem(self) -> str | None:
        """The reason why the switch cannot be read now; None while it can."""
        return self._condition.problem

    def engage(self, reason: str, by: str = "") -> None:
        """Stop streaming. Raises KillSwitchError if others cannot be told; this process stops even then."""
        self._unshared = True
        order = KillOrder.given(reason, by, time.time())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._written(order):
                self._path.touch()  # this is the switch; the reason is for whoever asks
            status = self._path.lstat()
        except OSError as exc:
            self.order = order
            raise KillSwitchError(self._path, f"engaged in this process only: {exc.strerror}") from exc
        self._note(status, order)
        self._unshared = False

    def _written(self, order: KillOrder) -> bool:
        """True if the file has the order. A full disk has no room for it, and still takes an empty file."""
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            draft.write_text(order.written(), encoding="utf-8", errors="replace")
            draft.replace(self._path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            return False
        return True

    def release(self, by: str = "") -> None:
        """Let streaming be decided again. Raises KillSwitchError, and stays engaged, if the file stays."""
        try:
            # Without its directory the file is gone, but the others would hold on to what they knew.
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
        except OSError as exc:
            raise KillSwitchError(self._path, f"cannot be released: {exc.strerror}") from exc
        self._unshared = False
        self._note(None, KillOrder.given("", by, time.time()))

    def _look(self) -> None:
        try:
            self._note(self._status())
        except OSError as exc:
            self._condition.report(f"cannot be read: {exc.strerror}")
        else:
            self._condition.report(None)

    def _status(self) -> os.stat_result | None:
        """Of the file; None where there is none."""
        try:
            return self._path.lstat()
        except FileNotFoundError:
            self._path.parent.stat()  # raises if it is the directory that is missing
            return None

    def _note(self, status: os.stat_result | None, order: KillOrder | None = None) -> None:
        """Take over what the file says, and log each order once. `order`: it was given here."""
        stamp = None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        self._stamp, self._seen = stamp, status is not None
        self.order = None if status is None else order or self._read(status)
        said = order or self.order
        state = "released" if status is None else "engaged"
        _log.warning("kill switch %s: %s", self._path, state, extra=None if said is None else said.shown())

    def _read(self, status: os.stat_result) -> KillOrder | None:
        try:
            with self._path.open("rb") as file:
                text = file.read(2 * MAX_CHARS).decode(errors="replace")
        except OSError:
            return None
        return KillOrder.read(text, status.st_mtime)
