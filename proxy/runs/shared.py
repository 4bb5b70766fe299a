"""The port to the runs of other replicas, and a run as its viewers see it, whichever replica executes it.

Without a store there is no such port: each process knows its own runs alone.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from proxy.observe.spans.ports import RequestSpan
from proxy.runs.ending import Failure
from proxy.runs.run import Run
from proxy.settings.routes import Route
from proxy.text.event_log import EventLog
from proxy.upstream.client import Answer


class ViewableRun(Protocol):
    """A run as its viewers see it: a `Run` of this process, or the copy of one that another executes."""

    headers_sent: bool
    """True if a viewer has the stream's headers."""

    @property
    def id(self) -> str: ...
    @property
    def log(self) -> EventLog: ...
    @property
    def route(self) -> Route: ...
    @property
    def source(self) -> str: ...
    @property
    def decision_header(self) -> str:
        """The value of `headgate-decision`."""
        ...

    @property
    def principal(self) -> str | None:
        """The principal who began the run; None: unknown."""
        ...

    @property
    def target(self) -> bytes:
        """Path and query of the upstream's request."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of principal, route, target and body."""
        ...

    @property
    def started_at(self) -> float:
        """The loop's time."""
        ...

    @property
    def failure(self) -> Failure | None:
        """The reason why there is no complete answer; None while there may be one."""
        ...

    @property
    def answer(self) -> Answer | None:
        """The upstream's own, whole; also one that is a failure. None until the run has ended."""
        ...

    def viewed_by(self, span: RequestSpan) -> None:
        """A request shows the run: link its span with the run's, if that has one."""
        ...


class LiveRun(NamedTuple):
    """A run in flight, as its owner is told of it."""

    id: str
    route: str
    age_s: float


class SharedRuns(Protocol):
    """The runs of all replicas. For a store that is down only `find` and `joinable` raise: their answer would
    be a guess. That it is down is counted and logged, and this process goes on alone.
    """

    async def claim(self, run: Run, keys: Sequence[str]) -> str | None:
        """Make a run known before it is executed, and copy its log from now on.

        Args:
            run: not started yet.
            keys: digests that equal requests have in common.

        Returns:
            None: the run is claimed, and is executed here. Otherwise the id of another run that has this id
            or one of the keys: nothing is claimed, and the request joins that run.
        """
        ...

    async def find(self, run_id: str) -> ViewableRun | None:
        """A run that another replica executes or has executed, followed from now on while it is watched.

        Raises:
            StoreDown: there may be such a run.
        """
        ...

    async def live(self, principal: str) -> list[LiveRun]:
        """The newest runs of a principal that some replica executes, this one or another."""
        ...

    async def joinable(self, keys: Sequence[str]) -> str | None:
        """The id of a run that one of the keys is claimed for.

        Raises:
            StoreDown: there may be such a run.
        """
        ...

    async def name(self, key: str, run_id: str, ttl_s: float) -> None:
        """Let `joinable` find a run by one more key."""
        ...

    async def cancel(self, run: ViewableRun) -> None:
        """Ask the replica that executes the run to end it."""
        ...

    async def keeps(self, run: Run) -> bool:
        """True if a run of this process is still its own; not if this process was held up for so long that
        another replica has taken it over. Ask before the run's terminal event.
        """
        ...

    def can_be_left(self, run_id: str) -> bool:
        """True if another replica can go on with a run of this process, once this one is gone."""
        ...

    def is_watched(self, run_id: str) -> bool:
        """True if a run of this process has viewers at other replicas, as far as is known."""
        ...


class SharedStore(Protocol):
    """The store, by its users: all runs of a principal are in one shard of it, with their ids and keys. Runs
    of two shards may have the same id, which clients choose."""

    def of(self, principal: str | None) -> SharedRuns:
        """The shard that has the runs of a principal."""
        ...
