"""Ids that clients choose: a run that was joined goes by each of them, and one that never begins is said."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.runs.aliases import MAX_NAMES, MAX_NONE, NONE_S, RunAliases
from tests.servers import streaming
from tests.servers.client import EITHER, browser, eventually, opened, read, signed
from tests.servers.scripted import Script, ScriptedUpstream
from tests.servers.serving import flag_document, headgate
from tests.servers.streaming import START, WHOLE, Held, answer, answering, route
from tests.servers.valkey_server import valkey

OFF = flag_document(rollout=0)
ONE, TWO, THREE = (f"6a1f0f9e-6d4e-4a51-9c0c-0a4f0c7f1d1{n}" for n in range(3))
JSON = "application/json"
LONG_S = 30.0
"""Seconds that a viewer would wait for a run that never begins: beyond what a test may take."""


house = partial(streaming.house, commit_after=0, attach_wait_s=LONG_S)


@asynccontextmanager
async def two_houses(
    script: Script, directory: Path, **settings: Any
) -> AsyncIterator[tuple[ScriptedUpstream, list[str], httpx.AsyncClient]]:
    """Replicas that share a store, in one process."""
    async with valkey(directory) as store, ScriptedUpstream(script).running() as upstream:
        log = {"valkey": {"url": store.url, "key": "a key for the tests that is long enough"}}
        places = [directory / str(number) for number in range(2)]
        for place in places:
            place.mkdir()
        common: dict[str, Any] = {"event_log": log, "attach_wait_s": LONG_S, **settings}
        common["routes"] = [route(commit_after=0)]
        async with (
            headgate(upstream.url, places[0], **common) as one,
            headgate(upstream.url, places[1], **common) as two,
            browser() as client,
        ):
            yield upstream, [one.url, two.url], client


def events(run: str, at: str = "") -> str:
    return f"{at}/_headgate/runs/{run}/events"


def named(run: str, user: str = "ann", **more: Any) -> dict[str, str]:
    return signed(user, **{"headgate-run": run, **more})


async def test_a_run_goes_by_every_id_that_its_requests_chose(tmp_path: Path) -> None:
    """Two tabs, two ids, one call: either id finds the run, before it has ended and after; a page that
    waited for its own id is told at once; and nobody else's ids find anything."""
    held = Held(answering(answer()))
    async with house(held, tmp_path) as (upstream, _, client):
        waiting = asyncio.create_task(read(client, events(TWO), signed(), method="GET"))
        async with opened(client, START, named(ONE), content=b"same") as first:
            await first.piece()
            second = asyncio.create_task(client.post(START, headers=named(TWO, accept=JSON), content=b"same"))
            third = asyncio.create_task(read(client, START, named(THREE), content=b"same"))
            async with opened(client, events(TWO), signed(), method="GET") as watching:
                await watching.piece()
                held.release.set()
                await watching.rest()
            await first.rest()
        late = await read(client, events(THREE), signed(), method="GET")
        state = await client.get(f"/_headgate/runs/{TWO}", headers=signed())
        ticket = await client.post("/_headgate/tickets", headers=signed(), json={"run": TWO})
        by_ticket = await read(client, f"{events(TWO)}?ticket={ticket.json()['ticket']}", {}, method="GET")
        stranger = await client.delete(f"/_headgate/runs/{TWO}", headers=signed("bob"))

        assert first.texts() == WHOLE
        for stream in (watching, late, by_ticket, await waiting, await third):
            assert stream.events == first.events
            assert stream.run == ONE
        assert (await second).headers["headgate-run"] == ONE
        assert (await second).content == answer()
        assert state.json()["run"] == state.headers["headgate-run"] == ONE
        assert stranger.status_code == 404
        assert len(upstream.asked) == 1


async def test_every_answer_of_a_run_names_it(tmp_path: Path) -> None:
    """In JSON as in events, good or bad, also where there is nothing more to say."""
    scripts = [answering(answer()), answering(b"{}", b"409 No"), answering(answer())]

    async def script(asked: Any) -> None:
        await scripts[int(asked.target[-1:])](asked)

    async with house(script, tmp_path, commit_after=15) as (_, _, client):
        stream = await read(client, f"{START}?0", named(ONE))
        good = await client.post(f"{START}?0", headers=named(ONE, accept=JSON))
        bad = await client.post(f"{START}?1", headers=named(TWO, accept=EITHER))
        nothing = await client.get(events(ONE), headers=signed(**{"last-event-id": stream.events[-1]["id"]}))
        ended = await client.delete(f"/_headgate/runs/{ONE}", headers=signed())

    assert [response.status_code for response in (good, bad, nothing, ended)] == [200, 409, 204, 202]
    assert [stream.run, *(response.headers["headgate-run"] for response in (good, nothing, ended))] == [
        ONE
    ] * 4
    assert bad.headers["headgate-run"] == TWO


async def test_an_id_stays_that_of_the_request_it_was_chosen_for(tmp_path: Path) -> None:
    """With another body it is refused; with the same it comes to the run, also after its end. What somebody
    else does with the same id is his own."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        key = {"idempotency-key": "k"}
        await read(client, START, named(ONE, **key), content=b"same")
        joined = await read(client, START, named(TWO, **key), content=b"same")
        again = await read(client, START, named(TWO), content=b"same")
        other = await client.post(START, headers=named(TWO), content=b"other")
        of_bob = await read(client, START, named(TWO, "bob"), content=b"other")

    assert joined.run == again.run == ONE
    assert (other.status_code, of_bob.run) == (409, TWO)
    assert len(upstream.asked) == 2


async def test_a_run_of_another_replica_goes_by_every_id(tmp_path: Path) -> None:
    """Joined at one, watched at the other by the id it did not keep."""
    held = Held(answering(answer()))
    async with two_houses(held, tmp_path) as (upstream, (one, two), client):
        waiting = asyncio.create_task(read(client, events(TWO, one), signed(), method="GET"))
        host = {"host": "clinic.example"}
        async with opened(client, one + START, named(ONE, **host), content=b"same") as first:
            await first.piece()
            second = asyncio.create_task(
                client.post(two + START, headers=named(TWO, accept=JSON, **host), content=b"same")
            )
            async with opened(client, events(TWO, two), signed(), method="GET") as watching:
                await watching.piece()
                held.release.set()
                await watching.rest()
            await first.rest()

        assert first.texts() == WHOLE
        assert watching.events == (await waiting).events == first.events
        assert (await second).headers["headgate-run"] == ONE
        assert len(upstream.asked) == 1


@pytest.mark.parametrize("accept", [JSON, EITHER, "text/event-stream"])
@pytest.mark.parametrize("late", [False, True])
async def test_who_waits_for_a_run_that_is_relayed_is_told_at_once(
    tmp_path: Path, accept: str, late: bool
) -> None:
    """Its POST was decided batch: no run begins while that lasts. A stranger's POST says nothing of it."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, flags=OFF) as (_, serving, client):
        get = {"url": events(ONE), "headers": signed()}
        waiting = None if late else asyncio.create_task(client.get(**get))
        await eventually(lambda: late or len(serving.app.runs._waiters) == 1)
        strangers = asyncio.create_task(client.post(START, headers=named(ONE, "bob", accept=accept)))
        await held.come.wait()
        assert waiting is None or not waiting.done()
        held.come.clear()
        posting = asyncio.create_task(client.post(START, headers=named(ONE, accept=accept)))
        await held.come.wait()
        told = await (waiting or client.get(**get))
        held.release.set()
        await posting
        await strangers

    assert told.status_code == 404


async def test_who_waits_at_another_replica_is_told_as_well(tmp_path: Path) -> None:
    """The batch answer waits for no store, and the store says it to the others."""
    held = Held(answering(answer()))
    async with two_houses(held, tmp_path, flags=OFF) as (_, (one, two), client):
        waiting = asyncio.create_task(client.get(events(ONE, two), headers=signed()))
        posting = asyncio.create_task(client.post(one + START, headers=named(ONE, accept=JSON)))
        told = await waiting
        held.release.set()
        await posting

    assert told.status_code == 404


async def test_a_run_may_begin_under_an_id_that_was_called_off(tmp_path: Path) -> None:
    """The same page asks again when the flag is on."""
    held = Held(answering(answer()))
    async with house(held, tmp_path) as (_, serving, client):
        ann = serving.app.gateway.identifier.identify(
            [(b"authorization", signed()["authorization"].encode())]
        )
        assert ann is not None
        serving.app.runs.call_off(ONE, ann)
        early = await client.get(events(ONE), headers=signed())
        async with opened(client, START, named(ONE)) as stream:
            await stream.piece()
            watching = asyncio.create_task(read(client, events(ONE), signed(), method="GET"))
            held.release.set()
            await stream.rest()

        assert early.status_code == 404
        assert (await watching).events == stream.events


def test_names_have_bounds() -> None:
    """Of one run, and of those that never began; what is gone leaves nothing."""
    names = RunAliases()
    for _ in range(MAX_NAMES + 10):
        names.give("ann", str(uuid.uuid4()), "run")
    names.give("ann", "moved", "other")
    names.give("ann", "moved", "third")
    for number in range(MAX_NONE + 10):
        names.give_to_none("ann", str(number), now=0)

    assert len(names._runs) == MAX_NAMES + 1
    assert names.run_of("ann", "moved") == "third"
    assert names.run_of("bob", "moved") is None
    assert len(names._none) == MAX_NONE
    assert names.is_of_none("ann", str(MAX_NONE), now=NONE_S - 1)
    assert not names.is_of_none("ann", str(MAX_NONE), now=NONE_S + 1)
    names.give_to_none("ann", "later", now=NONE_S + 1)
    for run in ("run", "other", "third"):
        names.forget("ann", run)
    assert (names._runs, names._names, list(names._none)) == ({}, {}, [("ann", "later")])
