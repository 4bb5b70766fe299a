"""The copy in the store of one run: what to write next, and what the store's reply means. No I/O.

Each write names the number of the last entry that the store should have. The store has another number after a
reply was lost (the copy goes on from there), after the store has lost its memory (the copy starts over), or
after another replica has taken this one for dead (the copy is that replica's, and is left alone).
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from proxy.replicas.store.records import (
    LIVE_TTL_MS,
    PART_BYTES,
    Keys,
    StoredEnd,
    StoredMeta,
    StoredRequest,
    entry_plain,
)
from proxy.replicas.store.scripts import APPEND, DONE, FENCED, GONE, PUT_PART, REFRESH, RESTORE, result_of
from proxy.replicas.store.sealing import Box, Unsealable
from proxy.replicas.store.valkey import Argument, Command, is_wrong_type
from proxy.runs.recovery import MAX_TIMES
from proxy.runs.run import Run
from proxy.text.event_log import EventLog

REFRESH_S = 20.0
"""Seconds between two writes of a run that has nothing new, so that its records stay."""


class CopyState(Enum):
    """The state of a copy after a write."""

    BEHIND = auto()
    CURRENT = auto()
    COMPLETE = auto()
    """The store has the whole log, and the run's end."""
    LOST = auto()
    """Another replica has ended the run, and its viewers there have seen that end."""
    TAKEN_OVER = auto()
    """Another replica executes the run."""


@dataclass(slots=True)
class CopyWrite:
    """The commands for one run in one round trip, and where the copy stands once they are executed."""

    seq: int
    commands: list[Command] = field(default_factory=list)
    size_bytes: int = 0
    request: bytes = b""
    """The stored request, sealed anew, if the call was sent once more."""
    times_asked: int = 0
    """As in `request`."""
    has_job: bool = False
    """As in `request`."""
    part_of: int | None = None
    """The entry whose parts these are; None: these are entries."""
    parts: list[str] = field(default_factory=list)
    has_last_part: bool = False
    ends: bool = False


@dataclass(slots=True, eq=False, weakref_slot=True)
class RunCopy:
    """One run, and how much of it is stored.

    Args:
        ttl_ms: how long the records stay after the run's end.
    """

    id: str
    log: EventLog
    run: "weakref.ref[Run] | Run"
    """The run, by a weak reference until its first event: a run that was claimed and is not executed has no
    owner."""
    stored: StoredMeta
    times_asked: int
    """The number of times that the call was sent, as the stored request has it, if there is one."""
    has_job: bool
    """True if the stored request has the job that the upstream has accepted."""
    box: Box
    keys: Keys
    ttl_ms: int
    refreshed_at: float
    has_meta: bool = False
    wake: Callable[[], None] = lambda: None
    seq: int = 0
    """Entries that are stored."""
    parts: list[str] = field(default_factory=list)
    """Keys of parts that are stored."""
    complete: set[int] = field(default_factory=set)
    """Entries all of whose parts are stored; 0 is the answer."""
    next_part: int = 0
    end: bytes | None = None
    ended_at: float = 0.0
    is_in_doubt: bool = False
    """True if another replica may have taken the run over. False once the store has said that none has."""
    has_fault: bool = False

    @property
    def known_run(self) -> Run | None:
        return self.run() if isinstance(self.run, weakref.ref) else self.run

    @property
    def executed(self) -> Run:
        assert isinstance(self.run, Run)
        return self.run

    @property
    def join_keys(self) -> list[str]:
        return self.stored.meta.join_keys

    @property
    def may_be_asked_again(self) -> bool:
        """True if another replica may send its call once more."""
        run = self.known_run
        return run is not None and run.route.settings.replay == "safe" and self.times_asked < MAX_TIMES

    @property
    def keys_until_end(self) -> list[str]:
        """The join keys that are deleted when the run ends; the others stay."""
        return self.join_keys[:1]

    @property
    def size_bytes(self) -> int:
        answer = self.run.answer if isinstance(self.run, Run) else None
        return self.log.size_bytes + (len(answer.body) if answer is not None else 0)

    @property
    def own_keys(self) -> list[str]:
        """Names of all its records, except the join keys."""
        return [self.keys.run(self.id), self.keys.log(self.id), self.keys.end(self.id), *self.parts]

    # What to write.

    def next_write(self, room: int, now: float) -> CopyWrite:
        """The next commands, of about `room` bytes. The copy stands where it stood until `apply`."""
        write = CopyWrite(self.seq)
        names = [self.keys.run(self.id), self.keys.request(self.id), *self.join_keys]
        if not self.has_meta:
            command = RESTORE(names, LIVE_TTL_MS, self.stored.value, self._sealed_request(), self.id)
            write.commands.append(command)
        if now - self.refreshed_at >= REFRESH_S:
            names = [*self.join_keys, *names[:2], self.keys.log(self.id), *self.parts]
            write.commands.append(REFRESH(names, LIVE_TTL_MS, len(self.join_keys), self.id))
            self.refreshed_at = now
        sealed = self._add_entries(write, room)
        if write.part_of is None:
            write.commands.append(self._append(write, sealed))
        return write

    def _append(self, write: CopyWrite, sealed: Sequence[Argument]) -> Command:
        names = [
            self.keys.run(self.id),
            self.keys.log(self.id),
            self.keys.end(self.id),
            self.keys.request(self.id),
        ]
        if write.ends:
            names += [*self.join_keys, *self.parts]
        end = self.end if write.ends and self.end is not None else b""
        # A client that repeats a request which failed wants a new run, not the old failure.
        failed = write.ends and self.executed.failure is not None
        deleted = len(self.join_keys) if failed else len(self.keys_until_end)
        run = self.known_run
        if run is not None and self.is_request_old(run):
            # A replica that takes the run over may send the call so much less often.
            write.request, write.times_asked = self._sealed_request(), run.times_asked
            write.has_job = run.job is not None
        position = (self.stored.fence, self.seq, LIVE_TTL_MS, self.ttl_ms)
        counts = (deleted, len(self.join_keys) - deleted)
        return APPEND(names, *position, end, write.request, *counts, self.id, *sealed)

    def is_request_old(self, run: Run) -> bool:
        """True if the stored request, if there is one, lacks what has become of the call."""
        return run.times_asked > self.times_asked or (run.job is not None and not self.has_job)

    def _add_entries(self, write: CopyWrite, room: int) -> list[Argument]:
        """The next entries, sealed; none if the write has parts of a large one."""
        sealed: list[Argument] = []
        for entry in self.log.after(self.seq):
            if write.size_bytes and write.size_bytes + len(entry.wire) > room:
                break
            large: tuple[int, bytes] | None = None
            if len(entry.wire) > PART_BYTES and entry.seq not in self.complete:
                large = entry.seq, entry.wire
            elif entry.is_terminal:
                run = self.executed
                end = StoredEnd.of(run.failure, run.answer)
                if end.parts and 0 not in self.complete:
                    assert run.answer is not None
                    large = 0, run.answer.body
                else:
                    self.end = end.sealed(self.box)
                    write.size_bytes += len(self.end)
                    write.ends = True
            if large is not None:
                if not sealed:
                    self._add_parts(write, *large, room)
                break
            sealed.append(self.box.seal("entry", entry.seq, entry_plain(entry)))
            write.seq = entry.seq
            write.size_bytes += min(len(entry.wire), PART_BYTES)
        return sealed

    def _add_parts(self, write: CopyWrite, seq: int, value: bytes, room: int) -> None:
        write.part_of = seq
        index = self.next_part
        run_key, fence = self.keys.run(self.id), self.stored.fence
        while index * PART_BYTES < len(value) and (not write.parts or write.size_bytes < room):
            part = value[index * PART_BYTES : (index + 1) * PART_BYTES]
            name = self.keys.part(self.id, seq, index)
            sealed = self.box.seal(f"part {seq}", index, part)
            write.commands.append(PUT_PART([run_key, name], fence, LIVE_TTL_MS, sealed))
            write.parts.append(name)
            write.size_bytes += len(part)
            index += 1
        write.has_last_part = index * PART_BYTES >= len(value)

    def _sealed_request(self) -> bytes:
        """The request as it is to be stored; empty if it is not."""
        run = self.known_run
        if run is None or run.log.ended or not self.stored.meta.has_request:
            return b""
        request = StoredRequest.of(run)
        return (request.sealed(self.box) if request is not None else None) or b""

    # What a reply means.

    def apply(self, write: CopyWrite, replies: Sequence[Any]) -> CopyState:
        """Move the copy to where the store says that it stands.

        Args:
            write: the last one that `next_write` returned.
            replies: one for each of its commands.
        """
        if any(is_wrong_type(reply) for reply in replies):
            return CopyState.LOST
        results = [result_of(reply) for reply in replies]
        for result, _, value in results:
            if result == FENCED:
                return self._fenced(value)
        self.has_meta = True
        if self.is_in_doubt:
            self.is_in_doubt = False
            self.log.wake()
        result, last_seq, value = results[-1]
        if write.part_of is None or result != DONE:
            return self._appended(write, result, last_seq, value)
        self.parts += write.parts
        self.next_part += len(write.parts)
        if write.has_last_part:
            self.complete.add(write.part_of)
            self.next_part = 0
        return CopyState.BEHIND

    def _appended(self, write: CopyWrite, result: int, last_seq: int, value: bytes) -> CopyState:
        is_complete = False
        if result == DONE:
            self.seq = write.seq
            is_complete = write.ends
            self.times_asked = max(self.times_asked, write.times_asked)
            self.has_job = self.has_job or write.has_job
        elif result == GONE:
            self.has_meta = False
            self._start_over()
        elif last_seq == 0:
            self._start_over()
        elif self._is_own(last_seq, value):
            self.seq = last_seq
            is_complete = self.log.ended and last_seq == len(self.log)
        else:
            return CopyState.LOST
        if is_complete:
            return CopyState.COMPLETE
        is_current = self.seq >= len(self.log) and self.has_meta
        return CopyState.CURRENT if is_current else CopyState.BEHIND

    def _start_over(self) -> None:
        """Note that the store has nothing of the log."""
        self.seq = self.next_part = 0
        self.parts.clear()
        self.complete.clear()

    def _is_own(self, seq: int, value: bytes) -> bool:
        """True if this process has written the store's last entry."""
        if seq > len(self.log):
            return False
        try:
            return self.box.open("entry", seq, value) == entry_plain(self.log.after(seq - 1)[0])
        except Unsealable:
            return False

    def _fenced(self, value: bytes) -> CopyState:
        """The run's id has another meta: another replica has taken the run over, while this one was held up;
        or the store has lost its memory, and another run has got the id.
        """
        mine = self.stored.meta
        try:
            meta = StoredMeta.open(self.box, value).meta
        except Unsealable:
            return CopyState.LOST
        if meta.principal != mine.principal or meta.generation <= mine.generation or self.known_run is None:
            return CopyState.LOST
        return CopyState.TAKEN_OVER
