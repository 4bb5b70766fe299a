"""Another key for the store, while runs are under way: replicas of two steps, one store, no run lost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.servers.client import browser, opened, read, signed, texts
from tests.servers.serving import gated, headgate
from tests.servers.streaming import START, WHOLE, Held, answer, answering, route
from tests.servers.valkey_server import ValkeyServer

OLD = "the key of before, which is long enough"
NEW = "the key to come, which is long enough"
STEPS: list[dict[str, Any]] = [
    {"key": OLD},
    {"key": OLD, "other_keys": [NEW], "names_key": OLD},
    {"key": NEW, "other_keys": [OLD], "names_key": OLD},
    {"key": NEW, "names_key": OLD},
]


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("begun_at", [0, 1], ids=["begun before", "begun after"])
async def test_a_run_is_read_across_each_step(
    tmp_path: Path, server: ValkeyServer, step: int, begun_at: int
) -> None:
    """By its owner, at a replica of the step before and one of the step after, whichever has begun it."""
    held = Held(answering(answer()))
    folders = [tmp_path / str(number) for number in range(2)]
    for folder in folders:
        folder.mkdir()
    stores = [{"valkey": {"url": server.url, **STEPS[step + number]}} for number in range(2)]
    more = {"routes": [route(commit_after=0)]}
    async with (
        gated(held, folders[0], event_log=stores[0], **more) as (upstream, before),
        headgate(upstream.url, folders[1], event_log=stores[1], **more) as after,
        browser() as client,
    ):
        here, there = (before, after) if begun_at == 0 else (after, before)
        async with opened(client, here.url + START, signed()) as stream:
            run = stream.headers["headgate-run"]
            elsewhere = f"{there.url}/_headgate/runs/{run}/events"
            follower = asyncio.create_task(read(client, elsewhere, signed(), method="GET"))
            stranger = await client.get(elsewhere, headers=signed("bob"))
            held.release.set()
            await stream.rest()
            followed = await follower
        again = await read(client, elsewhere, signed(), method="GET")

    assert stranger.status_code == 404
    assert texts(followed.events) == texts(again.events) == texts(stream.events) == WHOLE
