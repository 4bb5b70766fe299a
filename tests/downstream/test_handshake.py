"""TLS of the public port: who gets through the handshake, and what a handshake may cost."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.downstream import handshake
from tests.servers.authority import certificates
from tests.servers.client import browser, eventually, scrape
from tests.servers.scripted import ScriptedUpstream, ok
from tests.servers.serving import Serving, gated


@asynccontextmanager
async def secured(
    directory: Path, *, client_ca: bool = False, **more: Any
) -> AsyncIterator[tuple[Serving, ScriptedUpstream, ssl.SSLContext]]:
    """A proxy whose public port speaks https, and a context that trusts its certificate."""
    ca_file, _ = certificates(directory)
    files = {"cert": str(directory / "server.pem"), "key": str(directory / "server.pem")}
    if client_ca:
        files["client_ca"] = str(ca_file)
    async with gated(ok, directory, tls=files, **more) as (upstream, serving):
        trusting = ssl.create_default_context(cafile=ca_file)
        trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
        yield serving, upstream, trusting


def https(serving: Serving) -> str:
    return serving.url.replace("http://", "https://")


async def test_the_public_port_speaks_https(tmp_path: Path) -> None:
    """The upstream is told so."""
    async with (
        secured(tmp_path) as (serving, upstream, trusting),
        httpx.AsyncClient(verify=trusting, trust_env=False) as client,
    ):
        answers = [await client.get(f"{https(serving)}/{number}") for number in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert {asked.header(b"x-forwarded-proto") for asked in upstream.asked} == {b"https"}


async def test_a_request_right_behind_the_handshake_is_answered(tmp_path: Path) -> None:
    """In one segment with the client's last message of TLS 1.3, and with the end of its side."""
    async with secured(tmp_path) as (serving, upstream, trusting):
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting.wrap_bio(back, there, server_hostname="127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(serving.url.rpartition(":")[2]))
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(there.read())
                back.write(await reader.read(65536))
        client.write(b"GET /at-once HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        writer.write(there.read())  # with the last message of the handshake
        answer = b""
        async with asyncio.timeout(60):
            while not answer.endswith(b"}"):
                back.write(await reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while piece := client.read(65536):
                        answer += piece
        writer.close()

    assert client.version() == "TLSv1.3"
    assert answer.startswith(b"HTTP/1.1 200")
    assert [asked.target for asked in upstream.asked] == [b"/at-once"]


async def test_a_client_that_speaks_before_it_is_accepted_is_heard(tmp_path: Path) -> None:
    """Its first bytes are there when its connection is made, and are not lost: it would wait for ten seconds,
    and then be cut."""
    async with secured(tmp_path) as (serving, upstream, trusting):
        address = ("127.0.0.1", int(serving.url.rpartition(":")[2]))
        for _ in range(5):
            there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = trusting.wrap_bio(back, there, server_hostname="127.0.0.1")
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            opened = socket.create_connection(address)  # nothing runs meanwhile
            opened.sendall(there.read())
            opened.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=opened)
            async with asyncio.timeout(60):
                assert await reader.read(1) == b"\x16"  # a record of the handshake
            writer.transport.abort()

    assert upstream.asked == []


async def test_only_clients_of_the_authority_get_through(tmp_path: Path) -> None:
    """With `client_ca`: the others see no byte of an answer, and the upstream nothing of them."""
    async with secured(tmp_path, client_ca=True) as (serving, upstream, trusting):
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(https(serving))
        trusting.load_cert_chain(tmp_path / "server.pem")
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
            known = await client.get(https(serving))

    assert known.status_code == 200
    assert len(upstream.asked) == 1


async def test_connections_count_before_their_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that opens many and says nothing has no more of them than others, and none for long."""
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 2.0)
    async with secured(tmp_path, limits={"connections_of_client": 3}) as (serving, _, trusting):
        port = int(serving.url.rpartition(":")[2])
        mute = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        async with asyncio.timeout(60):
            ended = [await reader.read() for reader, _ in mute]
        async with browser() as plain, httpx.AsyncClient(verify=trusting, trust_env=False) as client:

            async def counted() -> bool:
                found = await scrape(plain, serving.admin_url)
                return sum(v for k, v in found.items() if 'budget="client"' in k) == 2

            await eventually(counted)
            after = await client.get(https(serving))
        for _, writer in mute:
            writer.close()

    assert ended == [b""] * 5
    assert after.status_code == 200


async def test_a_client_of_plain_http_is_not_answered_by_the_upstream(tmp_path: Path) -> None:
    async with secured(tmp_path) as (serving, upstream, _), browser() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(serving.url)

    assert upstream.asked == []
