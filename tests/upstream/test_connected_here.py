"""Connections within this machine: the request goes out as soon as the system is asked for one, and once."""

import asyncio
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from proxy.upstream.at_once import Connecting
from proxy.upstream.connection import Connection
from proxy.upstream.pool import ConnectionPool, Origin
from tests.servers.ports import silent_port
from tests.servers.scripted import until

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
LARGE = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 16000000\r\n\r\n" + os.urandom(16_000_000)
"""More than a socket takes at once."""
WITHIN_S = 10.0


class Waiting:
    """An exchange that waits for a connection, to ask for `data`."""

    method = "GET"

    def __init__(self, pool: ConnectionPool, data: bytes) -> None:
        self.pool = pool
        self.data = data
        self.connection: Connection | None = None

    def begin(self) -> Connecting:
        making = self.pool.connect_at_once(self, self.data)
        assert making is not None
        return making

    def connected(self, connection: Connection) -> None:
        self.connection = connection
        connection.carry(self, self.data, True)

    async def made(self) -> Connection:
        await until(lambda: self.connection is not None)
        assert self.connection is not None
        return self.connection

    async def answered(self) -> Connection:
        """The connection, once it may carry another request."""
        connection = await self.made()
        await connection.head()
        assert await connection.read() == b"{}"
        self.pool.release(connection)
        return connection

    def not_connected(self, error: Exception) -> None:
        raise AssertionError(error)

    def upstream_changed(self) -> None:
        """The test looks for itself."""

    def upstream_interim(self, *_: object) -> None:
        """There is none."""


class EndedAsItIsMade(Waiting):
    def connected(self, connection: Connection) -> None:
        self.pool.release(connection)


@contextmanager
def listening_at(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, ConnectionPool]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        listening.settimeout(WITHIN_S)
        yield listening, ConnectionPool(Origin(host, listening.getsockname()[1]))


@asynccontextmanager
async def accepted_from(
    listening: socket.socket,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    accepted, _ = listening.accept()
    reader, writer = await asyncio.open_connection(sock=accepted)
    async with asyncio.timeout(WITHIN_S):
        yield reader, writer
    writer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1"])
async def test_the_request_is_out_before_the_loop_goes_on(host: str) -> None:
    """No turn of the loop is waited for."""
    with listening_at(host) as (listening, pool):
        waiting = Waiting(pool, GET)
        waiting.begin()
        accepted, _ = listening.accept()
        with accepted:
            accepted.settimeout(WITHIN_S)
            received = accepted.recv(100)
            made = waiting.connection
            accepted.sendall(ANSWER)
            await waiting.answered()
            await pool.aclose()

            assert (received, made) == (GET, None)
            accepted.setblocking(False)
            async with asyncio.timeout(WITHIN_S):
                assert await asyncio.get_running_loop().sock_recv(accepted, 100) == b""  # it was sent once


async def test_what_the_system_does_not_take_at_once_follows_in_order() -> None:
    """A large request goes out in parts: none is lost or sent twice."""
    with listening_at() as (listening, pool):
        waiting = Waiting(pool, LARGE)
        waiting.begin()
        async with accepted_from(listening) as (reader, writer):
            received = await reader.readexactly(len(LARGE))
            writer.write(ANSWER)
            await waiting.answered()
            await pool.aclose()

            assert received == LARGE
            assert await reader.read() == b""


async def test_the_next_request_on_such_a_connection_is_whole() -> None:
    """What was out before belongs to the first one."""
    with listening_at() as (listening, pool):
        waiting = Waiting(pool, GET)
        waiting.begin()
        async with accepted_from(listening) as (reader, writer):
            for _ in range(3):
                assert await reader.readexactly(len(GET)) == GET
                writer.write(ANSWER)
                kept = await waiting.answered()
                assert pool.reuse() is kept
                kept.carry(waiting, GET, True)
            pool.release(kept)


@pytest.mark.parametrize("how", ["given up", "ended as it is made", "reset", "ended later"])
async def test_its_descriptor_is_closed_once(how: str) -> None:
    """Closed a second time, it would be another connection's by then."""
    others: list[socket.socket] = []

    async def take_descriptors() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
            others.append(socket.socket())

    with listening_at() as (listening, pool):
        waiting = (EndedAsItIsMade if how == "ended as it is made" else Waiting)(pool, GET)
        making = waiting.begin()
        accepted, _ = listening.accept()
        if how == "given up":
            making.cancel()
        elif how == "reset":
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
        elif how == "ended later":
            await waiting.made()
        await take_descriptors()
        if waiting.connection is not None:
            pool.release(waiting.connection)
        del waiting, making
        await take_descriptors()
        accepted.close()
    gc.collect()

    for other in others:
        os.fstat(other.fileno())
        other.close()


async def test_a_queue_that_is_full_is_waited_for() -> None:
    """Nothing is told until there is a connection."""
    with silent_port() as port:
        pool = ConnectionPool(Origin("127.0.0.1", port))
        waiting = Waiting(pool, GET)
        making = waiting.begin()
        await asyncio.sleep(0)
        assert waiting.connection is None
        making.cancel()
        await until(lambda: pool.in_use == 0)


async def test_a_loop_that_cannot_take_the_connection_does_not_let_it_be_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request may have been received by then. An upstream that cannot be reached is asked once more."""
    told: list[Exception] = []

    class Told(Waiting):
        def not_connected(self, error: Exception) -> None:
            told.append(error)

    async def fails(*_: object, **__: object) -> None:
        await asyncio.sleep(0)
        raise ConnectionResetError("by the peer")

    with listening_at() as (_, pool):
        monkeypatch.setattr(type(asyncio.get_running_loop()), "create_connection", fails)
        Told(pool, GET).begin()
        await until(lambda: bool(told))
        monkeypatch.undo()

    assert [type(error) for error in told] == [ConnectionResetError]
