"""The model calls of runs that other replicas execute: their text is sent there, by way of the log store.

Pieces wait for each other a little, so that a thousand calls cost no more messages than one. Text that is
lost on the way is not sent again: the run's own replica notices the gap, and has the batch answer in the end.
It would not notice a call whose beginning is lost, and whose place the next one takes: so that is said again.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

from proxy.llm.dialect import Prompt
from proxy.llm.places import CallPlace, allowed

GATHER_S = 0.02
"""How long a piece waits for others."""

RETRY_S = 0.5
"""Between two attempts to say which taps have missed a call."""

MAX_RETRY_S = 120.0
"""How long that is tried. A call to a model takes less, as a rule, and the next one comes after it."""

MAX_WAITING = 10_000
"""Items for one replica that wait while the store is slow; those beyond it are dropped."""


BEGIN = "begin"
"""What a call says first."""

DOUBT = "doubt"
"""Said to a tap, of no call: see `Tap.doubt`."""


class StoreSilent(Exception):
    """It cannot be said whose a token is."""


class Mail(Protocol):
    """The way to another replica."""

    async def tell(self, replica: str, said: dict[str, Any]) -> bool:
        """Send a message, if that is possible now. False if it may be lost."""
        ...


class Outbox:
    """What is to be said to one replica, in order. Its task lives as long as there is something."""

    def __init__(self, replica: str, mail: Mail) -> None:
        self._replica = replica
        self._mail = mail
        self._items: list[Sequence[Any]] = []
        self._missed: set[str] = set()
        """Tokens of taps that may not have heard of a call."""
        self._missed_since = 0.0
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._task is None

    def put(self, item: Sequence[Any]) -> asyncio.Event:
        """Say something; the event is set when it has gone out, or was lost."""
        if len(self._items) < MAX_WAITING:
            self._items.append(item)
        else:
            self._miss([item])
        if self._task is None:
            self._task = self._loop.create_task(self._send())
        return self._gone

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _send(self) -> None:
        try:
            while self._items or self._missed:
                await asyncio.sleep(GATHER_S if self._items else RETRY_S)
                items, self._items = self._items, []
                gone, self._gone = self._gone, asyncio.Event()
                try:
                    await self._tell(items)
                finally:
                    gone.set()
        finally:
            self._task = None

    async def _tell(self, items: list[Sequence[Any]]) -> None:
        missed, self._missed = self._missed, set()
        doubts = [(token, "", 0, DOUBT, None) for token in missed]
        if not await self._mail.tell(self._replica, {"taps": [*doubts, *items]}):
            if not missed:
                self._missed_since = self._loop.time()
            if self._loop.time() - self._missed_since < MAX_RETRY_S:
                self._missed |= missed
            self._miss(items)

    def _miss(self, items: Sequence[Sequence[Any]]) -> None:
        """Items are lost. The calls that began with one of them may be unknown to their taps."""
        self._missed.update(token for token, _, _, what, _ in items if what in {BEGIN, DOUBT})


class RemoteTap:
    """A tap of another replica; an `OpenTap`."""

    def __init__(self, outbox: Outbox, token: str, places: Sequence[CallPlace]) -> None:
        self._outbox = outbox
        self._token = token
        self._places = places

    def doubt(self) -> None:
        self._outbox.put((self._token, "", 0, DOUBT, None))

    def begin(self, digest: bytes, prompt: Prompt) -> "RemoteCall":
        call = RemoteCall(self._outbox, self._token)
        call.say(BEGIN, [digest.hex(), allowed(self._places, prompt)])
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
