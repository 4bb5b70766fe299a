"""The lease: one writer at a time, under a number that only grows; who was stopped for long is no writer."""

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from flags.errors import LeaseError, LeaseLost
from flags.rollout.leases.kubernetes_api import ApiServer
from flags.rollout.leases.kubernetes_lease import ClusterLease
from flags.rollout.leases.lease import Fence, FileLease, Lease
from tests.servers.client import eventually
from tests.servers.scripted import Asked, ScriptedUpstream

TTL_S = 30
NOW_S = 1_700_000_000.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ehr/leases"


class Clock:
    """Time as a test has it."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class FakeKubernetes:
    """Leases of one namespace, with the API server's rules for versions; it remembers what it was asked."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.leases: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.status = 0
        """If not 0: what everything is answered with."""
        self.before_put: Callable[[], None] | None = None
        """Called once, when somebody's look is past and the write has come."""
        self.mute: set[str] = set()
        """Methods that are done, and never answered."""
        self._version = 0

    async def __call__(self, asked: Asked) -> None:
        method, target = asked.head.decode().split(" ", 2)[:2]
        body = await asked.read_body()
        self.asked.append(method)
        if method == "PUT" and self.before_put:
            act, self.before_put = self.before_put, None
            act()
        if asked.header(b"authorization") != f"Bearer {self.token}".encode():
            status, found = 401, None
        elif self.status:
            status, found = self.status, None
        else:
            assert target.startswith(LEASES), target
            name = target.removeprefix(LEASES).removeprefix("/")
            status, found = getattr(self, f"_{method.lower()}")(name, orjson.loads(body) if body else None)
        if method in self.mute:
            self.mute.remove(method)
            await asyncio.Event().wait()
        await asked.answer(orjson.dumps(found or {"kind": "Status", "code": status}), b"%d X" % status)

    def touch(self, name: str) -> None:
        """Somebody annotates it."""
        self._store(name, self.leases[name])

    def _get(self, name: str, _: Any) -> tuple[int, Any]:
        return (200, self.leases[name]) if name in self.leases else (404, None)

    def _post(self, _: str, lease: dict[str, Any]) -> tuple[int, Any]:
        name = lease["metadata"]["name"]
        return (409, None) if name in self.leases else (201, self._store(name, lease))

    def _put(self, name: str, lease: dict[str, Any]) -> tuple[int, Any]:
        if name not in self.leases:
            return 404, None
        version = lease["metadata"].get("resourceVersion")
        if version is None:
            return 422, None  # leases may not be written without one
        if version != self.leases[name]["metadata"]["resourceVersion"]:
            return 409, None
        return 200, self._store(name, lease)

    def _store(self, name: str, lease: dict[str, Any]) -> dict[str, Any]:
        spec = lease["spec"]
        assert lease["apiVersion"] == "coordination.k8s.io/v1", lease
        assert lease["kind"] == "Lease", lease
        assert type(spec["leaseDurationSeconds"]) is int, spec
        assert spec["leaseDurationSeconds"] > 0, spec
        assert spec["leaseTransitions"] >= 0, spec
        for time in ("acquireTime", "renewTime"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", spec[time]), spec
        self._version += 1
        meta = {**lease["metadata"], "resourceVersion": str(self._version)}
        self.leases[name] = {**lease, "metadata": meta}
        return self.leases[name]


@asynccontextmanager
async def kubernetes(directory: Path) -> AsyncIterator[tuple[FakeKubernetes, ApiServer]]:
    token_file = directory / "token"
    token_file.write_text("first\n")
    cluster = FakeKubernetes("first")
    async with (
        ScriptedUpstream(cluster).running() as server,
        ApiServer(server.url, token_file=token_file, timeout_s=0.5) as api,
    ):
        yield cluster, api


Make = Callable[..., Lease]


@pytest.fixture(params=["file", "kubernetes"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes leases by the name of their holder, each of another process as far as they know."""
    if request.param == "file":
        yield lambda holder, clock: FileLease(
            tmp_path / "lease.json", ttl_s=TTL_S, holder=holder, clock=clock
        )
    else:
        async with kubernetes(tmp_path) as (_, api):
            yield lambda holder, clock: ClusterLease(
                api, "ehr", "rollout", ttl_s=TTL_S, holder=holder, clock=clock
            )


async def has(lease: Lease) -> Fence:
    fence = await lease.acquire()
    assert fence is not None
    return fence


async def is_lost(ask: Awaitable[None]) -> bool:
    try:
        await ask
    except LeaseLost:
        return True
    return False


async def test_one_of_two_has_it(make: Make) -> None:
    """The second controller gets nothing, and the first one goes on."""
    clock = Clock()
    ann, bob = make("ann", clock), make("bob", clock)

    fence = await has(ann)

    assert await bob.acquire() is None
    await ann.check(fence)
    assert fence.holder == "ann"


async def test_of_many_at_once_one_has_it(make: Make) -> None:
    """One of all that come together has it, and its number is the first."""
    leases = [make(f"holder {n}", Clock()) for n in range(8)]

    fences = await asyncio.gather(*(lease.acquire() for lease in leases))

    (fence,) = [fence for fence in fences if fence is not None]
    assert fence.number == 1


async def test_who_renews_keeps_it(make: Make) -> None:
    """For as long as it likes, under the same number, though others look all the time."""
    clock = Clock()
    ann, bob = make("ann", clock), make("bob", clock)
    fence = await has(ann)

    for _ in range(10):
        clock.now_s += TTL_S / 2
        await ann.renew(fence)
        assert await bob.acquire() is None
        await ann.check(fence)
    clock.now_s += TTL_S + 1
    assert await is_lost(ann.check(fence))


async def test_who_does_not_renew_loses_it(make: Make) -> None:
    """After its time another has it, under a higher number, and nothing that the first does helps."""
    clock = Clock()
    ann, bob = make("ann", clock), make("bob", clock)
    old = await has(ann)
    assert await bob.acquire() is None  # it has seen the lease now
    clock.now_s += TTL_S + 1

    new = await has(bob)

    assert new.number > old.number
    assert await is_lost(ann.check(old))
    assert await is_lost(ann.renew(old))
    await ann.release(old)  # which is not its to release
    await bob.check(new)
    assert await ann.acquire() is None


async def test_who_was_stopped_is_the_writer_no_more_though_nobody_followed(make: Make) -> None:
    """A holder that wakes up after its time never passes, and begins again under a new number."""
    clock = Clock()
    ann = make("ann", clock)
    old = await has(ann)
    clock.now_s += TTL_S + 0.001

    assert await is_lost(ann.check(old))
    assert await is_lost(ann.renew(old))
    new = await has(ann)
    assert new.number > old.number
    assert await is_lost(ann.check(old))
    await ann.release(old)
    await ann.check(new)


async def test_a_write_may_be_given_its_time(make: Make) -> None:
    """Asked for ten seconds, it is refused when fewer are left: the write would end in another's time."""
    clock = Clock()
    ann = make("ann", clock)
    fence = await has(ann)
    clock.now_s += TTL_S - 5

    await ann.check(fence, for_s=4)
    assert await is_lost(ann.check(fence, for_s=10))
    await ann.renew(fence)
    await ann.check(fence, for_s=10)


async def test_who_leaves_in_order_lets_others_in_at_once(make: Make) -> None:
    """Released, nobody waits for the time to run out; and the number is higher all the same."""
    clock = Clock()
    ann, bob = make("ann", clock), make("bob", clock)
    old = await has(ann)
    assert await bob.acquire() is None

    await ann.release(old)

    assert (await has(bob)).number > old.number
    assert await is_lost(ann.check(old))


async def test_numbers_only_grow(make: Make) -> None:
    """Over many holders, by release or by running out."""
    clock = Clock()
    leases = [make(f"holder {n}", clock) for n in range(3)]
    numbers = []
    for turn in range(12):
        for lease in leases:
            if fence := await lease.acquire():
                numbers.append(fence.number)
                if turn % 2:
                    await lease.release(fence)
        clock.now_s += TTL_S + 1

    assert len(numbers) >= 12
    assert numbers == sorted(set(numbers))


async def test_a_fence_of_another_is_no_key(make: Make) -> None:
    """Not by the same number under another name, nor by another number."""
    ann = make("ann", Clock())
    fence = await has(ann)

    assert await is_lost(ann.check(Fence(fence.number, "bob")))
    assert await is_lost(make("bob", Clock()).check(Fence(fence.number + 1, "bob")))


# The file.

HOLDS = """
import asyncio, sys
from flags.errors import LeaseLost
from flags.rollout.leases.lease import FileLease

async def main():
    lease = FileLease(sys.argv[1], ttl_s=float(sys.argv[2]))
    fence = await lease.acquire()
    print(fence.number, flush=True)
    sys.stdin.readline()
    try:
        await lease.check(fence)
        print("writes", flush=True)
    except LeaseLost:
        print("lost", flush=True)

asyncio.run(main())
"""
TURNS = """
import asyncio, sys
from flags.rollout.leases.lease import FileLease

async def main():
    while True:
        lease = FileLease(sys.argv[1], ttl_s=0.001)
        if fence := await lease.acquire():
            print(fence.number, flush=True)

asyncio.run(main())
"""


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease.json"


async def test_a_stopped_process_wakes_up_without_it(path: Path) -> None:
    """SIGSTOP, another takes over, SIGCONT: it finds that it is the writer no more."""
    stopped = child(HOLDS, path, 0.5)
    try:
        number = int(said(stopped))
        stopped.send_signal(signal.SIGSTOP)
        ours = FileLease(path)
        fences: list[Fence] = []

        async def taken() -> bool:
            fences.extend(filter(None, [await ours.acquire()]))
            return bool(fences)

        await eventually(taken)
        stopped.send_signal(signal.SIGCONT)
        assert stopped.stdin is not None
        stopped.stdin.write("\n")
        stopped.stdin.flush()

        assert said(stopped) == "lost"
        assert fences[0].number > number
        await ours.check(fences[0])
    finally:
        end(stopped)


def expires_s(path: Path) -> float:
    return float(orjson.loads(path.read_bytes())["expires_s"])


async def test_a_killed_holder_keeps_it_until_it_runs_out(path: Path) -> None:
    """kill -9: nobody can tell a dead holder from a slow one; after its time its number is followed."""
    killed = child(HOLDS, path, TTL_S)
    number = int(said(killed))
    end(killed)
    clock = Clock(expires_s(path) - 1)

    ours = FileLease(path, ttl_s=TTL_S, clock=clock)
    assert await ours.acquire() is None

    clock.now_s += 2
    assert (await has(ours)).number == number + 1


async def test_numbers_grow_through_crashes(path: Path) -> None:
    """kill -9 in the middle of whatever: the next number is above every one that anybody had."""
    numbers = [0]
    for crash in range(4):
        dying = child(TURNS, path)
        numbers += (int(said(dying)) for _ in range(5 + crash))
        dying.kill()
        rest, _ = dying.communicate()
        numbers += map(int, rest.split())

    clock = Clock(NOW_S * 2)
    numbers.append((await has(FileLease(path, clock=clock))).number)
    assert numbers == sorted(set(numbers))


async def test_a_clock_set_back_does_not_keep_others_out_for_long(path: Path) -> None:
    """A lease that would run out later than any can is nobody's."""
    clock = Clock(NOW_S + 86_400)
    old = await has(FileLease(path, ttl_s=TTL_S, holder="ann", clock=clock))
    clock.now_s = NOW_S

    assert await is_lost(FileLease(path, ttl_s=TTL_S, holder="ann", clock=clock).check(old))
    assert (await has(FileLease(path, ttl_s=TTL_S, holder="bob", clock=clock))).number > old.number


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"number": 3}', b'{"number": "x"}'])
def test_a_file_that_is_no_lease_is_an_error(path: Path, content: bytes) -> None:
    """Not number 1 again: nobody knows what the last one was."""
    path.write_bytes(content)

    with pytest.raises(LeaseError, match="is no lease; see that no controller runs"):
        asyncio.run(FileLease(path).acquire())


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The lease makes its file, not its directory."""
    with pytest.raises(LeaseError, match="make its directory"):
        await FileLease(tmp_path / "absent" / "lease.json").acquire()


async def test_who_looks_forever_keeps_nobody_forever(path: Path) -> None:
    """A process that was stopped while it looked: the others are told, in time."""
    lock = os.open(path.with_name("lease.json.lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(LeaseError, match="another process has been looking for 1 s"):
            await FileLease(path).acquire()
    finally:
        os.close(lock)


async def test_each_process_has_a_name_of_its_own(path: Path) -> None:
    """One that was started again is not the holder that it was."""
    ann, bob = FileLease(path), FileLease(path)

    fence = await has(ann)

    assert await bob.acquire() is None
    assert fence.holder.startswith(f"{os.uname().nodename}/{os.getpid()}/")


# Kubernetes.


def lease_of(api: ApiServer, holder: str, clock: Clock) -> ClusterLease:
    return ClusterLease(api, "ehr", "rollout", ttl_s=TTL_S, holder=holder, clock=clock)


async def test_clocks_of_machines_are_not_compared(tmp_path: Path) -> None:
    """A candidate whose clock is years ahead waits as long as any: it counts from when it saw the lease."""
    async with kubernetes(tmp_path) as (_, api):
        ann_clock, bob_clock = Clock(5.0), Clock(1e9)
        ann, bob = lease_of(api, "ann", ann_clock), lease_of(api, "bob", bob_clock)
        fence = await has(ann)
        assert await bob.acquire() is None
        bob_clock.now_s += TTL_S - 1
        assert await bob.acquire() is None

        ann_clock.now_s += TTL_S - 1
        await ann.renew(fence)
        bob_clock.now_s += 2
        assert await bob.acquire() is None  # it saw another version, and counts anew

        bob_clock.now_s += TTL_S + 1
        await has(bob)
        assert await is_lost(ann.check(fence))


async def test_what_others_write_on_the_lease_does_no_harm(tmp_path: Path) -> None:
    """An annotation makes a version of its own: the holder renews it all the same, and keeps it."""
    async with kubernetes(tmp_path) as (cluster, api):
        ann = lease_of(api, "ann", Clock())
        fence = await has(ann)
        cluster.leases["rollout"]["metadata"]["labels"] = {"team": "ehr"}
        cluster.touch("rollout")

        await ann.check(fence)
        await ann.renew(fence)

        assert cluster.leases["rollout"]["metadata"]["labels"] == {"team": "ehr"}


async def test_a_renewal_that_comes_between_two_looks_is_a_conflict(tmp_path: Path) -> None:
    """Bob saw it run out, Ann had renewed it: the server refuses Bob's write, and Bob has nothing."""
    async with kubernetes(tmp_path) as (cluster, api):
        clock = Clock()
        ann, bob = lease_of(api, "ann", Clock()), lease_of(api, "bob", clock)
        fence = await has(ann)
        assert await bob.acquire() is None
        clock.now_s += TTL_S + 1

        cluster.before_put = lambda: cluster.touch("rollout")

        assert await bob.acquire() is None
        assert cluster.asked[-1] == "PUT"
        await ann.check(fence)


async def test_an_acquisition_that_was_never_heard_of_is_followed(tmp_path: Path) -> None:
    """Its answer was lost: an error now, and at once a new number, since the name is its own."""
    async with kubernetes(tmp_path) as (cluster, api):
        ann = lease_of(api, "ann", Clock())
        cluster.mute.add("POST")
        with pytest.raises(LeaseError, match=r"no answer within 0\.5 s"):
            await ann.acquire()

        fence = await has(ann)

        assert fence.number == 2
        await ann.check(fence)


async def test_a_renewal_that_was_never_heard_of_counts_for_nothing(tmp_path: Path) -> None:
    """Its answer was lost: the holder goes by the time that it knows of, and renews again."""
    async with kubernetes(tmp_path) as (cluster, api):
        clock = Clock()
        ann = lease_of(api, "ann", clock)
        fence = await has(ann)
        clock.now_s += TTL_S - 1
        cluster.mute.add("PUT")
        with pytest.raises(LeaseError, match="no answer"):
            await ann.renew(fence)

        await ann.check(fence)
        assert await is_lost(ann.check(fence, for_s=2))
        await ann.renew(fence)
        await ann.check(fence, for_s=2)


async def test_time_counts_from_before_it_was_asked_for(tmp_path: Path) -> None:
    """A renewal that takes ten seconds holds for ten seconds less: others may count from its first moment."""
    async with kubernetes(tmp_path) as (cluster, api):
        clock = Clock()
        ann = lease_of(api, "ann", clock)
        fence = await has(ann)

        def dawdle() -> None:
            clock.now_s += 10

        cluster.before_put = dawdle
        await ann.renew(fence)

        await ann.check(fence, for_s=TTL_S - 11)
        assert await is_lost(ann.check(fence, for_s=TTL_S - 9))


async def test_a_token_is_read_each_time(tmp_path: Path) -> None:
    """Kubernetes replaces it every hour."""
    async with kubernetes(tmp_path) as (cluster, api):
        ann = lease_of(api, "ann", Clock())
        fence = await has(ann)
        cluster.token = "second"
        with pytest.raises(LeaseError, match=r"401: the service account's token is not accepted") as refused:
            await ann.check(fence)
        assert "first" not in f"{refused.value} {refused.value.__context__}"

        (tmp_path / "token").write_text("second")
        await ann.check(fence)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "give it get, create and update of leases"),
        (500, "answers 500"),
        (422, "answers 422"),
        (302, "302"),
    ],
)
async def test_a_server_that_refuses_is_an_error_and_not_a_loss(
    tmp_path: Path, status: int, says: str
) -> None:
    """Nobody can say who has it: nothing is written, and with the server it is still there."""
    async with kubernetes(tmp_path) as (cluster, api):
        ann = lease_of(api, "ann", Clock())
        fence = await has(ann)
        cluster.status = status
        with pytest.raises(LeaseError, match=says) as error:
            await ann.check(fence)
        assert not isinstance(error.value, LeaseLost)

        cluster.status = 0
        await ann.check(fence)


async def test_a_namespace_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Nothing can be created in it: an error, and no waiting for somebody who is not there."""
    async with kubernetes(tmp_path) as (cluster, api):
        cluster.status = 404
        with pytest.raises(LeaseError, match=r"POST .* answers 404"):
            await lease_of(api, "ann", Clock()).acquire()


async def test_a_lease_that_was_deleted_is_lost(tmp_path: Path) -> None:
    """The former holder no longer has the lease."""
    async with kubernetes(tmp_path) as (cluster, api):
        ann = lease_of(api, "ann", Clock())
        fence = await has(ann)
        cluster.leases.clear()

        assert await is_lost(ann.check(fence))
        await ann.release(fence)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"<html>", b'{"spec": {"leaseTransitions": "x"}}'])
async def test_an_answer_that_is_no_lease_is_an_error(tmp_path: Path, body: bytes) -> None:
    """Another server at this address, say."""

    async def script(asked: Asked) -> None:
        await asked.answer(body)

    (tmp_path / "token").write_text("first")
    async with (
        ScriptedUpstream(script).running() as server,
        ApiServer(server.url, token_file=tmp_path / "token") as api,
    ):
        with pytest.raises(LeaseError, match="but not with"):
            await lease_of(api, "ann", Clock()).acquire()


@pytest.mark.parametrize("token", [None, "", "two\nlines", "é"])
async def test_a_token_that_is_none_is_an_error_without_being_shown(
    tmp_path: Path, token: str | None
) -> None:
    """Missing, empty, or no token at all."""
    async with kubernetes(tmp_path) as (_, api):
        file = tmp_path / "token"
        file.unlink() if token is None else file.write_text(token)
        with pytest.raises(LeaseError, match=r"the token .*/token") as error:
            await lease_of(api, "ann", Clock()).acquire()

    assert not token or token not in str(error.value)


async def test_outside_of_a_pod_there_is_no_cluster(tmp_path: Path) -> None:
    """The error names what is missing, and what to use instead."""
    with pytest.raises(LeaseError, match=r"KUBERNETES_SERVICE_HOST is not set.* use a file"):
        ApiServer.in_cluster({})
    with pytest.raises(LeaseError, match=r"the authorities .*ca\.crt cannot be read"):
        ApiServer.in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
