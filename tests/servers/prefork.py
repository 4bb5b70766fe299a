"""An upstream of several processes that share one listening socket, each of which can be kept busy.

As `uvicorn --workers`: a process that is busy takes no connection, and hears nothing on those it has. Run as
a script it serves on the socket that it inherits, until its standard input ends.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.servers.ports import free_socket

WORKERS = 2


async def _serve(listening: socket.socket) -> None:
    server = await asyncio.start_server(_connection, sock=listening)
    await server.serve_forever()


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await _answer(await reader.readuntil(b"\r\n\r\n"), reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`/busy/2.5` says 102 and keeps the whole process busy for that long; all else is answered at once,
    and `/now` differently each time.
    """
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    await reader.readexactly(length)
    path = head.split(b" ")[1]
    if path.startswith(b"/busy/"):
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await writer.drain()
        time.sleep(float(path.removeprefix(b"/busy/")))  # noqa: ASYNC251 - that is what a busy worker does
    when = time.monotonic_ns() if path == b"/now" else 0
    body = b'{"answer": "%d, %d", "at": %d}' % (os.getpid(), when, when)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()


@asynccontextmanager
async def prefork() -> AsyncIterator[str]:
    """Its URL, while it runs."""
    with free_socket() as listening:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.servers.prefork",
            str(listening.fileno()),
            pass_fds=[listening.fileno()],
            stdin=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield url
    finally:
        process.stdin.close()
        await process.wait()


def main() -> None:
    listening = socket.socket(fileno=int(sys.argv[1]))
    workers = []
    for _ in range(WORKERS):
        if not (worker := os.fork()):
            asyncio.run(_serve(listening))
        workers.append(worker)
    sys.stdin.read()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


if __name__ == "__main__":
    main()
