"""WebSocket by those who speak it: Python's `websockets`, Node's `ws` and socket.io, Chromium; direct against
through Headgate.
"""

import asyncio
import json
import resource
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import async_playwright
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response

from tests.servers.authority import certificates
from tests.servers.ports import free_socket
from tests.servers.scripted import until
from tests.servers.serving import headgate

CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
CLIENTS = Path(__file__).parents[1] / "clients"
NODE = Path(sys.executable).with_name("node")
LARGE = "grün " * 2_000_000
"""A message of 12 MB."""

MANY = 1000

LOOPS = [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})]


async def echo(client: ServerConnection) -> None:
    async for message in client:
        if message == "end":
            await client.close(4001, "as you say")
        await client.send(message)


def refuse(client: ServerConnection, request: Request) -> Response | None:
    return client.respond(401, "who are you?\n") if request.path == "/closed" else None


@asynccontextmanager
async def both(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """The address of a server that says again what it hears, and of the Headgate in front of it."""
    async with serve(echo, sock=free_socket(), process_request=refuse, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with headgate(f"http://127.0.0.1:{port}", tmp_path, drain_s=2) as gate:
            yield {"directly": f"ws://127.0.0.1:{port}", "through": gate.url.replace("http", "ws")}


async def said_to(url: str) -> dict[str, object]:
    """Return what a client gets of the server: its extensions, two messages, a pong, the end, and a
    refusal."""
    got: dict[str, object] = {}
    async with connect(url, max_size=None, subprotocols=None) as client:
        assert client.response is not None
        got["extensions"] = client.response.headers.get("sec-websocket-extensions")
        await client.send("hällo")
        got["text"] = await client.recv()
        await client.send(LARGE)
        got["large"] = await client.recv() == LARGE
        got["pong"] = await (await client.ping()) >= 0
        await client.send("end")
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        got["end"] = (closed.value.rcvd.code, closed.value.rcvd.reason)
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{url}/closed")
    answer = refused.value.response
    got["refusal"] = (answer.status_code, answer.body)
    return got


async def test_python_speaks_websocket_through_headgate_as_directly(tmp_path: Path):
    """Compressed or not is between the ends; a message of 12 MB, pings, close codes and refusals pass."""
    async with asyncio.timeout(60), both(tmp_path) as urls:
        got = {how: await said_to(url) for how, url in urls.items()}

    assert got["through"] == got["directly"]
    assert "permessage-deflate" in str(got["through"]["extensions"])
    assert got["through"]["large"]
    assert got["through"]["end"] == (4001, "as you say")
    assert got["through"]["refusal"] == (401, b"who are you?\n")


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 5 * MANY, reason="too few descriptors")
async def test_a_thousand_websockets_are_open_at_once(tmp_path: Path):
    """Each is heard, and has its own answers."""
    async with asyncio.timeout(90), both(tmp_path) as urls:
        clients = [client async for client in opened(urls["through"], MANY)]
        for number, client in enumerate(clients):
            await client.send(f"{number}")
        heard = [await client.recv() for client in clients]
        await asyncio.gather(*(client.close() for client in clients))

    assert heard == [f"{number}" for number in range(MANY)]


async def opened(url: str, number: int) -> AsyncIterator[ClientConnection]:
    """Fifty at a time."""
    for _ in range(number // 50):
        for client in await asyncio.gather(*(connect(url, compression=None) for _ in range(50))):
            yield client


@pytest.mark.parametrize("anyio_backend", LOOPS, ids=["uvloop", "asyncio"])
async def test_a_websocket_goes_on_to_an_upstream_behind_tls(tmp_path: Path):
    """With its large messages, its close code and its refusals, on either loop."""
    ca_file, context = certificates(tmp_path)
    async with (
        asyncio.timeout(60),
        serve(echo, sock=free_socket(), process_request=refuse, max_size=None, ssl=context) as server,
        headgate(
            f"https://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}",
            tmp_path,
            upstream={"tls": {"ca_file": str(ca_file)}},
            drain_s=2,
        ) as gate,
    ):
        got = await said_to(gate.url.replace("http", "ws"))

    assert got["large"]
    assert got["end"] == (4001, "as you say")
    assert got["refusal"] == (401, b"who are you?\n")


async def test_a_websocket_that_is_cut_with_the_process_is_no_end(tmp_path: Path):
    """Its client sees 1006, which is none of the upstream's, and may come back elsewhere."""
    async with serve(echo, sock=free_socket()) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with headgate(f"http://127.0.0.1:{port}", tmp_path, drain_s=0.2) as gate:
            client = await connect(gate.url.replace("http", "ws"))
            await client.send("x")
            await client.recv()
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        await until(lambda: not server.connections)

    assert closed.value.rcvd is None


@asynccontextmanager
async def node_server() -> AsyncIterator[str]:
    server = await asyncio.create_subprocess_exec(
        str(NODE),
        "live.mjs",
        "serve",
        cwd=CLIENTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await server.stdout.readline())}"
    finally:
        server.stdin.close()
        await server.wait()


async def node_clients(url: str) -> dict[str, object]:
    client = await asyncio.create_subprocess_exec(
        str(NODE), "live.mjs", "ask", url, cwd=CLIENTS, stdout=asyncio.subprocess.PIPE
    )
    try:
        said, _ = await client.communicate()
    finally:
        if client.returncode is None:
            client.kill()
    got: dict[str, object] = json.loads(said)
    return got


@pytest.mark.skipif(
    not (CLIENTS / "node_modules" / "socket.io").is_dir(), reason="npm ci --prefix tests/clients"
)
async def test_ws_and_socket_io_work_through_headgate_as_directly(tmp_path: Path):
    """With every transport of socket.io's: WebSocket, long polls, from the one to the other, and back."""
    async with asyncio.timeout(90), node_server() as url, headgate(url, tmp_path) as gate:
        directly, through = await node_clients(url), await node_clients(gate.url)

    said = ["hällo", 100_000, "still here"]
    assert through == directly
    assert through == {
        "ws": {
            "extensions": "permessage-deflate",
            "text": "hällo",
            "large": True,
            "code": 4001,
            "reason": "as you say",
        },
        "websocket": {"transport": "websocket", "said": said},
        "polling": {"transport": "polling", "said": said},
        "upgraded": {"transport": "websocket", "said": said},
        "fallenBack": {"transport": "polling", "said": said},
    }


IN_A_PAGE = """url => new Promise(resolve => {
  const socket = new WebSocket(url), got = {};
  socket.onopen = () => { got.extensions = socket.extensions; socket.send('hällo'); socket.send('end'); };
  socket.onmessage = message => { got.text ??= message.data; };
  socket.onclose = end => resolve({...got, code: end.code, reason: end.reason, clean: end.wasClean});
})"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_page_in_chromium_speaks_websocket_through_headgate(tmp_path: Path):
    """The page gets what it gets directly, compressed, and the close code that the upstream gave."""
    async with (
        asyncio.timeout(90),
        both(tmp_path) as urls,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET) as browser,
    ):
        page = await browser.new_page()
        got = {how: await page.evaluate(IN_A_PAGE, url) for how, url in urls.items()}

    assert got["through"] == got["directly"]
    assert "permessage-deflate" in got["through"]["extensions"]
    assert {**got["through"], "extensions": ""} == {
        "extensions": "",
        "text": "hällo",
        "code": 4001,
        "reason": "as you say",
        "clean": True,
    }
