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

_WAITS = re.compile(b"|".join(WAITS_BY_NATURE), re.IGNORECASE | re.MULTILINE)


class Patience:
    """What is known of one upstream's paths."""

    def __init__(self) -> None:
        self._slow: dict[bytes, None] = {}

    def is_lost_on(self, request: bytes) -> bool:
        """Whether to wait longer would be a mistake: it is safe, without a body, and not slow by nature."""
        method, path = _asked(request)
        has_body = not request.endswith(b"\r\n\r\n") or request.count(b"\r\n\r\n") > 1
        return method in SENT_AGAIN and not has_body and path not in self._slow and not _WAITS.search(request)

    def learn(self, request: bytes) -> None:
        """It took long on a free worker, too. Others for its path are not sent twice."""
        if len(self._slow) >= MAX_LEARNT:
            del self._slow[next(iter(self._slow))]
        self._slow[_asked(request)[1]] = None


def _asked(request: bytes) -> tuple[bytes, bytes]:
    """Method and path."""
    method, target, _ = request.split(b" ", 2)
    return method, target.partition(b"?")[0]
