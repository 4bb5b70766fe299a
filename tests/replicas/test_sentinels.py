"""A store behind Sentinels: its primary dies, and runs go on at the next one."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from proxy.doctor import store
from proxy.doctor.findings.diagnosis import Grade
from proxy.replicas.store.valkey import Health, Link
from proxy.settings.blocks.store_address import Seeds, seeds_of
from proxy.settings.settings import ValkeyLogSettings
from tests.replicas.shared_run import events, has_entry, same, say, whole
from tests.replicas.sharing import KEY, claimed, is_shared, replica
from tests.servers.authority import certificates
from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.sentinels import OF_SENTINEL, OF_SERVER, ToldSentinel, sentinel, url_of, watched
from tests.servers.valkey_server import STARTING_S, ValkeyServer, valkey

FAILOVER_S = 60.0


async def test_a_run_goes_on_when_its_primary_dies_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    """What was said before, meanwhile and afterwards is at every replica, and new runs are shared again. The
    old primary comes back empty, and is not asked."""
    async with watched(tmp_path) as at, replica(at) as one, replica(at) as other:
        run = await claimed(one, "body")
        say(run, 3)
        copy = await other.followed(run.id)
        await same(copy, run, FAILOVER_S)
        async with at.replica.client() as client:
            await eventually(lambda: has_entry(client, run), FAILOVER_S)

        await at.primary.kill()
        say(run, 3)
        await same(copy, run, FAILOVER_S)
        await at.primary.start()
        say(run, 3)
        await run.settle(whole())
        await same(copy, run, FAILOVER_S)
        after = await claimed(other, "after")
        async with replica(at) as late:
            await eventually(lambda: is_shared(late, after, "after"), FAILOVER_S)
            await same(await late.followed(run.id), run, FAILOVER_S)
        served, _ = await store.look(at.url, strict=True)

    assert events(copy.log)[-1]["type"] == "stream_done"
    assert copy.answer == run.answer
    assert served.status is Grade.OK


async def test_all_of_them_speak_tls_and_have_passwords_of_their_own(tmp_path: Path) -> None:
    """Each is shown its own password; `doctor` says whose is refused, and no certificate is taken unseen."""
    certificates(tmp_path)
    async with (
        valkey(tmp_path, binary="redis-server", password=OF_SERVER, certificates=tmp_path) as server,
        sentinel(tmp_path, server.port, certificates=tmp_path) as port,
    ):
        url = url_of([port], tmp_path)
        await eventually(lambda: is_served(url), STARTING_S)
        ways = {
            "another password": url.replace("sentinel_password=", "sentinel_password=x"),
            "none": url.partition("&sentinel_password=")[0],
            "another one of the server": url.replace(OF_SERVER, f"x{OF_SERVER}"),
            "another authority": url.replace(f"ssl_ca_certs={tmp_path}/ca.pem&", ""),
        }
        found = {way: (await store.look(each, strict=False))[0] for way, each in ways.items()}

    assert {way: each.status for way, each in found.items()} == dict.fromkeys(ways, Grade.FAIL)
    assert "sentinel_password" in found["another password"].advice
    assert found["none"].advice == found["another password"].advice
    assert "USER:PASSWORD@" in found["another one of the server"].advice
    assert not any(secret in repr(found) for secret in (OF_SERVER, quote(OF_SENTINEL), OF_SENTINEL))


async def is_served(url: str) -> bool:
    """`doctor` finds the store well, as soon as the Sentinel has found it."""
    return (await store.look(url, strict=False))[0].status is Grade.OK


async def test_a_primary_that_became_a_replica_is_left(tmp_path: Path, server: ValkeyServer) -> None:
    """It takes no writes any more: the same call asks the Sentinels again, and succeeds at the new one."""
    async with valkey(tmp_path) as old, old.client() as client, ToldSentinel(old.port).open() as sentinel:
        link = Link(sentinel.url, Health(), (), FAILOVER_S)
        assert await link.call(("SET", "a", "1"), probe=True) == [b"OK"]
        sentinel.primary = server.port
        await client.replicaof("127.0.0.1", str(server.port))

        assert await link.call(("SET", "b", "2"), probe=True) == [b"OK"]
        await link.aclose()


async def test_sentinels_that_are_away_or_know_nothing(server: ValkeyServer) -> None:
    """The next one is asked. `doctor` says what to mend, and never the password."""
    with closed_port() as port:
        async with ToldSentinel(server.port).open() as sentinel:
            unknown, _ = await store.look(sentinel.url.replace("/runs", "/others"), strict=True)
            behind, _ = await store.look(sentinel.url.replace("//", f"//127.0.0.1:{port},"), strict=True)
        away, _ = await store.look(f"redis+sentinel://ann:secret@127.0.0.1:{port}/runs", strict=True)

    assert (unknown.status, behind.status, away.status) == (Grade.FAIL, Grade.OK, Grade.FAIL)
    for found in (unknown, away):
        assert "no primary that a Sentinel" in found.seen
        assert "secret" not in repr(found)


@contextmanager
def closed_port() -> Iterator[int]:
    """Bound and not listened on, so that nobody else can have it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", free_port()))
        yield bound.getsockname()[1]


def test_an_address_of_sentinels_is_read() -> None:
    own = "sentinel_username=bob&sentinel_password=a%26b%3D+"
    url = f"rediss+sentinel://ann:p%40ss@a.example,[::1]:7000/runs/3?{own}&ssl_ca_certs=/ca.pem"

    assert seeds_of(url) == Seeds(
        (("a.example", 26379), ("::1", 7000)),
        "runs",
        "rediss://ann:p%40ss@a.example:26379/3?ssl_ca_certs=/ca.pem",
        {"username": "bob", "password": "a&b=+"},
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://secret@a:1",
        "redis+sentinel://:secret@/runs",
        "redis+sentinel://:secret@a:0/runs",
        "redis+sentinel://:secret@a:1,/runs",
        "redis+sentinel://:secret@a:1/runs/db",
        "redis+sentinel://:secret@" + ",".join(["a"] * 17) + "/runs",
        "unix+sentinel://:secret@a:1/runs",
        "redis+cluster://:secret@a:1/3",
        "redis+cluster://a:1?sentinel_password=secret",
        "redis+cluster://:secret@",
    ],
)
def test_an_address_of_sentinels_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ValkeyLogSettings.model_validate({"url": url, "key": KEY})

    [error] = refused.value.errors()
    assert "redis+sentinel://HOST:PORT,…/SERVICE" in error["msg"]
    assert "secret" not in error["msg"]
