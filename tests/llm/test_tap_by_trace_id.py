"""`tap: {match: traceparent}`: calls of a backend that loses `tracestate` find their run by its trace id."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.llm.test_model_port import counted
from tests.servers.client import browser, read, signed
from tests.servers.scripted import Asked
from tests.servers.serving import flag_document
from tests.servers.streaming import EXTRACTION, START, SUMMARY, answer
from tests.servers.tapping import CALLS, COMPLETIONS, Backend, Provider, chat, completion, tapped

TEXTS = {"extraction": EXTRACTION, "summary": SUMMARY}
BY_TRACE_ID = {"tap": {**CALLS, "match": "traceparent"}}
CLIENTS = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{CLIENTS}-00f067aa0ba902b7-01"
SPAN = "b" * 16
TRACER = TracerProvider().get_tracer("a backend")


def trace_of(asked: Asked) -> str:
    return (asked.header(b"traceparent") or b"").decode()[3:35]


def traceparent_alone(asked: Asked) -> dict[str, str]:
    """A backend's tracing that knows no `tracestate`: the trace, and a span of its own."""
    return {"traceparent": f"00-{trace_of(asked)}-{SPAN}-01"}


def of_xray(asked: Asked) -> dict[str, str]:
    """Pass the context on as boto3's instrumentation does: X-Ray's header alone."""
    trace = trace_of(asked)
    return {"x-amzn-trace-id": f"Root=1-{trace[:8]}-{trace[8:]};Parent={SPAN};Sampled=1"}


def of_xrays_own(asked: Asked) -> dict[str, str]:
    """A backend that reads and writes X-Ray's header, and knows nothing of W3C's."""
    root = (asked.header(b"x-amzn-trace-id") or b"").decode().partition(";")[0]
    return {"x-amzn-trace-id": f"{root};Parent={SPAN}"}


def of_opentelemetry(asked: Asked) -> dict[str, str]:
    """Pass the context on by OpenTelemetry's own extracting, spans and injecting."""
    propagator = TraceContextTextMapPropagator()
    came = {name.decode(): value.decode() for name, value in asked.headers()}
    sent: dict[str, str] = {}
    with TRACER.start_as_current_span("call", context=propagator.extract(came)):
        propagator.inject(sent)
    return sent


@pytest.mark.parametrize("passes", [traceparent_alone, of_xray, of_xrays_own, of_opentelemetry])
async def test_calls_without_our_member_are_a_runs(
    tmp_path: Path, passes: Callable[[Asked], dict[str, str]]
) -> None:
    """Their tokens are shown, the backend gets its batch answers, and the provider does not see the token."""
    provider, tokens = Provider(), set()

    def noting(asked: Asked) -> dict[str, str]:
        tokens.add(trace_of(asked))
        return passes(asked)

    async with tapped(tmp_path, provider, Backend(passes=noting), route=BY_TRACE_ID) as (serving, at, client):
        stream = await read(client, START, signed(traceparent=PARENT, tracestate="congo=t61"))
        results = await counted(client, serving.admin_url)

    assert results == {"tapped": 2}
    assert stream.texts() == TEXTS and "content_replace" not in stream.types
    assert [reply.json() for reply in at.answers] == [completion(text) for text in TEXTS.values()]
    [token] = tokens
    assert token != CLIENTS
    assert not any(token.encode() in asked.head for asked in provider.upstream.asked)
    assert not any(b"x-amzn-trace-id" in asked.head for asked in provider.upstream.asked)


@pytest.mark.parametrize(
    ("passes", "own", "trace"),
    [
        (of_opentelemetry, PARENT, CLIENTS),
        (of_opentelemetry, None, ""),
        (traceparent_alone, PARENT, ""),
    ],
    ids=["linked", "no trace of the client's", "link lost"],
)
async def test_a_provider_gets_the_clients_trace_where_the_link_came_through(
    tmp_path: Path, passes: Callable[[Asked], dict[str, str]], own: str | None, trace: str
) -> None:
    """And no trace where it did not."""
    provider = Provider()
    traced = {} if own is None else {"traceparent": own}
    async with tapped(tmp_path, provider, Backend(passes=passes), route=BY_TRACE_ID) as (_, _, client):
        stream = await read(client, START, signed(**traced))

    assert stream.texts() == TEXTS
    assert [trace_of(asked) for asked in provider.upstream.asked] == [trace, trace]
    assert not any(asked.header(b"tracestate") for asked in provider.upstream.asked)


class MeetingBackend(Backend):
    """Asks its model for two users, each with prompts of its own, and answers when it has both users' texts.

    So both runs last as long as there are calls.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.traces: dict[str, str] = {}
        self._meeting, self._parting = asyncio.Barrier(2), asyncio.Barrier(2)

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        user = (asked.header(b"x-user") or b"").decode()
        self.traces[user] = trace_of(asked)
        await self._meeting.wait()
        async with browser(self.model_url) as client:
            replies = [await self._ask(client, f"{user}{n}", self.passes(asked)) for n in (1, 2)]
        await self._parting.wait()
        await asked.answer(answer(*(self.text_of(reply) for reply in replies)))


async def test_runs_of_one_client_trace_do_not_mix(tmp_path: Path) -> None:
    """Two users send the same `traceparent` at the same time: each sees its own words."""
    texts = {f"{user}{n}": f"{user} reads this, {n} of 2 parts" for user in ("ann", "bob") for n in (1, 2)}
    backend = MeetingBackend(passes=traceparent_alone)
    async with (
        tapped(tmp_path, Provider(texts), backend, route=BY_TRACE_ID) as (serving, _, client),
        browser(serving.url) as another,
    ):
        streams = await asyncio.gather(
            *(
                read(at, START, signed(user, traceparent=PARENT, **{"x-user": user}))
                for at, user in ((client, "ann"), (another, "bob"))
            )
        )
        results = await counted(client, serving.admin_url)

    for user, stream in zip(("ann", "bob"), streams, strict=True):
        assert stream.texts() == {"extraction": texts[f"{user}1"], "summary": texts[f"{user}2"]}
        assert "content_replace" not in stream.types
    assert len({CLIENTS, *backend.traces.values()}) == 3
    assert results == {"tapped": 4}


async def test_a_clients_own_trace_id_finds_nothing(tmp_path: Path) -> None:
    """A user who gets batch keeps its trace, which is no token."""
    provider, flags = Provider(), flag_document(0)
    traced = signed(accept="application/json", traceparent=PARENT)
    backend = Backend(passes=traceparent_alone)
    async with tapped(tmp_path, provider, backend, route=BY_TRACE_ID, flags=flags) as (serving, _, client):
        reply = await client.post(START, headers=traced)
        results = await counted(client, serving.admin_url)

    assert reply.status_code == 200
    assert results == {"not_tapped": 2}
    assert [trace_of(asked) for asked in provider.upstream.asked] == [CLIENTS, CLIENTS]


async def ask_again(serving_url: str, headers: dict[str, str]) -> httpx.Response:
    async with browser(serving_url) as client:
        return await client.post(f"/models{COMPLETIONS}", json=chat("summary"), headers=headers)


@pytest.mark.parametrize("passes", [traceparent_alone, of_xray])
async def test_a_trace_id_is_good_for_nothing_once_its_run_has_its_answer(
    tmp_path: Path, passes: Callable[[Asked], dict[str, str]]
) -> None:
    """A call that comes late goes through untouched."""
    provider, kept = Provider(), []

    def keeping(asked: Asked) -> dict[str, str]:
        kept.append(passes(asked))
        return kept[-1]

    async with tapped(tmp_path, provider, Backend(passes=keeping), route=BY_TRACE_ID) as (serving, _, client):
        stream = await read(client, START, signed())
        again = await ask_again(serving.model_url, kept[0])
        results = await counted(client, serving.admin_url)

    assert stream.texts() == TEXTS
    assert again.json() == completion(SUMMARY)
    assert provider.bodies[-1] == chat("summary")
    assert results == {"tapped": 2, "not_tapped": 1}


async def test_calls_that_carry_two_runs_are_neither_ones(tmp_path: Path) -> None:
    """To choose one of them would be a guess."""
    backend = MeetingBackend()
    backend.passes = lambda asked: {
        "traceparent": f"00-{backend.traces['ann']}-{SPAN}-01",
        "x-amzn-trace-id": f"Root=1-{backend.traces['bob'][:8]}-{backend.traces['bob'][8:]}",
    }
    texts = {f"{user}{n}": "words" for user in ("ann", "bob") for n in (1, 2)}
    async with (
        tapped(tmp_path, Provider(texts), backend, route=BY_TRACE_ID) as (serving, _, client),
        browser(serving.url) as another,
    ):
        streams = await asyncio.gather(
            read(client, START, signed("ann", **{"x-user": "ann"})),
            read(another, START, signed("bob", **{"x-user": "bob"})),
        )
        results = await counted(client, serving.admin_url)

    assert [stream.texts() for stream in streams] == [{"extraction": "words", "summary": "words"}] * 2
    assert results == {"not_tapped": 4}


async def test_by_default_a_trace_id_is_no_token(tmp_path: Path) -> None:
    """The client's trace goes on unbroken, and X-Ray's header says nothing of a run."""
    provider, backend = Provider(), Backend(passes=traceparent_alone)
    async with tapped(tmp_path, provider, backend) as (serving, _, client):
        stream = await read(client, START, signed(traceparent=PARENT))
        results = await counted(client, serving.admin_url)

    assert stream.texts() == TEXTS
    assert [trace_of(asked) for asked in provider.upstream.asked] == [CLIENTS, CLIENTS]
    assert results == {"not_tapped": 2}
