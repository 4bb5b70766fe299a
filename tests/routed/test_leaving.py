"""Viewers that leave, and users side by side."""

import asyncio
import random
import time
from pathlib import Path

from tests.servers.client import eventually, opened, read, scrape, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import START, WHOLE, Held, answer, answering, house

STREAM_PATH = f"{START}/stream"


async def test_a_viewer_that_leaves_stops_nothing(tmp_path: Path) -> None:
    """The upstream's call goes on to its end, exactly once, however early the viewer leaves."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0) as (upstream, serving, client):
        async with opened(client, START, signed()) as stream:
            run = stream.run
        await held.come.wait()
        assert (await client.get(f"{serving.admin_url}/runs")).json()["live"] == {"start": 1}
        held.release.set()
        cursor = signed(**{"last-event-id": f"{run}:0"})
        again = await read(client, STREAM_PATH, cursor, method="GET")
        assert not upstream.left.is_set()

    assert again.texts() == WHOLE
    assert again.last["type"] == "stream_done"
    assert len(upstream.asked) == 1


async def test_streams_left_at_any_moment_leave_nothing_behind(tmp_path: Path) -> None:
    """200 streams left at random moments: tasks, upstream connections and the gauge are as before."""
    dice = random.Random(3)

    async def script(asked: Asked) -> None:
        await asked.read_body()
        body = answer()
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        await asked.send(b"content-length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 20):
            await asyncio.sleep(0.002)  # the answer takes its time, so that streams are left in all phases
            await asked.send(body[at : at + 20])

    async with house(script, tmp_path, commit_after=0.005, heartbeat_s=0.01) as (upstream, serving, client):
        await client.get(f"{serving.admin_url}/livez")
        baseline = len(asyncio.all_tasks())
        ends: list[str] = []
        began = time.monotonic()
        await asyncio.gather(*(read(client, "/api/cases/0/start", signed(f"early-{n}")) for n in range(10)))
        whole_s = time.monotonic() - began  # of a stream beside nine others, on this machine

        async def start_and_leave(number: int, turn: asyncio.Semaphore) -> None:
            async with turn:
                try:
                    async with asyncio.timeout(dice.uniform(0.01, 1.2) * whole_s):
                        path = f"/api/cases/{number}/start"
                        async with opened(client, path, signed(f"user-{number}")) as stream:
                            ends.append("within")
                            await stream.rest()
                            ends[-1] = "at the end"
                except TimeoutError:
                    pass

        turn = asyncio.Semaphore(10)
        await asyncio.gather(*(start_and_leave(number, turn) for number in range(200)))

        async def nothing_left() -> bool:
            live = serving.app.runs.live_routes()
            gauge = (await scrape(client, serving.admin_url))['headgate_viewers{route="start"}']
            in_use = serving.app.gateway.relay._upstream.in_use
            return not live and gauge == 0 and in_use == 0

        await eventually(nothing_left)
        # A connection that is kept alive has a task in the scripted upstream; Headgate has none for it.
        await eventually(lambda: len(asyncio.all_tasks()) - upstream.open <= baseline)

    assert 0 < len(ends) < 200
    assert "within" in ends


async def test_two_users_never_read_each_others_text(tmp_path: Path) -> None:
    """200 runs of two users at the same time on one path: each reads its own text, and nothing else."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        mine = (asked.header(b"x-text") or b"").decode()
        await asked.answer(answer(f"For {mine}: " + f"{mine} " * 30, mine))

    async with house(script, tmp_path) as (upstream, _, client):

        async def one(number: int) -> None:
            user = ("ann", "bob")[number % 2]
            other = ("bob", "ann")[number % 2]
            mine = f"{user}-{number}"
            path, method = ((START, "POST"), (f"{STREAM_PATH}?n={number}", "GET"))[number // 2 % 2]
            stream = await read(client, path, signed(user, **{"x-text": mine}), method=method)
            assert stream.texts() == {"extraction": f"For {mine}: " + f"{mine} " * 30, "summary": mine}
            assert other.encode() not in stream.raw

        await asyncio.gather(*(one(number) for number in range(200)))

    assert len(upstream.asked) == 200
