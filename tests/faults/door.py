"""Refused connections, and short pauses: what is done to a Headgate and not to its upstream."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from proxy.errors import Fault
from proxy.runs import recovery
from proxy.sources import poll
from proxy.upstream.client import Upstream
from proxy.upstream.connection import Connection
from tests.faults.upstream import Round


class Door:
    """Refuses connections to the upstream as told, with the kernel's own refusal: nobody listens there."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._origin = self._nowhere = upstream.origin
        self._connect = upstream.connect
        self._round: Round | None = None
        self._refusals: list[bool] = []
        self.turn = asyncio.Lock()
        """One round at a time: a connection does not say whose it is."""

    @contextmanager
    def open(self) -> Iterator["Door"]:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # bound, so that nobody else gets it, and never listening
            self._nowhere = replace(self._origin, port=nobody.getsockname()[1])
            self._upstream.connect = self._through  # type: ignore[method-assign]
            try:
                yield self
            finally:
                self._upstream.connect = self._connect  # type: ignore[method-assign]
                self._upstream.origin = self._origin

    @asynccontextmanager
    async def refusing(self, round_: Round) -> AsyncIterator[None]:
        """The round's connections in their order, refused or not; all others go through."""
        async with self.turn:
            self._round, self._refusals = round_, list(round_.case.refusals)
            try:
                yield
            finally:
                self._round, self._refusals = None, []

    async def _through(self) -> Connection:
        refuses = self._refusals.pop(0) if self._refusals else False
        if refuses and self._round is not None:
            self._round.injected.append((Fault.CONNECT, self._round.case.phase))
        # `connect` reads it before it waits for anything.
        self._upstream.origin = self._nowhere if refuses else self._origin
        return await self._connect()


@contextmanager
def quick() -> Iterator[None]:
    """Short pauses and little patience of the sources; enough for 32 rounds at once on a busy machine."""
    before = recovery.PAUSES_S, poll.BEFORE_S, poll.BLOCKED_MIN_S
    recovery.PAUSES_S, poll.BEFORE_S, poll.BLOCKED_MIN_S = (0.01, 0.02), 0.8, 0.8
    try:
        yield
    finally:
        recovery.PAUSES_S, poll.BEFORE_S, poll.BLOCKED_MIN_S = before
