"""Replicas: two real processes, one real store, one upstream. Any of them serves any run."""

import asyncio
import random
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.identity import Identity
from tests.servers.client import Stream, browser, eventually, opened, read, scrape, signed, texts
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, Script, ScriptedUpstream
from tests.servers.streaming import (
    EXTRACTION,
    START,
    SUMMARY,
    WHOLE,
    Held,
    Served,
    answer,
    answering,
    route,
    served,
)
from tests.servers.tapping import EVENT_STREAM, Backend, Provider, tapped_route
from tests.servers.valkey_server import ValkeyServer, valkey

KEY = "a key for the tests that is long enough"


@asynccontextmanager
async def replicas(
    script: Script, directory: Path, count: int = 2, **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, list[Served], httpx.AsyncClient, ValkeyServer]]:
    """Start as many processes, with what each route has in `route`."""
    routes = [route(**{"commit_after": 0, **more.pop("route", {})})]
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey(directory))
        upstream = await stack.enter_async_context(ScriptedUpstream(script).running())
        found = []
        for number in range(count):
            folder = directory / str(number)
            folder.mkdir()
            settings = {
                "event_log": {"valkey": {"url": store.url, "key": KEY}},
                "flags": {"settle_s": 0},
                "routes": routes,
                **more,
            }
            found.append(await stack.enter_async_context(served(upstream.url, folder, **settings)))
        client = await stack.enter_async_context(browser())
        yield upstream, found, client, store


def events(at: Served, run: str, query: str = "") -> str:
    return f"{at.url}/_headgate/runs/{run}/events{query}"


async def live_runs(client: httpx.AsyncClient, at: Served, name: str = "ann") -> list[str]:
    """Ids of a user's runs in flight, as a replica tells them."""
    found = (await client.get(f"{at.url}/_headgate/runs", headers=signed(name))).json()["runs"]
    assert all(one.keys() == {"run", "route", "age_s"} and 0 <= one["age_s"] < 600 for one in found)
    return [one["run"] for one in found]


async def eventually_none_live(client: httpx.AsyncClient, at: Served) -> None:
    """A replica hears of the end of another's run from the store."""
    async with asyncio.timeout(20):
        while await live_runs(client, at):  # noqa: ASYNC110 - another process knows
            await asyncio.sleep(0.05)


async def until_left(asked: Asked) -> None:
    await asked.read_body()
    await asked.reader.readexactly(1)


async def test_any_replica_serves_any_run(tmp_path: Path) -> None:
    """Live and afterwards, by token and by ticket, even before the run begins: the same events."""
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
            listed = {
                name: [await live_runs(client, at, name) for at in (one, two)] for name in ("ann", "bob")
            }
            held.release.set()
            await stream.rest()
        await eventually_none_live(client, two)
        later = await read(client, events(two, run), signed(), method="GET")
        state = (await client.get(f"{two.url}/_headgate/runs/{run}", headers=signed())).json()

        assert stream.texts() == WHOLE
        assert (await early).events == (await by_ticket).events == later.events == stream.events
        assert [response.status_code for response in strangers] == [404, 404]
        assert listed == {"ann": [[run], [run]], "bob": [[], []]}
        assert (state["state"], state["events"]) == ("complete", len(stream.events))
        assert len(upstream.asked) == 1


async def test_a_failure_before_any_text_is_told_alike_by_every_replica(tmp_path: Path) -> None:
    """The upstream's own status; or an event, for whoever asks so beside a page that has the status."""
    held = Held(answering(b'{"detail":"expired"}', b"401 Unauthorized"))
    async with replicas(held, tmp_path, route={"commit_after": 15}) as (_, (one, two), client, _):
        run = str(uuid.uuid4())
        headers = signed(accept="application/json", **{"headgate-run": run})
        page = asyncio.create_task(client.post(one.url + START, headers=headers))
        await held.come.wait()
        asked = [(at, query) for at in (one, two) for query in ("", "?failure=event")]
        waiting = [
            asyncio.create_task(client.get(events(at, run, query), headers=signed())) for at, query in asked
        ]
        for at in (one, two):
            await eventually(partial(_has_viewers, client, at, 2))
        held.release.set()
        told = [await each for each in waiting]
        told += [await client.get(events(at, run, query), headers=signed()) for at, query in asked]
        strangers = [await client.get(events(at, run, query), headers=signed("bob")) for at, query in asked]

    assert (await page).status_code == 401
    assert [each.status_code for each in told] == [401, 200] * 4
    assert {each.content for each in told[::2]} == {(await page).content}
    assert all('"status":401' in each.text for each in told[1::2])
    assert [each.status_code for each in strangers] == [404] * 4


async def _has_viewers(client: httpx.AsyncClient, at: Served, count: int) -> bool:
    return (await scrape(client, at.admin_url))['headgate_viewers{route="start"}'] == count


async def test_a_request_joins_a_run_of_another_replica(tmp_path: Path) -> None:
    """It joins as a stream and as the exact batch answer; by its idempotency key also after the end."""
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
    """Soon, with its upstream connection."""
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
        assert took < 10
        assert stream.last["metadata"]["error_code"] == "cancelled"


async def resumed(client: httpx.AsyncClient, at: Served, stream: Stream, user: str) -> list[dict[str, Any]]:
    """All events of a client that reconnects with the last id it has."""
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
    """SIGKILL: viewers keep what they have, and within 15 seconds they see that no more comes."""
    async with replicas(until_left, tmp_path) as (_, (one, two), client, _):
        async with opened(client, one.url + START, signed()) as stream:
            await stream.piece()
            watching = asyncio.create_task(read(client, events(two, stream.run), signed(), method="GET"))
            await asyncio.sleep(0.3)
            began = time.monotonic()
            one.send_all(signal.SIGKILL)
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


# A replica that is gone, on a route that may be repeated


class Twice:
    """An upstream that sends the beginning of its answer, and the rest once it is released."""

    def __init__(self, *bodies: bytes) -> None:
        self.bodies = bodies
        self.asked = 0
        self.release = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        body = self.bodies[min(self.asked, len(self.bodies) - 1)]
        self.asked += 1
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        until = body.index(b'"summary"')
        await asked.send(head % len(body) + body[:until])
        await self.release.wait()
        await asked.send(body[until:])


async def gone(store: ValkeyServer) -> None:
    """The leases of dead replicas end; living ones renew theirs."""
    async with store.client() as looking:
        await looking.delete(*await looking.keys("headgate:replica:*"))


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [int(event["id"].rpartition(":")[2]) for event in events]


def check_whole(events: list[dict[str, Any]], whole: dict[str, str] = WHOLE) -> None:
    """One log, from its first event to its one end, and the text of the answer."""
    assert numbers(events) == list(range(1, len(events) + 1))
    assert [event["type"] for event in events if event["type"] in {"error", "stream_done"}] == ["stream_done"]
    assert events[-1]["type"] == "stream_done"
    assert texts(events) == whole


async def recovered(client: httpx.AsyncClient, *at: Served) -> dict[str, float]:
    """Return what these replicas have counted of runs, outcomes, failures and recoveries, but for zeros."""
    counted: dict[str, float] = {}
    for one in at:
        for name, value in (await scrape(client, one.admin_url)).items():
            if value and name.startswith(COUNTED):
                counted[name] = counted.get(name, 0) + value
    return {name: value for name, value in counted.items() if "_created" not in name}


BUCKET = Identity("", "ann").bucket

COUNTED = ("headgate_runs_total", "headgate_outcomes_total", "headgate_faults_", "headgate_recoveries_")

ONCE = {
    'headgate_runs_total{arm="stream",outcome="recovered",route="start",source="batch"}': 1,
    f'headgate_outcomes_total{{arm="stream",bucket="{BUCKET}",outcome="recovered",route="start"}}': 1,
    'headgate_faults_total{fault="reset",phase="content",route="start"}': 1,
    'headgate_recoveries_total{fault="reset",result="recovered",route="start"}': 1,
}


async def test_a_run_of_a_lost_replica_is_completed_by_one_of_the_others(tmp_path: Path) -> None:
    """SIGKILL. Three others watch; one of them asks the upstream once more, and all of them, and the client
    whose own replica it was, have one log, and the text of the answer."""
    upstream_ = Twice(answer())
    more = {"route": {"replay": "safe"}}
    async with replicas(upstream_, tmp_path, 4, **more) as (upstream, (one, *others), client, store):
        async with (
            AsyncExitStack() as stack,
            opened(client, one.url + START, signed(), content=b"secret body") as stream,
        ):
            await stream.until(lambda event: event["type"] == "stage_complete")
            watching = []
            for other in others:
                opening = opened(client, events(other, stream.run), signed(), method="GET")
                watching.append(await stack.enter_async_context(opening))
            for watched in watching:
                await watched.until(lambda event: event["type"] == "stage_complete")
            one.send_all(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await stream.rest()
            # Nobody waits for longer than 15 s, and the upstream may need some of them.
            await eventually(lambda: len(upstream.asked) == 2, 13)
            back = asyncio.create_task(resumed(client, others[0], stream, "ann"))
            upstream_.release.set()
            ended = [await watched.rest() for watched in watching]
        counted = await recovered(client, *others)

        for watched in ended:
            check_whole(watched.events)
            assert watched.last["metadata"]["recovered"]
            assert watched.events == ended[0].events
        check_whole(await back)
        assert [asked.body for asked in upstream.asked] == [b"secret body"] * 2
        assert upstream.asked[0].header(b"authorization") == upstream.asked[1].header(b"authorization")
        assert counted == ONCE
        async with store.client() as looking:
            assert not await looking.keys("*:order")


async def test_a_run_that_outlasts_the_drain_is_left_to_another_replica(tmp_path: Path) -> None:
    """SIGTERM, and the upstream is slower than `drain_s`: as after SIGKILL, another replica completes it, and
    nobody is told that the proxy shuts down. One that may not be repeated ends here, and says so."""
    upstream_ = Twice(answer())
    unsafe = route(name="unsafe", match="POST /api/unsafe", stream_path=None, commit_after=0)
    routes = [route(commit_after=0, replay="safe"), unsafe]
    async with replicas(upstream_, tmp_path, drain_s=1, routes=routes) as (upstream, (one, two), client, _):
        async with (
            opened(client, one.url + START, signed()) as stream,
            opened(client, events(two, await _run_of(stream)), signed(), method="GET") as watched,
            opened(client, one.url + "/api/unsafe", signed()) as other,
        ):
            await watched.until(lambda event: event["type"] == "stage_complete")
            one.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.TransportError):
                await stream.rest()
            await eventually(lambda: len(upstream.asked) == 3, 13)
            upstream_.release.set()
            await watched.rest()
            with pytest.raises(httpx.TransportError):
                await other.rest()
        back = await read(client, events(two, other.run), signed(), method="GET")

        check_whole(watched.events)
        assert watched.last["metadata"]["recovered"]
        assert back.last["metadata"]["error_code"] == "shutdown"


async def test_all_runs_that_outlast_the_drain_are_left(tmp_path: Path) -> None:
    """Twenty-five at once, each of another user: all are completed as after SIGKILL, each asked once more."""
    upstream_ = Twice(answer())
    users = [f"user-{number}" for number in range(25)]
    more = {"drain_s": 1, "route": {"replay": "safe"}}
    async with replicas(upstream_, tmp_path, **more) as (upstream, (one, two), client, _):
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(opened(client, one.url + START, signed(user)))
                for user in users
            ]
            runs = [await _run_of(stream) for stream in streams]
            watching = [
                await stack.enter_async_context(opened(client, events(two, run), signed(user), method="GET"))
                for run, user in zip(runs, users, strict=True)
            ]
            for watched in watching:
                await watched.until(lambda event: event["type"] == "stage_complete")
            one.process.send_signal(signal.SIGTERM)
            await eventually(lambda: len(upstream.asked) == 2 * len(users), 30)
            upstream_.release.set()
            for watched in watching:
                await watched.rest()
        left = await recovered(client, two)

    for watched in watching:
        check_whole(watched.events)
        assert watched.last["metadata"]["recovered"]
    assert len(upstream.asked) == 2 * len(users)
    runs_of = {name: count for name, count in left.items() if name.startswith("headgate_runs_total")}
    assert runs_of == {next(iter(ONCE)): len(users)}


async def _run_of(stream: Stream) -> str:
    await stream.until(lambda event: event["type"] == "stage_complete")
    return stream.run


async def test_text_that_comes_out_differently_is_replaced_once(tmp_path: Path) -> None:
    """A language model does not say the same twice: what was shown of the first attempt goes."""
    other_text = EXTRACTION.replace("productive", "dry")
    upstream_ = Twice(answer(), answer(other_text))
    more = {"route": {"replay": "safe"}}
    async with (
        replicas(upstream_, tmp_path, 2, **more) as (upstream, (one, two), client, store),
        opened(client, one.url + START, signed()) as stream,
    ):
        await stream.until(lambda event: event["type"] == "stage_complete")
        async with opened(client, events(two, stream.run), signed(), method="GET") as watched:
            await watched.until(lambda event: event["type"] == "stage_complete")
            one.send_all(signal.SIGKILL)
            await gone(store)
            upstream_.release.set()
            await watched.rest()

    check_whole(watched.events, {**WHOLE, "extraction": other_text})
    assert watched.types.count("content_replace") == 1
    assert len(upstream.asked) == 2


async def test_a_replica_that_was_only_held_up_adds_nothing(tmp_path: Path) -> None:
    """SIGSTOP, until another has taken its run over, and SIGCONT: what its upstream has answered it meanwhile
    is told to nobody. Its own viewers are sent to where the run is, or get the answer from there."""
    upstream_ = Twice(answer(), answer(summary="Another summary altogether."))
    other = {**WHOLE, "summary": "Another summary altogether."}
    more = {"route": {"replay": "safe", "batch_heartbeat_s": 0.1}}
    async with replicas(upstream_, tmp_path, 2, **more) as (upstream, (one, two), client, store):
        async with opened(client, one.url + START, signed()) as stream, AsyncExitStack() as stack:
            await stream.until(lambda event: event["type"] == "stage_complete")
            asked = client.stream(
                "POST", one.url + START, headers=signed(accept="application/json"), timeout=40
            )
            batch = await stack.enter_async_context(asked)
            pieces = batch.aiter_raw()
            assert await anext(pieces) == b" "
            opening = opened(client, events(two, stream.run), signed(), method="GET")
            watched = await stack.enter_async_context(opening)
            await watched.until(lambda event: event["type"] == "stage_complete")
            one.send_all(signal.SIGSTOP)
            await gone(store)
            await eventually(lambda: len(upstream.asked) == 2, 20)
            upstream_.release.set()
            await watched.rest()
            one.send_all(signal.SIGCONT)
            with pytest.raises(httpx.RemoteProtocolError):
                await stream.rest()
            got = await resumed(client, one, stream, "ann")
            answered = b"".join([piece async for piece in pieces])
        counted = await recovered(client, one, two)

        check_whole(watched.events, other)
        check_whole(got, other)
        assert answered.strip() == upstream_.bodies[1]
        assert len(upstream.asked) == 2
        assert counted == ONCE
        async with store.client() as looking:
            assert await looking.xlen(f"headgate:run:{stream.run}:log") == len(watched.events)


async def test_a_run_that_may_not_be_repeated_is_lost_with_its_replica(tmp_path: Path) -> None:
    """And nothing of its request was ever in the store."""
    upstream_ = Twice(answer())
    async with replicas(upstream_, tmp_path) as (upstream, (one, two), client, store):
        async with opened(client, one.url + START, signed(), content=b"body") as stream:
            await stream.until(lambda event: event["type"] == "stage_complete")
            async with opened(client, events(two, stream.run), signed(), method="GET") as watched:
                await watched.until(lambda event: event["type"] == "stage_complete")
                async with store.client() as looking:
                    assert not await looking.keys("*:order")
                one.send_all(signal.SIGKILL)
                await gone(store)
                await watched.rest()
        counted = await recovered(client, two)

    assert watched.last["metadata"]["error_code"] == "replica_lost"
    assert len(upstream.asked) == 1
    assert counted == {
        'headgate_faults_total{fault="reset",phase="content",route="start"}': 1,
        'headgate_recoveries_total{fault="reset",result="failed",route="start"}': 1,
    }


async def test_a_run_that_was_cancelled_is_not_taken_over(tmp_path: Path) -> None:
    """DELETE after its replica is gone, and before any other has noticed that."""
    upstream_ = Twice(answer())
    more = {"route": {"replay": "safe"}}
    async with (
        replicas(upstream_, tmp_path, 2, **more) as (upstream, (one, two), client, store),
        opened(client, one.url + START, signed()) as stream,
    ):
        await stream.until(lambda event: event["type"] == "stage_complete")
        async with opened(client, events(two, stream.run), signed(), method="GET") as watched:
            await watched.until(lambda event: event["type"] == "stage_complete")
            one.send_all(signal.SIGKILL)
            ended = await client.delete(f"{two.url}/_headgate/runs/{stream.run}", headers=signed())
            await gone(store)
            await watched.rest()

    assert ended.status_code == 202
    assert watched.last["metadata"]["error_code"] == "cancelled"
    assert len(upstream.asked) == 1


async def test_a_cancel_reaches_the_replica_that_took_a_run_over(tmp_path: Path) -> None:
    """From one that has only watched."""
    upstream_ = Twice(answer())
    more = {"route": {"replay": "safe"}}
    async with (
        replicas(upstream_, tmp_path, 3, **more) as (upstream, (one, two, three), client, store),
        opened(client, one.url + START, signed()) as stream,
    ):
        await stream.until(lambda event: event["type"] == "stage_complete")
        async with opened(client, events(two, stream.run), signed(), method="GET") as watched:
            await watched.until(lambda event: event["type"] == "stage_complete")
            one.send_all(signal.SIGKILL)
            await gone(store)
            await eventually(lambda: len(upstream.asked) == 2, 15)
            began = time.monotonic()
            await client.delete(f"{three.url}/_headgate/runs/{stream.run}", headers=signed())
            await watched.rest()
            took = time.monotonic() - began

    assert watched.last["metadata"]["error_code"] == "cancelled"
    assert took < 10


async def test_a_call_is_sent_three_times_at_most_whoever_sends_it(tmp_path: Path) -> None:
    """A request that kills its replica does not kill all replicas."""
    upstream_ = Twice(answer())
    more = {"route": {"replay": "safe"}}
    async with (
        replicas(upstream_, tmp_path, 4, **more) as (upstream, at, client, store),
        opened(client, at[0].url + START, signed()) as stream,
    ):
        await stream.until(lambda event: event["type"] == "stage_complete")
        watching = at[0]
        for number, next_one in enumerate(at[1:], 1):
            run = events(next_one, stream.run)
            async with opened(client, run, signed(), method="GET") as watched:
                await watched.until(lambda event: event["type"] == "stage_complete")
                watching.send_all(signal.SIGKILL)
                watching = next_one
                await gone(store)
                if number < 3:
                    await eventually(lambda n=number: len(upstream.asked) == n + 1, 15)  # type: ignore[misc]
                else:
                    await watched.rest()

    assert watched.last["metadata"]["error_code"] == "replica_lost"
    assert len(upstream.asked) == 3


async def test_a_store_that_goes_down_costs_a_run_nothing(tmp_path: Path) -> None:
    """It goes on from memory, is complete, and the store's failure is counted.

    Of any other run nobody is told that there is none: it may be at another replica. A stranger is told the
    same of this one.
    """
    held = Held(answering(answer()))
    async with replicas(held, tmp_path, 1, attach_wait_s=0) as (_, (one,), client, store):
        assert (await scrape(client, one.admin_url))["headgate_event_log_up"] == 1
        async with opened(client, one.url + START, signed()) as stream:
            await stream.piece()
            await store.kill()
            unsure = [
                await ask
                for run, user in ((str(uuid.uuid4()), "ann"), (stream.run, "bob"))
                for ask in (
                    client.get(events(one, run), headers=signed(user)),
                    client.get(f"{one.url}/_headgate/runs/{run}", headers=signed(user)),
                    client.delete(f"{one.url}/_headgate/runs/{run}", headers=signed(user)),
                    client.post(f"{one.url}/_headgate/tickets", headers=signed(user), json={"run": run}),
                    client.get(events(one, run, f"?ticket={'t' * 32}"), headers=signed(user)),
                    client.post(one.url + START, headers=signed(user, **{"last-event-id": f"{run}:1"})),
                )
            ]
            held.release.set()
            await stream.rest()
        second = await read(client, one.url + START, signed(), content=b"another")

        async def counted() -> bool:
            samples = await scrape(client, one.admin_url)
            faults = [
                value for name, value in samples.items() if 'fault="log_store"' in name and "faults_" in name
            ]
            key = 'headgate_runs_total{arm="stream",outcome="complete",route="start",source="batch"}'
            return sum(faults) >= 1 and samples[key] == 2 and samples["headgate_event_log_up"] == 0

        await eventually(counted)

        assert stream.texts() == second.texts() == WHOLE
        assert {(response.status_code, response.headers["retry-after"]) for response in unsure} == {
            (503, "5")
        }
        assert len({response.content for response in unsure}) == 1
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


async def test_tokens_of_a_second_attempt_go_on_where_the_first_one_stopped(tmp_path: Path) -> None:
    """With the source `tap`: what its model says once more is not shown twice, and then it is live again."""
    streams: list[Asked] = []
    again = asyncio.Event()

    async def half_and_then_whole(asked: Asked, said: list[bytes]) -> None:
        streams.append(asked)
        await asked.send(EVENT_STREAM)
        for event in said if len(streams) > 1 else said[: len(said) // 2]:
            await asked.send(event)
        if len(streams) == 1:
            await again.wait()
        again.set()
        asked.writer.close()

    provider, backend = Provider(stream=half_and_then_whole), Backend()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey(tmp_path))
        model = await stack.enter_async_context(provider.upstream.running())
        upstream = await stack.enter_async_context(ScriptedUpstream(backend).running())
        client = await stack.enter_async_context(browser())
        at = []
        for number in range(2):
            (folder := tmp_path / str(number)).mkdir()
            port = free_port()
            settings = {
                "event_log": {"valkey": {"url": store.url, "key": KEY}},
                "routes": [tapped_route(commit_after=0, replay="safe")],
                "llm": {"listen": f"127.0.0.1:{port}", "providers": [{"name": "models", "url": model.url}]},
            }
            at.append(await stack.enter_async_context(served(upstream.url, folder, **settings)))
        one, two = at
        backend.model_url = f"http://127.0.0.1:{port}"
        stream = await stack.enter_async_context(opened(client, one.url + START, signed()))
        await stream.until(lambda event: event["type"] == "content_chunk")
        watching = opened(client, events(two, stream.run), signed(), method="GET")
        watched = await stack.enter_async_context(watching)
        await watched.until(lambda event: event["type"] == "content_chunk")
        one.send_all(signal.SIGKILL)
        await gone(store)
        await watched.rest()

    check_whole(watched.events)
    assert "content_replace" not in watched.types
    assert len(upstream.asked) == 2
    assert watched.last["metadata"]["source"] == "tap"
