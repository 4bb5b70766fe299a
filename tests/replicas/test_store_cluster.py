"""A store that is a cluster: all keys are on one node; when that dies, runs go on at the next one."""

from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from proxy.doctor import store
from proxy.doctor.findings.diagnosis import Grade
from proxy.identity import Identity
from proxy.replicas.store.valkey import Health, Link
from proxy.runs.run import Run
from proxy.settings.blocks.store_address import Seeds, key_prefix, key_prefixes, seeds_of
from tests.replicas.shared_run import SAFE, events, new_run, same, say, whole
from tests.replicas.sharing import claimed, is_shared, principal_of, replica, sharded
from tests.servers.client import eventually
from tests.servers.store_cluster import Cluster, clustered, is_in_step, said
from tests.servers.valkey_server import ValkeyServer

FAILOVER_S = 60.0
PREFIX = "{headgate}"
SLOT = key_slot(PREFIX.encode())


@pytest.fixture(scope="module")
async def at(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with clustered(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


async def test_a_slot_that_moved_is_followed(at: Cluster) -> None:
    """The same call asks for its node again, and succeeds there."""
    link = Link(at.url, Health(), (), FAILOVER_S, prefix=PREFIX)
    assert await link.call(("SET", f"{PREFIX}:a", "1"), probe=True) == [b"OK"]
    await said(at.replica, "CLUSTER", "FAILOVER", "TAKEOVER")
    at.owner, at.replica = at.replica, at.owner
    await eventually(lambda: is_in_step(at.replica), FAILOVER_S)
    for node in at.others:
        await eventually(lambda node=node: _knows_owner(node, at), FAILOVER_S)

    assert await link.call(("SET", f"{PREFIX}:b", "2"), probe=True) == [b"OK"]
    await link.aclose()


async def _knows_owner(node: ValkeyServer, at: Cluster) -> bool:
    slots = await said(node, "CLUSTER", "SLOTS")
    return any(first <= SLOT <= last and place[1] == at.owner.port for first, last, place, *_ in slots)


async def test_users_are_spread_over_the_nodes(at: Cluster) -> None:
    """With `nodes`: each has runs, whole, that any replica finds."""
    shards = {"url": at.url, "nodes": 3}
    primaries = [at.owner, *at.others]
    async with sharded(shards) as (one, _), sharded(shards) as (other, _):
        for shard in one.shards:
            principal = principal_of(one, shard.shard)
            run = new_run(of=SAFE, identity=Identity(principal, "ann"))
            assert await shard.claim(run, ["body"]) is None
            run.begun()
            say(run, 3)
            copy = await other.of(principal).find(run.id)
            assert copy is not None
            await same(copy, run, FAILOVER_S)
            await run.settle(whole())
            await same(copy, run, FAILOVER_S)
        places = [
            [node.port for node in primaries if await said(node, "KEYS", f"{shard.keys.prefix}:*")]
            for shard in one.shards
        ]
    for node in primaries:
        await said(node, "FLUSHALL")

    assert one.shards[0].shard == "headgate"
    assert sorted(places) == sorted([node.port] for node in primaries)


async def test_a_run_goes_on_when_the_node_of_our_keys_dies(at: Cluster) -> None:
    """What was said before, meanwhile and afterwards is at every replica, which knew two other nodes alone.
    No other node has a key. `doctor` finds the store well, and a node of a cluster that nobody named one."""
    async with replica(at) as one, replica(at) as other:
        run = await claimed(one, "body")
        say(run, 3)
        copy = await other.followed(run.id)
        await same(copy, run, FAILOVER_S)
        well, _ = await store.look(at.url, strict=True)
        named, _ = await store.look(at.owner.url, strict=True)
        await eventually(lambda: _has_run(at.replica, run), FAILOVER_S)

        await at.owner.kill()
        say(run, 3)
        await same(copy, run, FAILOVER_S)
        await run.settle(whole())
        await same(copy, run, FAILOVER_S)
        after = await claimed(other, "after")
        async with replica(at) as late:
            await eventually(lambda: is_shared(late, after, "after"), FAILOVER_S)
            await same(await late.followed(run.id), run, FAILOVER_S)
        elsewhere = [await said(node, "DBSIZE") for node in at.others]

    assert events(copy.log)[-1]["type"] == "stream_done"
    assert copy.answer == run.answer
    assert elsewhere == [0, 0]
    assert well.status is Grade.OK
    assert named.status is Grade.FAIL and "redis+cluster" in named.advice


async def _has_run(node: ValkeyServer, run: Run) -> bool:
    """A replica shows its keys to who asks for their names."""
    return f"{PREFIX}:run:{run.id}:log".encode() in await said(node, "KEYS", f"{PREFIX}:run:*")


def test_an_address_of_a_cluster_is_read() -> None:
    url = "redis+cluster://ann:pass@a.example,b.example:7000?ssl_ca_certs=/ca.pem"

    assert seeds_of(url) == Seeds(
        (("a.example", 6379), ("b.example", 7000)),
        None,
        "redis://ann:pass@a.example:6379/?ssl_ca_certs=/ca.pem",
    )
    assert key_prefix(url, "clinic") == "{clinic}"


def test_starts_of_keys_are_on_as_many_nodes() -> None:
    """However many, in the middle of the slots of each; the first is that of a cluster with one node."""
    for nodes in range(1, 65):
        found = key_prefixes("headgate", nodes)
        places = [divmod(key_slot(prefix.encode()) * nodes, 16384) for prefix in found]
        assert found[0] == key_prefix("redis+cluster://a:1", "headgate")
        assert {place for place, _ in places} == set(range(nodes))
        assert all(16384 // 4 <= within < 16384 * 3 // 4 for _, within in places[1:])


@pytest.mark.parametrize("url", ["redis://a:1", "redis+sentinel://a:1/runs", "unix:///store"])
def test_keys_have_a_hash_tag_in_a_cluster_alone(url: str) -> None:
    """Stores of before are read as they are."""
    assert key_prefix(url, "clinic") == "clinic"
