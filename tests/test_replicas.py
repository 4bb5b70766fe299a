"""Replicas: two real processes, one real store, one upstream. Any of them serves any run."""

import asyncio
import random
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.scripted import Asked, Script, ScriptedUpstream
from tests.streaming import (
    EXTRACTION,
    START,
    SUMMARY,
    Held,
    Served,
    Stream,
    answer,
    answering,
    browser,
    eventually,
    opened,
    read,
    route,
    scrape,
    served,
    signed,
)
from tests.valkey_server import ValkeyServer, valkey

pytestmark = pytest.mark.anyio

WHOLE = {"extraction": EXTRACTION, "summary": SUMMARY}
KEY = "a key for the tests that is long enough"


@asynccontextmanager
async def replicas(
    script: Script, directory: Path, count: int = 2, **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, list[Served], httpx.AsyncClient, ValkeyServer]]:
    """As many processes, with what each route has in `route`."""
    routes = [route(commit_after=0, **more.pop("route", {}))]
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey(directory))
        upstream = await stack.enter_async_context(ScriptedUpstream(script).running())
        found = []
        for number in range(count):
            folder = directory / str(number)
            folder.mkdir()
            settings = {"event_log": {"valkey": {"url": store.url, "key": KEY}}, "routes": routes, **more}
            found.append(await stack.enter_async_context(served(upstream.url, folder, **settings)))
        client = await stack.enter_async_context(browser())
        yield upstream, found, client, store


def events(at: Served, run: str, query: str = "") -> str:
    return f"{at.url}/_headgate/runs/{run}/events{query}"


async def until_left(asked: Asked) -> None:
    await asked.read_body()
    await asked.reader.readexactly(1)


async def test_any_replica_serves_any_run(tmp_path: Path) -> None:
    """Live and afterwards, by token and by ticket, before it begins; the very same events."""
    held = Held(answering(answer()))
    async with replicas(held, tmp_path, attach_wait_s=3) as (upstream, (one, two), client, _):
        run = str(uuid.uuid4())
        early = asyncio.create_task(read(client, events(two, run), signed(), method="GET"))
        async with opened(client, one.url + START, signed(**{"headgate-run": run})) as stream:
            await stream.piece()
            ticket = await client.post(f"{one.url}/_headgate/tickets", headers=signed(), json={"run": run})
            by_ticket = asyncio.create_task(
                read(client, events(two, run, f"?ticket={ticket.json()['ticket']}"), {}, method="GET")
            )
            strangers = [await client.get(events(at, run), headers=signed("bob")) for at in (one, two)]
            held.release.set()
            await stream.rest()
        later = await read(client, events(two, run), signed(), method="GET")
        state = (await client.get(f"{two.url}/_headgate/runs/{run}", headers=signed())).json()

        assert stream.texts() == WHOLE
        assert (await early).events == (await by_ticket).events == later.events == stream.events
        assert [response.status_code for response in strangers] == [404, 404]
        assert (state["state"], state["events"]) == ("complete", len(stream.events))
        assert len(upstream.asked) == 1


async def test_a_request_joins_a_run_of_another_replica(tmp_path: Path) -> None:
    """As a stream and as the exact batch answer; by its idempotency key also after the end."""
    held = Held(answering(answer(), extra=b"x-own: 1\r\n"))
    async with replicas(held, tmp_path) as (upstream, (one, two), client, _):
        asked = signed(**{"idempotency-key": "k", "host": "clinic.example"})
        async with opened(client, one.url + START, asked, content=b"same") as stream:
            await stream.piece()
            joined = asyncio.create_task(read(client, two.url + START, asked, content=b"same"))
            batch = asyncio.create_task(
                client.post(two.url + START, headers={**asked, "accept": "application/json"}, content=b"same")
            )
            async with opened(client, two.url + START, asked, content=b"same") as another:
                await another.piece()
            await asyncio.sleep(0.3)
            held.release.set()
            await stream.rest()
        late = await read(client, two.url + START, asked, content=b"same")

        assert stream.texts() == WHOLE
        assert (await joined).events == late.events == stream.events
        assert (await batch).content == answer()
        assert (await batch).headers["x-own"] == "1"
        assert len(upstream.asked) == 1


async def test_a_run_is_ended_from_another_replica(tmp_path: Path) -> None:
    """Within a second, with its upstream connection."""
    async with replicas(until_left, tmp_path) as (upstream, (one, two), client, _):
        async with opened(client, one.url + START, signed()) as stream:
            await stream.piece()
            await eventually(lambda: upstream.open == 1)
            began = time.monotonic()
            ended = await client.delete(f"{two.url}/_headgate/runs/{stream.run}", headers=signed())
            await stream.rest()
            await upstream.left.wait()
            took = time.monotonic() - began

        assert ended.status_code == 202
        assert took < 1
        assert stream.last["metadata"]["error_code"] == "cancelled"


async def resumed(client: httpx.AsyncClient, at: Served, stream: Stream, user: str) -> list[dict[str, Any]]:
    """What a client has in the end that comes back with the last id it has."""
    cursor = {"last-event-id": stream.events[-1]["id"]} if stream.events else {}
    rest = await read(client, events(at, stream.run), signed(user, **cursor), method="GET")
    return stream.events + rest.events


async def test_a_deploy_loses_nothing(tmp_path: Path) -> None:
    """200 open streams of 50 runs, SIGTERM: each is sent away, comes back to the other replica, and has all
    of it in the end. The upstream is asked once a run, and the process ends when its runs have."""
    held = Held(answering(answer()))
    async with replicas(held, tmp_path, drain_s=30) as (upstream, (one, two), client, _):
        async with AsyncExitStack() as stack:
            streams: list[tuple[str, Stream]] = []
            for number in range(200):
                user = f"user{number // 4}"
                opening = opened(client, one.url + START, signed(user), content=b"same")
                streams.append((user, await stack.enter_async_context(opening)))
            for _, stream in streams:
                await stream.piece()
            assert len(upstream.asked) == 50
            began = time.monotonic()
            one.process.send_signal(signal.SIGTERM)
            for _, stream in streams:
                with pytest.raises(httpx.RemoteProtocolError):
                    await stream.rest()
            sent_away_s = time.monotonic() - began
            retries = [int(re.findall(rb"retry: (\d+)\n", stream.raw)[-1]) for _, stream in streams]
            coming = [asyncio.create_task(resumed(client, two, stream, user)) for user, stream in streams]
            await asyncio.sleep(random.uniform(0.2, 0.5))
            held.release.set()
            got = await asyncio.gather(*coming)
        async with asyncio.timeout(20):
            code = await one.process.wait()

        assert code == 0
        assert sent_away_s < 5
        assert min(retries) >= 1000
        assert max(retries) - min(retries) >= 5000
        for told in got:
            assert [event["id"].rpartition(":")[2] for event in told] == [
                str(number + 1) for number in range(len(told))
            ]
            assert told[-1]["type"] == "stream_done"
        assert len(upstream.asked) == 50


async def test_the_viewers_of_a_lost_replica_are_told(tmp_path: Path) -> None:
    """SIGKILL: what they have stays, and within 15 seconds they know that no more comes."""
    async with replicas(until_left, tmp_path) as (_, (one, two), client, _):
        async with opened(client, one.url + START, signed()) as stream:
            await stream.piece()
            watching = asyncio.create_task(read(client, events(two, stream.run), signed(), method="GET"))
            await asyncio.sleep(0.3)
            began = time.monotonic()
            one.process.kill()
            async with asyncio.timeout(20):
                told = None
                while told is None:  # its client gives up after 10 s of patience with one read
                    try:
                        told = await watching
                    except TimeoutError:
                        again = read(client, events(two, stream.run), signed(), method="GET")
                        watching = asyncio.create_task(again)
            took = time.monotonic() - began

        assert told.last["metadata"]["error_code"] == "replica_lost"
        assert took < 15


async def test_a_store_that_goes_down_costs_a_run_nothing(tmp_path: Path) -> None:
    """It goes on from memory, is complete, and the store's failure is counted."""
    held = Held(answering(answer()))
    async with replicas(held, tmp_path, 1) as (_, (one,), client, store):
        async with opened(client, one.url + START, signed()) as stream:
            await stream.piece()
            await store.kill()
            held.release.set()
            await stream.rest()
        second = await read(client, one.url + START, signed(), content=b"another")

        async def counted() -> bool:
            samples = await scrape(client, one.admin_url)
            faults = [
                value for name, value in samples.items() if 'fault="log_store"' in name and "faults_" in name
            ]
            key = 'headgate_runs_total{arm="stream",outcome="complete",route="start",source="batch"}'
            return sum(faults) >= 1 and samples[key] == 2

        await eventually(counted)

        assert stream.texts() == second.texts() == WHOLE
        log = one.log.read_text()
        assert SUMMARY[:12] not in log
        assert KEY not in log
        assert store.url not in log


async def test_workers_are_replicas(tmp_path: Path) -> None:
    """With a store, a reconnect is served by whichever worker takes it."""
    async with (
        valkey(tmp_path) as store,
        ScriptedUpstream(answering(answer())).running() as upstream,
        served(
            upstream.url,
            tmp_path,
            "--workers",
            "2",
            event_log={"valkey": {"url": store.url, "key": KEY}},
        ) as serving,
        browser() as client,
    ):
        anew = {"connection": "close"}
        first = await read(client, serving.url + START, signed(**anew))
        for _ in range(20):
            again = await read(client, events(serving, first.run), signed(**anew), method="GET")
            assert again.events == first.events

        assert len(upstream.asked) == 1
