"""The relay passes heads on as they are, and keeps requests apart; scripted bytes at both ends."""

import asyncio
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.servers.scripted import Asked, ScriptedUpstream, ask, ok, raw, talking, until
from tests.servers.serving import Serving, gated

HOST = b"host: clinic.example\r\n"


METHODS = (
    "GET POST PUT PATCH DELETE OPTIONS TRACE PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH REPORT "
    "MKCALENDAR ACL BIND REBIND UNBIND CHECKOUT MERGE MKACTIVITY LINK UNLINK PURGE SOURCE QUERY M-SEARCH "
    "NOTIFY SUBSCRIBE UNSUBSCRIBE "
    # Those that the parser does not know, or refuses with this protocol.
    "BASELINE-CONTROL CHECKIN LABEL MKREDIRECTREF MKWORKSPACE ORDERPATCH UNCHECKOUT UPDATE UPDATEREDIRECTREF "
    "VERSION-CONTROL BAN BREW DESCRIBE FLUSH FOO GETS G GET_PARAMETER REFRESH SETUP"
)
"""The registered ones without CONNECT and PRI, and some more."""


async def test_any_method_goes_through(upstream: ScriptedUpstream, gate: Serving):
    """Methods are not Headgate's business; WebDAV's and made-up ones go through like the common ones, each
    with its body."""
    upstream.script = ok
    for method in METHODS.split():
        request = f"{method} /a HTTP/1.1\r\nDepth: 1\r\nDestination: http://a/b\r\nIf: (<t>)\r\n".encode()
        for body in (b"", b"<propfind/>"):
            framing = b"content-length: %d\r\n" % len(body) if body else b""
            answered = await ask(gate.url, request + HOST + framing + b"\r\n" + body)

            asked = upstream.asked[-1]
            assert answered.status == 200
            assert asked.head.startswith(f"{method} /a HTTP/1.1\r\ndepth: 1\r\n".encode())
            assert (asked.header(b"destination"), asked.header(b"if")) == (b"http://a/b", b"(<t>)")
            assert asked.body == body


async def test_the_answers_of_webdav_go_through(upstream: ScriptedUpstream, gate: Serving):
    """102 while it works, 207 for several resources, 423 for a lock; their headers are the upstream's."""
    for answer in (
        b"HTTP/1.1 207 Multi-Status\r\ndate: d\r\ndav: 1, 2\r\ncontent-length: 5\r\n\r\n<a:b>",
        b"HTTP/1.1 423 Locked\r\ndate: d\r\nlock-token: <t>\r\ncontent-length: 0\r\n\r\n",
    ):
        upstream.script = raw(b"HTTP/1.1 102 Processing\r\n\r\n" + answer)
        async with talking(gate.url, within_s=30) as client:
            await client.send(b"PROPFIND / HTTP/1.1\r\n%b\r\n" % HOST)
            interim = b"HTTP/1.1 102 Processing\r\n\r\n"
            assert await client.reader.readexactly(len(interim) + len(answer)) == interim + answer


PARTS = b"--x\r\ncontent-range: bytes 0-1/9\r\n\r\nab\r\n--x--\r\n"

RANGES = {
    "one part": b'HTTP/1.1 206 Partial Content\r\ndate: d\r\ncontent-range: bytes 2-3/9\r\netag: "a"\r\n'
    b"content-length: 2\r\n\r\ncd",
    "several parts": b"HTTP/1.1 206 Partial Content\r\ndate: d\r\n"
    b"content-type: multipart/byteranges; boundary=x\r\ncontent-length: %d\r\n\r\n%b" % (len(PARTS), PARTS),
    "none": b"HTTP/1.1 416 Range Not Satisfiable\r\ndate: d\r\ncontent-range: bytes */9\r\n"
    b"content-length: 0\r\n\r\n",
    "the whole": b'HTTP/1.1 200 OK\r\ndate: d\r\naccept-ranges: bytes\r\netag: "b"\r\n'
    b"content-length: 9\r\n\r\nabcdefghi",
}


@pytest.mark.parametrize("answer", [pytest.param(answer, id=name) for name, answer in RANGES.items()])
async def test_ranges_go_through_byte_for_byte(answer: bytes, upstream: ScriptedUpstream, gate: Serving):
    """`Range`, `If-Range`, and what comes of them, are between the client and the upstream."""
    upstream.script = raw(answer)
    wanted = b'range: bytes=0-1,2-3, -1\r\nif-range: "a"\r\n'
    async with talking(gate.url, within_s=30) as client:
        await client.send(b"GET / HTTP/1.1\r\n%b%b\r\n" % (HOST, wanted))
        assert await client.reader.readexactly(len(answer)) == answer

    assert wanted in upstream.asked[0].head


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a?",
        b"/a?b=c&b=d&&=",
        b"/a%2Fb/%C3%A9?q=%20+%zz",
        b"//double//slashes/../dots/.",
        b"/semi;v=1/colon:at@x?u=http://other.example/y?z",
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
    await ask(gate.url, b"GET http://clinic.example HTTP/1.1\r\n%b\r\n" % HOST)
    await ask(gate.url, b"OPTIONS http://clinic.example HTTP/1.1\r\n%b\r\n" % HOST)

    assert [asked.target for asked in upstream.asked] == [b"/a?b=http://x/y", b"*", b"/", b"*"]


@pytest.mark.parametrize(
    ("target", "sent", "seen"),
    [
        (b"http://other.example/a", HOST, b"other.example"),
        (b"HTTP://Other.example:81/a", HOST, b"Other.example:81"),
        (b"https://[::1]:8443/a", HOST, b"[::1]:8443"),
        (b"http://other.example/a", b"", b"other.example"),
    ],
)
async def test_the_host_of_an_absolute_target_wins(
    target: bytes, sent: bytes, seen: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """Over the `Host` beside it (RFC 9112 3.2.2): the upstream sees one host, the target's."""
    answered = await ask(gate.url, b"GET %b HTTP/1.1\r\n%bx: 1\r\n\r\n" % (target, sent))

    assert answered.status == 200
    assert upstream.asked[0].target == b"/a"
    assert [value for name, value in upstream.asked[0].headers() if name == b"host"] == [seen]
    assert upstream.asked[0].header(b"x-forwarded-host") == seen


@pytest.mark.parametrize(
    "host",
    [b"a", b"A.example:8080", b"a:", b"127.0.0.1:1", b"[::1]", b"[::ffff:1.2.3.4]:80", b"my_app", b"a%20b"],
)
async def test_a_host_of_any_form_goes_through(host: bytes, upstream: ScriptedUpstream, gate: Serving):
    """Names, addresses, ports, underscores and percent-encoding, as RFC 3986 has them."""
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % host)

    assert answered.status == 200
    assert upstream.asked[0].header(b"host") == host


async def test_request_headers_keep_their_order_values_and_duplicates(
    upstream: ScriptedUpstream, gate: Serving
):
    """End-to-end headers arrive as they were sent, names in lower case, then those that Headgate adds."""
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
    """Two cookies stay two, an encoded body stays encoded, and to an answer with a date nothing is added."""
    head = b"content-encoding: gzip\r\nset-cookie: a=1\r\nx-odd: \xff\r\nset-cookie: b=2\r\ndate: d\r\n"
    answer = b"HTTP/1.1 299 Whatever\r\n%bcontent-length: 4\r\n\r\n\x1f\x8b\x00\xff" % head
    upstream.script = raw(answer)
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert answered.status == 299
    assert answered.body == b"\x1f\x8b\x00\xff"
    assert b"".join(b"%b: %b\r\n" % pair for pair in answered.headers) == head + b"content-length: 4\r\n"


@pytest.mark.parametrize("framing", [b"content-length: 2\r\n\r\nok", b"\r\nok"], ids=["whole", "by close"])
async def test_an_answer_without_a_date_gets_one(framing: bytes, upstream: ScriptedUpstream, gate: Serving):
    """RFC 9110 6.6.1 asks it of a recipient with a clock; a date that is there stays. Our own answers have
    one."""

    async def play(asked: Asked) -> None:
        date = b"Date: once\r\n" if asked.target == b"/dated" else b""
        await asked.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n%b%b" % (date, framing))
        asked.writer.close()

    upstream.script = play
    plain, dated, own, bad = [
        await ask(gate.url, b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % what)
        for what in ((b"/", b"a"), (b"/dated", b"a"), (b"/_headgate/x", b"a"), (b"/", b"a/b"))
    ]

    assert dated.all(b"date") == [b"once"]
    for answered in (plain, own, bad):
        [date] = answered.all(b"date")
        assert abs(parsedate_to_datetime(date.decode()).timestamp() - time.time()) < 60
        assert date.endswith(b" GMT")


@pytest.mark.parametrize(
    "line", [b"200 Fine", b"404 ", b"404", b"299 Whatever", b"200 Sch\xf6n", b"500 A  B"]
)
@pytest.mark.parametrize("framing", [b"content-length: 2\r\n\r\nok", b"\r\nok"], ids=["whole", "by close"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_the_upstreams_reason_is_passed_on(
    line: bytes, framing: bytes, version: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """The words behind the status, or none."""

    async def play(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 %b\r\nconnection: close\r\n%b" % (line, framing))
        asked.writer.close()

    upstream.script = play
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"GET / HTTP/%b\r\n%bconnection: close\r\n\r\n" % (version, HOST))
        data = await client.reader.read()

    assert data.split(b"\r\n")[0] == b"HTTP/1.1 " + (line if b" " in line else line + b" ")
    assert data.count(b"HTTP/1.1") == 1
    assert b"ok" in data


@pytest.mark.parametrize("apart", [False, True])
async def test_interim_answers_are_passed_on(apart: bool, upstream: ScriptedUpstream, gate: Serving):
    """103 Early Hints and the like when they come, as they are; a 100 that nobody asked for is not."""
    go_on = asyncio.Event()
    interim = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nkeep-alive: 5\r\n"
        b"content-length: 7\r\nlink: </b.js>\r\n\r\n"
    )

    async def play(asked: Asked) -> None:
        if apart:
            await asked.send(interim)
            await go_on.wait()
            await asked.answer(b"{}")
        else:
            await asked.send(interim + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    upstream.script = play
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"GET / HTTP/1.1\r\n%b\r\n" % HOST)
        heads = [await client.reader.readuntil(b"\r\n\r\n") for _ in range(2)]
        go_on.set()
        answered = await client.answer()

    assert heads == [
        b"HTTP/1.1 102 Wait\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nlink: </b.js>\r\n\r\n",
    ]
    assert (answered.status, answered.body) == (200, b"{}")
    assert client.interim == []


async def test_interim_answers_are_not_for_http_1_0(upstream: ScriptedUpstream, gate: Serving):
    """HTTP/1.0 has no interim answers (RFC 9110 15.2)."""
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
    upstream.script = raw(hint + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"GET / HTTP/1.0\r\n%b\r\n" % HOST)
        data = await client.reader.read()

    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
async def test_a_request_that_may_go_no_further_is_answered_here(
    method: str, upstream: ScriptedUpstream, gate: Serving
):
    """`Max-Forwards: 0`; what TRACE is told back has no credentials. A higher one is counted down, and means
    nothing with another method."""
    head = (
        f"{method} /a?b HTTP/1.1\r\nauthorization: secret\r\ncookie: secret\r\nx-user: secret\r\n".encode()
        + HOST
    )
    here = await ask(gate.url, head + b"max-forwards: 0\r\n\r\n")
    for left in (b"7", b"x", b"0, 0"):
        await ask(gate.url, head + b"max-forwards: %b\r\n\r\n" % left)
    await ask(gate.url, b"GET / HTTP/1.1\r\n%bmax-forwards: 0\r\n\r\n" % HOST)

    assert here.status == 200
    assert b"secret" not in here.body
    if method == "TRACE":
        assert here.header(b"content-type") == b"message/http"
        assert here.body == b"TRACE /a?b HTTP/1.1\r\nhost: clinic.example\r\nmax-forwards: 0\r\n\r\n"
    assert [asked.header(b"max-forwards") for asked in upstream.asked] == [b"6", b"x", b"0, 0", b"0"]


@pytest.mark.parametrize(
    "lengths",
    [
        [b"Content-Length: 2", b"content-length:2"],
        [b"content-length: 2, 2"],
        [b"content-length: 2,2", b"content-length: 2"],
    ],
)
@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_a_length_that_is_said_twice_is_one(
    lengths: list[bytes], pieces: int, upstream: ScriptedUpstream, gate: Serving
):
    """Two equal lengths are one (RFC 9110 8.6), however the head is cut; two that differ are no answer."""
    lines = b"\r\n".join([b"HTTP/1.1 200 OK", b"x: 1", *lengths, b"date: d"])
    answer = b"HTTP/1.1 103 Early\r\nx: 0\r\n\r\n" + lines + b"\r\n\r\nok"
    step = -(-len(answer) // pieces)

    async def play(asked: Asked) -> None:
        for at in range(0, len(answer), step):
            await asked.send(answer[at : at + step])
            await asyncio.sleep(0)

    upstream.script = play
    async with talking(gate.url, within_s=20) as client:
        answers = [await client.ask(b"GET / HTTP/1.1\r\n%b\r\n" % HOST) for _ in range(2)]

    for answered in answers:
        assert (answered.status, answered.body) == (200, b"ok")
        assert answered.headers == [(b"x", b"1"), (b"date", b"d"), (b"content-length", b"2")]
    assert client.interim == [103, 103]


async def test_a_length_that_is_said_twice_brings_nobody_the_answer_of_another(
    upstream: ScriptedUpstream, gate: Serving
):
    """Each has its own answer, one after the other on one connection to the upstream."""

    async def play(asked: Asked) -> None:
        lengths = b"content-length: %d\r\n" % len(asked.target) * 2
        await asked.send(b"HTTP/1.1 200 OK\r\ndate: d\r\n%b\r\n%b" % (lengths, asked.target))

    upstream.script = play
    before = upstream.connections
    for target in (b"/of-ann", b"/of-bob", b"/of-cid"):
        answered = await ask(gate.url, b"GET %b HTTP/1.1\r\n%b\r\n" % (target, HOST))
        assert (answered.status, answered.body) == (200, target)
    assert upstream.connections <= before + 1


async def test_headers_for_one_connection_stop_here_in_both_directions(
    upstream: ScriptedUpstream, gate: Serving
):
    """Hop-by-hop fields and those that `Connection` lists are dropped; end-to-end ones it lists are not. That
    the client takes trailers is said anew."""
    hops = (
        b"connection: x-Private, keep-alive, content-length, cookie\r\nkeep-alive: 5\r\nx-private: 1\r\n"
        b"te: trailers\r\ntrailer: x\r\nproxy-authorization: p\r\nproxy-connection: q\r\ncookie: c\r\n"
    )
    answer = b"HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 2\r\nproxy-authenticate: p\r\n%b\r\nok" % hops
    upstream.script = raw(answer)
    answered = await ask(gate.url, b"POST / HTTP/1.1\r\n%b%bcontent-length: 1\r\n\r\na" % (HOST, hops))

    names = [name for name, _ in upstream.asked[0].headers() if not name.startswith(b"x-forwarded")]
    assert names == [b"host", b"cookie", b"content-length", b"connection", b"te"]
    assert upstream.asked[0].header(b"connection") == b"TE"
    assert answered.headers == [(b"date", b"d"), (b"content-length", b"2"), (b"cookie", b"c")]
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
    async with gated(ok, tmp_path, upstream={"forwarding": forwarding}) as (upstream, gate):
        await ask(gate.url, request)

    assert {name: upstream.asked[0].header(name) for name in expected} == expected


async def test_the_upstream_sees_its_own_host_if_the_settings_say_so(tmp_path: Path):
    """`host: upstream` is for upstreams that serve by name; the client's is told as `X-Forwarded-Host`."""
    async with gated(ok, tmp_path, upstream={"forwarding": {"host": "upstream"}}) as (upstream, gate):
        await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert upstream.asked[0].header(b"host") == b"127.0.0.1:%d" % upstream.port
    assert upstream.asked[0].header(b"x-forwarded-host") == b"clinic.example"


async def test_a_websocket_without_an_upgrade_is_an_ordinary_request(
    upstream: ScriptedUpstream, gate: Serving
):
    """`Upgrade` that `Connection` does not name is for nobody (RFC 9110 7.8), and is not passed on."""
    upstream.script = ok
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%bupgrade: WebSocket\r\n\r\n" % HOST)

    assert answered.status == 200
    assert upstream.asked[0].header(b"upgrade") is None


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
    async with talking(gate.url, within_s=20) as client:
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
    async with talking(gate.url, within_s=20) as client:
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
    async with talking(gate.url, within_s=10) as client:
        for n in range(100):
            answered = await client.ask(b"POST / HTTP/1.1\r\n%b" % HOST + shapes[n % 3][0] % n)
            assert answered.body == b"%03d" % n

    assert upstream.connections - before <= 1


async def test_a_redirect_points_where_the_client_is(upstream: ScriptedUpstream, gate: Serving):
    """The upstream builds its Location from the client's own Host, and it is not rewritten."""

    async def redirecting(asked: Asked) -> None:
        where = b"location: http://%b/there\r\n" % (asked.header(b"host") or b"")
        await asked.answer(b"{}", b"307 Temporary Redirect", where)

    upstream.script = redirecting
    answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert answered.header(b"location") == b"http://clinic.example/there"
