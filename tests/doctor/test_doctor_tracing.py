"""`headgate doctor --route`: whether an upstream's model calls come, with which context, and who waits
meanwhile."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flags.egress import STRAIGHT
from proxy.doctor.findings.diagnosis import Diagnosis, Grade
from proxy.doctor.one_request import tracing
from proxy.doctor.one_request.model_calls import Context, counted, judged
from proxy.doctor.one_request.real_request import BadRequest, RealRequest, request_of
from proxy.doctor.one_request.tracing import HELD_UP_S, Glance, waiting
from proxy.outbound import origin
from proxy.settings.settings import Settings
from tests.doctor.deployments import date, settings_of
from tests.servers.authority import certificates
from tests.servers.client import signed
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.tapping import CALLS, Backend, Provider, completion, tapped, tapped_route, trace_context

USER = list(signed(accept=None).items())


def other_trace(asked: Asked) -> dict[str, str]:
    """Return the trace of a call by a thread that nothing has handed the context to: its client begins
    one."""
    return {"traceparent": f"00-{secrets.token_hex(16)}-{'b' * 16}-01"}


def trace_alone(asked: Asked) -> dict[str, str]:
    return {"traceparent": trace_context(asked)["traceparent"]}


def xray_alone(asked: Asked) -> dict[str, str]:
    trace = trace_context(asked)["traceparent"][3:35]
    return {"x-amzn-trace-id": f"Root=1-{trace[:8]}-{trace[8:]}"}


def nothing(asked: Asked) -> dict[str, str]:
    return {}


def address(url: str) -> str:
    return url.removeprefix("http://")


def in_front_of(backend: Backend) -> Callable[[Asked], Any]:
    """An upstream that answers a GET at once, and a POST as the backend does."""

    async def answer(asked: Asked) -> None:
        if asked.head.startswith(b"GET "):
            await asked.answer(b"{}", extra=date())
        else:
            await backend(asked)

    return answer


@asynccontextmanager
async def deployed(
    directory: Path, provider: Provider, backend: Backend, *, llm: Mapping[str, Any] = {}, **of_route: Any
) -> AsyncIterator[tuple[Settings, RealRequest]]:
    """An upstream and its provider; nobody serves."""
    port = free_port()
    backend.model_url = f"http://127.0.0.1:{port}"
    async with (
        provider.upstream.running() as model,
        ScriptedUpstream(in_front_of(backend)).running() as app,
    ):
        providers = [{"name": "models", "url": model.url}]
        models = {"listen": f"127.0.0.1:{port}", "providers": providers, **llm}
        settings = settings_of(directory, app.url, llm=models, routes=[tapped_route(**of_route)])
        yield settings, RealRequest(settings.routes[0], "POST", "/api/cases/7/start", USER, b"{}")


async def looked(settings: Settings, request: RealRequest) -> Mapping[str, Diagnosis]:
    found = await tracing.look(settings, request, origin(settings.upstream, strict_tls=True), STRAIGHT, 20)
    return {each.check.rpartition(" ")[0]: each for each in found}


BY_TRACE_ID = {"tap": {**CALLS, "match": "traceparent"}}


@pytest.mark.parametrize(
    ("passes", "of_route", "grade", "says"),
    [
        (trace_context, {}, Grade.OK, "2 model calls came, each with the request's own tracestate"),
        (trace_context, BY_TRACE_ID, Grade.OK, "2 model calls came"),
        (trace_alone, {}, Grade.FAIL, "tap.match: traceparent"),
        (trace_alone, BY_TRACE_ID, Grade.OK, "without its tracestate"),
        (xray_alone, {}, Grade.FAIL, "OTEL_PROPAGATORS=tracecontext"),
        (xray_alone, BY_TRACE_ID, Grade.OK, "X-Ray's header alone"),
        (other_trace, {}, Grade.FAIL, "opentelemetry-instrumentation-threading"),
        (other_trace, BY_TRACE_ID, Grade.FAIL, "opentelemetry-instrumentation-threading"),
        (nothing, {}, Grade.FAIL, "opentelemetry-bootstrap -a install"),
    ],
)
async def test_how_model_calls_come(
    tmp_path: Path,
    passes: Callable[[Asked], dict[str, str]],
    of_route: dict[str, Any],
    grade: Grade,
    says: str,
) -> None:
    """While nobody serves they are passed on, and the backend gets its answers."""
    provider, backend = Provider(), Backend(passes=passes)
    async with deployed(tmp_path, provider, backend, **of_route) as (settings, request):
        found = await looked(settings, request)

    assert found["tracing"].status is grade
    assert says in found["tracing"].seen + found["tracing"].advice
    assert found["route"].status is Grade.OK
    assert [reply.json() for reply in backend.answers] == [
        completion(text) for text in provider.texts.values()
    ]
    assert not any(b"hg=" in asked.head for asked in provider.upstream.asked)


async def test_an_upstream_whose_model_is_elsewhere(tmp_path: Path) -> None:
    async with deployed(tmp_path, Provider(), Backend(prompts=())) as (settings, request):
        found = await looked(settings, request)

    assert found["tracing"].status is Grade.FAIL
    assert "no model call came" in found["tracing"].seen


async def _answering(asked: Asked) -> None:
    await asked.read_body()
    await asked.answer(b"{}", extra=date())


async def test_a_route_that_names_fewer_calls_than_are_made(tmp_path: Path) -> None:
    of_route = {"tap": {"calls": [{"stage": "summary"}]}}
    async with deployed(tmp_path, Provider(), Backend(), **of_route) as (settings, request):
        found = await looked(settings, request)

    assert found["tracing"].status is Grade.WARN
    assert "tap.calls names 1" in found["tracing"].seen


async def test_a_model_port_that_speaks_https(tmp_path: Path) -> None:
    """With the certificate of `llm.tls`."""
    certificates(tmp_path)
    own = {"cert": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.pem")}
    provider, backend = Provider(), Backend()
    async with deployed(tmp_path, provider, backend, llm={"tls": own}) as (settings, request):
        backend.model_url = backend.model_url.replace("http:", "https:")
        found = await looked(settings, request)

    assert found["tracing"].status is Grade.OK
    assert [reply.json() for reply in backend.answers] == [
        completion(text) for text in provider.texts.values()
    ]


async def test_a_job_is_not_followed(tmp_path: Path) -> None:
    """Its model calls come after the answer to its request."""
    job = {"source": "job", "job": {"path": "/api/jobs/{job}", "status": "$.state", "done": ["done"]}}
    async with deployed(tmp_path, Provider(), Backend(prompts=()), **job) as (settings, request):
        found = await looked(settings, request)

    assert found["tracing"].status is Grade.SKIPPED
    assert "begins a job" in found["tracing"].seen


async def test_a_request_that_the_upstream_refuses_says_nothing_of_tracing(tmp_path: Path) -> None:
    async def refusing(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(b"{}", b"401 Unauthorized", date())

    async with ScriptedUpstream(refusing).running() as app:
        llm = {"listen": f"127.0.0.1:{free_port()}", "providers": [{"name": "models", "url": app.url}]}
        settings = settings_of(tmp_path, app.url, llm=llm, routes=[tapped_route()])
        request = RealRequest(settings.routes[0], "POST", "/api/cases/7/start", (), b"{}")
        found = await looked(settings, request)

    assert found["route"].status is Grade.WARN and "--headers" in found["route"].advice
    assert found["tracing"].status is Grade.SKIPPED


@pytest.mark.parametrize(
    ("passes", "grade", "says"),
    [
        (trace_context, Grade.OK, "2 model calls came with the request's own tracestate"),
        (other_trace, Grade.FAIL, "opentelemetry-instrumentation-threading"),
        (nothing, Grade.FAIL, "opentelemetry-bootstrap -a install"),
    ],
)
async def test_beside_a_headgate_that_serves_its_counters_tell(
    tmp_path: Path, passes: Callable[[Asked], dict[str, str]], grade: Grade, says: str
) -> None:
    """The request goes straight to the upstream, and its calls to the model port that is there."""
    backend = Backend(passes=passes)
    async with (
        tapped(tmp_path, Provider(), backend) as (serving, _, _),
        ScriptedUpstream(in_front_of(backend)).running() as app,
    ):
        llm = {"listen": address(serving.model_url), "providers": [{"name": "m", "url": app.url}]}
        admin = address(serving.admin_url)
        settings = settings_of(tmp_path, app.url, llm=llm, admin=admin, routes=[tapped_route()])
        request = RealRequest(settings.routes[0], "POST", "/api/cases/7/start", USER, b"{}")
        found = await looked(settings, request)

    assert found["tracing"].status is grade
    assert says in found["tracing"].seen + found["tracing"].advice


def test_what_nobody_can_tell_beside_a_headgate_is_not_told() -> None:
    """Every traced call has a trace id."""
    assert counted("tracing", {"not_tapped": 2}, "traceparent").status is Grade.SKIPPED
    assert counted("tracing", {"tapped": 3}, "tracestate").status is Grade.FAIL


def test_some_calls_with_context_and_some_without_is_a_warning() -> None:
    """One client of two is instrumented."""
    found = judged("tracing", [Context.MEMBER, Context.NONE], "tracestate", 2)

    assert found.status is Grade.WARN
    assert "opentelemetry-bootstrap" in found.advice


async def test_a_port_that_somebody_else_has(tmp_path: Path) -> None:
    """Nobody who answers on `admin` is there."""
    async with ScriptedUpstream(_answering).running() as other:
        llm = {"listen": f"127.0.0.1:{other.port}", "providers": [{"name": "m", "url": other.url}]}
        admin = f"127.0.0.1:{free_port()}"
        settings = settings_of(tmp_path, other.url, llm=llm, routes=[tapped_route()], admin=admin)
        request = RealRequest(settings.routes[0], "POST", "/api/cases/7/start", USER, b"{}")
        found = await looked(settings, request)

    assert found["tracing"].status is Grade.FAIL
    assert "something listens on llm.listen" in found["tracing"].seen


async def test_an_upstream_with_one_blocking_worker(tmp_path: Path) -> None:
    """Other requests wait meanwhile for the call's end."""
    worker = asyncio.Lock()

    async def blocking(asked: Asked) -> None:
        await asked.read_body()
        async with worker:
            if asked.head.startswith(b"POST "):
                await asyncio.sleep(HELD_UP_S * 1.5)
            await asked.answer(b"{}", extra=date())

    async with ScriptedUpstream(blocking).running() as app:
        settings = settings_of(tmp_path, app.url)
        request = RealRequest(settings.routes[0], "POST", "/api/cases/7/start", USER, b"{}")
        found = await looked(settings, request)

    assert found["busy upstream"].status is Grade.WARN
    assert "one busy worker holds up all others" in found["busy upstream"].seen
    assert found["tracing"].status is Grade.SKIPPED


@pytest.mark.parametrize(
    ("looks", "grade"),
    [
        ([], Grade.SKIPPED),
        ([Glance(1, 1.01), Glance(2, 2.02)], Grade.OK),
        ([Glance(1, 5.0)], Grade.OK),
        ([Glance(1, 1.1), Glance(2, 10.0)], Grade.WARN),
    ],
    ids=["too quick", "quick", "slow, but not for that call", "to its end"],
)
def test_who_waits_for_the_end_is_held_up(looks: list[Glance], grade: Grade) -> None:
    """Slow alone is not held up."""
    assert waiting("busy", looks, 10.0).status is grade


# The request.


def test_a_request_is_made_of_the_command_line(tmp_path: Path) -> None:
    """Headers for a single hop are left out."""
    (tmp_path / "headers").write_text("Authorization: Bearer abc\n\nConnection: close\nX-A: 1\n")
    (tmp_path / "body.json").write_text('{"a": 1}')
    [route] = settings_of(tmp_path, "http://127.0.0.1:9").routes
    request = request_of(route, {"case_id": "7"}, tmp_path / "headers", tmp_path / "body.json")

    assert (request.method, request.path, request.body) == ("POST", "/api/cases/7/start", b'{"a": 1}')
    assert request.headers[2:] == [("authorization", "Bearer abc"), ("x-a", "1")]
    assert "abc" not in repr(request)


@pytest.mark.parametrize(
    ("parameters", "headers", "body", "says"),
    [
        ({}, None, None, "--param case_id"),
        ({"case_id": "7"}, "no colon", None, "--headers: line 1"),
        ({"case_id": "7"}, None, "{", "--data: the file is no JSON"),
    ],
)
def test_what_makes_no_request_is_refused(
    tmp_path: Path, parameters: dict[str, str], headers: str | None, body: str | None, says: str
) -> None:
    """Before anything is sent."""
    files = []
    for name, text in (("headers", headers), ("body", body)):
        files.append(None if text is None else tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    [route] = settings_of(tmp_path, "http://127.0.0.1:9").routes

    with pytest.raises(BadRequest, match=says):
        request_of(route, parameters, *files)
