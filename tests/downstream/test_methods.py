"""Methods that the parser does not know, in whatever pieces they come."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.downstream.client_request import ClientRequest
from proxy.downstream.methods import MAX_CUTS, MethodReader
from proxy.downstream.server import ServerPort
from tests.relay.cuts import Wire

LIKE_A_REQUEST = b"xFOO /body HTTP/1.1\r\n\r\nFOO /b HTTP/1.1\r\n\r\nBAR"
CHUNKED = b"%x\r\n%b\r\n0\r\n" % (len(LIKE_A_REQUEST), LIKE_A_REQUEST)
STREAM = (
    b"GET /0 HTTP/1.1\r\nhost: a\r\n\r\n"
    b"FOO /1 HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b"
    b"\r\n\r\nVERSION-CONTROL /2 HTTP/1.1\r\nhost: a\r\n\r\n"
    b"POST /3 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n%bx-t: FOO / HTTP/1.1\r\n\r\n"
    b"GETS /4 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n%b\r\n"
    b"FOO /5 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\nFOO"
    b"DESCRIBE /6 HTTP/1.1\r\nhost: a\r\n\r\n"
) % (len(LIKE_A_REQUEST), LIKE_A_REQUEST, CHUNKED, CHUNKED)
SENT = [
    ("GET", b"/0", b""),
    ("FOO", b"/1", LIKE_A_REQUEST),
    ("VERSION-CONTROL", b"/2", b""),
    ("POST", b"/3", LIKE_A_REQUEST),
    ("GETS", b"/4", LIKE_A_REQUEST),
    ("FOO", b"/5", b"FOO"),
    ("DESCRIBE", b"/6", b""),
]


class Answering:
    """An app that answers each request when its body is here."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, bytes]] = []

    def begin(self, request: ClientRequest) -> None:
        app = self

        class Watcher:
            def client_changed(self) -> None:
                if not request.more_body and not request.response_complete:
                    app.seen.append((request.method, request.target, request.take_body()))
                    request.answer(200, b"OK", [(b"content-length", b"0")], b"", last=True)

            def cut(self) -> None: ...

        request.watcher = Watcher()
        request.watcher.client_changed()


async def seen(config: uvicorn.Config, *pieces: bytes) -> tuple[list[tuple[str, bytes, bytes]], bytes]:
    """The requests that are read, and what the client gets."""
    state = ServerState()
    app = config.loaded_app = Answering()  # type: ignore[assignment]
    protocol = ServerPort(config, state, {}).connect()
    got: list[bytes] = []
    protocol.connection_made(cast(asyncio.Transport, Wire(got.append)))
    for piece in pieces:
        protocol.data_received(piece)
    for _ in range(2 * len(SENT)):
        await asyncio.sleep(0)  # requests that waited begin in turns of their own
    protocol.connection_lost(None)
    return app.seen, b"".join(got)


@pytest.fixture
def config() -> uvicorn.Config:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    config = uvicorn.Config(app, interface="asgi3", log_config=None, log_level="critical", ws="none")
    config.load()
    return config


async def test_wherever_it_is_cut_each_request_has_its_own_method_and_body(config: uvicorn.Config) -> None:
    """At every byte, in bytes, and in one piece: a body that looks like a request is none."""
    for cut in range(1, len(STREAM)):
        found, _ = await seen(config, STREAM[:cut], STREAM[cut:])
        assert found == SENT, (STREAM[:cut][-20:], STREAM[cut:][:20])
    by_bytes, _ = await seen(config, *(STREAM[at : at + 1] for at in range(len(STREAM))))
    at_once, _ = await seen(config, STREAM)
    assert by_bytes == at_once == SENT


@pytest.mark.parametrize(
    "line", [b"GET / RTSP/1.0", b"POST /a  RTSP/1.1", b"DESCRIBE / RTSP/1.0", b"SOURCE /HTTP/1.1 ICE/1.1"]
)
async def test_what_is_no_http_is_refused_wherever_it_is_cut(config: uvicorn.Config, line: bytes) -> None:
    """The parser knows other protocols, too. A request before it is answered; a header says nothing of it."""
    before = b"GET /0 HTTP/1.1\r\nhost: a\r\nx: b RTSP/1.0\r\n\r\n"
    sent = before + b"\r\n\r\n" + line + b"\r\nhost: a\r\nx: HTTP/1.1 HTTP/1.1\r\n\r\n"
    for cut in range(len(before), len(sent)):
        found, got = await seen(config, sent[:cut], sent[cut:])
        assert found == [("GET", b"/0", b"")], sent[:cut]
        assert got.count(b"HTTP/1.1 400 ") == 1
    by_bytes, got = await seen(config, *(sent[at : at + 1] for at in range(len(sent))))
    assert by_bytes == [("GET", b"/0", b"")]
    assert got.count(b"HTTP/1.1 400 ") == 1


OFTEN_READ_WHOLE = [
    b"%b%b %b HTTP/%b\r\n%bhost: a\r\n\r\n%b" % (before, method, target, version, fields, body)
    for method, before, target in (
        (b"GET", b"", b"/"),
        (b"POST", b"\r\n\r\n", b"/HTTP/1.1"),
        (b"DELETE", b"", b" /two-spaces"),
        (b"OPTIONS", b"", b"*"),
        (b"PUT", b"", b"http://b/"),
        (b"PUTS", b"", b"/"),
        (b"SIXTEEN-LETTERS_", b"", b"/"),  # `PUT` is read in its place; the version is where a value is then
    )
    for version in (b"1.0", b"1.1")
    for fields in (b"", b"connection: keep-alive\r\n", b"A: HTTP/1.1\r\nconnection: close\r\n")
    for fields, body in (
        (fields, b""),
        (b"Content-Length: 3\r\n" + fields, b"abc"),
        (b"content-length: 0%d\r\n%b" % (len(CHUNKED), fields), CHUNKED),
        (b"CONTENT-LENGTH: 30\r\n" + fields, b"GET / HTTP/1.1\r\nhost: not\r\n\r\n"),
    )
]


async def test_a_request_that_is_read_whole_is_the_same_as_in_bytes(config: uvicorn.Config) -> None:
    """Its method and target, its version, its headers and body, and whether its connection is kept."""

    def read(*pieces: bytes) -> list[object]:
        config.loaded_app = SimpleNamespace(begin=noted.append)  # type: ignore[assignment]
        protocol = ServerPort(config, ServerState(), {}).connect()
        protocol.connection_made(cast(asyncio.Transport, Wire(lambda _: None)))
        for piece in pieces:
            protocol.data_received(piece)
        protocol.connection_lost(None)
        found = [
            (each.method, each.target, each.version, each.headers, bytes(each.body), each.more_body)
            for each in noted
        ]
        keeps = [each.keep_alive for each in noted]
        noted.clear()
        return [found, keeps]

    noted: list[ClientRequest] = []
    for sent in OFTEN_READ_WHOLE:
        by_bytes = read(*(sent[at : at + 1] for at in range(len(sent))))
        assert read(sent) == by_bytes, sent
        for cut in range(1, min(len(sent), 60)):
            assert read(sent[:cut], sent[cut:]) == by_bytes, (sent, cut)


async def test_a_read_that_looks_like_a_whole_request_may_be_something_else(config: uvicorn.Config) -> None:
    """A part of a body, or the rest of a name."""
    like_one = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    head = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (len(like_one) + 1)
    found, _ = await seen(config, head, like_one, b".FOO" + like_one[3:])
    assert found == [("PUT", b"/", like_one + b"."), ("FOO", b"/", b"")]

    found, _ = await seen(config, b"FOR", like_one)
    assert found == [("FORGET", b"/", b"")]


@pytest.mark.parametrize("version", [b"1.0", b"2.0"])
async def test_a_body_does_not_say_the_version_of_the_request_behind_it(
    config: uvicorn.Config, version: bytes
) -> None:
    """Of a body with very many places where it might end, the rest is read with what follows."""
    body = b"\r\n\r\nA " * MAX_CUTS + b"T /body HTTP/1.1\r\n"
    sent = (
        b"POST /0 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        b"GET /%b HTTP/%b\r\nhost: a\r\n\r\n"
    )
    noted: list[ClientRequest] = []

    class Noting(Answering):
        def begin(self, request: ClientRequest) -> None:
            noted.append(request)
            super().begin(request)

    for length in range(1, 9):  # with one of these the target's end is beside the body's
        config.loaded_app = Noting()  # type: ignore[assignment]
        protocol = ServerPort(config, ServerState(), {}).connect()
        got: list[bytes] = []
        protocol.connection_made(cast(asyncio.Transport, Wire(got.append)))
        protocol.data_received(sent % (len(body), body, b"a" * length, version))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        spoken = [b"1.1"] if version == b"2.0" else [b"1.1", version]
        assert [each.version.encode() for each in noted] == spoken, length
        assert (b"HTTP/1.1 505 " in b"".join(got)) == (version == b"2.0")
        noted.clear()


async def test_empty_lines_cost_no_pieces() -> None:
    """Any number of them may come before a request: read one by one, 64 KB held a process for seconds."""
    lines = b"\r\n" * 10_000
    for behind in (
        b"",
        b"\r",
        b"FO",
        b"FOO / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"f / HTTP/1.1\r\n\r\n",
    ):
        assert MethodReader().next_piece(lines + behind, 0)[1] == len(lines + behind)
