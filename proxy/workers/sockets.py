"""The sockets that Headgate listens on: bound once, before anything else, and shared by the workers."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from proxy.errors import HeadgateError
from proxy.settings.settings import Settings

BACKLOG = 2048
"""Connections that may wait to be accepted; the kernel's own bound may be lower."""


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
        public = stack.enter_context(listening_at(settings.listen))
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
