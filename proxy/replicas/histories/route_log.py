"""The log of one route's users in the store, and the sum that it is folded into.

A process writes what it has learned as batches, and reads those of others. Batches are numbered, so each
counts once, however often it is written. What batches mean is a `Memory`'s.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from time import time
from typing import Any, Protocol

from proxy.errors import HeadgateError
from proxy.observe.users.histories import FORGOTTEN_S
from proxy.replicas.histories.history_records import Senders, StoredBatch, Sum, folded, sealed_batch
from proxy.replicas.histories.history_scripts import PUT_BATCH, PUT_SUM
from proxy.replicas.store.records import Keys
from proxy.replicas.store.sealing import Sealing, Unsealable
from proxy.replicas.store.valkey import Command, Link
from proxy.turns import in_turns

logger = logging.getLogger("headgate.event_log")

MAX_LOG = 1024
"""Batches in a log; over it the oldest are lost."""

MOST_DIGITS = 10
"""Of a batch's number."""

FOLD_FROM = 64
"""Batches after which the log is folded."""

FOLD_S = 3600.0
"""Seconds after which it is folded anyway: so that users are forgotten when their time has come."""

FOLD_AFTER_MS = 60_000
"""Milliseconds that a batch stays in the log, so that every process reads it there; and between two folds."""

TTL_MS = int(FORGOTTEN_S * 1000)

_BEGINNING = b"0-0"


class WrongType(HeadgateError):
    """A key of a route's histories has a value of a type that Headgate does not store there."""


class Memory(Protocol):
    """What processes learn of one route's users, as bytes of a form of its own. Times are Unix's."""

    kind: str
    """The name of its keys."""
    route: str
    in_order: bool
    """What this process writes counts when the log has it, in the order of the log, and not before."""

    def share(self) -> None:
        """From now on remember what `take` is to give."""

    def take(self) -> bytes:
        """The next batch; nothing: there is none."""

    def merge(self, batch: bytes, at_s: float, *, mine: bool) -> Iterable[None]:
        """Add a batch, in steps."""

    def begin_again(self, known: bytes) -> Iterable[None]:
        """Know this sum, in steps, and what `take` has yet to give. Nothing: the store knows nothing."""

    def known(self) -> bytes:
        """The sum of all, without what `take` has yet to give."""

    def folded(self, known: bytes, batches: Sequence[tuple[bytes, float]], now_s: float) -> bytes:
        """A sum, of a sum and the batches after it with their times. It is done in another thread."""

    def leave(self, now_s: float) -> None:
        """The store is away for long."""


class RouteLog:
    """One memory's log."""

    def __init__(self, link: Link, keys: Keys, sealing: Sealing, replica: str, memory: Memory) -> None:
        self._link = link
        name = f"{memory.kind} {memory.route}"
        self._log, self._sum, self._folding = keys.histories(sealing.name(name), memory.kind)
        self._box = sealing.box(name)
        self._replica = replica
        self.memory = memory
        memory.share()
        self._number = 0
        self._unsent: bytes | None = None
        """The last batch, sealed, as long as it is not certain that the store has it."""
        self._cursor: bytes | None = None
        """The last entry of the log that was read. None: nothing was."""
        self._restored = b""
        """A number by chance of the memory's last beginning, that the sum has in the clear."""
        self._senders = Senders()
        self._fold_at = 0.0

    async def share(self) -> None:
        """Write a batch, and read those of others. Raises `StoreDown`."""
        await self._write()
        if self._cursor is None:
            await self._begin()
            return
        entries, [upto, restored], length = await self._ask(
            ("XRANGE", self._log, b"(" + self._cursor, "+", "COUNT", MAX_LOG),
            ("HMGET", self._sum, "upto", "restored"),
            ("XLEN", self._log),
        )
        if upto is None:
            await self._restore()
        elif _id(upto) > _id(self._cursor) or (self.memory.in_order and restored != self._restored):
            # This process was held up for so long that it has missed batches, or the store was restored.
            await self._begin()
            return
        else:
            await self._merge(_batches(entries))
        if length >= FOLD_FROM or asyncio.get_running_loop().time() >= self._fold_at:
            await self._fold()

    def leave(self) -> None:
        """The store is away for long: begin again when it is back, if the order of the log counts."""
        if self.memory.in_order:
            self._unsent = None
            self._restored = b""
        self.memory.leave(time())

    async def _write(self) -> None:
        if self._unsent is None and (batch := self.memory.take()):
            self._number += 1
            self._unsent = sealed_batch(self._box, self._replica, self._number, batch)
        if self._unsent is not None:
            keys = [self._log, self._sum]
            await self._ask(PUT_BATCH(keys, TTL_MS, MAX_LOG, self._replica, self._number, self._unsent))
            self._unsent = None

    async def _begin(self) -> None:
        """Take over all that the store has, with what was not written yet."""
        [upto, value, restored], entries = await self._ask(
            ("HMGET", self._sum, "upto", "value", "restored"),
            ("XRANGE", self._log, "-", "+", "COUNT", MAX_LOG),
        )
        if upto is None:
            await self._restore()
            return
        known = self._sum_of(upto, value)
        await in_turns(self.memory.begin_again(known.plain))
        self._senders, self._cursor, self._restored = known.senders, upto, restored or b""
        await self._merge(_batches(entries), again=True)
        self._fold_at = asyncio.get_running_loop().time() + FOLD_S

    async def _merge(self, batches: Sequence[StoredBatch], *, again: bool = False) -> None:
        for batch in batches:
            mine = batch.sender == self._replica
            self._cursor = batch.entry
            if mine and not again and not self.memory.in_order:
                continue
            try:
                plain = batch.opened(self._box)
            except Unsealable as exc:
                logger.error("stored histories cannot be read", extra={"why": str(exc)})
                continue
            # Only what could be opened is noted: else made-up entries would drive out the processes that are
            # known, whose batches could then count again, or say that a process is further than it is.
            if not self._senders.is_new(batch.sender, batch.number):
                continue
            try:
                await in_turns(self.memory.merge(plain, _time_of(batch.entry), mine=mine))
            except BaseException:
                self._cursor = None  # a part of the batch is known: begin again
                raise

    async def _restore(self) -> None:
        """The store knows nothing, or has lost its memory: give it this process's, if no other is faster."""
        senders = Senders(self._senders.last())
        if not self.memory.in_order:
            senders.is_new(self._replica, self._number)
        restored, known = os.urandom(8).hex().encode(), self.memory.known()
        [done] = await self._ask(self._put_sum(b"", _BEGINNING, Sum(known, senders), restored))
        if self.memory.in_order and not done:
            self._cursor = None  # begin again with what the faster one has put there
            return
        if self.memory.in_order:
            await in_turns(self.memory.begin_again(known))
        self._senders, self._cursor, self._restored = senders, _BEGINNING, restored
        self._fold_at = asyncio.get_running_loop().time() + FOLD_S

    async def _fold(self) -> None:
        """Add the log to the sum, if no other process is about to."""
        self._fold_at = asyncio.get_running_loop().time() + FOLD_S
        mine, [upto, value, restored], [seconds, microseconds] = await self._ask(
            ("SET", self._folding, self._replica, "NX", "PX", FOLD_AFTER_MS),
            ("HMGET", self._sum, "upto", "value", "restored"),
            ("TIME",),
        )
        if mine is None or upto is None:
            return
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        until = now_ms - FOLD_AFTER_MS
        [entries] = await self._ask(("XRANGE", self._log, "-", until, "COUNT", MAX_LOG))
        batches = _batches(entries)
        to = batches[-1].entry if batches else upto
        timed = [(batch, _time_of(batch.entry)) for batch in batches]
        known = self._sum_of(upto, value)
        # By the store's clock: a process whose own is ahead would forget users for all of them.
        known, unreadable = await asyncio.to_thread(
            folded, self._box, known, timed, self.memory.folded, now_ms / 1000
        )
        if unreadable:
            logger.error("stored histories cannot be read", extra={"batches": unreadable})
        await self._ask(self._put_sum(upto, to, known, restored or b""))

    def _sum_of(self, upto: bytes, value: bytes | None) -> Sum:
        try:
            return Sum() if value is None else Sum.opened(self._box, upto, value)
        except Unsealable as exc:
            logger.error("stored histories cannot be read", extra={"why": str(exc)})
            return Sum()

    def _put_sum(self, known_upto: bytes, upto: bytes, of: Sum, restored: bytes) -> Command:
        after, _, number = upto.partition(b"-")
        first_left = b"%b-%d" % (after, int(number) + 1)
        value = of.sealed(self._box, upto)
        return PUT_SUM([self._sum, self._log], known_upto, upto, value, first_left, TTL_MS, restored)

    async def _ask(self, *commands: Command) -> list[Any]:
        replies = await self._link.call(*commands, probe=True)
        for reply in replies:
            if isinstance(reply, Exception):
                raise WrongType
        return replies


def _batches(entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[StoredBatch]:
    """The batches among the entries of a log; anything else is none of ours."""
    batches = []
    for entry, fields in entries:
        if fields[::2] == [b"r", b"n", b"e"] and fields[3].isdigit() and len(fields[3]) <= MOST_DIGITS:
            batches.append(StoredBatch(entry, fields[1].decode("latin-1"), int(fields[3]), fields[5]))
    return batches


def _id(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _time_of(entry: bytes) -> float:
    """Unix time at which the store got an entry, by its own clock."""
    return _id(entry)[0] / 1000
