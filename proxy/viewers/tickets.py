"""Tickets: single use, for EventSource, which cannot send headers. No credential is ever in a URL.

Whoever keeps them, memory or the replicas' store, has their hashes alone, and nothing here is logged.
"""

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from proxy.errors import RequestRefused, StoreDown
from proxy.shares import Shares

TICKET_S = 30
"""Seconds in which a ticket is to be redeemed; fewer if the token it was got with ends sooner."""

LEAST_S = 0.001
"""A store counts in milliseconds, and refuses to keep anything for none."""

TICKET_BYTES = 24
"""Random bytes of a ticket: 192 bits, 32 characters."""

MAX_DRAWS = 1000
"""Tickets that are drawn until one has its place near its principal's runs; one in as many as there are
shards has."""

MAX_TICKETS = 10_000
"""Tickets in memory, of about 600 bytes each. Over it, the oldest one of the principal with the most goes."""

MAX_STORED_OF_ONE = 1000
"""The most tickets that one principal gets of a process in each `TICKET_S`, where a store keeps them: its
memory is shared, and it lets go of tickets by their time alone."""

TOO_MANY = "You have as many tickets as one may have at once. Please try again."

_TICKET = re.compile(r"[A-Za-z0-9_-]{32}")


@dataclass(frozen=True, slots=True)
class TicketHolder:
    """The principal whose ticket it was."""

    principal: str
    expires_at: float | None
    """The time at which the token ends that the ticket was got with, in seconds since the epoch."""


class TicketStore(Protocol):
    """Keeps tickets for all replicas. No method raises for a store that is down."""

    def is_near(self, ticket: str, principal: str) -> bool:
        """True if a ticket is where the runs of its principal are, so that it is away only when they are."""
        ...

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        """Keep a ticket for all replicas; False if there is nowhere to keep it."""
        ...

    async def take_ticket(self, ticket: str) -> bytes | None:
        """Its value, once. Raises StoreDown: there may be one."""
        ...


class Tickets:
    """The tickets that can still be redeemed.

    Args:
        shared: keeps them, so that every replica can redeem them; None, or where it cannot: memory.
        clock: seconds that only go on, by which a ticket's time is over: the wall's clock may be set.
        epoch: seconds since the epoch, as the end of a token is given.
    """

    def __init__(
        self,
        shared: TicketStore | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._epoch = epoch
        self._kept: dict[str, tuple[bytes, float, str]] = {}
        """Tickets by hash: the value, the clock's time when it ends, and the principal."""
        self._of: dict[str, dict[str, None]] = {}
        """Hashes of tickets by principal, the oldest first."""
        self._shares: Shares[str] = Shares(latest_first=False)
        self._stored_of: Counter[str] = Counter()
        self._counted_since = clock()

    def __len__(self) -> int:
        """The number of tickets in memory."""
        return len(self._kept)

    async def issue(self, run_id: str, principal: str, expires_at: float | None) -> str:
        """A new ticket for one run, for `principal`, whose token ends at `expires_at`.

        Raises RequestRefused, 503, if the principal has too many in the store.
        """
        ticket = self._drawn(principal)
        ttl_s = TICKET_S if expires_at is None else min(TICKET_S, expires_at - self._epoch())
        if ttl_s < LEAST_S:
            return ticket  # it opens nothing
        if self._shared is not None:
            self._count_stored(principal)
        key, value = _hash(ticket), orjson.dumps([run_id, principal, expires_at])
        if self._shared is None or not await self._shared.put_ticket(key, value, ttl_s):
            now = self._clock()
            self._kept[key] = value, now + ttl_s, principal
            self._of.setdefault(principal, {})[key] = None
            self._shares.add(principal, 1)
            self._forget(now)
        return ticket

    async def redeem(self, ticket: str, run_id: str) -> TicketHolder | None:
        """The principal whose ticket for this run it is, or None. The ticket is used up whatever the answer
        is.

        Raises:
            StoreDown: another replica may have issued it.
        """
        if not _TICKET.fullmatch(ticket):
            return None  # anybody may send anything: the store is asked only about what can be one
        key = _hash(ticket)
        value, until = self._take(key) if key in self._kept else (None, 0.0)
        if value is not None and until <= self._clock():
            return None
        if self._shared is not None:
            # Whose time the store keeps. One in memory may be there too, if the store's reply was lost.
            try:
                stored = await self._shared.take_ticket(key)
            except StoreDown:
                if value is None:
                    raise
            else:
                value = stored if value is None else value
        if value is None:
            return None
        of_run, principal, expires_at = orjson.loads(value)
        return TicketHolder(principal, expires_at) if of_run == run_id else None

    def _drawn(self, principal: str) -> str:
        for _ in range(MAX_DRAWS):
            ticket = secrets.token_urlsafe(TICKET_BYTES)
            if self._shared is None or self._shared.is_near(_hash(ticket), principal):
                break
        return ticket

    def _count_stored(self, principal: str) -> None:
        now = self._clock()
        if now - self._counted_since >= TICKET_S:
            self._stored_of.clear()
            self._counted_since = now
        if self._stored_of[principal] >= MAX_STORED_OF_ONE:
            raise RequestRefused(503, TOO_MANY)
        self._stored_of[principal] += 1

    def _forget(self, now: float) -> None:
        """Let go of those whose time is over, the oldest first; and over the bound, of the oldest of whoever
        has the most: nobody's tickets void another one's.
        """
        while self._kept[oldest := next(iter(self._kept))][1] <= now:
            self._take(oldest)
        if len(self._kept) > MAX_TICKETS:
            self._take(next(iter(self._of[self._shares.largest()])))

    def _take(self, key: str) -> tuple[bytes, float]:
        value, until, principal = self._kept.pop(key)
        del self._of[principal][key]
        if not self._of[principal]:
            del self._of[principal]
        self._shares.add(principal, -1)
        return value, until


def _hash(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
