"""Flags from a watched file, and a kill switch that all processes of a machine share.

Both read their files in the event loop's own thread. A look is one `stat` (microseconds), a change is a read
of a few kilobytes and a millisecond of engine. The price: keep both files on a local disk, since a network
mount that hangs would hang the loop. Flags from a server are in `unleash.py`.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from flags.arms import Placement
from flags.decision import FlagAnswer, FlagState
from flags.document import parse
from flags.errors import FlagDocumentError, FlagFileError, KillSwitchError
from flags.in_force import Condition, InForce
from flags.kill_order import MAX_CHARS, KillOrder

SETTLED_NS = 50_000_000
"""Five ticks of the coarsest Linux file clock (10 ms): a file younger than this can change unseen."""

_log = logging.getLogger("headgate.flags")

T = TypeVar("T")


class _Watcher:
    """Calls `look` every `every_s` seconds until its block is left. Owns its task."""

    def __init__(self, look: Callable[[], None], every_s: float) -> None:
        self._look = look
        self._every_s = every_s

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"headgate {self._look.__qualname__}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})  # not `await task`: that could not tell its end from our own

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._look()


class FlagFile:
    """Flags from a file of Unleash client features, watched for changes. A FlagState.

    `async with` reads the file, or raises FlagFileError, and owns the task that watches it. A file that
    breaks or vanishes later leaves the last good flags in force, which then grow old, and in the end stale.

    Args:
        must_be_good: if not, a file that is broken at the beginning raises nothing, and until it is mended
            there are no flags.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        must_be_good: bool = True,
        kill_flag: str = "headgate.kill",
        poll_s: float = 0.5,
        stale_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = Path(path)
        self._must_be_good = must_be_good
        self._clock = clock
        what = f"flag file {self._path}"
        self._in_force = InForce(what, kill_flag=kill_flag, stale_s=stale_s, clock=clock)
        self._content: bytes | None = None
        self._stamp: tuple[int, int, int, int] | None = None
        self._condition = Condition(what)
        self._watcher = _Watcher(self._look, poll_s)

    def __repr__(self) -> str:
        return f"<FlagFile {self._path} age_s={self.age_s:.1f} killed={self.killed} problem={self.problem!r}>"

    async def __aenter__(self) -> Self:
        if self._must_be_good:
            self._refresh()
        else:
            self._look()
        await self._watcher.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._watcher.__aexit__(*exc)
        finally:
            self._content = self._stamp = None
            self._in_force.close()

    async def verify(self, flags: Collection[str] = ()) -> list[str]:
        """Instead of `async with`: read the file once, log what is doubtful. Raises FlagFileError.

        Returns those of `flags` that it lacks.
        """
        return await self.once(lambda _: self._in_force.lacking(flags))

    async def once(self, ask: Callable[[Self], T]) -> T:
        """Instead of `async with`: what `ask` finds in the file as it is now. Raises FlagFileError."""
        try:
            self._refresh()
            return ask(self)
        finally:
            self._in_force.close()

    def placed(self, flag: str, context: Mapping[str, Any] | None) -> Placement | None:
        """A user's place in the flag's arms; None for a flag without arms."""
        return self._in_force.placed(flag, context)

    @property
    def problem(self) -> str | None:
        """The fault of the file now; None while it is good."""
        return self._condition.problem

    @property
    def age_s(self) -> float:
        """Seconds since the file was last seen to be good; infinite outside the block."""
        return self._in_force.age_s

    @property
    def stale(self) -> bool:
        return self._in_force.stale

    @property
    def killed(self) -> bool:
        return self._in_force.killed

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        """Ask one flag about one user. Raises TypeError for a context that is not Unicode text."""
        return self._in_force.evaluate(flag, context)

    def _look(self) -> None:
        try:
            self._refresh()
        except FlagFileError as exc:
            self._condition.report(exc.problem)
        except Exception as exc:  # noqa: BLE001 - a watcher that died would leave old flags in force, unseen
            self._condition.report(f"could not be checked: {type(exc).__name__}")
        else:
            self._condition.report(None)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            # A copy that keeps its time, and has the old size, still has a time of its own change.
            stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                self._take(self._path.read_bytes())
        except OSError as exc:
            raise FlagFileError(self._path, f"cannot be read: {exc.strerror}; put the file there") from exc
        # Written again within one tick of the file's clock, a file can keep its stamp: look inside once more.
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS
        self._stamp = stamp if settled else None
        self._in_force.confirm(self._clock())

    def _take(self, content: bytes) -> None:
        if content == self._content:
            return
        try:
            self._in_force.take(parse(content))
        except FlagDocumentError as exc:
            raise FlagFileError(self._path, exc.problem) from exc
        self._content = content


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
        self._watcher = _Watcher(self._look, poll_s)

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
        with suppress(OSError):
            draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            draft.write_text(order.written(), encoding="utf-8", errors="replace")
            draft.replace(self._path)
            return True
        return False

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


class FlagSource(FlagState, Protocol):
    """A source of flags, with what it says of itself beside its answers."""

    @property
    def age_s(self) -> float:
        """Seconds since the flags were last known to be right; infinite if they never were."""

    @property
    def problem(self) -> str | None:
        """The fault of the source now; None while it is good."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The one object that `decide` asks. The caller owns both parts."""

    source: FlagState
    switch: KillSwitch

    @property
    def killed(self) -> bool:
        return self.source.killed or self.switch.engaged

    @property
    def stale(self) -> bool:
        return self.source.stale

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        return self.source.evaluate(flag, context)
