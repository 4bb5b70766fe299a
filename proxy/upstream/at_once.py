"""A connection to an address that is known: begun at once, and made without a task.

A task would begin in the loop's next turn, and know of the connection one turn after it is made. So its
steps are taken here: the loop's own way to connect is a coroutine, which waits for futures alone.

Within this machine a connection is there as soon as the system is asked for it. So the request goes out then,
by the socket itself: the upstream reads it while the loop is told of the connection.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol, cast

from uvloop import Loop

from flags.tls import why
from proxy.errors import UpstreamUnreachable
from proxy.upstream.borrowed_socket import BorrowedSocket
from proxy.upstream.connection import Connection

_INET: Final = int(socket.AF_INET)
_INET6: Final = int(socket.AF_INET6)
_NONBLOCK: Final[int] = getattr(socket, "SOCK_NONBLOCK", 0)
"""What makes a socket that never blocks, where the system knows of it."""

_STREAM: Final = socket.SOCK_STREAM | _NONBLOCK

ConnectedHere = tuple[BorrowedSocket, int]
"""A connection within this machine, and how many bytes of its request it has taken."""

_ENDED: Final[Any] = object()
"""What `next` returns when the steps are over: to catch `StopIteration` takes as long as a step."""


class Asking(Protocol):
    """The exchange that waits for a connection. It is told once; what it is told must not raise."""

    def connected(self, connection: Connection) -> None:
        """It has the connection from now on, and gives it back to the pool."""

    def not_connected(self, error: Exception) -> None:
        """`UpstreamUnreachable`; or a defect here. Called while it is handled."""


class Connecting:
    """One connection in the making. `cancel` it, or its exchange is told how it ends.

    Args:
        asking: is let go of at the end.
        on_failed: is called once if there is no connection after all, when nothing of it is left open. With
            True if the address did not accept it.
    """

    __slots__ = ("_asking", "_connection", "_is_made", "_loop", "_on_failed", "_steps", "_waited")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        asking: Asking,
        on_failed: Callable[[bool], None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._asking: Asking | None = asking
        self._on_failed = on_failed
        self._is_made = False
        self._steps: Generator[Any, None, object] | None = None
        self._waited: asyncio.Future[object] | None = None

    def begin(self, host: str, port: int) -> bool:
        """False: it has failed at once; nobody is told, and nothing is open."""
        connection = self._connection
        protocol = cast(asyncio.Protocol, connection)
        connection.on_made = self._made
        connection.timer.connecting(self._is_late)
        self._steps = self._loop.create_connection(lambda: protocol, host, port).__await__()
        try:
            self._wait_for(next(self._steps))
        except OSError:
            self._let_go()
            return False
        return True

    def begin_with(self, here: ConnectedHere) -> None:
        """It is there, and the loop is given its socket."""
        connection = self._connection
        protocol = cast(asyncio.Protocol, connection)
        connection.on_made = self._made
        opened, connection.already_out = here
        connection.borrow(opened)
        self._steps = self._loop.create_connection(lambda: protocol, sock=cast(Any, opened)).__await__()
        self._wait_for(next(self._steps))

    def cancel(self) -> None:
        """Nobody waits for it any more. It is closed in the loop's next turn."""
        self._asking = None
        self._connection.timer.stop()
        if self._waited is not None:
            self._waited.cancel()

    def _wait_for(self, waited: "asyncio.Future[object] | None") -> None:
        self._waited = waited
        if waited is None:  # for the next turn
            self._loop.call_soon(self._step, None)
        else:
            waited.add_done_callback(self._step)

    def _step(self, waited: "asyncio.Future[object] | None") -> None:
        """What was waited for is here: go on, as a task does."""
        self._waited = None
        steps = self._steps
        assert steps is not None, "it has begun"
        try:
            is_given_up = waited is None and self._asking is None and not self._is_made
            next_one = steps.throw(asyncio.CancelledError) if is_given_up else next(steps, _ENDED)
            if next_one is _ENDED:  # `connection_made` was called before
                self._end(None)
            else:
                self._wait_for(next_one)
        except asyncio.CancelledError:
            self._end(None)
        except OSError as exc:
            # With bytes of the request out it may have been received: nobody may send it once more.
            is_sent = self._connection.already_out > 0
            self._end(exc if is_sent else UpstreamUnreachable(why(exc)), is_refused=not is_sent)
        except Exception as exc:  # noqa: BLE001 - a task would have it, too
            self._end(exc)

    def _made(self) -> None:
        asking, self._asking = self._asking, None
        if asking is None:  # given up just before
            self._connection.abort()
            return
        self._is_made = True
        self._connection.timer.connected()
        asking.connected(self._connection)

    def _is_late(self) -> None:
        asking, self._asking = self._asking, None
        self.cancel()
        if asking is not None:
            asking.not_connected(UpstreamUnreachable("TimeoutError"))

    def _end(self, error: Exception | None, *, is_refused: bool = False) -> None:
        """Leave nothing, unless the exchange has the connection, and knows what became of it."""
        self._steps = None
        if self._is_made:
            return
        asking, self._asking = self._asking, None
        self._let_go()
        self._on_failed(is_refused)
        if asking is not None and error is not None:
            asking.not_connected(error)

    def _let_go(self) -> None:
        connection = self._connection
        connection.on_made = None  # it holds this
        connection.timer.stop()
        connection.abort()


def connected_here(
    loop: asyncio.AbstractEventLoop, host: str, port: int, data: bytes
) -> ConnectedHere | None:
    """Connect within this machine, and send what is taken of `data`. None: the address is of another one, or
    there is no connection yet, as when the upstream's queue is full; nothing was sent."""
    # asyncio's own loop would take the socket, and not what is borrowed.
    if not (host[:4] == "127." or host == "::1") or not isinstance(loop, Loop) or not _NONBLOCK:
        return None
    try:
        opened = BorrowedSocket(_INET6 if ":" in host else _INET, _STREAM)
    except OSError:
        return None
    try:
        opened.connect_ex((host, port))  # it may say that this goes on; what can be sent is the proof
        return opened, opened.send(data)
    except OSError:
        os.close(opened.detach())
        return None
