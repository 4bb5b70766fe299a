"""Runs of the source `job` whose replica is gone: another one asks for the same job."""

import json
from collections import deque
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from proxy.observe.metrics import Metrics
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.store.records import StoredRequest
from proxy.replicas.takeover import LostRunAction, action_for
from proxy.runs.call import AcceptedJob, Call
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.upstream.client import Request
from tests.replicas.shared_run import ANN, STREAM, TARGET, same
from tests.replicas.sharing import KEY, replica
from tests.servers.client import browser, eventually, opened, read, signed
from tests.servers.jobs import DONE, JobApi, job_route, status
from tests.servers.scripted import ScriptedUpstream
from tests.servers.serving import headgate
from tests.servers.streaming import START, WHOLE
from tests.servers.valkey_server import ValkeyServer

SETTINGS = RouteSettings.model_validate(job_route(name="start"))
ROUTE = Route.compile(SETTINGS)
JOB = AcceptedJob(b"/api/jobs/j-1?full=1", "j-1", 0.5)


async def test_a_run_whose_job_is_known_is_taken_over_whatever_the_route_says(server: ValkeyServer) -> None:
    """The request is stored without its body, since it is not sent again. Before the job is known, the run
    is lost."""
    metrics = Metrics(CollectorRegistry(), [SETTINGS]).by_route["start"]
    call = Call(ROUTE, {"case_id": "7"}, Request("POST", TARGET, [(b"x-own", b"1")], b"the body"))
    run = Run(call, replace(STREAM, source="job"), ANN, metrics, deque(), fingerprint="print")
    async with (
        replica(server, routes={"start": ROUTE}) as dead,
        replica(server, routes={"start": ROUTE}) as other,
    ):
        assert await dead.runs.claim(run, ["key of the job"]) is None
        run.begun()
        run.begin(ROUTE.sections[0])
        copy = await other.followed(run.id)
        assert isinstance(copy, FollowedRun)
        await same(copy, run)
        before = await stored(server, copy)
        can_be_left = [dead.runs.can_be_left(run.id)]
        run.accept(JOB)
        await eventually(lambda: dead.runs.can_be_left(run.id))
        can_be_left.append(dead.runs.can_be_left(run.id))
        after = await stored(server, copy)
        await other.runs._takeover.handle_lost(copy, 0)
        [taken] = other.taken

    assert can_be_left == [False, True]
    assert action_for(copy, before, has_room=True) is LostRunAction.LOSE
    assert (before.job, after.job, taken.job) == (None, JOB, JOB)
    assert after.body == taken.call.request.body == b""
    assert taken.call.request.headers == call.request.headers
    assert taken.times_asked == run.times_asked == 1


async def stored(server: ValkeyServer, copy: FollowedRun) -> StoredRequest:
    async with server.client() as client:
        [key] = [name for name in await client.keys("*:order") if copy.id.encode() in name]
        return StoredRequest.opened(copy.box, await client.get(key))


async def test_a_job_outlives_the_replica_that_began_it(server: ValkeyServer, tmp_path: Path) -> None:
    """At a deploy, say: another replica goes on with the run, and the work is done once."""
    api = JobApi(status("running", "extraction"))
    store = {"valkey": {"url": server.url, "key": KEY, "prefix": "jobs"}}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with ScriptedUpstream(api).running() as upstream, browser() as client:
        settings = {"routes": [job_route({"cancel": True})], "event_log": store}
        async with headgate(upstream.url, tmp_path / "two", **settings) as two:
            async with (
                headgate(upstream.url, tmp_path / "one", drain_s=0.1, **settings) as one,
                opened(client, one.url + START, signed()) as stream,
            ):
                await stream.until(lambda event: event["stage"] == "summary")
                run, cursor = stream.run, stream.last["id"]
                runs = one.app.runs
                assert runs._shared is not None
                await eventually(lambda: runs._shared is not None and runs._shared.of(None).can_be_left(run))
            looks = api.looks
            api.status = DONE
            events = f"{two.url}/_headgate/runs/{run}/events?after={cursor}"
            rest = await read(client, events, signed(), method="GET")

    assert rest.last["type"] == "stream_done"
    assert rest.last["metadata"]["result"] == json.dumps(DONE)
    assert rest.last["metadata"]["recovered"] is True
    assert "".join(e["content"] for e in rest.events if e["stage"] == "summary") == WHOLE["summary"]
    assert api.calls[f"POST {START}"] == 1
    assert api.looks > looks
    assert not api.cancelled.is_set()
