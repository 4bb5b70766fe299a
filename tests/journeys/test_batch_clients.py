"""A user whose decision is batch gets what the upstream says to the request as it came: compared with it."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.downstream.bodies import MAX_REQUEST_BYTES
from tests.servers.client import EITHER, SSE, eventually, opened, read, scrape, signed
from tests.servers.scripted import DATE, Answered, Asked, ask, talking
from tests.servers.serving import flag_document
from tests.servers.streaming import START, WHOLE, Held, answer, answering, house, kill

RUN = "6a1f0f9e-6d4e-4a51-9c0c-0a4f0c7f1d11"
OFF = flag_document(rollout=0)
NATIVE: dict[str, Any] = {
    "source": "native",
    "native": {
        "format": "openai",
        "body": {"stream": True, "stream_options": {"include_usage": True}},
    },
    "sections": [{"stage": "answer", "at": "$.choices[0].message.content"}],
}
CHUNKS = [
    {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    for delta in ({"role": "assistant", "content": "Hello"}, {"content": " there"})
]
EVENTS = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in CHUNKS] + [b"data: [DONE]\n\n"]
COMPLETION = b'{"choices": [{"index": 0, "message": {"content": "Hello there"}}],   "usage": {"total": 1}}'


async def completions(asked: Asked) -> None:
    """An API that streams to who asks it to, by the body or by `Accept`; else it answers in batch."""
    body = await asked.read_body()
    asks = body.startswith(b"{") and json.loads(body).get("stream")
    if not asks and asked.header(b"accept") != SSE.encode():
        await asked.answer(COMPLETION, extra=b"x-own: 1\r\nset-cookie: a=1\r\n")
        return
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-own: 1\r\n" + DATE
    await asked.send(head + b"transfer-encoding: chunked\r\n\r\n")
    for event in EVENTS:
        await asked.send(b"%x\r\n%b\r\n" % (len(event), event))
    await asked.send(b"0\r\n\r\n")


def request(headers: dict[str, str], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {START} HTTP/1.1\r\nhost: a\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def differences(direct: Answered, through: Answered) -> list[str]:
    """Return the differences by which a client could tell."""
    kept = ("status", "headers", "body", "complete")
    return [name for name in kept if getattr(direct, name) != getattr(through, name)]


# Their stream is not our stream


@pytest.mark.parametrize("why", ["killed", "no identity", "flag off"])
@pytest.mark.parametrize("source", ["native", "batch"])
async def test_the_upstreams_own_stream_is_passed_on(tmp_path: Path, why: str, source: str) -> None:
    """fetch-event-source and every EventSource ask for nothing but events. Decided batch, they get those of
    the upstream, as without Headgate, and the upstream sees the request as it came."""
    more = NATIVE if source == "native" else {"sections": NATIVE["sections"]}
    headers = {"accept": SSE, "last-event-id": "abc:7", **({} if why == "no identity" else signed())}
    flags = OFF if why == "flag off" else None
    async with house(completions, tmp_path, flags=flags, **more) as (upstream, serving, client):
        if why == "killed":
            await kill(serving, client)
        said = request(headers, b"not json")
        direct, through = await ask(upstream.url, said), await ask(serving.url, said)

    assert differences(direct, through) == []
    assert through.body == b"".join(EVENTS)
    for name in (b"accept", b"last-event-id", b"content-length"):
        assert upstream.asked[1].header(name) == upstream.asked[0].header(name)


async def test_the_upstreams_own_stream_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    """Each event when it is there, and nothing of ours before the first."""
    go_on = asyncio.Event()

    async def slowly(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go_on.wait()
        await asked.send(b"data: 2\n\n")
        asked.writer.close()

    async with (
        asyncio.timeout(10),
        house(slowly, tmp_path, flags=OFF) as (_, serving, _),
        talking(serving.url) as client,
    ):
        await client.send(request(signed(), b""))
        await client.head()
        first = await anext(client.chunks())
        go_on.set()

    assert first == b"data: 1\n\n"


async def test_an_answer_in_json_is_sent_as_events_to_who_takes_nothing_else(tmp_path: Path) -> None:
    """Each text in one event, also if the answer is compressed; the run can be come back to."""
    body = gzip.compress(answer())
    script = answering(body, extra=b"content-encoding: gzip\r\n")
    async with house(script, tmp_path, flags=OFF) as (upstream, _, client):
        stream = await read(client, START, signed(**{"headgate-run": RUN}), content=b"one")
        cursor = {"last-event-id": stream.events[1]["id"]}
        again = await read(client, START, signed(**cursor), content=b"one")

    chunks = [event for event in stream.events if event["type"] == "content_chunk"]
    assert [(chunk["stage"], chunk["content"]) for chunk in chunks] == list(WHOLE.items())
    assert stream.last["metadata"]["result"] == answer().decode()
    assert stream.run == RUN
    assert again.events == stream.events[2:]
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("length", [0, 7])
async def test_json_that_breaks_off_is_no_stream(tmp_path: Path, length: int) -> None:
    """Nothing was sent yet, so it is an honest 502."""

    async def cut(asked: Asked) -> None:
        await asked.read_body()
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n")
        await asked.send(answer()[:length])
        asked.writer.close()

    async with house(cut, tmp_path, flags=OFF) as (_, _, client):
        response = await client.post(START, headers=signed())

    assert (response.status_code, response.headers["content-type"]) == (502, "application/problem+json")


@pytest.mark.parametrize("flaw", ["too long", "unreadable", "another coding"])
async def test_json_that_cannot_be_made_events_of_is_passed_on(tmp_path: Path, flaw: str) -> None:
    """The upstream's own bytes are better than none."""
    body = answer(extraction="x" * 2000) if flaw == "too long" else answer()
    coding = {"unreadable": b"gzip", "another coding": b"br"}.get(flaw, b"identity")
    script = answering(body, extra=b"content-encoding: %b\r\n" % coding)
    async with house(script, tmp_path, flags=OFF, max_answer=1024) as (upstream, serving, _):
        said = request(signed(), b"{}")
        direct, through = await ask(upstream.url, said), await ask(serving.url, said)

    assert differences(direct, through) == []
    assert through.body == body


@pytest.mark.parametrize("status", [b"404 No", b"503 Busy", b"204 None", b"302 Found"])
async def test_a_refusal_is_passed_on_to_who_takes_nothing_but_events(tmp_path: Path, status: bytes) -> None:
    """With its status, headers and bytes."""
    body = b"" if status.startswith(b"204") else b'{"detail": "no"}'
    script = answering(body, status, b"retry-after: 9\r\nlocation: /there\r\n")
    async with house(script, tmp_path, flags=OFF) as (upstream, serving, _):
        said = request(signed(), b"{}")
        direct, through = await ask(upstream.url, said), await ask(serving.url, said)

    assert through.status == direct.status
    assert through.body == direct.body
    assert through.header(b"location") == b"/there"


@pytest.mark.parametrize("script", [answering(answer()), completions], ids=["in JSON", "own stream"])
async def test_who_takes_nothing_but_events_counts_once(tmp_path: Path, script: Any) -> None:
    """It counts as a run if events were made of the answer, and as relayed if not."""
    async with house(script, tmp_path, flags=OFF) as (_, serving, client):

        async def counted() -> float:
            samples = await scrape(client, serving.admin_url)
            outcomes = {name: n for name, n in samples.items() if name.startswith("headgate_outcomes_total{")}
            assert all('outcome="complete"' in name for name, n in outcomes.items() if n)
            return sum(outcomes.values())

        await client.post(START, headers=signed("ann"))
        await client.post(START, headers=signed("bob"))

        async def both() -> bool:
            return await counted() >= 2

        await eventually(both)
        assert await counted() == 2


# An answer is the upstream's own or says it is not


NAMES = {
    "key": {"idempotency-key": "k"},
    "run": {"headgate-run": RUN},
    "both": {"idempotency-key": "k", "headgate-run": RUN},
    "odd id": {"headgate-run": "seven"},
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/csv"])
async def test_a_batch_client_of_a_native_route_gets_the_upstreams_own_answer(
    tmp_path: Path, names: str, accept: str
) -> None:
    """Not one that is put together of a stream, whatever its request names."""
    headers = signed(accept=accept, **{"accept-encoding": "gzip"}, **NAMES[names])
    async with house(completions, tmp_path, **NATIVE) as (upstream, serving, _):
        said = request(headers, b'{"q": 1}')
        direct, through = await ask(upstream.url, said), await ask(serving.url, said)

    assert differences(direct, through) == []
    assert through.body == COMPLETION


@pytest.mark.parametrize("names", ["key", "run"])
@pytest.mark.parametrize("more", [NATIVE, {"sections": NATIVE["sections"]}], ids=["native", "batch"])
async def test_a_body_that_asks_for_a_stream_gets_one(
    tmp_path: Path, names: str, more: dict[str, Any]
) -> None:
    """An SDK asks so, with `Accept: application/json`; the stream is the upstream's own."""
    headers = signed(accept="application/json", **NAMES[names])
    async with house(completions, tmp_path, **more) as (upstream, serving, _):
        said = request(headers, b'{"stream" :\n true}')
        direct, through = await ask(upstream.url, said), await ask(serving.url, said)

    assert differences(direct, through) == []
    assert through.body == b"".join(EVENTS)


async def test_a_body_that_asks_for_a_stream_joins_no_run(tmp_path: Path) -> None:
    """Nor does one that takes no JSON: a run's answer is none for them."""
    held = Held(completions)
    plain = {"sections": NATIVE["sections"], "commit_after": 0}
    async with house(held, tmp_path, **plain) as (upstream, _, client):
        async with opened(client, START, signed(accept=EITHER), content=b'{"stream":true}') as stream:
            await stream.piece()
            asking = asyncio.create_task(
                client.post(START, headers=signed(accept="*/*"), content=b'{"stream":true}')
            )
            await eventually(lambda: len(upstream.asked) == 2)
            held.release.set()
            await stream.rest()
        got = await asking

    assert got.content == b"".join(EVENTS)


async def test_a_batch_client_that_takes_no_json_joins_no_run(tmp_path: Path) -> None:
    """It asks for another answer than the run's."""
    held = Held(answering(answer()))
    async with house(held, tmp_path, commit_after=0) as (upstream, _, client):
        async with opened(client, START, signed(), content=b"1") as stream:
            await stream.piece()
            asking = asyncio.create_task(client.post(START, headers=signed(accept="text/csv"), content=b"1"))
            await eventually(lambda: len(upstream.asked) == 2)
            held.release.set()
            await stream.rest()
        await asking

    assert upstream.asked[1].header(b"accept") == b"text/csv"


async def test_a_batch_client_that_names_a_run_asks_as_it_came(tmp_path: Path) -> None:
    """The upstream chooses the answer's form by what the client accepts."""
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        headers = signed(accept="application/json; profile=x, */*;q=0.5", **NAMES["run"])
        batch = await client.post(START, headers=headers, content=b"{}")

    assert upstream.asked[0].header(b"accept") == b"application/json; profile=x, */*;q=0.5"
    assert batch.content == answer()


async def test_a_long_body_of_a_batch_client_that_names_a_run_is_relayed(tmp_path: Path) -> None:
    """No run can hold it; without Headgate it would have its answer."""
    body = bytes(MAX_REQUEST_BYTES + 1)
    async with house(answering(answer()), tmp_path) as (upstream, _, client):
        batch = await client.post(START, headers=signed(accept="*/*", **NAMES["both"]), content=body)

    assert (batch.status_code, batch.content) == (200, answer())
    assert upstream.asked[0].body == body
