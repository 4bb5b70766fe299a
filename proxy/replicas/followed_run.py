"""A run that another replica executes, as viewers here see it: a copy made from the store."""

import asyncio
import random
from collections.abc import Callable
from time import time
from weakref import WeakMethod, WeakSet

from proxy.observe.labels import FaultPhase
from proxy.observe.spans.ports import RequestSpan
from proxy.replicas.store.records import RunMeta, StoredMeta
from proxy.replicas.store.sealing import Box
from proxy.runs.call import AcceptedJob, Continuation
from proxy.runs.ending import CANCELLED, Failure
from proxy.runs.run import Run
from proxy.runs.shown import RETRY_MS
from proxy.settings.routes import Route
from proxy.text.event_log import EventLog, LogEntry, event_id
from proxy.text.events import Event, EventType
from proxy.text.sse import encode
from proxy.upstream.client import Answer

MAX_AGE_S = 3600.0
"""Seconds. A run in flight is no older, unless its job may take longer: a greater age says that its replica
has another clock. It would be the end of a job that is taken over."""

REPLICA_LOST = "replica_lost"
STORE_LOST = "log_store"
"""`error_code` of a run whose end nobody here can see: the replica that executed it is gone, or the store
is."""

FAILURES = {
    REPLICA_LOST: Failure(REPLICA_LOST, 502, "The replica that worked on this was lost. Please ask again."),
    STORE_LOST: Failure(STORE_LOST, 502, "The store of this run was lost. Please ask again."),
    CANCELLED: Failure(CANCELLED, 409, "The run was cancelled."),
}
"""Ends that a replica gives to a run that it follows, by their `error_code`."""


class FollowedRun:
    """A run that another replica executes or has executed; a `ViewableRun`."""

    def __init__(
        self,
        run_id: str,
        stored: StoredMeta,
        route: Route,
        box: Box,
        on_readers_changed: Callable[["FollowedRun"], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.id = run_id
        self.log = EventLog(run_id, random.randint(*RETRY_MS))
        self.log.on_readers_changed = _weakly(self._readers_changed)
        self.route = route
        self.headers_sent = False
        self.stored = stored
        """The run's meta, as far as is known here: it names the replica that executes the run."""
        self.box = box
        age_s = time() - stored.meta.started_at
        job = route.settings.job
        is_known = 0 <= age_s <= max(MAX_AGE_S, 0.0 if job is None else job.total_s)
        self.started_at = self._loop.time() - (age_s if is_known else 0.0)
        self.parts: list[str] = []
        """Keys of the parts that were read."""
        self.is_fetching = False
        self.idle_since = self._loop.time()
        self.span: str | None = None
        """The context of the run's span, as it was found; None: there is none, or it is not known."""
        self._views: WeakSet[RequestSpan] = WeakSet()
        self._told: WeakSet[RequestSpan] = WeakSet()
        self._told_to = ""
        self._on_readers_changed = on_readers_changed
        self._executed: Run | None = None
        self._failure: Failure | None = None
        self._answer: Answer | None = None

    @property
    def meta(self) -> RunMeta:
        return self.stored.meta

    @property
    def source(self) -> str:
        return self.meta.source

    @property
    def decision_header(self) -> str:
        return self.meta.decision_header

    @property
    def principal(self) -> str | None:
        return self.meta.principal

    @property
    def target(self) -> bytes:
        return self.meta.target.encode("latin-1")

    @property
    def fingerprint(self) -> str:
        return self.meta.fingerprint

    @property
    def failure(self) -> Failure | None:
        return self._failure if self._executed is None else self._executed.failure

    @property
    def answer(self) -> Answer | None:
        return self._answer if self._executed is None else self._executed.answer

    @property
    def is_executed_here(self) -> bool:
        """True if this replica has taken the run over: a `Run` has its log from then on."""
        return self._executed is not None

    @property
    def phase(self) -> FaultPhase:
        """The part of the run that its viewers have seen, as far as this replica knows."""
        if self.log.has_content:
            return FaultPhase.CONTENT
        return FaultPhase.HEADERS if self.headers_sent else FaultPhase.NOTHING

    @property
    def size_bytes(self) -> int:
        return self.log.size_bytes + (len(self.answer.body) if self.answer is not None else 0)

    def follow(self, stored: StoredMeta) -> None:
        """Take a newer meta: another replica may execute the run now.

        That of another principal is of another run: the store lost its memory, and somebody chose this id.
        """
        if stored.meta.principal == self.principal:
            self.stored = stored
        else:
            self.end(REPLICA_LOST)

    def settle(self, failure: Failure | None, answer: Answer | None, terminal: LogEntry) -> None:
        """End the run as the replica that executed it did."""
        self._failure, self._answer = failure, answer
        self.log.take(terminal)

    def end(self, code: str) -> None:
        """End the run for the viewers here, by one of `FAILURES`."""
        if not (self.log.ended or self.is_executed_here):
            self._failure = FAILURES[code]
            self.log.take(self.terminal(code))

    def terminal(self, code: str) -> LogEntry:
        """The terminal entry for one of `FAILURES`. `events.Transcript` makes it elsewhere; here the events
        so far are known only as bytes.
        """
        failure = FAILURES[code]
        metadata = {
            "error_code": code,
            "retry_available": True,
            "partial": self.log.has_content,
            "status": failure.status,
        }
        seq = len(self.log) + 1
        event = Event(EventType.ERROR, content=failure.detail, metadata=metadata)
        # The lost replica may have shown another event with this number to its own viewers.
        name = event_id(self.id, self.meta.generation + 1, seq)
        return LogEntry(seq, encode(event, name), self._loop.time(), False, True)

    def continuation(self, times_asked: int, job: AcceptedJob | None) -> Continuation:
        """The state from which a takeover goes on."""
        return Continuation(
            self.log, self.meta.generation + 1, times_asked, self.started_at, self.headers_sent, job
        )

    def execute(self, run: Run) -> None:
        """This replica executes the run from now on: `run` goes on with the log."""
        self._executed = run
        for span in self._views:
            run.viewed_by(span)

    def viewed_by(self, span: RequestSpan) -> None:
        if self._executed is not None:
            self._executed.viewed_by(span)
        elif self.span is not None:
            span.views_elsewhere(self.span)
            self._views.add(span)

    def untold_views(self, most: int) -> list[str]:
        """The contexts of viewers here that the run's replica has not been told. They count as told from
        now on.
        """
        if self._told_to != self.meta.owner:
            self._told_to = self.meta.owner
            self._told.clear()
        found = [span for span in self._views if span not in self._told][:most]
        self._told.update(found)
        return [span.context for span in found]

    def _readers_changed(self) -> None:
        self.idle_since = self._loop.time()
        self._on_readers_changed(self)


def _weakly(told: Callable[[], None]) -> Callable[[], None]:
    """Call a method, if its object is still there: a log that held its run would be in a cycle with it."""
    method = WeakMethod(told)

    def call() -> None:
        if (alive := method()) is not None:
            alive()

    return call
