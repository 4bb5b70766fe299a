"""Which model call shows its text where: the taps of the runs under way, found by their tokens.

A tap lasts as long as its upstream's call. A token that was never given, or whose call is over, finds none.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from proxy.llm.dialects.dialect import Prompt
from proxy.llm.places import CallPlace, allowed
from proxy.llm.remote_taps import Mail, Outbox, RemoteTap
from proxy.text.sections import Section

logger = logging.getLogger("headgate.taps")

TOKEN_BYTES = 24
"""192 random bits: nobody finds a run by trying."""

MAX_CALLS = 1000
"""Different calls that one tap tells apart; what an upstream calls beyond it is shown nowhere."""


NO_CALL = "no model call came to this process's model port"
WITHOUT_CONTEXT = (
    "calls came, none of them with this run's trace context: is OpenTelemetry on, are threads instrumented?"
)

HEARD_S = 0.5
"""How long a call waits for word of those before it, which other replicas had."""


class TapSink(Protocol):
    """Where a tap's text goes: a run, or what only compares."""

    def stream(self, section: Section, piece: str) -> None: ...
    def finish(self, section: Section) -> None: ...
    def withdraw(self, section: Section) -> None: ...


class TappedCall(Protocol):
    """One model call of a run: its text as it is made, and how it ended."""

    def add(self, piece: str) -> None: ...
    async def finish(self) -> None:
        """It has its whole answer."""
        ...

    async def fail(self) -> None:
        """It has none: what was shown of it does not count."""
        ...


class Tap:
    """One run's model calls, while its upstream works on them.

    Which stage a call is, its place in their order says. So a call that was missed, because a replica could
    not ask the store, would move all after it to the stage before theirs: their number tells, and then no
    further call is shown. The batch answer has the texts.

    Args:
        shows: where its text goes.
        places: the route's.
        count: how many calls have come to all replicas, with one that has just come; None: that is not known.
            Without it there is one replica.
    """

    def __init__(
        self,
        shows: TapSink,
        places: Sequence[CallPlace],
        count: Callable[[], Awaitable[int | None]] | None = None,
    ) -> None:
        self.places = places
        self.strangers_before = 0
        """How many calls of no run had come when it was opened."""
        self._count = count
        self._has_gap = False
        self._came = asyncio.Event()
        self.calls = 0
        """How many calls have come, repetitions included."""
        self._shows: TapSink | None = shows
        self._place_of: dict[bytes, int | None] = {}
        self._latest: dict[int, LocalCall] = {}
        self._remote: dict[str, tuple[LocalCall, int]] = {}
        """Calls at other replicas, and the number that each is expected to say next."""

    def close(self) -> None:
        """The upstream has answered: what still comes is shown no more."""
        self._shows = None

    async def begin(self, digest: bytes, prompt: Prompt) -> "LocalCall":
        """A call has come, with the digest of its request."""
        if self._count is None:
            number: int | None = self.calls + 1
        elif (number := await self._count()) is not None:
            await self._heard(number - 1)
        return self.take(digest, allowed(self.places, prompt), number)

    async def doubt(self) -> None:
        """A call has come of which nothing is known: which place is the next one's is not known either."""
        self.lose_count()
        if self._count is not None:
            await self._count()

    def lose_count(self) -> None:
        """A call may have come of which nothing is known. No further one is shown."""
        self._has_gap = True

    async def _heard(self, calls: int) -> None:
        """Wait until so many calls are known, or long enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_S):
                while self.calls < calls:
                    self._came.clear()
                    await self._came.wait()

    def take(self, digest: bytes, may_take: Collection[int], number: int | None) -> "LocalCall":
        """Give a call its place.

        Args:
            digest: of its request. The same one again is the same call again: an SDK's own repetition, which
                takes the place of the attempt before, whatever has become of that.
            may_take: indices of `places` that its patterns allow.
            number: the how manyth it is, from 1; None: that is not known.
        """
        self.calls += 1
        self._came.set()
        if number != self.calls and not self._has_gap:
            self._has_gap = True
            logger.warning("a model call was missed; the run's further ones are not shown")
        if digest not in self._place_of and len(self._place_of) < MAX_CALLS and not self._has_gap:
            taken = set(self._place_of.values())
            self._place_of[digest] = next((index for index in sorted(may_take) if index not in taken), None)
        index = self._place_of.get(digest)
        call = LocalCall(self, index)
        if index is not None:
            if index in self._latest and (section := self.places[index].section) and self._shows:
                self._shows.withdraw(section)
            self._latest[index] = call
        return call

    def hear(self, call_id: str, number: int, what: str, value: Any) -> None:
        """A call that another replica's model port has, as `RemoteCall` tells it.

        One of which something was lost is shown no further: the batch answer has the rest.
        """
        if what == "begin":
            digest, may_take, call_number = value
            self._remote[call_id] = (self.take(bytes.fromhex(digest), may_take, call_number), 1)
            return
        call, expected = self._remote.get(call_id, (None, 0))
        if call is None:
            return
        if number != expected:
            del self._remote[call_id]
            return
        self._remote[call_id] = (call, expected + 1)
        if what == "text":
            call.add(value)
        else:
            del self._remote[call_id]
            call.end(whole=what == "finish")

    def shows(self, call: "LocalCall") -> tuple[TapSink, Section] | None:
        """Where a call's text goes; None: nowhere, or no more."""
        index = call.index
        if self._shows is None or index is None or self._latest.get(index) is not call:
            return None
        section = self.places[index].section
        return (self._shows, section) if section is not None else None


class LocalCall:
    """A call of a run of this process; a `TappedCall`."""

    __slots__ = ("_tap", "index")

    def __init__(self, tap: Tap, index: int | None) -> None:
        self._tap = tap
        self.index = index

    def add(self, piece: str) -> None:
        if piece and (shown := self._tap.shows(self)):
            shows, section = shown
            shows.stream(section, piece)

    def end(self, *, whole: bool) -> None:
        """The call has its whole answer, or none."""
        if shown := self._tap.shows(self):
            shows, section = shown
            if whole:
                shows.finish(section)
            else:
                shows.withdraw(section)

    async def finish(self) -> None:
        self.end(whole=True)

    async def fail(self) -> None:
        self.end(whole=False)


class OpenTap(Protocol):
    """A tap that a call has found by its token, wherever its run is executed."""

    async def doubt(self) -> None:
        """A call has come that cannot be read."""
        ...

    async def begin(self, digest: bytes, prompt: Prompt) -> TappedCall:
        """A call has come, with the digest of its request."""
        ...


class TapShare(Mail, Protocol):
    """What replicas share of their taps. No method raises for a store that is down."""

    async def put_tap(self, token: str, route: str, ttl_s: float) -> bool:
        """Let the other replicas find a tap of this one. False: whether they can, or will, is not known."""
        ...

    async def drop_tap(self, token: str) -> None: ...
    async def find_tap(self, token: str) -> tuple[str, str] | None:
        """The replica whose tap it is, and the route. If the store cannot say, the call is counted all the
        same: at once, or as soon as that is possible.
        """
        ...

    async def count_call(self, token: str) -> int | None:
        """How many calls have come with a token, with this one; None: the store cannot say."""
        ...


async def _dropped(share: TapShare, token: str, putting: asyncio.Task[None]) -> None:
    await asyncio.wait([putting])  # or what is dropped would be put once more
    await share.drop_tap(token)


class Taps:
    """The open taps of this process, and through `share` those of the other replicas.

    Args:
        places: each route's calls.
        most_s: the longest that a call to the upstream may take.
    """

    def __init__(
        self, places: Mapping[str, Sequence[CallPlace]], most_s: float, share: TapShare | None = None
    ) -> None:
        self._places = places
        self._most_s = most_s
        self._share = share
        self.strangers = 0
        """How many calls have come to this process that are of no run."""
        self._taps: dict[str, Tap] = {}
        self._outboxes: dict[str, Outbox] = {}

    def __len__(self) -> int:
        return len(self._taps)

    @asynccontextmanager
    async def open(self, shows: TapSink, route: str, *, waits: bool = True) -> AsyncIterator[tuple[Tap, str]]:
        """A tap that calls find by the token beside it, until the block is left.

        Args:
            waits: for the other replicas to be able to find it; else a call that comes to one of them at once
                may not be shown.
        """
        token = secrets.token_urlsafe(TOKEN_BYTES)
        share = self._share
        count = None if share is None else lambda: share.count_call(token)
        tap = self._taps[token] = Tap(shows, self._places[route], count)
        tap.strangers_before = self.strangers
        putting = None if share is None else asyncio.create_task(self._put(share, tap, token, route))
        try:
            if putting is not None and waits:
                await putting
            yield tap, token
        finally:
            del self._taps[token]
            tap.close()
            if share is not None and putting is not None:
                await asyncio.shield(_dropped(share, token, putting))

    async def _put(self, share: TapShare, tap: Tap, token: str, route: str) -> None:
        if not await share.put_tap(token, route, self._most_s):
            tap.lose_count()  # a call at another replica may not have found it, nor have been counted

    def why_silent(self, tap: Tap) -> str:
        """Why a tap may have had no call; for the log."""
        return WITHOUT_CONTEXT if self.strangers > tap.strangers_before else NO_CALL

    async def aclose(self) -> None:
        """Send nothing more to other replicas."""
        for outbox in self._outboxes.values():
            await outbox.aclose()

    async def find(self, token: str) -> OpenTap | None:
        """The tap of a token; None: it was never given, or its run has its answer."""
        tap = self._taps.get(token)
        if tap is not None or self._share is None:
            return tap
        found = await self._share.find_tap(token)
        if found is None or found[1] not in self._places:
            return None
        replica, route = found
        self._outboxes = {name: outbox for name, outbox in self._outboxes.items() if not outbox.is_idle}
        outbox = self._outboxes.setdefault(replica, Outbox(replica, self._share))
        return RemoteTap(outbox, token, self._places[route], self._share.count_call)

    def hear(self, items: Sequence[Sequence[Any]]) -> None:
        """What another replica's model port has to say to taps of this one."""
        for token, *said in items:
            tap = self._taps.get(token)
            if tap is not None:
                tap.hear(*said)
