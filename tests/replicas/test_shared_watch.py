"""Users who go to several processes, which share a real Valkey server, count as at one."""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flags.decision import Arm
from proxy import turns
from proxy.observe.users import user_watch
from proxy.observe.users.draws import HARMS, Draws
from proxy.observe.users.histories import Histories
from proxy.observe.users.met_users import UserNames
from proxy.observe.users.shared_draws import SharedDraws
from proxy.observe.users.user_watch import UserWatch
from proxy.observe.users.watched_users import LIMITS
from proxy.replicas.histories import route_log, shared_histories
from proxy.replicas.histories.draw_records import DrawMemory
from proxy.replicas.histories.history_scripts import HISTORY_SCRIPTS
from proxy.replicas.histories.route_log import Memory
from proxy.replicas.histories.shared_histories import ROUND_S, SharedHistories
from proxy.replicas.histories.watch_records import MAX_WATCH_BATCH, WatchMemory
from proxy.replicas.store.records import Keys
from proxy.replicas.store.sealing import Sealing
from proxy.replicas.store.valkey import Health, Link
from tests.servers.client import browser, eventually, scrape, signed
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import Serving, flag_document, headgate
from tests.servers.streaming import START, logged, route
from tests.servers.valkey_server import ValkeyServer, valkey

KEY = "a key for tests, of more than 32 characters"
NAMES = UserNames(b"key")
ANN = NAMES.of("ann", None)
PRIOR = (1.0, 100.0)

Counted = Counter[tuple[Arm, float]]


class Always(random.Random):
    """Every failure counts."""

    def random(self) -> float:
        return 0.0


@dataclass
class Process:
    """One process's watch and draw of one route; alone, if it shares nothing."""

    shared: SharedHistories | None = None
    counted: Counted = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.watch = UserWatch(self._count, Always())
        self.draws = SharedDraws(Always())

    def _count(self, arm: Arm, limit: float) -> None:
        self.counted[arm, limit] += 1

    def end(self, user: bytes, arm: Arm, *, failed: bool) -> float:
        """A request ends here; return its weight."""
        said = self.watch.ended(user, time.time(), arm, PRIOR, failed=failed, seconds=1.0, expected=0.5)
        self.counted.update((arm, limit) for limit in said.passed)
        self.draws.begin("at 33", 33, time.time())
        self.draws.add(user, time.time(), arm, "at 33", PRIOR, failed=failed)
        return said.weight

    def states(self) -> list[bytes]:
        """All that it knows."""
        return [WatchMemory("", self.watch).known(), DrawMemory("", self.draws).known()]

    async def share(self) -> None:
        assert self.shared is not None
        await self.shared.share()


@asynccontextmanager
async def process(server: ValkeyServer, *, with_draws: bool = True) -> AsyncIterator[Process]:
    """It shares when it is told to. At the end it is gone, as with `kill -9`. Older ones shared no draws."""
    link = Link(server.url, Health("store of histories"), HISTORY_SCRIPTS, ROUND_S)
    one = Process()
    memories: list[Memory] = [WatchMemory("start", one.watch)]
    memories += [DrawMemory("start", one.draws)] * with_draws
    one.shared = SharedHistories(link, Keys("headgate"), Sealing(KEY), uuid.uuid4().hex, memories)
    try:
        yield one
    finally:
        await link.aclose()


def requests(number: int, seed: int = 1) -> list[tuple[bytes, Arm, bool]]:
    """Of 40 users, some of whom fail more and more often."""
    chance, arms = random.Random(seed), list(Arm)
    made = []
    for at in range(number):
        user = chance.randrange(40)
        rate = 0.02 + (0.5 if user % 4 == 0 and at > number / 3 else 0.0)
        made.append((NAMES.of(str(user), None), arms[user % 3], chance.random() < rate))
    return made


async def test_users_who_alternate_between_two_processes_count_as_at_one(server: ValkeyServer) -> None:
    """Each who became worse, once, in the user's arm; requests weigh the same, and the draw is as likely."""
    alone = Process()
    async with process(server) as one, process(server) as other:
        for each in (one, other):
            await each.share()
        for at, (user, arm, failed) in enumerate(requests(400)):
            here = (one, other)[at % 2]
            assert here.end(user, arm, failed=failed) == alone.end(user, arm, failed=failed)
            for each in (here, (one, other)[1 - at % 2]):
                await each.share()

        assert one.counted + other.counted == alone.counted
        assert one.counted and other.counted
        assert len({limit for _, limit in alone.counted}) == 2
        assert one.draws.evidence == other.draws.evidence == alone.draws.evidence
        assert min(map(abs, alone.draws.evidence.values())) > 0.1
        assert one.watch.group(time.time()) == other.watch.group(time.time()) != 0


async def test_a_process_of_a_release_that_shares_no_draws_shares_the_rest(server: ValkeyServer) -> None:
    """Each of the two then has the evidence of its own requests, as before."""
    alone, own, of_old = Process(), Process(), Process()
    async with process(server) as one, process(server, with_draws=False) as old:
        for each in (one, old):
            await each.share()
        for at, (user, arm, failed) in enumerate(requests(200)):
            here, its_own = ((one, own), (old, of_old))[at % 2]
            for each in (here, its_own, alone):
                each.end(user, arm, failed=failed)
            await here.share()
            await one.share()

        assert one.counted + old.counted == alone.counted != Counter()
        assert one.draws.evidence == pytest.approx(own.draws.evidence)
        assert old.draws.evidence == of_old.draws.evidence != own.draws.evidence


@pytest.fixture
def folds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is folded as soon as it may be."""
    monkeypatch.setattr(route_log, "FOLD_AFTER_MS", 1)
    monkeypatch.setattr(route_log, "FOLD_FROM", 1)


@pytest.mark.usefixtures("folds_at_once")
async def test_processes_that_come_late_or_start_anew_know_the_same(server: ValkeyServer) -> None:
    """Many batches a round, which are folded at once: all come to the same, and count nobody twice."""
    counted: Counted = Counter()
    made = requests(1200)
    async with process(server) as first, process(server) as late:
        for at in range(0, 1200, 60):
            async with process(server) as passing:
                for number, (user, arm, failed) in enumerate(made[at : at + 60]):
                    (first, passing)[number % 2].end(user, arm, failed=failed)
                await passing.share()
                await first.share()
                await passing.share()
                counted += passing.counted
        await first.share()
        await late.share()
        async with process(server) as started:
            await started.share()

            states = [one.states() for one in (first, late, started)]
            assert states[0] == states[1] == states[2]
    counted += first.counted
    users = {user for user, _, _ in made}
    assert len(LIMITS) < sum(counted.values()) <= len(LIMITS) * len(users)
    assert all(count <= len(users) / 3 + 1 for count in counted.values())


async def test_a_process_that_is_held_up_in_a_batch_begins_again(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that starts, and serves before it has read all. Half a batch would be another state for ever."""
    async with process(server) as one, process(server) as other:
        await one.share()
        await other.share()
        for number in range(200):
            one.end(number.to_bytes(8), Arm.REST, failed=True)
        await one.share()
        monkeypatch.setattr(turns, "TURN_S", 0.0)
        task = asyncio.create_task(other.share())
        while not task.done():
            await asyncio.sleep(0)
            if len(other.watch):
                task.cancel()
        await asyncio.wait([task])
        assert 0 < len(other.watch) < 200
        await other.share()

        assert other.states() == one.states()


async def test_what_waits_is_short_where_requests_are_alike(server: ValkeyServer) -> None:
    """A bot's thousands of good answers are one entry; and of different ones a batch has a bound."""
    async with process(server) as one, process(server) as other, server.client() as client:
        await one.share()
        await other.share()
        for _ in range(5000):
            one.end(ANN, Arm.CONTROL, failed=False)
        for number in range(MAX_WATCH_BATCH):
            one.end(number.to_bytes(8), Arm.REST, failed=True)
        await one.share()
        [key] = [key async for key in client.scan_iter("headgate:watched:*") if key.count(b":") == 2]
        [(_, fields)] = await client.xrange(key)
        await one.share()
        await other.share()

        assert len(fields[b"e"]) <= 25 * MAX_WATCH_BATCH + 64
        assert len(other.watch) == len(other.draws) == MAX_WATCH_BATCH + 1
        assert one.states() == other.states()
        assert other.end(ANN, Arm.CONTROL, failed=False) == one.end(ANN, Arm.CONTROL, failed=False) < 0.01


async def test_a_store_that_stays_away_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process then counts by itself, says so, and counts nobody again when the store is back."""
    async with valkey(tmp_path) as server, process(server) as one, process(server) as other:
        for each in (one, other):
            await each.share()
            each.end(ANN, Arm.STREAM, failed=False)
        await server.kill()
        for _ in range(20):
            one.end(ANN, Arm.STREAM, failed=True)
        await one.share()
        assert one.watch.group(time.time()) != 0
        assert not one.counted  # it may be back soon

        monkeypatch.setattr(shared_histories, "ALONE_S", 0.0)
        await one.share()
        one.end(ANN, Arm.STREAM, failed=True)
        assert one.counted == {(Arm.STREAM, limit): 1 for limit in LIMITS}
        assert one.watch.group(time.time()) == 0
        await server.start()
        for _ in range(20):
            other.end(ANN, Arm.STREAM, failed=True)
            one.end(ANN, Arm.STREAM, failed=True)
            for each in (one, other, one):
                await each.share()

        assert one.counted == {(Arm.STREAM, limit): 1 for limit in LIMITS}
        assert max(other.counted.values(), default=0) <= 1
        now_s = time.time()
        assert one.watch.group(now_s) == 0
        later = [each.watch.group(now_s + user_watch.ALONE_SHOWN_S + 1) for each in (one, other)]
        assert later[0] == later[1] != 0
        assert one.draws.evidence == other.draws.evidence != {}


async def test_a_store_that_lost_its_memory_gets_it_again(tmp_path: Path) -> None:
    """From the process that notices first; the others go by what that one knew."""
    async with valkey(tmp_path) as server, process(server) as one, process(server) as other:
        for at, (user, arm, failed) in enumerate(requests(200)):
            (one, other)[at % 2].end(user, arm, failed=failed)
        for each in (one, other, one):
            await each.share()
        group = one.watch.group(time.time())
        async with server.client() as client:
            await client.flushall()
        one.end(ANN, Arm.REST, failed=False)
        for each in (one, other, one, other):
            await each.share()
        async with process(server) as started:
            await started.share()

            states = [each.states() for each in (one, other, started)]
        assert states[0] == states[1] == states[2]
        assert len(one.watch) == len({user for user, _, _ in requests(200)}) + 1
        assert one.watch.group(time.time()) == other.watch.group(time.time()) == group


async def test_what_was_changed_in_the_store_is_left_out(server: ValkeyServer) -> None:
    """A batch that was made up, and an old one that is put there again, are nobody's requests."""
    async with process(server) as one, process(server) as other, server.client() as client:
        await other.share()
        one.end(ANN, Arm.STREAM, failed=True)
        await one.share()
        [key] = [key async for key in client.scan_iter("headgate:watched:*") if key.count(b":") == 2]
        [(_, good)] = await client.xrange(key)
        for _ in range(50):
            await client.xadd(key, good)
        await client.xadd(key, {**good, b"n": b"2", b"e": good[b"e"][:-1] + b"?"})
        with logged() as lines:
            for each in (one, other):
                await each.share()

        assert len(lines("stored histories cannot be read")) == 2
        assert not one.counted and not other.counted
        assert [len(each.watch) for each in (one, other)] == [1, 1]
        assert [len(each.draws) for each in (one, other)] == [1, 1]


async def test_a_key_that_holds_something_else_is_as_no_store(server: ValkeyServer) -> None:
    """It is said, and the process counts by itself."""
    async with process(server) as one, server.client() as client:
        await client.set(Keys("headgate").histories(Sealing(KEY).name("watched start"), "watched")[0], "else")
        for _ in range(20):
            one.end(ANN, Arm.REST, failed=True)
        with logged() as lines:
            await one.share()

        assert len(lines("histories cannot be stored")) == 1
        assert one.counted == {(Arm.REST, limit): 1 for limit in LIMITS}
        assert one.watch.group(time.time()) == 0


async def test_nobody_is_named_in_the_store_and_every_key_ends(server: ValkeyServer) -> None:
    """Not even by a hash; in the clear are names of processes, and numbers by chance."""
    async with process(server) as one, server.client() as client:
        for _ in range(3):
            one.end(ANN, Arm.STREAM, failed=True)
            await one.share()
        names = sorted([key.decode() async for key in client.scan_iter()])
        dumps = b"".join([await client.dump(name) or b"" for name in names])
        ends = [await client.pttl(name) for name in names]

    assert ANN not in dumps
    assert [name.split(":")[1] for name in names] == ["drawn", "drawn", "watched", "watched"]
    assert all(0 < end <= 30 * 86_400_000 for end in ends)


async def test_two_proxies_count_a_user_who_alternates_as_one_proxy_does(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole proxies: each of them sees too few failures to say anything, and together they do. The user is in
    an arm, so what is usual for users does not change meanwhile."""
    monkeypatch.setattr(shared_histories, "SHARE_S", 0.05)

    async def fails(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(b"{}", b"500 Oh")

    store = {"event_log": {"valkey": {"url": server.url, "key": KEY}}}
    drawn = Draws()
    drawn.begin("at 50", 50)
    async with (
        ScriptedUpstream(fails).running() as upstream,
        browser() as client,
        headgate(upstream.url, tmp_path, flags=flag_document(50), routes=[route()]) as alone,
        headgate(upstream.url, tmp_path, flags=flag_document(50), routes=[route()], **store) as one,
        headgate(upstream.url, tmp_path, flags=flag_document(50), routes=[route()], **store) as other,
    ):
        for at in range(4):
            for gate in (alone, (one, other)[at % 2]):
                await client.post(gate.url + START, headers=signed("dan"), content=b"{}")
            drawn.add(ANN, 0.0, Arm.CONTROL, "at 50", Histories().prior, failed=True)

        async def shown(*gates: Serving) -> tuple[Counter[str], list[dict[str, float]]]:
            pages = [await scrape(client, gate.admin_url) for gate in gates]
            worse = [{name: n for name, n in page.items() if "users_worse" in name and n} for page in pages]
            evidence = [
                {harm: page[f'headgate_draw_evidence{{harm="{harm}",route="start"}}'] for harm in HARMS}
                for page in pages
            ]
            return sum(map(Counter, worse), Counter()), evidence

        expected = Counter(
            {f'headgate_users_worse_total{{arm="control",limit="{n:g}",route="start"}}': 1 for n in LIMITS}
        )
        of_draw = pytest.approx(drawn.evidence)

        async def all_counted() -> bool:
            return (await shown(alone), await shown(one, other)) == (
                (expected, [of_draw]),
                (expected, [of_draw] * 2),
            )

        await eventually(all_counted, 60)
        pages = [await scrape(client, gate.admin_url) for gate in (alone, one, other)]
    assert max(drawn.evidence.values()) < -0.1
    groups = [page['headgate_users_group{route="start"}'] for page in pages]
    assert groups[0] == 0
    assert groups[1] == groups[2] > 0
    assert [page['headgate_users_alone{route="start"}'] for page in pages] == [1, 0, 0]
