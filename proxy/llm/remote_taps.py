"""The model calls of runs that other replicas execute: their text is sent there, by way of the log store.

Pieces wait for each other a little, so that a thousand calls cost no more messages than one. What is lost on
the way is not sent again: the run's own replica notices the gap, and has the batch answer in the end.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from proxy.llm.dialects.dialect import Prompt
from proxy.llm.places import CallPlace, allowed

GATHER_S = 0.02
"""How long a piece waits for others."""

MAX_WAITING = 10_000
"""Items for one replica that wait while the store is slow; those beyond it are dropped."""


class Mail(Protocol):
    """The way to another replica."""

    async def tell(self, replica: str, said: dict[str, Any]) -> None:
        """Send a message, if that is possible now."""
        ...


class Outbox:
    """What is to be said to one replica, in order. Its task lives as long as there is something."""

    def __init__(self, replica: str, mail: Mail) -> None:
        self._replica = replica
        self._mail = mail
        self._items: list[Sequence[Any]] = []
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._task is None

    def put(self, item: Sequence[Any]) -> asyncio.Event:
        """Say something; the event is set when it has gone out, or was lost."""
        if len(self._items) < MAX_WAITING:
            self._items.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send())
        return self._gone

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _send(self) -> None:
        try:
            while self._items:
                await asyncio.sleep(GATHER_S)
                items, self._items = self._items, []
                gone, self._gone = self._gone, asyncio.Event()
                try:
                    await self._mail.tell(self._replica, {"taps": items})
                finally:
                    gone.set()
        finally:
            self._task = None


class RemoteTap:
    """A tap of another replica; an `OpenTap`."""

    def __init__(
        self,
        outbox: Outbox,
        token: str,
        places: Sequence[CallPlace],
        count: Callable[[str], Awaitable[int | None]],
    ) -> None:
        self._outbox = outbox
        self._token = token
        self._places = places
        self._count = count

    async def doubt(self) -> None:
        await self._count(self._token)  # the run's own replica sees the gap

    async def begin(self, digest: bytes, prompt: Prompt) -> "RemoteCall":
        number = await self._count(self._token)
        call = RemoteCall(self._outbox, self._token)
        call.say("begin", [digest.hex(), allowed(self._places, prompt), number])
        return call


class RemoteCall:
    """A call of a run at another replica; a `TappedCall`. What it says is numbered, from 0."""

    def __init__(self, outbox: Outbox, token: str) -> None:
        self._outbox = outbox
        self._token = token
        self._id = secrets.token_hex(8)
        self._number = 0

    def add(self, piece: str) -> None:
        if piece:
            self.say("text", piece)

    async def finish(self) -> None:
        await self.say("finish", None).wait()  # or the upstream's answer could be there before it

    async def fail(self) -> None:
        await self.say("fail", None).wait()

    def say(self, what: str, value: Any) -> asyncio.Event:
        gone = self._outbox.put((self._token, self._id, self._number, what, value))
        self._number += 1
        return gone
