"""Bodies stream through both ways, end where they end, and never look complete when they are not."""

import asyncio
import json
from pathlib import Path

import pytest

from proxy.relay import sent_request
from tests.servers.ports import free_socket
from tests.servers.scripted import Asked, ScriptedUpstream, ask, ok, raw, talking, until
from tests.servers.serving import Serving, gated, headgate

HOST = b"host: clinic.example\r\n"


def closing(answer: bytes):
    """A script that answers with these bytes and closes."""

    async def play(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(answer)
        asked.writer.close()

    return play


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_of_any_size_go_through_in_both_directions(
    size: int, chunked: bool, upstream: ScriptedUpstream, gate: Serving
):
    """An echo returns what was sent, whichever framing either side chose."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if size else b"0\r\n\r\n"
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
    payload = framed if chunked else body

    async def echo(asked: Asked) -> None:
        received = await asked.read_body()
        again = framed if chunked else received
        await asked.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, again))

    upstream.script = echo
    answered = await ask(gate.url, b"POST / HTTP/1.1\r\n%b%b\r\n\r\n%b" % (HOST, framing, payload))

    assert upstream.asked[0].body == body
    assert answered.body == body
    assert answered.complete


@pytest.mark.parametrize("chunked", [False, True])
async def test_both_bodies_stream_piece_by_piece(chunked: bool, upstream: ScriptedUpstream, gate: Serving):
    """Each piece is there before the next is sent: neither side waits for a whole body."""
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def converse(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            size = int(await asked.reader.readline(), 16) if chunked else 4
            piece = await asked.reader.readexactly(size)
            if chunked:
                await asked.reader.readexactly(2)
            got.put_nowait(piece)
            await asked.send(b"4\r\n%b\r\n" % piece.upper())
        if chunked:
            await asked.reader.readexactly(5)
        await asked.send(b"0\r\n\r\n")

    upstream.script = converse
    async with talking(gate.url, within_s=20) as client:
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: 12"
        await client.send(b"POST / HTTP/1.1\r\n%b%b\r\n\r\n" % (HOST, framing))
        answered = await client.head()
        pieces = client.chunks()
        for piece in (b"pieA", b"pieB", b"pieC"):
            await client.send(b"4\r\n%b\r\n" % piece if chunked else piece)
            assert await got.get() == piece
            assert await anext(pieces) == piece.upper()
        if chunked:
            await client.send(b"0\r\n\r\n")

        assert [rest async for rest in pieces] == []
        assert answered.status == 200


async def test_a_head_is_passed_on_before_its_body_begins(upstream: ScriptedUpstream, gate: Serving):
    """A stream that has nothing to say yet is open all the same, as an EventSource sees by `onopen`."""
    gone_on = asyncio.Event()

    async def slow(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await gone_on.wait()
        await asked.send(b"ok")

    upstream.script = slow
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"GET / HTTP/1.1\r\n%b\r\n" % HOST)
        answered = await client.head()
        gone_on.set()

        assert answered.status == 200
        assert await client.reader.readexactly(2) == b"ok"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\netag: "e"\r\ncontent-length: 1000\r\n\r\n'),
    ],
)
async def test_an_answer_without_a_body_ends_with_its_head(
    method: bytes, answer: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """The length that it announces means nothing; the connection goes on to the next request."""
    upstream.script = raw(answer)
    async with talking(gate.url, within_s=20) as client:
        for _ in range(2):
            answered = await client.ask(b"%b / HTTP/1.1\r\n%b\r\n" % (method, HOST), to_head=True)
            assert answered.status == int(answer[9:12])

    assert len(upstream.asked) == 2


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_expects_100_is_asked_when_the_upstream_asks(
    chunked: bool, upstream: ScriptedUpstream, gate: Serving
):
    """`Expect: 100-continue` goes through, and the body only after the upstream's 100."""
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: 4"
    body = b"4\r\nbody\r\n0\r\n\r\n" if chunked else b"body"

    async def asking(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asked.read_body()
        await asked.answer(b"{}")

    upstream.script = asking
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"PUT / HTTP/1.1\r\n%bexpect: 100-continue\r\n%b\r\n\r\n" % (HOST, framing))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        answered = await client.ask(body)

    assert answered.status == 200
    assert upstream.asked[0].header(b"expect") == b"100-continue"
    assert upstream.asked[0].body == b"body"


async def test_a_client_that_expects_100_is_not_asked_when_the_upstream_refuses(
    upstream: ScriptedUpstream, gate: Serving
):
    """The final answer comes alone, and neither connection is used again: a body may still be owed on it."""

    async def refusing(asked: Asked) -> None:
        await asked.answer(b"{}", b"413 Content Too Large")

    upstream.script = refusing
    async with talking(gate.url, within_s=20) as client:
        request = b"PUT / HTTP/1.1\r\n%bexpect: 100-continue\r\ncontent-length: 40\r\n\r\n" % HOST
        answered = await client.ask(request)
        assert await client.reader.read() == b""
        await ask(gate.url, b"GET /next HTTP/1.1\r\n%b\r\n" % HOST)

    assert (answered.status, client.interim) == (413, [])
    assert answered.header(b"connection") == b"close"
    assert [asked.target for asked in upstream.asked] == [b"/", b"/next"]
    assert upstream.connections == 2


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("begin", "body", "read"),
    [
        (b"PUT / HTTP/1.1\r\ncontent-length: 4", b"body", b"body"),
        (b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked", b"4\r\nbody\r\n0\r\n\r\n", b"body"),
        (b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked", b"0\r\n\r\n", b""),
        (b"PUT / HTTP/1.0\r\ncontent-length: 4", b"body", b"body"),
    ],
)
async def test_a_body_that_waits_for_no_100_goes_on_at_once(
    begin: bytes,
    body: bytes,
    read: bytes,
    apart: bool,
    upstream: ScriptedUpstream,
    gate: Serving,
    monkeypatch: pytest.MonkeyPatch,
):
    """With its head, or later, to an upstream that never asks. HTTP/1.0 has no 100 to wait for."""
    monkeypatch.setattr(sent_request, "CONTINUE_S", 1000.0)
    upstream.script = ok
    head = b"%b\r\n%bexpect: 100-continue\r\n\r\n" % (begin, HOST)
    async with talking(gate.url, within_s=60) as client:
        await client.send(head if apart else head + body)
        if apart:
            await until(lambda: len(upstream.asked) == 1)
            await client.send(body)
        answered = await client.answer()

    assert answered.status == 200
    assert client.interim == ([] if b"/1.0" in begin else [100])
    assert [asked.body for asked in upstream.asked] == [read]


@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue, x", b"x\r\nexpect: 100-continue"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_what_an_upstream_left_unread_is_not_the_next_request(
    expect: bytes, version: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """It answers without a 100, and takes the body, which came all the same, for another request."""

    async def not_reading(asked: Asked) -> None:
        await asked.answer(b'"%b"' % asked.target)

    upstream.script = not_reading
    inner = b"GET /inner HTTP/1.1\r\nx: "  # and the next request's head
    head = b"POST /outer HTTP/%b\r\n%bexpect: %b\r\ncontent-length: %d\r\n\r\n"
    await ask(gate.url, b"GET /before HTTP/1.1\r\n%b\r\n" % HOST)
    outer = await ask(gate.url, head % (version, HOST, expect, len(inner)) + inner)
    after = await ask(gate.url, b"GET /after HTTP/1.1\r\n%b\r\n" % HOST)

    assert (outer.body, after.body) == (b'"/outer"', b'"/after"')
    assert upstream.asked[-1].writer not in [asked.writer for asked in upstream.asked[:-1]]


async def test_interim_answers_are_dropped(upstream: ScriptedUpstream, gate: Serving):
    """A 103 is a hint that HTTP/1.1 clients may do without; the final answer is what goes through."""
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2
    answer = hints + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    upstream.script = raw(answer)
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert (answered.status, answered.body, answered.header(b"link")) == (200, b"ok", None)


async def test_an_early_answer_does_not_wait_for_the_rest_of_the_body(
    upstream: ScriptedUpstream, gate: Serving
):
    """The upstream's refusal is here while the client still sends; the half-used connection is not kept."""

    async def refusing(asked: Asked) -> None:
        await asked.reader.readexactly(1000)
        await asked.answer(b"{}", b"413 Content Too Large")
        if asked.target == b"/":
            await asked.reader.read()

    upstream.script = refusing
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"POST / HTTP/1.1\r\n%bcontent-length: 2000\r\n\r\n" % HOST + b"x" * 1000)
        early = await client.answer()
        await until(lambda: upstream.open == 0)
        await client.send(b"x" * 1000)  # the client keeps its side of the framing, and its connection
        await client.send(b"POST /next HTTP/1.1\r\n%bcontent-length: 1000\r\n\r\n" % HOST + b"y" * 1000)
        late = await client.answer()

    assert (early.status, late.status) == (413, 413)
    assert [asked.target for asked in upstream.asked] == [b"/", b"/next"]


async def test_an_upstream_that_is_down_is_a_502_that_names_nothing(tmp_path: Path):
    """RFC 9457 problem: no host, no port, no exception."""
    listening = free_socket()
    port = listening.getsockname()[1]
    listening.close()
    async with headgate(f"http://127.0.0.1:{port}", tmp_path) as gate:
        answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    problem = json.loads(answered.body)
    assert answered.status == problem["status"] == 502
    assert answered.header(b"content-type") == b"application/problem+json"
    assert set(problem) == {"title", "status", "detail"}
    for secret in (str(port), "127.0.0.1", "Errno", "Error", "Connection"):
        assert secret not in answered.body.decode()


@pytest.mark.parametrize(
    "cut",
    [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 103 Early Hints\r\n\r\n"],
)
async def test_an_upstream_that_leaves_before_its_head_is_a_502(
    cut: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """There is no answer to pass on, so the client is told so."""
    upstream.script = closing(cut)
    answered = await ask(gate.url, b"POST / HTTP/1.1\r\n%bcontent-length: 1\r\n\r\na" % HOST)

    assert (answered.status, answered.complete) == (502, True)
    assert answered.header(b"content-type") == b"application/problem+json"
    assert len(upstream.asked) == 1


async def test_a_head_with_nothing_of_its_body_is_a_502_too(upstream: ScriptedUpstream, gate: Serving):
    """While the client has been told nothing, an honest status is better than a cut connection."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    upstream.script = closing(answer)
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert (answered.status, answered.complete) == (502, True)
    assert answered.header(b"content-type") == b"application/problem+json"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome of it",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nsome of it\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nsome of it",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nsome of it\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nsome of it\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nsome of it!\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_answer_that_breaks_off_never_looks_complete(
    answer: bytes, version: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """The client's connection is cut: its framing is unfinished, and where it has none it is reset."""
    upstream.script = closing(answer)
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"GET / HTTP/1.%b\r\n%b\r\n" % (version[2:], HOST))
        if version == b"1.0" and b"chunked" in answer:
            with pytest.raises(ConnectionResetError):
                await client.answer()
            return
        answered = await client.answer()

    assert answered.status == 200
    assert b"some of it".startswith(answered.body)
    assert not answered.complete


async def test_an_answer_that_ends_with_its_connection_gets_an_end_of_its_own(
    upstream: ScriptedUpstream, gate: Serving
):
    """Without a length the upstream's close is the end; the client is told by chunks."""
    answer = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    upstream.script = closing(answer)
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert (answered.body, answered.complete) == (b"all of it", True)
    assert answered.header(b"transfer-encoding") == b"chunked"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nall\r\n6\r\n of it\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall of it",
    ],
)
async def test_an_http_1_0_client_gets_a_body_that_ends_with_the_connection(
    answer: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """HTTP/1.0 knows no chunks (RFC 9112 7.1); a client that sends no Host gets the upstream's."""
    upstream.script = raw(answer)
    answered = await ask(gate.url, b"GET / HTTP/1.0\r\n\r\n")

    assert answered.body == b"all of it"
    assert answered.header(b"transfer-encoding") is None
    assert answered.header(b"connection") == b"close"
    assert upstream.asked[0].header(b"host") == b"127.0.0.1:%d" % upstream.port


async def test_over_max_connections_is_a_503(tmp_path: Path):
    """A bound of our own, told as a problem; the next request is served when a connection is free."""
    go = asyncio.Event()

    async def waiting(asked: Asked) -> None:
        await go.wait()
        await asked.answer(b"{}")

    async with gated(waiting, tmp_path, upstream={"pool": {"max_connections": 2}}) as (upstream, gate):
        request = b"GET / HTTP/1.1\r\n%b\r\n" % HOST
        first = [asyncio.ensure_future(ask(gate.url, request)) for _ in range(2)]
        await until(lambda: len(upstream.asked) == 2)
        refused = await ask(gate.url, request)
        go.set()
        served = [(await answer).status for answer in first]
        after = await ask(gate.url, request)

    assert refused.status == json.loads(refused.body)["status"] == 503
    assert (served, after.status) == ([200, 200], 200)
