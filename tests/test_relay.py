"""The relay passes requests and answers on as they are; over loopback, with scripted bytes at both ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scripted import Asked, ScriptedUpstream, ask, talking, until
from tests.serving import Serving, free_socket, headgate

pytestmark = pytest.mark.anyio

HOST = b"host: clinic.example\r\n"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as in production


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[ScriptedUpstream, Serving]]:
    """Starting and stopping takes most of a second, and no test here changes anything but the script."""
    async with (
        ScriptedUpstream(ok).running() as upstream,
        headgate(upstream.url, tmp_path_factory.mktemp("gate")) as gate,
    ):
        yield upstream, gate


@pytest.fixture
def upstream(shared: tuple[ScriptedUpstream, Serving]) -> ScriptedUpstream:
    shared[0].asked.clear()
    shared[0].left.clear()
    return shared[0]


@pytest.fixture
def gate(shared: tuple[ScriptedUpstream, Serving]) -> Serving:
    return shared[1]


async def ok(asked: Asked) -> None:
    await asked.read_body()
    await asked.answer(b'{"ok": true}')


def raw(answer: bytes):
    """A script that answers every request with these bytes."""

    async def play(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(answer)

    return play


def closing(answer: bytes):
    """A script that answers with these bytes and closes."""

    async def play(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(answer)
        asked.writer.close()

    return play


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "PURGE"]
)
async def test_any_method_goes_through(method: str, upstream: ScriptedUpstream, gate: Serving):
    """Methods are not Headgate's business; WebDAV's go through like the common ones."""
    upstream.script = ok
    answered = await ask(gate.url, f"{method} /a HTTP/1.1\r\n".encode() + HOST + b"\r\n")

    assert answered.status == 200
    assert upstream.asked[0].head.startswith(f"{method} /a HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a?",
        b"/a?b=c&b=d&&=",
        b"/a%2Fb/%C3%A9?q=%20+%zz",
        b"//double//slashes/../dots/.",
        b"/semi;v=1/colon:at@x?u=http://other.example/y?z#f",
        b'/"<>\\^`{|}',
        b"/%00%0d%0a",
    ],
)
async def test_a_target_goes_through_byte_for_byte(target: bytes, upstream: ScriptedUpstream, gate: Serving):
    """Nothing is decoded, normalised or escaped; an empty query keeps its question mark."""
    upstream.script = ok
    await ask(gate.url, b"GET %b HTTP/1.1\r\n%b\r\n" % (target, HOST))

    assert upstream.asked[0].target == target


async def test_the_absolute_form_becomes_the_origin_form(upstream: ScriptedUpstream, gate: Serving):
    """A target with a scheme and the same host (RFC 9112 3.2.2) reaches the upstream as its path."""
    upstream.script = ok
    await ask(gate.url, b"GET http://Clinic.example/a?b=http://x/y HTTP/1.1\r\n%b\r\n" % HOST)
    await ask(gate.url, b"OPTIONS * HTTP/1.1\r\n%b\r\n" % HOST)

    assert [asked.target for asked in upstream.asked] == [b"/a?b=http://x/y", b"*"]


async def test_request_headers_keep_their_order_values_and_duplicates(
    upstream: ScriptedUpstream, gate: Serving
):
    """What is end to end arrives as it was sent, names in lower case, then what Headgate adds."""
    sent = [
        (b"host", b"clinic.example"),
        (b"x-twice", b"1"),
        (b"accept", b"a, b;q=0.1"),
        (b"x-twice", b"2"),
        (b"cookie", b'a="b c"; d=\xe4'),
        (b"accept-encoding", b"br"),
        (b"x-empty", b""),
        (b"authorization", b"Bearer x"),
    ]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in sent)
    upstream.script = ok
    await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % lines)

    assert upstream.asked[0].headers() == [
        *sent,
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"clinic.example"),
    ]


async def test_response_headers_keep_their_order_values_and_duplicates(
    upstream: ScriptedUpstream, gate: Serving
):
    """Two cookies stay two, an encoded body stays encoded, and nothing is added."""
    head = b"content-encoding: gzip\r\nset-cookie: a=1\r\nx-odd: \xff\r\nset-cookie: b=2\r\ndate: d\r\n"
    answer = b"HTTP/1.1 299 Whatever\r\n%bcontent-length: 4\r\n\r\n\x1f\x8b\x00\xff" % head
    upstream.script = raw(answer)
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert answered.status == 299
    assert answered.body == b"\x1f\x8b\x00\xff"
    assert b"".join(b"%b: %b\r\n" % pair for pair in answered.headers) == head + b"content-length: 4\r\n"


async def test_headers_for_one_connection_stop_here_in_both_directions(
    upstream: ScriptedUpstream, gate: Serving
):
    """Hop-by-hop fields and those that `Connection` lists are dropped; end-to-end ones it lists are not."""
    hops = (
        b"connection: x-Private, keep-alive, content-length, cookie\r\nkeep-alive: 5\r\nx-private: 1\r\n"
        b"te: trailers\r\ntrailer: x\r\nproxy-authorization: p\r\nproxy-connection: q\r\ncookie: c\r\n"
    )
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nproxy-authenticate: p\r\n%b\r\nok" % hops
    upstream.script = raw(answer)
    answered = await ask(gate.url, b"POST / HTTP/1.1\r\n%b%bcontent-length: 1\r\n\r\na" % (HOST, hops))

    names = [name for name, _ in upstream.asked[0].headers() if not name.startswith(b"x-forwarded")]
    assert names == [b"host", b"cookie", b"content-length"]
    assert answered.headers == [(b"content-length", b"2"), (b"cookie", b"c")]
    assert answered.body == b"ok"


@pytest.mark.parametrize(
    ("forwarding", "expected"),
    [
        (
            {},
            {
                b"x-forwarded-for": b"1.1.1.1, 127.0.0.1",
                b"x-forwarded-proto": b"https",
                b"host": b"a.example",
            },
        ),
        ({"x_forwarded": "replace"}, {b"x-forwarded-for": b"127.0.0.1", b"x-forwarded-proto": b"http"}),
        ({"x_forwarded": "off"}, {b"x-forwarded-for": b"1.1.1.1", b"x-forwarded-host": None}),
        ({"via": True}, {b"via": b"1.1 headgate"}),
        ({"forwarded": True}, {b"forwarded": b'for=127.0.0.1;host="a.example";proto=http'}),
    ],
)
async def test_what_the_upstream_is_told_of_the_client_is_a_setting(
    forwarding: dict[str, object], expected: dict[bytes, bytes | None], tmp_path: Path
):
    """`append` trusts the proxy in front, `replace` does not, `off` adds nothing."""
    request = (
        b"GET / HTTP/1.1\r\nhost: a.example\r\nx-forwarded-for: 1.1.1.1\r\nx-forwarded-proto: https\r\n\r\n"
    )
    async with (
        ScriptedUpstream(ok).running() as upstream,
        headgate(upstream.url, tmp_path, upstream={"forwarding": forwarding}) as gate,
    ):
        await ask(gate.url, request)

    assert {name: upstream.asked[0].header(name) for name in expected} == expected


async def test_the_upstream_sees_its_own_host_if_the_settings_say_so(tmp_path: Path):
    """`host: upstream` is for upstreams that serve by name; the client's is told as `X-Forwarded-Host`."""
    async with (
        ScriptedUpstream(ok).running() as upstream,
        headgate(upstream.url, tmp_path, upstream={"forwarding": {"host": "upstream"}}) as gate,
    ):
        await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert upstream.asked[0].header(b"host") == b"127.0.0.1:%d" % upstream.port
    assert upstream.asked[0].header(b"x-forwarded-host") == b"clinic.example"


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
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
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
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
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
    """Whatever length it announces; the connection goes on to the next request."""
    upstream.script = raw(answer)
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
        for _ in range(2):
            answered = await client.ask(b"%b / HTTP/1.1\r\n%b\r\n" % (method, HOST), to_head=True)
            assert answered.status == int(answer[9:12])

    assert len(upstream.asked) == 2


async def test_trailers_are_dropped_in_both_directions(upstream: ScriptedUpstream, gate: Serving):
    """A trailer is never taken for a header, not even one that came with the head in one packet."""
    answer = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nset-cookie: evil=1\r\n\r\n"
    )
    upstream.script = raw(answer)
    answered = await ask(
        gate.url,
        b"POST / HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n"
        b"1\r\na\r\n0\r\nauthorization: evil\r\nhost: evil\r\nx-trailer: 1\r\n\r\n" % HOST,
    )

    assert b"evil" not in upstream.asked[0].head and b"x-trailer" not in upstream.asked[0].head
    assert upstream.asked[0].body == b"a"
    assert (answered.body, answered.complete, answered.all(b"set-cookie")) == (b"ok", True, [])


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
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
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
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
        request = b"PUT / HTTP/1.1\r\n%bexpect: 100-continue\r\ncontent-length: 40\r\n\r\n" % HOST
        answered = await client.ask(request)
        assert await client.reader.read() == b""
        await ask(gate.url, b"GET /next HTTP/1.1\r\n%b\r\n" % HOST)

    assert (answered.status, client.interim) == (413, [])
    assert answered.header(b"connection") == b"close"
    assert [asked.target for asked in upstream.asked] == [b"/", b"/next"]
    assert upstream.connections == 2


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
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\n%bcontent-length: 2000\r\n\r\n" % HOST + b"x" * 1000)
        early = await client.answer()
        await until(lambda: upstream.open == 0)
        await client.send(b"x" * 1000)  # the client keeps its side of the framing, and its connection
        await client.send(b"POST /next HTTP/1.1\r\n%bcontent-length: 1000\r\n\r\n" % HOST + b"y" * 1000)
        late = await client.answer()

    assert (early.status, late.status) == (413, 413)
    assert [asked.target for asked in upstream.asked] == [b"/", b"/next"]


async def test_a_websocket_is_refused_clearly(upstream: ScriptedUpstream, gate: Serving):
    """501 as a problem, and nothing reaches the upstream."""
    request = b"GET / HTTP/1.1\r\n%bconnection: Upgrade\r\nupgrade: WebSocket\r\n\r\n" % HOST
    upstream.script = ok
    answered = await ask(gate.url, request)

    assert answered.status == 501
    assert answered.header(b"content-type") == b"application/problem+json"
    assert "WebSocket" in json.loads(answered.body)["detail"]
    assert upstream.asked == []


@pytest.mark.parametrize("apart", [False, True])
async def test_an_upgrade_to_h2c_is_ignored(apart: bool, upstream: ScriptedUpstream, gate: Serving):
    """The request goes through with its body, as Java's HttpClient needs it, and so does the next one."""
    body = b"GET /smuggled HTTP/1.1\r\nhost: evil\r\n\r\n"
    head = (
        b"POST / HTTP/1.1\r\n%bconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
        b"content-length: %d\r\n\r\n" % (HOST, len(body))
    )
    after = b"GET /next HTTP/1.1\r\n%b\r\n" % HOST
    upstream.script = ok
    async with asyncio.timeout(5), talking(gate.url) as client:
        await client.send(head if apart else head + body + after)
        if apart:
            await until(lambda: len(upstream.asked) == 1)
            await client.send(body + after)
        statuses = [(await client.answer()).status for _ in range(2)]

    assert statuses == [200, 200]
    assert [(asked.target, asked.body) for asked in upstream.asked] == [(b"/", body), (b"/next", b"")]
    names = [name for name, _ in upstream.asked[0].headers()]
    assert not {b"connection", b"upgrade", b"http2-settings"} & set(names)


async def test_pipelined_requests_are_answered_in_order(upstream: ScriptedUpstream, gate: Serving):
    """Three requests in one packet, bodies and all; the first is the slowest."""

    async def by_target(asked: Asked) -> None:
        body = await asked.read_body()
        await asked.answer(asked.target + body)

    requests = b"".join(
        b"POST /%d HTTP/1.1\r\n%bcontent-length: 3\r\n\r\nab%d" % (n, HOST, n) for n in range(5)
    )
    upstream.script = by_target
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
        await client.send(requests)
        bodies = [(await client.answer()).body for _ in range(5)]

    assert bodies == [b"/%dab%d" % (n, n) for n in range(5)]


async def test_one_client_connection_carries_a_hundred_requests(upstream: ScriptedUpstream, gate: Serving):
    """Nothing of a request is left for the next, on one connection at either side."""
    shapes = [
        (b"content-length: 3\r\n\r\n%03d", b"content-length: 3\r\n\r\n%b"),
        (b"transfer-encoding: chunked\r\n\r\n3\r\n%03d\r\n0\r\nt: 1\r\n\r\n", b"content-length: 3\r\n\r\n%b"),
        (b"content-length: 3\r\n\r\n%03d", b"transfer-encoding: chunked\r\n\r\n3\r\n%b\r\n0\r\n\r\n"),
    ]

    async def echo(asked: Asked) -> None:
        body = await asked.read_body()
        await asked.send(b"HTTP/1.1 200 OK\r\n" + shapes[int(body) % 3][1] % body)

    upstream.script = echo
    before = upstream.connections
    async with (
        asyncio.timeout(10),
        talking(gate.url) as client,
    ):
        for n in range(100):
            answered = await client.ask(b"POST / HTTP/1.1\r\n%b" % HOST + shapes[n % 3][0] % n)
            assert answered.body == b"%03d" % n

    assert upstream.connections - before <= 1


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
    async with (
        asyncio.timeout(5),
        talking(gate.url) as client,
    ):
        await client.send(b"GET / HTTP/1.%b\r\n%b\r\n" % (version[2:], HOST))
        try:
            answered = await client.answer()
        except ConnectionResetError:
            assert version == b"1.0"
            return

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

    async with (
        ScriptedUpstream(waiting).running() as upstream,
        headgate(upstream.url, tmp_path, upstream={"pool": {"max_connections": 2}}) as gate,
    ):
        request = b"GET / HTTP/1.1\r\n%b\r\n" % HOST
        first = [asyncio.ensure_future(ask(gate.url, request)) for _ in range(2)]
        await until(lambda: len(upstream.asked) == 2)
        refused = await ask(gate.url, request)
        go.set()
        served = [(await answer).status for answer in first]
        after = await ask(gate.url, request)

    assert refused.status == json.loads(refused.body)["status"] == 503
    assert (served, after.status) == ([200, 200], 200)


async def test_a_redirect_points_where_the_client_is(upstream: ScriptedUpstream, gate: Serving):
    """The upstream builds its Location from the client's own Host, and it is not rewritten."""

    async def redirecting(asked: Asked) -> None:
        where = b"location: http://%b/there\r\n" % (asked.header(b"host") or b"")
        await asked.answer(b"{}", b"307 Temporary Redirect", where)

    upstream.script = redirecting
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert answered.header(b"location") == b"http://clinic.example/there"
