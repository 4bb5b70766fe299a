"""A command in the foreground of a terminal of its own, as a person types it, and all that it starts."""

import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

END_S = 60.0
CTRL_C = b"\x03"
LOOK_S = 0.1
MARK = "HEADGATE_TEST_TERMINAL"
"""In the environment of the command, and so of whatever it starts."""


@dataclass
class Shown:
    """A command, and what it has written since."""

    process: subprocess.Popen[bytes]
    mark: str
    _side: int
    _said: bytearray = field(default_factory=bytearray)
    _closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        """A terminal that nobody reads holds up whoever writes."""
        while not self._closing.is_set():
            if not select.select([self._side], [], [], LOOK_S)[0]:
                continue
            try:
                self._said += os.read(self._side, 4096)
            except OSError:  # nobody writes to it any more
                return

    @property
    def said(self) -> str:
        return self._said.decode(errors="replace")

    def read_until(self, words: str, within_s: float, *, times: int = 1) -> str:
        """All that it has said, as soon as the words are among it so many times."""
        deadline = time.monotonic() + within_s
        while self.said.count(words) < times:
            assert time.monotonic() < deadline, f"no {words!r} in: {self.said}"
            assert self.process.poll() is None, self.said
            time.sleep(LOOK_S)
        return self.said

    def type(self, keys: bytes) -> None:
        os.write(self._side, keys)

    def close(self) -> None:
        """Close the terminal."""
        self._closing.set()
        self._reader.join()
        if self._side != -1:
            os.close(self._side)
        self._side = -1

    def left(self) -> list[str]:
        """The command lines of its processes that are there, its own included."""
        return [line.decode().replace("\0", " ") for line in _marked(f"{MARK}={self.mark}".encode())]

    def await_none_left(self) -> None:
        deadline = time.monotonic() + END_S
        while left := self.left():
            assert time.monotonic() < deadline, left
            time.sleep(LOOK_S)


def _marked(mark: bytes) -> Iterator[bytes]:
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                yield (directory / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's


@contextmanager
def shown(
    command: list[str], *, cwd: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Iterator[Shown]:
    """Run the command until the block ends, or it ends itself."""
    side, its_side = os.openpty()
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
        cwd=cwd,
        env={**environment, MARK: mark},
    )
    os.close(its_side)
    showing = Shown(process, mark, side)
    try:
        yield showing
    finally:
        showing.close()
        process.terminate()
        process.wait(END_S)
