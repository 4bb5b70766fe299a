"""Which requests are sent again because nothing is heard of them, and which wait by nature. Pure.

A request is given as it goes on the wire: it is looked at after a second of silence, and only then.
"""

import re

SENT_AGAIN = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""Safe (RFC 9110 9.2.1), and asked by nobody for its own sake as TRACE is."""

WAITS_BY_NATURE = {
    rb"^accept:[^\n]*text/event-stream": "events come when there are some",
    rb"^prefer:[^\n]*\bwait\b": "RFC 7240: the client says how long it will wait",
    rb"^x-signalr-user-agent:": "a long poll of SignalR: a second one ends the first",
    rb"\A[^\n]*[?&]transport=(long)?polling": "a long poll of Engine.IO: a second one ends its session",
    rb"\A[^\n]*[?&](wait|watch|timeout|longpoll)\b": "a long poll, as Consul, Kubernetes and others name it",
}
"""Lines of a request's head; silence does not mean that a worker is busy."""

MAX_LEARNT = 1024
"""Paths that are remembered; the oldest go first."""

LEARNT_S = 600.0
"""For so long: all workers may have been busy, and the path is not slow at all."""

_ID = re.compile(rb"/[^/]*\d[^/]*")
"""A segment with a digit: the cases of one path are alike."""

_WAITS = re.compile(b"|".join(WAITS_BY_NATURE), re.IGNORECASE | re.MULTILINE)


class Patience:
    """What is known of one upstream's paths. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._slow_until: dict[bytes, float] = {}

    def is_lost_on(self, request: bytes, now: float) -> bool:
        """Whether to wait longer would be a mistake: it is safe, without a body, and not slow by nature."""
        method, path = _asked(request)
        has_body = not request.endswith(b"\r\n\r\n") or request.count(b"\r\n\r\n") > 1
        is_slow = self._slow_until.get(path, now) > now
        return method in SENT_AGAIN and not (has_body or is_slow or _WAITS.search(request))

    def learn(self, request: bytes, now: float) -> None:
        """It took long on a fresh connection, too. Others for its path are not sent twice."""
        if len(self._slow_until) >= MAX_LEARNT:
            del self._slow_until[next(iter(self._slow_until))]
        self._slow_until[_asked(request)[1]] = now + LEARNT_S


def _asked(request: bytes) -> tuple[bytes, bytes]:
    """Method and path, without what differs from case to case."""
    method, target, _ = request.split(b" ", 2)
    return method, _ID.sub(b"/*", target.partition(b"?")[0])
