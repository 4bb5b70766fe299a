"""Runs: those in flight, and the finished ones kept for reconnects.

`Runs` owns their tasks: a run is nobody's request's child, so a viewer that leaves stops nothing.
"""

import asyncio
import logging
from asyncio.events import TimerHandle
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from proxy.errors import Fault, RequestRefused, UpstreamError
from proxy.identity import Identity
from proxy.runs.aliases import NONE_S, RunAliases
from proxy.runs.call import Call, Continuation
from proxy.runs.kept_runs import KeptRuns
from proxy.runs.run import Run
from proxy.runs.shared import SharedRuns, ViewableRun
from proxy.runs.source import Source
from proxy.runs.start import ID_TAKEN, RunSpec, check_the_same, digest_of_name
from proxy.runs.waiters import Waiters
from proxy.settings.routes import Route
from proxy.settings.settings import MemoryLogSettings
from proxy.upstream.breaker import Breaker, result_of
from proxy.upstream.client import Answer

logger = logging.getLogger("headgate.runs")

KEY_SPENT = "The request of this Idempotency-Key has been answered, and its answer is no longer kept."

PLACES_OF_OTHERS = 4
"""One in so many of a route's `max_runs` is not for a principal that has all the others."""

DURATIONS_KEPT = 50
"""Past runs of a route that an ETA is taken from."""

NO_RUN = "-"
"""What the id of a request that is relayed stands for in the store; no run has such an id."""

NAMED_S = 7200.0
"""How long the store knows a run by another id: longer than most runs last and are kept."""

ATTACH_LOOK_S = 0.25
"""Between two looks whether another replica has begun an awaited run."""


class ViewRequest(Protocol):
    """Who watches a run, and in what form."""

    run: ViewableRun

    @property
    def lag_events(self) -> int:
        """Events of the run that it has not been sent."""
        ...

    def say_goodbye(self) -> None:
        """Go, and come back to another replica."""
        ...

    def hand_over(self, copy: ViewableRun | None) -> None:
        """The run is another replica's now: `copy` is of that one; None if it cannot be read here."""
        ...


class Runs:
    """All runs of this process, and through `shared` those of the other replicas."""

    def __init__(
        self, bounds: MemoryLogSettings, shared: SharedRuns | None = None, breaker: Breaker | None = None
    ) -> None:
        self._breaker = breaker
        self._shared = shared
        self._live: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._kept = KeptRuns(bounds)
        self._durations: dict[str, deque[float]] = {}
        # Indices, so that no request looks through all runs.
        self._joinable: dict[str, Run] = {}
        self._by_target: dict[tuple[str, str, bytes], list[Run]] = {}
        self._live_on: Counter[str] = Counter()
        """Those that are about to begin included."""
        self._live_of: Counter[tuple[str | None, str]] = Counter()
        # Those who watch, and those who wait for a run to watch.
        self._viewers: set[ViewRequest] = set()
        self._watchers: Counter[str] = Counter()
        self._grace: dict[str, TimerHandle] = {}
        self._arrivals = Waiters()
        self._names = RunAliases()
        self._partings: set[asyncio.Task[None]] = set()
        """Tasks that see a run off that another replica has taken over, or tell the others of a name."""
        self.draining = False
        self.is_handing_over = False
        """Others serve here now: what clients begin that are still here does begin, and nothing else."""

    # What there is.

    def live_routes(self) -> list[str]:
        """The route of each run in flight."""
        return [run.route.name for run in self._live.values()]

    @property
    def kept(self) -> int:
        """Finished runs that can still be replayed."""
        return len(self._kept)

    @property
    def lag_events(self) -> int:
        """How far the slowest viewer is behind its run."""
        return max((viewer.lag_events for viewer in self._viewers), default=0)

    def find(self, run_id: str, identity: Identity | None) -> Run | None:
        """A run of this process by its id, for its owner; for anybody else there is none."""
        self.evict()
        if identity is None:
            return None
        run = self._known(run_id)
        if run is None or not _owns(identity, run):
            own_id = self._names.run_of(identity.principal, run_id)
            run = None if own_id is None else self._known(own_id)
        return run if run is not None and _owns(identity, run) else None

    async def look_up(self, run_id: str, identity: Identity | None) -> ViewableRun | None:
        """A run of any replica by its id, for its owner. Nobody in particular owns none."""
        if identity is None:
            return None
        run: ViewableRun | None = self.find(run_id, identity)
        if run is None and self._shared is not None and self._known(run_id) is None:
            run = await self._shared.find(run_id)
            if run is None or not _owns(identity, run):
                run = await self._named_elsewhere(run_id, identity, self._shared)
        return run if run is not None and _owns(identity, run) else None

    async def _named_elsewhere(self, name: str, identity: Identity, shared: SharedRuns) -> ViewableRun | None:
        own_id = await shared.joinable([digest_of_name(identity.principal, name)])
        if own_id is None or own_id == NO_RUN:
            return None
        return self.find(own_id, identity) or await shared.find(own_id)

    async def name(self, run: ViewableRun, name: str, identity: Identity) -> None:
        """Let a run go by the id, too, that a request which joined it had chosen for its own."""
        if name == run.id:
            return
        if self._known(run.id) is run:
            self._names.give(identity.principal, name, run.id)
        if self._shared is not None:
            await self._shared.name(digest_of_name(identity.principal, name), run.id, NAMED_S)
        self._arrivals.announce(name)

    def call_off(self, name: str, identity: Identity) -> None:
        """No run begins under the id that a request names, since it is relayed: tell who waits for it."""
        principal = identity.principal
        self._names.give_to_none(principal, name, asyncio.get_running_loop().time())
        self._arrivals.call_off(name, principal)
        if self._shared is not None:
            # Not awaited: a request that is relayed waits for no store.
            telling = self._shared.name(digest_of_name(principal, name), NO_RUN, NONE_S)
            task = asyncio.get_running_loop().create_task(telling)
            self._partings.add(task)
            task.add_done_callback(self._partings.discard)

    async def _is_called_off(self, name: str, identity: Identity) -> bool:
        principal = identity.principal
        if self._names.is_of_none(principal, name, asyncio.get_running_loop().time()):
            return True
        if self._shared is None:
            return False
        return await self._shared.joinable([digest_of_name(principal, name)]) == NO_RUN

    async def attach(self, run_id: str, identity: Identity | None, wait_s: float) -> ViewableRun | None:
        """The same for a run that may begin within `wait_s`: a page may ask for the events first."""
        if identity is None:
            return None  # that it may be there is told by no wait
        run = await self.look_up(run_id, identity)
        # Another's run is waited for as well: an answer that comes sooner would tell that it exists.
        if run is not None or not self._arrivals.has_room(identity.principal):
            return run
        loop = asyncio.get_running_loop()
        due = loop.time() + wait_s
        with self._arrivals.awaited(run_id, identity.principal) as arrived:
            while run is None and (left_s := due - loop.time()) > 0:
                if await self._is_called_off(run_id, identity):
                    return None
                # Another replica does not say when a run begins there, so it is asked. One that has begun
                # here and is somebody else's changes nothing.
                look_s = ATTACH_LOOK_S if self._shared is not None or arrived.done() else left_s
                if arrived.done():
                    await asyncio.sleep(min(left_s, look_s))
                else:
                    await asyncio.wait({arrived}, timeout=min(left_s, look_s))
                run = await self.look_up(run_id, identity)
        return run

    def live_one(self, call: Call, identity: Identity) -> Run | None:
        """The run in flight of the same principal, route and target, if there is one."""
        there = self._by_target.get((identity.principal, call.route.name, call.request.target), ())
        return next((run for run in reversed(there) if not run.ended), None)

    def may_join(self, route: str, identity: Identity) -> bool:
        """Whether it is worth to compare a request with the runs in flight; says yes too often."""
        return self._shared is not None or (identity.principal, route) in self._live_of

    async def knows(self, run_id: str | None, key: str | None, identity: Identity | None) -> bool:
        """Whether a request that names a run, by its id or by an idempotency key's digest, comes to one."""
        if run_id is not None and await self.look_up(run_id, identity) is not None:
            return True
        if key is None:
            return False
        if (run := self._joinable.get(key)) is not None:
            return run.failure is None
        if self._kept.is_spent(key, asyncio.get_running_loop().time()):
            return True  # it is told so, and asks the upstream nothing
        return self._shared is not None and await self._shared.joinable([key]) is not None

    async def joinable(self, start: RunSpec) -> ViewableRun | None:
        """The run that a request names, or may join, if there is one."""
        if (
            start.run_id is not None
            and (named := await self.look_up(start.run_id, start.identity)) is not None
        ):
            check_the_same(start, named, is_named=True)
            return named
        keys = start.join_keys()
        run: ViewableRun | None = self._local(keys)
        if run is None and self._shared is not None and keys:
            other = await self._shared.joinable(keys)
            run = await self.look_up(other, start.identity) if other is not None else None
        if run is not None:
            check_the_same(start, run)
        return run

    # Beginning, watching and ending.

    async def start(self, start: RunSpec) -> ViewableRun:
        """Begin a run, or join the one that is the same.

        Raises:
            RequestRefused: 409, the id is another run's; 422, the idempotency key is another request's.
        """
        keys = start.join_keys()
        run = self._joined(start, keys)
        if run is not None:
            return run
        route, principal = start.call.route.name, None if start.identity is None else start.identity.principal
        self._take_place(route, principal)  # before the store is asked, or any number could begin meanwhile
        is_launched = False
        try:
            found, made = await self._claimed(start, keys)
            if found is None:
                self._launch(made, keys, start.source)
                is_launched = True
            return found or made
        finally:
            if not is_launched:
                self._leave_place(route, principal)

    async def _claimed(self, start: RunSpec, keys: Sequence[str]) -> tuple[ViewableRun | None, Run]:
        """The run that was first, if there is one; else one that may begin."""
        made = self._made(start)
        if self._shared is not None:
            other = await self._shared.claim(made, keys)
            found = await self.look_up(other, start.identity) if other is not None else None
            if found is not None:
                check_the_same(start, found)
                return found, made
            if other is not None and other == start.run_id:
                raise RequestRefused(409, ID_TAKEN)
            if other is not None:
                raise RequestRefused(503, "The run that this request joins cannot be read. Please try again.")
        # It took a moment: with the store down, another request of this process may have been first.
        found_here = self._joined(start, keys)
        now = asyncio.get_running_loop().time()
        if found_here is None and any(self._kept.is_spent(key, now) for key in keys[1:]):
            raise RequestRefused(409, KEY_SPENT)
        return found_here, made

    def has_room(self, route: Route) -> bool:
        """Whether another run of a route may begin here."""
        return not self.draining and self._live_on[route.name] < route.settings.max_runs

    def has_share(self, route: Route, identity: Identity | None) -> bool:
        """Whether one of this principal may. It leaves some places to the others; all that are nobody in
        particular count as one.
        """
        principal, most = None if identity is None else identity.principal, route.settings.max_runs
        return self._live_of[principal, route.name] < most - most // PLACES_OF_OTHERS

    def take_over(self, start: RunSpec, beginning: Continuation) -> Run:
        """Go on with a run that another replica began. Its keys are in the store: who joins it asks there."""
        run = self._made(start)
        run.take_up(beginning)
        self._take_place(run.route.name, run.principal)
        self._launch(run, (), start.source)
        return run

    def part_with(self, run: Run) -> None:
        """Another replica has taken a run over, while this process was held up: end it here, untold.

        What is said here from now on is not what the others are told, so its viewers are sent there.
        """
        run.leave()
        task = asyncio.get_running_loop().create_task(self._part_with(run))
        self._partings.add(task)
        task.add_done_callback(self._partings.discard)

    async def _part_with(self, run: Run) -> None:
        task = self._tasks.get(run.id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        copy = await self._shared.find(run.id) if self._shared is not None else None
        for viewer in list(self._viewers):
            if viewer.run.id == run.id and viewer.run is not copy:
                viewer.hand_over(copy)

    @contextmanager
    def watching(self, viewer: ViewRequest) -> Iterator[None]:
        """Count a viewer while it is there; a run that nobody watches follows its route's policy."""
        run = viewer.run
        self._viewers.add(viewer)
        self._watchers[run.id] += 1
        timer = self._grace.pop(run.id, None)
        if timer is not None:
            timer.cancel()
        try:
            yield
        finally:
            self._viewers.discard(viewer)
            self._watchers[run.id] -= 1
            if not self._watchers[run.id]:
                del self._watchers[run.id]
                self._unwatched(run.id)

    async def cancel(self, run: ViewableRun) -> None:
        """End a run, here or elsewhere; one that has ended stays as it is."""
        here = run.id in self._live
        if here:
            self.cancel_here(run.id)
        # Also here, lest somebody takes it over if this process dies before its end is stored.
        if self._shared is not None and (not run.log.ended or (here and run.route.settings.replay == "safe")):
            await self._shared.cancel(run.id)

    def cancel_here(self, run_id: str) -> None:
        """End a run of this process for its viewers, and close its upstream connection."""
        run = self._live.get(run_id)
        if run is not None:
            run.cancel()
            self._tasks[run_id].cancel()

    def say_goodbye(self) -> None:
        """Send the viewers to another replica, where their runs can be read: this process ends."""
        if self._shared is not None:
            for viewer in self._viewers:
                viewer.say_goodbye()

    def end_all(self) -> None:
        """Leave every run in flight to another replica, if one can go on with it; else end it, truthfully."""
        for run in list(self._live.values()):
            if self._shared is not None and self._shared.can_be_left(run.id):
                logger.info("run left to another replica", extra={"run": run.id})
                run.leave()
                self._tasks[run.id].cancel()
                for viewer in list(self._viewers):
                    if viewer.run is run:
                        viewer.hand_over(None)
            else:
                run.shut_down()

    async def settled(self, timeout_s: float) -> None:
        """Wait until no run is in flight, watched or not: the upstream's work has effects."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_s)

    async def aclose(self) -> None:
        """End what still runs, and close its upstream connections."""
        self.end_all()
        for timer in self._grace.values():
            timer.cancel()
        tasks = [*self._tasks.values(), *self._partings]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def evict(self) -> None:
        """Let go of finished runs, until their number, bytes and age are within their bounds."""
        for run, keys in self._kept.evict(asyncio.get_running_loop().time()):
            self._forget(run, keys)
            self._names.forget(run.id)

    # Inside.

    def _made(self, start: RunSpec) -> Run:
        return Run(
            start.call,
            start.decision,
            start.identity,
            start.metrics,
            self._durations.setdefault(start.call.route.name, deque(maxlen=DURATIONS_KEPT)),
            run_id=start.run_id,
            fingerprint=start.fingerprint,
        )

    def _known(self, run_id: str) -> Run | None:
        run = self._live.get(run_id)
        if run is None:
            run = self._kept.get(run_id)
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
            if named is None and self._known(start.run_id) is not None:
                raise RequestRefused(409, ID_TAKEN)
        run = named or self._local(keys)
        if run is not None:
            check_the_same(start, run, is_named=named is not None)
        return run

    def _take_place(self, route: str, principal: str | None) -> None:
        self._live_on[route] += 1
        self._live_of[principal, route] += 1

    def _leave_place(self, route: str, principal: str | None) -> None:
        self._live_on[route] -= 1
        _decrease(self._live_of, (principal, route))

    def _launch(self, run: Run, keys: Sequence[str], source: Source) -> None:
        self._live[run.id] = run
        self._joinable.update(dict.fromkeys(keys, run))
        if run.principal is not None:
            self._by_target.setdefault((run.principal, run.route.name, run.target), []).append(run)
        run.begun()
        task = asyncio.get_running_loop().create_task(self._execute(run, source))
        self._tasks[run.id] = task
        task.add_done_callback(lambda _: self._finish(run, keys))
        self._arrivals.announce(run.id)

    async def _execute(self, run: Run, source: Source) -> None:
        """From the first byte to the upstream to the terminal event. A run always gets one."""
        try:
            got = await _answer_or_failure(run, source)
            run.is_watched = self._is_watched(run.id)
            if self._shared is not None and not await self._shared.keeps(run.id):
                run.leave()  # its end is for another replica to tell
            elif isinstance(got, UpstreamError):
                logger.warning("upstream failed", extra={"run": run.id, "fault": got.fault, "why": str(got)})
                run.fail(got)
            else:
                await run.settle(got)
        except asyncio.CancelledError:
            run.shut_down()
        except Exception:  # the viewers must not wait for ever because of a mistake of ours
            logger.exception("run failed", extra={"run": run.id})
            run.fail(UpstreamError("a mistake of ours", Fault.INTERNAL))

    def _finish(self, run: Run, keys: Sequence[str]) -> None:
        del self._tasks[run.id]
        del self._live[run.id]
        if run.body_reservation is not None:
            run.body_reservation.close()
        self._leave_place(run.route.name, run.principal)
        if run.principal is not None:
            place = (run.principal, run.route.name, run.target)
            self._by_target[place].remove(run)
            if not self._by_target[place]:
                del self._by_target[place]
        timer = self._grace.pop(run.id, None)
        if timer is not None:
            timer.cancel()
        if run.is_elsewhere:
            self._forget(run, keys)
            self._names.forget(run.id)
            return
        self._tell_breaker(run)
        # The same asked again is another run. An idempotency key stays, unless the run has failed: who
        # repeats that wants it done, and not to be told again.
        staying = keys[1:] if run.failure is None else ()
        self._forget(run, [key for key in keys if key not in staying])
        run.forget_the_client()
        self._kept.put(run, staying, asyncio.get_running_loop().time())
        self.evict()

    def _tell_breaker(self, run: Run) -> None:
        failure = run.failure
        well = result_of(failure.code if failure else None, failure.status if failure else 200)
        if self._breaker is not None and well is not None:
            self._breaker.record(well, monotonic(), run.principal)

    def _forget(self, run: Run, keys: Sequence[str]) -> None:
        for key in keys:
            if self._joinable.get(key) is run:
                del self._joinable[key]

    def _is_watched(self, run_id: str) -> bool:
        return run_id in self._watchers or (self._shared is not None and self._shared.is_watched(run_id))

    def _unwatched(self, run_id: str) -> None:
        run = self._live.get(run_id)
        if run is not None and run.route.settings.unwatched == "cancel":
            grace_s = run.route.settings.grace_s
            self._grace[run_id] = asyncio.get_running_loop().call_later(grace_s, self._grace_is_over, run_id)

    def _grace_is_over(self, run_id: str) -> None:
        del self._grace[run_id]
        if self._shared is not None and self._shared.is_watched(run_id):
            self._unwatched(run_id)
        else:
            self.cancel_here(run_id)


def _owns(identity: Identity | None, run: ViewableRun) -> bool:
    """All that are nobody in particular would share their runs, so they own none."""
    return identity is not None and run.principal == identity.principal


def _decrease(counts: Counter[Any], key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


async def _answer_or_failure(run: Run, source: Source) -> Answer | UpstreamError:
    try:
        return await source.answer(run)
    except UpstreamError as error:
        return error.bare()
