"""Runs from outside: read, resumed, shared, looked at and ended under `/_headgate/`."""

import asyncio
import json
import random
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.servers import streaming
from tests.servers.client import SSE, eventually, opened, read, scrape, signed
from tests.servers.scripted import Asked, talking
from tests.servers.streaming import START, SUMMARY, WHOLE, Held, answer, answering, logged

KEY = "a secret that is long enough for HS256"


house = partial(streaming.house, attach_wait_s=0.1)


def events(run: str, query: str = "") -> str:
    return f"/_headgate/runs/{run}/events{query}"


class Dripping:
    """An upstream whose answer's body comes piece by piece, when told."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.pieces: asyncio.Queue[int] = asyncio.Queue()
        self.left = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % len(self.body))
        sent = 0
        while sent < len(self.body):
            size = await self.pieces.get()
            await asked.send(self.body[sent : sent + size])
            sent += size

    def give(self, size: int) -> None:
        self.pieces.put_nowait(size)


# Reading


async def test_a_run_is_read_by_its_id(tmp_path: Path) -> None:
    """Replay from the first event, with the same bytes, as often as one likes; and from any cursor."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        first = await read(client, START, signed())
        again = await read(client, events(first.run), signed(), method="GET")
        middle = first.events[3]["id"]
        by_header = await read(client, events(first.run), signed(**{"last-event-id": middle}), method="GET")
        by_query = await read(client, events(first.run, f"?after={middle}"), signed(), method="GET")
        by_number = await read(client, events(first.run, "?after=4"), signed(), method="GET")
        last = signed(**{"last-event-id": first.last["id"]})
        nothing_more = await client.get(events(first.run), headers=last)

    assert again.events == first.events
    assert by_header.events == by_query.events == by_number.events == first.events[4:]
    assert by_header.headers["headgate-run"] == first.run
    assert nothing_more.status_code == 204
    assert len(upstream.asked) == 1


async def test_any_number_of_viewers_read_the_same(tmp_path: Path) -> None:
    """Those that come late replay what they missed, then go live."""
    script = Dripping(answer())
    async with house(script, tmp_path, commit_after=0) as (upstream, _, client):
        run = str(uuid.uuid4())
        tasks = [asyncio.create_task(read(client, START, signed(**{"headgate-run": run})))]
        for size in (60, 30, 20, 10_000):
            tasks.append(asyncio.create_task(read(client, events(run), signed(), method="GET")))
            script.give(size)
            await asyncio.sleep(0.02)
        streams = await asyncio.gather(*tasks)

    for stream in streams:
        assert stream.events == streams[0].events
        assert stream.texts() == WHOLE
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(("query", "status"), [("", 401), ("?failure=event", 200)])
async def test_a_failure_before_any_text_is_an_event_for_whoever_asks_so(
    query: str, status: int, tmp_path: Path
) -> None:
    """Beside a page that has its status already. Whoever does not ask gets the upstream's own answer."""
    held = Held(answering(b"{}", status=b"401 Unauthorized"))
    async with house(held, tmp_path, attach_wait_s=2, commit_after=15) as (_, _, client):
        run = str(uuid.uuid4())
        posted = client.post(START, headers=signed(accept="application/json", **{"headgate-run": run}))
        batch = asyncio.create_task(posted)
        reading = asyncio.create_task(client.get(events(run, query), headers=signed()))
        await held.come.wait()
        held.release.set()
        got, page = await reading, await batch

    assert (got.status_code, page.status_code) == (status, 401)
    assert ('"status":401' in got.text) == (status == 200)


async def test_a_failure_that_one_viewer_got_as_an_event_is_a_status_to_the_next(tmp_path: Path) -> None:
    """A request that is repeated, with a token that is expired: only by the 401 the page gets another one."""
    async with house(answering(b"{}", status=b"401 Unauthorized"), tmp_path) as (upstream, _, client):
        run = str(uuid.uuid4())
        asked = {"headers": signed(**{"headgate-run": run})}
        first = await client.post(START, **asked)
        event = await client.get(events(run, "?failure=event"), headers=signed())
        again = await client.post(START, **asked)

    assert (first.status_code, event.status_code, again.status_code) == (401, 200, 401)
    assert len(upstream.asked) == 1


async def test_the_events_of_a_run_can_be_asked_for_before_it_begins(tmp_path: Path) -> None:
    """Within `attach_wait_s`; a page opens them beside the POST that it cannot change."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, attach_wait_s=2) as (_, _, client):
        run = str(uuid.uuid4())
        waiting = asyncio.create_task(read(client, events(run), signed(), method="GET"))
        stranger = asyncio.create_task(client.get(events(run), headers=signed("bob")))
        await asyncio.sleep(0.05)
        batch = asyncio.create_task(
            client.post(START, headers=signed(accept="application/json", **{"headgate-run": run}))
        )
        await held.come.wait()
        held.release.set()
        stream, whole, refused = await waiting, await batch, await stranger

    assert stream.texts() == WHOLE
    assert stream.run == run
    assert whole.content == answer()
    assert whole.headers["content-type"] == "application/json"
    assert refused.status_code == 404


async def test_a_run_that_never_begins_is_told(tmp_path: Path) -> None:
    """After `attach_wait_s`: 404, as for one that is somebody else's."""
    async with house(answering(answer()), tmp_path, attach_wait_s=0.1) as (_, _, client):
        began = time.monotonic()
        response = await client.get(events(str(uuid.uuid4())), headers=signed())
        took = time.monotonic() - began

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert took > 0.09


async def test_five_hundred_disconnects_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """A viewer that is cut anywhere, most of all where replay turns live, reads the very same events."""
    chance = random.Random(7)
    stages = [f"stage{number}" for number in range(80)]
    sections = [{"stage": stage, "at": f"$.{stage}"} for stage in stages]
    body = json.dumps({stage: f"the text of {stage}" for stage in stages}).encode()
    script = Dripping(body)
    got: list[dict[str, Any]] = []
    async with house(script, tmp_path, commit_after=0, attach_wait_s=5, sections=sections) as (_, _, client):
        run = str(uuid.uuid4())
        whole = asyncio.create_task(read(client, START, signed(**{"headgate-run": run})))
        for cut in range(500):
            cursor = {"last-event-id": got[-1]["id"]} if got else {}
            async with opened(client, events(run), signed(**cursor), method="GET") as stream:
                if cut % 5 == 0:
                    script.give(len(body) // 100)
                wanted = chance.choice([0, 0, 1, 2]) if cut % 5 == 0 else 0
                while len(stream.events) < wanted and len(got) + len(stream.events) < cut // 10:
                    await stream.piece()
                got += stream.events
        script.give(len(body))
        cursor = {"last-event-id": got[-1]["id"]}
        got += (await read(client, events(run), signed(**cursor), method="GET")).events
        complete = await whole

    assert got == complete.events
    assert complete.last["type"] == "stream_done"
    assert len(got) == 80 * 4 + 1


async def test_a_cursor_of_something_else_gets_the_texts_as_they_are(tmp_path: Path) -> None:
    """A cursor of another run, of an earlier life of the store, or one that is malformed, gets a snapshot,
    never silence."""
    async with house(answering(answer()), tmp_path) as (_, _, client):
        first = await read(client, START, signed())
        for cursor in (f"{uuid.uuid4()}:2", f"{first.run}:999", "garbage", f"{first.run}:x"):
            stream = await read(client, events(first.run), signed(**{"last-event-id": cursor}), method="GET")

            assert stream.texts() == WHOLE
            assert "content_chunk" not in stream.types
            assert stream.types.count("content_replace") == 2
            assert stream.last == first.last


# Whose it is


async def test_nobody_else_can_see_that_a_run_exists(tmp_path: Path) -> None:
    """Events, state, cancel and tickets: 404 with the very same bytes as for a run that never was."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0, attach_wait_s=0) as (_, _, client):  # noqa: SIM117
        async with opened(client, START, signed()) as stream:
            await stream.piece()
            for run in (stream.run, str(uuid.uuid4())):
                for headers in (signed("bob"), {"accept": SSE}):
                    answers = [
                        await client.get(events(run), headers=headers),
                        await client.get(f"/_headgate/runs/{run}", headers=headers),
                        await client.delete(f"/_headgate/runs/{run}", headers=headers),
                    ]
                    assert [response.status_code for response in answers] == [404] * 3
                    assert len({response.content for response in answers}) == 1
                ticket = await client.post("/_headgate/tickets", headers=signed("bob"), json={"run": run})
                assert ticket.status_code == 404
            held.release.set()
            await stream.rest()

    assert stream.texts() == WHOLE


async def test_a_new_token_of_the_same_user_reads_the_run(tmp_path: Path) -> None:
    """With verified tokens, a run belongs to the user and not to the token."""

    def bearer(**claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {jwt.encode({'sub': 'ann', **claims}, KEY)}", "accept": SSE}

    async with house(answering(answer()), tmp_path, identity={"jwt": {"key": KEY}}) as (_, _, client):
        first = await read(client, START, bearer(jti="1"))
        refreshed = await read(client, events(first.run), bearer(jti="2"), method="GET")
        other = await client.get(events(first.run), headers=bearer(sub="bob"))

    assert refreshed.events == first.events
    assert other.status_code == 404


async def test_a_token_that_ends_closes_the_stream_resumably(tmp_path: Path) -> None:
    """No terminal event, and no clean end: the client comes back with a new token and its cursor."""

    def bearer(ends_in: float) -> dict[str, str]:
        claims = {"sub": "ann", "exp": time.time() + ends_in}
        return {"authorization": f"Bearer {jwt.encode(claims, KEY)}", "accept": SSE}

    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0, identity={"jwt": {"key": KEY}}) as (_, _, client):
        async with opened(client, START, bearer(1.2)) as stream:
            with pytest.raises(httpx.RemoteProtocolError):
                await stream.rest()
        held.release.set()
        resumed = await read(client, events(stream.run), bearer(60), method="GET")

    assert stream.events == []
    assert b"\nretry: " in stream.raw
    assert resumed.texts() == WHOLE


async def test_a_ticket_opens_one_run_once(tmp_path: Path) -> None:
    """For EventSource, which cannot send a header: no token in the URL, and nothing of it in the log."""
    with logged() as lines:
        async with house(answering(answer()), tmp_path, attach_wait_s=0) as (_, _, client):
            first, second = [await read(client, START, signed(), content=body) for body in (b"1", b"2")]

            async def issued() -> str:
                answered = await client.post("/_headgate/tickets", headers=signed(), json={"run": first.run})
                assert answered.status_code == 201
                return str(answered.json()["ticket"])

            ticket, other = await issued(), await issued()
            stream = await read(client, events(first.run, f"?ticket={ticket}"), {"accept": SSE}, method="GET")
            again = await client.get(events(first.run, f"?ticket={ticket}"), headers={"accept": SSE})
            elsewhere = await client.get(events(second.run, f"?ticket={other}"), headers={"accept": SSE})

    assert stream.events == first.events
    assert again.status_code == elsewhere.status_code == 404
    ours = [json.dumps(line) for line in lines.lines if line["logger"].startswith("headgate")]
    assert ours
    assert not [line for line in ours if ticket in line or other in line]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"run": 5}', b'{"run": "x"}', b"x" * 5000])
async def test_a_ticket_for_nothing_is_refused(tmp_path: Path, body: bytes) -> None:
    """400 says what the body must be; 401 that a ticket is for somebody."""
    async with house(answering(answer()), tmp_path) as (_, _, client):
        refused = await client.post("/_headgate/tickets", headers=signed(), content=body)
        nobody = await client.post("/_headgate/tickets", json={"run": str(uuid.uuid4())})

    assert refused.status_code == 400
    assert nobody.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_headgate/", 404),
        ("GET", "/_headgate/runs/x/events", 404),
        ("GET", "/_headgate/tickets", 405),
        ("POST", f"/_headgate/runs/{uuid.UUID(int=0)}/events", 405),
        ("PUT", f"/_headgate/runs/{uuid.UUID(int=0)}", 405),
    ],
)
async def test_what_is_not_there_is_said(tmp_path: Path, method: str, path: str, status: int) -> None:
    """An RFC 9457 problem, and nothing for the upstream."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        response = await client.request(method, path, headers=signed())

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert upstream.asked == []


# Looked at and ended


async def test_the_state_of_a_run_has_no_text(tmp_path: Path) -> None:
    """Its owner sees how far it is."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0) as (_, _, client):
        async with opened(client, START, signed()) as stream:
            await stream.piece()
            running = await client.get(f"/_headgate/runs/{stream.run}", headers=signed())
            held.release.set()
            await stream.rest()
        complete = await client.get(f"/_headgate/runs/{stream.run}", headers=signed())

    assert running.json()["state"] == "running"
    assert complete.json()["state"] == "complete"
    assert complete.json()["events"] == len(stream.events)
    assert SUMMARY[:10] not in complete.text


async def test_a_cancelled_run_ends_at_once(tmp_path: Path) -> None:
    """Its viewers are told `cancelled`, which is no failure; the upstream's connection is closed."""

    async def until_left(asked: Asked) -> None:
        await asked.read_body()
        await asked.reader.readexactly(1)

    async with house(until_left, tmp_path, commit_after=0) as (upstream, serving, client):
        async with opened(client, START, signed()) as stream:
            await eventually(lambda: upstream.open == 1)
            await stream.piece()
            began = time.monotonic()
            cancelled = await client.delete(f"/_headgate/runs/{stream.run}", headers=signed())
            await stream.rest()
            await upstream.left.wait()
            took = time.monotonic() - began
        late = await client.delete(f"/_headgate/runs/{stream.run}", headers=signed())
        samples = await scrape(client, serving.admin_url)

    assert cancelled.status_code == late.status_code == 202
    assert took < 10
    assert stream.types == ["error"]
    assert stream.last["metadata"]["error_code"] == "cancelled"
    key = 'headgate_runs_total{arm="stream",outcome="cancelled",route="start",source="batch"}'
    assert samples[key] == 1
    assert sum(value for name, value in samples.items() if name.startswith("headgate_faults_total")) == 0


async def test_a_stale_cancel_harms_nothing(tmp_path: Path) -> None:
    """The run that is over stays as it was, and the next one goes on."""
    held = Held(answering(answer()))
    held.release.set()
    async with house(held, tmp_path, commit_after=0) as (_, _, client):
        first = await read(client, START, signed())
        held.release.clear()
        async with opened(client, START, signed()) as second:
            await second.piece()
            stale = await client.delete(f"/_headgate/runs/{first.run}", headers=signed())
            held.release.set()
            await second.rest()
        again = await read(client, events(first.run), signed(), method="GET")

    assert stale.status_code == 202
    assert again.events == first.events
    assert second.last["type"] == "stream_done"


@pytest.mark.parametrize("policy", ["finish", "cancel"])
async def test_a_run_that_nobody_watches_follows_its_route(tmp_path: Path, policy: str) -> None:
    """Finished, because the upstream's work has effects; or, where the route says so, ended after a grace."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0, unwatched=policy, grace_s=0.2) as (_, serving, client):
        async with opened(client, START, signed()) as stream:
            await stream.piece()
        if policy == "cancel":
            await eventually(lambda: not serving.app.runs.live_routes())
        else:
            await asyncio.sleep(0.4)
            held.release.set()
        seen = await read(client, events(stream.run), signed(), method="GET")

    assert seen.last["type"] == ("stream_done" if policy == "finish" else "error")


async def test_a_viewer_that_comes_back_in_time_keeps_the_run(tmp_path: Path) -> None:
    """The grace begins anew whenever the last one leaves."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0, unwatched="cancel", grace_s=0.5) as (_, _, client):
        async with opened(client, START, signed()) as stream:
            await stream.piece()
        await asyncio.sleep(0.2)
        async with opened(client, events(stream.run), signed(), method="GET") as back:
            await back.piece()
            await asyncio.sleep(0.6)
            held.release.set()
            await back.rest()

    assert back.texts() == WHOLE


# Joining


async def test_the_same_request_again_gets_the_same_run(tmp_path: Path) -> None:
    """Five POSTs of a client that repeats itself: one upstream call, and each gets all of it."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0) as (upstream, _, client):
        posts = [asyncio.create_task(read(client, START, signed(), content=b"same")) for _ in range(5)]
        await held.come.wait()
        await asyncio.sleep(0.05)
        held.release.set()
        streams = await asyncio.gather(*posts)

    assert len(upstream.asked) == 1
    for stream in streams:
        assert stream.events == streams[0].events
        assert stream.texts() == WHOLE


async def test_each_gets_the_answer_as_it_asked(tmp_path: Path) -> None:
    """A batch client that asks the same as a stream in flight gets the upstream's exact answer to that."""
    held = Held(answering(answer(), extra=b"x-own: 1\r\nset-cookie: a=1\r\n"))
    async with house(held, tmp_path, commit_after=0) as (upstream, _, client):
        async with opened(client, START, signed(), content=b"same") as stream:
            await stream.piece()
            batch = asyncio.create_task(
                client.post(START, headers=signed(accept="application/json"), content=b"same")
            )
            other = asyncio.create_task(
                client.post(START, headers=signed(accept="application/json"), content=b"other")
            )
            await eventually(lambda: len(upstream.asked) == 2)
            held.release.set()
            await stream.rest()
        whole = await batch
        await other

    assert whole.content == answer()
    assert whole.headers["x-own"] == "1"
    assert whole.headers["set-cookie"] == "a=1"
    assert [asked.body for asked in upstream.asked] == [b"same", b"other"]


@pytest.mark.parametrize(
    ("headers", "more", "calls"),
    [
        ({}, {"join": False}, 2),
        ({"authorization": signed("bob")["authorization"]}, {}, 2),
        ({"idempotency-key": "k"}, {}, 1),
        ({"idempotency-key": "l"}, {}, 2),
    ],
    ids=["a route where repetition is meant", "another user", "an idempotency key", "another key"],
)
async def test_what_joins_and_what_does_not(
    tmp_path: Path, headers: dict[str, str], more: dict[str, Any], calls: int
) -> None:
    """The same principal, route and body, where the route allows it."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0, **more) as (upstream, _, client):
        async with opened(client, START, signed(**{"idempotency-key": "k"}), content=b"same") as first:
            await first.piece()
            second = asyncio.create_task(read(client, START, {**signed(), **headers}, content=b"same"))
            await eventually(lambda: len(upstream.asked) == calls)
            held.release.set()
            await first.rest()
        assert (await second).texts() == WHOLE
        third = await read(client, START, {**signed(), "idempotency-key": "k"}, content=b"same")

    # An idempotency key holds also when the first is over.
    assert len(upstream.asked) == (calls + 1 if more else calls)
    assert third.texts() == WHOLE


async def test_an_idempotency_key_of_another_request_is_refused(tmp_path: Path) -> None:
    """422: two different requests with one key are a mistake of the client."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        await read(client, START, signed(**{"idempotency-key": "k"}), content=b"one")
        refused = await client.post(START, headers=signed(**{"idempotency-key": "k"}), content=b"two")

    assert refused.status_code == 422
    assert len(upstream.asked) == 1


async def test_an_idempotency_key_of_a_failed_run_may_be_used_again(tmp_path: Path) -> None:
    """A client that repeats a failed request wants it done, and not to be told of the failure again."""
    replies = iter([answering(b"{}", b"503 Busy"), answering(answer())])

    async def script(asked: Asked) -> None:
        await next(replies)(asked)

    async with house(script, tmp_path) as (upstream, _, client):
        failed = await client.post(START, headers=signed(**{"idempotency-key": "k"}), content=b"one")
        again = await read(client, START, signed(**{"idempotency-key": "k"}), content=b"one")

    assert failed.status_code == 503
    assert again.texts() == WHOLE
    assert len(upstream.asked) == 2


async def test_a_post_that_comes_back_with_a_cursor_repeats_nothing(tmp_path: Path) -> None:
    """fetch-event-source does so after an error, also when the run has ended in the meantime."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        first = await read(client, START, signed(), content=b"same")
        cursor = signed(**{"last-event-id": first.events[2]["id"]})
        again = await read(client, START, cursor, content=b"same")
        gone = await client.post(START, headers=signed(**{"last-event-id": f"{uuid.uuid4()}:3"}))

    assert again.events == first.events[3:]
    assert gone.status_code == 404
    assert len(upstream.asked) == 1


async def test_a_run_has_the_id_that_the_client_chose(tmp_path: Path) -> None:
    """A random UUID; another run cannot take it, and what is no random UUID is refused."""
    run = str(uuid.uuid4())
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        stream = await read(client, START, signed(**{"headgate-run": run}))
        again = await read(client, START, signed(**{"headgate-run": run}))
        taken = await client.post(START, headers=signed(**{"headgate-run": run}), content=b"other")
        foreign = await client.post(START, headers=signed("bob", **{"headgate-run": run}))
        for bad in ("x", str(uuid.uuid1()), run.upper()):
            refused = await client.post(START, headers=signed(**{"headgate-run": bad}))
            assert refused.status_code == 400
            assert "headgate-run" in refused.json()["detail"]

    assert stream.run == run
    assert again.events == stream.events
    assert taken.status_code == foreign.status_code == 409
    assert len(upstream.asked) == 1
    assert upstream.asked[0].header(b"headgate-run") is None


# Bounds


async def test_a_route_that_is_full_gives_the_batch_answer(tmp_path: Path) -> None:
    """Over `max_runs`: batch for who can take it, 503 for an EventSource; joining still works."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0, max_runs=1) as (upstream, serving, client):
        async with opened(client, START, signed(), content=b"1") as stream:
            await stream.piece()
            other = "/api/cases/8/start/stream"
            refused = await client.get(other, headers=signed())
            either = asyncio.create_task(
                client.post(START, headers=signed(accept=f"{SSE}, application/json"), content=b"3")
            )
            joined = asyncio.create_task(read(client, START, signed(), content=b"1"))
            await eventually(lambda: len(upstream.asked) == 2)
            held.release.set()
            await stream.rest()
        batch, same = await either, await joined
        samples = await scrape(client, serving.admin_url)

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert batch.headers["content-type"] == "application/json"
    assert same.texts() == WHOLE
    assert samples['headgate_requests_total{mode="batch",reason="overloaded",route="start"}'] >= 1


async def test_a_route_that_is_full_still_shows_the_run_that_is_named(tmp_path: Path) -> None:
    """Nothing begins by it, also for who takes only JSON."""
    held = Held(answering(answer()))
    run_id = str(uuid.uuid4())
    named = {"headgate-run": run_id}
    async with house(held, tmp_path, commit_after=0, max_runs=1, join=False) as (upstream, _, client):
        async with opened(client, START, signed(**named), content=b"1") as stream:
            await stream.piece()
            again = asyncio.create_task(read(client, START, signed(**named), content=b"1"))
            plain = asyncio.create_task(
                client.post(START, headers=signed(accept=None, **named), content=b"1")
            )
            await eventually(lambda: len(upstream.asked) == 1)
            held.release.set()
            await stream.rest()
        assert (await again).texts() == WHOLE
        assert (await plain).content == answer()

    assert len(upstream.asked) == 1


async def test_a_plain_request_is_not_ended_by_who_cancels_the_run_that_it_joined(tmp_path: Path) -> None:
    """It knows nothing of runs: it gets the upstream's answer, by a call of its own."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0) as (upstream, serving, client):
        async with opened(client, START, signed(), content=b"1") as stream:
            await stream.piece()
            plain = asyncio.create_task(client.post(START, headers=signed(accept=None), content=b"1"))
            run = stream.headers["headgate-run"]
            await eventually(lambda: [len(each) for each in serving.app.runs._viewers.values()] == [2])
            assert (await client.delete(f"/_headgate/runs/{run}", headers=signed())).status_code == 202
            await eventually(lambda: len(upstream.asked) == 2)
            held.release.set()
        answered = await plain

    assert (answered.status_code, answered.content) == (200, answer())
    assert [asked.body for asked in upstream.asked] == [b"1", b"1"]


async def test_spaces_keep_a_batch_client_alive(tmp_path: Path) -> None:
    """If the route says so, the same JSON comes after them, with status 200 in any case."""
    held = Held(answering(answer()))
    broken = Held(answering(b'{"detail": "no"}', b"500 Internal Server Error"))
    for script, body in ((held, answer()), (broken, b'{"detail": "no"}')):
        async with (
            house(script, tmp_path, batch_heartbeat_s=0.1) as (_, _, client),
            client.stream("POST", START, headers=signed(accept="application/json")) as response,
        ):
            pieces = response.aiter_raw()
            spaces = [await anext(pieces) for _ in range(3)]
            script.release.set()
            rest = b"".join([piece async for piece in pieces])

        assert set(b"".join(spaces)) == {0x20}
        assert rest.lstrip(b" ") == body
        assert response.status_code == 200


async def test_a_quick_batch_answer_has_its_own_status(tmp_path: Path) -> None:
    """Before the first space nothing is committed."""
    script = answering(b'{"detail": "no"}', b"422 Unprocessable Entity", b"x-own: 1\r\n")
    async with house(script, tmp_path, batch_heartbeat_s=5) as (_, _, client):
        response = await client.post(START, headers=signed(accept="application/json"))

    assert response.status_code == 422
    assert response.headers["x-own"] == "1"
    assert response.content == b'{"detail": "no"}'


async def test_one_stalled_viewer_of_many_costs_the_others_nothing(tmp_path: Path) -> None:
    """It does not read at all; the rest have everything at once."""
    text = "".join(f"word {number} " for number in range(2000))
    script = Dripping(answer(text))
    async with house(script, tmp_path, commit_after=0, attach_wait_s=5) as (_, serving, client):
        run = str(uuid.uuid4())
        async with talking(serving.url) as stalled:
            bearer = signed()["authorization"]
            stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await stalled.send(
                f"GET {events(run)} HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\n\r\n".encode()
            )
            post = asyncio.create_task(read(client, START, signed(**{"headgate-run": run})))
            viewers = [
                asyncio.create_task(read(client, events(run), signed(), method="GET")) for _ in range(49)
            ]
            await asyncio.sleep(0.1)
            script.give(10_000_000)
            began = time.monotonic()
            streams = [await post, *[await viewer for viewer in viewers]]
            took = time.monotonic() - began

    assert all(stream.texts() == {"extraction": text, "summary": SUMMARY} for stream in streams)
    assert took < 30
