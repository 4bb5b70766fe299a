"""Calls to the model port: how each has come, and what it counts as in the end."""

import logging
from collections import Counter
from collections.abc import Collection
from time import perf_counter
from typing import NamedTuple

from proxy.http.tracing import CONTEXT, TraceId
from proxy.observe.labels import CallResult
from proxy.observe.metrics import Metrics
from proxy.observe.spans.ports import ModelSpan
from proxy.observe.spans.request_ids import CURRENT, RequestIds
from proxy.relay.result import Outcome, RelayResult

logger = logging.getLogger("headgate.llm")

_ENDS = {CallResult.FAILED: "failed", CallResult.LEFT: "left"}


class MetCall(NamedTuple):
    """A call as it came."""

    provider: str
    began: float
    """A time of `perf_counter`."""
    of_no_run: CallResult
    """What it counts as if no tap is found for it."""
    span: ModelSpan | None


class CallCounts:
    """Counts the calls of a process."""

    def __init__(self, metrics: Metrics) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        """Calls, by provider and `answered`, `failed` or `left`."""
        self._count = metrics.count_call

    def end(self, call: MetCall, ended: CallResult, result: CallResult) -> None:
        """A call has ended so, and counts as `result`."""
        end_span(call.span, ended)
        self._add(call, ended, result)
        if logger.isEnabledFor(logging.DEBUG):
            took_ms = round((perf_counter() - call.began) * 1000, 1)
            extra = {"provider": call.provider, "result": result, "took_ms": took_ms}
            logger.debug("model call", extra=extra)

    def end_relayed(self, call: MetCall, ids: RequestIds | None, relayed: RelayResult) -> None:
        """A call of no run has been relayed that was no ASGI call. Without `ids` nobody is told of it."""
        ended = relayed_as(CallResult.BATCH, relayed)
        if ids is None:
            self._add(call, ended, call.of_no_run)
            return
        before = CURRENT.set(ids)
        try:
            self.end(call, ended, call.of_no_run)
        finally:
            CURRENT.reset(before)

    def _add(self, call: MetCall, ended: CallResult, result: CallResult) -> None:
        self.ended[call.provider, _ENDS.get(ended, "answered")] += 1
        self._count[result](1)


def is_told(span: ModelSpan | None) -> bool:
    """True if anybody is told of a call that is over, but by its being counted."""
    return span is not None or logger.isEnabledFor(logging.DEBUG)


def end_span(span: ModelSpan | None, ended: CallResult) -> None:
    if span is not None:
        span.end(ended, is_error=ended is CallResult.FAILED)


def result_without_tap(tokens: Collection[str], names: Collection[bytes]) -> CallResult:
    """Return what a call of no run counts as, by the names of its headers. A trace id that is no token is
    what a traced call has anyway."""
    if tokens and any(not isinstance(token, TraceId) for token in tokens):
        return CallResult.UNMATCHED
    return CallResult.NOT_TAPPED if tokens or not CONTEXT.isdisjoint(names) else CallResult.NO_CONTEXT


def relayed_as(result: CallResult, relayed: RelayResult) -> CallResult:
    """`result` for a run's call that was relayed and answered. The caller may have left, or got an error."""
    if relayed.outcome is Outcome.CLIENT_LEFT:
        return CallResult.LEFT
    is_good = relayed.outcome is Outcome.COMPLETE and 200 <= relayed.status < 300
    return result if is_good else CallResult.FAILED
