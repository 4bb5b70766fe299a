"""Headgate's own spans, as a collector gets them: of requests, runs, calls and model calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flags.egress import STRAIGHT
from proxy.observe.spans.otlp import MAX_QUEUED, Traces
from proxy.settings.settings import TraceSettings
from tests.servers.authority import certificates
from tests.servers.client import eventually, read, scrape, signed
from tests.servers.corporate_proxy import CorporateProxy
from tests.servers.otlp_receiver import OtlpReceiver
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.streaming import START, Held, answer, answering, house, logged
from tests.servers.tapping import Provider, tapped

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
PATH = "/api/cases/{case_id}/start"
NAME = f"POST {PATH}"


@asynccontextmanager
async def traced(script: Any, directory: Path, **traces: Any) -> AsyncIterator[tuple[Any, ...]]:
    """A collector, an upstream, a Headgate with traces, and a client."""
    receiver = OtlpReceiver()
    async with (
        receiver.running(),
        house(script, directory, traces={"endpoint": receiver.endpoint, **traces}) as (
            upstream,
            serving,
            client,
        ),
    ):
        yield receiver, upstream, serving, client


def parent_of(asked: Asked) -> tuple[str, str]:
    """The trace and the span that a request to the upstream names as its parent."""
    _, trace_id, span_id, flags = (asked.header(b"traceparent") or b"").decode().split("-")
    assert flags == "01"
    return trace_id, span_id


async def test_a_relayed_request_has_two_spans(tmp_path: Path) -> None:
    """The server's, below the client's own; and that of the call, which is the parent of the upstream's."""
    async with traced(answering(b"{}"), tmp_path) as (receiver, upstream, _, client):
        await client.get("/patients/Miller?born=1980", headers={**SAMPLED, "user-agent": "secret"})
    server, call = (
        next(each for each in receiver.spans if each.kind == kind) for kind in ("server", "client")
    )

    assert (server.name, server.parent_id, server.trace_id) == ("GET", PARENT, TRACE)
    assert (call.name, call.parent_id) == ("GET", server.span_id)
    assert parent_of(upstream.asked[0]) == (TRACE, call.span_id)
    assert upstream.asked[0].header(b"tracestate") == b"a=b"
    assert server.attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.response.status_code": 200,
    }
    assert call.attributes["server.port"] == upstream.port
    assert server.resource["service.name"] == "headgate"
    for secret in ("Miller", "1980", "secret"):
        assert secret not in str(receiver.spans)


async def test_a_run_has_a_span_that_its_viewers_are_linked_with(tmp_path: Path) -> None:
    """Below the request that began it; whoever joins is linked with it, both ways. No text is in any span."""
    held = Held(answering(answer()))
    async with traced(held, tmp_path) as (receiver, upstream, serving, client):

        async def watched_by(number: int) -> bool:
            return (await scrape(client, serving.admin_url))['headgate_viewers{route="start"}'] == number

        first = asyncio.create_task(read(client, START, headers=signed(**SAMPLED)))
        await eventually(lambda: watched_by(1))
        second = asyncio.create_task(read(client, START, headers=signed()))
        await eventually(lambda: watched_by(2))
        held.release.set()
        await asyncio.gather(first, second)
    run = receiver.named("run start")
    servers = [each for each in receiver.spans if each.name == NAME]
    beginner, joiner = sorted(servers, key=lambda each: each.trace_id != TRACE)
    [call] = [each for each in receiver.spans if each.kind == "client"]

    assert (run.kind, run.parent_id, run.trace_id) == ("internal", beginner.span_id, TRACE)
    assert set(run.links) == {beginner.span_id, joiner.span_id}
    assert joiner.links == [run.span_id] and joiner.trace_id != TRACE
    assert call.parent_id == run.span_id
    assert parent_of(upstream.asked[0]) == (TRACE, call.span_id)
    assert (run.attributes["headgate.outcome"], call.attributes["http.response.status_code"]) == (
        "complete",
        200,
    )
    assert beginner.attributes["http.route"] == PATH
    assert (
        beginner.attributes["headgate.run"]
        == joiner.attributes["headgate.run"]
        == run.attributes["headgate.run"]
    )
    assert "Fever" not in str(receiver.spans) and "ann" not in str(receiver.spans).replace("annot", "")


async def test_a_failed_call_is_an_error_in_its_span(tmp_path: Path) -> None:
    """So is the run, and the request if its client got a 5xx."""
    async with traced(answering(b"{}", b"503 Service Unavailable"), tmp_path) as (receiver, _, _, client):
        await read(client, START, headers=signed(**SAMPLED))
    run = receiver.named("run start")

    assert [each.is_error for each in receiver.spans] == [True] * 3
    assert run.attributes["error.type"] == "status"


@pytest.mark.parametrize(
    ("headers", "ratio", "spans"),
    [(NOT_SAMPLED, 1.0, 0), (SAMPLED, 0.0, 2), ({}, 0.0, 0), ({}, 1.0, 2)],
    ids=["context says no", "context says yes", "no context, none", "no context, all"],
)
async def test_what_is_recorded_is_what_the_context_says(
    tmp_path: Path, headers: dict[str, str], ratio: float, spans: int
) -> None:
    """Without one, `ratio` decides. What is not recorded goes to the upstream as it came."""
    async with traced(answering(b"{}"), tmp_path, ratio=ratio) as (receiver, upstream, _, client):
        await client.get("/page", headers=headers)
        asked = upstream.asked[0]

    assert len(receiver.spans) == spans
    if not spans:
        assert asked.header(b"traceparent") == (headers.get("traceparent", "").encode() or None)


async def test_a_model_call_has_a_span_with_its_tokens(tmp_path: Path) -> None:
    """In the trace of the request that it is for, by the context that the backend has passed on."""
    receiver = OtlpReceiver()
    async with receiver.running():
        traces = {"endpoint": receiver.endpoint}
        async with tapped(tmp_path, Provider(), traces=traces) as (_, _, client):
            await read(client, START, headers=signed(**SAMPLED))
    calls = [each for each in receiver.spans if each.name.startswith("chat")]
    [upstreams] = [each for each in receiver.spans if each.kind == "client" and each not in calls]

    assert len(calls) == 2
    for call in calls:
        assert (call.kind, call.trace_id, call.parent_id) == ("client", TRACE, upstreams.span_id)
        assert call.attributes["gen_ai.provider.name"] == "openai"
        assert call.attributes["gen_ai.operation.name"] == "chat"
        assert call.name == f"chat {call.attributes['gen_ai.request.model']}"
        assert call.attributes["gen_ai.usage.input_tokens"] > 0
        assert call.attributes["gen_ai.usage.output_tokens"] > 0
    assert "Fever" not in str(receiver.spans)


async def test_logs_have_the_trace_that_began_here(tmp_path: Path) -> None:
    """For a request without a context, too."""
    with logged() as lines:
        async with traced(answering(answer()), tmp_path) as (receiver, _, _, client):
            await read(client, START, headers=signed())
        [line] = lines("run ended")

    assert line["trace_id"] == receiver.named("run start").trace_id


async def test_a_latency_has_an_exemplar_for_who_takes_openmetrics(tmp_path: Path) -> None:
    """The trace of the last request in each bucket. The text format has none."""
    accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    async with traced(answering(answer()), tmp_path) as (_, _, serving, client):
        await read(client, START, headers=signed(**SAMPLED))
        page = await client.get(f"{serving.admin_url}/metrics", headers=accept)
        plain = await client.get(f"{serving.admin_url}/metrics")
    families = {each.name: each for each in text_string_to_metric_families(page.text)}

    assert page.headers["content-type"].startswith("application/openmetrics-text")
    for name in ("headgate_request_seconds", "headgate_run_seconds"):
        labels = [each.exemplar.labels for each in families[name].samples if each.exemplar]
        assert labels == [{"trace_id": TRACE}]
    assert TRACE not in plain.text


async def test_spans_go_through_the_proxy_and_trust_a_private_authority(tmp_path: Path) -> None:
    """Spans go the way of all other requests to the outside, with the headers of the settings."""
    ca_file, served = certificates(tmp_path, names=["collector.test"])
    receiver, proxy = OtlpReceiver(), CorporateProxy()
    async with receiver.running(tls=served), proxy.running():
        proxy.places = {"collector.test:443": receiver.server.port}
        settings = {
            "traces": {"endpoint": "https://collector.test/v1/traces", "headers": {"authorization": "a key"}},
            "proxy": {"url": proxy.url},
            "tls": {"ca_file": str(ca_file)},
        }
        async with house(answering(b"{}"), tmp_path, **settings) as (_, _, client):
            await client.get("/page")

    assert len(receiver.spans) == 2
    assert receiver.requests[0].header(b"authorization") == b"a key"


async def test_a_collector_that_fails_costs_nothing_but_the_spans(tmp_path: Path) -> None:
    """One line says so, without the credentials."""
    with logged() as lines:
        async with traced(answering(b"{}"), tmp_path, headers={"authorization": "hidden"}) as (
            receiver,
            _,
            _,
            client,
        ):
            receiver.status = b"500 Broken"
            assert (await client.get("/page")).status_code == 200
        [line] = lines("spans are dropped")

    assert line["why"] == "answers 500"
    assert "hidden" not in str(lines.lines)


BATCH = 512
"""Spans that are sent at once."""
END_S = 0.2


def begin_and_end(traces: Traces, number: int) -> None:
    """The spans of as many recorded requests."""
    for _ in range(number):
        request = traces.begin_request("GET", [], "http")
        assert request is not None
        request.end()


def traces_to(url: str) -> Traces:
    settings = TraceSettings.model_validate({"endpoint": url})
    return Traces(settings, STRAIGHT, strict_tls=True, upstream=("upstream", 80), providers={})


async def test_what_waits_for_a_slow_collector_is_bounded() -> None:
    """It takes nothing before all requests are done. Of what waits the oldest spans go."""
    receiver = OtlpReceiver()
    async with receiver.running():
        traces = traces_to(receiver.endpoint)
        begin_and_end(traces, MAX_QUEUED + 2 * BATCH)  # without a pause in which it could answer
        await traces.aclose()

    assert 0 < len(receiver.spans) <= MAX_QUEUED + BATCH


async def test_the_end_does_not_wait_for_a_collector_that_never_ends_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even for one that always sends a little more of it."""
    monkeypatch.setattr("proxy.observe.spans.otlp.END_S", END_S)
    is_asked = asyncio.Event()

    async def trickle(asked: Asked) -> None:
        await asked.read_body()
        is_asked.set()
        await asked.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await asked.send(b"x-more: x\r\n")
            await asyncio.sleep(0.05)

    async with ScriptedUpstream(trickle).running() as collector:
        traces = traces_to(collector.url)
        begin_and_end(traces, BATCH)
        await is_asked.wait()
        async with asyncio.timeout(30):
            await traces.aclose()
        assert collector.open == 1
