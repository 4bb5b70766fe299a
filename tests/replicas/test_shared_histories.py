"""Users' histories that replicas add up through a real Valkey server."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis.asyncio import Redis

from proxy.observe.users.histories import MAX_CHANGED, MAX_HISTORIES, UNIT, USUAL, Histories
from proxy.observe.users.met_users import UserNames
from proxy.replicas.histories import route_log
from proxy.replicas.histories.history_records import MAX_BATCH, MAX_SENDERS, HistoryMemory
from proxy.replicas.histories.history_scripts import HISTORY_SCRIPTS
from proxy.replicas.histories.route_log import MAX_LOG
from proxy.replicas.histories.shared_histories import ROUND_S, SharedHistories
from proxy.replicas.store.records import Keys
from proxy.replicas.store.sealing import Sealing
from proxy.replicas.store.valkey import Health, Link
from tests.servers.client import browser, eventually, scrape, signed
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import flag_document, headgate
from tests.servers.streaming import START, answer, logged, route
from tests.servers.valkey_server import Detour, ValkeyServer, valkey

KEY = "a key for tests, of more than 32 characters"
NAMES = UserNames(b"key")
ANN, BOB = NAMES.of("ann", None), NAMES.of("bob", None)


@dataclass
class Replica:
    """One process: what it knows of the users of one route, and how it shares that."""

    shared: SharedHistories
    known: Histories = field(default_factory=Histories)

    def learn(self, user: bytes, *, failed: int = 0, requests: int = 1, ago_s: float = 0) -> None:
        self.known.add(user, time.time() - ago_s, failed, requests)

    @property
    def all(self) -> dict[bytes, tuple[int, int]]:
        """By user, requests and failures."""
        return {each.user: (each.requests, each.failed) for each in self.known}


@asynccontextmanager
async def replica(
    server: ValkeyServer | Detour, *, key: str = KEY, round_s: float = ROUND_S
) -> AsyncIterator[Replica]:
    """It shares when it is told to. At the end it is gone, as with `kill -9`."""
    link = Link(server.url, Health("store of histories"), HISTORY_SCRIPTS, round_s)
    known = Histories()
    name = uuid.uuid4().hex
    try:
        memories = [HistoryMemory("start", known)]
        yield Replica(SharedHistories(link, Keys("headgate"), Sealing(key), name, memories), known)
    finally:
        await link.aclose()


async def share(*replicas: Replica) -> None:
    """Each writes, then each has read what all have written."""
    for _ in range(2):
        for one in replicas:
            await one.shared.share()


@pytest.fixture
def folds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is folded as soon as it may be."""
    monkeypatch.setattr(route_log, "FOLD_AFTER_MS", 1)
    monkeypatch.setattr(route_log, "FOLD_FROM", 1)


async def the(client: Redis, kind: str = "") -> str:
    """The name of the one key of histories of this kind."""
    [name] = [key.decode() async for key in client.scan_iter(f"headgate:histories:*{kind}") if _is(key, kind)]
    return str(name)


def _is(key: bytes, kind: str) -> bool:
    return key.decode().count(":") == (3 if kind else 2)


async def until_folded(client: Redis, one: Replica) -> None:
    """Entries of the present millisecond are folded in the next one."""

    async def is_folded() -> bool:
        await share(one)
        return int(await client.xlen(await the(client))) == 0

    await eventually(is_folded, 60)


async def test_each_replica_knows_what_all_have_seen(server: ValkeyServer) -> None:
    """Added up, each request once, however often they share; and how well forecasts did."""
    async with replica(server) as one, replica(server) as other:
        await share(one, other)
        one.learn(ANN, failed=3, requests=9)
        one.learn(BOB, requests=50)
        other.learn(ANN, failed=1, requests=2)
        for _ in range(5):
            await share(one, other)
        one.learn(ANN, failed=1)
        await share(one, other)

        assert one.all == other.all == {ANN: (12, 5), BOB: (50, 0)}
        assert one.known.expected(ANN) == other.known.expected(ANN) > 10 * one.known.expected(BOB)
        assert one.known.shared().agreed == pytest.approx(other.known.shared().agreed)


async def test_a_process_that_starts_finds_the_histories_again(server: ValkeyServer) -> None:
    """All that a killed one has shared; what it was about to share is lost with it."""
    async with replica(server) as killed:
        killed.learn(ANN, failed=9, requests=9)
        await share(killed)
        killed.learn(BOB)
    async with replica(server) as started:
        started.learn(ANN)
        await started.shared.share()

        assert started.all == {ANN: (10, 9)}


async def test_a_process_that_stops_shares_what_it_has_left(server: ValkeyServer) -> None:
    """On its way out, once more than its bound of users in a batch allows."""
    async with replica(server) as stopping, stopping.shared:
        stopping.learn(ANN, failed=2, requests=3)
    async with replica(server) as started, started.shared:
        assert started.all == {ANN: (3, 2)}


@pytest.mark.usefixtures("folds_at_once")
async def test_the_log_is_folded_and_nothing_counts_twice(server: ValkeyServer) -> None:
    """Any process may fold at any time; the others find in the sum what they have not read yet."""
    async with (
        replica(server) as one,
        replica(server) as other,
        replica(server) as late,
        server.client() as c,
    ):
        late.learn(BOB)
        await share(one, other, late)
        for _ in range(20):
            one.learn(ANN, failed=1)
            other.learn(ANN)
            await share(one, other)
        await until_folded(c, one)
        late.learn(BOB)
        await share(late, one, other)

        assert one.all == other.all == late.all == {ANN: (40, 20), BOB: (2, 0)}
    async with replica(server) as started:
        await share(started)

        assert started.all == late.all


@pytest.mark.usefixtures("folds_at_once")
async def test_who_was_not_seen_for_thirty_days_is_forgotten_in_the_store_too(server: ValkeyServer) -> None:
    """Folding the log forgets them, and that is done once an hour at least."""
    sizes = []
    for user, ago_s in ((ANN, 30 * 86_400), (BOB, 29 * 86_400)):
        async with replica(server) as one, server.client() as client:
            await share(one)
            empty = await client.hstrlen(await the(client, "sum"), "value")
            one.learn(user, ago_s=ago_s)
            await until_folded(client, one)
            sizes.append(await client.hstrlen(await the(client, "sum"), "value") - empty)
    async with replica(server) as started:
        await share(started)

        assert started.all == {BOB: (1, 0)}
    assert sizes[0] < sizes[1]


async def test_a_batch_that_comes_twice_counts_once(server: ValkeyServer) -> None:
    """A lost reply repeats a batch, and so can anybody who may write to the store."""
    async with replica(server) as other, server.client() as client:
        await share(other)
        async with Detour(server, b"EVALSHA").open() as detour, replica(detour, round_s=0.5) as one:
            one.learn(ANN, failed=1)
            await one.shared.share()
            assert detour.reached.is_set()
            detour.release.set()
            await share(one)
        [(_, first), *others] = await client.xrange(await the(client))
        await client.xadd(await the(client), first)
        await share(other)
    async with replica(server) as started:
        await share(started)

        assert other.all == started.all == {ANN: (1, 1)}
        assert others


async def test_made_up_entries_make_nobody_unheard_and_nothing_count_again(server: ValkeyServer) -> None:
    """Under a process's name and a later number; a number that is none; and under more names than are known,
    after which a true batch comes again."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        await share(other)
        one.learn(ANN)
        await share(one, other)
        log = await the(client)
        [(_, true)] = await client.xrange(log)
        made_up = client.pipeline()
        made_up.xadd(log, {**true, b"n": b"1000000"})
        made_up.xadd(log, {**true, b"n": b"9" * 5_000})
        for number in range(MAX_SENDERS):
            made_up.xadd(log, {**true, b"r": b"%032x" % number})
        made_up.xadd(log, true)
        await made_up.execute()
        one.learn(BOB)
        await share(one, other)
    async with replica(server) as started:
        await share(started)

        assert one.all == other.all == started.all == {ANN: (1, 0), BOB: (1, 0)}


@pytest.mark.usefixtures("folds_at_once")
async def test_a_process_whose_clock_is_ahead_forgets_nobody_in_the_store(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is folded is as old as the store's clock has it."""
    ahead_s = time.time() + 31 * 86_400
    async with replica(server) as one, server.client() as client:
        one.learn(ANN)
        monkeypatch.setattr(route_log, "time", lambda: ahead_s)
        await until_folded(client, one)
    async with replica(server) as started:
        await share(started)

        assert started.all == {ANN: (1, 0)}


async def test_what_cannot_be_opened_is_left_out(server: ValkeyServer) -> None:
    """A batch that was changed, one under another process's name, a sum that was changed. The rest counts."""
    async with replica(server) as one, replica(server) as other, server.client() as client:
        await share(other)
        one.learn(ANN)
        await share(one)
        [(_, good)] = await client.xrange(await the(client))
        await client.xadd(await the(client), {**good, b"n": b"2", b"e": good[b"e"][:-1] + b"?"})
        await client.xadd(await the(client), {**good, b"r": b"0" * 32})
        await client.xadd(await the(client), {b"e": b"nonsense"})
        await client.hset(await the(client, "sum"), "value", b"nonsense")
        with logged() as lines:
            await share(other)
    async with replica(server) as started:
        await share(started)

        assert other.all == started.all == {ANN: (1, 0)}
        assert len(lines("stored histories cannot be read")) == 2


async def test_with_another_key_nothing_is_seen_and_nothing_disturbed(server: ValkeyServer) -> None:
    """The names of keys differ too, so that a replica with a wrong key has histories of its own."""
    async with replica(server) as one, replica(server, key="another" + KEY) as wrong:
        one.learn(ANN)
        wrong.learn(BOB)
        with logged() as lines:
            await share(one, wrong)

        assert (one.all, wrong.all) == ({ANN: (1, 0)}, {BOB: (1, 0)})
        assert not lines("stored histories cannot be read")


async def test_the_store_has_no_users_and_every_key_ends(server: ValkeyServer) -> None:
    """Not even hashes: who copies the store learns how many users asked, and when."""
    async with replica(server) as one, server.client() as client:
        one.learn(ANN, failed=1)
        await share(one)
        dumps = b"".join([await client.dump(key) or b"" async for key in client.scan_iter()])
        ends = [await client.pttl(key) async for key in client.scan_iter()]

    assert ANN not in dumps
    assert len(ends) == 2
    assert all(0 < end <= 30 * 86_400_000 for end in ends)


async def test_a_key_that_holds_something_else_costs_one_routes_histories(server: ValkeyServer) -> None:
    """It is said, and the histories in memory go on."""
    async with replica(server) as one, server.client() as client:
        one.learn(ANN)
        await client.set(
            Keys("headgate").histories(Sealing(KEY).name("histories start"), "histories")[0], "else"
        )
        with logged() as lines:
            await one.shared.share()

        assert len(lines("histories cannot be stored")) == 1
        assert one.all == {ANN: (1, 0)}


async def test_a_store_that_is_away_costs_history_and_no_more(tmp_path: Path) -> None:
    """Histories learned meanwhile are shared when it is back; if it is empty then, it gets all of them
    again."""
    async with valkey(tmp_path) as server, replica(server) as one, replica(server) as other:
        other.learn(BOB)
        await share(one, other)
        await server.kill()
        with logged() as lines:
            one.learn(ANN, failed=1)
            await share(one)
            one.learn(ANN)
            await share(one)
        await server.start()
        other.learn(ANN)
        await share(one, other)
        await share(one, other)
        async with replica(server) as started:
            await share(started)

            assert started.all == one.all == other.all == {ANN: (3, 1), BOB: (1, 0)}
        assert len(lines("store of histories down")) == 1


async def test_a_flood_of_users_fills_neither_memory_nor_store(server: ValkeyServer) -> None:
    """100,000 names that ask once: who asks often stays known, here and after a restart."""
    async with replica(server) as one, server.client() as client:
        for user in (ANN, BOB):
            one.learn(user, failed=user == ANN, requests=100)
        await share(one)
        for number in range(100_000):
            one.learn(number.to_bytes(8))
        waiting = len(one.known._changed or ())
        for _ in range(3):
            await share(one)
        batches = [len(fields[b"e"]) for _, fields in await client.xrange(await the(client))]

        assert MAX_HISTORIES * 0.99 < len(one.known) <= MAX_HISTORIES
        assert waiting == MAX_CHANGED
        assert max(batches) <= 16 * MAX_BATCH + 64
        assert len(batches) <= MAX_LOG
        assert {ANN: (100, 1), BOB: (100, 0)}.items() <= one.all.items()
    async with replica(server) as started:
        await share(started)

        assert {ANN: (100, 1), BOB: (100, 0)}.items() <= started.all.items()


async def test_a_restart_does_not_forget_who_fails_often(server: ValkeyServer, tmp_path: Path) -> None:
    """Of a whole Headgate with a store: what users did before is expected of them after it."""

    async def fails_for_ann(asked: Asked) -> None:
        await asked.read_body()
        if b"x-fails" in asked.head:
            await asked.answer(b"{}", b"500 Oh")
        else:
            await asked.answer(answer(), b"200 OK", b"content-type: application/json\r\n")

    settings = {"event_log": {"valkey": {"url": server.url, "key": KEY}}, "routes": [route()]}
    expected = []
    async with ScriptedUpstream(fails_for_ann).running() as upstream, browser() as client:
        async with headgate(upstream.url, tmp_path, flags=flag_document(enabled=False), **settings) as before:
            for _ in range(20):
                for headers in (signed("ann", **{"x-fails": "1"}), signed("bob")):
                    await client.post(before.url + START, headers=headers, content=b"{}")
        async with headgate(upstream.url, tmp_path, **settings) as after:
            for name in ("ann", "bob"):
                await client.post(after.url + START, headers=signed(name), content=b"{}")
                samples = await scrape(client, after.admin_url)
                expected.append(sum(v for k, v in samples.items() if "expected_failures_total" in k))

    assert expected[0] > 0.5 > expected[1] - expected[0] >= UNIT
    assert expected[0] > 50 * USUAL
