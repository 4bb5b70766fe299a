"""Requests of a route: what of them the upstream sees, and which are refused."""

import asyncio
from pathlib import Path

import pytest

from proxy.downstream.bodies import MAX_REQUEST_BYTES
from tests.servers.client import SSE, eventually, read, scrape, signed
from tests.servers.scripted import ask, talking
from tests.servers.serving import flag_document
from tests.servers.streaming import START, WHOLE, answer, answering, house

STREAM_PATH = f"{START}/stream"


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
    """Headers about the request go on; those about the stream or the connection do not."""
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
    """The flag plays no part: the upstream is asked for it, and its refusal is passed on."""
    bearer = signed()["authorization"].encode()
    head = b"POST %b HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: %b\r\n%b\r\n\r\n"
    upgrade = b"connection: upgrade\r\nupgrade: websocket"
    flags = flag_document(100 if may_stream else 0)
    async with house(answering(b"{}", b"426 Oh"), tmp_path, flags=flags) as (upstream, serving, _):
        refused = await ask(serving.url, head % (START.encode(), bearer, upgrade))

    assert (refused.status, refused.body) == (426, b"{}")
    assert upstream.asked[0].header(b"upgrade") == b"websocket"
    assert upstream.asked[0].header(b"accept") == b"text/event-stream"
