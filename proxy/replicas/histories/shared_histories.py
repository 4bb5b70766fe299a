"""Users' histories of all replicas, added up through the store, in the background. No request waits for it.

Every `SHARE_S` a process writes what it has learned to a log, one sealed batch a route, and reads what others
have. Counts are only ever added, so it does not matter who comes first. Now and then one process folds the
log into a sum (`history_records.py`), from which a process that starts has the histories of before.

A store that is away costs history, and nothing else: what was learned of `MAX_CHANGED` users waits for it.
A process that is killed loses what it has learned since its last batch.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from time import time
from types import TracebackType
from typing import Any, Self

from proxy.errors import HeadgateError, StoreDown
from proxy.observe.histories import FORGOTTEN_S, Histories
from proxy.replicas.histories.history_records import Senders, StoredBatch, Sum, folded, sealed_batch
from proxy.replicas.histories.history_scripts import PUT_BATCH, PUT_SUM
from proxy.replicas.store.records import Keys
from proxy.replicas.store.sealing import Sealing, Unsealable
from proxy.replicas.store.valkey import Command, Link
from proxy.turns import in_turns

logger = logging.getLogger("headgate.event_log")

SHARE_S = 10.0
"""Between two batches of one process. A killed one loses so much."""

MAX_BATCH = 512
"""Users in a batch, of 16 bytes each: one process writes 0.8 kB a second for a route, at most."""

MAX_LOG = 1024
"""Batches in the log of a route, 8 MB at most; over it the oldest are lost."""

FOLD_FROM = 64
"""Batches after which the log is folded."""

FOLD_S = 3600.0
"""Seconds after which it is folded anyway: so that users are forgotten when their time has come."""

FOLD_AFTER_MS = 60_000
"""Milliseconds that a batch stays in the log, so that every process reads it there; and between two folds."""

START_S = 1.0
"""A process that starts waits so long for the histories of before."""

ROUND_S = 5.0
"""The longest that a round trip may take. No request waits for it."""

TTL_MS = int(FORGOTTEN_S * 1000)

_BEGINNING = b"0-0"


class WrongType(HeadgateError):
    """A key of a route's histories has a value of a type that Headgate does not store there."""


class SharedHistories:
    """The histories of this process's routes; a context, entered and left in one task.

    Args:
        link: to the store; this closes it. Of a `Health` of its own: what is late here says nothing of runs.
        replica: this process's name, of 32 hexadecimal digits.
        histories: by route.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        sealing: Sealing,
        replica: str,
        histories: Mapping[str, Histories],
    ) -> None:
        self._link = link
        self._routes = [
            _RouteHistories(self._link, keys, sealing, replica, route, known)
            for route, known in histories.items()
        ]
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._share_within(START_S)
        except BaseException:
            await self._link.aclose()
            raise
        self._task = asyncio.create_task(self._keep_sharing())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        try:
            while not self._task.done():
                self._task.cancel()
                # Again, if need be: a library below may take a cancellation for its own.
                await asyncio.wait([self._task], timeout=ROUND_S)
            await self._share_within(ROUND_S)
        finally:
            await self._link.aclose()

    async def _keep_sharing(self) -> None:
        while True:
            await self._share_within(None)
            await asyncio.sleep(SHARE_S)

    async def _share_within(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.share()
        except TimeoutError:
            pass  # it goes on, or the process ends
        except Exception:  # histories are no reason not to serve
            logger.exception("sharing histories failed")

    async def share(self) -> None:
        """Write and read once, for each route."""
        with contextlib.suppress(StoreDown):
            for route in self._routes:
                try:
                    await route.share()
                except WrongType:
                    logger.error("histories cannot be stored", extra={"why": "a key holds something else"})
            self._link.health.wrote()


class _RouteHistories:
    """The histories of one route."""

    def __init__(
        self, link: Link, keys: Keys, sealing: Sealing, replica: str, route: str, known: Histories
    ) -> None:
        self._link = link
        self._log, self._sum, self._folding = keys.histories(sealing.name(f"histories {route}"))
        self._box = sealing.box(f"histories {route}")
        self._replica = replica
        self._known = known
        self._known.share()
        self._number = 0
        self._unsent: bytes | None = None
        """The last batch, sealed, as long as it is not certain that the store has it."""
        self._cursor: bytes | None = None
        """The last entry of the log that was read. None: nothing was."""
        self._senders = Senders()
        self._fold_at = 0.0

    async def share(self) -> None:
        """Write a batch, and read those of others. Raises `StoreDown`."""
        await self._write()
        if self._cursor is None:
            await self._begin()
            return
        entries, upto, length = await self._ask(
            ("XRANGE", self._log, b"(" + self._cursor, "+", "COUNT", MAX_LOG),
            ("HGET", self._sum, "upto"),
            ("XLEN", self._log),
        )
        if upto is None:
            await self._restore()
        elif _id(upto) > _id(self._cursor):
            await self._begin()  # this process was held up for so long that it has missed batches
            return
        else:
            for batch in _batches(entries):
                await self._merge(batch)
        if length >= FOLD_FROM or asyncio.get_running_loop().time() >= self._fold_at:
            await self._fold()

    async def _write(self) -> None:
        if self._unsent is None and (changes := self._known.take(MAX_BATCH)):
            self._number += 1
            self._unsent = sealed_batch(self._box, self._replica, self._number, changes)
        if self._unsent is not None:
            keys = [self._log, self._sum]
            await self._ask(PUT_BATCH(keys, TTL_MS, MAX_LOG, self._replica, self._number, self._unsent))
            self._unsent = None

    async def _begin(self) -> None:
        """Take over all that the store has, with what was not written yet."""
        [upto, value], entries = await self._ask(
            ("HMGET", self._sum, "upto", "value"), ("XRANGE", self._log, "-", "+", "COUNT", MAX_LOG)
        )
        batches = _batches(entries)
        known = await self._fold_of(upto, value, batches)
        if upto is None:
            await self._ask(self._put_sum(b"", _BEGINNING, Sum()))
        await in_turns(self._known.begin_again(known.changes))
        self._senders = known.senders
        self._cursor = batches[-1].entry if batches else upto or _BEGINNING
        self._fold_at = asyncio.get_running_loop().time() + FOLD_S

    async def _merge(self, batch: StoredBatch) -> None:
        assert self._cursor is not None
        self._cursor = batch.entry
        if batch.sender == self._replica or not self._senders.is_new(batch.sender, batch.number):
            return
        try:
            changes = batch.opened(self._box)
        except Unsealable as exc:
            logger.error("stored histories cannot be read", extra={"why": str(exc)})
            return
        await in_turns(map(self._known.merge, changes.histories))
        self._known.calibrate(changes.agreed, changes.forecast)

    async def _restore(self) -> None:
        """The store has lost its memory: give it this process's, if no other process is faster."""
        senders = Senders(self._senders.last())
        senders.is_new(self._replica, self._number)
        await self._ask(self._put_sum(b"", _BEGINNING, Sum(self._known.shared(), senders)))
        self._cursor = _BEGINNING

    async def _fold(self) -> None:
        """Add the log to the sum, if no other process is about to."""
        self._fold_at = asyncio.get_running_loop().time() + FOLD_S
        mine, [upto, value], [seconds, microseconds] = await self._ask(
            ("SET", self._folding, self._replica, "NX", "PX", FOLD_AFTER_MS),
            ("HMGET", self._sum, "upto", "value"),
            ("TIME",),
        )
        if mine is None or upto is None:
            return
        until = int(seconds) * 1000 + int(microseconds) // 1000 - FOLD_AFTER_MS
        [entries] = await self._ask(("XRANGE", self._log, "-", until, "COUNT", MAX_LOG))
        batches = _batches(entries)
        to = batches[-1].entry if batches else upto
        await self._ask(self._put_sum(upto, to, await self._fold_of(upto, value, batches)))

    async def _fold_of(self, upto: bytes | None, value: bytes | None, batches: Sequence[StoredBatch]) -> Sum:
        known = Sum()
        if upto is not None and value is not None:
            try:
                known = Sum.opened(self._box, upto, value)
            except Unsealable as exc:
                logger.error("stored histories cannot be read", extra={"why": str(exc)})
        known, unreadable = await asyncio.to_thread(folded, self._box, known, batches, time())
        if unreadable:
            logger.error("stored histories cannot be read", extra={"batches": unreadable})
        return known

    def _put_sum(self, known_upto: bytes, upto: bytes, of: Sum) -> Command:
        after, _, number = upto.partition(b"-")
        first_left = b"%b-%d" % (after, int(number) + 1)
        value = of.sealed(self._box, upto)
        return PUT_SUM([self._sum, self._log], known_upto, upto, value, first_left, TTL_MS)

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
        if fields[::2] == [b"r", b"n", b"e"] and fields[3].isdigit():
            batches.append(StoredBatch(entry, fields[1].decode("latin-1"), int(fields[3]), fields[5]))
    return batches


def _id(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)
