"""The runs of all replicas, shared through Valkey: `proxy.runs.shared.Shared` over one server.

A run's own log, in the memory of the replica that executes it, is the truth. It is copied to the store
(`mirror.py`), and from there to the replicas where somebody watches it (`followers.py`).
A store that is down costs the replicas each other's runs, and no run anything.

Each process is a replica of its own. It proves that it lives by a key that expires; who follows the runs of
one that does not tells their viewers the truth, and the store takes that from one of them only.
"""

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from time import time
from types import TracebackType
from typing import Any, Self

import orjson

from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.followers import BLOCK_MS, Followers, Subscription
from proxy.replicas.lease import LEASE_S, LOST_S, ReplicaLease
from proxy.replicas.mirror import ROUND_S, Mirror
from proxy.replicas.records import LIVE_TTL_MS, Keys, RunMeta, StoredMeta, is_run_id
from proxy.replicas.scripts import CLAIM, COUNT, FENCED, PUT_DENYLIST_ENTRY, SCRIPTS, cancel, result_of, send
from proxy.replicas.sealing import Sealing, Unsealable
from proxy.replicas.stored_requests import StoredRequest
from proxy.replicas.takeover import Takeover, TakeoverPort
from proxy.replicas.valkey import CALL_S, Command, Health, Link, StoreDown
from proxy.runs.run import Run
from proxy.runs.shared import ViewableRun
from proxy.settings.routes import Route
from proxy.settings.settings import ValkeyLogSettings

logger = logging.getLogger("headgate.event_log")

TICK_S = 1.0
"""How often a replica says that it lives, and looks whether the others do."""

WATCHED_S = 12.0
"""How long it holds that a run is watched elsewhere."""

WATCH_S = 4.0
"""How often that is said."""

FLUSH_S = 3.0
"""At the end, to copy what is left."""

MAX_MISSED = 1000
"""Model calls that are counted when the store is back; it says nothing of more."""

CANCEL_S = 1.0

RESTART_S = 1.0
"""After a mistake of ours in a task that must not end."""


class ValkeyRuns:
    """The port to the other replicas; a context, entered and left in one task.

    Leave it after the runs have ended, so that the others learn how they did.

    Args:
        settings: where the store is.
        routes: by their names.
        heir: executes the runs of a replica that is gone.
        on_cancel: called with the id of a run of this process that somebody elsewhere ends.
        on_taken: called with a run of this process that another replica has taken over.
        on_fault: called with a run in flight that is not copied as it should be; at most once for each.
        on_tap: called with what the model ports of other replicas say to taps of this process.
    """

    def __init__(  # noqa: PLR0913 - most are whom it tells of what
        self,
        settings: ValkeyLogSettings,
        routes: Mapping[str, Route],
        *,
        heir: TakeoverPort,
        on_cancel: Callable[[str], None],
        on_taken: Callable[[Run], None],
        on_fault: Callable[[Run], None],
        on_tap: Callable[[Sequence[Any]], None],
        strict_tls: bool = True,
    ) -> None:
        self.replica = uuid.uuid4().hex
        self._loop = asyncio.get_running_loop()
        url = settings.url.get_secret_value()
        self._on_cancel = on_cancel
        self._on_tap = on_tap
        self._sealing = Sealing(settings.key.get_secret_value())
        self._keys = Keys(settings.prefix)
        self._health = Health()
        link = partial(Link, url, self._health, SCRIPTS, strict_tls=strict_tls)
        self._ask, self._look = link(), link()
        self._listen = link(timeout_s=BLOCK_MS / 1000 + CALL_S)
        self._copy = link(timeout_s=ROUND_S)
        self._news = asyncio.Event()
        place = Subscription(self.replica, self._hear, self._news.set)
        self._lease = ReplicaLease(self._loop.time())
        self._mirror = Mirror(
            self._copy, self._health, self._lease, self._keys, settings.ttl_s, on_fault, on_taken
        )
        self._followers = Followers(
            self._look, self._listen, self._health, self._keys, self._sealing, routes, place
        )
        ttl_ms = int(settings.ttl_s * 1000)
        self._take_over = Takeover(self._ask, self._keys, self.replica, ttl_ms, heir, self._taken, on_cancel)
        self._tasks: list[asyncio.Task[None]] = []
        self._has_lease = False
        self._told_at = 0.0
        self._silent: dict[str, float] = {}
        """Other replicas without a lease, and since when."""
        self._doubted: set[str] = set()
        """Other replicas that may have been silent for so long that their runs were taken over."""
        self._missed: deque[str] = deque(maxlen=MAX_MISSED)
        """Tokens of model calls that could not be counted as they came."""
        self._watched: dict[str, float] = {}
        """Runs of this process, and when it was last heard that they are watched elsewhere."""

    @property
    def followed(self) -> int:
        """Runs of other replicas that are followed now."""
        return len(self._followers)

    @property
    def is_up(self) -> bool:
        """Whether the store took the last write."""
        return self._health.up.is_set()

    async def __aenter__(self) -> Self:
        try:
            await self._tick()
        except BaseException:
            await self._close()
            raise
        for work in (self._keep, self._mirror.mirror, self._followers.listen):
            self._tasks.append(self._loop.create_task(_unending(work)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._end_tasks()
            await self._followers.aclose()
            with contextlib.suppress(StoreDown, TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._mirror.flush()
            with contextlib.suppress(StoreDown):
                await self._ask.call(
                    ("DEL", self._keys.replica(self.replica), self._keys.inbox(self.replica))
                )
        finally:
            await self._close()

    async def _end_tasks(self) -> None:
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            # Again, if need be: a library below may take a cancellation for its own.
            _, left = await asyncio.wait(left, timeout=CANCEL_S)

    async def _close(self) -> None:
        for link in (self._ask, self._look, self._listen, self._copy):
            await link.aclose()

    # The port.

    async def claim(self, run: Run, keys: Sequence[str]) -> str | None:
        """See `Shared`. The first key is for the time the run takes, the others stay after its end."""
        same = [self._keys.join(self._sealing.name(key)) for key in keys]
        box = self._sealing.box(f"run {run.id}")
        order = StoredRequest.of(run)
        sealed_order = (order.sealed(box) if order is not None else None) or b""
        meta = RunMeta(
            owner=self.replica,
            route=run.route.name,
            target=run.target.decode("latin-1"),
            principal=run.principal,
            fingerprint=run.fingerprint,
            told=run.told,
            source=run.source,
            started_at=time(),
            join_keys=same,
            has_request=bool(sealed_order),
        )
        stored = StoredMeta.seal(meta, box)
        copy = self._mirror.prepare(run, stored, box)
        # A run of ours that has ended may still have its key, for as long as its end takes to the store.
        replaceable = [self._mirror.replaceable(name) for name in same]
        names, ttl_ms = [self._keys.run(run.id), self._keys.request(run.id), *same], LIVE_TTL_MS
        command = CLAIM(names, ttl_ms, stored.value, sealed_order, run.id, *replaceable)
        try:
            [taken] = await self._ask.call(command)
        except StoreDown:
            self._mirror.add(copy, claimed=False)
            return None
        except BaseException:
            self._mirror.abandon(copy)
            raise
        if isinstance(taken, bytes):
            return taken.decode("latin-1")
        self._mirror.add(copy, claimed=True)
        return None

    async def find(self, run_id: str) -> ViewableRun | None:
        try:
            return await self._followers.find(run_id)
        except StoreDown:
            return None

    async def joinable(self, keys: Sequence[str]) -> str | None:
        same = [self._keys.join(self._sealing.name(key)) for key in keys]
        if not same:
            return None
        try:
            [values] = await self._ask.call(("MGET", *same))
        except StoreDown:
            return None
        ids = {name: value.decode("latin-1") for name, value in zip(same, values, strict=True) if value}
        found = (run_id for name, run_id in ids.items() if run_id != self._mirror.replaceable(name))
        return next(found, None)

    async def name(self, key: str, run_id: str, ttl_s: float) -> None:
        same = self._keys.join(self._sealing.name(key))
        with contextlib.suppress(StoreDown):
            await self._ask.call(("SET", same, run_id, "PX", int(ttl_s * 1000)))

    async def cancel(self, run_id: str) -> None:
        if not is_run_id(run_id):
            return
        with contextlib.suppress(StoreDown):
            stored = await self._followers.stored(run_id)
            while stored is not None:
                message = self._sealed(stored.meta.owner, {"cancel": run_id})
                [reply] = await self._ask.call(cancel(self._keys, run_id, stored, message))
                # It was taken over just now: the message belongs to the new owner. That happens at most as
                # often as a call may be sent.
                stored = await self._followers.stored(run_id) if result_of(reply)[0] == FENCED else None

    async def keeps(self, run_id: str) -> bool:
        # A lease that is held again says nothing of the time before: who was held up asks, until told.
        if not (self._lease.may_be_lost(self._loop.time()) or self._mirror.is_in_doubt(run_id)):
            return True
        try:
            stored = await self._followers.stored(run_id)
        except StoreDown:
            return True
        return stored is None or stored.meta.owner == self.replica

    def can_be_left(self, run_id: str) -> bool:
        return self.is_up and self._mirror.can_be_taken_over(run_id)

    def is_watched(self, run_id: str) -> bool:
        return self._loop.time() - self._watched.get(run_id, -WATCHED_S) < WATCHED_S

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        digest = self._sealing.name(ticket)
        sealed = self._sealing.box(f"ticket {ticket}").seal("ticket", 0, value)
        try:
            await self._ask.call(("SET", self._keys.ticket(digest), sealed, "PX", int(ttl_s * 1000)))
        except StoreDown:
            return False
        return True

    async def take_ticket(self, ticket: str) -> bytes | None:
        try:
            [sealed] = await self._ask.call(("GETDEL", self._keys.ticket(self._sealing.name(ticket))))
            if isinstance(sealed, bytes):
                return self._sealing.box(f"ticket {ticket}").open("ticket", 0, sealed)
        except StoreDown:
            pass
        except Unsealable as exc:
            logger.error("stored ticket cannot be read", extra={"why": str(exc)})
        return None

    async def put_tap(self, token: str, route: str, ttl_s: float) -> bool:
        sealed = self._sealing.box(f"tap {token}").seal("tap", 0, orjson.dumps([self.replica, route]))
        expiry: tuple[str, int] = ("PX", int(ttl_s * 1000))
        # The count first, and never anew: a command may be executed twice.
        count: Command = ("SET", self._calls_key(token), "0", "NX", *expiry)
        try:
            await self._ask.call(count, ("SET", self._tap_key(token), sealed, *expiry))
        except StoreDown:
            return False
        return True

    async def drop_tap(self, token: str) -> None:
        with contextlib.suppress(StoreDown):  # it expires
            await self._ask.call(("DEL", self._tap_key(token), self._calls_key(token)))

    async def find_tap(self, token: str) -> tuple[str, str] | None:
        try:
            [sealed] = await self._ask.call(("GET", self._tap_key(token)))
            if isinstance(sealed, bytes):
                replica, route = orjson.loads(self._sealing.box(f"tap {token}").open("tap", 0, sealed))
                return replica, route
        except StoreDown:
            await self.count_call(token)  # before the call is made, or the next one is taken for it
        except Unsealable as exc:
            logger.error("stored tap cannot be read", extra={"why": str(exc)})
        return None

    async def count_call(self, token: str) -> int | None:
        try:
            [count] = await self._ask.call(COUNT([self._calls_key(token)]))
            return count if isinstance(count, int) else None
        except StoreDown:
            self._missed.append(token)
            return None

    async def put_denylist_entry(self, name: str, value: bytes, ttl_s: float) -> None:
        sealed = self._sealing.box(f"learned {name}").seal("learned", 0, value)
        with contextlib.suppress(StoreDown):
            await self._ask.call(PUT_DENYLIST_ENTRY([self._keys.learned], name, sealed, int(ttl_s * 1000)))

    async def find_denylist_entry(self, name: str) -> bytes | None:
        with contextlib.suppress(StoreDown):
            [sealed] = await self._ask.call(("HGET", self._keys.learned, name))
            return self._denylist_entry(name, sealed)
        return None

    async def drop_denylist_entry(self, name: str) -> None:
        with contextlib.suppress(StoreDown):
            await self._ask.call(("HDEL", self._keys.learned, name))

    async def denylist_entries(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with contextlib.suppress(StoreDown):
            [said] = await self._ask.call(("HGETALL", self._keys.learned))
            pairs = said if isinstance(said, list) else []
            for name, sealed in zip(pairs[::2], pairs[1::2], strict=True):
                if (value := self._denylist_entry(name.decode(), sealed)) is not None:
                    found[name.decode()] = value
        return found

    def _denylist_entry(self, name: str, sealed: object) -> bytes | None:
        if not isinstance(sealed, bytes):
            return None
        try:
            return self._sealing.box(f"learned {name}").open("learned", 0, sealed)
        except Unsealable as exc:
            logger.error("what was learned cannot be read", extra={"why": str(exc)})
            return None

    async def tell(self, replica: str, message: dict[str, Any]) -> None:
        with contextlib.suppress(StoreDown):
            await self._ask.call(self._message(replica, message))

    def _tap_key(self, token: str) -> str:
        return self._keys.tap(self._sealing.name(token))

    def _calls_key(self, token: str) -> str:
        return self._keys.tap_calls(self._sealing.name(token))

    # Messages between replicas.

    def _message(self, replica: str, content: dict[str, Any]) -> Command:
        return send(self._keys, replica, self._sealed(replica, content))

    def _sealed(self, replica: str, content: dict[str, Any]) -> bytes:
        return self._sealing.box(f"inbox {replica}").seal("message", 0, orjson.dumps(content))

    def _hear(self, message: bytes) -> None:
        if not message:
            return
        try:
            heard = orjson.loads(self._sealing.box(f"inbox {self.replica}").open("message", 0, message))
        except Unsealable as exc:
            logger.error("message cannot be read", extra={"why": str(exc)})
            return
        if "cancel" in heard:
            self._take_over.cancel(heard["cancel"])
            self._on_cancel(heard["cancel"])
        self._on_tap(heard.get("taps", ()))
        now = self._loop.time()
        self._watched.update({run_id: now for run_id in heard.get("watched", ()) if self._mirror.has(run_id)})

    def _taken(self, run: Run, copied: FollowedRun) -> None:
        self._followers.release(copied)
        self._mirror.continue_copy(run, copied)

    # What is done again and again.

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._news.wait()
            await self._tick()

    async def _tick(self) -> None:
        """Say what is to be said; hear who lives. Also finds out whether the store is back."""
        now = self._loop.time()
        commands: list[Command] = []
        if self._news.is_set() or now - self._told_at >= WATCH_S:
            watched = self._followers.watched().items()
            commands += [self._message(owner, {"watched": run_ids}) for owner, run_ids in watched]
            self._told_at = now
        self._news.clear()
        missed = list(self._missed)
        self._missed.clear()
        commands += [COUNT([self._calls_key(token)]) for token in missed]
        owners = list(self._followers.owners())
        if owners:
            commands.append(("MGET", *(self._keys.replica(owner) for owner in owners)))
        was_up = self._health.up.is_set()
        lease: Command = ("SET", self._keys.replica(self.replica), "1", "PX", int(LEASE_S * 1000), "GET")
        try:
            replies = await self._ask.call(lease, *commands, probe=True)
        except StoreDown:
            self._missed.extendleft(reversed(missed))
            self._silent.clear()
            self._doubted.update(owners)
            self._followers.give_up()
            self._mirror.bound_backlog()
            return
        self._health.wrote()
        if not was_up or self._lease.may_be_lost(now) or (self._has_lease and replies[0] is None):
            self._mirror.doubt_all()
        self._has_lease = True
        self._lease.renew(now)
        self._mirror.refresh()
        self._followers.drop_idle()
        self._watched = {run_id: at for run_id, at in self._watched.items() if now - at < WATCHED_S}
        with contextlib.suppress(StoreDown):
            await self._take_over.settle_bids()
            if owners:
                await self._look_for_lost(dict(zip(owners, replies[-1], strict=True)), now)

    async def _look_for_lost(self, leases: Mapping[str, bytes | None], now: float) -> None:
        silent = {owner for owner, lease in leases.items() if lease is None}
        self._silent = {owner: self._silent.get(owner, now) for owner in silent}
        for owner in self._doubted - silent:
            await self._followers.look_again(owner)
            self._doubted.discard(owner)
        self._doubted |= silent
        for owner, since in self._silent.items():
            if now - since >= LOST_S:
                for run in self._followers.of(owner):
                    await self._take_over.lose(run, now - since - LOST_S)


async def _unending(work: Callable[[], Coroutine[None, None, None]]) -> None:
    while True:
        try:
            await work()
        except Exception:  # what it does is needed until the process ends
            logger.exception("task of the log store failed")
            await asyncio.sleep(RESTART_S)
