"""Bounds that users share: nobody's runs cost another one theirs, and no call is made twice for that."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.runs.kept_runs import KeptRuns
from proxy.settings.settings import MemoryLogSettings
from tests.servers.client import EITHER, eventually, opened, read, signed
from tests.servers.streaming import START, Held, answer, answering, house, route


def memory(**bounds: Any) -> dict[str, Any]:
    return {"memory": bounds}


@dataclass
class Ended:
    """A run that has ended, as far as its keeping goes."""

    id: str
    principal: str | None
    size_bytes: int
    at: float


class Plain:
    """The rule by itself: it looks at everything, each time."""

    def __init__(self, bounds: MemoryLogSettings) -> None:
        self.bounds = bounds
        self.kept: list[Ended] = []
        self.users: list[str | None] = []
        """Whoever has any, in the order in which they came."""

    def put(self, run: Ended) -> None:
        self.kept.append(run)
        if run.principal not in self.users:
            self.users.append(run.principal)

    def evict(self, now: float) -> Iterator[str]:
        while self.kept:
            gone = self.kept[0]
            if gone.at > now - self.bounds.ttl_s:
                if sum(run.size_bytes for run in self.kept) > self.bounds.bytes:
                    gone = self.oldest_of_largest({run.id: run.size_bytes for run in self.kept})
                elif len(self.kept) > self.bounds.runs:
                    gone = self.oldest_of_largest(dict.fromkeys((run.id for run in self.kept), 1))
                else:
                    return
            self.kept.remove(gone)
            self.users = [user for user in self.users if any(run.principal == user for run in self.kept)]
            yield gone.id

    def oldest_of_largest(self, weights: dict[str, int]) -> Ended:
        of = {user: [run for run in self.kept if run.principal == user] for user in self.users}
        # Of users with equal shares, the one who came last.
        most = max(reversed(self.users), key=lambda user: sum(weights[run.id] for run in of[user]))
        return of[most][0]


@given(
    ended=st.lists(
        st.tuples(st.sampled_from(["ann", "bob", "cy", None]), st.integers(1, 9), st.integers(0, 5)),
        max_size=40,
    )
)
def test_the_runs_that_go_are_those_of_the_rule(ended: list[tuple[str | None, int, int]]) -> None:
    """The oldest one of whoever has most of what is full, and whatever is too old; one after the other."""
    bounds = MemoryLogSettings.model_construct(runs=6, bytes=30, ttl_s=30.0)
    kept, plain = KeptRuns(bounds), Plain(bounds)
    now = 0.0
    for number, (principal, size, later) in enumerate(ended):
        now += later
        run: Any = Ended(str(number), principal, size, now)
        kept.put(run, run.id, (), now)
        plain.put(run)

        assert [gone.id for gone, _ in kept.evict(now)] == list(plain.evict(now))
        assert [left.id for left in kept] == [left.id for left in plain.kept]


async def test_large_answers_of_one_user_evict_his_own(tmp_path: Path) -> None:
    """Over the bound in bytes, the oldest run of who has most of them goes."""
    async with house(answering(answer("word " * 200)), tmp_path, event_log=memory(bytes=400_000)) as (
        _,
        serving,
        client,
    ):
        hers = await read(client, START, signed("ann"), content=b"0")
        for number in range(30):
            his = await read(client, START, signed("bob"), content=b"%d" % number)
        again = await client.get(f"/_headgate/runs/{hers.run}", headers=signed("ann"))
        latest = await client.get(f"/_headgate/runs/{his.run}", headers=signed("bob"))
        kept = serving.app.runs.kept

    assert (again.status_code, latest.status_code) == (200, 200)
    assert kept < 25


async def test_many_runs_of_one_user_evict_his_own(tmp_path: Path) -> None:
    """The same for their number."""
    async with house(answering(answer()), tmp_path, event_log=memory(runs=3)) as (_, _, client):
        hers = await read(client, START, signed("ann"), content=b"0")
        for number in range(9):
            await read(client, START, signed("bob"), content=b"%d" % number)
        again = await client.get(f"/_headgate/runs/{hers.run}", headers=signed("ann"))

    assert again.status_code == 200


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_an_idempotency_key_outlives_its_answer(tmp_path: Path, accept: str) -> None:
    """It is repeated when the answer had to go: that is told, and the upstream is not asked a second time."""
    async with house(answering(answer()), tmp_path, event_log=memory(runs=1)) as (upstream, _, client):
        await read(client, START, signed(**{"idempotency-key": "1"}))
        await read(client, START, signed(**{"idempotency-key": "2"}))
        again = await client.post(START, headers=signed(accept=accept, **{"idempotency-key": "1"}))
        other = await client.post(START, headers=signed("bob", **{"idempotency-key": "1"}))

    assert again.status_code == 409
    assert other.status_code == 200
    assert len(upstream.asked) == 3


async def test_nobody_takes_all_places_of_a_route(tmp_path: Path) -> None:
    """One user's runs leave some for the others: his next request is relayed, and hers is streamed."""
    held = Held(answering(answer()))
    routes = [route(max_runs=4, commit_after=0)]
    async with (
        house(held, tmp_path, routes=routes) as (upstream, _, client),
        opened(client, START, signed("bob"), content=b"1"),
        opened(client, START, signed("bob"), content=b"2"),
        opened(client, START, signed("bob"), content=b"3"),
    ):
        his = asyncio.create_task(client.post(START, headers=signed("bob", EITHER), content=b"4"))
        await eventually(lambda: len(upstream.asked) == 4)
        async with opened(client, START, signed("ann"), content=b"1") as hers:
            held.release.set()
            await hers.rest()
        relayed = await his

    assert relayed.content == answer()
    assert hers.last["type"] == "stream_done"
