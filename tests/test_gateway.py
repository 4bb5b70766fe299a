"""One request's whole path, over real sockets: what is streamed, what is relayed, and what is refused."""

import asyncio
import hashlib
import json
import os
import random
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.app import running
from proxy.downstream.bodies import MAX_REQUEST_BYTES
from proxy.serving import listening
from proxy.settings.settings import Settings
from proxy.workers.sockets import Sockets
from tests.servers.authority import certificates
from tests.servers.scripted import Asked, Script, ScriptedUpstream, ask, talking
from tests.servers.serving import STREAMING, Serving, flag_document, free_socket, headgate
from tests.servers.streaming import (
    EITHER,
    EXTRACTION,
    SSE,
    START,
    SUMMARY,
    WHOLE,
    Held,
    Stream,
    answer,
    answering,
    browser,
    eventually,
    house,
    opened,
    read,
    route,
    scrape,
    signed,
    texts,
)

pytestmark = pytest.mark.anyio

STREAM_PATH = f"{START}/stream"
AXIOS = "application/json, text/plain, */*"
OFF = flag_document(rollout=0)


def flag_file(serving: Serving, document: dict[str, Any]) -> None:
    serving.flag_file.write_text(json.dumps(document))


# Who gets a stream


ASKS_FOR_EVENTS = [SSE, EITHER, "Text/Event-Stream", "text/html, text/event-stream;q=0.1"]
DOES_NOT = [
    "*/*",
    AXIOS,
    "text/*",
    "text/event-stream;q=0",
    "text/event-stream; q=0.000, */*",
    "text/event-stream;q=0.0, application/json",
    "application/x-text/event-stream",
    None,
]


async def test_a_client_that_names_event_streams_gets_one(tmp_path: Path) -> None:
    """With the flag on, `text/event-stream` in Accept is answered with the whole answer as events."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        streams = [await read(client, START, signed(accept=accept)) for accept in ASKS_FOR_EVENTS]

    for stream in streams:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.texts() == WHOLE
        assert stream.last["type"] == "stream_done"
    assert len(upstream.asked) == len(ASKS_FOR_EVENTS)


async def test_every_other_client_gets_the_exact_batch_answer(tmp_path: Path) -> None:
    """Status, headers and bytes are those of the upstream itself, whatever the flag says."""
    extra = b"x-own: 1\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nX-Case: Kept\r\n"
    async with house(answering(answer(), extra=extra), tmp_path) as (upstream, _, client):
        del client.headers["accept"]
        for accept in DOES_NOT:
            through = await client.post(START, headers=signed(accept=accept))
            direct = await client.post(f"{upstream.url}{START}", headers=signed(accept=accept))

            assert through.content == direct.content == answer(), accept
            assert through.headers.multi_items() == direct.headers.multi_items()
            assert through.status_code == 200


async def test_a_client_that_takes_only_events_gets_them_in_one_piece_without_the_flag(
    tmp_path: Path,
) -> None:
    """SSE-only and flag off: each section is one content event, and the upstream is asked for nothing but
    the batch answer, even where the route's own source would poll."""
    poll = {"path": "/api/cases/{case_id}", "row": "$.rows[?@.s == '{stage}']", "updated_at": "$.t"}
    async with house(answering(answer()), tmp_path, flags=OFF, source="poll", poll=poll) as found:
        upstream, _, client = found
        stream = await read(client, START, signed())

    chunks = [event for event in stream.events if event["type"] == "content_chunk"]
    assert [(chunk["stage"], chunk["content"]) for chunk in chunks] == list(WHOLE.items())
    assert stream.headers["headgate-decision"] == "batch;reason=flag_off;source=batch"
    assert [asked.target for asked in upstream.asked] == [START.encode()]


async def test_a_client_that_takes_either_gets_json_without_the_flag(tmp_path: Path) -> None:
    """Flag off, and JSON is welcome: the batch answer, untouched."""
    async with house(answering(answer()), tmp_path, flags=OFF) as (_, _, client):
        response = await client.post(START, headers=signed(accept=EITHER))

    assert response.headers["content-type"] == "application/json"
    assert response.content == answer()


async def test_nobody_in_particular_gets_batch(tmp_path: Path) -> None:
    """Without a user the decision is batch. A client of events gets events, and cannot come back."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        either = await client.post(START, headers={"accept": EITHER})
        stream = await read(client, STREAM_PATH, {"accept": SSE}, method="GET")
        cursor = stream.events[2]["id"]
        again = await read(client, STREAM_PATH, {"accept": SSE, "last-event-id": cursor}, method="GET")
        stranger = await read(client, STREAM_PATH, signed(**{"last-event-id": cursor}), method="GET")

    assert either.content == answer()
    assert stream.headers["headgate-decision"] == "batch;reason=no_identity;source=batch"
    assert stream.texts() == WHOLE
    assert again.status == 404
    assert stranger.status == 404
    assert len(upstream.asked) == 2


async def test_a_request_of_no_route_is_relayed(tmp_path: Path) -> None:
    """Other paths, other methods, and a stream path that is not asked with GET go straight through."""
    async with house(answering(b'{"own": true}'), tmp_path) as (upstream, _, client):
        for method, path in (("GET", START), ("POST", STREAM_PATH), ("POST", f"{START}/"), ("PUT", START)):
            response = await client.request(method, path, headers=signed())
            assert response.content == b'{"own": true}'
        mine = await client.get("/_headgate/nothing")

    assert [asked.target.decode() for asked in upstream.asked] == [START, STREAM_PATH, f"{START}/", START]
    assert mine.status_code == 404


# The wire


async def test_the_stream_has_exactly_our_headers_and_framing(tmp_path: Path) -> None:
    """Heartbeat first; then blocks of id, one data line and a blank line; LF only; `retry:` once, in the
    first block; nothing of the upstream's headers; nothing after the terminal event."""
    extra = b"content-encoding: identity\r\nset-cookie: a=1\r\nalt-svc: h3\r\nx-own: 1\r\n"
    async with house(answering(answer(), extra=extra), tmp_path) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.headers.multi_items()[:6] == [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-store, no-transform"),
        ("x-accel-buffering", "no"),
        ("incremental", "?1"),
        ("headgate-run", stream.run),
        ("headgate-decision", "stream;reason=flag_on;source=batch"),
    ]
    assert set(stream.headers) - {"transfer-encoding", "date"} == {
        n for n, _ in stream.headers.multi_items()[:6]
    }
    block = rb"id: [0-9a-f-]{36}:\d+\n%bdata: \{[^\r\n]+\}\n\n"
    assert re.fullmatch(
        rb": hb\n" + block % rb"retry: \d+\n" + rb"(?:" + block % rb"" + rb"|: hb\n)*", stream.raw
    )
    assert stream.raw.endswith(b"\n\n")
    assert 1000 <= stream.retries[0] <= 3000
    assert len(stream.retries) == 1
    assert [event["id"] for event in stream.events] == [
        f"{stream.run}:{seq}" for seq in range(1, len(stream.events) + 1)
    ]


async def test_stages_come_in_their_order_with_their_panels(tmp_path: Path) -> None:
    """Each section is begun, written in chunks that count from 0, and completed with its digest."""
    async with house(answering(answer()), tmp_path) as (_, _, client):
        stream = await read(client, START, signed())

    for index, (stage, panel) in enumerate([("extraction", "reasoning"), ("summary", "chat")]):
        mine = [event for event in stream.events if event["stage"] == stage]
        assert {event["panel"] for event in mine} == {panel}
        assert mine[0]["metadata"] == {"index": index, "total_expected": 2}
        assert [e["metadata"]["chunk_index"] for e in mine[1:-1]] == list(range(len(mine) - 2))
        text = WHOLE[stage]
        assert mine[-1]["metadata"] == {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "chars": len(text),
        }


async def test_the_end_carries_the_exact_batch_body(tmp_path: Path) -> None:
    """`result` is the upstream's body byte for byte, and `sha256` is its digest."""
    body = b'  {"result" : {"extraction":"a\\u00e9\\u2028 b", "summary":""}, "n": 1.00 }\n'
    async with house(answering(body), tmp_path) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.last["metadata"] == {
        "status": 200,
        "source": "batch",
        "recovered": False,
        "result": body.decode(),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    assert stream.texts() == {"extraction": "aé\u2028 b", "summary": ""}


async def test_the_end_can_go_without_the_body(tmp_path: Path) -> None:
    """`result: false` leaves the body out; its digest stays."""
    async with house(answering(answer()), tmp_path, result=False) as (_, _, client):
        stream = await read(client, START, signed())

    assert "result" not in stream.last["metadata"]
    assert stream.last["metadata"]["sha256"] == hashlib.sha256(answer()).hexdigest()


async def test_the_first_section_is_shown_before_the_last_byte_is_sent(tmp_path: Path) -> None:
    """Source `batch`: the texts of a body that drips are shown as they become whole."""
    body, rest = answer(), asyncio.Event()
    cut = body.index(b'"summary"')

    async def script(asked: Asked) -> None:
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % len(body))
        for byte in range(cut):
            await asked.send(body[byte : byte + 1])
        await rest.wait()
        await asked.send(body[cut:])

    async with (
        house(script, tmp_path) as (_, _, client),
        opened(client, START, signed()) as stream,
    ):
        await stream.until(lambda event: event["type"] == "stage_complete")
        assert stream.texts() == {"extraction": EXTRACTION}
        rest.set()
        await stream.rest()

    assert stream.texts() == WHOLE


# What the upstream sees


async def test_an_event_source_starts_the_post(tmp_path: Path) -> None:
    """A GET of the stream path is a POST for the upstream: empty body, query and credentials kept."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        stream = await read(client, f"{STREAM_PATH}?a=1&b=%20", signed(), method="GET")

    [asked] = upstream.asked
    assert asked.head.startswith(b"POST /api/cases/7/start?a=1&b=%20 HTTP/1.1\r\n")
    assert asked.header(b"content-length") == b"0"
    assert asked.body == b""
    assert asked.header(b"accept") == b"application/json"
    assert asked.header(b"accept-encoding") == b"identity"
    assert asked.header(b"authorization") == signed()["authorization"].encode()
    assert stream.texts() == WHOLE


async def test_the_clients_body_and_headers_reach_the_upstream(tmp_path: Path) -> None:
    """What is about the request goes on; what is about the stream or the connection does not."""
    body = '{"input_text": "38.9 °C"}'.encode()
    sent = {"content-type": "application/json", "x-request-id": "r1", "cookie": "s=1", "connection": "x-hop"}
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        await read(client, START, signed(**sent, **{"x-hop": "1", "last-event-id": "x"}), content=body)

    [asked] = upstream.asked
    assert asked.body == body
    assert asked.header(b"content-type") == b"application/json"
    assert asked.header(b"x-request-id") == b"r1"
    assert asked.header(b"cookie") == b"s=1"
    assert asked.header(b"x-hop") is None
    assert asked.header(b"last-event-id") is None
    names = [name.lower() for name, _ in asked.headers()]
    assert len(names) == len(set(names))


async def test_a_body_over_the_bound_is_refused(tmp_path: Path) -> None:
    """A streamed request is held whole, so it has a bound: 413, and the upstream is not asked."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        response = await client.post(START, headers=signed(), content=b"x" * (MAX_REQUEST_BYTES + 1))

    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert upstream.asked == []


async def test_a_body_that_comes_for_ever_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each of its bytes comes in time; and no run begins."""
    monkeypatch.setattr("proxy.downstream.bodies.COLLECT_S", 0.3)
    head = f"POST {START} HTTP/1.1\r\nhost: a\r\naccept: {SSE}\r\ncontent-length: 1000\r\n"
    bearer = f"authorization: {signed()['authorization']}\r\n\r\n"
    async with house(answering(answer()), tmp_path) as (upstream, serving, _), talking(serving.url) as client:

        async def drip() -> None:
            while True:
                await client.send(b"x")
                await asyncio.sleep(0.05)

        await client.send((head + bearer).encode())
        dripping = asyncio.create_task(drip())
        answered = await client.head()
        dripping.cancel()

    assert answered.status == 408
    assert upstream.asked == []


async def test_a_client_that_leaves_within_its_body_starts_nothing(tmp_path: Path) -> None:
    """A request that never came whole is not executed."""
    async with house(answering(answer()), tmp_path) as (upstream, serving, client):
        host, port = serving.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        bearer = signed()["authorization"].encode()
        head = b"POST %b HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: %b\r\n"
        writer.write(head % (START.encode(), bearer) + b"content-length: 10\r\n\r\nabc")
        await writer.drain()
        writer.close()
        key = 'headgate_requests_total{mode="stream",reason="flag_on",route="start"}'

        async def counted() -> bool:
            return (await scrape(client, serving.admin_url))[key] == 1

        await eventually(counted)

    assert upstream.asked == []


@pytest.mark.parametrize(
    "headers",
    [{"accept": "image/avif,image/webp,*/*"}, {"accept": SSE, "sec-fetch-site": "cross-site"}],
    ids=["an image", "another site's page"],
)
async def test_a_get_that_is_no_event_source_of_ours_starts_nothing(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """A GET of the stream path that could come by a link, with the user's cookies: it is relayed as it is."""
    async with house(answering(b'{"detail": "Not Found"}', b"404 Not Found"), tmp_path) as (
        upstream,
        _,
        client,
    ):
        response = await client.get(STREAM_PATH, headers={**signed(), **headers})

    assert response.status_code == 404
    assert [asked.head.split(b"\r\n")[0] for asked in upstream.asked] == [
        b"GET %b HTTP/1.1" % STREAM_PATH.encode()
    ]


async def test_what_the_relay_refuses_is_no_run(tmp_path: Path) -> None:
    """The same framing rules for both."""
    bearer = signed()["authorization"].encode()
    head = b"POST %b HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: %b\r\n%b\r\n\r\n"
    async with house(answering(answer()), tmp_path) as (upstream, serving, _):
        refused = await ask(serving.url, head % (START.encode(), bearer, b"transfer-encoding: gzip, chunked"))

    assert refused.status == 501
    assert upstream.asked == []


@pytest.mark.parametrize("may_stream", [True, False])
async def test_an_upgrade_on_a_route_is_relayed_and_no_run(tmp_path: Path, may_stream: bool) -> None:
    """Whatever the flag says: the upstream is asked for it, and its refusal is passed on."""
    bearer = signed()["authorization"].encode()
    head = b"POST %b HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: %b\r\n%b\r\n\r\n"
    upgrade = b"connection: upgrade\r\nupgrade: websocket"
    flags = flag_document(100 if may_stream else 0)
    async with house(answering(b"{}", b"426 Oh"), tmp_path, flags=flags) as (upstream, serving, _):
        refused = await ask(serving.url, head % (START.encode(), bearer, upgrade))

    assert (refused.status, refused.body) == (426, b"{}")
    assert upstream.asked[0].header(b"upgrade") == b"websocket"
    assert upstream.asked[0].header(b"accept") == b"text/event-stream"


# Joining and coming back


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


# Commit policy


async def hang_up(asked: Asked) -> None:
    await asked.read_body()
    asked.writer.close()


async def never(asked: Asked) -> None:
    await asked.reader.read()


def cut_at(size: int) -> Script:
    """The answer's first bytes, then the end of the connection."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % len(answer()) + answer()[:size])
        asked.writer.close()

    return script


async def html(asked: Asked) -> None:
    await asked.read_body()
    await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<hi>")


async def no_http(asked: Asked) -> None:
    await asked.send(b"what?\r\n\r\n")


FAILURES = {
    "refused": (answering(b'{"detail":"no"}', b"404 Not Found"), "status", 404),
    "too many": (answering(b'{"detail":"later"}', b"429 Too Many"), "status", 429),
    "failing": (answering(b"Internal", b"500 Oh"), "status", 500),
    "hanging up": (hang_up, "reset", 502),
    "silent": (never, "first_byte_timeout", 504),
    "no HTTP": (no_http, "malformed", 502),
    "cut": (cut_at(3), "truncated", 502),
}
SHORT = {"timeouts": {"first_byte_s": 0.15}}


async def failing(asked: Asked) -> None:
    """The failure that the query names."""
    name = asked.target.decode().partition("?")[2].replace("%20", " ")
    await FAILURES[name][0](asked)


async def test_an_early_failure_has_its_own_status(tmp_path: Path) -> None:
    """Before `commit_after` nothing was sent: the upstream's own status, headers and body, or a problem."""
    async with house(failing, tmp_path, commit_after=15, upstream=SHORT) as (upstream, _, client):
        for name, (_script, code, status) in FAILURES.items():
            for accept in (SSE, EITHER):
                before = len(upstream.asked)
                response = await client.post(f"{START}?{name}", headers=signed(accept=accept))

                assert response.status_code == status, name
                assert len(upstream.asked) == before + 1
                if code == "status":
                    direct = await client.post(f"{upstream.url}{START}?{name}")
                    assert response.content == direct.content
                    assert response.headers.pop("headgate-run")
                    assert response.headers.multi_items() == direct.headers.multi_items()
                else:
                    assert response.headers["content-type"] == "application/problem+json"
                    assert response.json()["status"] == status
                    assert "127.0.0.1" not in response.text


async def test_a_late_failure_is_one_terminal_event(tmp_path: Path) -> None:
    """After the headers: one `error` with the status that can no longer be sent, and nothing after it."""
    held = Held(failing)
    async with house(held, tmp_path, commit_after=0, upstream=SHORT) as (_, _, client):
        for name, (_script, code, status) in FAILURES.items():
            held.release.clear()
            async with opened(client, f"{START}?{name}", signed(accept=EITHER)) as stream:
                assert await stream.piece() == b": hb\n"
                held.release.set()
                await stream.rest()

            assert stream.status == 200
            assert stream.types == ["error"], name
            assert stream.last["metadata"] == {
                "error_code": code,
                "retry_available": code != "malformed" and status != 404,
                "partial": False,
                "status": status,
            }
            assert stream.last["content"]
            assert stream.raw.endswith(b"\n\n")


async def test_an_unreachable_upstream_is_a_problem_or_an_event(tmp_path: Path) -> None:
    """502 before the headers, `error` after them."""
    async with ScriptedUpstream(never).running() as gone:
        url = gone.url
    for commit_after, directory in ((15, tmp_path / "a"), (0, tmp_path / "b")):
        directory.mkdir()
        routes = [route(commit_after=commit_after)]
        async with headgate(url, directory, routes=routes) as serving, browser(serving.url) as client:
            stream = await read(client, START, signed())
        if commit_after:
            assert stream.status == 502
            assert json.loads(stream.raw)["detail"] == "The service behind this proxy cannot be reached."
        else:
            assert stream.last["metadata"]["error_code"] == "connect"


async def test_a_good_status_with_an_unreadable_body_is_json_only_for_who_takes_json(tmp_path: Path) -> None:
    """Who takes JSON gets what batch would have given; who takes only events gets an `error` event, unless it
    is an answer without texts."""
    textless = b'{"status": "needs_more_info"}'
    scripts: list[Script] = [html, answering(b'{"result":'), answering(b""), answering(textless)]
    ends = ["error", "error", "stream_done", "stream_done"]

    async def script(asked: Asked) -> None:
        await scripts[int(asked.target[-1:])](asked)

    async with house(script, tmp_path) as (upstream, _, client):
        for number, end in enumerate(ends):
            path = f"{START}?{number}"
            either = await client.post(path, headers=signed(accept=EITHER))
            direct = await client.post(f"{upstream.url}{path}")
            stream = await read(client, path, signed())

            assert (either.status_code, either.content) == (200, direct.content)
            assert either.headers.pop("headgate-run")
            if "date" not in direct.headers:
                assert either.headers.pop("date")
            assert either.headers.multi_items() == direct.headers.multi_items()
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert stream.types == [end]
            metadata = stream.last["metadata"]
            if end == "error":
                assert (metadata["error_code"], metadata["status"]) == ("malformed", 502)
            else:
                assert metadata["result"].encode() == direct.content


async def test_odd_statuses_do_not_break_the_client(tmp_path: Path) -> None:
    """A status without a body, or one that no client knows, is an answer that can be read."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        status = asked.target.rpartition(b"?")[2]
        await asked.send(b"HTTP/1.1 %b Odd\r\n" % status)
        await asked.send(b"\r\n" if status in {b"204", b"304"} else b"content-length: 2\r\n\r\nno")

    async with house(script, tmp_path) as (_, _, client):
        for status in (204, 299, 304, 999):
            response = await client.post(f"{START}?{status}", headers=signed(accept=EITHER))

            assert response.status_code == (502 if status == 999 else status)
            assert "content-length" not in response.headers or status not in {204, 304}


async def test_an_error_sentence_is_never_shown(tmp_path: Path) -> None:
    """A 200 with an error sentence in one section: the others are shown, then the truth."""
    sentence = "Error generating response after 3 attempts: 503"
    async with house(answering(answer(sentence)), tmp_path) as (_, _, client):
        stream = await read(client, START, signed(accept=EITHER))

    assert stream.texts() == {"summary": SUMMARY}
    assert b"Error generating" not in stream.raw
    assert stream.types.count("error") == 1
    assert stream.last["metadata"] == {
        "error_code": "failure_text",
        "retry_available": True,
        "partial": True,
        "status": 200,
    }


async def test_an_answer_over_the_bound_fails(tmp_path: Path) -> None:
    """What was shown stays, marked as partial."""
    body = answer(summary="x" * 2000)
    async with house(answering(body), tmp_path, max_answer=1024) as (_, _, client):
        stream = await read(client, START, signed())

    assert stream.status == 502 or stream.last["metadata"]["error_code"] == "too_large"


async def test_a_body_cut_anywhere_never_looks_complete(tmp_path: Path) -> None:
    """For every byte at which the answer breaks off: a status of its own, or a partial prefix and `error`."""
    body = answer()

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await cut_at(int(asked.target.rpartition(b"=")[2]))(asked)

    async with house(script, tmp_path) as (_, _, client):
        streams = await asyncio.gather(
            *(read(client, f"{START}?cut={at}", signed()) for at in range(len(body)))
        )

    assert {stream.status for stream in streams} == {200, 502}
    for stream in streams:
        if stream.status == 502:
            assert json.loads(stream.raw)["status"] == 502
            continue
        assert stream.types.count("error") == 1
        assert stream.last["metadata"]["partial"] is True
        assert stream.last["metadata"]["error_code"] == "truncated"
        shown = stream.texts()
        assert shown
        assert all(WHOLE[stage].startswith(text) for stage, text in shown.items())


# The decision


async def test_the_decision_is_pinned_to_the_run(tmp_path: Path) -> None:
    """A flag that is turned off during a run changes nothing for it; the requests after it see it soon."""
    held = Held(answering(answer()))
    async with (
        house(held, tmp_path, commit_after=0) as (_, serving, client),
        opened(client, STREAM_PATH, signed(), method="GET") as stream,
    ):
        await stream.piece()
        flag_file(serving, OFF)
        held.release.set()

        async def off() -> bool:
            response = await client.post(START, headers=signed(accept=EITHER))
            return response.headers["content-type"] == "application/json"

        await eventually(off)
        async with opened(client, START, signed(accept=SSE)) as whole:
            await whole.rest()
        await stream.rest()

    assert stream.headers["headgate-decision"] == "stream;reason=flag_on;source=batch"
    assert stream.types.count("content_chunk") > 2
    assert whole.types.count("content_chunk") == 2
    assert stream.texts() == whole.texts() == WHOLE


async def test_flags_that_grow_stale_mean_batch(tmp_path: Path) -> None:
    """Flags that cannot be confirmed for `stale_s` count as off."""
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    flags = {"file": str(tmp_path / "flags.json"), "stale_s": 2}
    async with _with_flags(answering(answer()), tmp_path, flags) as (serving, client):
        before = await client.post(START, headers=signed(accept=EITHER))
        serving.flag_file.unlink()

        async def stale() -> bool:
            response = await client.post(START, headers=signed(accept=EITHER))
            return response.headers["content-type"] == "application/json"

        await eventually(stale)
        reason = (await read(client, START, signed())).headers["headgate-decision"]

    assert before.headers["content-type"].startswith(SSE)
    assert reason == "batch;reason=flags_stale;source=batch"


@asynccontextmanager
async def _with_flags(
    script: Script, directory: Path, flags: dict[str, Any]
) -> AsyncIterator[tuple[Serving, httpx.AsyncClient]]:
    async with ScriptedUpstream(script).running() as upstream:
        settings = Settings.model_validate(
            {"upstream": {"url": upstream.url}, "flags": flags, "routes": [route()]}
        )
        public, admin = free_socket(), free_socket()
        urls = [f"http://127.0.0.1:{port.getsockname()[1]}" for port in (public, admin)]
        async with (
            running(settings, directory) as app,
            listening(app, settings, Sockets(public, admin)),
            browser(urls[0]) as client,
        ):
            yield Serving(app, urls[0], urls[1], Path(flags["file"])), client


async def test_a_variant_chooses_source_and_chunks(tmp_path: Path) -> None:
    """The payload of the flag's variant overrides the route's source and the size of the chunks."""
    payload = json.dumps({"source": "stages", "chunk": {"min": 40, "max": 60}})
    flags = flag_document(
        variants=[{"name": "big", "weight": 1000, "payload": {"type": "json", "value": payload}}]
    )
    stages = {
        "calls": [{"stage": "extraction", "request": "POST /one"}],
        "answer": {"result": {"extraction": "{{ extraction $.text }}", "summary": ""}},
    }
    text = "word " * 60
    one = answering(json.dumps({"text": text}).encode())
    async with house(one, tmp_path, flags=flags, stages=stages) as (upstream, _, client):
        stream = await read(client, START, signed())

    chunks = [event["content"] for event in stream.events if event["type"] == "content_chunk"]
    assert stream.headers["headgate-decision"] == "stream;reason=flag_on;source=stages"
    assert [asked.target for asked in upstream.asked] == [b"/one"]
    assert "".join(chunks) == text
    assert {len(chunk) for chunk in chunks[:-1]} == {60}
    assert STREAMING in json.dumps(flags)


# Viewers that leave, users side by side


async def test_a_viewer_that_leaves_stops_nothing(tmp_path: Path) -> None:
    """However early it leaves, the upstream's call goes on to its end, exactly once."""
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


async def test_a_stream_is_only_as_good_as_its_last_event(tmp_path: Path) -> None:
    """Every stream of this file ends in exactly one terminal event; here with both endings side by side."""
    for script, ending in ((answering(answer()), "stream_done"), (cut_at(len(answer()) - 4), "error")):
        directory = tmp_path / ending
        directory.mkdir()
        async with house(script, directory) as (_, _, client):
            stream: Stream = await read(client, START, signed())
        assert [type_ for type_ in stream.types if type_ in {"stream_done", "error"}] == [ending]
        assert stream.types[-1] == ending
