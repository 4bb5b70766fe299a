"""The client's side: bounds on what is read before there is a request, and answers in one write."""

import ast
import asyncio
import gc
import inspect
import json
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import uvicorn
from uvicorn.server import Server, ServerState

from proxy.downstream import slow_clients
from proxy.downstream.answering import peer_of
from proxy.downstream.client_request import ClientRequest
from proxy.downstream.half_closed import CHECK_S, LEFT_S
from proxy.downstream.server import ServerPort, ServerProtocol, uncounted
from proxy.http.asgi import TARGET
from proxy.workers.servers import OwnedServer
from tests.relay.cuts import Wire
from tests.servers.ports import free_socket
from tests.servers.scripted import ok, talking, until
from tests.servers.serving import gated

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


WAIT_S = 0.3


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real bounds, in a hurry."""
    for bound in ("HEAD_S", "BODY_S", "WRITE_S"):
        monkeypatch.setattr(slow_clients, bound, WAIT_S)


class App:
    """An ASGI app that reads each request to its end and says what it saw."""

    def __init__(self) -> None:
        self.seen: list[MutableMapping[str, Any]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        self.seen.append({**scope, "size": size})
        await self.go.wait()
        body = scope[TARGET]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    listening = free_socket()
    config = uvicorn.Config(app, http=cast(Any, uncounted), ws="none", lifespan="off", log_config=None)
    server = OwnedServer(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[tuple[App, str]]:
    app = App()
    async with serving(app) as url:
        yield app, url


@pytest.fixture
def app(shared: tuple[App, str]) -> App:
    shared[0].seen.clear()
    return shared[0]


@pytest.fixture
def url(shared: tuple[App, str]) -> str:
    return shared[1]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(
            b"GET / HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (b"a" * 65 * 1024), 400, id="one header"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\n%b\r\n" % (b"x: y\r\n" * 12_000), 400, id="many headers"),
        pytest.param(b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n" % (b"a" * 66 * 1024), 414, id="target"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 500_000, 400, id="header without an end"),
        pytest.param(b"GET /" + b"a" * 500_000, 414, id="target without an end"),
    ],
)
async def test_a_head_over_64_kib_is_refused(head: bytes, status: int, app: App, url: str):
    """400, or 414 if it is the target alone, and the connection closes; it makes no difference in how many
    packets the head came."""
    async with talking(url, within_s=20) as client:
        client.writer.write(head)
        answered = await client.answer()

    assert answered.status == json.loads(answered.body)["status"] == status
    assert answered.header(b"content-type") == b"application/problem+json"
    assert app.seen == []


async def test_a_large_head_within_the_bound_is_served(app: App, url: str):
    """60 KiB of cookies are unusual but lawful."""
    async with talking(url, within_s=20) as client:
        answered = await client.ask(b"GET / HTTP/1.1\r\nhost: a\r\ncookie: %b\r\n\r\n" % (b"a" * 60 * 1024))

    assert answered.status == 200


@pytest.mark.parametrize("trailers", [b"x: " + b"a" * 500_000, b"x: y\r\n" * 50_000])
async def test_trailers_over_64_kib_are_refused(trailers: bytes, app: App, url: str):
    """One without an end would be held until then."""
    async with talking(url, within_s=20) as client:
        await client.send(CHUNKED + b"1\r\na\r\n0\r\n")
        client.writer.write(trailers)
        answered = await client.answer()

    assert answered.status == 400


async def test_a_trailer_is_no_header_even_in_the_same_packet(app: App, url: str):
    """The app has not begun when the trailer is read; it must not find it among the headers."""
    async with talking(url, within_s=20) as client:
        await client.ask(CHUNKED + b"1\r\na\r\n0\r\nauthorization: evil\r\n\r\n")

    assert [name for name, _ in app.seen[0]["headers"]] == [b"host", b"transfer-encoding"]


async def test_a_long_upload_in_small_pieces_is_not_taken_for_a_long_head(app: App, url: str):
    """Sizes and data of chunks in packets of their own, more than 64 KiB of sizes in all."""
    pieces = 400
    extension = b";x=" + b"a" * 200
    async with talking(url, within_s=10) as client:
        await client.send(CHUNKED)
        for n in range(pieces):
            await client.send(b"5%b\r\n" % extension)
            await asyncio.sleep(0)
            await client.send(b"hello\r\n" if n % 2 else b"hello")
            if not n % 2:
                await client.send(b"\r\n")
        answered = await client.ask(b"0\r\n\r\n")

    assert answered.status == 200
    assert app.seen[0]["size"] == 5 * pieces


async def test_many_pipelined_requests_are_not_taken_for_a_long_head(app: App, url: str):
    """Several hundred requests in few packets, each of them small."""
    count = 3_000
    async with talking(url, within_s=10) as client:
        client.writer.write(b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % n for n in range(count)))
        bodies = [(await client.answer()).body for _ in range(count)]

    assert bodies == [b"/%d" % n for n in range(count)]


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\nx: "])
async def test_a_slow_head_is_closed(start: bytes, url: str):
    """From the connection's or the head's first byte it has its time, however it drips."""
    async with talking(url, within_s=20) as client:
        if start:
            await client.send(start)
        assert await client.reader.read() == b""


async def test_a_slow_second_head_is_closed_too(url: str):
    """The time of a kept connection's next head counts from its first byte."""
    async with talking(url, within_s=20) as client:
        assert (await client.ask(GET)).status == 200
        await client.send(GET[:20])

        assert await client.reader.read() == b""


async def test_an_empty_line_does_not_keep_an_idle_connection_for_ever(url: str):
    """It stops the keep-alive timer, so the timer of a head begins."""
    async with talking(url, within_s=20) as client:
        assert (await client.ask(GET)).status == 200
        await client.send(b"\r\n")

        assert await client.reader.read() == b""


@pytest.mark.parametrize("target", [b"/x", b"http://a/", b"a:80"])
async def test_a_connect_is_refused_at_once(app: App, url: str, target: bytes):
    """To the parser it is an upgrade that cannot be taken back: begun again it would be one again."""
    seen = len(app.seen)
    async with talking(url, within_s=20) as client:
        answered = await client.ask(b"CONNECT %b HTTP/1.1\r\nhost: a\r\n\r\n" % target)

    assert answered.status == 400
    assert len(app.seen) == seen


@pytest.mark.parametrize("more", [b"", GET, GET + b"GET /unfin", CHUNKED + b"2\r\nok"])
async def test_a_client_that_ends_its_side_gets_what_it_is_owed(app: App, url: str, more: bytes):
    """Also with more requests on the way: those that came whole are answered, then the connection closes."""
    app.go.clear()
    seen = len(app.seen)
    async with talking(url, within_s=20) as client:
        await client.send(GET + more)
        client.writer.write_eof()
        await until(lambda: len(app.seen) > seen)
        await asyncio.sleep(CHECK_S * 2.5)  # beyond the time in which one that has left is told from it
        app.go.set()
        answers = [(await client.answer()).body for _ in range(1 + more.startswith(GET))]
        rest = await client.reader.read()

    assert answers == [b"/"] * len(answers)
    assert rest == b""
    assert client.interim == [100]


async def test_a_quick_answer_is_all_that_a_client_gets_that_has_ended_its_side(app: App, url: str):
    """It gets no probe before its answer."""
    async with talking(url, within_s=20) as client:
        await client.send(GET)
        client.writer.write_eof()
        data = await client.reader.read()

    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"\r\n\r\n/")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_client_that_has_left_is_told_from_one_that_has_ended_its_side(version: bytes):
    """Within a second, though both look the same at first."""
    left = asyncio.Event()
    come = asyncio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        come.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with asyncio.timeout(20), serving(waiting) as url, talking(url) as client:
        await client.send(b"GET / HTTP/%b\r\nhost: a\r\n\r\n" % version)
        await come.wait()
        client.writer.close()
        began = asyncio.get_running_loop().time()
        await left.wait()
        took_s = asyncio.get_running_loop().time() - began

    assert took_s < LEFT_S + 10


async def test_any_number_of_upgrades_in_one_packet_is_answered(url: str):
    """Each is parsed again after the one before, and not within it."""
    upgrade = GET[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
    async with talking(url, within_s=10) as client:
        await client.send(upgrade * 1500)
        answers = [await client.answer() for _ in range(1500)]

    assert {answered.status for answered in answers} == {200}


async def test_a_slow_answer_is_not_cut_by_the_time_for_heads(app: App, url: str):
    """Also with more requests waiting, the last of which is not here whole."""
    app.go.clear()
    async with talking(url, within_s=20) as client:
        await client.send(GET * 2 + GET[:10])
        await asyncio.sleep(WAIT_S * 2)
        app.go.set()
        answers = [await client.answer() for _ in range(2)]

    assert [answered.status for answered in answers] == [200, 200]


@pytest.mark.parametrize(
    "start", [b"content-length: 5\r\n\r\nab", b"transfer-encoding: chunked\r\n\r\n2\r\nab"]
)
async def test_a_body_that_stops_is_cut(start: bytes, url: str):
    """It would hold an upstream connection for as long as the client likes."""
    async with talking(url, within_s=20) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + start)
        assert await client.reader.read() == b""


async def test_a_slow_body_that_goes_on_is_not_cut(url: str, app: App):
    """Its time counts from the last byte, not from the first."""
    pieces = 10
    async with talking(url, within_s=20) as client:
        await client.send(b"POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % pieces)
        for _ in range(pieces):
            await asyncio.sleep(WAIT_S / 5)
            await client.send(b"x")
        assert (await client.answer()).body == b"/slow"


async def test_a_client_reads_all_of_an_apps_answer_that_came_early() -> None:
    """It wants the connection closed, and sends the rest of its body after the answer."""
    answer, rest = b"y" * 500_000, b"x" * 3_000_000

    async def early(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async with serving(early) as url, talking(url, within_s=20) as client:
        head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        await client.send(head % len(rest))
        await client.head()
        await client.send(rest)
        assert await client.reader.read() == answer


async def test_a_client_that_never_reads_is_cut() -> None:
    """The bytes that wait for it hold an upstream connection, or a run's text."""
    cut = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watch = asyncio.ensure_future(left(receive))
        while not cut.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await watch

    async def left(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        cut.set()

    async with asyncio.timeout(20), serving(endless) as url, talking(url) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        await cut.wait()


async def test_a_request_that_is_refused_before_its_turn_never_begins():
    """Its turn comes with the answer before it, and its body turns out to be malformed in between."""
    begun: list[ClientRequest] = []
    listening = free_socket()
    config = uvicorn.Config(cast(Any, None), log_config=None)
    config.load()
    config.loaded_app = cast(Any, SimpleNamespace(begin=begun.append))
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(ServerPort(config, state, {}, loop).connect, sock=listening)
    async with server, talking(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
        await client.send(GET + CHUNKED + b"2\r\nok\r\n")
        await until(lambda: len(begun) == 1)
        (protocol,) = state.connections
        begun[0].answer(204, b"No Content", [], b"", last=True)
        protocol.data_received(b"nonsense\r\n")

        assert [(await client.answer()).status for _ in range(2)] == [204, 400]
        assert await client.reader.read() == b""
    assert len(begun) == 1


async def test_who_is_refused_in_the_middle_of_a_body_is_not_asked_for_it():
    """An app that asks later is told that the client has left."""
    begun, refused = asyncio.Event(), asyncio.Event()
    read: list[Any] = []

    async def late(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await refused.wait()
        read.append(await receive())

    async with serving(late) as url, talking(url) as client:
        await client.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
        await begun.wait()
        await client.send(b"nonsense\r\n")
        assert (await client.answer()).status == 400
        refused.set()
        await until(lambda: bool(read))
    assert read == [{"type": "http.disconnect"}]


async def test_a_client_that_leaves_is_told_to_the_request_that_is_being_answered(url: str, app: App):
    """Not to the one that was read last, which waits behind it."""

    async with asyncio.timeout(20):
        left = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        async with serving(waiting) as own_url, talking(own_url) as client:  # type: ignore[arg-type]
            await client.send(GET * 3)
            await until(lambda: client.writer.transport.get_write_buffer_size() == 0)
            await asyncio.sleep(0.05)
            client.leave()
            await left.wait()


@contextmanager
def without_collector() -> Iterator[None]:
    """What goes meanwhile goes by itself. What is there before is not looked at by `made`."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def made(kind: type) -> int:
    """The objects of a kind that there are. What is compiled cannot be referred to weakly."""
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


async def test_an_answered_request_is_gone_without_the_collector(tmp_path: Path) -> None:
    """Nothing of a request waits for the garbage collector, whose pauses everybody would feel."""
    async with (
        gated(ok, tmp_path) as (_, gate),
        httpx.AsyncClient() as client,
    ):
        await client.get(gate.url)
        with without_collector():
            for _ in range(50):
                await client.get(gate.url)
            left = made(ClientRequest)

    assert left <= 2


def unanswered(sent: bytes) -> ServerProtocol:
    """A connection that has read this, with an app that takes requests and never answers."""
    config = uvicorn.Config(App(), interface="asgi3", log_config=None, ws="none")
    config.load()
    config.loaded_app = SimpleNamespace(begin=lambda request: None)  # type: ignore[assignment]
    protocol = ServerPort(config, ServerState(), {}).connect()
    protocol.connection_made(cast(asyncio.Transport, Wire(lambda _: None)))
    protocol.data_received(sent)
    return protocol


@pytest.mark.parametrize(
    "sent", [GET, CHUNKED + b"6\r\nunread", GET + GET], ids=["waiting", "not read", "behind another"]
)
async def test_a_request_whose_client_has_left_is_gone_without_the_collector(sent: bytes) -> None:
    """Its text would stay in the process, until the collector comes by."""
    with without_collector():
        protocol = unanswered(sent)
        assert made(ClientRequest) == sent.count(b"HTTP/1.1")
        protocol.connection_lost(None)
        del protocol
        assert not made(ClientRequest)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /#text HTTP/1.1\r\nhost: a\r\n\r\n",
        CHUNKED + b"4\r\ntext\r\n0\r\nb: %b\r\n\r\n" % (b"c" * 70_000),
    ],
    ids=["fragment", "trailers"],
)
async def test_a_request_that_is_refused_while_it_is_read_is_gone_without_the_collector(sent: bytes) -> None:
    """Its refusal is kept, but not the frames that it was raised through, which have its text."""
    with without_collector():
        protocol = unanswered(sent)
        assert protocol._refusal is not None
        assert made(ServerProtocol) == 1
        protocol.connection_lost(None)
        del protocol
        assert not made(ServerProtocol)


def test_a_connection_has_what_uvicorns_server_asks_for():
    """It is none of uvicorn's own, so that another release may ask for more."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Server)))
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "connection"
    }

    assert asked == {"shutdown"}


class OfALink(asyncio.Transport):
    """A connection of a peer whose address holds on one link alone, as uvloop's has it."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("fe80::1", 9, 0, 3) if name == "peername" else self if name == "socket" else default

    def getpeername(self) -> tuple[str, int, int, int]:
        return "fe80::1%eth0", 9, 0, 3


def test_a_peers_address_names_its_link():
    """Without it nobody could reach that peer."""
    assert peer_of(OfALink()) == ("fe80::1%eth0", 9)
