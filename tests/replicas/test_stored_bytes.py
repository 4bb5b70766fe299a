"""The store at rest holds nothing readable, nothing for ever, and no more than a user's share."""

import asyncio
import re
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.identity import Identity
from proxy.replicas import shared_runs
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.upstream.client import Request
from tests.replicas.shared_run import (
    ANN,
    METRICS,
    ROUTE,
    SAFE,
    STREAM,
    TARGET,
    events,
    has_entry,
    same,
    say,
    watch,
    whole,
    wires,
)
from tests.replicas.sharing import KEY, Replica, claimed, replica
from tests.servers.client import eventually
from tests.servers.streaming import answer, logged
from tests.servers.valkey_server import ValkeyServer, valkey

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
            await other.runs.cancel(run)
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
        await eventually(lambda: has_entry(client, run))
        await eventually(lambda: has_entry(client, second))
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
