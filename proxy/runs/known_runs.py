"""The runs that can be found: in flight, kept, or at another replica; by id, alias or join key.

Nothing begins or ends a run here: `runs.py` does.
"""

import asyncio
from collections.abc import Sequence

from proxy.errors import RequestRefused, StoreDown
from proxy.identity import Identity
from proxy.runs.aliases import NONE_S, RunAliases
from proxy.runs.call import Call
from proxy.runs.capacity import AnswerBudget, Capacity
from proxy.runs.kept_runs import KeptRuns
from proxy.runs.run import Run
from proxy.runs.shared import LiveRun, SharedRuns, SharedStore, ViewableRun
from proxy.runs.start import ID_TAKEN, RunSpec, check_the_same, digest_of_name
from proxy.runs.waiters import Waiters
from proxy.settings.settings import MemoryLogSettings

NO_RUN = "-"
"""The store's value for the id of a request that is relayed; no run has such an id."""

NAMED_S = 7200.0
"""Seconds that the store knows a run by another id: longer than most runs last and are kept."""

ATTACH_LOOK_S = 0.25
"""Between two looks whether another replica has begun an awaited run."""

RunPlace = tuple[SharedRuns | None, str]
"""The shard whose ids a run has one of, None without a store, and the run's id. Clients choose ids, and two
shards may have the same one, for two principals."""


class KnownRuns:
    """The runs of this process, and through `shared` those of the other replicas."""

    def __init__(
        self, bounds: MemoryLogSettings, shared: SharedStore | None, answers: AnswerBudget | None
    ) -> None:
        self._shared = shared
        self._live: dict[RunPlace, Run] = {}
        self._live_of: dict[str, dict[str, Run]] = {}
        """The same by principal, the oldest first."""
        self._kept = KeptRuns(bounds)
        self._capacity = Capacity(answers or AnswerBudget())
        # Indices, so that no request looks through all runs.
        self._joinable: dict[str, Run] = {}
        self._by_target: dict[tuple[str, str, bytes], list[Run]] = {}
        self._waiters = Waiters()
        self._aliases = RunAliases()
        self._background: set[asyncio.Task[None]] = set()
        """Tasks that nobody awaits: they tell the other replicas of an alias, or part with a run."""

    @property
    def kept(self) -> int:
        """Finished runs that can still be replayed."""
        return len(self._kept)

    def find(self, run_id: str, identity: Identity | None) -> Run | None:
        """A run of this process by its id, for its owner; None for everybody else."""
        self.evict()
        if identity is None:
            return None
        run = self._known(run_id, identity.principal)
        if run is None or not _owns(identity, run):
            own_id = self._aliases.run_of(identity.principal, run_id)
            run = None if own_id is None else self._known(own_id, identity.principal)
        return run if run is not None and _owns(identity, run) else None

    async def live_of(self, identity: Identity | None) -> list[LiveRun]:
        """The runs in flight that belong to this identity, the oldest first: all of this process, and the
        newest of the other replicas. A client without a principal owns none."""
        if identity is None:
            return []
        now = asyncio.get_running_loop().time()
        found = [
            LiveRun(run.id, run.route.name, now - run.started_at)
            for run in self._live_of.get(identity.principal, {}).values()
            if not (run.ended or run.is_elsewhere)
        ]
        if self._shared is not None:
            there = await self._shared.of(identity.principal).live(identity.principal)
            # Of a run of its own this process knows more. Another one's may have the same id.
            found += [run for run in there if not _owns(identity, self._known(run.id, identity.principal))]
        return sorted(found, key=lambda run: -run.age_s)

    async def look_up(self, run_id: str, identity: Identity | None) -> ViewableRun | None:
        """A run of any replica by its id, for its owner. A client without a principal owns no run.

        Raises:
            StoreDown: another replica may have such a run.
        """
        if identity is None:
            return None
        run: ViewableRun | None = self.find(run_id, identity)
        if run is None and self._shared is not None:
            there = self._shared.of(identity.principal)
            if self._known(run_id, identity.principal) is None:
                run = await there.find(run_id)
            # The store is asked about another's run of this process as well: when it is down, both are told
            # the same.
            if run is None or not _owns(identity, run):
                run = await self._named_elsewhere(run_id, identity, there)
        return run if run is not None and _owns(identity, run) else None

    async def look_up_if_certain(self, run_id: str, identity: Identity | None) -> ViewableRun | None:
        """The same for a request that can go on without the store: what may be there is not found."""
        try:
            return await self.look_up(run_id, identity)
        except StoreDown:
            return None

    async def _named_elsewhere(self, name: str, identity: Identity, there: SharedRuns) -> ViewableRun | None:
        own_id = await there.joinable([digest_of_name(identity.principal, name)])
        if own_id is None or own_id == NO_RUN:
            return None
        return self.find(own_id, identity) or await there.find(own_id)

    async def name(self, run: ViewableRun, name: str, identity: Identity) -> None:
        """Let a run go by the id, too, that a request which joined it had chosen for its own."""
        if name == run.id:
            return
        if self._known(run.id, run.principal) is run:
            self._aliases.give(identity.principal, name, run.id)
        if self._shared is not None:
            there = self._shared.of(identity.principal)
            await there.name(digest_of_name(identity.principal, name), run.id, NAMED_S)
        self._waiters.announce(name, identity.principal)

    def call_off(self, name: str, identity: Identity) -> None:
        """No run begins under the id that a request names, since it is relayed: tell its waiters."""
        principal = identity.principal
        self._aliases.give_to_none(principal, name, asyncio.get_running_loop().time())
        self._waiters.call_off(name, principal)
        if self._shared is not None:
            # Not awaited: a request that is relayed waits for no store.
            telling = self._shared.of(principal).name(digest_of_name(principal, name), NO_RUN, NONE_S)
            task = asyncio.get_running_loop().create_task(telling)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _is_called_off(self, name: str, identity: Identity) -> bool:
        principal = identity.principal
        if self._aliases.is_of_none(principal, name, asyncio.get_running_loop().time()):
            return True
        return await self._joinable_elsewhere([digest_of_name(principal, name)], identity) == NO_RUN

    async def attach(self, run_id: str, identity: Identity | None, wait_s: float) -> ViewableRun | None:
        """A run of any replica, also one that begins within `wait_s`: a page may ask for the events first.

        Raises:
            StoreDown: at the last look, another replica may have had such a run.
        """
        if identity is None:
            return None  # nobody in particular owns no run: there is none to wait for
        run = await self.look_up_if_certain(run_id, identity)
        # Another's run is waited for as well: an answer that comes sooner would tell that it exists.
        if run is not None or not self._waiters.has_room(identity.principal):
            return run or await self.look_up(run_id, identity)
        loop = asyncio.get_running_loop()
        due = loop.time() + wait_s
        with self._waiters.awaited(run_id, identity.principal) as arrived:
            while run is None and (left_s := due - loop.time()) > 0:
                if await self._is_called_off(run_id, identity):
                    return None
                # Another replica does not say when a run begins there, so it is asked.
                look_s = ATTACH_LOOK_S if self._shared is not None or arrived.done() else left_s
                if arrived.done():
                    await asyncio.sleep(min(left_s, look_s))
                else:
                    await asyncio.wait({arrived}, timeout=min(left_s, look_s))
                run = await self.look_up_if_certain(run_id, identity)
        return run or await self.look_up(run_id, identity)

    def live_one(self, call: Call, identity: Identity) -> Run | None:
        """The run in flight of the same principal, route and target, if there is one."""
        there = self._by_target.get((identity.principal, call.route.name, call.request.target), ())
        return next((run for run in reversed(there) if not run.ended), None)

    def may_join(self, route: str, identity: Identity) -> bool:
        """True if a request is worth comparing with the runs in flight. True may be wrong, False never is."""
        return self._shared is not None or self._capacity.is_used_by(identity.principal, route)

    async def knows(self, run_id: str | None, key: str | None, identity: Identity | None) -> bool:
        """True if a request that names a run, by its id or by an idempotency key's digest, comes to one."""
        if run_id is not None and await self.look_up_if_certain(run_id, identity) is not None:
            return True
        if key is None:
            return False
        if (run := self._joinable.get(key)) is not None:
            return run.failure is None
        if self._kept.is_spent(key, asyncio.get_running_loop().time()):
            return True  # it is told so, and asks the upstream nothing
        return await self._joinable_elsewhere([key], identity) is not None

    async def joinable(self, start: RunSpec) -> ViewableRun | None:
        """The run that a request names, or may join, if there is one."""
        if (
            start.run_id is not None
            and (named := await self.look_up_if_certain(start.run_id, start.identity)) is not None
        ):
            check_the_same(start, named, is_named=True)
            return named
        keys = start.join_keys()
        run: ViewableRun | None = self._local(keys)
        if run is None and keys:
            other = await self._joinable_elsewhere(keys, start.identity)
            run = await self.look_up_if_certain(other, start.identity) if other is not None else None
        if run is not None:
            check_the_same(start, run)
        return run

    async def _joinable_elsewhere(self, keys: Sequence[str], identity: Identity | None) -> str | None:
        """The id of a run that one of the keys is claimed for; None if the store does not say."""
        if self._shared is None:
            return None
        try:
            principal = None if identity is None else identity.principal
            return await self._shared.of(principal).joinable(keys)
        except StoreDown:
            return None

    def evict(self) -> None:
        """Let go of finished runs, until their number, bytes and age are within their bounds."""
        for run, keys in self._kept.evict(asyncio.get_running_loop().time()):
            self._forget(run, keys)
            self._aliases.forget(run.principal, run.id)

    def _place(self, run_id: str, principal: str | None) -> RunPlace:
        return None if self._shared is None else self._shared.of(principal), run_id

    def _known(self, run_id: str, principal: str | None) -> Run | None:
        """The run that has an id where a principal's runs are; it may be another principal's."""
        place = self._place(run_id, principal)
        run = self._live.get(place)
        if run is None:
            run = self._kept.get(place)
        return None if run is not None and run.is_elsewhere else run

    def _local(self, keys: Sequence[str]) -> Run | None:
        self.evict()
        for index, key in enumerate(keys):
            run = self._joinable.get(key)
            # One may have ended whose task is not put away yet.
            over = run is not None and run.ended and (index == 0 or run.failure is not None)
            if run is not None and not (over or run.is_elsewhere):
                return run
        return None

    def _joined(self, start: RunSpec, keys: Sequence[str]) -> Run | None:
        """The run of this process with the request's id or one of its keys."""
        named = None
        if start.run_id is not None:
            named = self.find(start.run_id, start.identity)
            if named is None and self._known(start.run_id, start.principal) is not None:
                raise RequestRefused(409, ID_TAKEN)
        run = named or self._local(keys)
        if run is not None:
            check_the_same(start, run, is_named=named is not None)
        return run

    def _forget(self, run: Run, keys: Sequence[str]) -> None:
        for key in keys:
            if self._joinable.get(key) is run:
                del self._joinable[key]


def _owns(identity: Identity | None, run: ViewableRun | None) -> bool:
    """All that are nobody in particular would share their runs, so they own none."""
    return identity is not None and run is not None and run.principal == identity.principal
