"""The servers of one process: while they serve, and while they hand over to those of another process."""

import asyncio
import contextlib
import logging
import math
import select
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import uvicorn

from proxy.downstream.server import MakePort, ServerProtocol, uncounted
from proxy.runs.runs import Runs
from proxy.workers.descriptors import BACKLOG
from proxy.workers.fair_share import FairShare, ShownConnections

logger = logging.getLogger("headgate.workers")

POLL_S = 0.1
"""Seconds between two looks of a process that hands over for clients and viewers that are left."""

PAUSE_S = 0.005
"""Seconds for which a worker that is over its share leaves new connections to the others."""

IN_VAIN_S, MAX_IN_VAIN_S = 0.005, 1.0
"""Seconds without a pause, after one in which no other worker took a connection that waits. After the next
such one it is twice as many, at most so many."""

RETRY_S = 0.1

WARN_S = 60.0
"""Between two warnings that nothing can be accepted; each has the tries since the one before."""


class OwnedServer(uvicorn.Server):
    """uvicorn without its signal handling: several servers share one process, and one owner ends them all."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket.socket | None = None,
        share: FairShare | None = None,
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self.is_open = asyncio.Event()
        self._turns = None if share is None or listening is None else AcceptingInTurn(self, listening, share)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve_here(self) -> None:
        assert self._listening is not None
        # A server that is closed closes its socket.
        await self.serve([self._listening if self._turns is None else self._listening.dup()])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own would have a function of Python's called for each connection."""
        self.servers = [await self.listen(each) for each in sockets or ()]
        self.started = True
        if self._turns is not None:
            self._turns.begin()
        self.is_open.set()

    async def listen(self, listening: socket.socket) -> asyncio.Server:
        """Accept connections there."""
        loop = asyncio.get_running_loop()
        make_port = cast(MakePort, self.config.http_protocol_class)
        connect = make_port(self.config, self.server_state, self.lifespan.state, loop)
        return await loop.create_server(connect, sock=listening, backlog=self.config.backlog)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn cancels calls that are left when the time to drain is over; what is relayed is no call."""
        self.stop_accepting()
        await super().shutdown(sockets)
        left = self._open()
        if left:
            logger.warning("connections cut, the time to drain is over", extra={"connections": len(left)})
        for connection in left:
            connection.give_up()

    def stop_accepting(self) -> None:
        """Accept no more connections; open connections stay."""
        if self._turns is not None:
            self._turns.end()
        for server in self.servers:
            server.close()
        if self._listening is not None:
            self._listening.close()

    def hand_over(self) -> None:
        """Close each connection after one more answer, which announces the close."""
        for connection in self._open():
            connection.close_after_next()

    def _open(self) -> list[ServerProtocol]:
        """The connections that are open, which uvicorn takes for its own."""
        return list(cast(Iterable[ServerProtocol], self.server_state.connections))


class AcceptingInTurn:
    """Accepts no connections for a moment while a worker is over its share, and others are there to do it.

    No client waits for long: a pause lasts `PAUSE_S`, and while one was in vain there is no other.
    The loop must be uvloop's, as `serve` has it: asyncio's own loses what it accepted just before a pause.
    """

    def __init__(self, owner: OwnedServer, listening: socket.socket, share: FairShare) -> None:
        self._owner = owner
        self._listening = listening
        self._pause: asyncio.Task[None] | None = None
        self._none_until = math.inf
        """No pause before this time of the loop."""
        self._in_vain_s = IN_VAIN_S
        """Seconds without a pause after the next one, if it is in vain."""
        self._end = asyncio.Event()
        self._failed = 0
        """Tries to accept again that the log does not have yet."""
        self._warned_at = -math.inf
        self._connections = ShownConnections(share, self._is_over)
        owner.server_state.connections = cast(Any, self._connections)

    def begin(self) -> None:
        """The server has begun to accept."""
        self._none_until = 0.0
        self._connections.show()

    def end(self) -> None:
        """The server accepts no more. Idempotent."""
        self._end.set()
        self._connections.hide()

    def _is_over(self) -> None:
        """With one connection more the worker has more than its share."""
        if self._pause is None:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._none_until:
                self._pause = loop.create_task(self._leave_to_others())

    async def _leave_to_others(self) -> None:
        owner, loop = self._owner, asyncio.get_running_loop()
        for server in owner.servers:
            server.close()
        owner.servers = []
        await self._wait(PAUSE_S)
        waiting = select.poll()
        while not self._end.is_set():
            try:
                waiting.register(self._listening, select.POLLIN)
                in_vain_s = self._in_vain_s if waiting.poll(0) else 0.0
                self._none_until = loop.time() + in_vain_s
                self._in_vain_s = min(2 * in_vain_s, MAX_IN_VAIN_S) or IN_VAIN_S
                again = await owner.listen(self._listening.dup())
            except Exception as exc:  # noqa: BLE001 - no descriptor is free; whatever it is, it must accept again
                self._warn(exc)
                await self._wait(RETRY_S)
                continue
            owner.servers = [again]
            if self._end.is_set():  # meanwhile
                again.close()
            break
        self._pause = None

    def _warn(self, exc: Exception) -> None:
        self._failed += 1
        now = asyncio.get_running_loop().time()
        if now >= self._warned_at + WARN_S:
            extra = {"why": type(exc).__name__, "tries": self._failed}
            logger.warning("no connection can be accepted", extra=extra)
            self._failed, self._warned_at = 0, now

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._end.wait()


def server(
    app: object,
    listening: socket.socket,
    make_port: MakePort = uncounted,
    *,
    keep_alive_s: float,
    grace_s: float,
    backlog: int = BACKLOG,
    share: FairShare | None = None,
) -> OwnedServer:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=cast(Any, make_port),  # which is given what a protocol of uvicorn's is given
        backlog=backlog,
        ws="none",
        lifespan="off",
        interface="asgi3",  # uvicorn would look at how the app is called
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,  # the upstream's own headers go through
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(keep_alive_s),
        timeout_graceful_shutdown=int(grace_s),
    )
    config.load()
    return OwnedServer(config, listening, share)


class Servers:
    """All servers of one process."""

    def __init__(self, front: OwnedServer, others: Sequence[OwnedServer], runs: Runs, drain_s: float) -> None:
        self._servers = [front, *others]
        self._runs = runs
        self.drain_s = drain_s
        """Seconds that are left of the drain."""

    async def are_open(self) -> None:
        for server in self._servers:
            await server.is_open.wait()

    def stop_accepting(self) -> None:
        """Accept no more connections; open connections stay."""
        for server in self._servers:
            server.stop_accepting()

    async def hand_over(self) -> None:
        """Other processes accept now: answer what still comes on this one's connections, and end them."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.drain_s
        self.stop_accepting()
        self._runs.is_handing_over = True
        try:
            while loop.time() < until:
                for server in self._servers:
                    server.hand_over()  # each time: a connection may have been accepted a moment before
                self._runs.say_goodbye()
                await asyncio.sleep(POLL_S)
                if not (self._runs.live_routes() or self._has_clients()):
                    break
        finally:
            self.drain_s = max(0.0, until - loop.time())

    def _has_clients(self) -> bool:
        return any(server.server_state.connections for server in self._servers)
