"""A service manager gets its notifications, and systemd accepts the unit in the documentation."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.settings.settings import Settings
from proxy.workers.systemd import ServiceManager
from tests.servers.client import eventually
from tests.servers.streaming import answering, served_before

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "docs" / "headgate.service"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: see tests/services/setup.sh",
)


class Heard:
    """The datagrams that have come to a notification socket, each of a state or two."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.datagrams: list[str] = []

    def states(self) -> list[str]:
        """The first line of each, but for the signs of life."""
        self._read()
        heads = [datagram.partition("\n")[0] for datagram in self.datagrams]
        return [state for state in heads if state != "WATCHDOG=1"]

    def signs_of_life(self) -> int:
        self._read()
        return self.datagrams.count("WATCHDOG=1")

    def _read(self) -> None:
        while True:
            try:
                self.datagrams.append(self._listening.recv(4096).decode())
            except BlockingIOError:
                return


@contextmanager
def manager(address: str) -> Iterator[Heard]:
    """Give the place where a service manager listens; `@` begins the name of an abstract socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.setblocking(False)
        yield Heard(listening)


@pytest.mark.parametrize("is_abstract", [False, True], ids=["a path", "an abstract name"])
async def test_it_says_when_it_is_ready_reloads_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    """READY once all workers serve; RELOADING with its time, and READY after it, also if nothing has changed
    since the settings are wrong; STOPPING."""
    address = f"@headgate-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as heard:
        async with served_before(answering(b"{}"), tmp_path, "--workers", "2") as (_, serving, _):
            await eventually(lambda: heard.states() == ["READY=1"])
            for number, change in enumerate(("", "nonsense"), 2):
                with (tmp_path / "headgate.yaml").open("a") as settings:
                    settings.write(change)
                serving.process.send_signal(signal.SIGHUP)
                expected = ["READY=1", *["RELOADING=1", "READY=1"] * (number - 1)]
                await eventually(lambda expected=expected: heard.states() == expected, 30)  # type: ignore[misc]
            serving.process.terminate()
            await serving.process.wait()
        states, datagrams = heard.states(), heard.datagrams

    assert states[5:] == ["STOPPING=1"]
    reloading = [datagram.split("\n") for datagram in datagrams if datagram.startswith("RELOADING")]
    assert [lines[1].partition("=")[0] for lines in reloading] == ["MONOTONIC_USEC"] * 2
    assert all(lines[1].partition("=")[2].isdecimal() for lines in reloading)


async def test_the_watchdog_hears_nothing_while_a_worker_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign of life several times a period, none while a worker stands still, and again when it goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "800000")
    with manager(str(tmp_path / "notify")) as heard:
        async with served_before(answering(b"{}"), tmp_path) as (_, serving, _):
            (worker,) = serving.workers()
            await eventually(lambda: heard.signs_of_life() > 4)
            os.kill(worker, signal.SIGSTOP)
            still = 0.0
            before, loop = heard.signs_of_life(), asyncio.get_running_loop()
            async with asyncio.timeout(30):
                since = loop.time()
                while (still := loop.time() - since) < 2:
                    await asyncio.sleep(0.1)
                    if (now := heard.signs_of_life()) != before:
                        before, since = now, loop.time()
            os.kill(worker, signal.SIGCONT)
            await eventually(lambda: heard.signs_of_life() > before)

    assert still >= 2


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "5000000"}, None),
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "5000000"}, 5),
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}, 5),
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "5000000"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    environment: dict[str, str], period_s: float | None
) -> None:
    """Without a socket, for another process, or with an invalid period, there is no watchdog."""
    assert ServiceManager(environment).watchdog_s == period_s


def test_a_manager_that_is_gone_is_no_reason_to_stop(tmp_path: Path) -> None:
    """No process listens at the socket, and nothing is raised."""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).notify("READY=1")
    ServiceManager({}).notify("READY=1")


@needs_systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Without a complaint, once Headgate is where the unit says; and what it may do is little."""
    unit = tmp_path / UNIT.name
    headgate = Path(sys.executable).parent / "headgate"
    unit.write_text(UNIT.read_text().replace("/opt/headgate/bin/headgate", str(headgate)))

    def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["systemd-analyze", *arguments, str(unit)], capture_output=True, text=True, check=False
        )

    verified = analyze("verify", "--man=no")
    exposed = analyze("security", "--offline=yes", "--threshold=20", "--no-pager")

    assert (verified.returncode, verified.stderr) == (0, "")
    assert exposed.returncode == 0, exposed.stdout[-200:]


def test_the_unit_gives_a_drain_its_time() -> None:
    """10 seconds more than the default `drain_s`, as the settings ask of whatever stops Headgate."""
    said = dict(
        line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#"
    )
    assert said["Type"] == "notify"
    assert said["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(said["TimeoutStopSec"]) >= Settings.model_fields["drain_s"].default + 10
