"""Ports of loopback for servers: of one process of tests alone, and not given out again soon."""

import asyncio
import errno
import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

PORTS = range(11_000, 32_000)
"""Below those that the kernel gives to outgoing connections, so that what is free stays so until it is
listened on, and what was closed refuses until it is listened on again; above those that browsers refuse."""

SHARES = 6
"""Processes of tests that run at a time and have ports of their own."""


def _share() -> list[int]:
    """This process' part of the ports, begun anywhere, so that other runs beside this one find others."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    size = len(PORTS) // SHARES
    mine = list(PORTS[worker * size : (worker + 1) * size])
    begin = random.randrange(size)
    return mine[begin:] + mine[:begin]


_ports = itertools.cycle(_share())


def free_port(in_a_row: int = 1) -> int:
    """The first of so many ports in a row that nobody listens on; none of them is found again soon."""
    while True:
        found = [next(_ports) for _ in range(in_a_row)]
        if found[-1] - found[0] == in_a_row - 1 and all(map(_is_free, found)):
            return found[0]


def free_socket(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket that listens on this port; on a free one if that is 0."""
    while True:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port or next(_ports)))
            listening.listen(512)
        except OSError as exc:
            listening.close()
            if port or exc.errno != errno.EADDRINUSE:
                raise
        else:
            listening.setblocking(False)
            return listening


async def is_listened_on(port: int) -> bool:
    """True if a connection to it comes about."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose queue is full: a connection is neither accepted nor refused."""
    with ExitStack() as held:
        listening = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]
