"""Asks Sentinels, or the nodes of a cluster, which server to write to. Knows nothing of runs."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import Connection
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as StoreConnectionError

from flags.tls import why

CLOSING = (RedisError, OSError)

Place = tuple[str, int]
"""Host and port."""


class NoPrimary(StoreConnectionError):
    """Nobody who answers knows the server to write to."""


class NotLetIn(NoPrimary):
    """One of them does not take the login, or wants one; no other knows it."""


@dataclass(frozen=True, slots=True)
class BySentinel:
    """Of Sentinels."""

    service: str
    """The name under which they watch the primary."""

    @property
    def question(self) -> tuple[str, ...]:
        return "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service

    def place(self, reply: Any, asked: Place) -> Place | None:
        """None: it is not known there."""
        return (reply[0].decode(), int(reply[1])) if isinstance(reply, list) else None


@dataclass(frozen=True, slots=True)
class ByCluster:
    """Of a cluster's nodes."""

    key: str
    """All keys are on the node of this one."""

    @property
    def question(self) -> tuple[str, ...]:
        return "CLUSTER", "SLOTS"

    def place(self, reply: Any, asked: Place) -> Place | None:
        """None: no node has the slot. A node that does not say its own host is where it was asked."""
        slot = key_slot(self.key.encode())
        for first, last, primary, *_ in reply:
            if first <= slot <= last:
                return (primary[0] or b"").decode() or asked[0], primary[1]
        return None


class Discovery:
    """Those who know. A question has a connection of its own, since it is asked only before connecting.

    Args:
        addresses: in the order in which they are asked; who does not answer becomes the last one.
        by: what they are asked.
        connection: makes one to a host and a port, with a timeout for connecting.
    """

    def __init__(
        self,
        addresses: Sequence[Place],
        by: BySentinel | ByCluster,
        connection: Callable[[str, int], Connection],
    ) -> None:
        self._addresses = deque(addresses)
        self._by = by
        self._connection = connection

    async def primary(self) -> Place:
        """The server to write to. The caller bounds the time: next time another one is asked first.

        Raises:
            NoPrimary: none of them knows it, or tells it.
        """
        last, error = "none knows it", NoPrimary
        for _ in range(len(self._addresses)):
            asked = self._addresses[0]
            self._addresses.rotate(-1)  # also if this one takes so long that the caller gives up
            try:
                found = await self._ask(asked)
            except AuthenticationError as exc:
                last, error = why(exc), NotLetIn
                continue
            except CLOSING as exc:
                last = why(exc)
                continue
            if found is not None:
                self._addresses.rotate(1)
                return found
        raise error(last)

    async def _ask(self, asked: Place) -> Place | None:
        connection = self._connection(*asked)
        try:
            await connection.send_command(*self._by.question)
            return self._by.place(await connection.read_response(), asked)
        finally:
            await connection.disconnect(nowait=True)
