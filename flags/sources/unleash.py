"""Flags from an Unleash server: polled, kept in memory, and never waited for by a request.

The server is the truth; its last answer stays in force while it is silent, until that is too old. The process
also registers there and reports how often flags were asked; no decision depends on that.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from platform import python_implementation, python_version
from typing import Any, Self, TypeVar

import anyio

from flags.decision import FlagAnswer
from flags.document import parse_served
from flags.errors import FlagDocumentError, FlagServerError
from flags.sources.in_force import Condition
from flags.sources.source import FlagSource
from flags.sources.unleash_api import SDK, UnleashApi, UnleashServer
from flags.sources.usage import Usage, bucket

JITTER = 0.2
"""Part by which a pause may be shorter, so that replicas do not poll together; it is never longer, or a kill
would come later than `refresh_s`."""

MAX_BACK_OFF_S = 60.0
"""The longest pause that an overloaded server gets; one `refresh_s`, if that is longer."""

REPORT_S = 60.0
"""Between two reports of how often flags were asked; Unleash adds them up by the hour."""

LAST_REPORT_S = 1.0
"""Time for the last report, when the process ends."""

_log = logging.getLogger("headgate.flags")

T = TypeVar("T")


def pause_s(refresh_s: float, overloads: int, retry_after_s: float, draw: float) -> float:
    """Seconds until the server is asked again.

    Args:
        refresh_s: as the settings have it.
        overloads: answers in a row that said that the server is overloaded.
        retry_after_s: the pause that its last answer asked for.
        draw: from 0 to 1, by chance.
    """
    doubled_s = refresh_s * 2.0 ** min(overloads, 16)  # any bound will do: the next line has the real one
    wait_s = min(max(doubled_s, retry_after_s), max(refresh_s, MAX_BACK_OFF_S))
    return wait_s * (1 - JITTER * draw)


class UnleashFlags(FlagSource):
    """Flags from a server.

    `async with` asks once, never raises for what comes back, and owns the two tasks that go on: one asks for
    flags, one tells of them. Enter it in the process and the loop that is to be served.
    """

    def __init__(
        self,
        server: UnleashServer,
        flags: frozenset[str],
        *,
        kill_flag: str = "headgate.kill",
        stale_s: float = 300.0,
        report_s: float = REPORT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._wanted = flags | {kill_flag}
        self._kill_flag = kill_flag
        self._report_s = report_s
        what = f"Unleash {server.url}"
        super().__init__(what, kill_flag=kill_flag, stale_s=stale_s, clock=clock)
        self._reporting = Condition(f"{what}, told of usage", "no decision depends on it")
        self._api = UnleashApi(server)
        self._usage = Usage()
        self._counted_since = datetime.now(UTC)
        self._etag = ""
        self._overloads = 0
        self._retry_after_s = 0.0
        self._registered = False

    def __repr__(self) -> str:
        state = f"age_s={self.age_s:.1f} killed={self.killed} problem={self.problem!r}"
        return f"<UnleashFlags {self._server.url} {state}>"

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        try:
            await self._look()
        except BaseException:
            await self._leave()
            raise
        loops = (self._poll, self._report_usage)
        self._tasks = {asyncio.create_task(loop(), name=f"headgate {loop.__qualname__}") for loop in loops}
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait(self._tasks)
            with anyio.move_on_after(LAST_REPORT_S):
                await self._report()
            await self._leave()

    async def _leave(self) -> None:
        self._etag = ""
        self._in_force.close()
        await self._api.__aexit__()

    async def once(self, ask: Callable[[Self], T]) -> T:
        """Instead of `async with`: what `ask` finds in the flags as they are now. Raises FlagServerError."""
        async with self._api:
            try:
                await self._fetch()
                return ask(self)
            finally:
                self._in_force.close()

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        answer = super().evaluate(flag, context)
        self._usage.note(flag, answer)
        return answer

    async def _look(self) -> None:
        """Ask the server once, and say in `problem` what came of it. Raises nothing."""
        try:
            await self._fetch()
        except FlagServerError as exc:
            self._overloads = self._overloads + 1 if exc.is_overload else 0
            self._retry_after_s = exc.retry_after_s
            self._condition.report(exc.problem)
        except Exception as exc:  # noqa: BLE001 - a loop that died would leave old flags in force, unseen
            self._condition.report(f"could not be asked: {type(exc).__name__}")
        else:
            self._overloads, self._retry_after_s = 0, 0.0
            self._condition.report(None)

    async def _fetch(self) -> None:
        asked_at = self._clock()  # not later: while the answer was under way, the flags may have changed
        served = await self._api.features(self._etag)
        if served is not None:
            try:
                self._in_force.take(parse_served(served.content, self._wanted))
            except FlagDocumentError as exc:
                raise FlagServerError(self._server.url, exc.problem) from exc
            self._etag = served.etag  # only of what was taken, or a 304 would confirm what was not
        self._in_force.confirm(asked_at)
        self.evaluate(self._kill_flag, None)  # counted, or Unleash would show it as a flag nobody asks for

    async def _poll(self) -> None:
        while True:
            draw = random.random()
            wait_s = pause_s(self._server.refresh_s, self._overloads, self._retry_after_s, draw)
            await asyncio.sleep(wait_s)
            await self._look()

    async def _report_usage(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(self._report_s * (1 - JITTER * random.random()))

    async def _report(self) -> None:
        """Register once, and report the counts. Raises nothing; the next report has what failed."""
        try:
            await self._register()
            await self._count()
        except Exception as exc:  # noqa: BLE001 - no decision depends on it
            if self.problem is None:  # or that has been said already
                self._reporting.report(
                    exc.problem if isinstance(exc, FlagServerError) else type(exc).__name__
                )
        else:
            self._reporting.report(None)

    async def _register(self) -> None:
        if self._registered:
            return
        about = {
            "sdkVersion": SDK,
            "platformName": python_implementation(),
            "platformVersion": python_version(),
            "strategies": [],
            "started": datetime.now(UTC).isoformat(),
            "interval": self._server.refresh_s,
        }
        await self._api.register(about)
        self._registered = True

    async def _count(self) -> None:
        until = datetime.now(UTC)
        counts = self._usage.take()
        if not counts:
            return
        since, self._counted_since = self._counted_since, until
        try:
            await self._api.count(bucket(counts, since, until))
        except FlagServerError:  # not on cancellation: a report that our own end cut off may have arrived
            self._usage.put_back(counts)
            self._counted_since = since
            raise
