"""Client, flag and variant decide between a stream and batch, over real sockets."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from proxy.app import running
from proxy.serving import listening
from proxy.settings.settings import Settings
from proxy.workers.sockets import Sockets
from tests.servers.client import EITHER, SSE, browser, eventually, opened, read, signed
from tests.servers.ports import free_socket
from tests.servers.scripted import Script, ScriptedUpstream
from tests.servers.serving import STREAMING, Serving, flag_document
from tests.servers.streaming import START, WHOLE, Held, answer, answering, house, route

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
