"""The source `job`: an API that accepts the request, and is asked until the work is done."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.errors import UpstreamMalformed
from proxy.settings.blocks.sources import JobSettings
from proxy.sources.job_rules import JobLost, JobState, job_id, state, target_of
from proxy.upstream.client import Answer
from tests.servers.client import browser, eventually, opened, read, scrape, signed
from tests.servers.jobs import (
    DONE,
    JOB,
    LOCATION,
    RESULT,
    STATES,
    JobApi,
    answers,
    in_turn,
    job_route,
    resets,
    status,
)
from tests.servers.scripted import Asked, Script, ScriptedUpstream, silent
from tests.servers.serving import Serving, gated, headgate
from tests.servers.streaming import EXTRACTION, START, WHOLE, Lines, answer, logged
from tests.servers.tapping import CALLS, Provider, chat, trace_context

POST = f"POST {START}"
MANY_JOBS = 20


@asynccontextmanager
async def house(
    api: JobApi, directory: Path, job: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[tuple[Serving, httpx.AsyncClient, Lines]]:
    with logged() as lines:
        async with (
            gated(api, directory, routes=[job_route(job, **more)]) as (_, serving),
            browser(serving.url) as client,
        ):
            yield serving, client, lines


async def test_sections_are_shown_as_they_become_ready(tmp_path: Path) -> None:
    """A part that is still being written is not; the result is the answer, as the job's API gives it."""
    api = JobApi()
    async with house(api, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        await api.seen()
        assert stream.types == ["stage_start"]
        api.status = status("running", "extraction")
        await stream.until(lambda event: event["stage"] == "summary")
        assert stream.texts() == {"extraction": EXTRACTION, "summary": ""}
        api.status = status("running", "extraction", "summary")
        await stream.until(lambda event: event["type"] == "stage_complete" and event["stage"] == "summary")
        api.status = DONE
        await stream.rest()

    assert stream.texts() == WHOLE
    assert "content_replace" not in stream.types
    assert stream.last["type"] == "stream_done"
    assert stream.last["metadata"]["result"] == json.dumps(DONE)
    assert stream.last["metadata"]["source"] == "job"
    assert stream.last["metadata"]["recovered"] is False
    assert api.calls[POST] == 1


async def test_a_client_that_polls_by_itself_notices_nothing(tmp_path: Path) -> None:
    """The same user, with the flag, who takes the batch answer: 202, its headers and the status, untouched,
    though the job of an equal request is streamed just now."""
    api = JobApi()
    async with house(api, tmp_path) as (serving, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["type"] == "stage_start")
        asked = signed(accept="application/json")
        begun = await client.post(START, headers=asked)
        looked = await client.get(begun.headers["location"], headers=asked)
        api.status = DONE
        await stream.rest()

        async def both_are_complete() -> bool:
            samples = await scrape(client, serving.admin_url)
            of_route = {name: n for name, n in samples.items() if "headgate_outcomes_total" in name and n}
            return sum(n for name, n in of_route.items() if '"complete"' in name) == 2

        await eventually(both_are_complete)

    assert (begun.status_code, begun.content) == (202, b'{"id": "j-1", "status": "queued"}')
    assert (begun.headers["location"], "headgate-run" in begun.headers) == (JOB, False)
    assert looked.content == json.dumps(status()).encode()
    assert api.calls[POST] == 2


@pytest.mark.parametrize(
    ("job", "document", "expected"),
    [
        ({"result": "$.output"}, {"output": json.loads(answer())}, json.loads(answer())),
        ({"result_path": "/api/jobs/{job}/result"}, {}, json.loads(answer())),
        (
            {"result_location_at": "$.links.result"},
            {"links": {"result": "./j-1/result"}},
            json.loads(answer()),
        ),
    ],
    ids=["in the status", "by its path", "by its URL"],
)
async def test_where_a_result_may_stand(
    tmp_path: Path, job: dict[str, Any], document: dict[str, Any], expected: Any
) -> None:
    """In the status, or as a resource of its own, whose bytes are the answer."""
    api = JobApi(status("done", **document))
    async with house(api, tmp_path, job) as (_, client, _):
        stream = await read(client, START, signed())

    assert stream.texts() == WHOLE
    assert json.loads(stream.last["metadata"]["result"]) == expected
    assert api.calls[f"GET {RESULT}"] == (0 if "result" in job else 1)


async def test_the_status_code_may_say_it_all(tmp_path: Path) -> None:
    """202 while the job runs; then 303 See Other, and the result is there."""
    api = JobApi(
        look=in_turn(
            answers(b"", b"202 Accepted"), answers(b"", b"303 See Other", b"location: j-1/result\r\n")
        )
    )
    async with house(api, tmp_path, {name: [] if name != "status" else None for name in STATES}) as (
        _,
        client,
        _,
    ):
        stream = await read(client, START, signed())

    assert stream.texts() == WHOLE
    assert stream.last["metadata"]["result"] == answer().decode()
    assert api.calls == {POST: 1, f"GET {JOB}": 2, f"GET {RESULT}": 1}


@pytest.mark.parametrize(
    ("job", "named"),
    [
        ({}, answers(b"", b"202 Accepted", b"location: http://clinic.example/api/jobs/j-1\r\n")),
        ({}, answers(b"Accepted", b"202 Accepted", b"location: ../../jobs/j-1\r\n")),
        (
            {"location": "Operation-Location"},
            answers(b"", b"202 Accepted", b"operation-location: /api/jobs/j-1\r\n"),
        ),
        ({"location_at": "$.urls.get"}, answers(b'{"urls": {"get": "/api/jobs/j-1"}}', b"202 Accepted")),
        ({"path": "/api/jobs/{job}"}, answers(b'{"id": "j-1"}', b"202 Accepted")),
        (
            {"path": "/api/jobs/{job}", "id": "$.job", "accepted": [201]},
            answers(b'{"job": "j-1"}', b"201 Created"),
        ),
    ],
    ids=["a public URL", "relative", "another header", "in the body", "by its id", "another status"],
)
async def test_how_a_job_may_be_named(tmp_path: Path, job: dict[str, Any], named: Script) -> None:
    """Also by the name that the client knows the upstream by. The polls carry the caller's credentials."""
    api = JobApi(DONE, accept=named)
    async with house(api, tmp_path, job, replay="safe") as (_, client, _):
        asked = signed(host="clinic.example", **{"idempotency-key": "k"})
        stream = await read(client, START, asked, json={"text": "x"})

    look = api.asked[-1]
    assert stream.texts() == WHOLE
    assert api.calls[POST] == 1
    assert look.header(b"authorization") == asked["authorization"].encode()
    assert look.header(b"idempotency-key") is look.header(b"content-type") is None
    assert api.asked[0].header(b"idempotency-key") == b"k"


@pytest.mark.parametrize(
    "location",
    [
        b"location: http://169.254.169.254/latest/meta-data\r\n",
        b"location: //elsewhere.example/api/jobs/j-1\r\n",
        b"",
    ],
)
async def test_a_job_at_another_origin_is_not_asked_for(tmp_path: Path, location: bytes) -> None:
    """Its client gets the answer that there is, and may know more."""
    api = JobApi(accept=answers(b'{"id": "j-1"}', b"202 Accepted", location))
    async with house(api, tmp_path) as (_, client, lines):
        stream = await read(client, START, signed(host="clinic.example"))

    assert api.calls == {POST: 1}
    assert stream.last["type"] == "stream_done"
    assert (stream.last["metadata"]["status"], stream.last["metadata"]["result"]) == (202, '{"id": "j-1"}')
    assert len(lines("source lost")) == 1


async def test_a_jobs_request_is_not_held_while_it_runs(tmp_path: Path) -> None:
    """Its body is never sent again. A request that joins the run later is still compared with it."""
    api = JobApi()
    async with house(api, tmp_path) as (serving, client, _):
        asked = signed(**{"idempotency-key": "k"})
        async with opened(client, START, asked, content=b"x" * 1000) as stream:
            await stream.until(lambda event: event["type"] == "stage_start")
            held = serving.app.gateway.bodies.held
            joined = asyncio.create_task(read(client, START, asked, content=b"x" * 1000))
            other = await client.post(START, headers=asked, content=b"y" * 1000)
            await api.seen()
            api.status = DONE
            await stream.rest()
        assert (await joined).events == stream.events

    assert held == 0
    assert other.status_code == 422
    assert api.calls[POST] == 1


async def test_an_answer_that_comes_at_once_is_the_answer(tmp_path: Path) -> None:
    """200 instead of 202: nothing is asked for."""
    api = JobApi(accept=answers(answer()))
    async with house(api, tmp_path) as (_, client, _):
        stream = await read(client, START, signed())

    assert stream.texts() == WHOLE
    assert api.calls == {POST: 1}


async def test_a_refused_request_has_its_own_status(tmp_path: Path) -> None:
    """Every source does the same."""
    api = JobApi(accept=answers(b'{"detail": "no"}', b"422 No"))
    async with house(api, tmp_path, commit_after=10) as (_, client, _):
        stream = await read(client, START, signed())

    assert (stream.status, stream.raw) == (422, b'{"detail": "no"}')


async def test_a_job_that_fails_ends_its_run(tmp_path: Path) -> None:
    """The parts that were ready stay. The arms are compared by what a relayed request would be: accepted."""
    api = JobApi(status("running", "extraction"))
    async with house(api, tmp_path) as (serving, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "summary")
        api.status = status("failed")
        await stream.rest()
        samples = await scrape(client, serving.admin_url)

    assert stream.texts() == {"extraction": EXTRACTION, "summary": ""}
    assert stream.last["metadata"] | {"status": 0} == {
        "error_code": "job_failed",
        "retry_available": True,
        "partial": True,
        "status": 0,
    }
    outcomes = {name: n for name, n in samples.items() if "headgate_outcomes_total" in name and n}
    assert [n for name, n in outcomes.items() if '"complete"' in name] == list(outcomes.values()) == [1]


@pytest.mark.parametrize(
    "fault", [answers(b"no", b"503 Busy"), answers(b"{"), resets], ids=["503", "cut", "reset"]
)
async def test_a_look_that_fails_is_repeated(tmp_path: Path, fault: Script) -> None:
    """The job is known, so nothing is lost, and nothing is asked for twice. The failure is counted."""
    api = JobApi(look=in_turn(fault, fault, answers(json.dumps(DONE).encode())))
    async with house(api, tmp_path) as (_, client, _):
        stream = await read(client, START, signed())

    assert stream.texts() == WHOLE
    assert stream.last["metadata"]["recovered"] is True
    assert api.calls[POST] == 1


@pytest.mark.parametrize(
    ("look", "code", "expected_status"),
    [
        (answers(b"gone", b"404 None"), "status", 404),
        (answers(b"no", b"401 Who"), "status", 401),
        (answers(b"{}", b"500 Oh"), "status", 500),
        (answers(b"{"), "malformed", 502),
        (answers(b'{"status": "odd"}'), "malformed", 502),
        (answers(b"", b"303 See Other", b"location: //elsewhere.example/\r\n"), "malformed", 502),
        (resets, "reset", 502),
    ],
    ids=["not found", "refused", "failing", "cut", "an unknown state", "another origin", "reset"],
)
async def test_a_job_that_is_lost_ends_its_run(
    tmp_path: Path, look: Script, code: str, expected_status: int
) -> None:
    """At once where another look would change nothing, else after `lost_after_s`. The request is never sent
    again, however safe that is."""
    api = JobApi(look=look)
    async with house(api, tmp_path, {"lost_after_s": 0.5}, replay="safe") as (_, client, _):
        stream = await read(client, START, signed())

    told = stream.last["metadata"]
    assert (stream.last["type"], told["error_code"], told["status"]) == ("error", code, expected_status)
    assert api.calls[POST] == 1
    assert api.looks == {404: 3, 401: 1}.get(expected_status, api.looks)


async def test_a_job_that_takes_too_long_ends_its_run(tmp_path: Path) -> None:
    """`total_s` is from the request to the result."""
    api = JobApi()
    async with house(api, tmp_path, {"total_s": 0.3}) as (_, client, _):
        stream = await read(client, START, signed())

    assert stream.last["metadata"]["error_code"] == "total_timeout"


async def test_a_look_without_an_answer_is_given_up(tmp_path: Path) -> None:
    """A status is there at once; the run does not wait for it as long as for an answer."""
    api = JobApi(look=in_turn(silent, answers(json.dumps(DONE).encode())))
    async with house(api, tmp_path, {"lost_after_s": 1}) as (_, client, _):
        stream = await read(client, START, signed())

    assert stream.texts() == WHOLE
    assert stream.last["metadata"]["recovered"] is True


async def test_the_api_may_ask_for_longer_pauses(tmp_path: Path) -> None:
    """`Retry-After`, of the 202 too: no look comes before."""
    accept = answers(b"{}", b"202 Accepted", LOCATION + b"retry-after: 1\r\n")
    api = JobApi(DONE, accept=accept)
    loop = asyncio.get_running_loop()
    async with house(api, tmp_path) as (_, client, _):
        began = loop.time()
        stream = await read(client, START, signed())

    assert stream.texts() == WHOLE
    assert loop.time() - began >= 0.8


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_cancelled_run_cancels_its_job_where_the_settings_say_so(
    tmp_path: Path, cancel: bool
) -> None:
    """With DELETE, and the caller's credentials. Otherwise the job goes on, unwatched."""
    api = JobApi()
    async with house(api, tmp_path, {"cancel": cancel}) as (_, client, lines):
        async with opened(client, START, signed()) as stream:
            await stream.until(lambda event: event["type"] == "stage_start")
            await api.seen()
            run = f"/_headgate/runs/{stream.run}"
            assert (await client.delete(run, headers=signed())).status_code == 202
            await stream.rest()
        await eventually(lambda: len(lines("run ended")) == 1)
        if cancel:
            await asyncio.wait_for(api.cancelled.wait(), 10)

    assert stream.last["metadata"]["error_code"] == "cancelled"
    assert api.calls[f"DELETE {JOB}"] == int(cancel)
    if cancel:
        assert api.asked[-1].header(b"authorization") == signed()["authorization"].encode()


@pytest.mark.parametrize(
    ("refusal", "why"),
    [(answers(b"no", b"405 No"), "status 405"), (resets, "no answer")],
    ids=["405", "reset"],
)
async def test_a_job_that_cannot_be_cancelled_is_let_alone(tmp_path: Path, refusal: Script, why: str) -> None:
    """Its run has ended all the same; a line of the log says so, once, and DELETE is not sent again."""
    api = JobApi(cancel=refusal)
    async with house(api, tmp_path, {"cancel": True}) as (_, client, lines):
        async with opened(client, START, signed()) as stream:
            await stream.until(lambda event: event["type"] == "stage_start")
            await api.seen()
            await client.delete(f"/_headgate/runs/{stream.run}", headers=signed())
            await stream.rest()
        await eventually(lambda: len(lines("job not cancelled")) == 1)

    assert stream.last["metadata"]["error_code"] == "cancelled"
    assert [line["why"] for line in lines("job not cancelled")] == [why]
    assert api.calls[f"DELETE {JOB}"] == 1


async def test_a_result_that_is_not_there_ends_the_run_with_its_status(tmp_path: Path) -> None:
    """The job is done, and is not asked for again; its request is never sent again."""
    api = JobApi(DONE, fetch=answers(b"gone", b"404 None"))
    async with house(api, tmp_path, {"result_path": "/api/jobs/{job}/result"}, replay="safe") as (
        _,
        client,
        _,
    ):
        stream = await read(client, START, signed())

    told = stream.last["metadata"]
    assert (stream.last["type"], told["error_code"], told["status"]) == ("error", "status", 404)
    assert (api.calls[POST], api.looks, api.calls[f"GET {RESULT}"]) == (1, 1, 3)


async def test_many_jobs_are_asked_for_one_look_at_a_time_each(tmp_path: Path) -> None:
    """An API that is slow to say how a job stands is asked no more often for that, and no job is lost."""
    now: Counter[bytes] = Counter()
    most: Counter[bytes] = Counter()
    come, is_done = asyncio.Event(), asyncio.Event()

    async def slow(asked: Asked) -> None:
        now[asked.target] += 1
        most[asked.target] = max(most[asked.target], now[asked.target])
        if len(most) == MANY_JOBS:
            come.set()
        await is_done.wait()
        now[asked.target] -= 1
        await asked.answer(json.dumps(DONE).encode())

    names = itertools.count()

    async def accept(asked: Asked) -> None:
        await asked.answer(b"{}", b"202 Accepted", b"location: /api/jobs/j-%d\r\n" % next(names))

    api = JobApi(accept=accept, look=slow)
    async with house(api, tmp_path) as (_, client, _):
        streams = [asyncio.create_task(read(client, START, signed(f"user{n}"))) for n in range(MANY_JOBS)]
        await asyncio.wait_for(come.wait(), 60)
        is_done.set()
        ended = await asyncio.gather(*streams)

    assert all(stream.texts() == WHOLE for stream in ended)
    assert set(most.values()) == {1} and api.calls[POST] == MANY_JOBS


async def test_a_client_that_leaves_leaves_the_job_alone(tmp_path: Path) -> None:
    """Even where cancelled runs cancel their jobs: the run goes on, and is there to come back to."""
    api = JobApi(status("running", "extraction"))
    async with house(api, tmp_path, {"cancel": True}) as (_, client, lines):
        async with opened(client, START, signed()) as stream:
            await stream.until(lambda event: event["stage"] == "summary")
        cursor = stream.last["id"]
        api.status = DONE
        await eventually(lambda: len(lines("run ended")) == 1)
        back = await read(client, START, signed(**{"last-event-id": cursor}))

    assert not api.cancelled.is_set()
    assert back.last["type"] == "stream_done"
    assert api.calls[POST] == 1


async def test_an_unwatched_job_is_cancelled_where_the_route_says_so(tmp_path: Path) -> None:
    """`unwatched: cancel`, after its `grace_s`."""
    api = JobApi()
    more = {"unwatched": "cancel", "grace_s": 0.05}
    async with house(api, tmp_path, {"cancel": True}, **more) as (_, client, _):
        async with opened(client, START, signed()) as stream:
            await stream.until(lambda event: event["type"] == "stage_start")
            await api.seen()
        await asyncio.wait_for(api.cancelled.wait(), 10)

    assert api.calls[f"DELETE {JOB}"] == 1


async def test_the_tap_takes_a_jobs_tokens(tmp_path: Path) -> None:
    """The model calls of a job come after the 202, and are shown while they are written."""
    provider = Provider()
    urls: dict[str, str] = {}
    tasks: list[asyncio.Task[None]] = []

    async def accept(asked: Asked) -> None:
        tasks.append(asyncio.create_task(work(trace_context(asked))))
        await asked.answer(b"{}", b"202 Accepted", LOCATION)

    async def work(headers: dict[str, str]) -> None:
        async with browser(urls["model"]) as client:
            for prompt in ("extraction", "summary"):
                path = "/models/v1/chat/completions"
                (await client.post(path, json=chat(prompt), headers=headers)).raise_for_status()

    api = JobApi(accept=accept)
    async with provider.upstream.running() as model, ScriptedUpstream(api).running() as upstream:
        llm = {"providers": [{"name": "models", "url": model.url}]}
        routes = [job_route(tap=CALLS)]
        async with headgate(upstream.url, tmp_path, routes=routes, llm=llm) as serving:
            urls["model"] = serving.model_url
            async with browser(serving.url) as client, opened(client, START, signed()) as stream:
                await stream.until(
                    lambda event: event["type"] == "stage_complete" and event["stage"] == "summary"
                )
                api.status = DONE
                await stream.rest()
    await asyncio.gather(*tasks)

    assert stream.texts() == WHOLE
    assert stream.last["metadata"]["recovered"] is False
    assert [body["stream"] for body in provider.bodies] == [True, True]


# Without a network


def settings(**more: Any) -> JobSettings:
    return JobSettings.model_validate(more)


@pytest.mark.parametrize(
    ("chosen", "code", "document", "expected"),
    [
        (STATES, 200, {"status": "queued"}, JobState.RUNNING),
        (STATES, 200, {"status": "done"}, JobState.DONE),
        (STATES, 200, {"status": "failed"}, JobState.FAILED),
        (STATES, 200, {"status": "odd"}, JobLost),
        (STATES, 200, {}, UpstreamMalformed),
        (STATES, 202, None, JobState.RUNNING),
        ({"status": "$.s", "done": ["done"]}, 200, {"s": "odd"}, JobState.RUNNING),
        ({"status": "$.done", "done": [True]}, 200, {"done": True}, JobState.DONE),
        ({"status": "$.done", "done": [True]}, 200, {"done": 1}, JobState.RUNNING),
        ({"status": "$.done", "done": [True]}, 200, {"done": False}, JobState.RUNNING),
        ({}, 202, None, JobState.RUNNING),
        ({}, 200, None, JobState.DONE),
    ],
)
def test_which_states_mean_what(
    chosen: dict[str, Any], code: int, document: Any, expected: JobState | type[Exception]
) -> None:
    """Of the same type too. Where `running` is empty, what is in no list is at work."""
    if isinstance(expected, JobState):
        assert state(settings(**chosen), Answer(code, [], b""), document) is expected
        return
    with pytest.raises(expected):
        state(settings(**chosen), Answer(code, [], b""), document)


AUTHORITIES = [b"127.0.0.1:8000", b"Clinic.example"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/jobs/1", b"/jobs/1"),
        ("1?full=1#top", b"/api/1?full=1"),
        ("../x/1", b"/x/1"),
        ("http://127.0.0.1:8000/jobs/1", b"/jobs/1"),
        ("https://clinic.example/jobs/1", b"/jobs/1"),
        ("https://clinic.example:443/jobs/1", b"/jobs/1"),
        ("http://127.0.0.1/jobs/1", None),
        ("https://clinic.example:8443/jobs/1", None),
        ("//-/jobs/1", b"/jobs/1"),
        ("ftp://clinic.example/jobs/1", None),
        ("http://[::1/jobs", None),
        ("http://clinic.example:x/jobs", None),
        ("/a b", None),
        ("/\u00e9", None),
        ("/a\r\nx: y", None),
        ("/" + "a" * 5000, None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_a_jobs_url_is_a_path_of_the_upstream(url: Any, expected: bytes | None) -> None:
    """Nobody but the upstream is asked, whatever the URL says."""
    if expected is not None:
        assert target_of(url, b"/api/start?x=1", AUTHORITIES) == expected
        return
    with pytest.raises(JobLost):
        target_of(url, b"/api/start?x=1", AUTHORITIES)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("j-1", "j-1"),
        (7, "7"),
        ("a/../b?c", "a%2F..%2Fb%3Fc"),
        *((odd, None) for odd in ("", "..", True, None, "x" * 513, "\ud800", {"a": 1})),
    ],
)
def test_a_jobs_id_is_one_segment(value: Any, expected: str | None) -> None:
    """It cannot lead to another path."""
    if expected is not None:
        assert job_id(value) == expected
        return
    with pytest.raises(JobLost):
        job_id(value)
