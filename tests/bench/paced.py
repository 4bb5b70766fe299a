"""Requests on a fixed schedule, each timed from when it was due: what a proxy adds when it is not full.

wrk cannot send at a rate. An event loop could, but its timers have steps of a millisecond, which is more than
a proxy takes; `select` waits to the microsecond.
"""

import gc
import select
import socket
import time
from collections import deque

from tests.bench.results import Measured
from tests.bench.upstream import END_OF_JSON

GRACE_S = 2.0
"""Seconds for which answers may come after the last request was due."""
TAIL_BYTES = len(END_OF_JSON) + 16
"""The end of an answer, with the end of its last chunk."""

BODY = b'{"case_id": "c-1", "question": "What is the most likely diagnosis, and why?"}'
HEAD = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1\r\n"
    "Content-Type: application/json\r\n"
    "Content-Length: {length}\r\n\r\n"
)


def post(port: int, path: str, *, rate: float, run_s: float, connections: int = 32) -> Measured:
    """Delays (`p50`, `p99`, in µs) of `rate` requests a second for `run_s` seconds.

    Requests that are due while all connections are busy wait, and their wait counts. Errors are requests that
    had no answer `GRACE_S` after the last was due.
    """
    request = HEAD.format(path=path, length=len(BODY)).encode() + BODY
    sockets = [_connect(port) for _ in range(connections)]
    gc.collect()
    gc.disable()
    try:
        delays = _send(sockets, request, rate=rate, total=int(rate * run_s))
    finally:
        gc.enable()
        for each in sockets:
            each.close()
    delays.sort()
    return Measured(
        figures={"p50": percentile(delays, 0.5) * 1e6, "p99": percentile(delays, 0.99) * 1e6},
        operations=len(delays),
        errors=int(rate * run_s) - len(delays),
    )


def percentile(ordered: list[float], share: float) -> float:
    """The value that `share` of an ordered list does not exceed; infinite if the list is empty."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("inf")


def _send(sockets: list[socket.socket], request: bytes, *, rate: float, total: int) -> list[float]:
    free = deque(sockets)
    due_at: dict[socket.socket, float] = {}  # of the request that a busy connection carries
    tails: dict[socket.socket, bytes] = {}
    delays: list[float] = []
    start = time.perf_counter() + 0.01
    give_up = start + total / rate + GRACE_S
    sent = 0
    while len(delays) < total and (now := time.perf_counter()) < give_up:
        while sent < total and free and (due := start + sent / rate) <= now:
            connection = free.popleft()
            connection.send(request)
            due_at[connection] = due
            sent += 1
        until = start + sent / rate if free and sent < total else give_up
        for connection in select.select(due_at, (), (), max(0.0, until - time.perf_counter()))[0]:
            data = connection.recv(262_144)
            tail = (tails.pop(connection, b"") + data)[-TAIL_BYTES:]
            if END_OF_JSON in tail:
                delays.append(time.perf_counter() - due_at.pop(connection))
                free.append(connection)
            elif data:
                tails[connection] = tail
            else:
                del due_at[connection]  # lost: the request has no answer, the connection no successor
    return delays


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=GRACE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
