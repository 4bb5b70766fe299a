"""Servers that tests start end with the process which started them."""

import asyncio
import sys
from pathlib import Path

from tests.servers.client import eventually
from tests.servers.with_parent import WITH_PARENT

STARTS_ONE = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""
ENOUGH_S = 60


def is_running(pid: int, name: str) -> bool:
    """True if it is that program; not if it has ended, be it that nobody has noticed."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return f"({name}) Z" not in state and f"({name})" in state


async def test_a_server_ends_with_a_parent_that_is_killed() -> None:
    """Nobody is there to stop it."""
    command = [sys.executable, "-c", STARTS_ONE, *WITH_PARENT, "sleep", "600"]
    parent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    await eventually(lambda: is_running(child, "sleep"), ENOUGH_S)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not is_running(child, "sleep"), ENOUGH_S)
