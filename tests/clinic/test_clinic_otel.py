"""The sample upstream under zero-code OpenTelemetry: a request's context reaches every call of the model."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import pytest

from proxy.http.tracing import TraceId, trace_ids_of, with_token, without_token
from tests.servers.clinic_server import CASE_TEXT, Asked, RecordingModel, RunningClinic, running_clinic

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE_STATE = "hg=abc,x=y"
CALLS_OF_START = 4
DEADLINE_S = 60.0
BLOCKING = ("openai", True, 2)
"""A clinic of which each worker does one thing at a time."""


@pytest.fixture(scope="module")
def model() -> Iterator[RecordingModel]:
    yield RecordingModel()


@pytest.fixture(scope="module")
def model_url(model: RecordingModel) -> Iterator[str]:
    with model.running() as url:
        yield url


@pytest.fixture(
    scope="module",
    params=[("openai", False, 2), BLOCKING, ("azure", False, 1), ("gemini", False, 2)],
    ids=["threads and workers", "on the loop", "azure", "gemini"],
)
def clinic(request: pytest.FixtureRequest, model_url: str) -> Iterator[RunningClinic]:
    provider, blocking, workers = request.param
    with running_clinic(
        provider=provider, blocking=blocking, workers=workers, model_url=model_url, otel=True
    ) as running:
        yield running


def start(clinic: RunningClinic, **headers: str) -> None:
    """One workflow, on connections of its own, so that any worker may take it."""
    with clinic.client() as api:
        made = api.post("/api/cases", json={"case_text": CASE_TEXT}).json()
    with clinic.client() as api:
        answer = api.post(f"/api/cases/{made['id']}/workflow/start", headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("flags", ["01", "00"], ids=["sampled", "not sampled"])
def test_every_call_of_the_model_carries_the_requests_context(
    clinic: RunningClinic, model: RecordingModel, flags: str
):
    """Trace id, sampling, trace state and baggage; the span is the clinic's own if there is one."""
    model.calls.clear()

    start(
        clinic, traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-{flags}", tracestate=TRACE_STATE, baggage="b=1"
    )

    parents = [call.headers["traceparent"].split("-") for call in model.calls]
    assert len(model.calls) == CALLS_OF_START
    assert {(trace_id, flag) for _, trace_id, _, flag in parents} == {(TRACE_ID, flags)}
    assert [call.headers["tracestate"] for call in model.calls] == [TRACE_STATE] * CALLS_OF_START
    assert [call.headers["baggage"] for call in model.calls] == ["b=1"] * CALLS_OF_START


def test_contexts_of_concurrent_requests_do_not_mix(clinic: RunningClinic, model: RecordingModel):
    """Each request's own, four times, whichever thread or worker does the work."""
    model.calls.clear()
    traces = [f"{number:032x}" for number in range(1, 7)]

    def run(trace_id: str) -> None:
        start(clinic, traceparent=f"00-{trace_id}-00f067aa0ba902b7-01", tracestate=f"hg={trace_id[-1]}")

    with ThreadPoolExecutor(len(traces)) as pool:
        list(pool.map(run, traces))

    seen = [(call.headers["traceparent"].split("-")[1], call.headers["tracestate"]) for call in model.calls]
    assert sorted(seen) == sorted((one, f"hg={one[-1]}") for one in traces for _ in range(CALLS_OF_START))


def test_a_request_without_context_still_gets_its_own_trace(clinic: RunningClinic, model: RecordingModel):
    """One trace for its four calls, and no trace state made up."""
    model.calls.clear()

    start(clinic)

    assert len({call.headers["traceparent"].split("-")[1] for call in model.calls}) == 1
    assert not any("tracestate" in call.headers for call in model.calls)


def test_a_trace_of_headgates_reaches_every_call_of_the_model(clinic: RunningClinic, model: RecordingModel):
    """With `tap: {match: traceparent}` the token is found, and the provider gets the client's trace."""
    model.calls.clear()
    token = TraceId.random()
    client = [(b"traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01".encode())]

    start(clinic, **{name.decode(): value.decode() for name, value in with_token(client, token)})

    assert len(model.calls) == CALLS_OF_START
    for call in model.calls:
        came = [(name.lower().encode(), value.encode()) for name, value in call.headers.items()]
        assert trace_ids_of(came) == {token}
        assert trace_ids_of(without_token(came, token)) == {TRACE_ID}


def test_it_starts_without_a_word(clinic: RunningClinic):
    """No warnings and no complaints about exporters, however many workers start."""
    assert httpx.get(f"{clinic.url}/health").status_code == 200
    assert clinic.log() == ""


def test_without_opentelemetry_nothing_is_passed_on(model: RecordingModel, model_url: str):
    """The headers of a request are no business of the model's."""
    model.calls.clear()
    with running_clinic(model_url=model_url) as clinic:
        start(clinic, traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01", tracestate=TRACE_STATE)

    assert len(model.calls) == CALLS_OF_START
    assert not any({"traceparent", "tracestate"} & set(call.headers) for call in model.calls)


@pytest.mark.parametrize("clinic", [BLOCKING], indirect=True, ids=["on the loop"])
def test_every_worker_is_instrumented(
    clinic: RunningClinic, model: RecordingModel, monkeypatch: pytest.MonkeyPatch
):
    """While one worker is frozen by its own call of the model, the other does a whole workflow."""
    reached, released = Event(), Event()

    def freeze(call: Asked) -> None:
        if call.headers["tracestate"] == "hg=first":
            reached.set()
            released.wait(DEADLINE_S)

    monkeypatch.setattr(model, "before", freeze)
    model.calls.clear()
    parent = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(start, clinic, traceparent=parent, tracestate="hg=first")
        assert reached.wait(DEADLINE_S)
        start(clinic, traceparent=parent, tracestate="hg=second")
        released.set()
        first.result()

    states = [call.headers["tracestate"] for call in model.calls]
    assert states == ["hg=first"] + ["hg=second"] * CALLS_OF_START + ["hg=first"] * (CALLS_OF_START - 1)
