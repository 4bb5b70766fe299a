"""Several stores: each user has one, with all of its runs. One that is away is away for its users alone."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from proxy.app import _shared_histories
from proxy.identity import Identity
from proxy.llm.taps.open_taps import Taps
from proxy.observe.metrics import Metrics
from proxy.replicas import shared_values
from proxy.replicas.placement import ShardPlacement
from proxy.replicas.sharded_runs import ShardedRuns
from proxy.replicas.store.side_by_side import SideBySide
from proxy.replicas.store.valkey import Link
from proxy.replicas.takeover_executor import TakeoverExecutor
from proxy.runs.call import Continuation
from proxy.runs.run import Run
from proxy.runs.runs import Runs
from proxy.runs.start import RunSpec
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.settings.settings import MemoryLogSettings
from proxy.text.event_log import EventLog
from proxy.upstream.client import Answer
from tests.replicas.shared_run import METRICS, SAFE, STREAM, new_run, same, say, watch, wires
from tests.replicas.sharing import KEY, principal_of, sharded
from tests.servers.client import PATIENCE_S, Stream, browser, eventually, opened, read, scrape, signed
from tests.servers.scripted import ScriptedUpstream
from tests.servers.serving import Serving, headgate
from tests.servers.streaming import START, WHOLE, Held, answer, answering, route
from tests.servers.valkey_server import ValkeyServer, valkey

USERS = ("ann", "bob", "cem", "dan", "eve", "fay")
ON_ONE, ON_TWO = "cem", "ann"
"""Users of the stores `one` and `two`, as long as these names and the key stay."""


UNWATCHED = Route.compile(
    RouteSettings.model_validate(route(name="safe", replay="safe", unwatched="cancel", grace_s=60))
)


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, ValkeyServer]]:
    async with (
        valkey(tmp_path_factory.mktemp("one")) as one,
        valkey(tmp_path_factory.mktemp("two")) as two,
    ):
        yield {"one": one, "two": two}


@pytest.fixture
async def at(stores: dict[str, ValkeyServer]) -> dict[str, ValkeyServer]:
    """Empty."""
    for store in stores.values():
        async with store.client() as client:
            await client.flushall()
    return stores


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store is taken for one that is away because the machine is busy."""
    monkeypatch.setattr(Link.__init__, "__defaults__", (PATIENCE_S,))


@asynccontextmanager
async def houses(
    script: Callable[..., Any], directory: Path, *lists: dict[str, ValkeyServer], **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, list[Serving], httpx.AsyncClient]]:
    """A replica for each list of stores."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(script).running())
        found = []
        for number, stores in enumerate(lists):
            place = directory / str(number)
            place.mkdir()
            settings = {"event_log": {"valkey": {**_shards(stores), "key": KEY}}, "attach_wait_s": 0, **more}
            opening = headgate(upstream.url, place, routes=[route(commit_after=0)], **settings)
            found.append(await stack.enter_async_context(opening))
        yield upstream, found, await stack.enter_async_context(browser())


def events(at: Serving, run: str, query: str = "") -> str:
    return f"{at.url}/_headgate/runs/{run}/events{query}"


def _shards(stores: dict[str, ValkeyServer]) -> dict[str, Any]:
    return {"shards": {name: store.url for name, store in stores.items()}}


async def keys(store: ValkeyServer, run: str) -> list[str]:
    async with store.client() as client:
        return sorted(key.decode() for key in await client.keys(f"headgate:run:{run}*"))


@pytest.mark.usefixtures("patient")
async def test_any_replica_serves_any_run_and_each_is_in_one_store(
    at: dict[str, ValkeyServer], tmp_path: Path
) -> None:
    """Watched, by token and by ticket, joined, listed and found afterwards; a stranger finds none."""
    held = Held(answering(answer()))
    async with houses(held, tmp_path, at, dict(reversed(at.items()))) as (upstream, (here, there), client):
        async with AsyncExitStack() as stack:
            begun, watching = [], []
            for user in USERS:
                asked = signed(user, **{"idempotency-key": "k"})
                stream = await stack.enter_async_context(opened(client, here.url + START, asked))
                await stream.piece()
                ticket = await client.post(
                    f"{there.url}/_headgate/tickets", headers=signed(user), json={"run": stream.run}
                )
                query = f"?ticket={ticket.json()['ticket']}"
                watching += [
                    asyncio.create_task(read(client, events(there, stream.run), signed(user), method="GET")),
                    asyncio.create_task(read(client, events(here, stream.run, query), {}, method="GET")),
                    asyncio.create_task(read(client, there.url + START, asked)),
                ]
                begun.append((user, asked, stream))
            listed = {
                user: (await client.get(f"{there.url}/_headgate/runs", headers=signed(user))).json()["runs"]
                for user in USERS
            }
            strangers = [
                (await client.get(events(house, stream.run), headers=signed(f"no {user}"))).status_code
                for house in (here, there)
                for user, _, stream in begun
            ]
            held.release.set()
            for _, _, stream in begun:
                await stream.rest()
        watched = [await each for each in watching]
        late = [await read(client, there.url + START, asked) for _, asked, _ in begun]
        places = {
            user: [name for name, store in at.items() if await keys(store, stream.run)]
            for user, _, stream in begun
        }

    assert [stream.texts() for _, _, stream in begun] == [WHOLE] * len(USERS)
    for index, (user, _, stream) in enumerate(begun):
        assert [run["run"] for run in listed[user]] == [stream.run]
        assert all(seen.events == stream.events for seen in watched[3 * index : 3 * index + 3])
        assert late[index].events == stream.events
    assert set(strangers) == {404}
    assert len(upstream.asked) == len(USERS)
    assert {len(names) for names in places.values()} == {1}
    assert (places[ON_ONE], places[ON_TWO]) == (["one"], ["two"])


async def asked(client: httpx.AsyncClient, at: Serving, run: str, user: str) -> int:
    return (await client.get(f"{at.url}/_headgate/runs/{run}", headers=signed(user))).status_code


@asynccontextmanager
async def begun(
    client: httpx.AsyncClient, at: Serving, *users: str, **headers: str
) -> AsyncIterator[list[Stream]]:
    async with AsyncExitStack() as stack:
        streams = []
        for user in users:
            opening = opened(client, at.url + START, signed(user, **headers))
            streams.append(await stack.enter_async_context(opening))
            await streams[-1].piece()
        yield streams


@pytest.mark.usefixtures("patient")
async def test_a_store_that_dies_is_away_for_its_users_alone(
    at: dict[str, ValkeyServer], tmp_path: Path
) -> None:
    """Their runs go on from memory, and nobody is told that one is not there; all that others have goes on
    at each replica. What says so names the store. When it is back, it has the runs."""
    held = Held(answering(answer()))
    async with (
        houses(held, tmp_path, at, at) as (upstream, (here, there), client),
        begun(client, here, ON_ONE, ON_TWO, **{"idempotency-key": "k"}) as (first, second),
    ):
        await at["one"].kill()
        try:
            await eventually(lambda: _is_down(client, there, ["one"]))
            await eventually(lambda: _is_down(client, here, ["one"]))
            await eventually(lambda: _counts_down(client, there, "one"))
            never = str(uuid.uuid4())
            unsure = [await asked(client, there, run, ON_ONE) for run in (first.run, never)]
            sure = [await asked(client, there, run, ON_TWO) for run in (first.run, second.run, never)]
            ticket = await client.post(
                f"{there.url}/_headgate/tickets", headers=signed(ON_TWO), json={"run": second.run}
            )
            query = f"?ticket={ticket.json()['ticket']}"
            watching = [
                asyncio.create_task(read(client, events(there, second.run), signed(ON_TWO), method="GET")),
                asyncio.create_task(read(client, events(here, second.run, query), {}, method="GET")),
                asyncio.create_task(
                    read(client, there.url + START, signed(ON_TWO, **{"idempotency-key": "k"}))
                ),
            ]
            alone = asyncio.create_task(read(client, there.url + START, signed(ON_ONE), content=b"new"))
            await eventually(lambda: len(upstream.asked) == 3)
            held.release.set()
            await first.rest()
            await second.rest()
            watched = [await each for each in watching]
            lone = await alone
        finally:
            await at["one"].start()
        await eventually(lambda: _is_there(client, there, first, ON_ONE))
        again = await read(client, events(there, first.run), signed(ON_ONE), method="GET")

    assert unsure == [503, 503]
    assert sure == [404, 200, 404]
    assert first.texts() == second.texts() == lone.texts() == WHOLE
    assert all(each.events == second.events for each in watched)
    assert again.events == first.events
    assert len(upstream.asked) == 3


async def _is_there(client: httpx.AsyncClient, at: Serving, stream: Stream, user: str) -> bool:
    return await asked(client, at, stream.run, user) == 200


async def _counts_down(client: httpx.AsyncClient, at: Serving, name: str) -> bool:
    samples = await scrape(client, at.admin_url)
    up = {store: samples[f'headgate_event_log_shard_up{{shard="{store}"}}'] for store in ("one", "two")}
    return samples["headgate_event_log_up"] == 0 and up == {"one": 1, "two": 1, name: 0}


async def _is_down(client: httpx.AsyncClient, at: Serving, names: list[str]) -> bool:
    ready = await client.get(f"{at.admin_url}/readyz")
    assert ready.status_code == 200
    return ready.json()["event_log_shards_down"] == names


async def test_a_store_that_answers_nothing_holds_up_nobody_else(
    at: dict[str, ValkeyServer], tmp_path: Path
) -> None:
    """Its connections stay open, and its users' requests wait as long as they may; others' do not."""
    held = Held(answering(answer()))
    async with houses(held, tmp_path, at, at) as (_, (here, there), client):
        at["one"].freeze()
        try:
            async with begun(client, here, ON_ONE, ON_TWO) as (first, second):
                await eventually(lambda: _is_down(client, there, ["one"]))
                await eventually(lambda: _is_there(client, there, second, ON_TWO))
                watching = asyncio.create_task(
                    read(client, events(there, second.run), signed(ON_TWO), method="GET")
                )
                held.release.set()
                await first.rest()
                await second.rest()
                watched = await watching
        finally:
            at["one"].thaw()
        await eventually(lambda: _is_down(client, there, []))

    assert watched.events == second.events
    assert first.texts() == second.texts() == WHOLE


@pytest.mark.usefixtures("patient")
async def test_replicas_with_other_lists_show_each_other_the_runs_of_whoever_has_not_moved(
    at: dict[str, ValkeyServer], tmp_path: Path
) -> None:
    """As while a store is added in a rolling deploy. Whoever moves finds at the other replica no run of
    before, with a cursor too, and nobody another text."""
    held = Held(answering(answer()))
    before = {"one": at["one"]}
    async with (
        houses(held, tmp_path, before, at) as (upstream, (old, new), client),
        begun(client, old, ON_ONE, ON_TWO) as (stays, moves),
    ):
        cursor = {"last-event-id": f"{moves.run}:1"}
        watching = asyncio.create_task(read(client, events(new, stays.run), signed(ON_ONE), method="GET"))
        missing = [
            await client.get(events(new, moves.run), headers=signed(ON_TWO, **cursor)),
            await client.post(new.url + START, headers=signed(ON_TWO, **cursor)),
        ]
        strangers = [await asked(client, house, moves.run, ON_ONE) for house in (old, new)]
        held.release.set()
        await stays.rest()
        await moves.rest()
        watched = await watching

    assert watched.events == stays.events
    assert [response.status_code for response in missing] == [404, 404]
    assert strangers == [404, 404]
    assert moves.texts() == WHOLE
    assert len(upstream.asked) == 2


@pytest.mark.usefixtures("patient")
async def test_runs_of_one_id_in_two_stores_are_two(at: dict[str, ValkeyServer], tmp_path: Path) -> None:
    """Clients choose ids. Who chooses another one's gets and ends nothing but its own."""
    held = Held(answering(answer()))
    run = str(uuid.uuid4())
    async with houses(held, tmp_path, at, at) as (upstream, (here, there), client):
        async with (
            begun(client, here, ON_ONE, **{"headgate-run": run}) as [first],
            begun(client, there, ON_TWO, **{"headgate-run": run}) as [second],
        ):
            taken = await client.post(
                here.url + START, headers=signed(ON_TWO, **{"headgate-run": run}), content=b"another"
            )
            crossed = [
                asyncio.create_task(read(client, events(there, run), signed(ON_ONE), method="GET")),
                asyncio.create_task(read(client, events(here, run), signed(ON_TWO), method="GET")),
            ]
            await eventually(lambda: _viewers(client, (here, there), 4))
            ended = await client.delete(f"{here.url}/_headgate/runs/{run}", headers=signed(ON_TWO))
            await second.rest()
            held.release.set()
            await first.rest()
        seen = [await each for each in crossed]

    assert taken.status_code == 409
    assert ended.status_code == 202
    assert first.texts() == WHOLE
    assert second.last["metadata"]["error_code"] == "cancelled"
    assert [each.events for each in seen] == [first.events, second.events]
    assert len(upstream.asked) == 2


async def _viewers(client: httpx.AsyncClient, at: Sequence[Serving], number: int) -> bool:
    pages = [await scrape(client, house.admin_url) for house in at]
    return sum(page['headgate_viewers{route="start"}'] for page in pages) == number


async def test_lost_runs_are_taken_over_in_each_store_that_answers(at: dict[str, ValkeyServer]) -> None:
    """One that does not answer now does so later: then those of its users are."""
    async with sharded(_shards(at)) as (dead, _), sharded(_shards(at)) as (other, told):
        runs = {}
        for name in at:
            principal = principal_of(dead, name)
            run = new_run(of=SAFE, identity=Identity(principal, name))
            assert await dead.of(principal).claim(run, [f"body {name}"]) is None
            run.begun()
            say(run, 3)
            runs[name] = run
            copy = await other.of(principal).find(run.id)
            assert copy is not None
            await same(copy, run)
            watch(copy)
        for shard in dead.shards:
            await shard._end_tasks()
        at["one"].freeze()
        try:
            await _drop_leases(at["two"], dead)
            await eventually(lambda: len(told.taken) == 1, 60)
            taken_first = list(told.taken)
        finally:
            at["one"].thaw()
        await eventually(lambda: other.is_up, 60)
        await _drop_leases(at["one"], dead)
        await eventually(lambda: len(told.taken) == 2, 60)
        for run in told.taken:
            [before] = [lost for lost in runs.values() if lost.id == run.id]
            assert wires(run.log) == wires(before.log)

    assert [run.id for run in taken_first] == [runs["two"].id]
    assert {run.id for run in told.taken} == {run.id for run in runs.values()}
    assert told.counted == []


@pytest.mark.usefixtures("patient")
async def test_runs_of_one_id_at_one_process_know_nothing_of_each_other(at: dict[str, ValkeyServer]) -> None:
    """Clients choose ids, and two stores may have the same one. A lost run is taken over beside another
    user's; what begins, is watched, cancelled and ended afterwards is each user's own."""
    run_id = str(uuid.uuid4())
    async with sharded(_shards(at)) as (dead, _), sharded(_shards(at), safe=UNWATCHED) as (store, _):
        metrics = Metrics(CollectorRegistry(), [UNWATCHED.settings])
        executor, waiting = TakeoverExecutor(metrics), Unanswered()
        runs = Runs(MemoryLogSettings(), store)
        executor.begin(runs, {("safe", "batch"): waiting}, None)
        for shard in store.shards:
            shard._takeover._executor = executor
        ann, bob = (Identity(principal_of(store, name), name) for name in ("one", "two"))
        lost = new_run(run_id, UNWATCHED, bob)
        assert await dead.of(bob.principal).claim(lost, ()) is None
        lost.begun()
        say(lost, 3)
        own = await runs.start(RunSpec(new_run(of=UNWATCHED).call, STREAM, ann, METRICS, waiting, run_id))
        copy = await store.of(bob.principal).find(run_id)
        assert copy is not None
        await same(copy, lost)
        watch(copy)
        for shard in dead.shards:
            await shard._end_tasks()
        await _drop_leases(at["two"], dead)
        await eventually(lambda: copy.log.ended or runs.find(run_id, bob) is not None, 60)
        taken = runs.find(run_id, bob)
        both = [runs.find(run_id, ann), taken]
        watched = []
        with runs.watching(Looking(own)):
            for whose in both:
                assert isinstance(whose, Run)
                watched.append(runs._is_watched(whose))
                with runs.watching(Looking(whose)):
                    pass
        graces = len(runs._grace)
        await runs.cancel(own)
        await eventually(lambda: runs.kept == 1)
        after = [runs.find(run_id, ann), runs.find(run_id, bob)]
        others_ended = taken is None or taken.ended
        await runs.aclose()

    assert both == [own, taken] == after
    assert taken is not None
    assert wires(taken.log)[:3] == wires(lost.log)[:3]
    assert watched == [True, False]
    assert graces == 2
    assert own.log.ended
    assert not others_ended


async def test_a_run_that_is_taken_over_takes_no_place_of_another_one_of_its_id() -> None:
    """One may have begun after the claim was sent. This one then ends as lost, and touches nothing of it."""
    runs, waiting, run_id = Runs(MemoryLogSettings()), Unanswered(), str(uuid.uuid4())
    ann, bob = (
        RunSpec(new_run(of=SAFE).call, STREAM, Identity(who, who), METRICS, waiting, run_id=run_id)
        for who in ("ann", "bob")
    )
    own = await runs.start(ann)
    log = EventLog(run_id, 1)
    with pytest.raises(ValueError, match="id"):
        runs.take_over(bob, Continuation(log, 1, 1, 0.0, headers_sent=False))
    found = runs.find(run_id, ann.identity)
    await runs.aclose()

    assert found is own
    assert own.log.ended
    assert log.generation == 0


async def test_a_run_that_has_ended_and_moved_takes_nothing_along() -> None:
    """It is kept no more, and another one may have its id by now."""
    runs, run_id = Runs(MemoryLogSettings(runs=1)), str(uuid.uuid4())
    source = Unanswered()

    async def begun_by(who: str, run_id: str) -> Run:
        spec = RunSpec(new_run().call, STREAM, Identity(who, who), METRICS, source, run_id=run_id)
        run = await runs.start(spec)
        assert isinstance(run, Run)
        return run

    moved = await begun_by("ann", run_id)
    moved.cancel()
    runs._tasks[moved].cancel()
    await eventually(lambda: runs.kept == 1)
    runs.part_with(moved)
    kept = runs.kept
    other = await begun_by("bob", run_id)
    runs.part_with(moved)
    await asyncio.wait(runs._background)
    ended_by_then = other.ended
    other.cancel()
    runs._tasks[other].cancel()
    await eventually(lambda: runs.kept == 1)
    last = await begun_by("bob", str(uuid.uuid4()))
    last.cancel()
    runs._tasks[last].cancel()
    await eventually(lambda: runs.kept == 1 and not runs.live_routes())

    assert kept == 0
    assert not ended_by_then
    assert runs.find(last.id, Identity("bob", "bob")) is last
    await runs.aclose()


@pytest.mark.usefixtures("patient")
async def test_a_run_is_listed_beside_another_one_of_its_id(at: dict[str, ValkeyServer]) -> None:
    """A process that executes one lists the other one, which is elsewhere, to its owner."""
    async with sharded(_shards(at)) as (store, _), sharded(_shards(at)) as (elsewhere, _):
        runs, waiting, run_id = Runs(MemoryLogSettings(), store), Unanswered(), str(uuid.uuid4())
        ann, bob = (Identity(principal_of(store, name), name) for name in ("one", "two"))
        await runs.start(RunSpec(new_run().call, STREAM, ann, METRICS, waiting, run_id=run_id))
        theirs = new_run(run_id, identity=bob)
        assert await elsewhere.of(bob.principal).claim(theirs, ()) is None
        listed = [[run.id for run in await runs.live_of(who)] for who in (ann, bob)]
        await runs.aclose()

    assert listed == [[run_id], [run_id]]


@pytest.mark.usefixtures("patient")
async def test_a_cancel_that_comes_when_its_run_has_ended_ends_no_other_one(
    at: dict[str, ValkeyServer],
) -> None:
    """The end is not stored yet; another shard's run may have the id by now."""
    async with sharded(_shards(at)) as (store, told):
        ann = Identity(principal_of(store, "one"), "ann")
        shard, run = store.of(ann.principal), new_run(identity=ann)
        assert await shard.claim(run, ()) is None
        run.begun()
        say(run)
        message = shard._messages.sealed(shard.replica, {"cancel": run.id})
        shard._receive(message)
        before = list(told.cancelled)
        run.shut_down()
        shard._receive(message)

    assert before == [run.id]
    assert told.cancelled == before


async def test_stores_are_entered_and_left_side_by_side() -> None:
    """Each may wait for a server that answers nothing; and one that cannot be left keeps no other one from
    storing what it has."""
    left: list[str] = []
    both = asyncio.Barrier(2)

    class Shard:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __aenter__(self) -> None:
            await both.wait()

        async def __aexit__(self, *_: object) -> None:
            await both.wait()
            if self.name == "one":
                raise ZeroDivisionError
            await asyncio.sleep(0)
            left.append(self.name)

    shards: list[Any] = [Shard("one"), Shard("two")]
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ZeroDivisionError):
            async with SideBySide(shards):
                pass

    assert left == ["two"]


async def test_what_is_known_of_users_is_read_and_left_side_by_side(at: dict[str, ValkeyServer]) -> None:
    """Also of routes whose stores do not answer."""
    names = [f"r{number}" for number in range(8)]
    metrics = Metrics(CollectorRegistry(), [RouteSettings.model_validate(route(name=name)) for name in names])
    async with sharded(_shards(at)) as (store, _):
        histories = _shared_histories(store, metrics)
        assert isinstance(histories, SideBySide)
        assert len(histories._contexts) == 2
        async with histories:
            pass


async def test_viewers_are_moved_to_no_run_of_somebody_else() -> None:
    """A store that has lost its memory may have another one under the id."""
    run_id = str(uuid.uuid4())
    theirs = new_run(run_id, identity=Identity("bob", "bob"))

    class Store:
        def of(self, principal: str | None) -> Any:
            return self

        async def claim(self, *_: object) -> None:
            return None

        async def find(self, run_id: str) -> Run:
            return theirs

        async def keeps(self, run: Run) -> bool:
            return True

        def can_be_left(self, run_id: str) -> bool:
            return False

    store: Any = Store()
    runs = Runs(MemoryLogSettings(), store)
    spec = RunSpec(
        new_run().call, STREAM, Identity("ann", "ann"), METRICS, Unanswered(), run_id=run_id, may_join=False
    )
    run = await runs.start(spec)
    assert isinstance(run, Run)
    viewer = Looking(run)
    with runs.watching(viewer):
        runs.part_with(run)
        await asyncio.wait(runs._background)
    await runs.aclose()

    assert viewer.to == [None]


class Looking:
    """A viewer that reads nothing."""

    lag_events = 0

    def __init__(self, run: Any) -> None:
        self.run = run
        self.to: list[Any] = []

    def say_goodbye(self) -> None:
        raise AssertionError

    def move_to(self, copy: Any) -> None:
        self.to.append(copy)


class Unanswered:
    """A source whose upstream never answers."""

    async def answer(self, run: Run) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError


async def _drop_leases(at: ValkeyServer, dead: ShardedRuns) -> None:
    """As if their time were over."""
    async with at.client() as client:
        await client.delete(*(shard.keys.replica(shard.replica) for shard in dead.shards))


@pytest.mark.usefixtures("patient")
async def test_a_model_call_at_another_replica_finds_its_run_in_any_store(
    at: dict[str, ValkeyServer],
) -> None:
    """By a token that has its place where the run has its own; what is said arrives in order."""
    heard: list[Any] = []
    async with sharded(_shards(at), heard.extend) as (own, _), sharded(_shards(at)) as (other, _):
        taps = Taps({"safe": ()}, 60, own.taps)
        for name in at:
            principal = principal_of(own, name)
            async with taps.open(new_run(of=SAFE), "safe", principal) as (_, token):
                found = await other.taps.find_tap(token)
                assert found is not None
                to, route_name = found
                counts = [await other.taps.count_call(token) for _ in range(2)]
                for number in range(20):
                    await other.taps.tell(to, {"taps": [[name, number]]})
                await eventually(lambda: len(heard) == 20)
                homes = [store for store in at if await _has(at[store], "headgate:tap:*")]
            assert (route_name, counts, homes) == ("safe", [1, 2], [name])
            assert heard == [[name, number] for number in range(20)]
            assert await other.taps.find_tap(token) is None
            heard.clear()


async def _has(at: ValkeyServer, pattern: str) -> bool:
    async with at.client() as client:
        return bool(await client.keys(pattern))


@pytest.mark.usefixtures("patient")
async def test_what_is_nobodys_is_in_one_store_and_found_by_all(at: dict[str, ValkeyServer]) -> None:
    """Tickets, each near its principal, and the denylist."""
    async with sharded(_shards(at)) as (one, _), sharded(_shards(at)) as (other, _):
        for name in at:
            principal = principal_of(one, name)
            ticket = next(str(n) for n in range(1000) if one.tickets.is_near(str(n), principal))
            assert await one.tickets.put_ticket(ticket, b"value", 30)
            assert await _has(at[name], "headgate:ticket:*")
            assert await other.tickets.take_ticket(ticket) == b"value"
            assert await one.tickets.take_ticket(ticket) is None
        entries = {f"{number:064x}": b"%d" % number for number in range(16)}
        for entry, value in entries.items():
            await one.denylist.put_denylist_entry(entry, value, 60)
        assert await other.denylist.denylist_entries() == entries
        assert [await _has(store, "headgate:learned") for store in at.values()] == [True, True]
        first, *rest = entries
        assert await other.denylist.find_denylist_entry(first) == b"0"
        await other.denylist.drop_denylist_entry(first)
        assert (await one.denylist.denylist_entries()).keys() == set(rest)


@pytest.mark.usefixtures("patient")
async def test_model_calls_wait_for_no_store_that_hangs(
    at: dict[str, ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of the denylist is everybody's. The first call waits a moment, and none after it, until the
    store answers; what was to be written is written then."""
    async with sharded(_shards(at)) as (store, _):
        names = [f"{number:064x}" for number in range(16)]
        of = {name: [each for each in names if store.at(f"learned {each}").shard == name] for name in at}
        (here, new, *_), (there, *_) = of.values()
        denylist = store.denylist

        async def knows(*names: str) -> bool:
            return None not in [await denylist.find_denylist_entry(name) for name in names]

        for name in (here, there):
            await denylist.put_denylist_entry(name, b"known", 60)
        monkeypatch.setattr(shared_values, "SOON_S", 0.05)
        at["one"].freeze()
        try:
            async with asyncio.timeout(PATIENCE_S / 2):
                found = {await denylist.find_denylist_entry(here) for _ in range(1000)}
                await denylist.put_denylist_entry(new, b"new", 60)
                # On a busy machine the other store may be late, too.
                await eventually(lambda: knows(there), PATIENCE_S)
                listed = (await denylist.denylist_entries()).keys()
        finally:
            at["one"].thaw()
        await eventually(lambda: knows(here, new), PATIENCE_S)

    assert found == {None}
    assert listed <= {there}


def test_a_store_that_is_added_takes_a_part_of_each_other_one() -> None:
    """Whatever their order; and each has about as many users."""
    users = [f"user {number}" for number in range(4000)]
    three = ShardPlacement(["a", "b", "c"], b"secret")
    other = ShardPlacement(["d", "c", "b", "a"], b"secret")
    before = ["abc"[three.of(user)] for user in users]
    after = ["dcba"[other.of(user)] for user in users]

    moved = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
    assert {now for _, now in moved} == {"d"}
    assert {was for was, _ in moved} == set("abc")
    assert all(900 < after.count(name) < 1100 for name in "abcd")
