"""Leases, by which one controller writes at a time: the port, and the lease for one machine.

`kubernetes_lease` has the one for a cluster. A lease is held for a time. Each acquisition has a higher number
than all before it, the fence. Before each write the holder calls `check`, which reads what is stored, not
what the process remembers: a process that was stopped for minutes finds that it is no longer the writer.

What no lease can do: Unleash does not know fences. A process that is stopped between `check` and the write,
for longer than it has left, still writes when it wakes up. Ask for as much time as the write may take
(`for_s`); the rest is left to the flag's own event ids, by which such a write is refused if the new holder
has changed anything.
"""

import asyncio
import fcntl
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import orjson

from flags.errors import LeaseError, LeaseLost

TTL_S = 30.0
"""Seconds that a lease lasts without renewal, and so the time without a writer after its holder was
killed."""

LOCK_WAIT_S = 1.0
LOCK_PAUSE_S = 0.01
"""Waiting for the file's lock, which is held for a write of some bytes; longer is an error."""


@dataclass(frozen=True, slots=True)
class Fence:
    """One acquisition."""

    number: int
    """Higher than that of every acquisition before."""
    holder: str


class Lease(Protocol):
    """Raises LeaseError where the holder is not known; then nothing may be written."""

    async def acquire(self) -> Fence | None:
        """Try to become the holder; None while somebody else is. Call it every few seconds.

        A holder that calls it gets a new fence, and loses the one before.
        """

    async def renew(self, fence: Fence) -> None:
        """Hold it for a whole term from now. Raises LeaseLost if it was lost, or has run out."""

    async def release(self, fence: Fence) -> None:
        """Let others have it at once. Does nothing if it was lost."""

    async def check(self, fence: Fence, *, for_s: float = 0.0) -> None:
        """Raises LeaseLost unless it is held, and will be for `for_s` seconds without renewal."""


def unique_holder() -> str:
    """A name that no other process ever has, so that a restarted process is another holder."""
    return f"{os.uname().nodename}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class _Term:
    """The content of the file: who has the lease, and until when."""

    number: int
    holder: str
    """"" after it was released."""
    expires_s: float
    ttl_s: float

    def is_held(self, now_s: float) -> bool:
        # A term that ends later than any can was written before the clock was set back.
        return bool(self.holder) and now_s < self.expires_s <= now_s + self.ttl_s


class FileLease:
    """A file on a local disk that all controllers of a machine see. A Lease. Holds nothing open.

    The number is on the disk before `acquire` returns, so it grows through crashes too. A holder that was
    killed keeps the lease until it runs out.

    Args:
        path: of the file; beside it is `.lock`. Without the file, numbers begin again with 1.
        ttl_s: the same for all controllers.
        clock: Unix time. Set forward, it lets others have the lease too early, which its holder notices at
            its next `check`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        ttl_s: float = TTL_S,
        holder: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path)
        self._ttl_s = ttl_s
        self._holder = holder or unique_holder()
        self._clock = clock

    def __repr__(self) -> str:
        return f"<FileLease {self._path} {self._holder}>"

    async def acquire(self) -> Fence | None:
        async with self._locked():
            term = self._load()
            if term.holder != self._holder and term.is_held(self._clock()):
                return None
            term = self._held(term.number + 1)
            self._store(term)
        return Fence(term.number, term.holder)

    async def renew(self, fence: Fence) -> None:
        async with self._locked():
            self._refuse_lost(fence, 0.0)
            self._store(self._held(fence.number))

    async def release(self, fence: Fence) -> None:
        async with self._locked():
            term = self._load()
            if (term.number, term.holder) == (fence.number, fence.holder):
                self._store(replace(term, holder=""))

    async def check(self, fence: Fence, *, for_s: float = 0.0) -> None:
        async with self._locked():
            self._refuse_lost(fence, for_s)

    def _held(self, number: int) -> _Term:
        return _Term(number, self._holder, self._clock() + self._ttl_s, self._ttl_s)

    def _refuse_lost(self, fence: Fence, for_s: float) -> None:
        term, now_s = self._load(), self._clock()
        if (term.number, term.holder) != (fence.number, fence.holder):
            who = term.holder or "nobody"
            raise LeaseLost(f"lease {self._path}: {who} has it, with number {term.number}")
        if not term.is_held(now_s) or term.expires_s - now_s < for_s:
            raise LeaseLost(f"lease {self._path}: it has run out, or has less than {for_s:g} s left")

    def _load(self) -> _Term:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return _Term(0, "", 0.0, 0.0)
        except OSError as exc:
            raise LeaseError(f"lease {self._path}: cannot be read: {exc.strerror}") from exc
        try:
            fields = orjson.loads(content)
            return _Term(
                int(fields["number"]),
                str(fields["holder"]),
                float(fields["expires_s"]),
                float(fields["ttl_s"]),
            )
        except (ValueError, KeyError, TypeError) as exc:
            problem = "is no lease; see that no controller runs, and remove it"
            raise LeaseError(f"lease {self._path}: {problem}") from exc

    def _store(self, term: _Term) -> None:
        draft = self._path.with_name(f".{self._path.name}.draft")  # one is enough: the lock is held
        try:
            with draft.open("wb") as file:
                file.write(orjson.dumps(asdict(term)))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as exc:
            raise LeaseError(f"lease {self._path}: cannot be written: {exc.strerror}") from exc

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Hold the file's lock, which ends with the process that has it."""
        lock = self._open_lock()
        try:
            for _ in range(int(LOCK_WAIT_S / LOCK_PAUSE_S)):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(LOCK_PAUSE_S)
            else:
                raise LeaseError(
                    f"lease {self._path}: another process has been looking for {LOCK_WAIT_S:g} s"
                )
            yield
        finally:
            os.close(lock)

    def _open_lock(self) -> int:
        path = self._path.with_name(f"{self._path.name}.lock")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            problem = f"cannot be locked: {exc.strerror}; make its directory"
            raise LeaseError(f"lease {self._path}: {problem}") from exc
