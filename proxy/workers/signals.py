"""Signals as a queue that a process can wait for beside its sockets: the self-pipe trick."""

import contextlib
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class SignalQueue:
    """Signals that have come and are not handled yet."""

    def __init__(self, wake: socket.socket) -> None:
        self._wake = wake
        self._numbers: deque[int] = deque()

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._wake.fileno()

    def add(self, number: int) -> None:
        self._numbers.append(number)

    def drain(self) -> Iterator[int]:
        """Take every signal, in the order in which they came."""
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(1024):
                pass
        while self._numbers:
            yield self._numbers.popleft()


@contextmanager
def queued(numbers: Sequence[int]) -> Iterator[SignalQueue]:
    """Queue these signals from now on; their handlers stay when the block is left."""
    wake, waker = socket.socketpair()
    with wake, waker:
        for end in (wake, waker):
            end.setblocking(False)
        queue = SignalQueue(wake)
        for number in numbers:
            signal.signal(number, lambda number, _: queue.add(number))
        before = signal.set_wakeup_fd(waker.fileno())
        try:
            yield queue
        finally:
            signal.set_wakeup_fd(before)
