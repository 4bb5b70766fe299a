"""Trailers: those that pass both ways behind bodies in chunks, and those that no server is to merge."""

from pathlib import Path

import pytest

from proxy.http.headers import (
    HOP_BY_HOP,
    NOT_IN_TRAILERS,
    accepts_trailers,
    announced_trailers,
    passed_trailers,
)
from tests.servers.client import eventually
from tests.servers.scripted import Asked, ScriptedUpstream, ask, raw, talking
from tests.servers.serving import Serving, gated
from tests.servers.streaming import answer, route

HOST = b"host: clinic.example\r\n"
CHUNKS = b"transfer-encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\ndate: d\r\n"


async def test_trailers_pass_in_both_directions(upstream: ScriptedUpstream, gate: Serving):
    """As they came, names in lower case, with their announcement; in one packet with the head or after it."""
    trailers = b"Grpc-Status: 0\r\nX-Sum: a,b\r\nx-sum: c\r\n"
    upstream.script = raw(
        OK + b"trailer: grpc-status, X-Sum\r\n%b\r\n2\r\nok\r\n0\r\n%b\r\n" % (CHUNKS, trailers)
    )
    head = b"POST / HTTP/1.1\r\n%bTE: trailers\r\nTrailer: X-Check\r\n%b\r\n" % (HOST, CHUNKS)
    for first, then in (
        (b"1\r\na\r\n0\r\nX-Check: 1\r\n\r\n", b""),
        (b"1\r\na\r\n", b"0\r\nX-Check: 1\r\n\r\n"),
    ):
        upstream.asked.clear()
        async with talking(gate.url, within_s=30) as client:
            await client.send(head + first)
            if then:
                await eventually(lambda: len(upstream.asked) == 1)
            answered = await client.ask(then)

        [asked] = upstream.asked
        assert (asked.body, asked.trailers) == (b"a", [b"x-check: 1"])
        assert asked.header(b"trailer") == b"X-Check"
        assert (asked.header(b"te"), asked.header(b"connection")) == (b"trailers", b"TE")
        assert (answered.body, answered.complete) == (b"ok", True)
        assert answered.trailers == [b"grpc-status: 0", b"x-sum: a,b", b"x-sum: c"]
        assert answered.header(b"trailer") == b"grpc-status, X-Sum"


REFUSED = {b"content-length", b"transfer-encoding"}
"""To the parser a body with these has two lengths."""

FORBIDDEN = b"".join(b"%b: evil\r\n" % name for name in sorted(NOT_IN_TRAILERS - REFUSED - {b"connection"}))


async def test_what_must_stand_before_the_body_passes_behind_it_in_no_direction(
    upstream: ScriptedUpstream, gate: Serving
):
    """A server that merges trailers would take them for who asks, for what, and where the body ends."""
    shadows = b"content_length: 1\r\nx_forwarded_user: evil\r\n"
    bad = FORBIDDEN + shadows + b"X-Forwarded-For: evil\r\nheadgate-run: x\r\n"
    upstream.script = raw(OK + CHUNKS + b"\r\n2\r\nok\r\n0\r\n%bx-a: 1\r\n\r\n" % bad)
    request = b"POST / HTTP/1.1\r\n%b%b\r\n1\r\na\r\n0\r\n%bx-b: 2\r\n\r\n" % (HOST, CHUNKS, bad)
    async with talking(gate.url, within_s=30) as client:
        for _ in range(2):  # on the same connections
            answered = await client.ask(request)
            assert (answered.status, answered.body, answered.trailers) == (200, b"ok", [b"x-a: 1"])
            assert b"evil" not in b"".join(value for _, value in answered.headers)

    for asked in upstream.asked:
        assert (asked.body, asked.trailers) == (b"a", [b"x-b: 2"])
        assert b"evil" not in asked.head
    assert len(upstream.asked) == 2


@pytest.mark.parametrize(
    ("trailer", "statuses"),
    [
        (b"content-length: 5", [400]),
        (b"content-length: evil", [400]),
        (b"transfer-encoding: identity", [400]),
        (b"transfer-encoding: chunked", [400]),
        (b"connection: close", [200]),
        (b"connection: upgrade\r\nupgrade: websocket", [200]),
        (b"host: other", [200, 200]),
        (b"expect: 100-continue", [200, 200]),
        (b"GET /3 HTTP/1.1", [400]),
        (b"x: 1\r\n\r\nGET /3 HTTP/1.1\r\nhost: a", [200, 200, 200]),
    ],
)
async def test_a_requests_trailer_never_frames_what_follows(
    trailer: bytes, statuses: list[int], upstream: ScriptedUpstream, gate: Serving
):
    """The next request begins behind the empty line, or the connection ends."""
    first = b"POST /1 HTTP/1.1\r\n%b%b\r\n1\r\na\r\n0\r\n%b\r\n\r\n" % (HOST, CHUNKS, trailer)
    async with talking(gate.url, within_s=30) as client:
        await client.send(first + b"GET /2 HTTP/1.1\r\n%bconnection: close\r\n\r\n" % HOST)
        assert [(await client.answer()).status for _ in statuses] == statuses
        assert await client.reader.read() == b""

    expected = [b"/1", b"/3", b"/2"] if len(statuses) == 3 else [b"/1", b"/2"]
    assert [asked.target for asked in upstream.asked] == expected[: statuses.count(200)]
    assert [asked.body for asked in upstream.asked] == [b"a", b"", b""][: statuses.count(200)]


@pytest.mark.parametrize(
    "trailer",
    [
        b"content-length: 5",
        b"transfer-encoding: identity",
        b"transfer-encoding: chunked",
        b"connection: close",
        b"connection: upgrade\r\nupgrade: websocket",
        b"HTTP/1.1 200 OK",
        b"x: 1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nevil!",
    ],
)
async def test_an_answers_trailer_never_frames_what_follows(
    trailer: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """What follows it is nobody's answer; an answer that cannot be read does not look whole."""
    upstream.script = raw(OK + CHUNKS + b"\r\n2\r\nok\r\n0\r\n%b\r\n\r\n" % trailer)
    for _ in range(2):
        answered = await ask(gate.url, b"GET / HTTP/1.1\r\n%b\r\n" % HOST)
        is_whole = (answered.status, answered.body, answered.complete) == (200, b"ok", True)
        assert is_whole or answered.status == 502 or not answered.complete
        assert b"evil" not in answered.body


async def test_trailers_need_chunks_on_both_sides(upstream: ScriptedUpstream, gate: Serving):
    """A client of HTTP/1.0 has no place for them, nor has a body with a length; nothing is announced then."""
    upstream.script = raw(OK + b"trailer: x-sum\r\n%b\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n" % CHUNKS)
    old = await ask(gate.url, b"GET / HTTP/1.0\r\n%bte: trailers\r\n\r\n" % HOST)
    assert (old.body, old.header(b"trailer"), old.header(b"transfer-encoding")) == (b"ok", None, None)
    assert upstream.asked[0].header(b"te") is None

    upstream.script = raw(OK + b"trailer: x-sum\r\ncontent-length: 2\r\n\r\nok")
    request = (
        b"POST / HTTP/1.1\r\n%btrailer: x-check\r\nte: gzip, Trailers;q=1\r\ncontent-length: 1\r\n\r\na"
        % HOST
    )
    answered = await ask(gate.url, request)
    assert answered.header(b"trailer") is None
    assert upstream.asked[1].header(b"trailer") is None
    assert upstream.asked[1].header(b"te") == b"trailers"

    upstream.script = raw(OK + b"trailer: x-sum\r\n%b\r\n" % CHUNKS)
    asked_for_head = await ask(gate.url, b"HEAD / HTTP/1.1\r\n%b\r\n" % HOST, to_head=True)
    assert asked_for_head.status == 200


async def test_on_a_route_trailers_pass_and_none_names_its_user(tmp_path: Path):
    """A batch answer is copied on its way; the header that names users is none behind a body either."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        body = answer()
        await asked.send(OK + CHUNKS + b"\r\n%x\r\n%b\r\n0\r\nx-sum: 1\r\n\r\n" % (len(body), body))

    identity = {"jwt": None, "header": "X-User"}
    async with gated(script, tmp_path, routes=[route()], identity=identity) as (upstream, gate):
        head = b"POST /api/cases/7/start HTTP/1.1\r\n%bx-user: ann\r\n%b\r\n" % (HOST, CHUNKS)
        answered = await ask(gate.url, head + b"2\r\n{}\r\n0\r\nX-User: bob\r\nx-check: 1\r\n\r\n")

    assert (answered.body, answered.trailers) == (answer(), [b"x-sum: 1"])
    [asked] = upstream.asked
    assert (asked.body, asked.trailers) == (b"{}", [b"x-check: 1"])


def test_what_connection_lists_is_no_trailer_either():
    """It is for one connection, wherever it stands (RFC 9110 7.6.1)."""
    headers = [(b"connection", b"close, X-Hop, Trailer"), (b"trailer", b"x-hop")]
    assert passed_trailers([(b"x-hop", b"1"), (b"x-end", b"2")], headers) == [(b"x-end", b"2")]
    assert announced_trailers(headers) == []
    assert announced_trailers(headers[1:]) == headers[1:]


@pytest.mark.parametrize(
    ("values", "accepts"),
    [
        ([b"trailers"], True),
        ([b"gzip;q=0.5 , TRAILERS"], True),
        ([b"gzip", b"trailers"], True),
        ([b""], False),
        ([b"gzip, xtrailers"], False),
    ],
)
def test_te_is_read_for_trailers_alone(values: list[bytes], accepts: bool):
    assert accepts_trailers([(b"te", value) for value in values]) is accepts
    assert HOP_BY_HOP.keys() < NOT_IN_TRAILERS
