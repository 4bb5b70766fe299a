"""Runs that replicas share through a real Valkey server. A replica is one `ValkeyRuns`."""

import asyncio
import gc
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from redis.asyncio import Redis

from flags.decision import Arm, Decision, Mode, Reason
from proxy.errors import StoreDown, UpstreamSilent
from proxy.identity import Identity
from proxy.observe.metrics import Metrics
from proxy.replicas import followed_runs, shared_runs
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.shared_runs import ValkeyRuns
from proxy.replicas.takeover import TakenOverRun
from proxy.replicas.valkey import CALL_S, STALL_S
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.runs.shared import ViewableRun
from proxy.settings.route import RouteSettings
from proxy.settings.routes import Route
from proxy.settings.settings import ValkeyLogSettings
from proxy.text.event_log import EventLog
from proxy.text.sse import decode
from proxy.upstream.client import Answer, Request
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, eventually, logged, route, texts
from tests.servers.valkey_server import Detour, ValkeyServer, valkey

pytestmark = pytest.mark.anyio

KEY = "a key for tests, of more than 32 characters"
ANN = Identity("principal-of-ann", "ann")
TARGET = b"/api/cases/7/start?patient=meier"
STREAM = Decision(Mode.STREAM, Arm.STREAM, "batch", Reason.FLAG_ON)
JSON = [(b"content-type", b"application/json"), (b"content-length", b"1")]

SETTINGS = RouteSettings.model_validate(route())
ROUTE = Route.compile(SETTINGS)
SAFE = Route.compile(RouteSettings.model_validate(route(name="safe", replay="safe")))
METRICS = Metrics(CollectorRegistry(), [SETTINGS]).by_route["start"]
EXTRACTED, SUMMARIZED = ROUTE.sections


@dataclass
class Replica:
    """One replica, and its callbacks' calls."""

    runs: ValkeyRuns = field(init=False)
    cancelled: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    parted_with: list[Run] = field(default_factory=list)
    """Runs of this one that others have taken over."""
    taken: list[Run] = field(default_factory=list)
    """Runs of others that this one has taken over."""
    counted: list[str] = field(default_factory=list)
    """Runs of others that this one has ended."""
    has_room: bool = True
    fails: bool = False

    def may_take(self, route: Route, source: str, principal: str | None) -> bool:
        return self.has_room

    def take(self, taken: TakenOverRun) -> Run:
        assert not self.fails, "a mistake"
        run = Run(taken.call, taken.request.decision, taken.identity, METRICS, deque(), run_id=taken.run_id)
        run.continue_from(taken.continuation)
        run.begun()
        self.taken.append(run)
        return run

    def lost(self, run: FollowedRun) -> None:
        self.counted.append(run.id)

    async def followed(self, run_id: str) -> ViewableRun:
        found = await self.runs.find(run_id)
        assert found is not None
        return found

    async def die(self) -> None:
        """Die as with `kill -9`: send nothing, release nothing."""
        await self.runs._end_tasks()


@asynccontextmanager
async def replica(
    server: "ValkeyServer | Detour", routes: Mapping[str, Route] | None = None, **more: Any
) -> AsyncIterator[Replica]:
    settings = ValkeyLogSettings.model_validate({"url": server.url, "key": KEY, **more})
    made = Replica()
    made.runs = ValkeyRuns(
        settings,
        routes or {"start": ROUTE, "safe": SAFE},
        executor=made,
        on_cancel=lambda run_id: made.cancelled.append(run_id),
        on_taken_over=lambda run: made.parted_with.append(run),
        on_fault=lambda run: made.faults.append(run.id),
        on_tap=lambda items: None,
    )
    async with made.runs:
        yield made


def new_run(run_id: str | None = None, of: Route = ROUTE) -> Run:
    call = Call(of, {"case_id": "7"}, Request("POST", TARGET, [(b"x-own", b"\xe4")], b"the body"))
    return Run(call, STREAM, ANN, METRICS, deque(), run_id=run_id, fingerprint="print")


async def claimed(at: Replica, *keys: str, of: Route = ROUTE) -> Run:
    run = new_run(of=of)
    assert await at.runs.claim(run, keys) is None
    run.begun()
    return run


def say(run: Run, number: int = 1) -> None:
    """Some text, in pieces; the run goes on."""
    run.begin(EXTRACTED)
    for _ in range(number):
        run._say(run._transcript.chunk("extraction", f"word {len(run.log)} "))


async def finish(run: Run) -> None:
    await run.settle(Answer(200, JSON, answer(extraction=None)))


def whole(body: bytes | None = None) -> Answer:
    return Answer(200, JSON, body or answer())


def wires(log: EventLog) -> list[bytes]:
    return [entry.wire for entry in log.up_to(len(log))]


def events(log: EventLog) -> list[dict[str, Any]]:
    found = [decode(wire) for wire in wires(log)]
    return [{"type": e.type, "stage": e.stage, "content": e.content, **e.metadata} for e in found]


async def same(copy: ViewableRun, run: Run, within_s: float = 10.0) -> None:
    """The copy has become what the run's log is."""
    await eventually(lambda: len(copy.log) == len(run.log), within_s)
    assert wires(copy.log) == wires(run.log)


async def stored(client: Redis, run: Run) -> int:
    return int(await client.xlen(f"headgate:run:{run.id}:log"))


def watch(run: ViewableRun) -> Callable[[], None]:
    """A viewer that never reads."""

    def wake() -> None:
        pass

    run.log.subscribe(wake)
    return lambda: run.log.unsubscribe(wake)


# What a viewer elsewhere sees


async def test_a_run_is_seen_elsewhere_as_it_is_where_it_is_executed(server: ValkeyServer) -> None:
    """The same bytes in the same order, and every property that a viewer needs."""
    async with replica(server) as one, replica(server) as other:
        run = await claimed(one)
        say(run)
        copy = await other.followed(run.id)
        await run.settle(whole())
        await same(copy, run)

    assert texts(events(copy.log)) == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert copy.answer == run.answer
    assert copy.failure is None
    assert [entry.is_content for entry in copy.log.up_to(99)] == [e.is_content for e in run.log.up_to(99)]
    for name in ("id", "route", "source", "decision_header", "principal", "target", "fingerprint"):
        assert getattr(copy, name) == getattr(run, name), name
    assert abs(copy.started_at - run.started_at) < 0.5


async def test_five_hundred_events_arrive_in_order_without_a_gap_or_a_repetition(
    server: ValkeyServer,
) -> None:
    """Those from before the viewer came, and those after."""
    async with replica(server) as one, replica(server) as other:
        run = await claimed(one)
        say(run, 200)
        await asyncio.sleep(0)
        copy = await other.followed(run.id)
        for _ in range(100):
            say(run, 3)
            await asyncio.sleep(0.001)
        await run.settle(whole())
        await same(copy, run)

    assert len(copy.log) > 500
    assert copy.log.ended


async def test_what_comes_between_the_replay_and_the_live_text_is_not_lost(server: ValkeyServer) -> None:
    """Text that is written just after a viewer's replay was read, and before it goes live."""
    async with Detour(server, b"XRANGE").open() as detour, replica(server) as one, replica(detour) as other:
        run = await claimed(one)
        say(run, 5)
        async with server.client() as client:
            await eventually(lambda: _has(client, run))
            finding = asyncio.create_task(other.followed(run.id))
            await detour.reached.wait()
            say(run, 5)
            await eventually(lambda: _has(client, run))
        detour.release.set()
        copy = await finding
        await same(copy, run)
        say(run, 5)
        await same(copy, run)


async def _has(client: Redis, run: Run) -> bool:
    return await stored(client, run) == len(run.log)


async def test_what_is_stored_is_there_at_once(server: ValkeyServer) -> None:
    """A replica that finds a run knows without waiting whether it has text, and whether it has ended."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        run = await claimed(one)
        empty = await other.followed(run.id)
        assert not empty.log.has_content
        say(run, 3)
        ended = await claimed(one)
        await ended.settle(whole())
        await eventually(lambda: _has(client, run))
        await eventually(lambda: _has(client, ended))

        async with replica(server) as third:
            assert (await third.followed(run.id)).log.has_content
            seen = await third.followed(ended.id)
    assert seen.log.ended
    assert seen.answer == ended.answer


async def test_a_run_that_fails_fails_elsewhere_too(server: ValkeyServer) -> None:
    """With the upstream's own answer if there is one, and with the reason."""
    async with replica(server) as one, replica(server) as other:
        refused, silent, cancelled = [await claimed(one) for _ in range(3)]
        copies = [await other.followed(run.id) for run in (refused, silent, cancelled)]
        await refused.settle(Answer(418, [(b"x-tea", b"\xe4")], b"no \xff coffee"))
        silent.fail(UpstreamSilent("silent"))
        cancelled.cancel()
        for copy, run in zip(copies, (refused, silent, cancelled), strict=True):
            await same(copy, run)
            assert copy.failure == run.failure is not None
            assert copy.answer == run.answer


async def test_viewers_of_one_run_share_one_copy(server: ValkeyServer) -> None:
    """However many viewers there are, the run is read once."""
    async with replica(server) as one, replica(server) as other:
        run = await claimed(one)
        found = await asyncio.gather(*(other.runs.find(run.id) for _ in range(10)))
        found.append(await other.runs.find(run.id))

        assert other.runs.followed == 1
        assert len({id(copy) for copy in found}) == 1


async def test_a_run_that_nobody_knows_is_not_found(server: ValkeyServer) -> None:
    """Nor is anything else that is stored taken for a run."""
    async with replica(server) as one, replica(server) as other:
        run = await claimed(one)
        say(run)
        await asyncio.sleep(0.05)
        for run_id in ("unknown", f"{run.id}:log", f"{run.id}:end", "", "a b", "x" * 10_000, "*"):
            assert await other.runs.find(run_id) is None


async def test_a_large_answer_does_not_hold_up_the_others(server: ValkeyServer) -> None:
    """16 MiB arrive exactly, while another run's words take no longer than they may."""
    body = answer()[:-1] + b', "images": "' + b"pixel " * 2_800_000 + b'"}'
    slowest_s = 0.0
    async with replica(server) as one, replica(server) as other:
        large, small = await claimed(one), await claimed(one)
        large_copy, small_copy = await other.followed(large.id), await other.followed(small.id)
        large.begin(EXTRACTED)
        large._say(large._transcript.chunk("extraction", "a long text without a word to cut at " * 30_000))
        await large.settle(whole(body))
        while not large_copy.log.ended:
            began = time.monotonic()
            say(small)
            await eventually(lambda: len(small_copy.log) == len(small.log))
            slowest_s = max(slowest_s, time.monotonic() - began)
        await same(large_copy, large)
        await same(small_copy, small)

    assert large_copy.answer == large.answer
    assert large_copy.answer is not None and large_copy.answer.body == body
    assert slowest_s < 0.5


# Who executes what


async def test_of_two_replicas_that_claim_the_same_one_executes_it(server: ValkeyServer) -> None:
    """The other learns which run to join, in whatever order they ask."""
    async with replica(server) as one, replica(server) as other:
        for number in range(50):
            runs = [new_run(), new_run()]
            keys = [f"same-{number}"]
            first, second = await asyncio.gather(
                one.runs.claim(runs[0], keys), other.runs.claim(runs[1], keys)
            )
            assert [first, second].count(None) == 1
            winner = runs[0] if first is None else runs[1]
            assert winner.id in {first, second}
            assert await one.runs.joinable(keys) == await other.runs.joinable(keys) == winner.id


async def test_an_id_is_one_run_s(server: ValkeyServer) -> None:
    """Clients may choose an id; a second run does not get the id of the first."""
    async with replica(server) as one, replica(server) as other:
        run, again = new_run("chosen"), new_run("chosen")
        first, second = await asyncio.gather(one.runs.claim(run, []), other.runs.claim(again, []))

        assert {first, second} == {None, "chosen"}


async def test_a_key_that_is_taken_claims_nothing(server: ValkeyServer) -> None:
    """All or nothing: the other keys of a run that is not executed here stay free."""
    async with replica(server) as one, replica(server) as other:
        run = await claimed(one, "taken")

        assert await other.runs.claim(new_run(), ["free", "taken"]) == run.id
        assert await other.runs.joinable(["free"]) is None
        assert await other.runs.joinable([]) is None


async def test_the_same_asked_again_after_the_end_is_another_run(server: ValkeyServer) -> None:
    """Even at once, before the store has the end. An idempotency key stays."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        run = await claimed(one, "body", "idempotency")
        assert await other.runs.joinable(["body"]) == run.id
        await run.settle(whole())
        again = await claimed(one, "body")
        await eventually(lambda: _has(client, run))

        assert await other.runs.joinable(["body"]) == again.id
        assert await other.runs.joinable(["idempotency"]) == run.id
        await again.settle(whole())
        await eventually(lambda: _free(other, "body"))


async def _free(at: Replica, key: str) -> bool:
    return await at.runs.joinable([key]) is None


async def test_a_run_that_is_claimed_but_not_executed_is_forgotten(server: ValkeyServer) -> None:
    """Its client may have left meanwhile. No request joins a run that never begins."""
    async with replica(server) as one, replica(server) as other:
        run = new_run()
        assert await one.runs.claim(run, ["ghost"]) is None
        run_id = run.id
        del run
        gc.collect()
        await eventually(lambda: _free(other, "ghost"))
        assert await other.runs.find(run_id) is None

        leaving = asyncio.create_task(one.runs.claim(new_run(), ["left"]))
        await asyncio.sleep(0)
        leaving.cancel()
        await eventually(lambda: _free(other, "left"))


async def test_a_run_is_cancelled_from_elsewhere(server: ValkeyServer) -> None:
    """Soon, whether it has viewers at the other replica or is only named there."""
    async with replica(server) as one, replica(server) as other, replica(server) as third:
        watched, named = await claimed(one), await claimed(one)
        await other.followed(watched.id)
        began = time.monotonic()
        await other.runs.cancel(watched.id)
        await third.runs.cancel(named.id)
        await third.runs.cancel("unknown")
        await eventually(lambda: set(one.cancelled) == {watched.id, named.id})

    assert time.monotonic() - began < 10
    assert not other.cancelled and not third.cancelled


async def test_the_owner_knows_that_a_run_is_watched_elsewhere(server: ValkeyServer) -> None:
    """So the owner does not end a run for want of viewers that are elsewhere."""
    async with replica(server) as one, replica(server) as other:
        run, unwatched = await claimed(one), await claimed(one)
        copy = await other.followed(run.id)
        assert not one.runs.is_watched(run.id)
        leave = watch(copy)
        await eventually(lambda: one.runs.is_watched(run.id), 1.0)
        assert not one.runs.is_watched(unwatched.id)
        leave()


async def test_a_ticket_is_taken_once_and_anywhere(server: ValkeyServer) -> None:
    """By the replica that the viewer comes to, and never after its time to live."""
    async with replica(server) as one, replica(server) as other:
        assert await one.runs.tickets.put_ticket("ticket", b"value", 30)
        taken = await asyncio.gather(
            *(at.runs.tickets.take_ticket("ticket") for at in (one, other, one, other))
        )
        assert sorted(taken, key=str) == [None, None, None, b"value"]

        assert await one.runs.tickets.put_ticket("short", b"value", 0.01)
        await asyncio.sleep(0.05)
        assert await other.runs.tickets.take_ticket("short") is None
        assert await other.runs.tickets.take_ticket("unknown") is None


async def test_a_call_whose_tap_a_busy_replica_could_not_find_is_counted_before_it_is_made(
    server: ValkeyServer,
) -> None:
    """The backend's next call may come to another replica, and is not to be taken for this one."""
    async with replica(server) as one:
        assert await one.runs.taps.put_tap("token", "start", 30)
        asked = one.runs.taps._tap_key("token").encode()
        async with Detour(server, asked).open() as detour, replica(detour) as other:
            finding = asyncio.create_task(other.runs.taps.find_tap("token"))
            await detour.reached.wait()
            be_busy(CALL_S + 2 * STALL_S)
            assert await finding is None
            assert await one.runs.taps.count_call("token") == 2
            detour.release.set()
            assert await other.runs.taps.find_tap("token") == (one.runs.replica, "start")


def be_busy(seconds: float) -> None:
    """With anything but the loop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def test_what_is_learned_of_models_is_shared_and_sealed(server: ValkeyServer) -> None:
    """Each entry for all replicas until it is dropped; all of them end."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        for name in ("a" * 64, "b" * 64):
            await one.runs.denylist.put_denylist_entry(name, b"gpt does not stream", 30)
        stored = await client.hgetall("headgate:learned")
        left_ms = await client.pttl("headgate:learned")

        assert await other.runs.denylist.find_denylist_entry("a" * 64) == b"gpt does not stream"
        assert await other.runs.denylist.find_denylist_entry("c" * 64) is None
        await other.runs.denylist.drop_denylist_entry("a" * 64)
        assert await one.runs.denylist.denylist_entries() == {"b" * 64: b"gpt does not stream"}
        await client.hset("headgate:learned", "c" * 64, b"of somebody else")
        assert await one.runs.denylist.denylist_entries() == {"b" * 64: b"gpt does not stream"}

    assert 0 < left_ms <= 30_000
    assert not any(b"stream" in value for value in stored.values())


async def test_nothing_is_learned_from_a_store_that_is_away(tmp_path: Path) -> None:
    """And nothing is raised."""
    async with valkey(tmp_path) as server, replica(server) as one:
        await server.kill()
        await one.runs.denylist.put_denylist_entry("a" * 64, b"value", 30)
        await one.runs.denylist.drop_denylist_entry("a" * 64)

        assert await one.runs.denylist.find_denylist_entry("a" * 64) is None
        assert await one.runs.denylist.denylist_entries() == {}


# A replica that is gone


async def test_viewers_are_told_when_the_replica_of_their_run_is_gone(server: ValkeyServer) -> None:
    """Within 15 s, and all of them the same. If the lost replica comes back, that end stands."""
    with logged() as lines:
        async with replica(server) as dead, replica(server) as one, replica(server) as other:
            run, silent = await claimed(dead, "body", "idempotency"), await claimed(dead)
            say(run, 3)
            copies = [await at.followed(run.id) for at in (one, other)]
            begun = await one.followed(silent.id)
            for copy in copies:
                await same(copy, run)
            before = wires(run.log)
            idle = await claimed(one)
            await other.followed(idle.id)
            await dead.die()
            await eventually(lambda: all(copy.log.ended for copy in (*copies, begun)), 15)
            late = await replica_after(server, run)

            assert wires(copies[0].log) == wires(copies[1].log) == wires(late.log)
            assert wires(late.log)[:-1] == before
            told, at_once = events(late.log)[-1], events(begun.log)[-1]
            assert (told["type"], told["error_code"], told["status"]) == ("error", "replica_lost", 502)
            assert told["retry_available"] and told["partial"] and not at_once["partial"]
            for copy in (*copies, late):
                assert copy.failure is not None and copy.failure.code == "replica_lost"
                assert copy.answer is None
            assert await other.runs.joinable(["body", "idempotency"]) is None

            # It was only paused, and goes on for its own viewers.
            dead.runs._tasks.append(asyncio.create_task(dead.runs._mirror.mirror()))
            say(run, 3)
            await run.settle(whole())
            await eventually(lambda: bool(lines("run ended elsewhere")))
            assert run.log.ended and run.answer is not None
            assert wires((await replica_after(server, run)).log) == wires(late.log)
            # Meanwhile a run that was found but that nobody watches is followed no more.
            await eventually(lambda: other.runs.followed == 0, 15)
    assert len(lines("run ended elsewhere")) == 1


async def replica_after(server: ValkeyServer, run: Run) -> ViewableRun:
    async with replica(server) as late:
        return await late.followed(run.id)


async def test_a_replica_that_leaves_copies_what_is_left(server: ValkeyServer) -> None:
    """A run that ends with its process ends elsewhere as it did there."""
    async with replica(server) as other:
        async with replica(server) as one:
            run = await claimed(one)
            copy = await other.followed(run.id)
            say(run, 5)
            run.shut_down()
        await same(copy, run)
    assert events(copy.log)[-1]["error_code"] == "shutdown"


# A store that fails


async def test_a_store_that_dies_costs_a_run_nothing_and_gets_all_of_it_later(tmp_path: Path) -> None:
    """The store comes back empty, and viewers old and new have the whole run, in order."""
    with logged() as lines:
        async with valkey(tmp_path) as server, replica(server) as one, replica(server) as other:
            run, silent = await claimed(one, "body"), await claimed(one)
            say(run, 5)
            say(silent)
            copy = await other.followed(run.id)
            await same(copy, run)
            await server.kill()
            say(run, 5)
            meanwhile = new_run()
            assert await one.runs.claim(meanwhile, ["meanwhile"]) is None
            say(meanwhile, 5)
            await eventually(lambda: set(one.faults) == {run.id, silent.id, meanwhile.id})
            await server.start()
            say(run, 5)
            await same(copy, run)
            await run.settle(whole())
            await same(copy, run)

            async with replica(server) as late:
                await eventually(lambda: _found(late, silent))
                for each in (run, silent, meanwhile):
                    await same(await late.followed(each.id), each)
                assert await late.runs.joinable(["meanwhile"]) == meanwhile.id
    assert len(one.faults) == 3
    assert len(lines("log store down")) == 2  # one for each replica
    assert copy.answer == run.answer


async def _found(at: Replica, run: Run) -> bool:
    try:
        return await at.runs.find(run.id) is not None
    except StoreDown:  # not back yet
        return False


async def test_a_store_that_hangs_costs_one_request_half_a_second(tmp_path: Path) -> None:
    """All other requests go on at once, until the store answers again."""
    async with valkey(tmp_path) as server, replica(server) as one:
        server.freeze()
        began = time.monotonic()
        first, second = new_run(), new_run()
        assert await one.runs.claim(first, ["a"]) is None
        assert time.monotonic() - began < 10
        began = time.monotonic()
        assert await one.runs.claim(second, ["b"]) is None
        for unsure in (
            one.runs.joinable(["a"]),
            one.runs.find(str(uuid.uuid4())),
            one.runs.tickets.take_ticket("unknown"),
        ):
            with pytest.raises(StoreDown):
                await unsure
        assert not await one.runs.tickets.put_ticket("ticket", b"", 30)
        await one.runs.cancel("unknown")
        assert time.monotonic() - began < 1.5  # six that wait, too, take twice as long
        assert sorted(one.faults) == sorted([first.id, second.id])

        server.thaw()
        say(first)
        async with replica(server) as other:
            await eventually(lambda: _found(other, first))
            await same(await other.followed(first.id), first)
            await eventually(lambda: _found(other, second))


async def test_more_runs_than_may_be_followed_are_not_said_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for one more is to ask again."""
    monkeypatch.setattr(followed_runs, "MAX_FOLLOWED", 1)
    async with valkey(tmp_path) as server, replica(server) as one, replica(server) as other:
        first, second = await claimed(one), await claimed(one)
        leave = watch(await other.followed(first.id))
        with pytest.raises(StoreDown):
            await other.runs.find(second.id)
        leave()


async def test_a_store_that_is_not_there_is_no_reason_not_to_start(tmp_path: Path) -> None:
    """Nor is a store that refuses the password. The password is logged nowhere."""
    with logged() as lines:
        async with valkey(tmp_path, "--requirepass", "right") as server:
            server.url = f"redis://:wrong-secret@127.0.0.1:{server.port}"
            async with replica(server) as one:
                run = await claimed(one)
                say(run)
                with pytest.raises(StoreDown):
                    await one.runs.find(str(uuid.uuid4()))
                await server.kill()
                await claimed(one)
            server.url = f"redis://:right@127.0.0.1:{server.port}"
            await server.start()
            async with replica(server) as one, replica(server) as other:
                run = await claimed(one)
                await same(await other.followed(run.id), run)
    assert lines("log store down")[0]["why"] == "AuthenticationError"
    assert not any("wrong-secret" in str(line) or "127.0.0.1" in str(line) for line in lines.lines)


async def test_a_store_that_is_full_is_one_that_is_down(tmp_path: Path) -> None:
    """Runs go on, and are copied when there is room."""
    with logged() as lines:
        async with valkey(tmp_path) as server, replica(server) as one, server.client() as client:
            run = await claimed(one)
            await client.config_set("maxmemory", "1")
            say(run, 5)
            await eventually(lambda: one.faults == [run.id])
            await client.config_set("maxmemory", "0")
            async with replica(server) as other:
                await eventually(lambda: _found(other, run))
                await same(await other.followed(run.id), run)
    assert len(lines("log store down")) == len(lines("log store back")) == 1


async def test_a_connection_that_breaks_is_made_again(tmp_path: Path) -> None:
    """The store may close idle connections and forget its scripts; no call fails."""
    async with (
        valkey(tmp_path) as server,
        replica(server) as one,
        replica(server) as other,
        server.client() as client,
    ):
        run = await claimed(one)
        copy = await other.followed(run.id)
        say(run)
        await same(copy, run)
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await client.script_flush()
        say(run)
        await claimed(one)
        assert await other.runs.find("unknown") is None
        await same(copy, run)
        assert not one.faults and not other.faults


async def test_runs_that_have_ended_do_not_wait_for_ever_for_a_store(tmp_path: Path) -> None:
    """Texts are kept no longer than the settings say, except those of runs in flight."""
    with logged() as lines:
        async with valkey(tmp_path) as server, replica(server, ttl_s=0.5) as one:
            await server.kill()
            ended, live = await claimed(one), await claimed(one)
            await ended.settle(whole())
            say(live)
            await eventually(lambda: bool(lines("run not copied")))
            await server.start()
            async with replica(server) as other:
                await eventually(lambda: _found(other, live))
                assert await other.runs.find(ended.id) is None
    assert [line["run"] for line in lines("run not copied")] == [ended.id]


def test_settings_that_cannot_work_are_refused() -> None:
    """A short key, a wrong address. The message does not repeat the value, which may hold a password."""
    good = {"url": "rediss://user:secret-word@valkey:6380/1", "key": KEY}
    assert "secret-word" not in repr(ValkeyLogSettings.model_validate(good))
    for wrong in (
        {"url": "http://:secret-word@valkey"},
        {"url": "redis://:secret-word@valkey:port"},
        {"url": "redis://:secret-word@"},
        {"url": "redis://:secret-word@[::1"},
        {"key": "secret-word too short"},
        {"prefix": "with space"},
        {"ttl_s": 0},
        {"more": 1},
    ):
        with pytest.raises(ValidationError) as caught:
            ValkeyLogSettings.model_validate(good | wrong)
        assert len(caught.value.errors()) == 1
        assert "secret-word" not in caught.value.errors()[0]["msg"]


# Shares of the store


async def ended(at: Replica, who: Identity, words: int, *keys: str) -> Run:
    """A run of this principal that is stored whole."""
    call = Call(ROUTE, {"case_id": "7"}, Request("POST", TARGET, [], b"the body"))
    run = Run(call, STREAM, who, METRICS, deque(), fingerprint="print")
    assert await at.runs.claim(run, keys) is None
    run.begun()
    await run.settle(whole(answer(summary="pneumonia " * words)))
    mirror = at.runs._mirror
    await eventually(lambda: not (mirror.has(run.id) or mirror._final))
    return run


async def test_large_runs_of_one_user_evict_his_own_from_the_store(server: ValkeyServer) -> None:
    """All that is stored of the oldest, but for the key by which nothing is asked twice."""
    bob = Identity("principal-of-bob", "bob")
    async with (
        replica(server, bytes_of_user=2_000_000) as one,
        replica(server) as other,
        server.client() as client,
    ):
        hers = await ended(one, ANN, 10)
        first = await ended(one, bob, 60_000, "same", "key")
        his = [await ended(one, bob, 10_000) for _ in range(20)]
        left = [await client.keys(f"headgate:run:{run.id}*") for run in (first, his[0], his[-1], hers)]
        used = sum(
            [await client.memory_usage(key) or 0 for run in his for key in await client.keys(f"*{run.id}*")]
        )
        await same(await other.followed(hers.id), hers)
        await same(await other.followed(his[-1].id), his[-1])

        assert [bool(keys) for keys in left] == [False, False, True, True]
        assert used < 2.5 * 2_000_000
        assert await other.runs.find(first.id) is None
        assert await other.runs.joinable(["key"]) == first.id


async def test_many_runs_of_one_user_evict_his_own_from_the_store(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for their number; and what is counted goes with its runs."""
    monkeypatch.setattr(shared_runs, "MAX_KEPT_OF_USER", 3)
    async with replica(server, ttl_s=2) as one, server.client() as client:
        runs = [await ended(one, ANN, 1) for _ in range(5)]
        found = [await client.exists(f"headgate:run:{run.id}") for run in runs]
        [kept, sizes] = sorted(await client.keys("headgate:kept:*"))
        members, fields = await client.zcard(kept), await client.hlen(sizes)

        assert found == [0, 0, 1, 1, 1]
        assert (members, fields) == (3, 4)
        await eventually(lambda: _none(client, "headgate:kept:*"))


async def _none(client: Redis, pattern: str) -> bool:
    return not await client.keys(pattern)


# What is at rest


async def test_nothing_readable_is_stored_and_every_key_ends(tmp_path: Path) -> None:
    """Neither text nor person nor request, in names or values; each with a time to live, at every moment."""
    secrets = [b"pneumonia", b"Fever of 38.9", b"principal", b"/api/cases", b"patient=meier", b"the body"]
    secrets += [b"ticket-1", b"stage_start", b"content_chunk", b"extraction", b"idempotency", b"application"]
    async with (
        valkey(tmp_path) as server,
        replica(server, ttl_s=5) as one,
        replica(server) as other,
        server.client() as client,
    ):
        seen: set[bytes] = set()
        scanning = asyncio.create_task(_scan(client, seen, secrets))
        for number in range(3):
            run = await claimed(one, f"body {number}", f"idempotency {number}", of=SAFE)
            watch(copy := await other.followed(run.id))
            await one.runs.tickets.put_ticket("ticket-1", b"principal-of-ann", 30)
            for _ in range(20):
                say(run, 2)
                await asyncio.sleep(0.005)
            await other.runs.cancel(run.id)
            await run.settle(whole(answer(summary="pneumonia " * 60_000)))
            await same(copy, run)
        await asyncio.sleep(0.05)
        assert not scanning.done(), scanning.exception()
        scanning.cancel()
        await asyncio.wait({scanning})
        of_runs = await client.keys(f"headgate:run:{run.id}*")
        left_ms = [await client.pttl(key) for key in of_runs]

    kinds = {re.sub(rb"[0-9a-f-]{32,36}", b"*", key) for key in seen}
    assert kinds >= {
        b"headgate:run:*" + rest for rest in (b"", b":log", b":end", b":order", b":part:0:0", b":part:0:1")
    }
    assert kinds >= {
        b"headgate:" + kind + b":*" for kind in (b"same", b"replica", b"inbox", b"ticket", b"kept")
    }
    assert len(of_runs) > 5
    assert all(0 < left <= 5000 for left in left_ms)


async def _scan(client: Redis, seen: set[bytes], secrets: list[bytes]) -> None:
    while True:
        for key in await client.keys("*"):
            left_ms, content = await client.pttl(key), await client.dump(key)
            assert left_ms != -1, key
            assert not [word for word in secrets if word in key], key
            if content is not None:
                values = await _values(client, key)
                assert not [word for word in secrets if any(word in value for value in (content, *values))], (
                    key
                )
                seen.add(key)
        await asyncio.sleep(0)


async def _values(client: Redis, key: bytes) -> list[bytes]:
    kind = await client.type(key)
    if kind == b"hash":
        return list((await client.hgetall(key)).values())
    if kind == b"zset":
        return list(await client.zrange(key, 0, -1))
    if kind == b"stream":
        return [value for _, fields in await client.xrange(key) for value in fields.values()]
    return [await client.get(key) or b""]


async def test_a_message_that_was_read_is_stored_no_more(server: ValkeyServer) -> None:
    """It may hold a model's text, and an inbox that is in use has no end."""
    got: list[Any] = []
    async with replica(server) as one, replica(server) as other, server.client() as client:
        one.runs._on_tap = got.extend
        inbox = f"headgate:inbox:{one.runs.replica}"
        for number in range(200):
            await other.runs.taps.tell(one.runs.replica, {"taps": [["token", "call", number, "text", "t"]]})
        await eventually(lambda: len(got) == 200)

        async def is_empty() -> bool:
            return int(await client.xlen(inbox)) == 0

        await eventually(is_empty)
        await other.runs.taps.tell(one.runs.replica, {"taps": [["token", "call", 200, "text", "t"]]})
        await eventually(lambda: len(got) == 201)


async def test_with_another_key_nothing_is_seen(server: ValkeyServer) -> None:
    """A replica with a wrong key says so in its log, and its viewers find no run."""
    with logged() as lines:
        async with replica(server) as one, replica(server, key=KEY[::-1]) as stranger:
            run = await claimed(one, "body")
            say(run, 3)
            await one.runs.tickets.put_ticket("ticket", b"value", 30)

            assert await stranger.runs.find(run.id) is None
            assert await stranger.runs.tickets.take_ticket("ticket") is None
            assert await stranger.runs.joinable(["body"]) is None
            assert await one.runs.tickets.take_ticket("ticket") == b"value"
    assert [line["run"] for line in lines("stored run cannot be read")] == [run.id]


async def test_entries_that_were_swapped_are_refused(server: ValkeyServer) -> None:
    """A writer to the store cannot change what viewers read: they see that the run is lost."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        run, second = await claimed(one), await claimed(one)
        say(run, 4)
        say(second, 4)
        await eventually(lambda: _has(client, run))
        await eventually(lambda: _has(client, second))
        log = f"headgate:run:{run.id}:log"
        values = [fields[b"e"] for _, fields in await client.xrange(log)]
        foreign = [fields[b"e"] for _, fields in await client.xrange(f"headgate:run:{second.id}:log")]
        for changed in (
            [values[0], values[2], values[1], *values[3:]],
            [values[0], *values[2:]],
            [foreign[0], *values[1:]],
            [*values[:3], values[3][:-1] + bytes((values[3][-1] ^ 1,)), values[4]],
            [*values[:4], b""],
        ):
            await _write(client, log, changed)
            assert await other.runs.find(run.id) is None

        await _write(client, log, values)
        await client.xdel(log, "3-0")
        assert await other.runs.find(run.id) is None

        copy = await other.followed(second.id)
        meta = await client.get(f"headgate:run:{second.id}")
        assert meta is not None
        await client.set(f"headgate:run:{run.id}", meta, ex=60)
        assert await other.runs.find(run.id) is None
        await one.die()
        await client.xadd(f"headgate:run:{second.id}:log", {"e": foreign[1]}, id="6-0")
        await eventually(lambda: copy.log.ended)
    assert wires(copy.log)[:-1] == wires(second.log)
    assert (events(copy.log)[-1]["error_code"], events(copy.log)[-1]["partial"]) == ("log_store", True)


async def _write(client: Redis, log: str, values: list[bytes]) -> None:
    await client.delete(log)
    for number, value in enumerate(values, 1):
        await client.xadd(log, {"e": value}, id=f"{number}-0")
    await client.expire(log, 60)


async def test_a_key_that_holds_something_else_disturbs_no_other_run(server: ValkeyServer) -> None:
    """A run whose log was replaced by another value is lost at other replicas; another run goes on."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        run, second = await claimed(one), await claimed(one)
        say(run)
        copy, second_copy = await other.followed(run.id), await other.followed(second.id)
        await same(copy, run)
        await client.set(f"headgate:run:{run.id}:log", "text", ex=60)
        say(run)
        say(second)
        await eventually(lambda: copy.log.ended)
        await same(second_copy, second)
    assert one.faults == [run.id]
