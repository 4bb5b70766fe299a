"""Bodies of requests that are read here before anybody else reads them; never longer than their bound.

All that are held have a budget together, and each comes at a pace: else a few clients could fill the memory.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from proxy.errors import RequestRefused
from proxy.http.asgi import Message, Receive
from proxy.observe.labels import Budget

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Body of a request that becomes a run; it is held until the run ends."""

COLLECT_S = 900.0
"""Seconds that it may take altogether, as long as a call to the upstream by default. Each read has its own
bound, but one byte a minute would go on for years."""

PACE_BYTES_S = 1024
"""Bytes a second that it must have at least, on an average; a telephone of 2003 had four times as many."""

GRACE_S = 60.0
"""Seconds beyond that pace, since a good line may stall, too."""

TOO_SLOW = "The request's body did not arrive in time."

NO_ROOM = "This proxy holds as many requests as it may. Please try again."


PLACES_OF_OTHERS = 4
"""One in so many bytes of a budget is not for a principal that has all the others."""


class ByteBudget:
    """What is held of all bodies of a kind together, and of each principal's. Who has all that one may
    have is refused like whoever comes when there is no room.

    Args:
        most: bytes.
        over: is told of each body that there was no room for.
        kind: what they are.
    """

    def __init__(self, most: int, over: Callable[[Budget], None], kind: Budget = Budget.BODIES) -> None:
        self._most = most
        self._over = over
        self._kind = kind
        self.held = 0
        self._of: Counter[str] = Counter()

    def hold(self, owner: str | None = None) -> "ByteReservation":
        """For one body: `with budget.hold() as hold`. Without an owner it counts as nobody's."""
        return ByteReservation(self, owner)

    def take(self, size: int, owner: str | None) -> bool:
        is_over_share = (
            owner is not None and self._of[owner] + size > self._most - self._most // PLACES_OF_OTHERS
        )
        if is_over_share or self.held + size > self._most:
            self._over(self._kind)
            return False
        self.held += size
        if owner is not None:
            self._of[owner] += size
        return True

    def give_back(self, size: int, owner: str | None) -> None:
        self.held -= size
        if owner is not None:
            self._of[owner] -= size
            if not self._of[owner]:
                del self._of[owner]


class ByteReservation:
    """What is held of one body. Whoever has it closes it, or hands it on."""

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
        """So many bytes more; False: there is no room for them."""
        if not self._budget.take(size, self._owner):
            return False
        self._size += size
        return True

    def hand_on(self) -> "ByteReservation":
        """Somebody else holds the body from now on."""
        other = ByteReservation(self._budget, self._owner, self._size)
        self._size = 0
        return other

    def close(self) -> None:
        """The body is gone. Idempotent."""
        self._budget.give_back(self._size, self._owner)
        self._size = 0


class ReplayedBody:
    """A `receive` that says again what was read of a body, and then goes on."""

    def __init__(self, messages: list[Message], receive: Receive) -> None:
        self._messages = messages
        self._receive = receive

    @classmethod
    def of(cls, body: bytes, receive: Receive) -> Self:
        """With a body that is here whole."""
        return cls([{"type": "http.request", "body": body, "more_body": False}], receive)

    async def __call__(self) -> Message:
        return self._messages.pop(0) if self._messages else await self._receive()


async def read_ahead(receive: Receive, hold: ByteReservation) -> tuple[bytes | None, Receive]:
    """A request's body, and a `receive` for who wants to read it again.

    None if it cannot be held: it is too long, there is no room, or it comes too slowly. Raises RequestRefused
    if it does not come in time.
    """
    reading = _Reading(receive)
    messages: list[Message] = []
    whole = False
    while not whole:
        message = await reading.next()
        if message is None:
            break
        messages.append(message)
        if message["type"] == "http.disconnect":
            break
        if reading.size > MAX_REQUEST_BYTES or not hold.take(len(message["body"])):
            break
        whole = not message.get("more_body", False)
    body = b"".join(message["body"] for message in messages) if whole else None
    return body, ReplayedBody(messages, receive)


async def collect(receive: Receive, hold: ByteReservation) -> bytes:
    """A whole request body. Raises RequestRefused if it is too long, does not come whole and in time, or has
    no room.
    """
    reading = _Reading(receive)
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
        if not hold.take(len(message["body"])):
            raise RequestRefused(503, NO_ROOM)
        parts.append(message["body"])
        more = message.get("more_body", False)
    return b"".join(parts)


class _Reading:
    """One body, as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._began_at = asyncio.get_running_loop().time()
        self.size = 0

    async def next(self) -> Message | None:
        """More of it; None: it comes too slowly. Raises RequestRefused if it has taken too long in all."""
        in_all, paced = COLLECT_S, GRACE_S + self.size / PACE_BYTES_S
        try:
            async with asyncio.timeout_at(self._began_at + min(in_all, paced)):
                message = await self._receive()
        except TimeoutError:
            if in_all <= paced:
                raise RequestRefused(408, TOO_SLOW) from None
            return None
        self.size += len(message.get("body", b""))
        return message
