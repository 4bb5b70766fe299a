"""The demo begins beside another, says which port it cannot have, and leaves no process, however it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from examples.clinic.listening import listen
from proxy.demo import free_ports
from tests.project.terminal import Shown, shown
from tests.servers.ports import free_port

START_S = 180.0

ENDS: dict[str, Callable[[Shown], None]] = {
    "SIGTERM": lambda demo: demo.process.terminate(),
    "a closed terminal": Shown.close,
    "SIGKILL": lambda demo: os.kill(demo.process.pid, signal.SIGKILL),
}


def demo(port: int) -> list[str]:
    return [sys.executable, "-m", "proxy", "demo", "--port", str(port)]


def test_a_port_of_the_demo_is_its_processes_alone() -> None:
    """Until they listen, seconds later: no other connection may have it for its own side."""
    with free_ports(2) as ports, socket.socket() as others, listen("127.0.0.1", ports[0]) as ours:
        with pytest.raises(OSError, match="in use"):
            others.bind(("127.0.0.1", ports[1]))
        with socket.create_connection(ours.getsockname(), timeout=30):
            pass


def test_several_demos_stand_side_by_side_and_each_end_leaves_nothing() -> None:
    """On neighbouring ports, begun at once. One more on a port of theirs is told which option helps."""
    first = free_port(len(ENDS))
    with ExitStack() as stack:
        demos = [stack.enter_context(shown(demo(first + place))) for place in range(len(ENDS))]
        for place, showing in enumerate(demos):
            said = showing.read_until("Ctrl-C ends it.", START_S)
            assert f"http://127.0.0.1:{first + place}/app/live.html" in said
        refused = subprocess.run(demo(first), capture_output=True, text=True, timeout=START_S, check=False)
        for end, showing in zip(ENDS.values(), demos, strict=True):
            assert len(showing.left()) > 4
            end(showing)
        for showing in demos:
            showing.await_none_left()

    assert refused.returncode == 1
    assert f"port {first} of 127.0.0.1 is in use: --port moves" in refused.stderr
