"""Changing a flag on an Unleash server. Behind the port of `flag_admin`.

The server has no compare-and-set: an edit by somebody else in the milliseconds between the last read and the
write would be lost. So each write reads the server's events afterwards, which say what it replaced. If that
was somebody's edit, the edit is put back, with the lower of the two shares, and FlagChanged is raised: the
first edit wins, and nobody is exposed whom only one of the two meant to expose. An edit that came after ours
stays, and raises FlagChanged too.

After a write that was cut off (timeout, crash), only a new read says whether it came through.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import httpx

from flags.errors import FlagAdminError, FlagChanged
from flags.rollout.writing.admin_api import TIMEOUT_S, AdminApi, Refused
from flags.rollout.writing.flag_admin import Flag, Kill, ManagedFlag, Strategy
from flags.rollout.writing.marks import is_written
from flags.rollout.writing.strategies import (
    everybody,
    names_everybody,
    read_strategy,
    refuse_unwritable,
    write_strategy,
)
from flags.rollout.writing.unleash_events import FlagEvents, differs
from flags.rollout.writing.unleash_problems import (
    place_of,
    problems_of_changes,
    problems_of_flag,
    problems_of_kill,
    problems_of_project,
    problems_of_rights,
)
from flags.rollout.writing.unleash_reading import ServerSnapshot, client_feature, flag_of, kill_of
from flags.targeting import parents_of, segments_of

READ_ROUNDS = 3
"""Reads of a flag that keeps changing while it is read."""


class UnleashAdmin:
    """One flag in one environment. A FlagAdmin. The opener closes it: `async with`.

    Args:
        url: of the server, without `/api`.
        token: with the rights to change strategies and to turn environments on and off.
        flag: what is moved, and what it must be. The kill flag is of the same project.
        timeout_s: for each call of the port, with all the requests that it takes.
        tls: whose certificates are good; None: the system's authorities, strictly.
        proxy: on the way there; None: straight.
    """

    def __init__(  # noqa: PLR0913 - all but three are by name
        self,
        url: str,
        token: str,
        flag: ManagedFlag,
        *,
        project: str = "default",
        environment: str = "production",
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        proxy: httpx.Proxy | None = None,
    ) -> None:
        self._api = AdminApi(url, token, timeout_s=timeout_s, tls=tls, proxy=proxy)
        self._flag = flag
        self._project = project
        self._environment = environment
        self._events = FlagEvents(self._api, flag.name, environment)

    def __repr__(self) -> str:
        return f"<UnleashAdmin {self._api.name} {self._project}/{self._environment}/{self._flag.name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._api.__aexit__(*exc)

    async def problems(self) -> list[str]:
        try:
            async with self._bounded("looking for problems"):
                return [problem async for problem in self._problems()]
        except FlagAdminError as exc:
            return [str(exc)]

    async def read(self) -> Flag:
        async with self._bounded("reading the flag"):
            return await self._read()

    async def write(self, strategy: Strategy, expected: Flag) -> Flag:
        refuse_unwritable(strategy)
        if strategy.id != expected.strategy.id:
            raise ValueError("only the strategy that was read can be written")
        async with self._bounded("writing the strategy; whether it was written, only a new read can say"):
            now = await self._read()
            _refuse_if_changed(now, expected)
            if is_written(strategy, now.strategy):
                return now  # of a write that changes nothing, Unleash keeps no event to look back on
            stored = await self._put(strategy)
            flag = await self._read()
            await self._look_back(stored, expected)
            await self._refuse_more(flag.strategy, strategy)
        return flag

    async def kill(self, on: bool) -> None:
        async with self._bounded(f"turning {self._flag.kill_flag} {'on' if on else 'off'}"):
            strategies = await self._kill_strategies()
            if on and not any(map(names_everybody, strategies)):
                # First: turned on without any, it would get whatever the project's default is.
                path = self._path(self._flag.kill_flag, "/strategies")
                await self._api.send("POST", path, everybody(self._flag.kill_flag))
            await self._api.send("POST", self._path(self._flag.kill_flag, "/on" if on else "/off"))
            if await self._is_killed() != on:
                raise FlagAdminError(
                    f"{self._flag.kill_flag} was turned {'on' if on else 'off'}, and did not stay so"
                )

    async def _problems(self) -> AsyncIterator[str]:
        try:
            rights = (await self._api.get("/user"))["permissions"]  # beside them is the token itself
        except Refused as exc:
            if exc.status not in (401, 403):
                raise
            yield f"the token is none of the Admin API ({exc}): use an administrator's or a service account's"
            return
        for problem in problems_of_rights(rights, self._project, self._environment):
            yield problem
        for problem in [*await self._problems_of_flags(), *await self._problems_of_project()]:
            yield problem

    async def _problems_of_flags(self) -> list[str]:
        flag = await self._api.get_if_any(self._feature_path(self._flag.name))
        if flag is None:
            return [f"there is no flag {self._flag.name} in project {self._project}: make it, or revive it"]
        place = place_of(flag, self._environment)
        if place is not None:
            # Only this says to which milestone of a release plan a strategy belongs.
            place["strategies"][:] = await self._api.get(self._path(self._flag.name, "/strategies"))
        kill = await self._api.get_if_any(self._feature_path(self._flag.kill_flag))
        return [
            *problems_of_flag(flag, self._environment, self._flag),
            *problems_of_kill(kill, self._environment, self._flag),
        ]

    async def _problems_of_project(self) -> list[str]:
        base = f"/projects/{self._project}"
        overview = await self._api.get(f"{base}/overview")
        changes = await self._api.get_if_any(f"{base}/change-requests/config")
        return [
            *problems_of_project(overview, self._environment),
            *problems_of_changes(changes, self._environment),
        ]

    async def _read(self) -> Flag:
        before = await self._events.last()
        for _ in range(READ_ROUNDS):
            seen = await self._see()
            after = await self._events.last()
            if after.id == before.id:
                return flag_of(seen, self._flag, self._environment, after.id, after.by)
            before = after
        raise FlagAdminError(f"{self._api.name}: {self._flag.name} keeps changing while it is read")

    async def _see(self) -> ServerSnapshot:
        """The flag, what it depends on, the segments that they name, and the kill flag."""
        feature = await self._api.get(self._feature_path(self._flag.name))
        if place_of(feature, self._environment) is None:
            raise FlagAdminError(
                f"{self._api.name}: {self._flag.name} has no environment {self._environment}"
            )
        parents = [await self._api.get_if_any(self._feature_path(name)) for name in parents_of(feature)]
        kill = await self._api.get_if_any(self._feature_path(self._flag.kill_flag))
        served = [client_feature(each, self._environment) for each in (feature, *filter(None, parents))]
        segments = []
        if any(True for each in served for _ in segments_of(each)):
            segments = (await self._api.get("/segments"))["segments"]
        return ServerSnapshot(feature, served, segments, kill)

    async def _put(self, strategy: Strategy) -> Strategy:
        """Write the strategy; what the server says that it stored."""
        path = self._path(self._flag.name, f"/strategies/{strategy.id}")
        stored = read_strategy(await self._api.send("PUT", path, write_strategy(strategy)))
        await self._refuse_more(stored, strategy)
        return stored

    async def _refuse_more(self, found: Strategy, asked: Strategy) -> None:
        """Raises FlagAdminError, after setting the share to 0, if the server made more of what was asked."""
        if _exposes_others(found, asked):
            path = self._path(self._flag.name, f"/strategies/{asked.id}")
            await self._api.send("PUT", path, write_strategy(replace(asked, share=0)))
            raise FlagAdminError(
                f"{self._api.name}: made {found.share} % of {asked.share} %, or named other users; "
                "the share was set to 0"
            )

    async def _look_back(self, stored: Strategy, expected: Flag) -> None:
        """Raises FlagChanged if anybody else was there since `expected`."""
        since = await self._events.after(expected.event_id)
        if not since:
            raise FlagAdminError(f"{self._api.name}: shows no event of the write; read the flag again")
        # None: somebody came in between with just what we were about to write.
        ours = next((event for event in since if event.wrote(stored)), None)
        strangers = [event for event in since if event is not ours and not event.is_of_transaction(ours)]
        if not strangers:
            return
        who = ", ".join(sorted({event.by for event in strangers}))
        if ours is not None and differs(ours.before, expected.strategy):
            await self._put_back(ours.before, stored)
            raise FlagChanged(
                f"{self._flag.name} was changed by {who} in the moment it was written: theirs was put back, "
                "with the lower share",
                wrote=True,
            )
        raise FlagChanged(f"{self._flag.name} was changed by {who} while it was written", wrote=True)

    async def _put_back(self, theirs: Mapping[str, Any], ours: Strategy) -> None:
        try:
            share = min(read_strategy(theirs).share, ours.share)
        except FlagAdminError:
            share = 0  # theirs enabled nobody
        parameters = {**theirs.get("parameters", {}), "rollout": str(share)}
        body = {key: value for key, value in theirs.items() if key != "id" and value is not None}
        path = self._path(self._flag.name, f"/strategies/{ours.id}")
        await self._api.send("PUT", path, {**body, "parameters": parameters})

    async def _place(self, flag: str) -> Mapping[str, Any]:
        feature = await self._api.get(self._feature_path(flag))
        place = place_of(feature, self._environment)
        if place is None:
            raise FlagAdminError(f"{self._api.name}: {flag} has no environment {self._environment}")
        return place

    async def _kill_strategies(self) -> list[Mapping[str, Any]]:
        return list((await self._place(self._flag.kill_flag))["strategies"])

    async def _is_killed(self) -> bool:
        feature = await self._api.get_if_any(self._feature_path(self._flag.kill_flag))
        return kill_of(feature, self._environment) is Kill.ON

    def _feature_path(self, flag: str) -> str:
        return f"/projects/{self._project}/features/{flag}"

    def _path(self, flag: str, more: str) -> str:
        return f"{self._feature_path(flag)}/environments/{self._environment}{more}"

    @asynccontextmanager
    async def _bounded(self, doing: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._api.timeout_s):
                yield
        except TimeoutError:
            problem = f"{self._api.name}: no answer within {self._api.timeout_s:g} s, {doing}"
            raise FlagAdminError(problem) from None
        except (KeyError, TypeError, AttributeError, IndexError) as exc:
            raise FlagAdminError(f"{self._api.name}: an answer of another shape, {doing}") from exc


def _refuse_if_changed(now: Flag, expected: Flag) -> None:
    if (now.event_id, now.strategy.id, now.strategy.digest, now.around) != (
        expected.event_id,
        expected.strategy.id,
        expected.strategy.digest,
        expected.around,
    ):
        raise FlagChanged(f"the flag was changed by {now.event_by} since it was read; nothing was written")


def _exposes_others(found: Strategy, asked: Strategy) -> bool:
    return found.share > asked.share or (
        (found.stickiness, found.group_id, len(found.constraints), sorted(found.segments))
        != (asked.stickiness, asked.group_id, len(asked.constraints), sorted(asked.segments))
    )
