"""How evenly workers share connections. `python -m tests.bench.balance`.

Each way opens connections to `headgate serve --workers N`, one after the other or fifty at a time, asks
something on each, and counts whose they are: the kernel gives a connection to whichever worker wakes first,
and `proxy/workers/servers.py` evens that out.
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tests.servers.client import eventually
from tests.servers.scripted import ok, talking
from tests.servers.streaming import served_before

CONNECTIONS = 400
AT_A_TIME = 50
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def connections_of(workers: Sequence[int], port: int) -> list[int]:
    """How many established connections to the port each process has, by the kernel's own tables."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    theirs = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    return [sum(_target(each) in theirs for each in Path(f"/proc/{pid}/fd").iterdir()) for pid in workers]


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # closed meanwhile
        return ""


async def shares(workers: int, at_a_time: int, directory: Path) -> list[int]:
    """The connections of each worker."""
    async with served_before(ok, directory, "--workers", str(workers)) as (_, headgate, _):
        port = int(headgate.url.rpartition(":")[2])
        leave = asyncio.Event()
        answered = 0

        async def one() -> None:
            nonlocal answered
            async with talking(headgate.url) as client:
                await client.ask(GET)
                answered += 1
                await leave.wait()

        async with asyncio.TaskGroup() as clients:
            for begun in range(0, CONNECTIONS, at_a_time):
                for _ in range(at_a_time):
                    clients.create_task(one())
                await eventually(lambda begun=begun: answered == begun + at_a_time, 60)
            found = connections_of(headgate.workers(), port)
            leave.set()
        return found


async def main() -> None:
    for workers in (2, 4):
        for at_a_time in (1, AT_A_TIME):
            with tempfile.TemporaryDirectory() as directory:
                found = await shares(workers, at_a_time, Path(directory))
            busiest = max(found) * len(found) / sum(found)
            click.echo(
                f"{workers} workers, {at_a_time} at a time: {sorted(found)}, busiest to mean {busiest:.2f}"
            )


if __name__ == "__main__":
    asyncio.run(main())
