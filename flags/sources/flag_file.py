"""Flags from a file of Unleash client features, watched for changes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from flags.document import parse
from flags.errors import FlagDocumentError, FlagFileError
from flags.sources.source import FlagSource
from flags.sources.watcher import Watcher

SETTLED_NS = 50_000_000
"""Five ticks of the coarsest Linux file clock (10 ms): a file younger than this can change unseen."""

T = TypeVar("T")


class FlagFile(FlagSource):
    """Flags from a file of Unleash client features, watched for changes.

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
        what = f"flag file {self._path}"
        super().__init__(what, kill_flag=kill_flag, stale_s=stale_s, clock=clock)
        self._content: bytes | None = None
        self._stamp: tuple[int, int, int, int] | None = None
        self._watcher = Watcher(self._look, poll_s)

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

    async def once(self, ask: Callable[[Self], T]) -> T:
        """Instead of `async with`: what `ask` finds in the file as it is now. Raises FlagFileError."""
        try:
            self._refresh()
            return ask(self)
        finally:
            self._in_force.close()

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
