"""Everything but runs that replicas share through the store: tickets, taps, the denylist, and messages.

Every value is sealed. No method raises for a store that is down.
"""

import asyncio
import contextlib
import logging
from collections import deque
from functools import partial
from typing import Any

import orjson

from proxy.errors import StoreDown
from proxy.replicas.store.records import Keys
from proxy.replicas.store.scripts import COUNT, PUT_DENYLIST_ENTRY, send
from proxy.replicas.store.sealing import Sealing, Unsealable
from proxy.replicas.store.valkey import Command, Link

logger = logging.getLogger("headgate.event_log")

MAX_MISSED = 1000
"""Model calls that are counted when the store is back; more are not counted."""

MAX_ENTRIES = 1024
"""Entries of the denylist in one shard. As a rule in all of them, but while one is late nobody can count."""

MAX_LATE = 100
"""Commands of the denylist that a late shard has not answered; more are not sent."""

SOON_S = 0.1
"""The most that a model call waits for the denylist. A model's entry is in one shard, its users in all."""


class Messages:
    """Messages between replicas.

    Args:
        replica: this one's name.
    """

    def __init__(self, link: Link, keys: Keys, sealing: Sealing, replica: str) -> None:
        self._link = link
        self._keys = keys
        self._sealing = sealing
        self._replica = replica

    async def tell(self, replica: str, content: dict[str, Any]) -> None:
        """Send a message."""
        with contextlib.suppress(StoreDown):
            await self._link.call(self.command(replica, content))

    def command(self, replica: str, content: dict[str, Any]) -> Command:
        """The command that sends a message."""
        return send(self._keys, replica, self.sealed(replica, content))

    def sealed(self, replica: str, content: dict[str, Any]) -> bytes:
        return self._sealing.box(f"inbox {replica}").seal("message", 0, orjson.dumps(content))

    def opened(self, message: bytes) -> dict[str, Any]:
        """The content of a message to this replica; empty, logged, if it cannot be opened."""
        try:
            plain = self._sealing.box(f"inbox {self._replica}").open("message", 0, message)
        except Unsealable as exc:
            logger.error("message cannot be read", extra={"why": str(exc)})
            return {}
        content: dict[str, Any] = orjson.loads(plain)
        return content


class SharedTickets:
    """Tickets that every replica can redeem; see `proxy.viewers.tickets`."""

    def __init__(self, link: Link, keys: Keys, sealing: Sealing) -> None:
        self._link = link
        self._keys = keys
        self._sealing = sealing

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        digest = self._sealing.name(ticket)
        sealed = self._sealing.box(f"ticket {ticket}").seal("ticket", 0, value)
        try:
            await self._link.call(("SET", self._keys.ticket(digest), sealed, "PX", int(ttl_s * 1000)))
        except StoreDown:
            return False
        return True

    async def take_ticket(self, ticket: str) -> bytes | None:
        [sealed] = await self._link.call(("GETDEL", self._keys.ticket(self._sealing.name(ticket))))
        try:
            if isinstance(sealed, bytes):
                return self._sealing.box(f"ticket {ticket}").open("ticket", 0, sealed)
        except Unsealable as exc:
            logger.error("stored ticket cannot be read", extra={"why": str(exc)})
        return None


class SharedTaps:
    """Taps that the model ports of all replicas can find; a `TapShare`."""

    def __init__(self, link: Link, keys: Keys, sealing: Sealing, messages: Messages, replica: str) -> None:
        self._link = link
        self._keys = keys
        self._sealing = sealing
        self._replica = replica
        self.tell = messages.tell
        self.missed: deque[str] = deque(maxlen=MAX_MISSED)
        """Tokens of model calls that could not be counted as they came."""

    async def put_tap(self, token: str, route: str, ttl_s: float) -> bool:
        sealed = self._sealing.box(f"tap {token}").seal("tap", 0, orjson.dumps([self._replica, route]))
        expiry: tuple[str, int] = ("PX", int(ttl_s * 1000))
        # The count first, and never anew: a command may be executed twice.
        count: Command = ("SET", self._calls_key(token), "0", "NX", *expiry)
        try:
            await self._link.call(count, ("SET", self._tap_key(token), sealed, *expiry))
        except StoreDown:
            return False
        return True

    async def drop_tap(self, token: str) -> None:
        with contextlib.suppress(StoreDown):  # it expires
            await self._link.call(("DEL", self._tap_key(token), self._calls_key(token)))

    async def find_tap(self, token: str) -> tuple[str, str] | None:
        try:
            [sealed] = await self._link.call(("GET", self._tap_key(token)))
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
            [count] = await self._link.call(self.count_command(token))
            return count if isinstance(count, int) else None
        except StoreDown:
            self.missed.append(token)
            return None

    def count_command(self, token: str) -> Command:
        return COUNT([self._calls_key(token)])

    def _tap_key(self, token: str) -> str:
        return self._keys.tap(self._sealing.name(token))

    def _calls_key(self, token: str) -> str:
        return self._keys.tap_calls(self._sealing.name(token))


class SharedDenylist:
    """The stream denylist of all replicas; a `DenylistStore`.

    A shard that is late is asked in the background, by one look at a time, and waited for again once it has
    answered in time.
    """

    def __init__(self, link: Link, keys: Keys, sealing: Sealing) -> None:
        self._link = link
        self._key = keys.learned
        self._sealing = sealing
        self._loop = asyncio.get_running_loop()
        self._is_late = False
        self._asking: set[asyncio.Task[Any]] = set()

    async def aclose(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def put_denylist_entry(self, name: str, value: bytes, ttl_s: float) -> None:
        sealed = self._sealing.box(f"learned {name}").seal("learned", 0, value)
        await self._soon(PUT_DENYLIST_ENTRY([self._key], name, sealed, int(ttl_s * 1000), MAX_ENTRIES))

    async def find_denylist_entry(self, name: str) -> bytes | None:
        if self._is_late and self._asking:
            return None
        return self._opened(name, await self._soon(("HGET", self._key, name)))

    async def drop_denylist_entry(self, name: str) -> None:
        await self._soon(("HDEL", self._key, name))

    async def denylist_entries(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        reply = await self._soon(("HGETALL", self._key))
        pairs = reply if isinstance(reply, list) else []
        for name, sealed in zip(pairs[::2], pairs[1::2], strict=True):
            if (value := self._opened(name.decode(), sealed)) is not None:
                found[name.decode()] = value
        return found

    async def _soon(self, command: Command) -> object:
        """The reply; None if there is none yet. Whatever is late is done all the same, unless the store is
        down, or `MAX_LATE` are late."""
        if self._is_late and len(self._asking) >= MAX_LATE:
            return None
        task = self._loop.create_task(self._called(command))
        self._asking.add(task)
        task.add_done_callback(partial(self._answered, self._loop.time()))
        if not self._is_late:
            await asyncio.wait({task}, timeout=SOON_S)
            self._is_late = not task.done()
        return task.result() if task.done() and not task.cancelled() else None

    def _answered(self, asked_at: float, task: "asyncio.Task[object]") -> None:
        self._asking.discard(task)
        if self._loop.time() - asked_at < SOON_S:
            self._is_late = False

    async def _called(self, command: Command) -> object:
        with contextlib.suppress(StoreDown):
            [reply] = await self._link.call(command)
            return reply
        return None

    def _opened(self, name: str, sealed: object) -> bytes | None:
        if not isinstance(sealed, bytes):
            return None
        try:
            return self._sealing.box(f"learned {name}").open("learned", 0, sealed)
        except Unsealable as exc:
            logger.error("what was learned cannot be read", extra={"why": str(exc)})
            return None
