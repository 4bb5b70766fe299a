"""The shards of the store, each with all that is stored of its users: `proxy.runs.shared.SharedStore`.

A run, its keys and the bounds of its principal are in one shard, so every script changes keys of one. A shard
has links, a lease, messages and a health of its own: one that is away is a store that is away for its users,
and for no other. What belongs to nobody has a place by its name.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.replicas.placement import ShardPlacement
from proxy.replicas.shared_runs import ValkeyRuns, sealing_of
from proxy.replicas.shared_values import SharedDenylist
from proxy.replicas.store.side_by_side import SideBySide
from proxy.replicas.takeover import TakeoverPort
from proxy.runs.run import Run
from proxy.settings.routes import Route
from proxy.settings.settings import ValkeyLogSettings


class ShardedRuns(SideBySide):
    """All shards of the store; a context. Each is entered and left in a task of its own. Arguments: see
    `ValkeyRuns`."""

    def __init__(  # noqa: PLR0913 - most are callbacks, by name
        self,
        settings: ValkeyLogSettings,
        routes: Mapping[str, Route],
        *,
        executor: TakeoverPort,
        on_cancel: Callable[[Run], None],
        on_taken_over: Callable[[Run], None],
        on_fault: Callable[[Run], None],
        on_tap: Callable[[Sequence[Any]], None],
        has_spans: bool = False,
        strict_tls: bool = True,
    ) -> None:
        places = settings.places
        self.shards = [
            ValkeyRuns(
                settings,
                place,
                routes,
                shards=len(places),
                executor=executor,
                on_cancel=on_cancel,
                on_taken_over=on_taken_over,
                on_fault=on_fault,
                on_tap=on_tap,
                has_spans=has_spans,
                strict_tls=strict_tls,
            )
            for place in places
        ]
        super().__init__(self.shards)
        secret = sealing_of(settings).secret("shards")
        self._placement = ShardPlacement([place.name for place in places], secret)
        self.tickets = _TicketShards(self)
        self.taps = _TapShards(self)
        self.denylist = _DenylistShards(self)

    def of(self, principal: str | None) -> ValkeyRuns:
        """The shard that has the runs of a principal."""
        return self.at(f"user {principal or ''}")

    def at(self, value: str) -> ValkeyRuns:
        """The shard that has anything else, by a kind and a name."""
        return self.shards[0 if len(self.shards) == 1 else self._placement.of(value)]

    @property
    def is_up(self) -> bool:
        """True if each shard took the last write."""
        return all(shard.is_up for shard in self.shards)

    @property
    def up(self) -> Mapping[str, bool]:
        """By name, whether a shard took the last write; empty if the store has no shards."""
        return {shard.shard: shard.is_up for shard in self.shards if shard.shard}


class _TicketShards:
    """See `SharedTickets`."""

    def __init__(self, store: ShardedRuns) -> None:
        self._store = store

    def is_near(self, ticket: str, principal: str) -> bool:
        return self._of(ticket) is self._store.of(principal)

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        return await self._of(ticket).tickets.put_ticket(ticket, value, ttl_s)

    async def take_ticket(self, ticket: str) -> bytes | None:
        return await self._of(ticket).tickets.take_ticket(ticket)

    def _of(self, ticket: str) -> ValkeyRuns:
        return self._store.at(f"ticket {ticket}")


class _TapShards:
    """See `SharedTaps`. A replica has a name of its own in each shard, and messages of a token all go the
    same way, so they stay in their order."""

    def __init__(self, store: ShardedRuns) -> None:
        self._store = store

    def is_near(self, token: str, principal: str | None) -> bool:
        return self._of(token) is self._store.of(principal)

    async def put_tap(self, token: str, route: str, ttl_s: float) -> bool:
        return await self._of(token).taps.put_tap(token, route, ttl_s)

    async def drop_tap(self, token: str) -> None:
        await self._of(token).taps.drop_tap(token)

    async def find_tap(self, token: str) -> tuple[str, str] | None:
        shard = self._of(token)
        found = await shard.taps.find_tap(token)
        return None if found is None else (f"{self._store.shards.index(shard)} {found[0]}", found[1])

    async def count_call(self, token: str) -> int | None:
        return await self._of(token).taps.count_call(token)

    async def tell(self, replica: str, content: dict[str, Any]) -> None:
        index, _, name = replica.partition(" ")
        await self._store.shards[int(index)].taps.tell(name, content)

    def _of(self, token: str) -> ValkeyRuns:
        return self._store.at(f"tap {token}")


class _DenylistShards:
    """See `SharedDenylist`. An entry of a shard that is away is not there: a model is asked for one more
    stream."""

    def __init__(self, store: ShardedRuns) -> None:
        self._store = store

    async def put_denylist_entry(self, name: str, value: bytes, ttl_s: float) -> None:
        await self._of(name).put_denylist_entry(name, value, ttl_s)

    async def find_denylist_entry(self, name: str) -> bytes | None:
        return await self._of(name).find_denylist_entry(name)

    async def drop_denylist_entry(self, name: str) -> None:
        await self._of(name).drop_denylist_entry(name)

    async def denylist_entries(self) -> dict[str, bytes]:
        lists = await asyncio.gather(*(shard.denylist.denylist_entries() for shard in self._store.shards))
        return {name: value for entries in lists for name, value in entries.items()}

    def _of(self, name: str) -> SharedDenylist:
        return self._store.at(f"learned {name}").denylist
