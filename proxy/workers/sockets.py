"""The sockets that Headgate listens on: bound once, before anything else, and shared by the workers."""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from proxy.errors import HeadgateError
from proxy.settings.blocks.values import unix_path
from proxy.settings.settings import Settings

BACKLOG = 2048
"""Connections that may wait to be accepted; the kernel's own bound may be lower."""

SOCKET_MODE = 0o660
"""Of a Unix socket's file: whoever is to connect is of its owner's group."""

LOCK_S = 5.0
"""Seconds to wait for another process that makes or removes a socket in the same directory."""


class CannotListen(HeadgateError):
    """An address is in use, or is not one of this machine's. The message names the address."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """One socket for each port."""

    public: socket.socket
    admin: socket.socket
    model: socket.socket | None = None
    """The socket of the model port, if there is one."""

    def close(self) -> None:
        """Stop listening in this process."""
        for listening in (self.public, self.admin, self.model):
            if listening is not None:
                listening.close()


@contextmanager
def bound(settings: Settings) -> Iterator[Sockets]:
    """Bind every socket that the settings name, until the block is left.

    Raises:
        CannotListen: one cannot be bound; then none stays bound.
    """
    with ExitStack() as stack:
        path = unix_path(settings.listen)
        opened = listening_at(settings.listen) if path is None else listening_at_path(path)
        public = stack.enter_context(opened)
        admin = stack.enter_context(listening_at(settings.admin))
        model = stack.enter_context(listening_at(settings.llm.listen)) if settings.llm else None
        yield Sockets(public, admin, model)


def listening_at(address: str) -> socket.socket:
    """A socket that listens at `HOST:PORT`. Raises CannotListen."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: asyncio and uvloop turn Nagle's algorithm off only for sockets that say TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, int(port)))
    except OSError as exc:
        listening.close()
        raise CannotListen(f"{address}: cannot listen there: {exc.strerror}") from None
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


@contextmanager
def listening_at_path(path: str) -> Iterator[socket.socket]:
    """A Unix socket that listens; its file is removed when the block is left, if it is still this one's.

    A file that a process has left behind is replaced; never one at which somebody listens.

    Raises:
        CannotListen: somebody does, or no file can be made there.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listening:
        try:
            with _locked(os.path.dirname(path)):
                _remove_stale(path)
                listening.bind(path)
                os.chmod(path, SOCKET_MODE)  # before it listens: until then nobody can connect
                own = _identity(path)
                listening.listen(BACKLOG)
        except OSError as exc:
            raise CannotListen(f"unix:{path}: cannot listen there: {exc.strerror}") from None
        listening.setblocking(False)
        try:
            yield listening
        finally:
            with suppress(OSError), _locked(os.path.dirname(path)):
                if _identity(path) == own:
                    os.unlink(path)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Two processes that start at once would each take the other's new socket for a stale one."""
    until = time.monotonic() + LOCK_S
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        yield
    finally:
        os.close(opened)


def _remove_stale(path: str) -> None:
    """Remove a socket's file at which nobody listens. Raises CannotListen for any other file."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise CannotListen(
            f"unix:{path}: a file that is no socket is there: remove it, or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)  # where the queue is full, somebody listens
        answer = asking.connect_ex(path)
    if answer != errno.ECONNREFUSED:
        raise CannotListen(f"unix:{path}: another process listens there")
    os.unlink(path)


def _identity(path: str) -> tuple[int, int, int]:
    """What tells a file from one that is made at its path later."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns
