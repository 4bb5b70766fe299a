"""Requests that two parsers could read in two ways go no further, and answers of that kind neither."""

import asyncio
import json

import pytest

from tests.scripted import Asked, ScriptedUpstream, ask, ok, talking, until
from tests.serving import Serving

pytestmark = pytest.mark.anyio

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
    "absolute form of another host": b"GET http://other.example/ HTTP/1.1\r\n%b\r\n" % HOST,
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
    "tab after the method": b"GET\t/ HTTP/1.1\r\n%b\r\n" % HOST,
    "unknown version": b"GET / HTTP/1.2\r\n%b\r\n" % HOST,
    "lines that end in LF": b"GET / HTTP/1.1\nhost: a\n\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


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

    assert answered.status == 400
    assert answered.header(b"connection") == b"close"
    assert [asked.target for asked in upstream.asked] == [b"/honest"]


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
    async with asyncio.timeout(5), talking(gate.url) as client:
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
    """A 400 for the second request would be read as the answer to the first; so the connection is cut."""

    async def waiting(asked: Asked) -> None:
        await asked.reader.read()

    upstream.script = waiting
    async with asyncio.timeout(5), talking(gate.url) as client:
        await client.send(b"GET / HTTP/1.1\r\n%b\r\n" % HOST)
        await until(lambda: len(upstream.asked) == 1)
        await client.send(b"NONSENSE\r\n\r\n")

        assert await client.reader.read() == b""


async def test_nonsense_in_a_request_is_not_written_into_its_answer(
    upstream: ScriptedUpstream, gate: Serving
):
    """The answer has begun while the body is still sent: when the body turns bad, the answer is cut."""

    async def early(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n" + b"x" * 200)
        await asked.reader.read()

    upstream.script = early
    async with asyncio.timeout(5), talking(gate.url) as client:
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
