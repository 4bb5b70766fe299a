"""Reads new entries of all followed runs, and messages to this replica, in one blocking call.

Only plain entries come that way. A large one, or the terminal one, which comes with the answer, is fetched by
a task of that run, so that the others go on.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from proxy.errors import StoreDown
from proxy.replicas.followed_run import STORE_LOST, FollowedRun
from proxy.replicas.store.records import Keys
from proxy.replicas.store.scripts import send
from proxy.replicas.store.sealing import Unsealable
from proxy.replicas.store.valkey import Link, is_wrong_type
from proxy.replicas.stored_runs import PAGE, StoredRuns, log_unreadable, next_entry

BLOCK_MS = 1000
"""The longest that a read blocks before it takes newly followed runs into account."""

PAUSE_S = 0.00002
"""Between two reads, for each followed run. Asking for a thousand takes milliseconds; entries that come in
such a pause share the next read."""

MAX_FETCHES = 4
"""Runs whose large entries are fetched at once."""


class LogTail:
    """The task that reads new entries.

    Args:
        link: for the blocking call; its timeout is beyond `BLOCK_MS`.
        wake_link: wakes the blocking call.
        on_message: called with each message to `replica`.
    """

    def __init__(
        self,
        link: Link,
        wake_link: Link,
        keys: Keys,
        replica: str,
        stored: StoredRuns,
        on_message: Callable[[bytes], None],
    ) -> None:
        self._link = link
        self._wake_link = wake_link
        self._health = link.health
        self._keys = keys
        self._replica = replica
        self._stored = stored
        self._on_message = on_message
        self.runs: set[FollowedRun] = set()
        """The runs that are read."""
        self.on_grown: Callable[[int], None] = lambda _: None
        """Is called with the bytes by which they have grown, once for all that a read brought."""
        self._fetches: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_FETCHES)
        self._is_blocked = False
        self._loop = asyncio.get_running_loop()
        self.read_at = self._loop.time()
        """When the store answered last."""

    async def aclose(self) -> None:
        """End all copies: nothing fills them any more."""
        for task in self._fetches:
            task.cancel()
        await asyncio.gather(*self._fetches, return_exceptions=True)
        for run in list(self.runs):
            run.end(STORE_LOST)

    async def listen(self) -> None:
        """Read for ever."""
        last_message = b"0-0"
        while True:
            await self._health.up.wait()
            # In a call of its own, which forgets what it has read.
            last_message = await self._read_once(last_message)

    async def _read_once(self, last_message: bytes) -> bytes:
        """Read what comes within `BLOCK_MS`; returns the id of the last message."""
        runs = [run for run in self.runs if not run.log.ended and not run.is_fetching]
        by_name: dict[str, list[FollowedRun]] = {}
        for run in runs:  # one that was released, and has viewers again, may have been found anew meanwhile
            by_name.setdefault(self._keys.log(run.id), []).append(run)
        names = [self._keys.inbox(self._replica), *by_name]
        seen = [last_message, *(b"%d-0" % min(len(run.log) for run in of) for of in by_name.values())]
        self._is_blocked = True
        try:
            [streams] = await self._link.call(
                ("XREAD", "COUNT", PAGE, "BLOCK", BLOCK_MS, "STREAMS", *names, *seen)
            )
        except StoreDown:
            return last_message
        finally:
            self._is_blocked = False
        self.read_at = self._loop.time()
        if is_wrong_type(streams):
            for run in runs:  # the key of one of them is no stream; its own fetch finds out whose
                self._fetch(run)
            await asyncio.sleep(BLOCK_MS / 1000)
            return last_message
        grown = 0
        for name, items in streams or ():
            if (of := by_name.get(name.decode())) is not None:
                before = sum(run.log.size_bytes for run in of)
                for run in of:
                    self._append(run, items)
                grown += sum(run.log.size_bytes for run in of) - before
                continue
            for number, (_, message) in items:
                last_message = number
                self._on_message(message)
            await self._drop_read(last_message)
        self.on_grown(grown)
        await asyncio.sleep(PAUSE_S * len(runs))
        return last_message

    async def _drop_read(self, last_message: bytes) -> None:
        """Drop the messages that were read: they may hold a model's text, and the inbox lives as long as
        messages come."""
        time_ms, _, number = last_message.partition(b"-")
        first_kept = b"%b-%d" % (time_ms, int(number) + 1)
        with contextlib.suppress(StoreDown):  # the next time
            await self._wake_link.call(("XTRIM", self._keys.inbox(self._replica), "MINID", first_kept))

    def _append(self, run: FollowedRun, items: Sequence[Any]) -> None:
        for item in items:
            try:
                stored = next_entry(run, item, self._loop.time())
            except Unsealable as exc:
                _end_unreadable(run, exc)
                return
            if stored is not None and (stored.parts or stored.entry.is_terminal):
                self._fetch(run)
                return
            if stored is not None:
                run.log.take(stored.entry)

    def _fetch(self, run: FollowedRun) -> None:
        run.is_fetching = True
        task = self._loop.create_task(self._fetch_all(run))
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _fetch_all(self, run: FollowedRun) -> None:
        before = run.size_bytes
        try:
            async with self._slots:
                await self._stored.catch_up(run)
        except StoreDown:
            pass  # the next read comes to the same entry
        except Unsealable as exc:
            _end_unreadable(run, exc)
        finally:
            run.is_fetching = False
        self.on_grown(run.size_bytes - before)
        if not run.log.ended:
            await self.wake()

    async def wake(self) -> None:
        """Let the blocking call return, so that the next one reads `runs` as they are now."""
        if self._is_blocked:
            with contextlib.suppress(StoreDown):  # it returns by itself, later
                await self._wake_link.call(send(self._keys, self._replica, b""))


def _end_unreadable(run: FollowedRun, exc: Unsealable) -> None:
    log_unreadable(run.id, exc)
    run.end(STORE_LOST)
