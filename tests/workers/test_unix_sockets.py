"""Unix sockets for clients and the upstream: their files, and everything that passes through them."""

import asyncio
import fcntl
import os
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier
from typing import Any

import anyio
import pytest

from proxy.doctor import upstream as doctor_upstream
from proxy.doctor.findings.diagnosis import Grade
from proxy.doctor.one_request import buffering
from proxy.doctor.one_request.real_request import RealRequest
from proxy.errors import UpstreamUnreachable
from proxy.outbound import origin
from proxy.settings.settings import Settings
from proxy.upstream.pool import ConnectionPool, Origin
from proxy.upstream.timeouts import Timeouts
from proxy.workers.sockets import CannotListen, listening_at_path
from tests.servers.client import browser, eventually, signed
from tests.servers.scripted import Answered, Asked, ScriptedUpstream, talking
from tests.servers.streaming import answer, route, served


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "h.sock")


def stale(path: str) -> None:
    """What a process leaves behind that was killed."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)


def test_the_socket_is_of_its_group_and_goes_with_its_process(path: str) -> None:
    """Mode 0660, whatever the umask; there while it listens, and not after."""
    before = os.umask(0o077)
    try:
        with listening_at_path(path), socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    finally:
        os.umask(before)

    assert not os.path.exists(path)


def test_a_file_left_behind_is_replaced_and_one_in_use_is_not(path: str) -> None:
    """The first process goes on as if nobody had tried."""
    stale(path)
    with listening_at_path(path) as first:
        with pytest.raises(CannotListen, match="another process listens there"), listening_at_path(path):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            first.accept()[0].close()  # that of the look for a listener
            first.accept()[0].close()


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_that_is_no_socket_stays(path: str, is_link: bool) -> None:
    """A path that was meant for something else is nobody's to remove, nor is a link to a socket."""
    if is_link:
        stale(f"{path}.there")
        os.symlink(f"{path}.there", path)
    else:
        Path(path).write_text("kept")

    with pytest.raises(CannotListen, match="is no socket is there: remove it"), listening_at_path(path):
        pass

    assert os.path.islink(path) == is_link
    assert os.path.exists(path)


def test_a_directory_that_is_not_there_is_said(path: str) -> None:
    with pytest.raises(CannotListen, match="No such file or directory"), listening_at_path(f"{path}/x"):
        pass


def test_the_file_of_another_process_is_not_removed(path: str) -> None:
    """One that has taken over the path listens on there."""
    with ExitStack() as first:
        listening = first.enter_context(listening_at_path(path))
        listening.close()
        with listening_at_path(path):
            first.close()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)


def test_of_many_that_start_at_once_one_has_it(path: str) -> None:
    """None removes another one's new socket for the stale one that it has seen."""
    stale(path)
    together, ended = Barrier(8), Barrier(8)

    def start(_: int) -> bool:
        together.wait(30)
        try:
            with listening_at_path(path) as listening, socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                ended.wait(30)
                return stat.S_ISSOCK(os.fstat(listening.fileno()).st_mode)
        except CannotListen:
            ended.wait(30)
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(start, range(8))) == [False] * 7 + [True]


def test_one_that_starts_waits_for_one_that_is_about_to_listen(path: str) -> None:
    """It would see a stale file, and remove the new one."""
    stale(path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)

    def start() -> None:
        with listening_at_path(path):
            pass

    with ThreadPoolExecutor(1) as threads, socket.socket(socket.AF_UNIX) as other:
        fcntl.flock(directory, fcntl.LOCK_EX)
        starting = threads.submit(start)
        assert not wait([starting], timeout=0.2).done
        os.unlink(path)
        other.bind(path)
        other.listen()
        os.close(directory)
        with pytest.raises(CannotListen, match="another process listens there"):
            starting.result(30)


async def echo(asked: Asked) -> None:
    """Says what it was asked; of `/wait` it says nothing, and an upgrade gets its own bytes back."""
    if asked.header(b"upgrade"):
        await asked.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        while data := await asked.reader.read(65536):
            await asked.send(data)
        return
    body = await asked.read_body()
    if asked.target == b"/wait":
        await asked.reader.read()
        return
    await asked.answer(answer() if asked.target.startswith(b"/api") else body)


async def test_all_passes_through_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    """Two workers share the socket; after SIGKILL its file stays, and the next process listens there."""
    path, app_path = tmp_path / "h.sock", tmp_path / "app.sock"
    settings: dict[str, Any] = {"listen": f"unix:{path}", "trusted_proxies": ["unix"]}
    async with ScriptedUpstream(echo, path=app_path).running() as upstream:
        async with served(upstream.url, tmp_path, "--workers", "2", **settings) as serving:
            with anyio.fail_after(60):
                await _all_passes(f"unix:{path}", upstream)
                await _the_doctor_finds(settings, upstream, tmp_path)
            serving.send_all(signal.SIGKILL)
            await serving.process.wait()
            assert path.exists()
        async with served(upstream.url, tmp_path, **settings) as serving, browser() as ops:
            async with talking(f"unix:{path}") as client:
                assert (await client.ask(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")).status == 200
            assert (await ops.get(f"{serving.admin_url}/livez")).status_code == 200
        assert serving.process.returncode == 0
        assert not path.exists()


async def _all_passes(url: str, upstream: ScriptedUpstream) -> None:
    async def ask(request: bytes) -> Answered:
        async with talking(url) as client:
            return await client.ask(request)

    large = b"x" * 3_000_000
    answered = await ask(b"POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 3000000\r\n\r\n" + large)
    assert (answered.status, answered.body) == (200, large)
    assert upstream.asked[-1].header(b"host") == b"a.example"
    assert upstream.asked[-1].header(b"x-forwarded-for") is None

    # The socket is a proxy's: what it says is believed. A peer without an address has none to add.
    named = b"GET /x HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 9.9.9.9, 1.1.1.1\r\n\r\n"
    assert (await ask(named)).status == 200
    assert upstream.asked[-1].header(b"x-forwarded-for") == b"1.1.1.1"

    assert (await ask(b"GET /x HTTP/1.0\r\n\r\n")).status == 200
    assert upstream.asked[-1].header(b"host") == b"localhost"

    stream = signed(accept="text/event-stream")
    lines = "".join(f"{name}: {value}\r\n" for name, value in stream.items()).encode()
    start = b"POST /api/cases/7/start HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n%b\r\n{}" % lines
    assert b'"stream_done"' in (await ask(start)).body

    async with talking(url) as client:
        await client.send(b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
        await client.send(b"bytes of x")
        assert await client.reader.readexactly(10) == b"bytes of x"

    async with talking(url) as client:
        await client.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
        await eventually(lambda: upstream.asked[-1].target == b"/wait")
        busy = upstream.open
    await eventually(lambda: upstream.open < busy)


async def _the_doctor_finds(settings: dict[str, Any], upstream: ScriptedUpstream, directory: Path) -> None:
    whole = Settings.model_validate(
        {
            **settings,
            "upstream": {"url": upstream.url, "pool": {"keep_alive_s": 0.1}},
            "flags": {"file": str(directory / "flags.json")},
            "routes": [route()],
        }
    )
    to = origin(whole.upstream, strict_tls=True)
    findings, _ = await doctor_upstream.look(to.url, to)
    assert [each.status for each in findings if "clock" not in each.check] == [Grade.OK] * 2
    user = list(signed("bob", accept=None).items())
    request = RealRequest(whole.routes[0], "POST", "/api/cases/7/start", user, b"{}")
    [here] = await buffering.look(whole.listen, [], request, strict=True, wait_s=20)
    assert here.status is Grade.OK


async def test_a_unix_socket_whose_queue_is_full_is_waited_for(tmp_path: Path) -> None:
    """As one of TCP is: until there is room, and for `connect_s` at most."""
    path = str(tmp_path / "s")
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        listening.listen(0)
        waiting = 0
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path):
                break
            waiting += 1
        patient, hasty = (
            ConnectionPool(Origin("localhost", 80, path=path, timeouts=Timeouts(connect_s=s)))
            for s in (60.0, 0.1)
        )
        connecting = asyncio.create_task(patient.connect())
        with pytest.raises(UpstreamUnreachable, match="TimeoutError"):
            await hasty.connect()
        assert not connecting.done()

        for _ in range(waiting):
            listening.accept()[0].close()
        connection = await connecting
        assert not connection.closed
        connection.abort()
        assert hasty.in_use == 0
