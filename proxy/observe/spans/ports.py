"""The ports to Headgate's own spans. Without `traces` in the settings nothing stands behind them.

`otlp.py` stands there otherwise, and alone knows OpenTelemetry, which is an optional extra.
"""

from contextvars import ContextVar
from typing import NamedTuple, Protocol

from proxy.http.headers import Headers


class SpanEnd(NamedTuple):
    """The end of a call of the upstream."""

    status: int | None
    """Of its answer; None: there is none."""
    error: str | None
    """The failure, as the metrics call it; None: there was none."""


class CallSpan(Protocol):
    """The span of a relayed request's call."""

    headers: Headers
    """The request's, with this span as the parent of all that the upstream does."""

    def end(self, end: SpanEnd) -> None: ...


class RunSpan(Protocol):
    """The spans of a run and of its call. A run that is not begun after all leaves no span."""

    headers: Headers
    """The request's, with the call's span as the parent of all that the upstream does."""
    context: str
    """Of the run's own span, as a `traceparent`."""

    def viewed_from(self, context: str) -> None:
        """Link the run's span with that of a request at another replica; a context that is none counts as
        nothing."""

    def end(self, run_id: str, outcome: str, calls: int, end: SpanEnd) -> None:
        """The run has ended, after so many calls."""


class RequestSpan(Protocol):
    """The span of the request whose work this is."""

    trace_id: str
    headers: Headers
    """The request's, with this span as the parent of all that follows."""
    context: str
    """As a `traceparent`."""

    def decided(self, route: str, path: str, mode: str, reason: str) -> None: ...
    def answered(self, status: int | None, run_id: str | None = None) -> None: ...
    def begin_call(self, method: str, headers: Headers) -> CallSpan: ...
    def begin_run(self, method: str, headers: Headers, route: str, source: str) -> RunSpan: ...
    def views(self, run: RunSpan) -> None:
        """The request shows a run: the spans of both are linked."""

    def views_elsewhere(self, context: str) -> None:
        """The request shows a run that another replica executes: link this span with the run's."""

    def end(self) -> None: ...


class RunSpans(Protocol):
    """Begins the spans of runs that go on here."""

    def go_on(
        self, method: str, headers: Headers, route: str, source: str, generation: int, context: str | None
    ) -> RunSpan | None:
        """The spans of a run that another replica began; None: the run is not recorded.

        Args:
            headers: of the run's call, as that replica sent it.
            generation: the number of times that the run was taken over.
            context: of the span that the run had there; None: it had none, or it is not known.
        """
        ...


class ModelSpan(Protocol):
    """The span of a model call."""

    def asked(self, model: str) -> None: ...
    def used(self, read: int | None, written: int | None) -> None:
        """Tokens of its input and its output; None: not known."""

    def end(self, result: str, *, is_error: bool) -> None: ...


class ModelSpans(Protocol):
    """Begins them."""

    def model_call(self, provider: str, headers: Headers) -> ModelSpan | None: ...


class Front(Protocol):
    """Begins the spans of requests."""

    def begin_request(self, method: str, headers: Headers, scheme: str) -> RequestSpan | None:
        """The span of a request; None: it is not sampled."""
        ...


REQUEST: ContextVar[RequestSpan | None] = ContextVar("request_span", default=None)
"""The span of the request whose work this is; None: it has none."""

MODEL: ContextVar[ModelSpan | None] = ContextVar("model_span", default=None)
"""The span of the model call whose work this is."""


def exemplar(span: RequestSpan | None) -> dict[str, str] | None:
    """The labels of an exemplar for what is observed of a request."""
    return None if span is None else {"trace_id": span.trace_id}
