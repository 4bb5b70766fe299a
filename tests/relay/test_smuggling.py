"""Requests that two parsers could read in two ways go no further, and answers of that kind neither."""

import asyncio
import json

import pytest

from tests.servers.scripted import Asked, ScriptedUpstream, ask, ok, talking, until
from tests.servers.serving import Serving

HOST = b"host: clinic.example\r\n"


REFUSED_HEADS = {
    "length and chunked": b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    "chunked and length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    "two lengths": b"content-length: 5\r\ncontent-length: 6\r\n",
    "one length twice": b"content-length: 5\r\ncontent-length: 5\r\n",
    "list of lengths": b"content-length: 5, 5\r\n",
    "negative length": b"content-length: -5\r\n",
    "signed length": b"content-length: +5\r\n",
    "hexadecimal length": b"content-length: 0x5\r\n",
    "length with a space": b"content-length: 5 5\r\n",
    "length with an underscore": b"content-length: 1_0\r\n",
    "empty length": b"content-length:\r\n",
    "length beyond 64 bits": b"content-length: 99999999999999999999\r\n",
    "chunked, identity": b"transfer-encoding: chunked, identity\r\n",
    "xchunked": b"transfer-encoding: xchunked\r\n",
    "identity": b"transfer-encoding: identity\r\n",
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "chunked, then identity": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    "quoted chunked": b'transfer-encoding: "chunked"\r\n',
    "chunked after a vertical tab": b"transfer-encoding: \x0bchunked\r\n",
    "empty coding": b"transfer-encoding:\r\n",
    "obs-fold": b"x: a\r\n b\r\n",
    "folded coding": b"transfer-encoding:\r\n chunked\r\n",
    "bare CR": b"x: a\rcontent-length: 5\r\n",
    "bare LF": b"x: a\ncontent-length: 5\r\n",
    "NUL in a value": b"x: a\x00b\r\n",
    "NUL in a name": b"x\x00: a\r\n",
    "DEL in a value": b"x: a\x7fb\r\n",
    "space before the colon": b"content-length : 5\r\n",
    "tab before the colon": b"transfer-encoding\t: chunked\r\n",
    "no colon": b"content-length\r\n",
    "no name": b": x\r\n",
}

REFUSED_REQUESTS = {
    "space before the first header": b"GET / HTTP/1.1\r\n host: a\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: other.example\r\n%b\r\n" % HOST,
    "the same host twice": b"GET / HTTP/1.1\r\n%b%b\r\n" % (HOST, HOST),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "absolute form and two hosts": b"GET http://clinic.example/ HTTP/1.1\r\n%b%b\r\n" % (HOST, HOST),
    "absolute form without a host": b"GET http:///a HTTP/1.1\r\n%b\r\n" % HOST,
    "absolute form with a list of hosts": b"GET http://clinic.example,b/ HTTP/1.1\r\n%b\r\n" % HOST,
    "absolute form and a bad host": b"GET http://clinic.example/ HTTP/1.1\r\nhost: a/b\r\n\r\n",
    "another protocol": b"GET / RTSP/1.0\r\n%b\r\n" % HOST,
    "fragment": b"GET /a#b HTTP/1.1\r\n%b\r\n" % HOST,
    "fragment in a query": b"GET /a?b#c HTTP/1.1\r\n%b\r\n" % HOST,
    "empty fragment": b"GET /a# HTTP/1.1\r\n%b\r\n" % HOST,
    "fragment in absolute form": b"GET http://clinic.example/a#b HTTP/1.1\r\n%b\r\n" % HOST,
    "HTTP/1.0, chunked": b"POST / HTTP/1.0\r\n%btransfer-encoding: chunked\r\n\r\n0\r\n\r\n" % HOST,
    "HTTP/1.0, chunked, kept": b"POST / HTTP/1.0\r\n%bconnection: keep-alive\r\n" % HOST
    + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0, gzip": b"POST / HTTP/1.0\r\n%btransfer-encoding: gzip\r\n\r\n" % HOST,
    "absolute form with a user": b"GET http://clinic.example@other.example/ HTTP/1.1\r\n%b\r\n" % HOST,
    "absolute form of another scheme": b"GET ftp://clinic.example/ HTTP/1.1\r\n%b\r\n" % HOST,
    "absolute form without a path": b"GET http://clinic.example?a=/b HTTP/1.1\r\n%b\r\n" % HOST,
    "asterisk form": b"GET * HTTP/1.1\r\n%b\r\n" % HOST,
    "authority form": b"CONNECT clinic.example:443 HTTP/1.1\r\n%b\r\n" % HOST,
    "relative target": b"GET a HTTP/1.1\r\n%b\r\n" % HOST,
    "space in the target": b"GET /a b HTTP/1.1\r\n%b\r\n" % HOST,
    "control character in the target": b"GET /\x01 HTTP/1.1\r\n%b\r\n" % HOST,
    "raw UTF-8 in the target": b"GET /\xc3\xa9 HTTP/1.1\r\n%b\r\n" % HOST,
    "method that is no token": b"G(T / HTTP/1.1\r\n%b\r\n" % HOST,
    "method in lower case": b"get / HTTP/1.1\r\n%b\r\n" % HOST,
    "made-up method in lower case": b"Foo / HTTP/1.1\r\n%b\r\n" % HOST,
    "made-up method that is too long": b"%b / HTTP/1.1\r\n%b\r\n" % (b"F" * 33, HOST),
    "made-up method of another protocol": b"DESCRIBE / RTSP/1.0\r\n%b\r\n" % HOST,
    "made-up method, length and chunked": b"FOO / HTTP/1.1\r\n%bcontent-length: 5\r\n" % HOST
    + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "made-up method and no host": b"FOO / HTTP/1.1\r\n\r\n",
    "made-up method and two spaces": b"FOO  / HTTP/1.1\r\n\r\n",
    "made-up method and lines that end in LF": b"FOO / HTTP/1.1\nhost: a\n\n",
    "PRI of HTTP/1.1": b"PRI / HTTP/1.1\r\n%b\r\n" % HOST,
    "tab after the method": b"GET\t/ HTTP/1.1\r\n%b\r\n" % HOST,
    "unknown version": b"GET / HTTP/1.2\r\n%b\r\n" % HOST,
    "lines that end in LF": b"GET / HTTP/1.1\nhost: a\n\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}

BAD_HOSTS = [
    b"",
    b"a/b",
    b"a b",
    b"a, b",
    b"a,b",
    b"user@a",
    b"http://a",
    b"a?b",
    b"a#b",
    b"a:b",
    b"a:80:80",
    b"a:-1",
    b":80",
    b"[::1",
    b"::1",
    b"[::1]x",
    b"[g::1]",
    b"a%",
    b"a%zz",
    b"a\\b",
    b"<a>",
    b"a\tb",
    b'"a"',
    b"\xc3\xa9.example",
]
REFUSED_REQUESTS |= {f"host {host!r}": b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % host for host in BAD_HOSTS}


@pytest.mark.parametrize(
    "request_bytes",
    [
        *(
            pytest.param(b"POST / HTTP/1.1\r\n%b%b\r\nhello" % (HOST, head), id=name)
            for name, head in REFUSED_HEADS.items()
        ),
        *(pytest.param(request, id=name) for name, request in REFUSED_REQUESTS.items()),
    ],
)
async def test_an_ambiguous_request_is_refused(
    request_bytes: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """400, and no byte of it reaches the upstream, nor does what came after it in the same packet."""
    answered = await ask(gate.url, request_bytes + b"GET /smuggled HTTP/1.1\r\n%b\r\n" % HOST)
    await ask(gate.url, b"GET /honest HTTP/1.1\r\n%b\r\n" % HOST)

    assert answered.status == json.loads(answered.body)["status"] == 400
    assert answered.header(b"content-type") == b"application/problem+json"
    assert answered.header(b"connection") == b"close"
    assert [asked.target for asked in upstream.asked] == [b"/honest"]


@pytest.mark.parametrize(
    "request_bytes", [pytest.param(request, id=name) for name, request in REFUSED_REQUESTS.items()]
)
async def test_a_request_before_an_ambiguous_one_is_answered_first(
    request_bytes: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """In the same packet or after it: the honest ones get their answers in order, and the last answer is
    the refusal. Nothing that follows is read."""
    go_on = asyncio.Event()

    async def slowly(asked: Asked) -> None:
        await asked.read_body()
        await go_on.wait()
        await asked.answer(asked.target)

    upstream.script = slowly
    honest = b"GET /%d HTTP/1.1\r\n%b\r\n"
    async with talking(gate.url, within_s=20) as client:
        await client.send(honest % (1, HOST) + honest % (2, HOST) + request_bytes)
        await until(lambda: len(upstream.asked) == 1)
        await client.send(b"GET /smuggled HTTP/1.1\r\n%b\r\n" % HOST)
        go_on.set()
        bodies = [(await client.answer()).body for _ in range(2)]
        refused = await client.answer()
        rest = await client.reader.read()

    assert bodies == [b"/1", b"/2"]
    assert refused.status in (400, 505)
    assert refused.header(b"connection") == b"close"
    assert rest == b""
    assert [asked.target for asked in upstream.asked] == [b"/1", b"/2"]


@pytest.mark.parametrize(
    "coding", [b"identity, chunked", b"gzip, chunked", b"gzip\r\ntransfer-encoding: chunked"]
)
async def test_a_transfer_coding_that_is_not_understood_is_a_501(
    coding: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """Only `chunked` is undone here, so a body in another coding cannot be passed on (RFC 9112 6.1)."""
    request = b"POST / HTTP/1.1\r\n%btransfer-encoding: %b\r\n\r\n0\r\n\r\n" % (HOST, coding)
    answered = await ask(gate.url, request)

    assert answered.status == json.loads(answered.body)["status"] == 501
    assert upstream.asked == []


@pytest.mark.parametrize("line", [b"GET /a\r\n\r\n", b"GET /a HTTP/2.0\r\n%b\r\n" % HOST])
async def test_a_version_that_is_not_spoken_is_a_505(line: bytes, upstream: ScriptedUpstream, gate: Serving):
    """HTTP/0.9 has no headers and HTTP/2 another framing; neither is passed on as HTTP/1.1."""
    answered = await ask(gate.url, line)

    assert answered.status == 505
    assert answered.header(b"connection") == b"close"
    assert upstream.asked == []


BAD_CHUNKS = {
    "hexadecimal prefix": b"0x4\r\nabcd\r\n0\r\n\r\n",
    "plus": b"+4\r\nabcd\r\n0\r\n\r\n",
    "minus": b"-4\r\nabcd\r\n0\r\n\r\n",
    "space before the size": b" 4\r\nabcd\r\n0\r\n\r\n",
    "space after the size": b"4 \r\nabcd\r\n0\r\n\r\n",
    "no size": b"\r\nabcd\r\n0\r\n\r\n",
    "size beyond 64 bits": b"10000000000000004\r\nabcd\r\n0\r\n\r\n",
    "size that ends in LF": b"4\nabcd\r\n0\r\n\r\n",
    "size that ends in CR": b"4\rabcd\r\n0\r\n\r\n",
    "LF in an extension": b"4;a\nabcd\r\n0\r\n\r\n",
    "data that is too long": b"4\r\nabcdX\r\n0\r\n\r\n",
    "data without an end": b"4\r\nabcd0\r\n\r\n",
    "data that ends in LF": b"4\r\nabcd\n0\r\n\r\n",
    "end in LF": b"4\r\nabcd\r\n0\n\n",
    "fold in a trailer": b"0\r\nx: a\r\n b\r\n\r\n",
}


@pytest.mark.parametrize("chunks", [pytest.param(chunks, id=name) for name, chunks in BAD_CHUNKS.items()])
async def test_a_chunk_that_cannot_be_read_ends_the_request(
    chunks: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """Sent with its head the request is refused; what of it was sent on is never brought to an end."""
    complete: list[bytes] = []

    async def whole(asked: Asked) -> None:
        complete.append(await asked.read_body())
        await asked.answer(b"{}")

    upstream.script = whole
    head = b"POST / HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n" % HOST
    answered = await ask(gate.url, head + chunks)
    await until(lambda: gate.app.gateway.relay._upstream.in_use == 0)

    assert answered.status == 400
    assert complete == []


@pytest.mark.parametrize("chunks", [pytest.param(chunks, id=name) for name, chunks in BAD_CHUNKS.items()])
async def test_a_chunk_that_turns_bad_cuts_the_upstream_off(
    chunks: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """The head and good chunks are upstream already: its connection is closed, and the body has no end."""
    read: list[bytes] = []

    async def to_the_end(asked: Asked) -> None:
        read.append(await asked.reader.read())

    upstream.script = to_the_end
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"POST / HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n2\r\nok\r\n" % HOST)
        await until(lambda: len(upstream.asked) == 1)
        await client.send(chunks)
        answered = await client.answer()
        await until(lambda: len(read) == 1)

    assert answered.status == 400
    assert read[0].startswith(b"2\r\nok\r\n")
    assert not read[0].endswith(b"0\r\n\r\n")


async def test_nonsense_after_a_request_is_not_taken_for_its_answer(
    upstream: ScriptedUpstream, gate: Serving
):
    """A 400 for the second request would be read as the answer to the first; so it comes after that. If the
    first gets none, the client gets nothing."""
    go_on = asyncio.Event()

    async def waiting(asked: Asked) -> None:
        await go_on.wait()
        await asked.answer(b"first")

    upstream.script = waiting
    async with talking(gate.url, within_s=20) as client, talking(gate.url) as leaving:
        for talker in (client, leaving):
            await talker.send(b"GET / HTTP/1.1\r\n%b\r\n" % HOST)
        await until(lambda: len(upstream.asked) == 2)
        for talker in (client, leaving):
            await talker.send(b"NONSENSE\r\n\r\n")
        leaving.leave()
        await until(lambda: gate.app.gateway.relay._upstream.in_use == 1)
        go_on.set()

        assert (await client.answer()).body == b"first"
        assert (await client.answer()).status == 400
        assert await client.reader.read() == b""


async def test_a_body_that_turns_bad_behind_another_request_is_told_after_its_answer(
    upstream: ScriptedUpstream, gate: Serving
):
    """Its request has not begun, and never does."""
    go_on = asyncio.Event()

    async def waiting(asked: Asked) -> None:
        await go_on.wait()
        await asked.answer(asked.target)

    upstream.script = waiting
    async with talking(gate.url, within_s=20) as client:
        bad = b"POST /2 HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n2\r\nok\r\nnonsense\r\n" % HOST
        await client.send(b"GET /1 HTTP/1.1\r\n%b\r\n" % HOST + bad)
        await until(lambda: len(upstream.asked) == 1)
        go_on.set()

        assert (await client.answer()).body == b"/1"
        assert (await client.answer()).status == 400
        assert await client.reader.read() == b""
    assert [asked.target for asked in upstream.asked] == [b"/1"]


async def test_names_that_only_an_underscore_tells_apart_are_dropped(
    upstream: ScriptedUpstream, gate: Serving
):
    """To an upstream that reads `_` as `-`, as CGI and WSGI do, they are framing, or what a proxy says of
    the client. Others are none of Headgate's business."""
    shadows = [
        b"X_Forwarded_For",
        b"x-forwarded_for",
        b"X_FORWARDED-Proto",
        b"x_forwarded_prefix",
        b"x_real_ip",
        b"Transfer_Encoding",
        b"content_length",
        b"proxy_authorization",
    ]
    lines = b"".join(b"%b: 5\r\n" % name for name in [*shadows, b"api_key", b"x_own"])
    request = b"POST / HTTP/1.1\r\n%b%bcontent-length: 2\r\n\r\nok" % (HOST, lines)
    upstream.script = ok
    answered = await ask(gate.url, request)

    names = [name for name, _ in upstream.asked[0].headers()]
    assert answered.status == 200
    assert [name for name in names if b"_" in name] == [b"api_key", b"x_own"]
    assert upstream.asked[0].header(b"x-forwarded-for") == b"127.0.0.1"
    assert upstream.asked[0].body == b"ok"


async def test_nonsense_in_a_request_is_not_written_into_its_answer(
    upstream: ScriptedUpstream, gate: Serving
):
    """The answer has begun while the body is still sent: when the body turns bad, the answer is cut."""

    async def early(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n" + b"x" * 200)
        await asked.reader.read()

    upstream.script = early
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"POST / HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n2\r\nok\r\n" % HOST)
        await client.head()
        await client.reader.readexactly(200)
        await client.send(b"nonsense\r\n")

        assert await client.reader.read() == b""


OK = b"HTTP/1.1 200 OK\r\n"
MALFORMED_ANSWERS = {
    "length and chunked": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nabc",
    "one length twice, another one": OK + b"content-length: 3\r\n" * 2 + b"content-length: 2\r\n\r\nabc",
    "list of lengths": OK + b"content-length: 2, 3\r\n\r\nabc",
    "one length twice, and chunked": OK
    + b"content-length: 3\r\n" * 2
    + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "one odd length twice": OK + b"content-length: +3\r\n" * 2 + b"\r\nabc",
    "two lengths without an end": OK + b"content-length: 3\r\n" * 8_000,
    "gzip, chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "gzip alone": OK + b"transfer-encoding: gzip\r\n\r\nabc",
    "chunked twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": OK + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "obs-fold": OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nx: a\n\n",
    "NUL": OK + b"x: a\x00\r\ncontent-length: 0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "101 in full": b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x81\x00",
    "status below 100": b"HTTP/1.1 099 X\r\ncontent-length: 3\r\n\r\nabc"
    + OK
    + b"content-length: 2\r\n\r\nok",
    "status 600": b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 X\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "head of 65 KiB in one piece": OK + b"x: %b\r\ncontent-length: 0\r\n\r\n" % (b"a" * 65 * 1024),
    "head of 300 KiB": OK + b"%b\r\n" % (b"x: y\r\n" * 50 * 1024),
    "head without an end": OK + b"x: " + b"a" * 500_000,
    "interim answers without an end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000,
}


@pytest.mark.parametrize("answer", [pytest.param(a, id=name) for name, a in MALFORMED_ANSWERS.items()])
async def test_an_answer_that_cannot_be_read_is_a_502(
    answer: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """Nothing of it reaches the client, and nothing of it is left for the next answer."""

    async def malformed(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(answer)

    upstream.script = malformed
    answered = await ask(gate.url, b"POST / HTTP/1.1\r\n%bcontent-length: 1\r\n\r\na" % HOST)
    upstream.script = ok
    after = await ask(gate.url, b"POST /next HTTP/1.1\r\n%bcontent-length: 1\r\n\r\nb" % HOST)

    assert answered.status == json.loads(answered.body)["status"] == 502
    assert (after.status, after.body) == (200, b'{"ok": true}')


@pytest.mark.parametrize(
    "surplus",
    [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"HTTP/1.1 100 Continue\r\n\r\n"],
)
@pytest.mark.parametrize("apart", [False, True])
async def test_bytes_after_an_answer_are_nobodys_answer(
    surplus: bytes, apart: bool, upstream: ScriptedUpstream, gate: Serving
):
    """The connection that brought them is closed, whether they come with the answer or after it."""
    later = asyncio.Event()

    async def too_much(asked: Asked) -> None:
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        await asked.send(answer if apart else answer + surplus)
        if apart:
            await later.wait()
            await asked.send(surplus)
        await asked.reader.read()

    upstream.script = too_much
    first = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)
    later.set()
    await until(lambda: upstream.open == 0)
    upstream.script = ok
    second = await ask(gate.url, b"POST / HTTP/1.1\r\n%bcontent-length: 1\r\n\r\na" % HOST)

    assert (first.body, second.body) == (b"ok", b'{"ok": true}')
