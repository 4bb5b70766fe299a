"""The servers of one process: while they serve, and while they hand over to those of another process."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

import uvicorn

from proxy.downstream.descriptors import BACKLOG
from proxy.downstream.server import ServerProtocol
from proxy.runs.runs import Runs

POLL_S = 0.1
"""Seconds between two looks of a process that hands over for clients and viewers that are left."""


class OwnedServer(uvicorn.Server):
    """uvicorn without its signal handling: several servers share one process, and one owner ends them all."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket | None = None) -> None:
        super().__init__(config)
        self._listening = listening
        self.is_open = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve_here(self) -> None:
        assert self._listening is not None
        await self.serve([self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_open.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn cancels calls that are left when the time to drain is over; what is relayed is no call."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            assert isinstance(connection, ServerProtocol)
            connection.give_up()

    def stop_accepting(self) -> None:
        """Accept no more connections; open connections stay."""
        for server in self.servers:
            server.close()
        if self._listening is not None:
            self._listening.close()

    def hand_over(self) -> None:
        """Close each connection after one more answer, which announces the close."""
        for connection in list(self.server_state.connections):
            assert isinstance(connection, ServerProtocol)
            connection.close_after_next()


def server(
    app: object,
    listening: socket.socket,
    protocol: type[ServerProtocol] = ServerProtocol,
    *,
    keep_alive_s: float,
    grace_s: float,
    backlog: int = BACKLOG,
) -> OwnedServer:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol,
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
    return OwnedServer(config, listening)


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
