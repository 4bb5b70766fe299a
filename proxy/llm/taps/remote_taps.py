"""Model calls of runs that other replicas execute: their text is sent there through the store.

Pieces are batched for a moment, so that a thousand calls cost no more messages than one. A lost message is
not sent again: the run's own replica notices the gap, and has the batch answer in the end.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from proxy.llm.assembly.dialect import Prompt
from proxy.llm.taps.expected_calls import ExpectedCall, matching

GATHER_S = 0.02
"""Seconds that a piece waits for others to be sent with it."""

MAX_WAITING = 10_000
"""Items for one replica that wait while the store is slow. Further ones are dropped."""


class Messenger(Protocol):
    """The way to another replica."""

    async def tell(self, replica: str, message: dict[str, Any]) -> None:
        """Send a message, if that is possible now."""


class Outbox:
    """Messages to one replica, in order. Its task lives as long as messages wait."""

    def __init__(self, replica: str, messenger: Messenger) -> None:
        self._replica = replica
        self._messenger = messenger
        self._items: list[Sequence[Any]] = []
        self._sent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._task is None

    def put(self, item: Sequence[Any]) -> asyncio.Event:
        """Queue an item. The event is set when the item was sent, or lost."""
        if len(self._items) < MAX_WAITING:
            self._items.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send())
        return self._sent

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _send(self) -> None:
        try:
            while self._items:
                await asyncio.sleep(GATHER_S)
                items, self._items = self._items, []
                sent, self._sent = self._sent, asyncio.Event()
                try:
                    await self._messenger.tell(self._replica, {"taps": items})
                finally:
                    sent.set()
        finally:
            self._task = None


class RemoteTap:
    """A tap of another replica; an `OpenTap`."""

    def __init__(
        self,
        outbox: Outbox,
        token: str,
        route: str,
        expected: Sequence[ExpectedCall],
        count: Callable[[str], Awaitable[int | None]],
    ) -> None:
        self.route = route
        self._outbox = outbox
        self._token = token
        self._expected = expected
        self._count = count

    async def doubt(self) -> None:
        await self._count(self._token)  # the run's own replica notices the gap

    async def begin(self, digest: bytes, prompt: Prompt) -> "RemoteCall":
        number = await self._count(self._token)
        candidates = matching(self._expected, prompt)
        has_path = any(self._expected[index].paths for index in candidates)
        sends_text = has_path or not prompt.wants_json
        call = RemoteCall(self._outbox, self._token, sends_text=sends_text, sends_arguments=has_path)
        call.send("begin", [digest.hex(), candidates, number])
        return call


class RemoteCall:
    """A call of a run at another replica; a `TappedCall`. Its messages are numbered from 0."""

    def __init__(
        self, outbox: Outbox, token: str, *, sends_text: bool = True, sends_arguments: bool = False
    ) -> None:
        self._outbox = outbox
        self._token = token
        self._sends_text = sends_text
        self._sends_arguments = sends_arguments
        self._id = secrets.token_hex(8)
        self._number = 0

    def add(self, piece: str) -> None:
        if piece and self._sends_text:
            self.send("text", piece)

    def add_arguments(self, piece: str) -> None:
        if piece and self._sends_arguments:
            self.send("arguments", piece)

    async def finish(self) -> None:
        await self.send("finish", None).wait()  # or the upstream's answer could overtake it

    async def fail(self) -> None:
        await self.send("fail", None).wait()

    def send(self, what: str, value: Any) -> asyncio.Event:
        sent = self._outbox.put((self._token, self._id, self._number, what, value))
        self._number += 1
        return sent
