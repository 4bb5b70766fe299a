"""Runs in flight: how they begin, are watched and end. How one is found is `known_runs.py`'s.

`Runs` owns their tasks: a run is nobody's request's child, so a viewer that leaves stops nothing.
"""

import asyncio
import logging
from asyncio.events import TimerHandle
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from time import monotonic
from typing import Protocol

from proxy.errors import Fault, RequestRefused, StoreDown, UpstreamError
from proxy.identity import Identity
from proxy.runs.call import JOB, Continuation
from proxy.runs.capacity import AnswerBudget
from proxy.runs.known_runs import KnownRuns
from proxy.runs.run import Run
from proxy.runs.shared import SharedStore, ViewableRun
from proxy.runs.start import ID_TAKEN, RunSpec, Source, check_the_same
from proxy.settings.routes import Route
from proxy.settings.settings import MemoryLogSettings
from proxy.text.crowds import Crowd, with_one, without
from proxy.upstream.breaker import Breaker, result_of
from proxy.upstream.client import Answer

logger = logging.getLogger("headgate.runs")

KEY_SPENT = "The request of this Idempotency-Key has been answered, and its answer is no longer kept."

WatchedRun = tuple[str | None, str]
"""A run's principal and its id: viewers of one see it here and at other replicas, and no other one's."""

DURATIONS_KEPT = 50
"""Past runs of a route that an ETA is taken from."""


class ViewRequest(Protocol):
    """One client that watches a run, in any form."""

    run: ViewableRun

    @property
    def lag_events(self) -> int:
        """Events of the run that it has not been sent."""
        ...

    def say_goodbye(self) -> None:
        """Go, and come back to another replica."""
        ...

    def move_to(self, copy: ViewableRun | None) -> None:
        """Another replica executes the run now. `copy` is its run as seen here; None: it cannot be seen."""
        ...


class Runs(KnownRuns):
    """All runs of this process: they begin, are watched, and end here."""

    def __init__(
        self,
        bounds: MemoryLogSettings,
        shared: SharedStore | None = None,
        breaker: Breaker | None = None,
        answers: AnswerBudget | None = None,
    ) -> None:
        super().__init__(bounds, shared, answers)
        self._breaker = breaker
        self._tasks: dict[Run, asyncio.Task[None]] = {}
        self._durations: dict[str, deque[float]] = {}
        self._viewers: dict[WatchedRun, Crowd[ViewRequest]] = {}
        """The viewers of each run that has any."""
        self._grace: dict[WatchedRun, TimerHandle] = {}
        self.draining = False
        self.is_handing_over = False
        """Other processes accept connections now. Requests of clients that are still here are served;
        no run is taken over."""

    def live_routes(self) -> list[str]:
        """The route of each run in flight."""
        return [run.route.name for run in self._live.values()]

    @property
    def lag_events(self) -> int:
        """The number of events that the slowest viewer is behind its run."""
        return max((viewer.lag_events for viewer in self._all_viewers()), default=0)

    async def start(self, start: RunSpec) -> ViewableRun:
        """Begin a run, or join the one that is the same.

        Raises:
            RequestRefused: 409, the id is another run's; 422, the idempotency key is another request's.
        """
        keys = start.join_keys()
        run = self._joined(start, keys)
        if run is not None:
            return run
        route, principal = start.call.route.name, start.principal
        # Before the store is asked, or any number could begin meanwhile.
        self._capacity.take(route, principal)
        is_launched = False
        try:
            found, made = await self._claimed(start, keys)
            if found is None:
                self._launch(made, keys, start.source)
                is_launched = True
            return found or made
        finally:
            if not is_launched:
                self._capacity.give_back(route, principal)

    async def _claimed(self, start: RunSpec, keys: Sequence[str]) -> tuple[ViewableRun | None, Run]:
        """The run that was first, if there is one; else one that may begin."""
        made = self._made(start)
        if self._shared is not None:
            other = await self._shared.of(made.principal).claim(made, keys)
            found = await self.look_up_if_certain(other, start.identity) if other is not None else None
            if found is not None:
                check_the_same(start, found)
                return found, made
            if other is not None and other == start.run_id:
                raise RequestRefused(409, ID_TAKEN)
            if other is not None:
                raise RequestRefused(503, "The run that this request joins cannot be read. Please try again.")
        # It took a moment: with the store down, another request of this process may have been first.
        found_here = self._joined(start, keys)
        place = self._place(made.id, made.principal)
        if found_here is None and place in self._live:  # one that has just gone to another replica
            raise RequestRefused(503, "The run of this id has moved. Please try again.")
        now = asyncio.get_running_loop().time()
        if found_here is None and any(self._kept.is_spent(key, now) for key in keys[1:]):
            raise RequestRefused(409, KEY_SPENT)
        return found_here, made

    def has_room(self, route: Route, principal: str | None) -> bool:
        """True if the room that all principals share has a place for another run of a route."""
        return not self.draining and self._capacity.has_room(route, principal)

    def has_id(self, run_id: str, principal: str | None) -> bool:
        """True if this process has a run with an id, whosever, in the shard of a principal: another one of
        this shard with this id is not taken."""
        return self._place(run_id, principal) in self._live or self._known(run_id, principal) is not None

    def has_share(self, route: Route, identity: Identity | None) -> bool:
        """True if another run of this principal may begin. All anonymous clients count as one principal."""
        return self._capacity.has_share(route, None if identity is None else identity.principal)

    def take_over(self, start: RunSpec, continuation: Continuation) -> Run:
        """Go on with a run that another replica began. Requests that join it find its keys in the store.

        Raises:
            ValueError: this process has another run of this id and shard; it may have begun after `has_id`
                was asked.
        """
        if start.run_id is not None and self.has_id(start.run_id, start.principal):
            raise ValueError("another run of this process has this id")
        run = self._made(start)
        run.continue_from(continuation)
        self._capacity.take(run.route.name, run.principal)
        self._launch(run, (), start.source)
        return run

    def part_with(self, run: Run) -> None:
        """Another replica has taken a run over, while this process was held up: end it here, untold.

        Its events here are not those of the other replica from now on, so its viewers are sent there.
        """
        run.leave()
        place = self._place(run.id, run.principal)
        if self._kept.get(place) is run:  # it is not found any more, and another one may get its id
            self._forget(run, self._kept.drop(place))
            self._aliases.forget(run.principal, run.id)
        task = asyncio.get_running_loop().create_task(self._part_with(run))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _part_with(self, run: Run) -> None:
        task = self._tasks.get(run)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        copy: ViewableRun | None = None
        if self._shared is not None:
            with suppress(StoreDown):  # viewers come back, and find it then
                copy = await self._shared.of(run.principal).find(run.id)
        if copy is not None and copy.principal != run.principal:
            copy = None  # the store has lost its memory, and another one's run has got the id
        for viewer in list(self._viewers.get(_watched(run), ())):
            if viewer.run is not copy:
                viewer.move_to(copy)

    def watching(self, viewer: ViewRequest) -> "_Watching":
        """Count a viewer within a `with` block; a run that nobody watches follows its route's policy."""
        return _Watching(self, viewer)

    def add_viewer(self, run: WatchedRun, viewer: ViewRequest) -> None:
        """A run has one viewer more."""
        self._viewers[run] = with_one(self._viewers.get(run, ()), viewer)
        timer = self._grace.pop(run, None)
        if timer is not None:
            timer.cancel()

    def drop_viewer(self, run: WatchedRun, viewer: ViewRequest) -> None:
        """One of a run's viewers is gone."""
        viewers = self._viewers[run] = without(self._viewers[run], viewer)
        if not viewers:
            del self._viewers[run]
            self._unwatched(run)

    async def cancel(self, run: ViewableRun) -> None:
        """End a run, here or elsewhere; one that has ended stays as it is."""
        live = self._live_one(_watched(run))
        if live is not None:
            self.cancel_here(live)
        # Also here, lest somebody takes it over if this process dies before its end is stored.
        if self._shared is not None and (not run.log.ended or (live is not None and _may_be_taken_over(run))):
            await self._shared.of(run.principal).cancel(run)

    def cancel_here(self, run: Run) -> None:
        """End a run of this process for its viewers, and close its upstream connection."""
        task = self._tasks.get(run)
        if task is not None:
            run.cancel()
            task.cancel()

    def say_goodbye(self) -> None:
        """Send the viewers to another replica, where their runs can be read: this process ends."""
        if self._shared is not None:
            for viewer in self._all_viewers():
                viewer.say_goodbye()

    def end_all(self) -> None:
        """Leave every run in flight to another replica, if one can go on with it; else end it, truthfully."""
        for run in list(self._live.values()):
            if self._shared is not None and self._shared.of(run.principal).can_be_left(run.id):
                logger.info("run left to another replica", extra={"run": run.id})
                run.leave()
                self._tasks[run].cancel()
                for viewer in list(self._viewers.get(_watched(run), ())):
                    if viewer.run is run:
                        viewer.move_to(None)
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
        tasks = [*self._tasks.values(), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _all_viewers(self) -> Iterator[ViewRequest]:
        return chain.from_iterable(self._viewers.values())

    def _made(self, start: RunSpec) -> Run:
        run = Run(
            start.call,
            start.decision,
            start.identity,
            start.metrics,
            self._durations.setdefault(start.call.route.name, deque(maxlen=DURATIONS_KEPT)),
            run_id=start.run_id,
            fingerprint=start.fingerprint,
        )
        run.shown.answer_share = self._capacity.answers.share(run.principal)
        return run

    def _launch(self, run: Run, keys: Sequence[str], source: Source) -> None:
        self._live[self._place(run.id, run.principal)] = run
        self._joinable.update(dict.fromkeys(keys, run))
        if run.principal is not None:
            self._live_of.setdefault(run.principal, {})[run.id] = run
            self._by_target.setdefault((run.principal, run.route.name, run.target), []).append(run)
        run.begun()
        task = asyncio.get_running_loop().create_task(self._execute(run, source))
        self._tasks[run] = task
        task.add_done_callback(partial(self._finish, run, keys))
        if run.principal is not None:
            self._waiters.announce(run.id, run.principal)

    async def _execute(self, run: Run, source: Source) -> None:
        """Execute a run, from the first byte to the upstream to the terminal event. Every run gets one."""
        try:
            got: Answer | UpstreamError
            try:
                got = await source.answer(run)
            except UpstreamError as error:
                got = error.bare()
            run.is_watched = self._is_watched(run)
            if self._shared is not None and not await self._shared.of(run.principal).keeps(run):
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

    def _finish(self, run: Run, keys: Sequence[str], _: "asyncio.Task[None]") -> None:
        place = self._place(run.id, run.principal)
        del self._tasks[run]
        del self._live[place]
        if run.body_reservation is not None:
            run.body_reservation.close()
        run.answer_share.close()
        self._capacity.give_back(run.route.name, run.principal)
        if run.principal is not None:
            del self._live_of[run.principal][run.id]
            if not self._live_of[run.principal]:
                del self._live_of[run.principal]
            target = (run.principal, run.route.name, run.target)
            self._by_target[target].remove(run)
            if not self._by_target[target]:
                del self._by_target[target]
        timer = self._grace.pop(_watched(run), None)
        if timer is not None:
            timer.cancel()
        if run.is_elsewhere:
            self._forget(run, keys)
            self._aliases.forget(run.principal, run.id)
            return
        self._tell_breaker(run)
        # The same request, sent again, begins another run. An idempotency key stays, unless the run has
        # failed: a client that repeats a failed request wants it done.
        staying = keys[1:] if run.failure is None else ()
        self._forget(run, [key for key in keys if key not in staying])
        run.forget_the_client()
        self._kept.put(run, place, staying, asyncio.get_running_loop().time())
        self.evict()

    def _tell_breaker(self, run: Run) -> None:
        failure = run.failure
        well = result_of(failure.code if failure else None, failure.status if failure else 200)
        if self._breaker is not None and well is not None:
            self._breaker.record(well, monotonic(), run.principal)

    def _is_watched(self, run: Run) -> bool:
        return _watched(run) in self._viewers or self._is_watched_elsewhere(run)

    def _is_watched_elsewhere(self, run: Run) -> bool:
        return self._shared is not None and self._shared.of(run.principal).is_watched(run.id)

    def _live_one(self, watched: WatchedRun) -> Run | None:
        """The run in flight of exactly this principal and id, if this process executes it."""
        principal, run_id = watched
        run = self._live.get(self._place(run_id, principal))
        return run if run is not None and run.principal == principal else None

    def _unwatched(self, watched: WatchedRun) -> None:
        run = self._live_one(watched)
        if run is not None and run.route.settings.unwatched == "cancel":
            grace_s = run.route.settings.grace_s
            loop = asyncio.get_running_loop()
            self._grace[watched] = loop.call_later(grace_s, self._grace_is_over, watched)

    def _grace_is_over(self, watched: WatchedRun) -> None:
        del self._grace[watched]
        run = self._live_one(watched)
        if run is not None and self._is_watched_elsewhere(run):
            self._unwatched(watched)
        elif run is not None:
            self.cancel_here(run)


class _Watching:
    """The time for which a viewer is there. Not a generator, which would take 500 bytes for each."""

    __slots__ = ("_run", "_runs", "_viewer")

    def __init__(self, runs: Runs, viewer: ViewRequest) -> None:
        self._runs = runs
        self._viewer = viewer
        self._run = _watched(viewer.run)

    def __enter__(self) -> None:
        self._runs.add_viewer(self._run, self._viewer)

    def __exit__(self, *_: object) -> None:
        self._runs.drop_viewer(self._run, self._viewer)


def _watched(run: ViewableRun) -> WatchedRun:
    return run.principal, run.id


def _may_be_taken_over(run: ViewableRun) -> bool:
    return run.route.settings.replay == "safe" or run.source == JOB
