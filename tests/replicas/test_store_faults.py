"""A store that fails, and a replica that is gone: what a run loses, which is nothing."""

import asyncio
import time
import uuid
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.errors import StoreDown
from proxy.replicas import followed_runs
from proxy.runs.run import Run
from proxy.settings.settings import ValkeyLogSettings
from tests.replicas.shared_run import events, new_run, same, say, watch, whole, wires
from tests.replicas.sharing import KEY, Replica, claimed, replica, replica_after
from tests.servers.client import eventually
from tests.servers.streaming import logged
from tests.servers.valkey_server import ValkeyServer, valkey

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
        await one.runs.cancel(new_run("unknown"))
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
    """A client that asks for one more is told to ask again."""
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
