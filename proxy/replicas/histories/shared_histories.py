"""What is known of users at all replicas, through the store, in the background. No request waits for it.

Every `SHARE_S` a process writes what it has learned to a log, one sealed batch a route and memory, and
reads what others have. Now and then one process folds the log into a sum (`route_log.py`), from which a
process that starts has what was known before. Of histories only counts are added, so it does not matter who
comes first; what watched users do is added in the order of the log.

A store that is away costs what would be known of users, and nothing else: what was learned of `MAX_CHANGED`
users waits for it. A process that is killed loses what it has learned since its last batch.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from proxy.errors import StoreDown
from proxy.observe.users.user_watch import ALONE_S
from proxy.replicas.histories.route_log import Memory, RouteLog, WrongType
from proxy.replicas.store.records import Keys
from proxy.replicas.store.sealing import Sealing
from proxy.replicas.store.valkey import Link

logger = logging.getLogger("headgate.event_log")

SHARE_S = 10.0
"""Between two batches of one process. A killed one loses so much."""

START_S = 1.0
"""A process that starts waits so long for what was known before."""

ROUND_S = 5.0
"""The longest that a round trip may take. No request waits for it."""


class SharedHistories:
    """What this process knows of its routes' users; a context.

    Args:
        link: to the store; this closes it. Of a `Health` of its own: what is late here says nothing of runs.
        replica: this process's name, of 32 hexadecimal digits.
        memories: what is shared.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        sealing: Sealing,
        replica: str,
        memories: Iterable[Memory],
    ) -> None:
        self._link = link
        self._logs = [RouteLog(link, keys, sealing, replica, memory) for memory in memories]
        self._shared_at = asyncio.get_running_loop().time()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._share_within(START_S)
        except BaseException:
            await self._link.aclose()
            raise
        self._task = asyncio.create_task(self._keep_sharing())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        try:
            while not self._task.done():
                self._task.cancel()
                # Again, if need be: a library below may take a cancellation for its own.
                await asyncio.wait([self._task], timeout=ROUND_S)
            await self._share_within(ROUND_S)
        finally:
            await self._link.aclose()

    async def _keep_sharing(self) -> None:
        while True:
            await self._share_within(None)
            await asyncio.sleep(SHARE_S)

    async def _share_within(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.share()
        except TimeoutError:
            pass  # it goes on, or the process ends
        except Exception:  # histories are no reason not to serve
            logger.exception("sharing histories failed")

    async def share(self) -> None:
        """Write and read once, for each route."""
        begun_at = asyncio.get_running_loop().time()
        try:
            with contextlib.suppress(StoreDown):
                for log in self._logs:
                    try:
                        await log.share()
                    except WrongType:
                        logger.error(
                            "histories cannot be stored", extra={"why": "a key holds something else"}
                        )
                        log.leave()
                self._link.health.wrote()
                self._shared_at = begun_at
        finally:
            if begun_at - self._shared_at > ALONE_S:
                for log in self._logs:
                    log.leave()
