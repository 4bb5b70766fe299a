"""Looks at a file again and again, in the event loop's own thread.

A look is one `stat` (microseconds), a change is a read of a few kilobytes and a millisecond of engine. The
price: keep watched files on a local disk, since a network mount that hangs would hang the loop.
"""

import asyncio
from collections.abc import Callable
from typing import Self


class Watcher:
    """Calls `look` every `every_s` seconds until its block is left. Owns its task."""

    def __init__(self, look: Callable[[], None], every_s: float) -> None:
        self._look = look
        self._every_s = every_s

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"headgate {self._look.__qualname__}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})  # not `await task`: that could not tell its end from our own

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._look()
