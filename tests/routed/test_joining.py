"""Joining a run, and coming back to it."""

import asyncio
import os
import random
import socket
from pathlib import Path
from typing import Any

import httpx

from tests.servers.authority import certificates
from tests.servers.client import EITHER, SSE, eventually, opened, read, signed, texts
from tests.servers.scripted import Asked, ScriptedUpstream, ask
from tests.servers.serving import flag_document, headgate
from tests.servers.streaming import START, SUMMARY, WHOLE, Held, answer, answering, house

STREAM_PATH = f"{START}/stream"


async def test_a_second_get_joins_the_live_run(tmp_path: Path) -> None:
    """The same principal and path: one upstream call, one run, the same events for both."""
    held = Held(answering(answer()))
    async with (
        house(held, tmp_path, commit_after=0) as (upstream, _, client),
        opened(client, STREAM_PATH, signed(), method="GET") as first,
        opened(client, STREAM_PATH, signed(), method="GET") as second,
    ):
        held.release.set()
        await first.rest()
        await second.rest()

    assert first.run == second.run
    assert first.events == second.events
    assert len(upstream.asked) == 1


async def test_a_get_joins_the_run_that_a_post_started(tmp_path: Path) -> None:
    """An unchanged frontend's POST can be watched from the side."""
    held = Held(answering(answer()))
    async with (
        house(held, tmp_path, commit_after=0) as (upstream, _, client),
        opened(client, START, signed(accept=EITHER)) as posted,
        opened(client, STREAM_PATH, signed(), method="GET") as watching,
    ):
        held.release.set()
        await posted.rest()
        await watching.rest()

    assert posted.events == watching.events
    assert len(upstream.asked) == 1


async def test_another_principal_or_case_starts_its_own_run(tmp_path: Path) -> None:
    """Nobody joins a run of somebody else, or of another case or query."""
    held = Held(answering(answer()))
    others = [(STREAM_PATH, "bob"), ("/api/cases/8/start/stream", "ann"), (f"{STREAM_PATH}?x=1", "ann")]
    async with (
        house(held, tmp_path, commit_after=0) as (upstream, _, client),
        opened(client, STREAM_PATH, signed("ann"), method="GET") as first,
    ):
        runs = [first.run]
        for path, user in others:
            async with opened(client, path, signed(user), method="GET") as other:
                runs.append(other.run)
        held.release.set()
        await first.rest()
        await eventually(lambda: len(upstream.asked) == 4)

    assert len(set(runs)) == 4


async def test_a_finished_run_is_not_joined(tmp_path: Path) -> None:
    """A new GET without a cursor, after the end, is a new execution."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        first = await read(client, STREAM_PATH, signed(), method="GET")
        second = await read(client, STREAM_PATH, signed(), method="GET")

    assert first.run != second.run
    assert len(upstream.asked) == 2


async def test_a_reconnect_after_the_end_gets_what_it_missed(tmp_path: Path) -> None:
    """From every event on: the rest, exactly, without asking the upstream again; 204 from the last one."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        whole = await read(client, STREAM_PATH, signed(), method="GET")
        for seq in range(len(whole.events)):
            cursor = {"last-event-id": f"{whole.run}:{seq}"}
            again = await read(client, STREAM_PATH, signed(**cursor), method="GET")
            assert again.events == whole.events[seq:]
            assert again.run == whole.run
        end = await read(client, STREAM_PATH, signed(**{"last-event-id": whole.last["id"]}), method="GET")

    assert (end.status, end.raw) == (204, b"")
    assert len(upstream.asked) == 1


async def test_a_post_that_has_everything_gets_a_stream_that_ends(tmp_path: Path) -> None:
    """fetch-event-source, cut behind `stream_done`, posts again: it refuses a 204, and would ask for ever."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        whole = await read(client, START, signed())
        end = await read(client, START, signed(**{"last-event-id": whole.last["id"]}))

    assert (end.status, end.raw, end.run) == (200, b"", whole.run)
    assert end.headers["content-type"].startswith("text/event-stream")
    assert len(upstream.asked) == 1


async def test_a_reconnect_within_the_run_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Cut at random moments, across the seam of replay and live: the pieces are the uninterrupted stream."""
    body = answer("word " * 400)
    pieces = [body[at : at + 40] for at in range(0, len(body), 40)]
    go_on = asyncio.Semaphore(0)

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        await asked.send(b"content-length: %d\r\n\r\n" % len(body))
        for piece in pieces:
            await go_on.acquire()
            await asked.send(piece)

    dice = random.Random(7)
    async with house(
        script, tmp_path, flush_hz=1000, commit_after=0, progress=True, progress_s=0.005
    ) as found:
        upstream, _, client = found
        got: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        cuts = 0
        while not got or got[-1]["type"] not in {"stream_done", "error"}:
            async with opened(client, STREAM_PATH, signed(**cursor), method="GET") as part:
                for _ in range(dice.randint(1, 12)):
                    if cuts < 60 or go_on.locked():
                        go_on.release()
                    if await part.piece() is None:
                        break
                got += part.events
                cuts += 1
            if got:
                cursor = {"last-event-id": got[-1]["id"]}

    assert cuts > 5
    run = got[0]["id"].rpartition(":")[0]
    assert [event["id"] for event in got] == [f"{run}:{seq}" for seq in range(1, len(got) + 1)]
    assert texts(got) == {"extraction": "word " * 400, "summary": SUMMARY}
    assert len(upstream.asked) == 1


BAD_CURSORS = [
    "garbage",
    ":",
    "",
    ":1",
    "{run}",
    "{run}:",
    "{run}:-1",
    "{run}:x",
    "{run}:1e2",
    "{run}:²",
    "{run}:" + "9" * 5000,
    "00000000-0000-4000-8000-000000000000:1",
]


async def test_a_cursor_that_cannot_be_served_is_said(tmp_path: Path) -> None:
    """Garbage or unknown: a 404 problem. Beyond the end: the texts as they are. Never the work again."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        run = (await read(client, STREAM_PATH, signed(), method="GET")).run
        for cursor in BAD_CURSORS:
            headers = {name.encode(): value.encode() for name, value in signed().items()}
            headers[b"last-event-id"] = cursor.replace("{run}", run).encode("latin-1")
            response = await client.get(STREAM_PATH, headers=headers)

            assert response.status_code == 404, cursor
            assert response.headers["content-type"] == "application/problem+json"
            assert run not in response.text
        beyond = await read(client, STREAM_PATH, signed(**{"last-event-id": f"{run}:999999"}), method="GET")

    assert beyond.texts() == WHOLE
    assert "content_chunk" not in beyond.types  # a snapshot, marked as one
    assert len(upstream.asked) == 1


async def test_a_run_cannot_be_read_by_anybody_else_or_at_another_case(tmp_path: Path) -> None:
    """Another user, no user, or the owner at another case's path: as if there were no such run."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        run = (await read(client, STREAM_PATH, signed("ann"), method="GET")).run
        cursor = {"last-event-id": f"{run}:1"}
        answers = [
            await client.get(STREAM_PATH, headers=signed("bob", **cursor)),
            await client.get(STREAM_PATH, headers={"accept": SSE, **cursor}),
            await client.get("/api/cases/8/start/stream", headers=signed("ann", **cursor)),
        ]
        unknown = await client.get(STREAM_PATH, headers=signed(**{"last-event-id": "x:1"}))

    assert [response.status_code for response in answers] == [404] * 3
    assert {response.content for response in answers} == {unknown.content}
    assert len(upstream.asked) == 1


async def test_a_run_is_not_resumed_by_another_query(tmp_path: Path) -> None:
    """The query is part of what was asked."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        stream = await read(client, f"{STREAM_PATH}?of=1", signed(), method="GET")
        cursor = signed(**{"last-event-id": stream.events[1]["id"]})
        same, other = [await read(client, f"{STREAM_PATH}?of={of}", cursor, method="GET") for of in (1, 2)]

    assert same.events == stream.events[2:]
    assert other.status == 404
    assert len(upstream.asked) == 1


async def test_a_reconnect_to_a_run_that_is_gone_starts_nothing_whatever_is_decided(tmp_path: Path) -> None:
    """Also with the flag off, when it would be relayed: the work must not be done twice."""
    gone = signed(**{"last-event-id": "5f0b6a2e-3c1d-4f7a-9b8e-0123456789ab:5"}, accept=EITHER)
    for share in (100, 0):
        async with house(answering(answer()), tmp_path, flags=flag_document(share)) as (upstream, _, client):
            refused = await client.post(START, headers=gone)

        assert refused.status_code == 404
        assert upstream.asked == []


async def test_two_hosts_are_a_bad_request_also_where_batch_answers_have_a_heartbeat(tmp_path: Path) -> None:
    """And no mistake of ours."""
    request = b"POST %b HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n" % START.encode()
    async with house(answering(answer()), tmp_path, batch_heartbeat_s=5) as (upstream, serving, _):
        answered = await ask(serving.url, request)

    assert answered.status == 400
    assert upstream.asked == []


async def test_an_answer_that_somebody_cuts_on_its_way_is_not_whole(tmp_path: Path) -> None:
    """Without a length its end is the connection's, and of TLS that is the peer's farewell (RFC 9112 9.8).

    As uvloop tells it, on which Headgate runs; asyncio's own loop does not."""
    ca_file, context = certificates(tmp_path)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhalf of the answer"

    async def cut(asked: Asked) -> None:
        await asked.send(head)
        with socket.socket(fileno=os.dup(asked.writer.get_extra_info("socket").fileno())) as tcp:
            tcp.shutdown(socket.SHUT_RDWR)

    async def whole(asked: Asked) -> None:
        await asked.send(head)
        asked.writer.close()

    for script, ends_well in ((whole, True), (cut, False)):
        async with (
            ScriptedUpstream(script, tls=context).running() as upstream,
            headgate(upstream.url, tmp_path, upstream={"tls": {"ca_file": str(ca_file)}}) as gate,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            try:
                ended_well = (await client.get(gate.url)).text == "half of the answer"
            except httpx.RemoteProtocolError:
                ended_well = False
            assert ended_well is ends_well


async def test_a_run_that_was_evicted_is_gone(tmp_path: Path) -> None:
    """Over the bound of kept runs the oldest goes first, and its cursor gets 404."""
    async with house(answering(answer()), tmp_path, event_log={"memory": {"runs": 1}}) as found:
        upstream, serving, client = found
        first = await read(client, STREAM_PATH, signed(), method="GET")
        second = await read(client, STREAM_PATH, signed(), method="GET")
        gone, kept = [
            await client.get(STREAM_PATH, headers=signed(**{"last-event-id": f"{run}:1"}))
            for run in (first.run, second.run)
        ]
        counts = (await client.get(f"{serving.admin_url}/runs")).json()

    assert (gone.status_code, kept.status_code) == (404, 200)
    assert (counts["live"], counts["kept"]) == ({}, 1)
    assert len(upstream.asked) == 2


async def test_texts_are_forgotten_in_time_though_nobody_asks(tmp_path: Path) -> None:
    """After `ttl_s` a finished run leaves the memory by itself, also in a quiet house."""
    async with house(answering(answer()), tmp_path, event_log={"memory": {"ttl_s": 2}}) as found:
        _, serving, client = found
        stream = await read(client, STREAM_PATH, signed(), method="GET")

        async def kept(runs: int) -> bool:
            return (await client.get(f"{serving.admin_url}/runs")).json()["kept"] == runs

        assert await kept(1)
        await eventually(lambda: kept(0))
        cursor = signed(**{"last-event-id": f"{stream.run}:1"})
        assert (await client.get(STREAM_PATH, headers=cursor)).status_code == 404
