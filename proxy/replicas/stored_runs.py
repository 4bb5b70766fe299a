"""Reads what the store has of one run: its meta, its log page by page, and its end."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.store.records import Keys, RunMeta, StoredEnd, StoredEntry, StoredMeta
from proxy.replicas.store.sealing import Box, Sealing, Unsealable
from proxy.replicas.store.valkey import Link

logger = logging.getLogger("headgate.event_log")

PAGE = 64
"""Entries that are read at a time, of each run."""

FETCH_PARTS = 4
"""Parts fetched in one round trip."""


class StoredRuns:
    """The runs that are in the store."""

    def __init__(self, link: Link, keys: Keys, sealing: Sealing) -> None:
        self._link = link
        self._keys = keys
        self._sealing = sealing
        self._loop = asyncio.get_running_loop()

    @property
    def is_up(self) -> bool:
        """True if the store took the last write."""
        return self._link.health.up.is_set()

    def box(self, run_id: str) -> Box:
        """Seals and opens all that is stored of a run."""
        return self._sealing.box(f"run {run_id}")

    async def meta(self, run_id: str) -> StoredMeta | None:
        """A run's meta; None if it is not stored, or, logged, if it cannot be opened.

        Raises:
            StoreDown: the store did not answer.
        """
        [value] = await self._link.call(("GET", self._keys.run(run_id)))
        if not isinstance(value, bytes):
            return None
        return self._opened(run_id, value)

    async def span(self, run_id: str) -> str | None:
        """The context of a run's span, as a `traceparent`; None: there is none.

        Raises:
            StoreDown: the store did not answer.
        """
        [value] = await self._link.call(("GET", self._keys.span(run_id)))
        try:
            return self.box(run_id).open("span", 0, value).decode() if isinstance(value, bytes) else None
        except Unsealable as exc:
            log_unreadable(run_id, exc)
            return None

    async def live(self, name: str, at_most: int) -> list[tuple[str, RunMeta]]:
        """The newest runs of a principal that have not ended, with their ids.

        Args:
            name: of the principal's list.
            at_most: as many entries of the list are looked at.

        Raises:
            StoreDown: the store did not answer.
        """
        [listed] = await self._link.call(("ZREVRANGE", name, 0, at_most - 1))
        ids = [run_id.decode("latin-1") for run_id in listed]
        if not ids:
            return []
        metas, *ends = await self._link.call(
            ("MGET", *map(self._keys.run, ids)), *(("EXISTS", self._keys.end(run_id)) for run_id in ids)
        )
        opened = [
            (run_id, self._opened(run_id, value))
            for run_id, value, has_ended in zip(ids, metas, ends, strict=True)
            if isinstance(value, bytes) and not has_ended
        ]
        return [(run_id, stored.meta) for run_id, stored in opened if stored is not None]

    def _opened(self, run_id: str, value: bytes) -> StoredMeta | None:
        try:
            return StoredMeta.open(self.box(run_id), value)
        except Unsealable as exc:
            log_unreadable(run_id, exc)
            return None

    async def catch_up(self, run: FollowedRun) -> None:
        """Append to a run's log all that is stored now.

        Raises:
            StoreDown: what was appended is exact, but the store may have more.
            Unsealable: the next entry was changed or moved, or is missing.
        """
        while not run.log.ended:
            first = f"{len(run.log) + 1}-0"
            [page] = await self._link.call(("XRANGE", self._keys.log(run.id), first, "+", "COUNT", PAGE))
            if not isinstance(page, list):
                raise Unsealable("the log is none")
            for item in page:
                stored = next_entry(run, item, self._loop.time())
                if stored is not None:
                    await self._append(run, stored)
            if len(page) < PAGE:
                return

    async def _append(self, run: FollowedRun, stored: StoredEntry) -> None:
        entry = stored.entry
        if stored.parts:
            entry = stored.with_parts(await self._parts(run, entry.seq, stored.parts))
        if entry.is_terminal:
            [value] = await self._link.call(("GET", self._keys.end(run.id)))
            if not isinstance(value, bytes):
                raise Unsealable("the end is missing")
            end = StoredEnd.opened(run.box, value)
            answer = end.answer
            if answer is not None and end.parts:
                answer = replace(answer, body=await self._parts(run, 0, end.parts))
            run.settle(end.failure, answer, entry)
        else:
            run.log.take(entry)

    async def _parts(self, run: FollowedRun, seq: int, count: int) -> bytes:
        value = bytearray()
        for start in range(0, count, FETCH_PARTS):
            indices = range(start, min(count, start + FETCH_PARTS))
            names = [self._keys.part(run.id, seq, index) for index in indices]
            [sealed] = await self._link.call(("MGET", *names))
            for index, part in zip(indices, sealed, strict=True):
                if part is None:
                    raise Unsealable(f"part {seq} {index} is missing")
                value += run.box.open(f"part {seq}", index, part)
            run.parts += names
        return bytes(value)


def next_entry(run: FollowedRun, item: Any, now: float) -> StoredEntry | None:
    """The next entry of a run; None if the run's log has it already.

    Args:
        item: of the stream, as the store returns it.
        now: the loop's time.

    Raises:
        Unsealable: an entry between is missing, or this one was changed or moved.
    """
    match item:
        case [bytes() as name, [_, bytes() as value]]:
            seq = int(name.partition(b"-")[0])
            if seq <= len(run.log) or run.log.ended:
                return None
            if seq > len(run.log) + 1:
                raise Unsealable(f"entry {len(run.log) + 1} is missing")
            return StoredEntry.read(seq, run.box.open("entry", seq, value), now)
    raise Unsealable("an entry is none")


def log_unreadable(run_id: str, exc: Unsealable) -> None:
    logger.error("stored run cannot be read", extra={"run": run_id, "why": str(exc)})
