"""Asks Sentinels which server is the primary. Knows nothing of runs."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import RedisError

from flags.tls import why

CLOSING = (RedisError, OSError)


class NoPrimary(StoreConnectionError):
    """No Sentinel that answers knows the service's primary."""


class Sentinels:
    """Those of one service. A question has a connection of its own, since it is asked only before connecting.

    Args:
        addresses: in the order in which they are asked; who does not answer becomes the last one.
        service: the name under which they watch the primary.
        connection: makes one to a host and a port, with a timeout for connecting.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        service: str,
        connection: Callable[[str, int], Connection],
    ) -> None:
        self._addresses = deque(addresses)
        self._service = service
        self._connection = connection

    async def primary(self) -> tuple[str, int]:
        """Host and port. The caller bounds the time: next time it is another Sentinel that is asked first.

        Raises:
            NoPrimary: none of them knows it.
        """
        last = "none knows the service"
        for _ in range(len(self._addresses)):
            host, port = self._addresses[0]
            self._addresses.rotate(-1)  # also if this one takes so long that the caller gives up
            try:
                found = await self._ask(host, port)
            except CLOSING as exc:
                last = why(exc)
                continue
            if found is not None:
                self._addresses.rotate(1)
                return found
        raise NoPrimary(last)

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        connection = self._connection(host, port)
        try:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            reply: Any = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
        return (reply[0].decode(), int(reply[1])) if isinstance(reply, list) else None
