"""A collector: takes spans by OTLP over HTTP, decodes them with OpenTelemetry's messages, and keeps them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

from tests.servers.scripted import Asked, ScriptedUpstream

KINDS = {
    SentSpan.SPAN_KIND_SERVER: "server",
    SentSpan.SPAN_KIND_CLIENT: "client",
    SentSpan.SPAN_KIND_INTERNAL: "internal",
}


@dataclass(frozen=True)
class Received:
    """One span, with ids in hexadecimal digits."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    """"" for none."""
    attributes: dict[str, Any]
    links: list[str]
    """Span ids."""
    is_error: bool
    resource: dict[str, Any]


@dataclass
class OtlpReceiver:
    """The collector, and what it has got."""

    spans: list[Received] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    status: bytes = b"200 OK"

    @asynccontextmanager
    async def running(self, **more: Any) -> AsyncIterator["OtlpReceiver"]:
        async with ScriptedUpstream(self._take, **more).running() as server:
            self.server = server
            yield self

    @property
    def endpoint(self) -> str:
        return f"{self.server.url}/v1/traces"

    async def _take(self, asked: Asked) -> None:
        body = await asked.read_body()
        self.requests.append(asked)
        message = ExportTraceServiceRequest()
        message.ParseFromString(body)
        if self.status.startswith(b"200"):
            self.spans += [
                _received(span, _values(of.resource.attributes))
                for of in message.resource_spans
                for scope in of.scope_spans
                for span in scope.spans
            ]
        await asked.answer(b"", self.status)

    def named(self, name: str) -> Received:
        """The one span of this name."""
        [span] = [each for each in self.spans if each.name == name]
        return span


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        KINDS[span.kind],
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _values(span.attributes),
        [link.span_id.hex() for link in span.links],
        span.status.code == 2,
        resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
