"""One run's tap: which of its model calls shows its text in which section."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Protocol

from jsonpath import JSONPath

from proxy.llm.assembly.dialect import Prompt
from proxy.llm.taps.expected_calls import ExpectedCall, matching
from proxy.llm.taps.growing_string import GrowingString
from proxy.text.sections import Section

logger = logging.getLogger("headgate.taps")

MAX_CALLS = 1000
"""Different calls that one tap tells apart. Further ones are shown nowhere."""

EARLIER_CALLS_S = 0.5
"""Seconds that a call waits for messages about earlier calls, which came to other replicas."""


class TapSink(Protocol):
    """The destination of a tap's text: a run, or a dark run, which only compares."""

    def stream(self, section: Section, piece: str) -> None: ...
    def finish(self, section: Section) -> None: ...
    def withdraw(self, section: Section) -> None: ...


class TappedCall(Protocol):
    """One model call of a run: its text as it is made, and how it ended."""

    def add(self, piece: str) -> None: ...
    def add_arguments(self, piece: str) -> None:
        """More of the arguments of the first tool that the model calls."""

    async def finish(self) -> None:
        """The call has its whole answer."""

    async def fail(self) -> None:
        """The call has no answer: withdraw the text that was shown of it."""


class Tap:
    """One run's model calls, while its upstream works on them.

    The order of the calls says which stage a call is. A call that was missed, because a replica could not
    reach the store, would shift all later ones to the stage before theirs. The tap notices that from their
    number, and then shows no further call. The batch answer has the texts.

    Args:
        sink: where the text goes.
        expected: the calls that the route expects.
        count: how many calls have come to all replicas, including one that has just come; None if the store
            cannot say. Without `count` there is one replica.
    """

    def __init__(
        self,
        sink: TapSink,
        expected: Sequence[ExpectedCall],
        count: Callable[[], Awaitable[int | None]] | None = None,
    ) -> None:
        self.calls = 0
        """How many calls have come, repeated ones included."""
        self.route = ""
        """Its name."""
        self.unmatched_before = 0
        """How many calls of no run had come when the tap was opened."""
        self._expected = expected
        self._count = count
        self._has_gap = False
        self._arrived = asyncio.Event()
        self._sink: TapSink | None = sink
        self._index_of: dict[bytes, int | None] = {}
        """Index of the expected call, by the digest of a request."""
        self._latest: dict[int, LocalCall] = {}
        self._remote: dict[str, tuple[LocalCall, int]] = {}
        """Calls at other replicas, and the number of the message that each is expected to send next."""

    def close(self) -> None:
        """The upstream has answered: show nothing more."""
        self._sink = None

    async def begin(self, digest: bytes, prompt: Prompt) -> "LocalCall":
        """A call has come, with the digest of its request."""
        if self._count is None:
            number: int | None = self.calls + 1
        elif (number := await self._count()) is not None:
            await self._await_earlier(number - 1)
        return self.assign(digest, matching(self._expected, prompt), number, wants_json=prompt.wants_json)

    async def doubt(self) -> None:
        """A call has come that cannot be read: which stage the next call is, is no longer known."""
        self.lose_count()
        if self._count is not None:
            await self._count()

    def lose_count(self) -> None:
        """A call may have come that nothing is known of: show no further one."""
        self._has_gap = True

    async def _await_earlier(self, calls: int) -> None:
        """Wait until `calls` calls are known, but at most EARLIER_CALLS_S."""
        with suppress(TimeoutError):
            async with asyncio.timeout(EARLIER_CALLS_S):
                while self.calls < calls:
                    self._arrived.clear()
                    await self._arrived.wait()

    def assign(
        self, digest: bytes, candidates: Collection[int], number: int | None, *, wants_json: bool = False
    ) -> "LocalCall":
        """Decide which expected call a call is.

        Args:
            digest: of its request. The same digest is the same call again, repeated by an SDK: it replaces
                the attempt before, whatever became of that.
            candidates: indices of the expected calls that its patterns allow.
            number: its position among all calls, from 1; None if that is not known.
            wants_json: whether the model writes JSON, of which only a text with a path can be shown.
        """
        self.calls += 1
        self._arrived.set()
        if number != self.calls and not self._has_gap:
            self._has_gap = True
            logger.warning("a model call was missed; the run's further ones are not shown")
        if digest not in self._index_of and len(self._index_of) < MAX_CALLS and not self._has_gap:
            assigned = set(self._index_of.values())
            self._index_of[digest] = next((i for i in sorted(candidates) if i not in assigned), None)
        index = self._index_of.get(digest)
        paths = () if index is None else self._expected[index].paths
        call = LocalCall(self, index, paths, is_shown=bool(paths) or not wants_json)
        if index is not None:
            if index in self._latest and (section := self._expected[index].section) and self._sink:
                self._sink.withdraw(section)
            self._latest[index] = call
        return call

    def receive(self, call_id: str, number: int, what: str, value: Any) -> None:
        """A message of a `RemoteCall` at another replica.

        After a lost message the call is shown no further: the batch answer has the rest.
        """
        if what == "begin":
            digest, candidates, call_number = value
            self._remote[call_id] = (self.assign(bytes.fromhex(digest), candidates, call_number), 1)
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
        elif what == "arguments":
            call.add_arguments(value)
        else:
            del self._remote[call_id]
            call.end(whole=what == "finish")

    def target(self, call: "LocalCall") -> tuple[TapSink, Section] | None:
        """The destination of a call's text. None: it is shown nowhere, or no longer."""
        index = call.index
        if self._sink is None or index is None or self._latest.get(index) is not call:
            return None
        section = self._expected[index].section
        return (self._sink, section) if section is not None else None


class LocalCall:
    """A call of a run of this process; a `TappedCall`."""

    __slots__ = ("_in_arguments", "_in_text", "_is_shown", "_tap", "index")

    def __init__(
        self, tap: Tap, index: int | None, paths: Sequence[JSONPath] = (), *, is_shown: bool = True
    ) -> None:
        self._tap = tap
        self._is_shown = is_shown
        self.index = index
        self._in_text = GrowingString(paths) if paths else None
        self._in_arguments = GrowingString(paths) if paths else None

    def add(self, piece: str) -> None:
        self._show(piece if self._in_text is None else self._in_text.add(piece))

    def add_arguments(self, piece: str) -> None:
        if self._in_arguments is not None:
            self._show(self._in_arguments.add(piece))

    def _show(self, text: str) -> None:
        if text and self._is_shown and (target := self._tap.target(self)):
            sink, section = target
            sink.stream(section, text)

    def end(self, *, whole: bool) -> None:
        """Note that the call has ended, with its whole answer or without one."""
        if whole and self._in_text is not None and self._in_arguments is not None:
            self._show(self._in_text.rest() or self._in_arguments.rest())
        if target := self._tap.target(self):
            sink, section = target
            if whole:
                sink.finish(section)
            else:
                sink.withdraw(section)

    async def finish(self) -> None:
        self.end(whole=True)

    async def fail(self) -> None:
        self.end(whole=False)
