"""Headgate's own spans by OpenTelemetry, sent as OTLP over HTTP. Imported only if the settings have `traces`.

Names and attributes are those of the semantic conventions for HTTP and for GenAI, without what would
tell of a user: no path, no query, no address of a client, no body. Sampled is what the incoming context says.

Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans/ , …/gen-ai/gen-ai-spans/ ,
https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from time import monotonic
from typing import Any

import httpx
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flags.egress import Egress
from flags.tls import trusting, why
from proxy.http.headers import Headers
from proxy.http.tracing import trace_id_of
from proxy.observe.spans.ports import SpanEnd
from proxy.settings.settings import TraceSettings
from proxy.version import release

logger = logging.getLogger("headgate.traces")

EXPORT_S = 5.0
"""The most seconds that the collector may be silent. What it does not take by then is dropped."""

MAX_ANSWER_BYTES = 65536
"""The most that is read of a collector's answer."""

LAST_EXPORT_S = 3.0
"""The most seconds for all that is left when the process ends."""

END_S = EXPORT_S + LAST_EXPORT_S
"""The most seconds that the end of the process waits for a collector, whatever it does."""

MAX_QUEUED = 4096
"""Spans that wait to be sent; more are dropped."""

EVERY_MS = 2000.0

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""The conventions' list; every other method is `_OTHER`."""

GEN_AI_PROVIDERS = {"gemini": "gcp.gemini", "bedrock": "aws.bedrock"}
"""The conventions' names, by `llm.providers[].api`, where they differ."""

MAX_MODEL_CHARS = 128

_CONTEXT = (b"traceparent", b"tracestate")
_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpExporter(SpanExporter):
    """Sends spans to a collector, in the processor's own thread."""

    def __init__(self, settings: TraceSettings, ways: Egress, *, strict_tls: bool) -> None:
        self._url = settings.endpoint
        self._until = float("inf")
        self._is_down = False
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        is_tls = settings.endpoint.startswith("https:")
        self._client = httpx.Client(
            headers={**headers, "content-type": "application/x-protobuf"},
            verify=trusting(settings.ca_file, strict=strict_tls) if is_tls else False,
            timeout=EXPORT_S,
            trust_env=False,
            proxy=ways.for_httpx(settings.endpoint),
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if monotonic() > self._until:
            return SpanExportResult.FAILURE
        try:
            body = encode_spans(spans).SerializeToString()
            self._send(body)
        except httpx.HTTPStatusError as exc:
            self._report(f"answers {exc.response.status_code}")
            return SpanExportResult.FAILURE
        except Exception as exc:  # noqa: BLE001 - the processor's thread must go on
            self._report(why(exc))
            return SpanExportResult.FAILURE
        self._report("")
        return SpanExportResult.SUCCESS

    def _send(self, body: bytes) -> None:
        due, read = monotonic() + EXPORT_S, 0
        with self._client.stream("POST", self._url, content=body) as response:
            response.raise_for_status()
            for part in response.iter_raw():
                read += len(part)
                if read > MAX_ANSWER_BYTES or monotonic() > due:
                    return  # the connection is closed

    def _report(self, problem: str) -> None:
        if problem and not self._is_down:
            logger.warning("spans are dropped", extra={"why": problem})
        elif self._is_down and not problem:
            logger.info("spans are sent again")
        self._is_down = bool(problem)

    def end_soon(self) -> None:
        """Drop what is not sent within `LAST_EXPORT_S` from now."""
        self._until = monotonic() + LAST_EXPORT_S

    def shutdown(self) -> None:
        self._client.close()


class Traces:
    """Begins this process's spans. `aclose` sends what is left.

    Args:
        upstream: host and port; or the path of its Unix socket, and no port.
        providers: those of the model port, by their names: `api`, host and port.
    """

    def __init__(
        self,
        settings: TraceSettings,
        ways: Egress,
        *,
        strict_tls: bool,
        upstream: tuple[str, int | None],
        providers: Mapping[str, tuple[str, str, int]],
    ) -> None:
        self._exporter = OtlpExporter(settings, ways, strict_tls=strict_tls)
        resource = Resource.create(
            {
                "service.name": settings.service_name,
                "service.version": release(),
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            }
        )
        sampler = ParentBased(TraceIdRatioBased(settings.ratio))
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=MAX_QUEUED, schedule_delay_millis=EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("headgate", release())
        self._upstream = upstream
        self._providers = providers

    async def aclose(self) -> None:
        self._exporter.end_soon()
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        # A daemon: the end of the process waits for those of the loop, and a collector may send for ever.
        Thread(target=end, name="traces end", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await ended.wait()

    def begin_request(self, method: str, headers: Headers, scheme: str) -> "_RequestSpan | None":
        """The span of a request; None: it is not sampled."""
        method = _method(method)
        name = method if method in METHODS else "HTTP"
        attributes = {"http.request.method": method, "url.scheme": scheme}
        span = self._started(name, SpanKind.SERVER, headers, attributes)
        return _RequestSpan(self, span, headers) if span.is_recording() else None

    def _started(self, name: str, kind: SpanKind, headers: Headers, attributes: Mapping[str, Any]) -> Span:
        """A span whose parent is that of the headers; without their `tracestate`, which may be long."""
        parents = [value.decode("latin-1") for name, value in headers if name == b"traceparent"]
        context = _PROPAGATOR.extract({"traceparent": parents[-1]} if parents else {})
        return self._tracer.start_span(name, context, kind, attributes=dict(attributes))

    def begin(self, name: str, kind: SpanKind, parent: Span, attributes: Mapping[str, Any]) -> Span:
        """A span below another one."""
        return self._tracer.start_span(name, set_span_in_context(parent), kind, attributes=dict(attributes))

    def go_on(
        self, method: str, headers: Headers, route: str, source: str, generation: int, context: str | None
    ) -> "_RunSpan | None":
        """See `RunSpans`. It is below the span of before, which may be lost with its replica."""
        if context is None:
            return None
        attributes = {"headgate.route": route, "headgate.source": source, "headgate.generation": generation}
        parent = [(b"traceparent", context.encode())]
        run = self._started(f"run {route}", SpanKind.INTERNAL, parent, attributes)
        return _RunSpan(run, self.begin_call(method, run), headers) if run.is_recording() else None

    def begin_call(self, method: str, parent: Span) -> Span:
        """The span of a call of the upstream."""
        host, port = self._upstream
        method = _method(method)
        attributes: dict[str, Any] = {"http.request.method": method, "server.address": host}
        if port is not None:
            attributes["server.port"] = port
        return self.begin(method if method in METHODS else "HTTP", SpanKind.CLIENT, parent, attributes)

    def model_call(self, provider: str, headers: Headers) -> "_ModelSpan | None":
        """A model call, whose caller's context is in the headers; None: it is not sampled."""
        api, host, port = self._providers[provider]
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": GEN_AI_PROVIDERS.get(api, api),
            "server.address": host,
            "server.port": port,
        }
        span = self._started("chat", SpanKind.CLIENT, headers, attributes)
        return _ModelSpan(span) if span.is_recording() else None


class _CallSpan:
    def __init__(self, span: Span, headers: Headers) -> None:
        self._span = span
        self.headers = _with_parent(headers, span)

    def end(self, end: SpanEnd) -> None:
        _note(self._span, end, failed_from=400)
        self._span.end()


class _RunSpan:
    def __init__(self, run: Span, call: Span, headers: Headers) -> None:
        self._run = run
        self._call = call
        self.headers = _with_parent(headers, call)
        self.context = _parent(run).decode()

    def viewed_from(self, context: str) -> None:
        _link(self._run, context)

    def link(self, other: Span) -> None:
        """Link both spans; one that has ended takes no more links."""
        self._run.add_link(other.get_span_context())
        other.add_link(self._run.get_span_context())

    def end(self, run_id: str, outcome: str, calls: int, end: SpanEnd) -> None:
        self._run.set_attributes({"headgate.run": run_id, "headgate.outcome": outcome})
        if calls > 1:
            self._call.set_attribute("http.request.resend_count", calls - 1)
        _note(self._call, end, failed_from=400)
        _note(self._run, end, failed_from=500)
        self._call.end()
        self._run.end()


class _RequestSpan:
    def __init__(self, traces: Traces, span: Span, headers: Headers) -> None:
        self.headers = _with_parent(headers, span)
        self._traces = traces
        self._span = span
        self._status: int | None = None
        self.trace_id = f"{span.get_span_context().trace_id:032x}"
        self.context = _parent(span).decode()

    def decided(self, route: str, path: str, mode: str, reason: str) -> None:
        self._span.set_attributes(
            {"http.route": path, "headgate.route": route, "headgate.mode": mode, "headgate.reason": reason}
        )
        name = getattr(self._span, "name", "HTTP")
        self._span.update_name(f"{name} {path}")

    def answered(self, status: int | None, run_id: str | None = None) -> None:
        if status is not None and self._status is None:
            self._status = status
            _note(self._span, SpanEnd(status, None), failed_from=500)
        if run_id is not None:
            self._span.set_attribute("headgate.run", run_id)

    def begin_call(self, method: str, headers: Headers) -> _CallSpan:
        return _CallSpan(self._traces.begin_call(method, self._span), headers)

    def begin_run(self, method: str, headers: Headers, route: str, source: str) -> _RunSpan:
        attributes = {"headgate.route": route, "headgate.source": source}
        run = self._traces.begin(f"run {route}", SpanKind.INTERNAL, self._span, attributes)
        return _RunSpan(run, self._traces.begin_call(method, run), headers)

    def views(self, run: Any) -> None:
        run.link(self._span)

    def views_elsewhere(self, context: str) -> None:
        _link(self._span, context)

    def end(self) -> None:
        self._span.end()


class _ModelSpan:
    def __init__(self, span: Span) -> None:
        self._span = span

    def asked(self, model: str) -> None:
        model = model[:MAX_MODEL_CHARS]
        self._span.set_attribute("gen_ai.request.model", model)
        self._span.update_name(f"chat {model}")

    def used(self, read: int | None, written: int | None) -> None:
        for name, number in (("input", read), ("output", written)):
            if number is not None:
                self._span.set_attribute(f"gen_ai.usage.{name}_tokens", number)

    def end(self, result: str, *, is_error: bool) -> None:
        self._span.set_attribute("headgate.result", result)
        if is_error:
            _fail(self._span, result)
        self._span.end()


def _method(method: str) -> str:
    return method if method in METHODS else "_OTHER"


def _note(span: Span, end: SpanEnd, *, failed_from: int) -> None:
    """Say how it ended; a status from `failed_from` on is an error."""
    if end.status is not None:
        span.set_attribute("http.response.status_code", end.status)
    if end.error is not None:
        _fail(span, end.error)
    elif end.status is not None and end.status >= failed_from:
        _fail(span, str(end.status))


def _fail(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(StatusCode.ERROR)


def _with_parent(headers: Headers, span: Span) -> Headers:
    """The headers with a span as the parent. A `tracestate` stays beside a context that counted."""
    came = [value for name, value in headers if name == b"traceparent"]
    counted = len(came) == 1 and trace_id_of(came[0]) is not None
    dropped = {b"traceparent"} if counted else set(_CONTEXT)
    return [*(pair for pair in headers if pair[0] not in dropped), (b"traceparent", _parent(span))]


def _parent(span: Span) -> bytes:
    """The `traceparent` of what is below a span."""
    context = span.get_span_context()
    return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)


def _link(span: Span, context: str) -> None:
    """Link a span with one of another replica, by its `traceparent`."""
    found = _PROPAGATOR.extract({"traceparent": context})
    other = get_current_span(found).get_span_context()
    if other.is_valid:
        span.add_link(other)
