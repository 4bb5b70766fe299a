"""Copies the runs of this process to the store, in the background. Their logs in memory are the truth and the
queue: a store that is down makes the copy late, never the run.

One task copies all runs. A round trip carries the news of every run that has some, up to `ROUND_BYTES`; each
run's news are one call of a script that says where the copy should stand. It stands elsewhere after a reply
was lost (then it is taken up from there), after the store has lost its memory (then it is written again, from
the start), or when another replica has declared this one dead (then the copy is theirs, and is left alone; so
is the run, if they have taken it over).
"""

import asyncio
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.lease import ReplicaLease
from proxy.replicas.records import (
    ABANDON,
    APPEND,
    DONE,
    FENCED,
    GONE,
    PART_BYTES,
    PUT_PART,
    REFRESH,
    RESTORE,
    Keys,
    StoredEnd,
    StoredMeta,
    entry_plain,
    said,
)
from proxy.replicas.sealing import Box, Unsealable
from proxy.replicas.stored_requests import StoredRequest
from proxy.replicas.valkey import Argument, Command, Health, Link, StoreBusy, StoreDown, is_wrong_type
from proxy.runs.recovery import MAX_TIMES
from proxy.runs.run import Run
from proxy.text.event_log import EventLog

logger = logging.getLogger("headgate.event_log")

PAUSE_S = 0.01
"""Between a run's news and the round trip that carries it: so 100 runs share one. Late by that much, a text
still is at a viewer elsewhere in a tenth of a second."""

ROUND_BYTES = 1024 * 1024
"""About the most that one round trip carries. A large answer takes several, and others have their turn."""

ROUND_S = 2.0
"""The most that a round trip may take; nobody waits for it."""

LIVE_TTL_S = 90.0
"""How long what is stored of a run outlives the last word of the replica that executes it."""

REFRESH_S = 20.0
"""How often that word is said."""

BACKLOG_BYTES = 64 * 1024 * 1024
"""Ended runs that wait for a store that is down, in bytes of their logs and answers; the oldest go first."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class RunCopy:
    """One run and how far its copy is."""

    id: str
    log: EventLog
    run: "weakref.ref[Run] | Run"
    """Weak until its first event: one that was claimed but never executed is nobody's."""
    stored: StoredMeta
    times_asked: int
    """As in the order that is stored, if there is one."""
    box: Box
    has_meta: bool
    refreshed_at: float
    wake: Callable[[], None] = lambda: None
    seq: int = 0
    """Entries that are stored."""
    parts: list[str] = field(default_factory=list)
    """Keys of parts that are stored."""
    whole: set[int] = field(default_factory=set)
    """Entries all of whose parts are stored; 0 is the answer."""
    next_part: int = 0
    end: bytes | None = None
    ended_at: float = 0.0
    is_done: bool = False
    is_in_doubt: bool = False
    """Whether another replica may have taken the run over: until the store has said that none has."""
    has_fault: bool = False

    @property
    def known_run(self) -> Run | None:
        return self.run() if isinstance(self.run, weakref.ref) else self.run

    @property
    def executed(self) -> Run:
        assert isinstance(self.run, Run)
        return self.run

    @property
    def same(self) -> list[str]:
        return self.stored.meta.same

    @property
    def going(self) -> list[str]:
        """The keys it is joined by that go with its end; the others stay."""
        return self.same[:1]

    @property
    def size_bytes(self) -> int:
        answer = self.run.answer if isinstance(self.run, Run) else None
        return self.log.size_bytes + (len(answer.body) if answer is not None else 0)

    def begin_again(self) -> None:
        """Nothing of the log is stored, as it turned out."""
        self.seq = self.next_part = 0
        self.parts.clear()
        self.whole.clear()


@dataclass(slots=True)
class _Step:
    """What a round trip carries of one run, and where its copy stands after that."""

    copy: RunCopy
    commands: list[Command]
    size_bytes: int
    restores: bool = False
    order: bytes = b""
    """A new one, for one call more; in `times_asked`, how many."""
    times_asked: int = 0
    seq: int = 0
    part_of: int | None = None
    """Set if these are parts of this entry, and not entries."""
    parts: list[str] = field(default_factory=list)
    last_parts: bool = False
    ends: bool = False


class Mirror:
    """All copies of this process."""

    def __init__(
        self,
        link: Link,
        health: Health,
        lease: ReplicaLease,
        keys: Keys,
        ttl_s: float,
        on_fault: Callable[[Run], None],
        on_taken: Callable[[Run], None],
    ) -> None:
        self._link = link
        self._health = health
        self._lease = lease
        self._keys = keys
        self._ttl_ms = int(ttl_s * 1000)
        self._on_fault = on_fault
        self._on_taken = on_taken
        self._copies: dict[str, RunCopy] = {}
        self._dirty: dict[str, None] = {}
        self._abandoned: dict[str, Command] = {}
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # What is copied.

    def prepare(self, run: Run, stored: StoredMeta, box: Box) -> RunCopy:
        """A copy of which nothing is stored yet."""
        now = self._loop.time()
        return RunCopy(run.id, run.log, weakref.ref(run), stored, run.times_asked, box, False, now)

    def go_on(self, run: Run, copied: FollowedRun) -> None:
        """Copy a run from now on that was taken over; what there is of its log is stored."""
        copy = self.prepare(run, copied.stored, copied.box)
        copy.seq = len(copied.log)
        copy.parts = list(copied.parts)
        self.add(copy, claimed=True)

    def add(self, copy: RunCopy, *, claimed: bool) -> None:
        """Copy a run from now on."""
        run = copy.known_run
        assert run is not None
        copy.has_meta = claimed
        there = weakref.ref(copy)  # a log that is in a cycle with its copy would outlive its run
        copy.wake = lambda: self._woken(there())
        copy.run = weakref.ref(run, lambda _: self._never_begun(there()))
        self._copies[copy.id] = copy
        copy.log.subscribe(copy.wake)
        if copy.stored.meta.has_order:
            copy.log.doubt = lambda: self._doubts(there())
        if not claimed:
            self.fault(copy)
            self._mark(copy.id)
        if len(copy.log):
            copy.wake()

    def abandon(self, copy: RunCopy) -> None:
        """It is not executed after all."""
        self._remove(copy)
        names = [self._keys.run(copy.id), self._keys.order(copy.id), *copy.same]
        command = ABANDON(names, copy.stored.value, copy.id)
        self._abandoned[copy.id] = command
        self._news.set()

    def replaceable(self, key: str) -> str:
        """The id of the run of this process that has ended and may still have this key; or empty."""
        for copy in self._copies.values():
            if copy.log.ended and key in copy.going:
                return copy.id
        return ""

    def is_in_doubt(self, run_id: str) -> bool:
        """Whether another replica may have taken over a run of this process, as far as the store has said."""
        copy = self._copies.get(run_id)
        return copy is not None and copy.is_in_doubt

    def has_order(self, run_id: str) -> bool:
        """Whether the store has all that is needed to go on with a run of this process."""
        copy = self._copies.get(run_id)
        return (
            copy is not None
            and copy.has_meta
            and copy.stored.meta.has_order
            and not copy.log.ended
            and copy.times_asked < MAX_TIMES
        )

    def knows(self, run_id: str) -> bool:
        return run_id in self._copies

    def look_again(self) -> None:
        """The store may have lost what it had, or others may have taken this process for dead."""
        for copy in self._copies.values():
            copy.is_in_doubt = copy.stored.meta.has_order
            self._mark(copy.id)

    def refresh(self) -> None:
        """Say of runs that are silent that they live."""
        due = self._loop.time() - REFRESH_S
        for copy in self._copies.values():
            if copy.refreshed_at < due:
                self._mark(copy.id)

    def fault(self, copy: RunCopy) -> None:
        """Count that a run is not copied as it should be; once, and while it can make a difference to it."""
        run = copy.known_run
        if run is not None and not copy.has_fault and not copy.log.ended:
            copy.has_fault = True
            self._on_fault(run)

    # The task.

    async def mirror(self) -> None:
        """Copy what is new, for ever."""
        while True:
            await self._news.wait()
            await asyncio.sleep(PAUSE_S)
            self._news.clear()
            try:
                while self._dirty or self._abandoned:
                    await self._round()
            except StoreBusy:
                await asyncio.sleep(PAUSE_S)
            except StoreDown:
                self._wait_for_the_store()
                await self._health.up.wait()

    async def flush(self) -> None:
        """Copy what is left; for the end, when no task does it."""
        while self._dirty or self._abandoned:
            await self._round()

    async def _round(self) -> None:
        abandoned, self._abandoned = self._abandoned, {}
        steps: list[_Step] = []
        room = ROUND_BYTES
        for run_id in list(self._dirty):
            if room <= 0:
                break
            del self._dirty[run_id]
            copy = self._copies.get(run_id)
            if copy is None:
                continue
            try:
                step = self._step(copy, room)
            except Exception:  # one run that cannot be copied must not keep the others from it
                logger.exception("run not copied", extra={"run": copy.id})
                self._remove(copy)
                continue
            steps.append(step)
            room -= step.size_bytes
        commands = [command for step in steps for command in step.commands]
        try:
            replies = await self._link.call(*abandoned.values(), *commands) if abandoned or commands else []
        except BaseException:
            self._abandoned = abandoned | self._abandoned
            for step in steps:
                self._mark(step.copy.id)
            raise
        answers = iter(replies[len(abandoned) :])
        for step in steps:
            self._settle(step, [next(answers) for _ in step.commands])

    # One step of one run.

    def _step(self, copy: RunCopy, room: int) -> _Step:
        now = self._loop.time()
        step = _Step(copy, [], 0, seq=copy.seq)
        run_key, order_key, same = self._keys.run(copy.id), self._keys.order(copy.id), copy.same
        ttl_ms = int(LIVE_TTL_S * 1000)
        if not copy.has_meta:
            step.restores = True
            names = [run_key, order_key, *same]
            step.commands.append(RESTORE(names, ttl_ms, copy.stored.value, _order(copy), copy.id))
        if now - copy.refreshed_at >= REFRESH_S:
            names = [*same, run_key, order_key, self._keys.log(copy.id), *copy.parts]
            step.commands.append(REFRESH(names, ttl_ms, len(same), copy.id))
            copy.refreshed_at = now
        sealed = self._entries(copy, step, room)
        if step.part_of is None:
            keys = [run_key, self._keys.log(copy.id), self._keys.end(copy.id), order_key]
            if step.ends:
                keys += [*same, *copy.parts]
            end = copy.end if step.ends and copy.end is not None else b""
            # Who repeats a request that has failed wants it done, and not to be told again.
            failed = step.ends and copy.executed.failure is not None
            going = len(same) if failed else len(copy.going)
            run = copy.known_run
            if run is not None and run.times_asked > copy.times_asked:
                # Whoever takes the run over may send the call so much less often.
                step.order, step.times_asked = _order(copy), run.times_asked
            where = (copy.stored.fence, copy.seq, ttl_ms, self._ttl_ms)
            counts = (going, len(same) - going)
            step.commands.append(APPEND(keys, *where, end, step.order, *counts, copy.id, *sealed))
        return step

    def _entries(self, copy: RunCopy, step: _Step, room: int) -> list[Argument]:
        """The next entries, sealed; or none, and the step has parts of one that is large."""
        sealed: list[Argument] = []
        for entry in copy.log.after(copy.seq):
            if step.size_bytes and step.size_bytes + len(entry.wire) > room:
                break
            large: tuple[int, bytes] | None = None
            if len(entry.wire) > PART_BYTES and entry.seq not in copy.whole:
                large = entry.seq, entry.wire
            elif entry.is_terminal:
                run = copy.executed
                end = StoredEnd.of(run.failure, run.answer)
                if end.parts and 0 not in copy.whole:
                    assert run.answer is not None
                    large = 0, run.answer.body
                else:
                    copy.end = end.sealed(copy.box)
                    step.size_bytes += len(copy.end)
                    step.ends = True
            if large is not None:
                if not sealed:
                    self._parts(copy, step, *large, room)
                break
            sealed.append(copy.box.seal("entry", entry.seq, entry_plain(entry)))
            step.seq = entry.seq
            step.size_bytes += min(len(entry.wire), PART_BYTES)
        return sealed

    def _parts(self, copy: RunCopy, step: _Step, seq: int, value: bytes, room: int) -> None:
        ttl_ms = int(LIVE_TTL_S * 1000)
        step.part_of = seq
        index = copy.next_part
        while index * PART_BYTES < len(value) and (not step.parts or step.size_bytes < room):
            part = value[index * PART_BYTES : (index + 1) * PART_BYTES]
            name = self._keys.part(copy.id, seq, index)
            sealed = copy.box.seal(f"part {seq}", index, part)
            step.commands.append(PUT_PART([self._keys.run(copy.id), name], copy.stored.fence, ttl_ms, sealed))
            step.parts.append(name)
            step.size_bytes += len(part)
            index += 1
        step.last_parts = index * PART_BYTES >= len(value)

    def _doubts(self, copy: RunCopy | None) -> bool:
        """Whether what is new in a log should not be shown yet. A store that is down takes over nothing."""
        if copy is None:
            return False
        may_be_lost = copy.is_in_doubt or self._lease.may_be_lost(self._loop.time())
        return may_be_lost and self._health.up.is_set()

    def _settle(self, step: _Step, replies: Sequence[Any]) -> None:
        copy = step.copy
        if copy.id not in self._copies:
            return
        if any(is_wrong_type(reply) for reply in replies):
            self._lose(copy)
            return
        told = [said(reply) for reply in replies]
        for what, _, value in told:
            if what == FENCED:
                self._fenced(copy, value)
                return
        copy.has_meta = True
        if copy.is_in_doubt:
            copy.is_in_doubt = False
            copy.log.wake()
        if step.part_of is not None and told[-1][0] == DONE:
            copy.parts += step.parts
            copy.next_part += len(step.parts)
            if step.last_parts:
                copy.whole.add(step.part_of)
                copy.next_part = 0
            self._mark(copy.id)
        else:
            self._appended(step, *told[-1])

    def _appended(self, step: _Step, what: int, at: int, value: bytes) -> None:
        copy = step.copy
        if what == DONE:
            copy.seq = step.seq
            copy.is_done = step.ends
            copy.times_asked = max(copy.times_asked, step.times_asked)
        elif what == GONE:
            copy.has_meta = False
            copy.begin_again()
        elif at == 0:
            copy.begin_again()
        elif self._is_ours(copy, at, value):
            copy.seq = at
            copy.is_done = copy.log.ended and at == len(copy.log)
        else:
            self._lose(copy)
            return
        if copy.is_done:
            self._remove(copy)
        elif copy.seq < len(copy.log) or not copy.has_meta:
            self._mark(copy.id)

    def _is_ours(self, copy: RunCopy, seq: int, value: bytes) -> bool:
        if seq > len(copy.log):
            return False
        try:
            return copy.box.open("entry", seq, value) == entry_plain(copy.log.after(seq - 1)[0])
        except Unsealable:
            return False

    def _lose(self, copy: RunCopy) -> None:
        """Another replica has ended it: its viewers were told so, and that cannot be taken back."""
        logger.warning("run ended elsewhere", extra={"run": copy.id})
        self.fault(copy)
        self._remove(copy)

    def _fenced(self, copy: RunCopy, value: bytes) -> None:
        """The run's name has another meta: another replica has taken the run over, while this one was held
        up; or the store has lost its memory, and another run has got this one's name.
        """
        try:
            generation = StoredMeta.open(copy.box, value).meta.generation
        except Unsealable:
            generation = 0
        run = copy.known_run
        if generation <= copy.stored.meta.generation or run is None:
            self._lose(copy)
            return
        logger.warning("run is another replica's now", extra={"run": copy.id})
        self._remove(copy)
        copy.log.doubt = lambda: True
        self._on_taken(run)

    # Inside.

    def _mark(self, run_id: str) -> None:
        self._dirty[run_id] = None
        self._news.set()

    def _never_begun(self, copy: RunCopy | None) -> None:
        if copy is not None:
            self.abandon(copy)

    def _woken(self, copy: RunCopy | None) -> None:
        if copy is None:
            return
        if isinstance(copy.run, weakref.ref):
            run = copy.run()
            if run is None or not (len(copy.log) or run.times_asked > copy.times_asked):
                return
            copy.run = run
        if copy.log.ended:
            copy.ended_at = self._loop.time()
        self._mark(copy.id)

    def _remove(self, copy: RunCopy) -> None:
        copy.log.unsubscribe(copy.wake)
        copy.log.doubt = lambda: False
        if self._copies.get(copy.id) is copy:
            del self._copies[copy.id]
        self._dirty.pop(copy.id, None)

    def _wait_for_the_store(self) -> None:
        for copy in list(self._copies.values()):
            self.fault(copy)
        self.bound_backlog()

    def bound_backlog(self) -> None:
        """Runs that have ended are not kept for ever for a store that does not come back."""
        ended = [copy for copy in self._copies.values() if copy.log.ended]
        over = sum(copy.size_bytes for copy in ended) - BACKLOG_BYTES
        oldest = self._loop.time() - self._ttl_ms / 1000
        for copy in ended:
            if over <= 0 and copy.ended_at > oldest:
                break
            over -= copy.size_bytes
            logger.warning("run not copied", extra={"run": copy.id})
            self._remove(copy)


def _order(copy: RunCopy) -> bytes:
    """What is to be stored of the request, sealed; empty if that is nothing."""
    run = copy.known_run
    if run is None or run.log.ended or not copy.stored.meta.has_order:
        return b""
    order = StoredRequest.of(run)
    return (order.sealed(copy.box) if order is not None else None) or b""
