"""File descriptors: how many connections they allow, so that some are left for the admin port."""

import os
import resource
from dataclasses import dataclass

RESERVED = 64
"""Descriptors for all but connections of the ports and to the upstream: store, flags, files."""

MOST_ADMIN, LEAST_ADMIN = 1024, 32
"""Connections of the admin port, with many descriptors and with few. One address has a quarter of them."""

USUAL = 32
"""Descriptors of a process that has just begun."""

ENOUGH = 1024
"""Connections on each side from which on no warning is needed."""

BACKLOG = 2048
"""Connections that may wait to be accepted, at most. They are accepted in one go, before any is refused."""

LEAST_BACKLOG = 64
"""With fewer, a page that opens a few dozen at once would wait a second for some of them."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The number of file descriptors, and the connections that they allow on each side."""

    limit: int
    """The descriptors of this process."""
    each: int
    """Connections on each side: of clients, to the upstream, upgraded, of a model port, to its providers."""
    admin: int
    """Connections of the admin port."""

    @property
    def backlog(self) -> int:
        return min(BACKLOG, max(LEAST_BACKLOG, self.each))


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a hard limit without an end is more than a kernel gives
        return soft
    return hard


def share(limit: int, in_use: int, sides: int) -> Descriptors:
    """Divide what is free among the `sides`; `RESERVED` and the admin port's are never clients'."""
    admin = min(MOST_ADMIN, max(LEAST_ADMIN, limit // 16))
    return Descriptors(limit, max(1, (limit - in_use - RESERVED - admin) // sides), admin)


def in_use() -> int:
    """Descriptors that are open now, or `USUAL` where the system cannot list them."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return USUAL
