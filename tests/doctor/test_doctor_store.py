"""`headgate doctor` on a store."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.doctor import examination, store
from proxy.doctor.findings.diagnosis import Grade
from proxy.settings.settings import Settings
from tests.servers.ports import free_port
from tests.servers.serving import flag_document
from tests.servers.valkey_server import ValkeyServer, valkey


@pytest.fixture(scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ValkeyServer]:
    """A store with a password, which evicts what was used least."""
    options = ("--requirepass", "secret", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    async with valkey(tmp_path_factory.mktemp("valkey"), *options) as server:
        yield server


async def test_a_store_that_is_well(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server:
        served, evicting = await store.look(server.url, strict=True)

    assert (served.status, evicting.status) == (Grade.OK, Grade.OK)
    assert "version" in served.seen and evicting.seen == "noeviction"


@pytest.mark.parametrize(
    ("login", "grade", "says"),
    [
        ("", Grade.FAIL, "or wants one"),
        (":wrong@", Grade.FAIL, "or wants one"),
        (":secret@", Grade.OK, "login"),
    ],
)
async def test_a_store_with_a_password(locked: ValkeyServer, login: str, grade: Grade, says: str) -> None:
    url = f"redis://{login}127.0.0.1:{locked.port}"
    served, evicting = await store.look(url, strict=True)

    assert served.status is grade and says in served.seen
    assert evicting.status is (Grade.WARN if grade is Grade.OK else Grade.SKIPPED)
    assert not any(word in repr(served) + repr(evicting) for word in ("secret", "wrong"))


async def test_a_store_that_lets_its_user_do_nothing(tmp_path: Path) -> None:
    async with valkey(tmp_path, "--user", "ada", "on", ">secret", "~*", "-@all") as server:
        served, _ = await store.look(f"redis://ada:secret@127.0.0.1:{server.port}", strict=True)

    assert served.status is Grade.FAIL and "does not let this user ask" in served.seen
    assert "secret" not in repr(served)


async def test_of_several_stores_each_is_named(locked: ValkeyServer, tmp_path: Path) -> None:
    """And the setting that has the address of the one that is away."""
    shards = {"one": f"redis://:secret@127.0.0.1:{locked.port}", "two": f"redis://127.0.0.1:{free_port()}"}
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    settings = Settings.model_validate(
        {
            "upstream": {"url": "http://127.0.0.1:1"},
            "flags": {"file": str(tmp_path / "flags.json")},
            "routes": [],
            "event_log": {"valkey": {"key": "k" * 32, "shards": shards}},
        }
    )
    found = {each.check: each for each in await examination._store(settings)}

    assert list(found) == ["store one", "store one eviction", "store two", "store two eviction"]
    assert [each.status for each in found.values()] == [Grade.OK, Grade.WARN, Grade.FAIL, Grade.SKIPPED]
    assert "event_log.valkey.shards.two" in found["store two"].advice
    assert "secret" not in repr(found)


async def test_a_store_that_is_away() -> None:
    served, evicting = await store.look(f"redis://:secret@127.0.0.1:{free_port()}", strict=True)

    assert (served.status, evicting.status) == (Grade.FAIL, Grade.SKIPPED)
    assert "secret" not in repr(served)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"role": "slave"}, "replica"),
        ({"cluster_enabled": "1"}, "cluster"),
        ({"redis_version": "5.0.14"}, "5.0.14"),
    ],
)
def test_a_store_that_cannot_keep_runs(info: dict[str, str], says: str) -> None:
    found = store.served(info)

    assert found.status is Grade.FAIL and says in found.seen


def test_a_store_that_says_nothing_of_eviction() -> None:
    """Managed ones forbid to ask; and without a limit nothing is evicted."""
    assert store.evicting(None, None).status is Grade.SKIPPED
    assert store.evicting("allkeys-lru", "0").status is Grade.OK
