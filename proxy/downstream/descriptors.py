"""File descriptors: how many connections they suffice for, so that some are left for the admin port."""

import os
import resource
from dataclasses import dataclass

RESERVED = 64
"""For what is neither a client's connection nor the upstream's: the admin port, the store, flags, files."""

USUAL = 32
"""Descriptors of a process that has just begun."""

ENOUGH = 1024
"""Connections on each side for which nobody needs to be told."""

BACKLOG = 2048
"""Connections that may wait to be accepted, at most. They are accepted in one go, before any is refused."""

LEAST_BACKLOG = 64
"""With fewer, a page that opens a few dozen at once would wait a second for some of them."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What there are."""

    limit: int
    """The process's own."""
    each: int
    """Connections on each side: of clients, to the upstream, upgraded, of a model port, to its providers."""

    @property
    def backlog(self) -> int:
        return min(BACKLOG, max(LEAST_BACKLOG, self.each))


def raise_limit() -> int:
    """Lift the soft limit to the hard one; returns what is in force. The soft one is for programs of old."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a hard limit without an end is more than a kernel gives
        return soft
    return hard


def share(limit: int, in_use: int, sides: int) -> Descriptors:
    """So many connections on each of `sides` leave the reserve alone, whatever clients do."""
    return Descriptors(limit, max(1, (limit - in_use - RESERVED) // sides))


def in_use() -> int:
    """Descriptors that are open now; a guess where the system does not tell."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return USUAL
