"""A server's connections: each is served in a task of its own, and ends with the server."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.servers.ports import free_socket

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving_connections(
    serve: Serve,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    path: Path | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Listen on a port, a free one if that is 0, or at the path of a Unix socket; gives the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            with suppress(asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.close()

    if path is not None:
        server = await asyncio.start_unix_server(connected, path)
    else:
        server = await asyncio.start_server(connected, sock=free_socket(host, port), ssl=tls)
    try:
        yield 0 if path is not None else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
