"""Answers that come before the request's body has: the client knows whether its connection stays, and reads
all of them, however much it still sends."""

import pytest

from tests.servers.scripted import Asked, ScriptedUpstream, talking, until
from tests.servers.serving import Serving

HOST = b"host: clinic.example\r\n"
ANSWER = bytes(range(256)) * 2000
"""More than a socket's buffers hold, with the client's own bytes unread beside them."""
REST = b"x" * 3_000_000


def early(extra: bytes = b"", *, ends: bool = False):
    """A script that answers as soon as it has the head; `ends`: it also closes its side."""

    async def play(asked: Asked) -> None:
        if asked.header(b"content-length") is None:
            await asked.answer(b"{}")
            return
        await asked.send(b"HTTP/1.1 413 Content Too Large\r\n%b\r\n%b" % (extra, ANSWER))
        if ends:
            asked.writer.write_eof()
        await asked.reader.read()

    return play


LENGTH = b"content-length: %d\r\n" % len(ANSWER)


@pytest.mark.parametrize(
    ("version", "asks", "extra"),
    [
        (b"1.1", b"", LENGTH + b"connection: close\r\n"),
        (b"1.1", b"", b"connection: close\r\n"),
        (b"1.1", b"", b""),
        (b"1.1", b"connection: close\r\n", LENGTH),
        (b"1.1", b"expect: 100-continue\r\n", LENGTH),
        (b"1.0", b"", LENGTH),
    ],
)
async def test_a_client_that_sends_on_reads_all_of_the_last_answer(
    version: bytes, asks: bytes, extra: bytes, upstream: ScriptedUpstream, gate: Serving
):
    """Whoever wants the connection closed: that is said, and the client's bytes are read until it closes."""
    upstream.script = early(extra, ends=LENGTH not in extra)
    async with talking(gate.url, within_s=20) as client:
        head = b"POST / HTTP/%b\r\n%b%bcontent-length: %d\r\n\r\n"
        await client.send(head % (version, HOST, asks, len(REST)))
        answered = await client.head()
        await client.send(REST)
        body = await client.reader.read()

    assert (answered.status, answered.header(b"connection")) == (413, b"close")
    if answered.header(b"transfer-encoding") is None:
        assert body == ANSWER
    else:
        assert len(body) > len(ANSWER) and body.endswith(b"\r\n0\r\n\r\n")


async def test_a_connection_stays_if_the_upstreams_would_and_the_client_sends_the_rest(
    upstream: ScriptedUpstream, gate: Serving
):
    """Nothing says that it ends, so the next request on it gets its answer."""
    upstream.script = early(LENGTH)
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"POST / HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (HOST, len(REST)))
        first = await client.answer()
        await client.send(REST)
        second = await client.ask(b"GET / HTTP/1.1\r\n%b\r\n" % HOST)

    assert (first.status, first.header(b"connection"), first.body) == (413, None, ANSWER)
    assert (second.status, second.body) == (200, b"{}")


async def test_an_upstream_that_closes_behind_a_whole_request_closes_its_own_connection(
    upstream: ScriptedUpstream, gate: Serving
):
    """With the whole request here, the upstream's `Connection: close` is about its own connection."""
    upstream.script = closing_after_body
    async with talking(gate.url, within_s=20) as client:
        for _ in range(2):
            answered = await client.ask(b"POST / HTTP/1.1\r\n%bcontent-length: 1\r\n\r\nx" % HOST)
            assert (answered.status, answered.header(b"connection")) == (200, None)


async def closing_after_body(asked: Asked) -> None:
    await asked.read_body()
    await asked.answer(b"{}", extra=b"connection: close\r\n")
    asked.writer.close()


@pytest.mark.parametrize(
    "malformed",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nlong: %b\r\n" % (b"y" * 600_000),
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n",
    ],
)
async def test_who_sends_what_cannot_be_read_is_told_so_whatever_follows(malformed: bytes, gate: Serving):
    """One refusal, and an end that is no reset; nothing behind it is taken for a request."""
    async with talking(gate.url, within_s=20) as client:
        await client.send(malformed)
        refused = await client.answer()
        await client.send(b"GET / HTTP/1.1\r\n%b\r\n" % HOST + REST)
        assert await client.reader.read() == b""

    assert (refused.status, refused.header(b"connection")) == (400, b"close")


async def test_a_client_that_goes_frees_the_connection_that_lingers(
    upstream: ScriptedUpstream, gate: Serving
):
    """It lasts no longer than the client wants."""
    upstream.script = early(LENGTH + b"connection: close\r\n")
    await until(lambda: len(gate.app.connections) == 0)
    async with talking(gate.url, within_s=20) as client:
        await client.send(b"POST / HTTP/1.1\r\n%bcontent-length: 9\r\n\r\n" % HOST)
        await client.answer()
        assert len(gate.app.connections) == 1

    await until(lambda: len(gate.app.connections) == 0)
