"""Hedged requests, which are sent a second time while the first meets silence: which are, and how they end.

A request is given as it goes on the wire, after a second of silence.
"""

import asyncio
import re
from collections.abc import Collection

HEDGED = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""The safe methods (RFC 9110 9.2.1) but TRACE, whose client wants to see its one way."""

WAITS_BY_NATURE = {
    rb"^accept:[^\n]*text/event-stream": "events come when there are some",
    rb"^prefer:[^\n]*\bwait\b": "RFC 7240: the client says how long it will wait",
    rb"^x-signalr-user-agent:": "a long poll of SignalR: a second one ends the first",
    rb"\A[^\n]*[?&]transport=(long)?polling": "a long poll of Engine.IO: a second one ends its session",
    rb"\A[^\n]*[?&](wait|watch|timeout|longpoll)\b": "a long poll, as Consul, Kubernetes and others name it",
}
"""Lines of a request's head; silence does not mean that a worker is busy."""

MAX_SLOW_PATHS = 1024
"""Slow paths that are remembered; the oldest are dropped first."""

SLOW_PATH_S = 600.0
"""Seconds for which they are remembered: all workers may have been busy, and the path not slow at all."""

_IDENTIFIER = re.compile(rb"/[^/]*\d[^/]*")
"""A segment with a digit: an identifier, and the paths with all of them are alike."""

_WAITS = re.compile(b"|".join(WAITS_BY_NATURE), re.IGNORECASE | re.MULTILINE)


class Hedging:
    """The slow paths of one upstream. Pure. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._slow_until: dict[bytes, float] = {}

    def should_hedge(self, request: bytes, now: float) -> bool:
        """True if the request may be sent again: it is safe, has no body, and does not wait by nature."""
        method, path = _method_and_path(request)
        has_body = not request.endswith(b"\r\n\r\n") or request.count(b"\r\n\r\n") > 1
        is_slow = self._slow_until.get(path, now) > now
        return method in HEDGED and not (has_body or is_slow or _WAITS.search(request))

    def note_slow(self, request: bytes, now: float) -> None:
        """The request took long on a fresh connection, too: others for its path are not hedged."""
        if len(self._slow_until) >= MAX_SLOW_PATHS:
            del self._slow_until[next(iter(self._slow_until))]
        self._slow_until[_method_and_path(request)[1]] = now + SLOW_PATH_S


def _method_and_path(request: bytes) -> tuple[bytes, bytes]:
    """The path without its identifiers."""
    method, target, _ = request.split(b" ", 2)
    return method, _IDENTIFIER.sub(b"/*", target.partition(b"?")[0])


async def first_success(attempts: Collection[asyncio.Task[None]]) -> None:
    """Wait until one attempt succeeds, or all have failed. None of them goes on then.

    It waits while an error is handled, which is nothing for a compiled module, see `docs/design.md`, 9.
    """
    pending: set[asyncio.Task[None]] = set(attempts)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is None for task in done):
                return
    finally:
        for task in attempts:
            task.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
