"""Request bodies that are read into memory, each within a bound.

All of them share a budget, and each must keep a pace: else a few clients could fill the memory.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from proxy.downstream.client_request import ClientRequest
from proxy.errors import RequestRefused
from proxy.http.asgi import Message, Receive
from proxy.observe.labels import Budget

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""The longest body of a request that becomes a run, which keeps the body until it ends."""

COLLECT_S = 900.0
"""Seconds that a body may take in all, as long as a call to the upstream by default. Each read has its own
bound, but one byte a minute would go on for years."""

PACE_BYTES_S = 1024
"""Least bytes a second of a body, on average; a telephone of 2003 had four times as many."""

GRACE_S = 60.0
"""Seconds beyond that pace, since a good line may stall, too."""

TOO_SLOW = "The request's body did not arrive in time."

NO_ROOM = "This proxy holds as many requests as it may. Please try again."


KEPT_FOR_OTHERS = 4
"""The part of a budget, one in so many bytes, that a principal cannot take if it has all the rest."""


class ByteBudget:
    """The bytes of all bodies of a kind, and how many of them each principal has.

    Args:
        max_bytes: of all of them; one principal has at most three quarters.
        on_refused: is called for each body that there was no room for.
        kind: of the bodies.
    """

    def __init__(
        self, max_bytes: int, on_refused: Callable[[Budget], None], kind: Budget = Budget.BODIES
    ) -> None:
        self._max_bytes = max_bytes
        self._on_refused = on_refused
        self._kind = kind
        self.held = 0
        self._held_by: Counter[str] = Counter()

    def reserve(self, owner: str | None = None) -> "ByteReservation":
        """A reservation for one body: `with budget.reserve() as reservation`. Without an owner no share is
        counted."""
        return ByteReservation(self, owner)

    def take(self, size: int, owner: str | None) -> bool:
        is_over_share = (
            owner is not None
            and self._held_by[owner] + size > self._max_bytes - self._max_bytes // KEPT_FOR_OTHERS
        )
        if is_over_share or self.held + size > self._max_bytes:
            self._on_refused(self._kind)
            return False
        self.held += size
        if owner is not None:
            self._held_by[owner] += size
        return True

    def give_back(self, size: int, owner: str | None) -> None:
        self.held -= size
        if owner is not None:
            self._held_by[owner] -= size
            if not self._held_by[owner]:
                del self._held_by[owner]


class ByteReservation:
    """The bytes of one body. Its owner closes it, or transfers it to another owner."""

    __slots__ = ("_budget", "_owner", "_size")

    def __init__(self, budget: ByteBudget, owner: str | None = None, size: int = 0) -> None:
        self._budget = budget
        self._owner = owner
        self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, size: int) -> bool:
        """Reserve `size` bytes more. False: there is no room for them, and nothing was reserved."""
        if not self._budget.take(size, self._owner):
            return False
        self._size += size
        return True

    def transfer(self) -> "ByteReservation":
        """Move the bytes to a new reservation, and empty this one."""
        other = ByteReservation(self._budget, self._owner, self._size)
        self._size = 0
        return other

    def close(self) -> None:
        """Give all bytes back. Idempotent."""
        self._budget.give_back(self._size, self._owner)
        self._size = 0


async def read_ahead(
    client: ClientRequest, reservation: ByteReservation, most_bytes: int = MAX_REQUEST_BYTES
) -> bytes | None:
    """A request's body, which is still to be read afterwards.

    None: it is too long, there is no room, or it comes too slowly. Raises RequestRefused if it takes longer
    than `COLLECT_S`.
    """
    reading = _PacedBody(cast(Receive, client.receive))
    parts: list[bytes] = []
    whole = False
    try:
        while not whole:
            message = await reading.next()
            if message is None or message["type"] == "http.disconnect":
                break
            parts.append(message["body"])
            if reading.size > most_bytes or not reservation.take(len(message["body"])):
                break
            whole = not message.get("more_body", False)
    finally:
        body = b"".join(parts)
        client.unread(body)
    return body if whole else None


async def collect(receive: Receive, reservation: ByteReservation) -> bytes:
    """A whole request body. Raises RequestRefused if it is too long, cut or too slow, or has no room."""
    reading = _PacedBody(receive)
    parts: list[bytes] = []
    more = True
    while more:
        message = await reading.next()
        if message is None:
            raise RequestRefused(408, TOO_SLOW)
        if message["type"] == "http.disconnect":
            raise RequestRefused(400, "The request's body did not arrive whole.")
        if reading.size > MAX_REQUEST_BYTES:
            raise RequestRefused(413, f"A request that is streamed may have {MAX_REQUEST_BYTES} bytes.")
        if not reservation.take(len(message["body"])):
            raise RequestRefused(503, NO_ROOM)
        parts.append(message["body"])
        more = message.get("more_body", False)
    return b"".join(parts)


def due_s(size: int) -> float:
    """Seconds from a body's beginning within which more must come than `size` bytes.

    `COLLECT_S` is all that it may take; before that, a body that is late need not be read into memory.
    """
    return min(COLLECT_S, GRACE_S + size / PACE_BYTES_S)


class _PacedBody:
    """Reads one body at its pace."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._began_at = asyncio.get_running_loop().time()
        self.size = 0

    async def next(self) -> Message | None:
        """The next message; None: the body comes too slowly. Raises RequestRefused after `COLLECT_S`."""
        try:
            async with asyncio.timeout_at(self._began_at + due_s(self.size)):
                message = await self._receive()
        except TimeoutError:
            if due_s(self.size) == COLLECT_S:
                raise RequestRefused(408, TOO_SLOW) from None
            return None
        self.size += len(message.get("body", b""))
        return message
