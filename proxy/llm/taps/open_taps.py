"""The open taps of this process, which model calls find by their tokens; those of other replicas too.

A tap lasts as long as its upstream's call. A token that was never issued, or whose call is over, finds none.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from proxy.http.tracing import Fields, TraceId, token_of, trace_ids_of
from proxy.llm.assembly.dialect import Prompt
from proxy.llm.taps.expected_calls import ExpectedCall
from proxy.llm.taps.remote_taps import Messenger, Outbox, RemoteTap
from proxy.llm.taps.tap import Tap, TappedCall, TapSink

TOKEN_BYTES = 24
"""192 random bits: nobody finds a run by trying."""

MAX_DRAWS = 1000
"""Tokens that are drawn until one has its place near the runs of its principal; one in as many as there are
shards of the store has."""

EARLY_S = 0.01
"""No upstream asks its model so soon after it was asked itself. A tap that is stored later may have missed a
call."""

NO_CALL = "no model call came to this process's model port"
WITHOUT_CONTEXT = (
    "calls came, none of them with this run's trace context: is OpenTelemetry on, are threads instrumented?"
)


class OpenTap(Protocol):
    """A tap that a call has found by its token, whichever replica executes its run."""

    @property
    def route(self) -> str:
        """Its name."""

    async def doubt(self) -> None:
        """A call has come that cannot be read."""

    async def begin(self, digest: bytes, prompt: Prompt) -> TappedCall:
        """A call has come, with the digest of its request."""


class TapShare(Messenger, Protocol):
    """The port to the taps of other replicas. No method raises for a store that is down."""

    def is_near(self, token: str, principal: str | None) -> bool:
        """True if a token is where the runs of its principal are, so that it is away only when they are."""

    async def put_tap(self, token: str, route: str, ttl_s: float) -> bool:
        """Let the other replicas find a tap of this one. False: whether they can is not known."""

    async def drop_tap(self, token: str) -> None: ...
    async def find_tap(self, token: str) -> tuple[str, str] | None:
        """The replica whose tap it is, and the route. If the store cannot say, the call is counted all the
        same: at once, or as soon as possible.
        """

    async def count_call(self, token: str) -> int | None:
        """Return the number of calls that have come with a token, including this one; None: the store cannot
        say."""


async def _dropped(share: TapShare, token: str, putting: asyncio.Task[None]) -> None:
    await asyncio.wait([putting])  # or the tap would be put again after it was dropped
    await share.drop_tap(token)


class Taps:
    """The open taps of this process, and through `share` those of the other replicas.

    Args:
        expected: the calls that each route expects.
        most_s: the longest that a call to the upstream may take.
        share: None: there is one replica.
        by_trace_id: the routes whose tokens travel as trace ids.
    """

    def __init__(
        self,
        expected: Mapping[str, Sequence[ExpectedCall]],
        most_s: float,
        share: TapShare | None = None,
        by_trace_id: Collection[str] = (),
    ) -> None:
        self._by_trace_id = by_trace_id
        self._expected = expected
        self._most_s = most_s
        self._share = share
        self.unmatched = 0
        """How many calls of no run have come to this process."""
        self._taps: dict[str, Tap] = {}
        self._outboxes: dict[str, Outbox] = {}

    def __len__(self) -> int:
        return len(self._taps)

    @asynccontextmanager
    async def open(
        self, sink: TapSink, route: str, principal: str | None = None, *, waits: bool = True
    ) -> AsyncIterator[tuple[Tap, str]]:
        """A tap and its token, by which calls find it until the block is left.

        Args:
            sink: where the text goes.
            route: its name.
            principal: of the run, if any.
            waits: until the other replicas can find the tap. Otherwise a call that comes to one of them at
                once may not be shown.
        """
        token = self._drawn(route, principal)
        share = self._share
        count = None if share is None else lambda: share.count_call(token)
        tap = self._taps[token] = Tap(sink, self._expected[route], count)
        tap.route, tap.unmatched_before = route, self.unmatched
        by_s = asyncio.get_running_loop().time() + (self._most_s if waits else EARLY_S)
        putting = None if share is None else asyncio.create_task(self._put(share, tap, token, route, by_s))
        try:
            if putting is not None and waits:
                await putting
            yield tap, token
        finally:
            del self._taps[token]
            tap.close()
            if share is not None and putting is not None:
                await asyncio.shield(_dropped(share, token, putting))

    def _drawn(self, route: str, principal: str | None) -> str:
        for _ in range(MAX_DRAWS):
            token = TraceId.random() if route in self._by_trace_id else secrets.token_urlsafe(TOKEN_BYTES)
            if self._share is None or self._share.is_near(token, principal):
                break
        return token

    async def _put(self, share: TapShare, tap: Tap, token: str, route: str, by_s: float) -> None:
        is_put = await share.put_tap(token, route, self._most_s)
        if not is_put or asyncio.get_running_loop().time() > by_s:
            tap.lose_count()  # a call at another replica may not have found it, nor have been counted

    def why_silent(self, tap: Tap) -> str:
        """The likely reason why a tap had no call; for the log."""
        return WITHOUT_CONTEXT if self.unmatched > tap.unmatched_before else NO_CALL

    async def aclose(self) -> None:
        """Send nothing more to other replicas."""
        for outbox in self._outboxes.values():
            await outbox.aclose()

    def tokens_of(self, headers: Fields) -> list[str]:
        """The tokens that a call may carry: our member, or else trace ids, if any route's tokens are such."""
        token = token_of(headers)
        if token is not None:
            return [token]
        return [TraceId(each) for each in sorted(trace_ids_of(headers))] if self._by_trace_id else []

    async def find(self, token: str) -> OpenTap | None:
        """The tap of a token. None: it was never issued, or its run has its answer."""
        tap = self._taps.get(token)
        if tap is not None or self._share is None:
            return tap
        found = await self._share.find_tap(token)
        if found is None or found[1] not in self._expected:
            return None
        replica, route = found
        self._outboxes = {name: outbox for name, outbox in self._outboxes.items() if not outbox.is_idle}
        outbox = self._outboxes.setdefault(replica, Outbox(replica, self._share))
        return RemoteTap(outbox, token, route, self._expected[route], self._share.count_call)

    def receive(self, messages: Sequence[Sequence[Any]]) -> None:
        """Messages of another replica's model port to taps of this process."""
        for token, *message in messages:
            tap = self._taps.get(token)
            if tap is not None:
                tap.receive(*message)
