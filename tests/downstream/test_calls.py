"""ASGI calls: what an app gets and sends is the same as with uvicorn's own protocol."""

import asyncio
import re
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from proxy.downstream.server import ServerPort, ServerProtocol
from tests.relay.cuts import Wire
from tests.servers.scripted import until

DATE = re.compile(rb"date: [^\r]*\r\n")

PLAIN = (b"content-type", b"text/plain")
SIX = (b"content-length", b"6")
CHUNKED = (b"transfer-encoding", b"chunked")


def head(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


OF_SCOPE = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server", "state"),
)

ANSWERS = {
    "of a length": [head(PLAIN, SIX), part(b"answer")],
    "of a length, in parts": [head(SIX), part(b"ans", more=True), part(b"", more=True), part(b"wer")],
    "in chunks": [head(PLAIN), part(b"ans", more=True), part(b"", more=True), part(b"wer")],
    "in chunks, an empty end": [head(), part(b"answer", more=True), part(b"")],
    "in chunks by itself": [head(CHUNKED), part(b"answer")],
    "chunks count, not a length": [head(SIX, CHUNKED, SIX), part(b"answers")],
    "no body": [head((b"content-length", b"0")), part(b"")],
    "no content": [head(status=204), part(b"")],
    "not modified": [head((b"etag", b'"1"'), status=304), part(b"")],
    "names in capitals": [head((b"Content-Length", b"6"), (b"X-A", b"B")), part(b"answer")],
    "a close": [head(SIX, (b"connection", b"Keep, Close")), part(b"answer")],
    "no close": [head(SIX, (b"connection", b"keep-alive")), part(b"answer")],
    "too long": [head(SIX), part(b"answers")],
    "too short": [head(SIX), part(b"ans", more=True), part(b"we")],
    "no end": [head(SIX), part(b"ans", more=True)],
    "nothing": [],
    "no head": [part(b"answer")],
    "two heads": [head(SIX), head(SIX)],
    "a line in a value": [head((b"x", b"a\r\nb: c"))],
    "a line in a name": [head((b"x\r\nb", b"c"))],
    "a length that is none": [head((b"content-length", b"six"))],
}

REQUESTS = {
    "get": b"GET /a%20b?c=d HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
    "head": b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "close": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
    "chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "continue": b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
}


def our_protocol(config: uvicorn.Config, state: ServerState, app_state: dict[str, Any]) -> ServerProtocol:
    return ServerPort(config, state, app_state).connect()


async def played(made: Any, request: bytes, answer: list[dict[str, Any]]) -> tuple[Any, ...]:
    """What the app is given, what it cannot send, what goes out, and whether the connection is closed."""
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append({name: scope[name] for name in OF_SCOPE})
        while True:
            message = await receive()
            given.append(message)
            if not message["more_body"]:
                break
        for message in answer:
            try:
                await send({**message})
            except Exception as exc:
                given.append(repr(exc))
                raise

    config = uvicorn.Config(app, interface="asgi3", log_config=None, ws="none", lifespan="off")
    config.load()
    config.loaded_app = cast(Any, app)
    state, wrote = ServerState(), bytearray()
    protocol = made(config, state, {"of": "the app"})
    wire = Wire(wrote.extend)
    wire.protocol = protocol
    protocol.connection_made(wire)
    protocol.data_received(request)
    if b"Expect" in request:
        await until(lambda: bool(wrote))
        protocol.data_received(b"body")
    await until(lambda: not state.tasks)
    is_closed = wire.is_closed
    protocol.connection_lost(None)
    return given, DATE.sub(b"", bytes(wrote)), is_closed, state.total_requests, wire.reads


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_a_call_is_as_with_uvicorn(request_: bytes, answer: list[dict[str, Any]]) -> None:
    """Its scope, its messages, its errors and its bytes. Only ours has a `Date` there."""
    async with asyncio.timeout(20):
        ours = await played(our_protocol, request_, answer)
        uvicorns = await played(HttpToolsProtocol, request_, answer)

    assert ours == uvicorns


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_headers_that_can_be_read_once_reach_the_client(version: bytes) -> None:
    """An app may give its headers as an iterator."""
    answer = [{**head(), "headers": iter([PLAIN, SIX])}, part(b"answer")]
    async with asyncio.timeout(20):
        _, wrote, *_ = await played(our_protocol, b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version, answer)

    assert b"content-type: text/plain\r\ncontent-length: 6\r\n" in wrote
