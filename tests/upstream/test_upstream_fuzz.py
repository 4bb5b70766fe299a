"""Properties of the relay and of its client side, for generated messages cut into arbitrary pieces."""

import asyncio
import itertools
import re
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.errors import UpstreamError
from proxy.http.headers import HOP_BY_HOP
from proxy.upstream.connection import Connection
from proxy.upstream.response import UpstreamResponse
from proxy.upstream.timeouts import Timeouts
from tests.servers.scripted import Answered, Asked, ScriptedUpstream, talking
from tests.servers.serving import headgate

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

TOKEN = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
FRAMING = {"content-length", "transfer-encoding", "host", "expect", "upgrade", "connection"}
names = st.text(TOKEN, min_size=1, max_size=20).filter(
    lambda name: (
        name not in FRAMING and name.encode() not in HOP_BY_HOP and not name.startswith("x-forwarded")
    )
)
values = st.binary(max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127).strip(b" \t")
)
fields = st.lists(st.tuples(names.map(str.encode), values), max_size=6)
trailers = st.lists(st.tuples(names.map(lambda name: b"x-" + name.encode()), values), max_size=3)
bodies = st.binary(max_size=300)
cuts = st.lists(st.integers(0, 600), max_size=6)
target_bytes = st.text("abc/?&=%~:@!$'()*,;+-._\"<>\\^`{|}[]", max_size=30).map(
    lambda text: b"/" + text.encode()
)


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in at if cut < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


def chunked(body: bytes, at: list[int], trailers: bytes = b"") -> bytes:
    chunks = b"".join(b"%x;ext\r\n%b\r\n" % (len(piece), piece) for piece in pieces(body, at))
    return chunks + b"0\r\n" + trailers + b"\r\n"


@dataclass(frozen=True)
class Spoken:
    """A generated request or answer: what it means, and its bytes in the pieces they are sent in."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes | None
    chunks_at: list[int] | None
    cuts: list[int]
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def trailer_lines(self) -> list[bytes]:
        """As they arrive, without their ends."""
        if self.body is None or self.chunks_at is None:
            return []
        return [b"%b: %b" % pair for pair in self.trailers]

    def pieces(self) -> list[bytes]:
        head = self.start + b"\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in self.fields)
        if self.body is None:
            return pieces(head + b"\r\n", self.cuts)
        if self.chunks_at is None:
            return pieces(head + b"content-length: %d\r\n\r\n" % len(self.body) + self.body, self.cuts)
        framed = chunked(self.body, self.chunks_at, b"".join(b"%b: %b\r\n" % pair for pair in self.trailers))
        return pieces(head + b"transfer-encoding: chunked\r\n\r\n" + framed, self.cuts)


methods = st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND"])
requests = st.builds(
    Spoken,
    st.builds(lambda method, target: b"%b %b HTTP/1.1" % (method, target), methods, target_bytes),
    fields.map(lambda pairs: [(b"host", b"a.example"), *pairs]),
    st.none() | bodies,
    st.none() | cuts,
    cuts,
    trailers,
)
statuses = st.sampled_from([200, 201, 206, 299, 301, 404, 418, 429, 500, 503, 599])
answers = st.builds(
    Spoken,
    statuses.map(lambda status: b"HTTP/1.1 %d Reason" % status),
    fields,
    bodies,
    st.none() | cuts,
    cuts,
    trailers,
)


@dataclass
class World:
    """A Headgate and its upstream in a loop of their own, for tests that are not coroutines."""

    loop: asyncio.AbstractEventLoop
    answer: list[bytes] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def run(self, work: Coroutine[Any, Any, Answered]) -> Answered:
        future: Future[Answered] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(10)

    async def play(self, asked: Asked) -> None:
        await asked.read_body()
        self.asked.append(asked)
        for piece in self.answer:
            await asked.send(piece)
            await asyncio.sleep(0)

    async def ask(self, request: list[bytes]) -> Answered:
        async with talking(self.url, within_s=20) as client:
            for piece in request:
                await client.send(piece)
                await asyncio.sleep(0)
            return await client.answer()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory: Path = tmp_path_factory.mktemp("gate")
    begun: Future[World] = Future()
    done = asyncio.Event()

    async def live() -> None:
        async with AsyncExitStack() as stack:
            here = World(asyncio.get_running_loop())
            upstream = await stack.enter_async_context(ScriptedUpstream(here.play).running())
            gate = await stack.enter_async_context(headgate(upstream.url, directory))
            here.url = gate.url
            begun.set_result(here)
            await done.wait()

    thread = threading.Thread(target=uvloop.run, args=(live(),))
    thread.start()
    here = begun.result(10)
    yield here
    here.loop.call_soon_threadsafe(done.set)
    thread.join(30)


@quick
@example(
    request=Spoken(b"GET / HTTP/1.1", [(b"host", b"a.example")], None, None, []),
    answer=Spoken(b"HTTP/1.1 200 Reason", [(b"date", b"")], b"", None, []),
)
def state(response: UpstreamResponse) -> Iterator[tuple[str, object]]:
    """Each attribute of a response, and its value."""
    for name in dir(response):
        if not name.startswith("__") and not callable(value := getattr(response, name)):
            yield name, value


@given(request=requests, answer=answers)
def test_what_goes_through_is_what_was_sent(world: World, request: Spoken, answer: Spoken):
    """Start line, headers and body, both ways; but for framing and what Headgate adds."""
    world.answer, world.asked = answer.pieces(), []

    answered = world.run(world.ask(request.pieces()))

    asked = world.asked[0]
    added = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    framing = {b"content-length", b"transfer-encoding"}
    assert len(world.asked) == 1
    assert asked.head.split(b"\r\n", 1)[0] == request.start
    assert [pair for pair in asked.headers() if pair[0] not in added | framing] == request.fields
    assert asked.body == (request.body or b"")
    assert (asked.trailers, answered.trailers) == (request.trailer_lines, answer.trailer_lines)
    assert answered.status == int(answer.start[9:12])
    ours = set() if b"date" in dict(answer.fields) else {b"date"}
    assert [pair for pair in answered.headers if pair[0] not in framing | ours] == answer.fields
    assert answered.body == answer.body
    assert answered.complete


class RecordingTransport(asyncio.Transport):
    """asyncio's own interface, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.paused = False

    def write(self, data: Any) -> None:
        assert not self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


class Told:
    """An exchange that remembers what it was told."""

    def __init__(self, is_head: bool) -> None:
        self.method = "HEAD" if is_head else "GET"
        self.interims: list[tuple[int, bytes, list[tuple[bytes, bytes]]]] = []

    def upstream_changed(self) -> None:
        pass

    def upstream_interim(self, _: Any, *interim: Any) -> None:
        self.interims.append(interim)


@dataclass
class Heard:
    """The end of one exchange."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    interims: list[tuple[int, bytes, list[tuple[bytes, bytes]]]]
    continued: bool
    complete: bool
    failure: str
    reusable: bool


def connected(loop: asyncio.AbstractEventLoop) -> tuple[Connection, RecordingTransport]:
    connection, transport = Connection(loop, Timeouts()), RecordingTransport()
    connection.connection_made(transport)
    return connection, transport


def hear(
    loop: asyncio.AbstractEventLoop, data: list[bytes], *, is_head: bool = False, eof: bool = False
) -> Heard:
    """Feed an answer to a new connection as its transport would; read all that can be read."""
    return hear_on(*connected(loop), data, is_head=is_head, eof=eof)


def hear_on(
    connection: Connection,
    transport: RecordingTransport,
    data: list[bytes],
    *,
    is_head: bool = False,
    eof: bool = False,
) -> Heard:
    told = Told(is_head)
    connection.carry(told, b"request", True)
    body = b""
    for piece in data:
        if transport.aborted:
            break
        connection.data_received(piece)
        if connection.response.chunks:
            reading = connection.read()
            with pytest.raises(StopIteration) as read:
                reading.send(None)
            body += read.value.value
    if eof and not transport.aborted:
        connection.connection_lost(None)
    response, failure = connection.response, connection.failure
    assert failure is None or isinstance(failure, UpstreamError)
    outcome = Heard(
        response.status,
        response.reason,
        response.headers,
        body,
        response.trailers,
        told.interims,
        response.continued,
        response.complete,
        repr(failure),
        connection.end(),
    )
    assert not (outcome.reusable and transport.aborted)
    return outcome


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@quick
@given(answer=answers, at=cuts, is_head=st.booleans())
def test_an_answer_means_the_same_however_it_is_cut(
    loop: asyncio.AbstractEventLoop, answer: Spoken, at: list[int], is_head: bool
):
    """It is cut byte by byte, not at all, and in between; a HEAD's answer ends with its head."""
    wire = b"".join(answer.pieces())
    if is_head:
        wire = wire[: wire.index(b"\r\n\r\n") + 4]
    whole = hear(loop, [wire], is_head=is_head)

    for cut in (pieces(wire, at), [wire[n : n + 1] for n in range(len(wire))]):
        assert hear(loop, cut, is_head=is_head) == whole
    assert whole.complete
    assert whole.body == (b"" if is_head else answer.body)


def _has_ended(wire: bytes) -> bool:
    """An independent reading: exactly one final answer, and nothing after it but line ends."""
    while True:
        head, blank, rest = wire.lstrip(b"\r\n").partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3})", head)
        if not blank or status is None:
            return False
        if status[1].startswith(b"1"):
            wire = rest
            continue
        break
    lengths = re.findall(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$", head + b"\r")
    if status[1] in (b"204", b"304"):
        return not rest.strip(b"\r\n")
    if lengths:
        return not rest[int(lengths[0]) :].strip(b"\r\n") and len(rest) >= int(lengths[0])
    while size := re.match(rb"([0-9a-fA-F]+)[^\r\n]*\r\n", rest):
        if not int(size[1], 16):
            trailers = rest[size.end() :]
            end = 0 if trailers.startswith(b"\r\n") else trailers.find(b"\r\n\r\n") + 2
            return end != 1 and not trailers[end + 2 :].strip(b"\r\n")
        rest = rest[size.end() + int(size[1], 16) + 2 :]
    return False


mutations = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "double"]),
        st.integers(0, 800),
        st.binary(min_size=1, max_size=3),
    ),
    max_size=4,
)


def mutated(wire: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, where, what in changes:
        at = where % (len(wire) + 1)
        if kind == "replace":
            wire = wire[:at] + what + wire[at + len(what) :]
        elif kind == "insert":
            wire = wire[:at] + what + wire[at:]
        elif kind == "delete":
            wire = wire[:at] + wire[at + len(what) :]
        else:
            wire = wire[:at] + wire[max(0, at - 20) :]
    return wire


@settings(quick, max_examples=600)
@given(answer=answers, changes=mutations, at=cuts, eof=st.booleans())
def test_a_damaged_answer_never_leaves_a_connection_to_the_next(
    loop: asyncio.AbstractEventLoop,
    answer: Spoken,
    changes: list[tuple[str, int, bytes]],
    at: list[int],
    eof: bool,
):
    """It ends, is refused or is waited for; a connection is reused only after exactly one whole answer."""
    wire = mutated(b"".join(answer.pieces()), changes)

    heard = hear(loop, pieces(wire, at), eof=eof)

    if heard.reusable:
        assert _has_ended(wire), wire
    if eof:
        assert heard.complete or heard.failure != repr(None)
        assert not heard.reusable


before = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n"])
again = st.sampled_from([b"", b"connection: x-a\r\n", b"content-length: 7\r\n", b"content-length: %d\r\n"])


def spoken_oddly(answer: Spoken, interim: bytes, more: bytes, is_head: bool) -> tuple[bytes, bool]:
    """An answer behind an interim one, with one more field in its head: its own length again, for example."""
    start, end, rest = b"".join(answer.pieces()).partition(b"\r\n")
    wire = start + end + more.replace(b"%d", b"%d" % len(answer.body or b"")) + rest
    return interim + (wire[: wire.index(b"\r\n\r\n") + 4] if is_head else wire), is_head


TWICE = b"HTTP/1.1 200 Reason\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}"


@settings(quick, max_examples=60)
@example(exchanges=[((TWICE, False), []), ((TWICE, False), [])], changes=[])
@given(
    exchanges=st.lists(
        st.tuples(st.builds(spoken_oddly, answers, before, again, st.booleans()), cuts),
        min_size=2,
        max_size=4,
    ),
    changes=mutations,
)
def test_a_kept_connection_hears_each_answer_as_a_new_one_does(
    loop: asyncio.AbstractEventLoop,
    exchanges: list[tuple[tuple[bytes, bool], list[int]]],
    changes: list[tuple[str, int, bytes]],
):
    """Nothing of the answers before is left, in what is heard or in the state that the next is read with."""
    set_by_each = {"_parser", "_read_bytes"}
    kept, transport = connected(loop)
    for number, ((whole, is_head), at) in enumerate(exchanges):
        wire = whole if number < len(exchanges) - 1 else mutated(whole, changes)
        heard = hear_on(kept, transport, pieces(wire, at), is_head=is_head)

        assert heard == hear(loop, pieces(wire, at), is_head=is_head), wire
        if not heard.reusable:
            break
        kept.response.reset()
        kept.response.to_head = False  # as `carry` does
        left = {name for name, value in state(kept.response) if value != getattr(UpstreamResponse(), name)}
        assert left <= set_by_each


surpluses = st.one_of(
    st.binary(min_size=1, max_size=50).filter(lambda surplus: surplus[:1] not in b"\r\n"),
    st.integers(1, 38).map(lambda size: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[:size]),
)


@quick
@given(answer=answers, surplus=surpluses, at=cuts)
def test_bytes_after_an_answer_close_its_connection(
    loop: asyncio.AbstractEventLoop, answer: Spoken, surplus: bytes, at: list[int]
):
    """With the answer, in the middle of it, or later: the answer stands, and nobody gets the surplus."""
    heard = hear(loop, pieces(b"".join(answer.pieces()) + surplus, at))

    assert heard.complete
    assert heard.body == answer.body
    assert not heard.reusable
