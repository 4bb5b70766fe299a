"""Notifications to a service manager, by the protocol of `sd_notify(3)`: one datagram for each state.

Without `NOTIFY_SOCKET` nothing is sent. One that cannot be reached is no reason to stop serving.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


class ServiceManager:
    """The service manager that started this process, if there is one.

    Args:
        environment: where `sd_notify(3)` and `sd_watchdog_enabled(3)` look.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment) if self._address else None
        """It expects `ALIVE` at least so often; None: it has no watchdog."""

    def notify(self, *states: str) -> None:
        if self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            datagrams.setblocking(False)
            datagrams.sendto("\n".join(states).encode(), self._address)

    def notify_reloading(self) -> None:
        """Settings are reloaded until the next `READY`. Newer service managers want the time, too."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def _address(name: str) -> str | bytes | None:
    """None if there is no address, or one of a kind that is not supported."""
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return name if name.startswith("/") else None


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    meant_for = environment.get("WATCHDOG_PID", str(os.getpid()))
    period = environment.get("WATCHDOG_USEC", "")
    if meant_for != str(os.getpid()) or not period.isdecimal() or int(period) == 0:
        return None
    return int(period) / 1_000_000
