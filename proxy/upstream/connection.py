"""One connection to the upstream: HTTP/1.1 over asyncio, an exchange at a time, each wait with its bound.

The answer is handed on as it comes. While no reader takes it, the socket is not read.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from proxy.errors import Fault, UpstreamBroke, UpstreamError
from proxy.http.headers import Headers
from proxy.http.upgrade import SWITCHING_PROTOCOLS
from proxy.turns import Turns
from proxy.upstream.borrowed_socket import BorrowedSocket
from proxy.upstream.response import NO_INTERIMS, UpstreamResponse
from proxy.upstream.timeouts import ExchangeTimer, Timeouts

READ_PAUSE_BYTES: Final = 64 * 1024
"""Body bytes that may wait for the reader before the socket is paused."""

EACH_BYTES: Final = 4096
"""Bytes of a body that are given to its reader at a time: of the shortest events, five hundred."""

QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Acknowledge at once; on Linux only."""

SMALL_BYTES: Final = 448
"""Smaller reads Linux acknowledges by itself, once it has been told to and while nothing is written: to it, a
segment below 536 bytes ends what its sender has to say (`tcp_measure_rcv_mss`). Less headers, and TLS's."""

BY_TCP: Final = frozenset({socket.AF_INET, socket.AF_INET6})
"""Families whose sockets acknowledge at all."""


class Carried(Protocol):
    """The exchange that a connection carries. What it is told must not raise.

    `Exchange` derives from it, which makes its calls as quick as those of a class.
    """

    __slots__ = ()

    method: str

    def upstream_changed(self) -> None:
        """There is more of the answer, or its end, or room for more of the request."""

    def upstream_interim(self, of: "Connection", status: int, reason: bytes, headers: Headers) -> None:
        """An interim response but 100 has come."""

    def upstream_is_slow(self) -> None:
        """The answer is not whole `SLOW_S` after the request is out; told once, if that is asked for."""

    def upstream_is_long(self) -> None:
        """Nor after `LONG_S`."""


class Connection:
    """One connection; carries one exchange at a time.

    To the loop it is an `asyncio.Protocol`. It does not derive from that, to have its attributes in slots.
    """

    __slots__ = (
        "_acknowledges",
        "_carried",
        "_eof",
        "_failure",
        "_is_prompt",
        "_loop",
        "_read_paused",
        "_serve",
        "_socket",
        "_transport",
        "_waiter",
        "_withheld",
        "_writable",
        "_write_paused",
        "already_out",
        "closed",
        "idle_since",
        "is_silent",
        "on_made",
        "response",
        "timer",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        self._loop = loop
        self.response = UpstreamResponse()
        self.timer = ExchangeTimer(loop, timeouts, self.response)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._socket: BorrowedSocket | None = None
        """For `_acknowledge`; None: nothing had to be acknowledged yet."""
        self._acknowledges = True
        self._is_prompt = False
        """Whether the system acknowledges small reads by itself."""
        self._waiter: asyncio.Future[None] | None = None
        self._serve: Callable[[bytes], bool] | None = None
        self._carried: Carried | None = None
        self.on_made: Callable[[], None] | None = None
        """Is called once it is connected."""
        self.already_out = 0
        """Bytes of its first request that went out when it was made."""
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._eof = False
        self.closed = True  # until it is made: nothing to abort yet
        self.used = False
        self.idle_since = 0.0
        self._read_paused = False
        self._withheld = False
        self._failure: UpstreamError | None = None
        self.is_silent = False

    def borrow(self, opened: BorrowedSocket) -> None:
        """The socket by which it is made; the loop would make another to show it."""
        self._socket = opened

    # The exchange's side.

    def carry(
        self,
        carried: Carried,
        data: bytes,
        whole: bool,
        tells_slow: bool = False,
        tells_long: bool = False,
    ) -> None:
        """Carry an exchange: write its request, or the part of it that is here.

        Args:
            tells_slow: whether it is told when it is slow, if the request is out `whole` at once.
            tells_long: whether it is told when it is long.
        """
        response, timer = self.response, self.timer
        if self.used:  # and kept, so the exchange before has ended well
            response.reset()
            self.is_silent = False
        response.to_head = carried.method == "HEAD"
        self._carried = carried
        self._is_prompt = False
        timer.begin(self)
        timer.tells_long = tells_long
        if self.already_out:
            data, self.already_out = data[self.already_out :], 0
        if data and not self.closed:  # uvloop raises if it is
            self._transport.write(data)
        if whole:
            timer.sent(tells_slow)
        else:
            timer.sending()

    def write(self, data: bytes) -> None:
        self._is_prompt = False  # to the system, who writes acknowledges by what it writes
        if not self.closed:  # uvloop raises if it is
            self._transport.write(data)

    @property
    def is_open(self) -> bool:
        """False once its end has been read, a turn of the loop before it counts as `closed`."""
        return not (self.closed or self._transport.is_closing())

    @property
    def is_slow(self) -> bool:
        """True if the upstream must be waited for before more is written."""
        return self._write_paused and not self.closed

    async def drain(self) -> None:
        """Wait until the socket takes more; returns at once when the connection is lost."""
        while self.is_slow:
            self._writable = self._loop.create_future()
            await self._writable

    def leave_unsent(self) -> None:
        """The rest of the request will not come: the upstream has answered without it.

        The upstream may still wait for it, and would read the next request as that rest.
        """
        self.carry_no_other()
        self.timer.sent()

    def carry_no_other(self) -> None:
        """End the connection with its exchange, however well that ends."""
        self._withheld = True

    async def head(self) -> None:
        """Wait for status and headers of the final answer, or for `fall_silent`."""
        response = self.response
        while not (response.status or self.is_silent):
            if self._failure is not None:
                raise self._failure
            await self._wait()

    def fall_silent(self) -> None:
        """End the wait for the head, if no byte of an answer has come; the exchange hedges then."""
        if not self.response.has_begun and self._failure is None:
            self.is_silent = True
            self.wake()

    async def read(self, serve: Callable[[bytes], bool] | None = None) -> bytes:
        """The next bytes of the body, as many as are here; `b""` at its end.

        Few bytes that come while this waits are offered to `serve`. It takes them at once, which costs no
        turn of the task, or returns False, and they are returned here. What it raises is raised here.
        """
        response = self.response
        while not response.chunks:
            if response.complete:
                return b""
            if self._failure is not None:
                raise self._failure
            self.timer.begin_to_wait()
            self._serve = serve
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._serve = None
        return self.take()

    async def each(self, take: Callable[[bytes], None]) -> None:
        """Give the body to `take`, at most `EACH_BYTES` at a time, to its end. Raises what `take` raises.

        Few bytes are given as they come, which costs no turn of the task.
        """

        def serve(data: bytes) -> bool:
            take(data)
            return True

        turns = Turns()
        while data := await self.read(serve):
            for at in range(0, len(data), EACH_BYTES):
                take(data[at : at + EACH_BYTES])
                await turns.breathe()

    def take(self) -> bytes:
        """The bytes of the body that are here; there must be some."""
        self.timer.waiting_since = 0.0
        response = self.response
        data = response.chunks[0] if len(response.chunks) == 1 else b"".join(response.chunks)
        response.chunks.clear()
        response.body_bytes = 0
        if self._read_paused:
            self._read_paused = False
            if not self.closed:
                self._transport.resume_reading()
        return data

    def end(self) -> bool:
        """The exchange is over. True if the connection may carry another."""
        response = self.response
        self.used = True
        self._carried = None  # it holds on to the request
        self._failure = self._waiter = None  # and so do the frames that an error was raised through
        self.timer.end()
        return (
            response.complete
            and response.keep_alive
            and self.timer.is_sent
            and not (response.has_surplus or self._withheld or self.closed)
        )

    def detach(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Give the socket to another protocol, which reads nothing yet.

        Returns:
            The transport, and the bytes that came after the 101.
        """
        self.end()
        self.timer.stop()
        self.response.let_go()
        if self.closed:
            raise UpstreamBroke("closed after its protocol was switched")
        self._transport.set_protocol(protocol)
        self.closed = True  # as far as the exchange is concerned
        return self._transport, self.response.beyond

    def fail(self, failure: UpstreamError) -> None:
        """End the exchange for good; the first failure is the one that counts."""
        if self._failure is None:
            self._failure = failure
        self.abort()
        self.wake()

    def abort(self) -> None:
        if not self.closed:
            self.closed = (
                True  # the loop calls `connection_lost` only later, and no exchange may take it until then
            )
            self._transport.abort()
        if self._carried is None:
            self.response.let_go()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    @property
    def failure(self) -> UpstreamError | None:
        """The error that has ended the exchange, if any. What came before it can still be taken."""
        return self._failure

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._carried is not None:
            self._carried.upstream_changed()

    def tell_slow(self) -> None:
        if self._carried is not None:
            self._carried.upstream_is_slow()

    def tell_long(self) -> None:
        if self._carried is not None:
            self._carried.upstream_is_long()

    # The socket's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.closed = False
        on_made, self.on_made = self.on_made, None
        if on_made is not None:
            on_made()

    def data_received(self, data: bytes) -> None:
        carried = self._carried
        if carried is None:
            # Bytes without a request: the next answer would be mixed up with them.
            self.abort()
            return
        response = self.response
        failure = response.feed(data)
        if response.interims:
            self._tell_interims(carried)
        if failure is not None:
            self.fail(failure)
        elif response.status == SWITCHING_PROTOCOLS:
            self._transport.pause_reading()
            self.wake()
        elif response.complete:
            self.wake()
        elif response.status or response.continued:
            if response.body_bytes > READ_PAUSE_BYTES and not self._read_paused:
                self._read_paused = True
                self._transport.pause_reading()
            serve = self._serve
            if serve is None or not response.chunks or not self._has_served(serve):
                self.wake()
            if not self._is_prompt or len(data) >= SMALL_BYTES:
                self._acknowledge(len(data))  # behind what is passed on: the client waits for that

    def _tell_interims(self, carried: Carried) -> None:
        interims, self.response.interims = self.response.interims, NO_INTERIMS
        for status, reason, headers in interims:
            carried.upstream_interim(self, status, reason, headers)

    def _acknowledge(self, size: int) -> None:
        """Acknowledge what came now, since more is to come.

        An upstream that writes head and body apart, and lets the second wait for the first's acknowledgement
        (without TCP_NODELAY, as with `uvicorn --workers`), would wait 40 ms for one on a kept connection.
        """
        if QUICKACK is None or self.closed or not self._acknowledges:
            return
        if self._socket is None:
            opened: socket.socket | None = self._transport.get_extra_info("socket")
            family = None if opened is None else opened.family
            if opened is None or family not in BY_TCP:
                self._acknowledges = False
                return
            self._socket = BorrowedSocket(family, socket.SOCK_STREAM, 0, opened.fileno())
        self._socket.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        self._is_prompt = self.timer.is_sent and size < SMALL_BYTES

    def _has_served(self, serve: Callable[[bytes], bool]) -> bool:
        """Offer the chunks to a reader that waits for them; otherwise its task takes them, in order."""
        waiter, response = self._waiter, self.response
        if waiter is None or waiter.done() or response.body_bytes > EACH_BYTES:
            return False
        data = response.chunks[0] if len(response.chunks) == 1 else b"".join(response.chunks)
        try:
            if not serve(data):
                return False
        except Exception as exc:  # noqa: BLE001 - it is the reader's own, and is raised in its task
            waiter.set_exception(exc)
            del waiter  # of the frames that it was raised through, this one would hold on to it
            self.take()
        else:  # it cannot be paused: it has not held as much
            response.chunks.clear()
            response.body_bytes = 0
            self.timer.wait_on()
        return True

    def eof_received(self) -> None:
        # With TLS it comes only after the peer's close_notify, so a connection that was cut lacks it.
        self._eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._socket = None
        self.resume_writing()
        response = self.response
        if self._carried is None or response.complete or self._failure is not None:
            self.wake()
            return
        if response.status and exc is None and self._eof and not response.is_framed:
            response.complete = True
        elif response.status:
            self._failure = UpstreamBroke("closed in the middle of the body", Fault.TRUNCATED)
        else:
            self._failure = UpstreamBroke("closed before the answer's head")
        self.wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._carried is not None:
            self._carried.upstream_changed()
