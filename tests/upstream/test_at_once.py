"""Connections that are made without a task: whatever becomes of one, its exchange is told, or none waits."""

import asyncio
import gc
import os
import resource
import socket
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from proxy.errors import UpstreamBroke, UpstreamBusy, UpstreamUnreachable
from proxy.upstream.at_once import Connecting
from proxy.upstream.connection import Connection
from proxy.upstream.pool import ConnectionPool, Origin
from proxy.upstream.timeouts import Timeouts
from tests.servers.ports import free_port, silent_port
from tests.servers.scripted import Asked, ScriptedUpstream, until

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
MOST_TURNS = 6
"""Of the loop, within which a connection on loopback is made."""


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Waiting:
    """An exchange that waits for a connection, and has it for one request."""

    method = "GET"

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.connection: Connection | None = None
        self.told: list[Exception | None] = []

    def begin(self) -> Connecting | None:
        return self.pool.connect_at_once(self)

    def connected(self, connection: Connection) -> None:
        self.told.append(None)
        self.connection = connection
        connection.carry(self, GET, True)

    def not_connected(self, error: Exception) -> None:
        self.told.append(error)

    def upstream_changed(self) -> None:
        """The test looks for itself."""

    def upstream_interim(self, *_: object) -> None:
        """There is none."""

    def end(self) -> None:
        if self.connection is not None:
            self.pool.release(self.connection)
            self.connection = None


def pool_of(port: int, *, host: str = "127.0.0.1", connect_s: float = 30.0, most: int = 9) -> ConnectionPool:
    return ConnectionPool(Origin(host, port, timeouts=Timeouts(connect_s=connect_s), max_connections=most))


async def ok(asked: Asked) -> None:
    await asked.answer(b"{}")


def sockets() -> set[str]:
    """Those that are open; a loop opens files of its own when it needs them first."""
    links = set()
    for each in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of the list itself
            links.add(os.readlink(f"/dev/fd/{each}"))
    return {link for link in links if link.startswith("socket:")}


@contextmanager
def leaving_nothing(pool: ConnectionPool) -> Iterator[Callable[[], bool]]:
    """The block may wait for the pool to be as it was; no task was begun by then."""
    tasks, before = len(asyncio.all_tasks()), sockets()

    def is_clean() -> bool:
        return (pool.in_use, sockets(), len(asyncio.all_tasks())) == (0, before, tasks)

    yield is_clean
    assert is_clean()


async def test_a_connection_is_made_and_kept():
    """The request goes out as soon as it is made, in no task; the next one has it from the pool."""
    async with ScriptedUpstream(ok).running() as upstream:
        pool = pool_of(upstream.port)
        waiting = Waiting(pool)
        before = asyncio.all_tasks()
        assert waiting.begin() is not None
        assert asyncio.all_tasks() == before
        await until(lambda: bool(waiting.told))
        assert waiting.connection is not None
        await waiting.connection.head()
        waiting.connection.take()
        waiting.end()

        assert (waiting.told, repr(pool), upstream.connections) == ([None], "<Upstream 0 in use, 1 idle>", 1)
        await pool.aclose()


async def test_a_refused_connection_says_so():
    """As the one that a task makes; and the address is looked up anew, if it is a name's."""
    pool = pool_of(free_port())
    with leaving_nothing(pool) as is_clean:
        waiting = Waiting(pool)
        if waiting.begin() is None:
            with pytest.raises(UpstreamUnreachable, match="ConnectionRefusedError"):
                await pool.connect()
        else:
            await until(lambda: bool(waiting.told))
            assert [(type(error), str(error)) for error in waiting.told] == [
                (UpstreamUnreachable, "ConnectionRefusedError")
            ]
        await until(is_clean)


async def test_a_name_whose_only_address_is_known_is_connected_to_until_it_refuses():
    """One that is not known, or has several, is left to a task."""
    async with ScriptedUpstream(ok).running() as upstream:
        pool = pool_of(upstream.port, host="localhost")
        assert Waiting(pool).begin() is None
        pool._addresses._found, pool._addresses._until = ["127.0.0.1"], float("inf")
        waiting = Waiting(pool)
        assert waiting.begin() is not None
        await until(lambda: bool(waiting.told))
        waiting.end()
        pool._addresses._found = ["127.0.0.1", "::1"]
        assert Waiting(pool).begin() is None

    pool._addresses._found = ["127.0.0.1"]
    refused = Waiting(pool)
    if refused.begin() is None:
        with pytest.raises(UpstreamUnreachable):
            await pool.connect()
    else:
        await until(lambda: bool(refused.told))
    assert pool._addresses.known() is None


async def test_a_connection_that_nobody_accepts_is_given_up_after_connect_s():
    """Not before, and nothing of it stays open."""
    with silent_port() as port:
        pool = pool_of(port, connect_s=0.2)
        with leaving_nothing(pool) as is_clean:
            waiting = Waiting(pool)
            began_at = asyncio.get_running_loop().time()
            assert waiting.begin() is not None
            await until(lambda: bool(waiting.told))
            took_s = asyncio.get_running_loop().time() - began_at
            await until(is_clean)

    assert [(type(error), str(error)) for error in waiting.told] == [(UpstreamUnreachable, "TimeoutError")]
    assert took_s >= 0.2


async def test_an_address_that_cannot_be_reached_is_left_to_what_can_say_why():
    """A failure at once: nobody is told, and nothing is open or counted."""
    pool = pool_of(80, host="255.255.255.255")
    with leaving_nothing(pool):
        waiting = Waiting(pool)
        if waiting.begin() is not None:  # the loop waits even for that
            await until(lambda: bool(waiting.told))
        else:
            with pytest.raises(UpstreamUnreachable):
                await pool.connect()
            assert waiting.told == []


async def test_a_process_without_descriptors_connects_to_nothing_and_loses_none():
    """The other way to connect says so, as before."""
    with silent_port() as port:
        pool = pool_of(port)
        with leaving_nothing(pool):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as free:
                lowest = free.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                assert Waiting(pool).begin() is None
                with pytest.raises(UpstreamUnreachable, match="OSError"):
                    await pool.connect()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_no_more_than_max_connections_are_begun():
    """Connections in the making count, too."""
    with silent_port() as port:
        pool = pool_of(port, most=1)
        with leaving_nothing(pool) as is_clean:
            making = Waiting(pool).begin()
            assert making is not None
            assert Waiting(pool).begin() is None
            with pytest.raises(UpstreamBusy):
                await pool.connect()
            making.cancel()
            await until(is_clean)


@pytest.mark.parametrize("turns", range(MOST_TURNS))
@pytest.mark.parametrize("how", ["accepted", "refused", "silent"])
async def test_a_connection_that_is_given_up_at_any_moment_leaves_nothing(turns: int, how: str):
    """Nobody is told of it any more; who was told a moment before has it, and gives it back."""
    async with ScriptedUpstream(ok).running() as upstream:
        with silent_port() as mute:
            pool = pool_of({"accepted": upstream.port, "refused": free_port(), "silent": mute}[how])
            with leaving_nothing(pool) as is_clean:
                waiting = Waiting(pool)
                making = waiting.begin()
                for _ in range(turns):
                    await asyncio.sleep(0)
                told = len(waiting.told)
                if making is not None and not told:
                    making.cancel()
                elif waiting.connection is not None:
                    waiting.connection.abort()
                waiting.end()
                await until(is_clean)

    assert len(waiting.told) == told


async def test_a_connection_that_is_reset_once_it_is_made_is_its_exchanges_affair():
    """It has been told of the connection, and is not told a second time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pool = pool_of(listening.getsockname()[1])
        waiting = Waiting(pool)
        assert waiting.begin() is not None
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        await until(lambda: bool(waiting.told))
        if waiting.connection is not None:
            with pytest.raises(UpstreamBroke):
                await waiting.connection.head()
        waiting.end()

    assert (len(waiting.told), pool.in_use) == (1, 0)


async def begun_and_ended(waiting: Waiting, *, is_made: bool) -> weakref.ref[Waiting]:
    making = waiting.begin()
    assert making is not None
    if is_made:
        await until(lambda: bool(waiting.told))
        waiting.end()
    else:
        making.cancel()
    return weakref.ref(waiting)


@pytest.mark.parametrize("how", ["made", "given up"])
async def test_what_waited_for_a_connection_is_held_by_nothing_of_it(how: str):
    """Without the collector: it has a user's text."""
    async with ScriptedUpstream(ok).running() as upstream:
        with silent_port() as mute:
            pool = pool_of(upstream.port if how == "made" else mute)
            gc.collect()
            gc.disable()
            try:
                gone = await begun_and_ended(Waiting(pool), is_made=how == "made")
                await until(lambda: gone() is None)
            finally:
                gc.enable()
            await pool.aclose()
