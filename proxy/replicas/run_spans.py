"""Links between the span of a run and those of its viewers at other replicas. Only where there are traces.

The context of a run's span is in the store. Those of its viewers go to the replica that executes the run, in
the message that says that the run is watched. A run that is taken over has another span, below the first one.
"""

from collections.abc import Callable, Iterable
from typing import Any

from proxy.observe.spans.ports import RunSpan
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.store.records import SPAN_TTL_MS, Keys
from proxy.replicas.store.sealing import Box
from proxy.replicas.store.valkey import Command
from proxy.runs.run import Run

MAX_VIEWS = 500
"""Viewers that one message names; the others are in the next one. A span keeps its last 128 links."""


def sealed_span(run: Run, box: Box) -> bytes:
    """The context of a run's span as it is stored; empty: it has none."""
    span = run.call.span
    return b"" if span is None else box.seal("span", 0, span.context.encode())


def views(runs: Iterable[FollowedRun]) -> list[list[str]]:
    """The ids of runs and the contexts of their viewers that the runs' replica has not been told. They count
    as told from now on."""
    found: list[list[str]] = []
    for run in runs:
        found += [[run.id, context] for context in run.untold_views(MAX_VIEWS - len(found))]
    return found


def viewed_elsewhere(told: Iterable[Any], span_of: Callable[[str], RunSpan | None]) -> None:
    """Link spans of runs of this process, as another replica has told."""
    for run_id, context in told:
        span = span_of(run_id)
        if span is not None:
            span.viewed_from(context)


def span_put(keys: Keys, run: Run, box: Box) -> list[Command]:
    """The command that stores the context of a run that was taken over; none where it has no span."""
    sealed = sealed_span(run, box)
    return [("SET", keys.span(run.id), sealed, "PX", SPAN_TTL_MS)] if sealed else []
