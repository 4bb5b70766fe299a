"""Requests that come back, and those that only look like it: no call is repeated, no text is another's."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.runs import waiters as arrivals
from proxy.serving import App
from proxy.upstream.breaker import BreakerState
from proxy.viewers.api import position
from tests.servers import streaming
from tests.servers.client import EITHER, eventually, opened, read, signed
from tests.servers.scripted import Asked
from tests.servers.serving import flag_document
from tests.servers.streaming import START, WHOLE, Held, answer, answering, kill

RUN = "6a1f0f9e-6d4e-4a51-9c0c-0a4f0c7f1d11"
STREAM_PATH = f"{START}/stream"


house = partial(streaming.house, commit_after=0)


@pytest.mark.parametrize("names", ["cursor", "id", "key"])
@pytest.mark.parametrize("why", ["killed", "overloaded"])
async def test_who_names_a_run_never_repeats_its_call(tmp_path: Path, names: str, why: str) -> None:
    """The kill switch and too many runs make no difference."""
    held = Held(answering(answer()))
    more: dict[str, Any] = {"max_runs": 1} if why == "overloaded" else {}
    first = signed(accept=EITHER, **{"headgate-run": RUN, "idempotency-key": "k"})
    named = {"cursor": {"last-event-id": f"{RUN}:0"}, "id": {"headgate-run": RUN}}
    headers = signed(accept=EITHER, **named.get(names, {"idempotency-key": "k"}))
    async with (
        house(held, tmp_path, **more) as (upstream, serving, client),
        opened(client, START, first, content=b"same") as stream,
    ):
        await stream.piece()
        if why == "killed":
            await kill(serving, client)
        async with opened(client, START, headers, content=b"same") as again:
            await again.piece()
            held.release.set()
            await again.rest()
        await stream.rest()

    assert again.texts() == stream.texts() == WHOLE
    assert again.run == RUN
    assert len(upstream.asked) == 1


async def test_a_cursor_with_another_body_is_another_question(tmp_path: Path) -> None:
    """The old run's answer is not given to it."""
    held = Held(answering(answer()))
    held.release.set()
    async with house(held, tmp_path) as (upstream, _, client):
        stream = await read(client, START, signed(), content=b"one")
        cursor = {"last-event-id": stream.events[0]["id"]}
        other = await client.post(START, headers=signed(**cursor), content=b"two")
        same = await read(client, START, signed(**cursor), content=b"one")

    assert other.status_code == 422
    assert "another body" in other.json()["detail"]
    assert same.events == stream.events[1:]
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("name", ["cookie", "x-tenant"])
async def test_what_may_choose_another_answer_is_not_joined(tmp_path: Path, name: str) -> None:
    """A tenant in a cookie, say: the principal is the same."""
    held = Held(answering(answer()))
    async with (
        house(held, tmp_path) as (upstream, _, client),
        opened(client, START, signed(**{name: "tenant=A"}), content=b"same") as one,
        opened(client, START, signed(**{name: "tenant=B"}), content=b"same") as other,
    ):
        await one.piece()
        await other.piece()
        await eventually(lambda: len(upstream.asked) == 2)
        held.release.set()
        await one.rest()
        await other.rest()

    assert one.run != other.run


async def test_a_get_joins_whichever_run_of_its_target_still_lives(tmp_path: Path) -> None:
    """Also the older one, when a newer has ended."""
    release = {b"A": asyncio.Event(), b"B": asyncio.Event()}

    async def script(asked: Asked) -> None:
        await release[await asked.read_body()].wait()
        await asked.answer(answer())

    async with (
        house(script, tmp_path) as (upstream, _, client),
        opened(client, START, signed(), content=b"A") as first,
    ):
        await first.piece()
        release[b"B"].set()
        await read(client, START, signed(), content=b"B")
        async with opened(client, STREAM_PATH, signed(), method="GET") as joined:
            await joined.piece()
            release[b"A"].set()
            await joined.rest()
        await first.rest()

    assert joined.run == first.run
    assert [asked.body for asked in upstream.asked] == [b"A", b"B"]


def half_open(app: App) -> None:
    """One trial may begin."""
    app.gateway.decider.breaker.state = BreakerState.OPEN
    app.gateway.decider.breaker._next_trial_at = 0.0


async def test_a_trial_of_the_breaker_is_for_a_run_that_begins(tmp_path: Path) -> None:
    """A request that is refused, and one that resumes, leave it to the next."""
    held = Held(answering(answer()))
    held.release.set()
    async with house(held, tmp_path) as (_, serving, client):
        before = await read(client, START, signed())
        half_open(serving.app)
        for _ in range(3):
            refused = await client.post(START, headers=signed(**{"headgate-run": "guessable"}))
            resumed = await read(client, START, signed(**{"last-event-id": before.events[0]["id"]}))
            assert (refused.status_code, resumed.status) == (400, 200)
        fresh = await read(client, START, signed())
        await eventually(lambda: serving.app.gateway.decider.breaker.state is BreakerState.CLOSED)

    assert fresh.last["type"] == "stream_done"
    assert fresh.headers["headgate-decision"].startswith("stream;")


@pytest.mark.parametrize(
    ("headers", "starts"),
    [
        ({"origin": "https://evil.example"}, False),
        ({"origin": "https://clinic.example"}, True),
        ({"origin": "https://evil.example", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "https://clinic.example", "sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-mode": "navigate"}, False),
        ({}, True),
    ],
)
async def test_a_page_of_another_site_starts_no_work(
    tmp_path: Path, headers: dict[str, str], *, starts: bool
) -> None:
    """Nor one of a sibling domain, nor a typed address. Said by `Sec-Fetch-Site` or, over plain HTTP, by
    `Origin`. It is relayed as the GET that it is."""
    held = Held(answering(answer()))
    held.release.set()
    async with house(held, tmp_path) as (upstream, _, client):
        await read(client, STREAM_PATH, signed(host="clinic.example", **headers), method="GET")

    assert upstream.asked[0].head.startswith(b"POST" if starts else b"GET")


@pytest.mark.parametrize(
    ("site", "starts"), [("same-site", True), ("none", True), ("same-origin", False), ("cross-site", False)]
)
async def test_a_route_says_from_where_work_may_be_started(
    tmp_path: Path, site: str, *, starts: bool
) -> None:
    """A page on a sibling domain may be one's own; a page of another site never is."""
    held = Held(answering(answer()))
    held.release.set()
    async with house(held, tmp_path, stream_path_from=["same-site", "none"]) as (upstream, _, client):
        await read(client, STREAM_PATH, signed(**{"sec-fetch-site": site}), method="GET")

    assert upstream.asked[0].head.startswith(b"POST" if starts else b"GET")


async def test_nobody_in_particular_is_not_waited_for(tmp_path: Path) -> None:
    """A client that owns no run cannot use up the places of users who wait for theirs."""
    held = Held(answering(answer()))
    async with house(held, tmp_path) as (_, serving, client):
        reply = await client.get(f"/_headgate/runs/{RUN}/events", headers={"accept": "text/event-stream"})
        waits = len(serving.app.runs._waiters)

    assert (reply.status_code, waits) == (404, 0)


async def test_one_user_takes_not_the_places_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who waits for more runs than a page opens is told at once; other users still wait."""
    monkeypatch.setattr(arrivals, "MAX_WAITING_OF_ONE", 2)
    held = Held(answering(answer()))
    async with house(held, tmp_path) as (_, serving, client), asyncio.TaskGroup() as tasks:

        def wait(number: int, user: str) -> asyncio.Task[httpx.Response]:
            path = f"/_headgate/runs/{RUN[:-1]}{number}/events"
            return tasks.create_task(client.get(path, headers=signed(user)))

        waiting = [wait(1, "ann"), wait(2, "ann"), wait(3, "bob")]
        await eventually(lambda: len(serving.app.runs._waiters) == 3)
        third = await wait(4, "ann")
        still = len(serving.app.runs._waiters)
        for task in waiting:
            task.cancel()
        await eventually(lambda: len(serving.app.runs._waiters) == 0)

    assert (third.status_code, still) == (404, 3)


@pytest.mark.parametrize("flags", [flag_document(0), flag_document(100, kill=True)], ids=["off", "killed"])
async def test_a_heartbeat_joins_nobody_who_would_not_join_without(
    tmp_path: Path, flags: dict[str, Any]
) -> None:
    """Two requests of a user without the flag are two calls, heartbeat or not."""
    held = Held(answering(answer()))
    batch = signed(accept="application/json")
    async with house(held, tmp_path, flags=flags, batch_heartbeat_s=5) as (upstream, _, client):
        posts = [asyncio.create_task(client.post(START, headers=batch, content=b"same")) for _ in range(2)]
        await eventually(lambda: len(upstream.asked) == 2)
        held.release.set()
        replies = await asyncio.gather(*posts)

    assert [reply.content for reply in replies] == [answer(), answer()]


async def test_a_viewer_cut_within_a_snapshot_gets_another_one(tmp_path: Path) -> None:
    """It shows some texts whole already: what it had missed would be appended to them."""
    held = Held(answering(answer()))
    held.release.set()
    async with house(held, tmp_path) as (_, serving, client):
        stream = await read(client, START, signed())
        [run] = serving.app.runs._kept
        before = await position(run, stream.events[2]["id"])
        run.log.snapshots_from |= {3}  # as `Viewer` does when it begins one
        again = await read(client, START, signed(**{"last-event-id": stream.events[2]["id"]}))

    assert before == 3
    assert again.types.count("content_replace") == len(WHOLE)
    assert "content_chunk" not in again.types
    assert again.texts() == WHOLE
