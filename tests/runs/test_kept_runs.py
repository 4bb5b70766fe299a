"""Bounds that users share: nobody's runs cost another one theirs, and no call is made twice for that."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.servers.streaming import (
    EITHER,
    START,
    Held,
    answer,
    answering,
    eventually,
    house,
    opened,
    read,
    route,
    signed,
)

pytestmark = pytest.mark.anyio


def memory(**bounds: Any) -> dict[str, Any]:
    return {"memory": bounds}


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
