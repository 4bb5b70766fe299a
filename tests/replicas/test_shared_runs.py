"""Runs that replicas share: what a viewer elsewhere sees, and who executes what."""

import asyncio
import gc
import time
from functools import partial
from pathlib import Path

import pytest

from proxy.errors import UpstreamSilent
from proxy.replicas.followed_runs import MAX_FOLLOWED_BYTES
from proxy.replicas.placement import part
from proxy.replicas.store.valkey import CALL_S, STALL_S
from proxy.upstream.client import Answer
from tests.replicas.shared_run import EXTRACTED, events, has_entry, new_run, same, say, watch, whole
from tests.replicas.sharing import Replica, claimed, replica
from tests.servers.client import PATIENCE_S, eventually, texts
from tests.servers.streaming import EXTRACTION, SUMMARY, answer
from tests.servers.valkey_server import Detour, ValkeyServer, valkey

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


@pytest.mark.parametrize("by_s", [-86_400, 86_400])
async def test_clocks_that_differ_by_a_day_make_no_run_old(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    """A job that is taken over would be out of time at once."""
    async with replica(server) as one, replica(server) as other:
        monkeypatch.setattr("proxy.replicas.shared_runs.time", lambda: time.time() + by_s)
        run = await claimed(one)
        copy = await other.followed(run.id)
        now = asyncio.get_running_loop().time()

    assert now - PATIENCE_S < copy.started_at <= now


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
            await eventually(lambda: has_entry(client, run))
            finding = asyncio.create_task(other.followed(run.id))
            await detour.reached.wait()
            say(run, 5)
            await eventually(lambda: has_entry(client, run))
        detour.release.set()
        copy = await finding
        await same(copy, run)
        say(run, 5)
        await same(copy, run)


async def test_what_is_stored_is_there_at_once(server: ValkeyServer) -> None:
    """A replica that finds a run knows without waiting whether it has text, and whether it has ended."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        run = await claimed(one)
        empty = await other.followed(run.id)
        assert not empty.log.has_content
        say(run, 3)
        ended = await claimed(one)
        await ended.settle(whole())
        await eventually(lambda: has_entry(client, run))
        await eventually(lambda: has_entry(client, ended))

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
    """The run is read once for all of its viewers."""
    async with replica(server) as one, replica(server) as other:
        run = await claimed(one)
        found = await asyncio.gather(*(other.runs.find(run.id) for _ in range(10)))
        found.append(await other.runs.find(run.id))

        assert other.runs.followed == 1
        assert len({id(copy) for copy in found}) == 1


async def test_followed_runs_are_never_over_their_bytes(server: ValkeyServer) -> None:
    """However quickly they come and grow: what has no viewer goes at once, and the next look is 1 s away."""
    size, shards = 300_000, 128
    most = part(MAX_FOLLOWED_BYTES, shards)
    async with replica(server) as one, replica(server, shards=shards) as other, server.client() as client:
        watched, grown, *others = [await claimed(one) for _ in range(8)]
        for run in (grown, *others):
            run.begin(EXTRACTED)
        for run in others:
            run.shown.say(run.shown.transcript.chunk("extraction", "x" * size))
        for run in (grown, *others):
            await eventually(partial(has_entry, client, run))
        leave = watch(await other.followed(watched.id))
        for run in others:
            await other.followed(run.id)
            assert (other.runs.followed - 1) * size <= most

        copy = await other.followed(grown.id)
        look = asyncio.Event()
        copy.log.subscribe(look.set)
        for _ in range(most // 10_000):
            grown.shown.say(grown.shown.transcript.chunk("extraction", "x" * 10_000))
        async with asyncio.timeout(60):
            while copy.log.size_bytes < most:
                look.clear()
                await look.wait()
        assert other.runs.followed == 2  # it alone is over the bound
        copy.log.unsubscribe(look.set)
        assert other.runs.followed == 1
        leave()


async def test_who_comes_and_goes_makes_no_room(server: ValkeyServer) -> None:
    """What a viewer brings back is counted as it comes, as it is when it leaves."""
    shards = 128
    most = part(MAX_FOLLOWED_BYTES, shards)
    async with replica(server) as one, replica(server, shards=shards) as other, server.client() as client:
        large, run = [await claimed(one) for _ in range(2)]
        for each in (large, run):
            each.begin(EXTRACTED)
        large.shown.say(large.shown.transcript.chunk("extraction", "x" * most))
        run.shown.say(run.shown.transcript.chunk("extraction", "x" * (most // 2)))
        for each in (large, run):
            await eventually(partial(has_entry, client, each))
        watch(await other.followed(large.id))
        copy = await other.followed(run.id)
        for _ in range(3):
            watch(copy)()
        assert other.runs.followed == 1


async def test_two_copies_of_one_run_are_both_filled(server: ValkeyServer) -> None:
    """Over the bound a run goes as soon as it is found; two requests may find it before either reads it."""
    shards = 128
    most = part(MAX_FOLLOWED_BYTES, shards)
    async with replica(server) as one, replica(server, shards=shards) as other, server.client() as client:
        large, run = [await claimed(one) for _ in range(2)]
        large.begin(EXTRACTED)
        for _ in range(2):
            large.shown.say(large.shown.transcript.chunk("extraction", "x" * (most // 2)))
        say(run)
        for each in (large, run):
            await eventually(partial(has_entry, client, each))
        watch(await other.followed(large.id))
        first = await other.followed(run.id)
        run.shown.say(run.shown.transcript.chunk("extraction", "between "))
        await eventually(partial(has_entry, client, run))
        second = await other.followed(run.id)
        assert second is not first
        watch(first)
        watch(second)

        run.shown.say(run.shown.transcript.chunk("extraction", "after "))
        await same(first, run)
        await same(second, run)
        await run.settle(whole())
        await same(first, run)
        await same(second, run)
        assert first.answer == second.answer == run.answer is not None


async def test_a_run_that_nobody_knows_is_not_found(server: ValkeyServer) -> None:
    """Nor is anything else that is stored taken for a run."""
    async with replica(server) as one, replica(server) as other:
        run = await claimed(one)
        say(run)
        await asyncio.sleep(0.05)
        for run_id in ("unknown", f"{run.id}:log", f"{run.id}:end", "", "a b", "x" * 10_000, "*"):
            assert await other.runs.find(run_id) is None


async def test_a_large_answer_does_not_hold_up_the_others(server: ValkeyServer) -> None:
    """16 MiB arrive exactly, while another run's words overtake them, one after the other."""
    body = answer()[:-1] + b', "images": "' + b"pixel " * 2_800_000 + b'"}'
    words = 0
    async with replica(server) as one, replica(server) as other:
        large, small = await claimed(one), await claimed(one)
        large_copy, small_copy = await other.followed(large.id), await other.followed(small.id)
        large.begin(EXTRACTED)
        large.shown.say(
            large.shown.transcript.chunk("extraction", "a long text without a word to cut at " * 30_000)
        )
        await large.settle(whole(body))
        while not large_copy.log.ended:
            say(small)
            await eventually(lambda: len(small_copy.log) == len(small.log))
            words += 1
        await same(large_copy, large)
        await same(small_copy, small)

    assert large_copy.answer == large.answer
    assert large_copy.answer is not None and large_copy.answer.body == body
    assert words > 4


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
        await eventually(lambda: has_entry(client, run))

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
        await other.runs.cancel(watched)
        await third.runs.cancel(named)
        await third.runs.cancel(new_run("unknown"))
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
