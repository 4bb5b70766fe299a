"""A server's name: looked up anew, and its next address tried where one is refused or silent."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest

from proxy.errors import UpstreamUnreachable
from proxy.upstream import addresses, connecting
from proxy.upstream.addresses import Addresses, alternating
from proxy.upstream.connecting import connect
from tests.servers.ports import free_port

HERE, HERE_TOO = "127.0.0.1", "127.0.0.4"
REFUSED, SILENT = "127.0.0.2", "127.0.0.3"
"""All of 127.0.0.0/8 is loopback: nobody listens at the one, and the other's queue is full."""


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@dataclass
class Names:
    """A resolver whose answer a test changes."""

    hosts: Sequence[str]
    asked: int = 0

    async def __call__(self, _: str) -> Sequence[str]:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.hosts:
            raise socket.gaierror("no such name")
        return self.hosts


@dataclass
class Listener:
    port: int
    accepted: Counter[str] = field(default_factory=Counter)
    ended: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def all_ended(self, count: int) -> None:
        async with asyncio.timeout(60):
            for _ in range(count):
                await self.ended.acquire()


@asynccontextmanager
async def listening(*hosts: str, speaks: bytes = b"") -> AsyncIterator[Listener]:
    """Accepts at each address, and counts; says when a connection has ended."""
    found = Listener(free_port())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.accepted[writer.get_extra_info("sockname")[0]] += 1
        writer.write(speaks)
        await reader.read()
        writer.close()
        found.ended.release()

    async with await asyncio.start_server(serve, list(hosts), found.port):
        yield found


@contextmanager
def silent(port: int) -> Iterator[None]:
    """An address that answers nobody: its queue of connections is full, and nobody accepts one."""
    with socket.socket() as full:
        full.bind((SILENT, port))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex((SILENT, port))
            yield
        finally:
            for each in waiting:
                each.close()


async def opened(at: Addresses, port: int) -> None:
    """Connects, and ends."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Ending(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

        def connection_lost(self, _: Exception | None) -> None:
            ended.set_result(None)

    async with asyncio.timeout(60):
        await connect(Ending(), "name.test", port, None, None, at)
        await ended


@pytest.mark.parametrize(
    "hosts", [(HERE,), (REFUSED, HERE), (SILENT, HERE), (SILENT, REFUSED, HERE), ("::1", HERE)], ids=" ".join
)
async def test_the_next_address_is_tried_where_one_is_refused_or_silent(hosts: Sequence[str]) -> None:
    async with listening(HERE) as listener:
        with silent(listener.port):
            await opened(Addresses("name.test", Names(hosts)), listener.port)
            await listener.all_ended(1)

    assert listener.accepted == {HERE: 1}


async def test_an_address_that_answers_is_not_passed_over() -> None:
    """The first to connect is taken; another one that was begun meanwhile is closed."""
    async with listening(HERE, HERE_TOO) as listener:
        await opened(Addresses("name.test", Names([HERE_TOO, HERE])), listener.port)
        await listener.all_ended(1)

    assert listener.accepted[HERE_TOO] == 1


async def test_of_two_that_accept_one_is_left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "NEXT_S", 0.0)  # all are begun together
    async with listening(HERE, HERE_TOO) as listener:
        await opened(Addresses("name.test", Names([HERE_TOO, HERE])), listener.port)
        await listener.all_ended(listener.accepted.total())


async def test_a_name_without_an_address_that_answers_cannot_be_reached() -> None:
    """And is looked up anew for the next connection."""
    port = free_port()
    names = Names([REFUSED, "127.0.0.5"])
    at = Addresses("name.test", names)
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable):
            await opened(at, port)
    names.hosts = []
    with pytest.raises(UpstreamUnreachable):
        await opened(at, port)

    assert names.asked == 3


async def test_a_server_that_has_moved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections within a few seconds share what was looked up; later ones look again."""
    now = 0.0
    monkeypatch.setattr(addresses, "monotonic", lambda: now)
    async with listening(HERE, HERE_TOO) as listener:
        names = Names([HERE])
        at = Addresses("name.test", names)
        await asyncio.gather(*(opened(at, listener.port) for _ in range(5)))
        assert names.asked == 1
        names.hosts = [HERE_TOO]
        now += addresses.ADDRESSES_S
        await opened(at, listener.port)
        await listener.all_ended(6)

    assert names.asked == 2
    assert listener.accepted == {HERE: 5, HERE_TOO: 1}


async def test_a_connection_that_is_given_up_takes_the_look_up_from_no_other() -> None:
    began, answered = asyncio.Event(), asyncio.Event()

    async def slow(_: str) -> Sequence[str]:
        began.set()
        await answered.wait()
        return [HERE]

    at = Addresses("name.test", slow)
    one, other = (asyncio.create_task(at.look_up()) for _ in range(2))
    await began.wait()
    one.cancel()
    await asyncio.wait({one})
    answered.set()

    assert await other == [HERE]


async def test_a_connection_that_is_given_up_leaves_nothing_open() -> None:
    """While two addresses are tried: both are ended, and what they have reached is closed."""
    async with listening(HERE) as listener:
        with silent(listener.port):
            before = len(asyncio.all_tasks())
            at = Addresses("name.test", Names([SILENT, SILENT]))
            trying = asyncio.create_task(opened(at, listener.port))
            while len(asyncio.all_tasks()) < before + 2:  # noqa: ASYNC110 - the tasks have no event
                await asyncio.sleep(0)
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
            assert len(asyncio.all_tasks()) == before


async def test_the_system_is_asked_for_a_name() -> None:
    """An address is not looked up at all."""
    found = await Addresses("localhost").look_up()

    assert {HERE, "::1"} & set(found)
    assert await Addresses("::1").look_up() == ("::1",)


def test_families_take_turns() -> None:
    """The resolver orders them; the second try is of the other family."""
    assert alternating(["::1", "::2", "::3", HERE, REFUSED]) == ["::1", HERE, "::2", REFUSED, "::3"]
    assert alternating([HERE, "::1"]) == [HERE, "::1"]
