"""Spans of runs and of viewers that are at different replicas, as a collector gets them."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers.client import Stream, browser, eventually, opened, signed
from tests.servers.otlp_receiver import OtlpReceiver, Received
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, headgate
from tests.servers.streaming import START, WHOLE, Held, answer, answering, logged, route, served
from tests.servers.valkey_server import ValkeyServer

KEY = "a key for the tests that is long enough"
BEGUN = "1" * 32
VIEWED = ("2" * 32, "3" * 32)
PARENT = "00f067aa0ba902b7"


def recorded(trace_id: str) -> dict[str, str]:
    """The headers of a user's request that is recorded in a trace."""
    return signed(traceparent=f"00-{trace_id}-{PARENT}-01", **{"x-request-id": f"request-{trace_id[:8]}"})


def settings(store: ValkeyServer, receiver: OtlpReceiver) -> dict[str, Any]:
    return {
        "event_log": {"valkey": {"url": store.url, "key": KEY}},
        "traces": {"endpoint": receiver.endpoint},
        "routes": [route(commit_after=0, replay="safe")],
    }


@asynccontextmanager
async def gates(
    upstream: ScriptedUpstream, directory: Path, **more: Any
) -> AsyncIterator[tuple[Serving, Serving]]:
    """Two replicas of this process, which end one after the other."""
    async with AsyncExitStack() as stack:
        found = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            found.append(await stack.enter_async_context(headgate(upstream.url, directory / name, **more)))
        yield found[0], found[1]


@asynccontextmanager
async def watching(client: httpx.AsyncClient, at: Serving, run: str, trace_id: str) -> AsyncIterator[Stream]:
    url = f"{at.url}/_headgate/runs/{run}/events"
    async with opened(client, url, recorded(trace_id), method="GET") as stream:
        yield stream


def request_of(receiver: OtlpReceiver, trace_id: str) -> Received:
    [found] = [each for each in receiver.spans if (each.kind, each.trace_id) == ("server", trace_id)]
    return found


def links_are_told(run: Any, number: int) -> bool:
    """True if a run's span, which is open, has as many links."""
    return len(run.call.span._run.links) >= number


async def test_a_viewer_elsewhere_is_linked_with_the_run_both_ways(
    tmp_path: Path, server: ValkeyServer
) -> None:
    """Whoever comes while it runs. Who comes later is linked with it, and the run has ended without."""
    held, receiver = Held(answering(answer())), OtlpReceiver()
    async with (
        receiver.running(),
        ScriptedUpstream(held).running() as upstream,
        gates(upstream, tmp_path, **settings(server, receiver)) as (one, two),
        browser() as client,
    ):
        async with opened(client, one.url + START, recorded(BEGUN)) as stream:
            [executed] = one.app.runs._live.values()
            async with watching(client, two, stream.run, VIEWED[0]) as viewer:
                await eventually(lambda: links_are_told(executed, 2))
                held.release.set()
                await asyncio.gather(stream.rest(), viewer.rest())
        async with watching(client, two, stream.run, VIEWED[1]) as late:
            await late.rest()
        assert viewer.texts() == late.texts() == WHOLE
    run, watched, came_late = receiver.named("run start"), *(request_of(receiver, each) for each in VIEWED)

    assert run.links == [request_of(receiver, BEGUN).span_id, watched.span_id]
    assert watched.links == came_late.links == [run.span_id]
    assert watched.attributes["headgate.run"] == run.attributes["headgate.run"]


async def test_a_run_that_is_taken_over_goes_on_in_its_trace(tmp_path: Path, server: ValkeyServer) -> None:
    """Below its span of before, which is lost with its replica; linked with those who watch it, wherever."""
    receiver = OtlpReceiver()
    whole, calls = Held(answering(answer())), []

    async def upstream_script(asked: Asked) -> None:
        calls.append(asked)
        if len(calls) > 1:
            await whole(asked)
        else:
            await asked.read_body()
            await asked.reader.read(1)

    async with receiver.running(), ScriptedUpstream(upstream_script).running() as upstream:
        shared = settings(server, receiver)
        (tmp_path / "lost").mkdir()
        with logged() as lines:
            async with (
                gates(upstream, tmp_path, **shared) as (one, two),
                served(upstream.url, tmp_path / "lost", **shared) as lost,
                browser() as client,
            ):
                async with opened(client, lost.url + START, recorded(BEGUN)) as stream:
                    id_of_run = stream.run
                    async with (
                        watching(client, one, id_of_run, VIEWED[0]) as here,
                        watching(client, two, id_of_run, VIEWED[1]) as there,
                    ):
                        lost.send_all(signal.SIGKILL)
                        await eventually(lambda: bool(one.app.runs._live or two.app.runs._live), 60)
                        [executed] = [*one.app.runs._live.values(), *two.app.runs._live.values()]
                        await eventually(lambda: links_are_told(executed, 2), 30)
                        whole.release.set()
                        await asyncio.gather(here.rest(), there.rest())
                assert here.texts() == there.texts() == WHOLE
    run, viewers = receiver.named("run start"), [request_of(receiver, each) for each in VIEWED]
    [call] = [each for each in receiver.spans if each.kind == "client"]

    assert (run.trace_id, run.attributes["headgate.generation"]) == (BEGUN, 1)
    assert run.parent_id in viewers[0].links and run.parent_id in viewers[1].links
    assert set(run.links) == {each.span_id for each in viewers}
    assert any(run.span_id in each.links for each in viewers)
    assert (call.parent_id, call.trace_id) == (run.span_id, BEGUN)
    assert (calls[1].header(b"traceparent") or b"").split(b"-")[2].decode() == call.span_id
    for said in (*lines("run taken over"), *lines("run ended")):
        assert (said["trace_id"], said["request"]) == (BEGUN, "request-11111111")
