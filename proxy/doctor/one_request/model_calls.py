"""A model call that came during a request shows what its way there loses. Pure.

The request carried a token; see `proxy.http.tracing`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal

from proxy.doctor.findings.diagnosis import Diagnosis, fail, ok, skipped, warn
from proxy.http.tracing import Fields, token_of, trace_ids_of

Match = Literal["tracestate", "traceparent"]


class Context(StrEnum):
    """With what a call came."""

    MEMBER = "the request's own tracestate"
    TRACE = "the request's trace without its tracestate"
    XRAY = "the request's trace in X-Ray's header alone"
    OTHER = "another trace's context"
    NONE = "no context"


def context_of(headers: Fields, token: str, trace_id: str) -> Context:
    """With what a call came.

    Args:
        headers: of the call.
        token: of our member, in the request that was sent.
        trace_id: of that request.
    """
    if token_of(headers) == token:
        return Context.MEMBER
    found = trace_ids_of(headers)
    if trace_id in found:
        has_parent = any(name == b"traceparent" for name, _ in headers)
        return Context.TRACE if has_parent else Context.XRAY
    return Context.OTHER if found else Context.NONE


_INSTRUMENT = (
    "Start the upstream under opentelemetry-instrument, with the instrumentation of its web framework and of "
    "the HTTP client that calls the model: `opentelemetry-bootstrap -a install` installs all; "
    "docs/stacks.md has the table."
)
_THREADS = (
    "The context gets lost inside the upstream, mostly at its threads: install "
    "opentelemetry-instrumentation-threading; calls of a job queue need its instrumentation."
)
_ADVICE: Mapping[Context, str] = {
    Context.TRACE: "Set tap.match: traceparent for this route, or let the upstream pass tracestate on "
    "(OTEL_PROPAGATORS must have tracecontext).",
    Context.XRAY: "Set tap.match: traceparent for this route, or OTEL_PROPAGATORS=tracecontext at the "
    "upstream.",
    Context.OTHER: _THREADS,
    Context.NONE: _INSTRUMENT,
}

_FINDS: Mapping[Match, frozenset[Context]] = {
    "tracestate": frozenset({Context.MEMBER}),
    "traceparent": frozenset({Context.MEMBER, Context.TRACE, Context.XRAY}),
}
"""By which contexts a call finds its run."""


def judged(check: str, calls: Sequence[Context], match: Match, expected: int) -> Diagnosis:
    """By the calls that came while one request was answered.

    Args:
        check: the finding's name.
        calls: each with its context.
        match: see `tap.match`.
        expected: how many calls the route's settings name.
    """
    if not calls:
        return no_call(check)
    lost = [call for call in calls if call not in _FINDS[match]]
    if not lost:
        seen = f"{len(calls)} model calls came, each with {calls[0].value}"
        if len(calls) == expected:
            return ok(check, seen)
        return warn(
            check,
            f"{seen}; tap.calls names {expected}",
            "Name each model call of this route in tap.calls, without a stage if its text is shown nowhere.",
        )
    counted = Counter(calls)
    seen = ", ".join(f"{number} with {context.value}" for context, number in counted.items())
    worst = max(set(lost), key=lambda each: counted[each])
    report = warn if len(lost) < len(calls) else fail
    return report(check, f"of {len(calls)} model calls {seen}", _ADVICE[worst])


def no_call(check: str) -> Diagnosis:
    return fail(
        check,
        "no model call came to the model port",
        "Point the base URL of the upstream's model at llm.listen: `headgate check` prints what it begins "
        "with. With several replicas, the call may have come to another one.",
    )


def counted(check: str, results: Mapping[str, float], match: Match) -> Diagnosis:
    """By the growth of `headgate_tap_calls_total` of a Headgate that serves, which has other calls too.

    Args:
        check: the finding's name.
        results: new calls, by result.
        match: see `tap.match`.
    """
    known, traced, bare = (results.get(name, 0) for name in ("unmatched", "not_tapped", "no_context"))
    if not known + traced + bare:
        return no_call(check)
    others = "; calls of other requests count here too"
    if match == "traceparent" and traced:
        return skipped(
            check,
            f"{traced:.0f} calls came with a trace context, and whose cannot be told while Headgate serves",
            "Ask again where nothing listens on llm.listen.",
        )
    if known:
        return ok(check, f"{known:.0f} model calls came with {Context.MEMBER.value}")
    if traced:
        return fail(
            check, f"{traced:.0f} model calls came, none with this request's context{others}", _THREADS
        )
    return fail(check, f"{bare:.0f} model calls came without any context{others}", _INSTRUMENT)
