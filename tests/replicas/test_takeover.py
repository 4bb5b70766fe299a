"""Runs whose replica is gone, and what the others do about them; over a real Valkey server."""

import asyncio
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from flags.decision import Arm, Decision, Mode, Reason
from proxy.identity import Identity
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.store.records import MAX_REQUEST_BYTES, StoredRequest
from proxy.replicas.store.scripts import TAKE_OVER
from proxy.replicas.store.sealing import Sealing, Unsealable
from proxy.replicas.takeover import YIELD_S, LostRunAction, action_for
from proxy.runs.recovery import MAX_TIMES
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.viewers.api import position
from tests.replicas.shared_run import ANN, SAFE, events, new_run, same, say, stored, whole, wires
from tests.replicas.sharing import KEY, Replica, claimed, replica, replica_after
from tests.servers.client import eventually
from tests.servers.streaming import route
from tests.servers.valkey_server import Detour, ValkeyServer

numbers = count()
BOX = Sealing(KEY).box("run of tests")


async def begun(at: Replica, words: int = 3, of: Route = SAFE) -> Run:
    """A run with some text."""
    number = next(numbers)
    run = await claimed(at, f"body {number}", f"idempotency {number}", of=of)
    if words:
        say(run, words)
    return run


async def followed(at: Replica, run: Run) -> FollowedRun:
    copy = await at.followed(run.id)
    assert isinstance(copy, FollowedRun)
    await same(copy, run)
    return copy


async def lose(at: Replica, copy: FollowedRun, overdue_s: float = 0) -> None:
    """Lose a run, as when its replica has been silent for long enough."""
    await at.runs._takeover.handle_lost(copy, overdue_s)


async def stored_requests(server: ValkeyServer) -> int:
    async with server.client() as client:
        return len(await client.keys("*:order"))


# Who


async def test_of_all_replicas_one_takes_a_run_over(server: ValkeyServer) -> None:
    """They may race. All see one log: the old owner's, continued by the new owner."""
    async with (
        replica(server) as dead,
        replica(server) as one,
        replica(server) as two,
        replica(server) as three,
    ):
        others = (one, two, three)
        for words in (0, 1, 5) * 5:
            run = await begun(dead, words)
            copies = [await followed(at, run) for at in others]
            before = wires(run.log)
            await asyncio.gather(*(lose(at, copy) for at, copy in zip(others, copies, strict=True)))
            [(new, winner)] = [(at.taken.pop(), at) for at in others if at.taken]
            say(new, 2)
            await new.settle(whole())
            for copy in copies:
                await same(copy, new)
                assert (copy.failure, copy.answer) == (None, new.answer)
                assert copy.meta.owner == winner.runs.replica
            late = await replica_after(server, new)

            assert wires(late.log) == wires(new.log)
            assert wires(new.log)[: len(before)] == before
            assert new.id == run.id and new.principal == run.principal and new.decision == run.decision
            assert new.call == run.call
            assert [entry.seq for entry in new.log.up_to(999)] == list(range(1, len(new.log) + 1))
            assert not await stored_requests(server)


async def test_an_answer_of_the_store_that_is_lost_loses_no_run(server: ValkeyServer) -> None:
    """The store gives a run to a replica, and the reply is lost: the replica asks again, and goes on."""
    sha = TAKE_OVER.sha.encode()
    async with Detour(server, sha).open() as detour, replica(server) as dead, replica(detour) as one:
        run = await begun(dead)
        copy = await followed(one, run)
        losing = asyncio.create_task(lose(one, copy))
        await detour.reached.wait()
        await asyncio.wait({losing})
        assert losing.exception() is not None
        assert not one.taken
        detour.release.set()
        await eventually(lambda: bool(one.taken))
        await one.taken[0].settle(whole())
        async with server.client() as client:
            await eventually(lambda: _is_stored(client, one.taken[0]))

        assert wires((await replica_after(server, one.taken[0])).log) == wires(copy.log)
    assert len(one.taken) == 1
    assert not one.cancelled


async def test_a_run_that_was_given_up_meanwhile_is_ended_for_all(server: ValkeyServer) -> None:
    """The store gives the run to a replica, then does not answer for so long that viewers see an end."""
    sha = TAKE_OVER.sha.encode()
    async with (
        Detour(server, sha).open() as detour,
        replica(server) as dead,
        replica(detour) as one,
        replica(server) as two,
    ):
        run = await begun(dead)
        copy, other = await followed(one, run), await followed(two, run)
        losing = asyncio.create_task(lose(one, copy))
        await detour.reached.wait()
        copy.end("log_store")
        await asyncio.wait({losing})
        assert losing.exception() is not None
        detour.release.set()
        await eventually(lambda: other.log.ended)

        assert wires(other.log) == wires(copy.log)
    assert not one.taken


async def test_a_mistake_of_ours_ends_the_run_for_all(server: ValkeyServer) -> None:
    """A replica has taken a run over, and cannot go on with it."""
    async with replica(server) as dead, replica(server) as one, replica(server) as two:
        run = await begun(dead)
        copy, other = await followed(one, run), await followed(two, run)
        one.fails = True
        await lose(one, copy)
        await eventually(lambda: other.log.ended)

        assert wires(other.log) == wires(copy.log)
        assert events(other.log)[-1]["error_code"] == "replica_lost"


async def test_a_cancel_is_heard_in_the_middle(server: ValkeyServer) -> None:
    """The cancel comes to the new owner before the new owner knows that it is the owner."""
    sha = TAKE_OVER.sha.encode()
    async with Detour(server, sha).open() as detour, replica(server) as dead, replica(detour) as one:
        run = await begun(dead)
        copy = await followed(one, run)
        losing = asyncio.create_task(lose(one, copy))
        await detour.reached.wait()
        one.runs._takeover.cancel(run.id)
        await asyncio.wait({losing})
        assert losing.exception() is not None
        detour.release.set()
        await eventually(lambda: one.cancelled == [run.id])
    assert len(one.taken) == 1


async def test_a_run_that_has_just_ended_is_not_taken_over(server: ValkeyServer) -> None:
    """The run's end is in the store, and the replica that follows it has not read that yet."""
    async with replica(server) as dead, replica(server) as one:
        run = await begun(dead)
        copy = await followed(one, run)
        await one.die()
        await run.settle(whole())
        async with server.client() as client:
            await eventually(lambda: _is_stored(client, run))
            await lose(one, copy)

            assert await stored(client, run) == len(run.log)
        assert not one.taken and not one.counted and not copy.log.ended


async def _is_stored(client: Any, run: Run) -> bool:
    return await stored(client, run) == len(run.log)


async def test_a_log_is_read_to_its_end_before_it_goes_on(server: ValkeyServer) -> None:
    """A replica takes a run over only once it has read all that is stored of the run."""
    async with replica(server) as dead, replica(server) as one, server.client() as client:
        run = await begun(dead)
        copy = await followed(one, run)
        await one.die()
        say(run, 2)
        await eventually(lambda: _is_stored(client, run))
        await lose(one, copy)
        assert not one.taken and not copy.log.ended
        await one.runs._stored.catch_up(copy)
        await lose(one, copy)

        assert wires(one.taken[0].log) == wires(run.log)


async def test_who_has_no_room_leaves_a_run_to_the_others(server: ValkeyServer) -> None:
    """For a while. Then the run is lost, and counted once."""
    async with replica(server) as dead, replica(server) as one, replica(server) as two:
        run = await begun(dead)
        copies = [await followed(at, run) for at in (one, two)]
        one.has_room = two.has_room = False
        await lose(one, copies[0])
        assert not copies[0].log.ended
        await asyncio.gather(lose(one, copies[0], YIELD_S), lose(two, copies[1], YIELD_S))
        await eventually(lambda: all(copy.log.ended for copy in copies))

        assert wires(copies[0].log) == wires(copies[1].log)
        assert events(copies[0].log)[-1]["error_code"] == "replica_lost"
        assert one.counted + two.counted == [run.id]
        assert not await stored_requests(server)


async def test_a_run_is_not_taken_over_without_leave(server: ValkeyServer) -> None:
    """A run of a route without `replay: safe`, and a run whose request is too long to be stored."""
    async with replica(server) as dead, replica(server) as one:
        unsafe = new_run()
        long = new_run(of=SAFE)
        body = b"x" * MAX_REQUEST_BYTES
        long.call = replace(long.call, request=replace(long.call.request, body=body))
        for run in (unsafe, long):
            assert await dead.runs.claim(run, []) is None
            say(run)
            assert not await stored_requests(server)
            copy = await followed(one, run)
            await lose(one, copy)
            assert copy.failure is not None and copy.failure.code == "replica_lost"
    assert not one.taken


async def test_a_call_that_was_sent_three_times_is_not_sent_again(server: ValkeyServer) -> None:
    """Also if it was the lost replica that had to send it again."""
    async with replica(server) as dead, replica(server) as one:
        for times, taken in ((2, True), (3, False)):
            run = await begun(dead, 0)
            copy = await followed(one, run)
            run.ask_again(times)
            await eventually(lambda copy=copy, times=times: _asked(server, copy, times))  # type: ignore[misc]
            await lose(one, copy)
            assert bool(one.taken) == taken
            if taken:
                new = one.taken.pop()
                assert (new.asked_before, new.times_asked) == (times, times + 1)
                new.cancel()
            else:
                assert copy.failure is not None and copy.failure.code == "replica_lost"


async def _asked(server: ValkeyServer, copy: FollowedRun, times: int) -> bool:
    async with server.client() as client:
        value = await client.get(f"headgate:run:{copy.id}:order")
    assert value is not None
    return StoredRequest.opened(copy.box, value).times_asked == times


async def test_a_run_that_was_cancelled_is_not_taken_over(server: ValkeyServer) -> None:
    """The run's viewers see that it was cancelled, at whichever replica and moment."""
    async with replica(server) as dead, replica(server) as one, replica(server) as two:
        run = await begun(dead)
        copy = await followed(one, run)
        await two.runs.cancel(run)
        await lose(one, copy)
    assert not one.taken
    assert events(copy.log)[-1]["error_code"] == "cancelled"


async def test_a_run_that_is_cancelled_at_the_last_moment_is_not_taken_over(server: ValkeyServer) -> None:
    """After its stored request was read, and before the store gives the run to the replica."""
    async with (
        Detour(server, b":order").open() as detour,
        replica(server) as dead,
        replica(detour) as one,
        replica(server) as two,
    ):
        run = await begun(dead)
        copy = await followed(one, run)
        losing = asyncio.create_task(lose(one, copy))
        await detour.reached.wait()
        await two.runs.cancel(run)
        detour.release.set()
        await losing
    assert not one.taken
    assert events(copy.log)[-1]["error_code"] == "cancelled"


async def test_a_cancel_finds_the_new_owner(server: ValkeyServer) -> None:
    """Also from a replica that still believes in the old owner."""
    async with replica(server) as dead, replica(server) as one, replica(server) as two:
        run = await begun(dead)
        copy, stale = await followed(one, run), await followed(two, run)
        await lose(one, copy)
        await two.runs.cancel(run)
        await eventually(lambda: one.cancelled == [run.id])
        assert stale.meta.owner == dead.runs.replica


async def test_a_run_is_taken_over_from_who_took_it_over(server: ValkeyServer) -> None:
    """With each takeover the names of its events change, until its call may not be sent again."""
    async with replica(server) as first, replica(server) as second, replica(server) as third:
        run = await begun(first)
        copy, last = await followed(second, run), await followed(third, run)
        await lose(second, copy)
        say(second.taken[0])
        await same(last, second.taken[0])
        await lose(third, last)  # it still takes the first for the owner
        assert last.meta.owner == second.runs.replica and not third.taken
        await lose(third, last)
        say(third.taken[0])

        names = [entry.id.removeprefix(run.id) for entry in third.taken[0].log.up_to(99)]
        assert names == [":1", ":2", ":3", ":4", ".1:5", ".2:6"]
        assert third.taken[0].times_asked == MAX_TIMES


# The one that was only held up


async def test_an_owner_that_was_held_up_adds_nothing(server: ValkeyServer) -> None:
    """The store refuses its writes, and the owner learns once that another replica executes the run."""
    async with replica(server) as paused, replica(server) as one, server.client() as client:
        run = await begun(paused)
        await lose(one, copy := await followed(one, run))
        say(run, 3)
        say(one.taken[0])
        await eventually(lambda: paused.parted_with == [run])
        await run.settle(whole())
        await one.taken[0].settle(whole())
        await eventually(lambda: _is_stored(client, one.taken[0]))
        assert await paused.runs.keeps(run)  # as far as it knows, nobody has missed it
        paused.runs._lease.renew(-1e9)
        assert not await paused.runs.keeps(run)
        assert wires((await replica_after(server, run)).log) == wires(copy.log)
    assert not paused.faults
    assert copy.log is one.taken[0].log


async def test_large_texts_of_an_owner_that_was_held_up_do_not_get_into_those_of_the_new(
    server: ValkeyServer,
) -> None:
    """Large texts are stored in parts, whose keys are the same for both owners."""
    async with replica(server) as paused, replica(server) as one, server.client() as client:
        run = await begun(paused)
        await lose(one, await followed(one, run))
        new = one.taken[0]
        say_much(new, "other ")
        await new.settle(whole())
        await eventually(lambda: _is_stored(client, new))
        say_much(run, "first ")
        await eventually(lambda: paused.parted_with == [run])

        assert wires((await replica_after(server, run)).log) == wires(new.log)


def say_much(run: Run, word: str) -> None:
    run.shown.say(run.shown.transcript.chunk("extraction", word * 100_000))


async def test_others_learn_of_an_owner_that_they_did_not_see_gone(server: ValkeyServer) -> None:
    """The old owner is back before they have taken it for lost; they read who executes its runs now."""
    async with replica(server) as paused, replica(server) as one, replica(server) as two:
        run = await begun(paused)
        copy, stale = await followed(one, run), await followed(two, run)
        await lose(one, copy)
        two.runs._detector.suspected.add(paused.runs.replica)
        await eventually(lambda: stale.meta.owner == one.runs.replica)


async def test_a_store_that_loses_its_memory_gets_the_run_of_its_new_owner(server: ValkeyServer) -> None:
    """With the stored request: the run can be taken over once more."""
    async with (
        replica(server) as dead,
        replica(server) as one,
        replica(server) as two,
        server.client() as client,
    ):
        run = await begun(dead)
        await lose(one, await followed(one, run))
        await dead.die()
        await client.flushall()
        say(one.taken[0])
        await eventually(lambda: _is_stored(client, one.taken[0]))
        await lose(two, await followed(two, one.taken[0]))

        assert len(two.taken) == 1


async def test_a_run_of_somebody_else_with_the_same_id_is_not_followed(server: ValkeyServer) -> None:
    """A store that lost its memory may get one: its viewers here see an end, and nothing of the other one."""
    async with (
        replica(server) as dead,
        replica(server) as one,
        replica(server) as other,
        server.client() as client,
    ):
        run = await begun(dead)
        copy = await followed(one, run)
        await dead.die()
        await client.flushall()
        theirs = new_run(run.id, identity=Identity("principal-of-bob", "bob"))
        assert await other.runs.claim(theirs, ()) is None
        one.runs._detector.suspected.add(dead.runs.replica)
        await eventually(lambda: copy.log.ended)

    assert copy.principal == ANN.principal
    assert copy.failure is not None
    assert copy.failure.code == "replica_lost"


# Cursors


async def test_a_cursor_of_what_nobody_else_has_seen_is_no_place_in_the_log(server: ValkeyServer) -> None:
    """The lost replica had shown its own viewers one event more than it had stored."""
    async with replica(server) as dead, replica(server) as one:
        run = await begun(dead)
        copy = await followed(one, run)
        await dead.die()
        say(run)
        unseen = run.log.up_to(99)[-1].id
        await lose(one, copy)
        say(one.taken[0], 2)

        assert await position(copy, f"{run.id}:{len(run.log) - 1}") == len(run.log) - 1
        assert await position(copy, unseen) is None
        for entry in copy.log.up_to(99):
            assert await position(copy, entry.id) == entry.seq


# Pure


DECISION = Decision(Mode.STREAM, Arm.STREAM, "batch", Reason.FLAG_ON, "wide", (10, 20))
REQUEST = StoredRequest(
    "POST", [(b"x", b"\xff"), (b"x", b"2")], b"{\n}\x00\xff", {"case_id": "7"}, DECISION, "ann", 2
)


def test_a_stored_request_is_what_it_was() -> None:
    """Headers in their order, bytes as they were; and with another key nothing."""
    for request in (REQUEST, replace(REQUEST, user=None, decision=replace(DECISION, chunk_chars=None))):
        sealed = request.sealed(BOX)
        assert sealed is not None
        assert StoredRequest.opened(BOX, sealed) == request
        with pytest.raises(Unsealable):
            StoredRequest.opened(Sealing(KEY[::-1]).box("run of tests"), sealed)
    assert replace(REQUEST, body=b"x" * MAX_REQUEST_BYTES).sealed(BOX) is None


@pytest.mark.parametrize(
    ("has_request", "replay", "stored_request", "has_room", "expected"),
    [
        (True, "safe", REQUEST, True, LostRunAction.TAKE),
        (True, "safe", REQUEST, False, LostRunAction.LEAVE),
        (True, "safe", replace(REQUEST, times_asked=MAX_TIMES), True, LostRunAction.LOSE),
        (True, "safe", None, True, LostRunAction.CANCEL),
        (True, "never", REQUEST, True, LostRunAction.LOSE),
        (False, "safe", None, True, LostRunAction.LOSE),
    ],
)
async def test_what_becomes_of_a_lost_run(
    has_request: bool,
    replay: str,
    stored_request: StoredRequest | None,
    has_room: bool,
    expected: LostRunAction,
    server: ValkeyServer,
) -> None:
    """A replica takes it over if the route allows that, the request is stored, and there is room."""
    async with replica(server) as one, replica(server) as two:
        run = await followed(two, await begun(one))
    run.stored = replace(run.stored, meta=replace(run.meta, has_request=has_request))
    run.route = Route.compile(RouteSettings.model_validate(route(replay=replay)))
    assert action_for(run, stored_request, has_room=has_room) is expected
