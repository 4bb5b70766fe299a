"""The demo begins beside another, says which port it cannot have, and leaves no process, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.streaming import free_port

START_S = 60.0
END_S = 20.0
MARK = "HEADGATE_TEST_DEMO"


@dataclass
class Shown:
    """A demo in a terminal of its own."""

    process: subprocess.Popen[bytes]
    terminal: int
    mark: str
    said: bytes = b""

    def read_until(self, words: bytes) -> str:
        """Everything it has said so far, as soon as the words are among it."""
        deadline = time.monotonic() + START_S
        while words not in self.said:
            assert time.monotonic() < deadline, self.said.decode()
            try:
                self.said += os.read(self.terminal, 4096)
            except OSError:  # a terminal that nobody writes to any more
                raise AssertionError(self.said.decode()) from None
        return self.said.decode()

    def left(self) -> list[str]:
        """Command lines of its processes that are there, itself included."""
        return [found.decode().replace("\0", " ") for found in _marked(f"{MARK}={self.mark}".encode())]

    def close(self) -> None:
        """Close the terminal."""
        os.close(self.terminal)
        self.terminal = -1


def _marked(mark: bytes) -> Iterator[bytes]:
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                yield (directory / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or is another user's


@contextmanager
def shown(command: list[str], *, cwd: Path | None = None, **environment: str) -> Iterator[Shown]:
    """A command as a person types it: in the foreground of a terminal."""
    terminal, its_side = os.openpty()
    mark = f"{os.getpid()}-{terminal}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
        cwd=cwd,
        env={**os.environ, **environment, MARK: mark},
    )
    os.close(its_side)
    showing = Shown(process, terminal, mark)
    try:
        yield showing
    finally:
        if showing.terminal != -1:
            showing.close()
        process.terminate()
        process.wait(END_S)


def demo(port: int) -> list[str]:
    return [sys.executable, "-m", "proxy", "demo", "--port", str(port)]


def await_none_left(showing: Shown) -> None:
    deadline = time.monotonic() + END_S
    while left := showing.left():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


ENDS: dict[str, Callable[[Shown], None]] = {
    "SIGTERM": lambda demo: demo.process.terminate(),
    "a closed terminal": Shown.close,
    "SIGKILL": lambda demo: os.kill(demo.process.pid, signal.SIGKILL),
}


def test_several_demos_stand_side_by_side_and_each_end_leaves_nothing() -> None:
    """On neighbouring ports, begun at once. One more on a port of theirs is told which option helps."""
    first = free_port(len(ENDS))
    with ExitStack() as stack:
        demos = [stack.enter_context(shown(demo(first + place))) for place in range(len(ENDS))]
        for place, showing in enumerate(demos):
            assert f"http://127.0.0.1:{first + place}/app/live.html" in showing.read_until(b"Ctrl-C ends it.")
        refused = subprocess.run(demo(first), capture_output=True, text=True, timeout=START_S, check=False)
        for end, showing in zip(ENDS.values(), demos, strict=True):
            assert len(showing.left()) > 4
            end(showing)
        for showing in demos:
            await_none_left(showing)

    assert refused.returncode == 1
    assert f"port {first} of 127.0.0.1 is in use: --port moves" in refused.stderr
