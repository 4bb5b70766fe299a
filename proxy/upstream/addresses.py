"""The addresses of a server's name.

A name is looked up anew for new connections, so that a service that has moved is found without a restart.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest
from time import monotonic
from typing import Final

ADDRESSES_S: Final = 5.0
"""Seconds for which the addresses of a name are used: a system's resolver does not say how long they hold."""

MAX_ADDRESSES: Final = 8
"""Addresses of a name that are tried for one connection."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Finds the addresses of a name, the best one first. Raises OSError if it has none."""


class Addresses:
    """The addresses of one server.

    Args:
        host: its name, or its only address.
        resolve: None: asks the system's resolver.
    """

    def __init__(self, host: str, resolve: Resolve | None = None) -> None:
        self._host = host
        self._resolve = resolve or _resolve
        self._found: Sequence[str] = (host,)
        self._until = float("inf") if _is_address(host) else 0.0
        self._looking: asyncio.Task[Sequence[str]] | None = None

    async def look_up(self) -> Sequence[str]:
        """The addresses, in the order in which to try them. Raises OSError if there are none."""
        if monotonic() < self._until:
            return self._found
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._ask())
            self._looking.add_done_callback(self._asked)
        # Connections share the answer; one that is given up takes it from no other.
        return await asyncio.shield(self._looking)

    def known(self) -> str | None:
        """The only address, if it is known. None: look it up, or try one after the other."""
        return self._found[0] if len(self._found) == 1 and monotonic() < self._until else None

    def forget(self) -> None:
        """None of them has accepted a connection: a name is looked up for the next one."""
        if not _is_address(self._host):
            self._until = 0.0

    async def _ask(self) -> Sequence[str]:
        self._found = alternating(await self._resolve(self._host))[:MAX_ADDRESSES]
        self._until = monotonic() + ADDRESSES_S
        return self._found

    def _asked(self, task: asyncio.Task[Sequence[str]]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # who waits for it has it; they may all be gone


def alternating(hosts: Sequence[str]) -> list[str]:
    """Return both families in turns, each in the resolver's order, the family of its first choice first (RFC
    8305 section 4): where one family leads nowhere, the second try has the other."""
    first = [host for host in hosts if (":" in host) == (":" in hosts[0])]
    others = [host for host in hosts if (":" in host) != (":" in hosts[0])]
    return [host for host in chain.from_iterable(zip_longest(first, others)) if host is not None]


async def _resolve(host: str) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [
        f"{address[0]}%{address[3]}" if len(address) > 3 and address[3] else str(address[0])
        for *_, address in found
    ]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
