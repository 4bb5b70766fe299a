"""Runs that other replicas execute, as their viewers here see them: local copies of what is stored.

One task reads the news of all of them, in one blocking call. What is not a plain entry - a large one, or the
terminal one, which comes with the answer - is fetched by a task of that run, so that the others go on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.replicas.followed_run import STORE_LOST, FollowedRun
from proxy.replicas.records import Keys, StoredEnd, StoredEntry, StoredMeta, is_run_id
from proxy.replicas.scripts import send
from proxy.replicas.sealing import Sealing, Unsealable
from proxy.replicas.valkey import Health, Link, StoreDown, is_wrong_type
from proxy.settings.routes import Route

logger = logging.getLogger("headgate.event_log")

MAX_FOLLOWED = 1000
"""Runs of other replicas that are followed at once. Over it, a run that is not yet is not found."""

MAX_FOLLOWED_BYTES = 64 * 1024 * 1024
"""Over it, those that nobody watches are dropped at once."""

IDLE_S = 15.0
"""How long a run is followed that nobody watches."""

PAGE = 64
"""Entries that are read at a time, of each run."""

BLOCK_MS = 1000
"""The longest that the reader waits for news before it looks whom it should follow."""

PAUSE_S = 0.00002
"""Between two reads, for each followed run: asking for a thousand takes milliseconds, and news can wait that
long to share it."""

MAX_FETCHES = 4
"""Runs whose large entries are fetched at once."""

FETCH_PARTS = 4
"""Parts fetched in one round trip."""

BLIND_S = 30.0
"""How long viewers wait for a store that does not answer, before they are told."""


class Followers:
    """All followed runs of this process."""

    def __init__(
        self,
        ask: Link,
        listen: Link,
        health: Health,
        keys: Keys,
        sealing: Sealing,
        routes: Mapping[str, Route],
        place: "Subscription",
    ) -> None:
        self._ask = ask
        self._listen = listen
        self._health = health
        self._keys = keys
        self._sealing = sealing
        self._routes = routes
        self._place = place
        self._runs: dict[str, FollowedRun] = {}
        self._followed: set[FollowedRun] = set()
        """Those of `_runs`, and those that were dropped and are read all the same."""
        self._finding: dict[str, asyncio.Task[FollowedRun | None]] = {}
        self._fetches: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_FETCHES)
        self._is_blocked = False
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()

    async def aclose(self) -> None:
        """End all copies: nobody will fill them."""
        tasks = [*self._finding.values(), *self._fetches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for run in list(self._followed):
            run.end(STORE_LOST)

    def __len__(self) -> int:
        return len(self._followed)

    # Finding.

    async def find(self, run_id: str) -> FollowedRun | None:
        """A run with all that is stored of it; those who look for one at once share it.

        Raises:
            StoreDown: and it is not followed already.
        """
        run = self._runs.get(run_id)
        failure = None if run is None else run.failure
        if failure is not None and failure.code == STORE_LOST and self._is_up:
            del self._runs[run_id]  # it was ended for want of the store, which is back
            run = None
        if run is not None or not is_run_id(run_id):
            return run
        task = self._finding.get(run_id)
        if task is None:
            task = self._loop.create_task(self._load(run_id))
            self._finding[run_id] = task
            task.add_done_callback(lambda done: self._found(run_id, done))
        return await asyncio.shield(task)

    @property
    def _is_up(self) -> bool:
        return self._health.up.is_set()

    async def stored(self, run_id: str) -> StoredMeta | None:
        """What a run is and who executes it, if that is stored and can be read.

        Raises:
            StoreDown: it cannot be asked for.
        """
        [value] = await self._ask.call(("GET", self._keys.run(run_id)))
        if not isinstance(value, bytes):
            return None
        try:
            return StoredMeta.open(self._sealing.box(f"run {run_id}"), value)
        except Unsealable as exc:
            _cannot_be_read(run_id, exc)
            return None

    async def _load(self, run_id: str) -> FollowedRun | None:
        stored = await self.stored(run_id)
        if stored is None:
            return None
        route = self._routes.get(stored.meta.route)
        if route is None:
            logger.warning("stored run has no route here", extra={"run": run_id, "route": stored.meta.route})
            return None
        self.drop_idle()
        if len(self._followed) >= MAX_FOLLOWED:
            logger.warning("too many followed runs", extra={"runs": len(self._followed)})
            return None
        box = self._sealing.box(f"run {run_id}")
        run = FollowedRun(run_id, stored, route, box, self._readers_changed)
        try:
            await self._catch_up(run)
        except Unsealable as exc:
            _cannot_be_read(run_id, exc)
            return None
        self._runs[run_id] = run
        self._followed.add(run)
        await self._nudge()
        return run

    def _found(self, run_id: str, task: "asyncio.Task[FollowedRun | None]") -> None:
        del self._finding[run_id]
        if not task.cancelled():
            task.exception()  # whoever looked for it has it; it may be that nobody does any more

    # Reading.

    async def listen(self) -> None:
        """Take what is new into the copies, and hear messages to this replica, for ever."""
        heard = b"0-0"
        while True:
            await self._health.up.wait()
            # In a call of its own, which forgets what it has read.
            heard = await self._listen_once(heard)

    async def _listen_once(self, heard: bytes) -> bytes:
        """Take the next news, if some come soon; the number of the last message is returned."""
        inbox = self._keys.inbox(self._place.replica)
        runs = [run for run in self._followed if not run.log.ended and not run.is_fetching]
        names = [inbox, *(self._keys.log(run.id) for run in runs)]
        seen = [heard, *(b"%d-0" % len(run.log) for run in runs)]
        self._is_blocked = True
        try:
            [news] = await self._listen.call(
                ("XREAD", "COUNT", PAGE, "BLOCK", BLOCK_MS, "STREAMS", *names, *seen)
            )
        except StoreDown:
            return heard
        finally:
            self._is_blocked = False
        self._heard_at = self._loop.time()
        if is_wrong_type(news):
            for run in runs:  # one of them is what disturbs
                self._fetch(run)
            await asyncio.sleep(BLOCK_MS / 1000)
            return heard
        by_name = dict(zip(names[1:], runs, strict=True))
        for name, items in news or ():
            if (run_ := by_name.get(name.decode())) is not None:
                self._read(run_, items)
                continue
            for number, (_, message) in items:
                heard = number
                self._place.hear(message)
        await asyncio.sleep(PAUSE_S * len(runs))
        return heard

    def _read(self, run: FollowedRun, items: Sequence[Any]) -> None:
        for item in items:
            try:
                stored = _opened(run, item, self._loop.time())
            except Unsealable as exc:
                self._break(run, exc)
                return
            if stored is not None and (stored.parts or stored.entry.is_terminal):
                self._fetch(run)
                return
            if stored is not None:
                run.log.take(stored.entry)

    def _fetch(self, run: FollowedRun) -> None:
        run.is_fetching = True
        task = self._loop.create_task(self._fetched(run))
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _fetched(self, run: FollowedRun) -> None:
        try:
            async with self._slots:
                await self._catch_up(run)
        except StoreDown:
            pass  # the reader comes to the same entry again
        except Unsealable as exc:
            self._break(run, exc)
        finally:
            run.is_fetching = False
        if not run.log.ended:
            await self._nudge()

    async def _nudge(self) -> None:
        """Let the reader see whom it should follow. A message is not lost if it is not blocked yet."""
        if self._is_blocked:
            with contextlib.suppress(StoreDown):  # it looks again by itself
                await self._ask.call(send(self._keys, self._place.replica, b""))

    async def _catch_up(self, run: FollowedRun) -> None:
        """Take all that is stored now.

        Raises:
            StoreDown: what was taken is exact, but more may be there.
            Unsealable: the next entry was changed or moved, or is not there.
        """
        while not run.log.ended:
            first = f"{len(run.log) + 1}-0"
            [page] = await self._ask.call(("XRANGE", self._keys.log(run.id), first, "+", "COUNT", PAGE))
            if not isinstance(page, list):
                raise Unsealable("the log is none")
            for item in page:
                stored = _opened(run, item, self._loop.time())
                if stored is not None:
                    await self._take(run, stored)
            if len(page) < PAGE:
                return

    async def _take(self, run: FollowedRun, stored: StoredEntry) -> None:
        entry = stored.entry
        if stored.parts:
            entry = stored.with_parts(await self._parts(run, entry.seq, stored.parts))
        if entry.is_terminal:
            [value] = await self._ask.call(("GET", self._keys.end(run.id)))
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
            [sealed] = await self._ask.call(("MGET", *names))
            for index, part in zip(indices, sealed, strict=True):
                if part is None:
                    raise Unsealable(f"part {seq} {index} is missing")
                value += run.box.open(f"part {seq}", index, part)
            run.parts += names
        return bytes(value)

    # Ends that nobody else tells.

    def owners(self) -> set[str]:
        """The replicas that execute what is followed."""
        return {run.meta.owner for run in self._live()} - {self._place.replica}

    def of(self, owner: str) -> list[FollowedRun]:
        """The runs in flight that a replica executes, as far as is known; but for those just being read."""
        return [run for run in self._live() if run.meta.owner == owner and not run.is_fetching]

    async def look_again(self, owner: str) -> None:
        """A replica was silent for a while: its runs may have been taken over meanwhile.

        Raises:
            StoreDown: it is to be tried again.
        """
        for run in self.of(owner):
            stored = await self.stored(run.id)
            if stored is not None:
                run.stored = stored

    def release(self, run: FollowedRun) -> None:
        """It is executed here now, and its news are not read from the store."""
        self._followed.discard(run)
        if self._runs.get(run.id) is run:
            del self._runs[run.id]

    def give_up(self) -> None:
        """Tell viewers that the store is gone, once it has been for `BLIND_S`."""
        if self._loop.time() - self._heard_at > BLIND_S:
            for run in self._live():
                run.end(STORE_LOST)

    def _break(self, run: FollowedRun, exc: Unsealable) -> None:
        _cannot_be_read(run.id, exc)
        run.end(STORE_LOST)

    def _live(self) -> list[FollowedRun]:
        return [run for run in self._followed if not run.log.ended]

    # Whoever watches.

    def watched(self) -> dict[str, list[str]]:
        """The runs in flight that have viewers here, by the replica that executes them."""
        found: dict[str, list[str]] = {}
        for run in self._live():
            if run.log.is_read:
                found.setdefault(run.meta.owner, []).append(run.id)
        return found

    def drop_idle(self) -> None:
        """Follow no longer what nobody watches."""
        unread = sorted(
            (run for run in self._followed if not run.log.is_read), key=lambda run: run.idle_since
        )
        over = sum(run.size_bytes for run in self._followed) - MAX_FOLLOWED_BYTES
        oldest = self._loop.time() - IDLE_S
        for run in unread:
            if run.idle_since > oldest and over <= 0 and len(self._followed) < MAX_FOLLOWED:
                break
            over -= run.size_bytes
            self.release(run)

    def _readers_changed(self, run: FollowedRun) -> None:
        if run.log.is_read and not (run.log.ended or run.is_executed_here):
            self._followed.add(run)
            self._runs.setdefault(run.id, run)
            self._place.watch()


@dataclass(frozen=True, slots=True)
class Subscription:
    """Where followers are: at which replica, and who there wants to know."""

    replica: str
    hear: Callable[[bytes], None]
    """Called with each message to the replica."""
    watch: Callable[[], None]
    """Called when a run has a viewer."""


def _opened(run: FollowedRun, item: Any, now: float) -> StoredEntry | None:
    """The next entry of a run; None if it is there already."""
    match item:
        case [bytes() as name, [_, bytes() as value]]:
            seq = int(name.partition(b"-")[0])
            if seq <= len(run.log) or run.log.ended:
                return None
            if seq > len(run.log) + 1:
                raise Unsealable(f"entry {len(run.log) + 1} is missing")
            return StoredEntry.read(seq, run.box.open("entry", seq, value), now)
    raise Unsealable("an entry is none")


def _cannot_be_read(run_id: str, exc: Unsealable) -> None:
    logger.error("stored run cannot be read", extra={"run": run_id, "why": str(exc)})
