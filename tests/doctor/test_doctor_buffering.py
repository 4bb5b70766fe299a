"""`headgate doctor --from`: which way to Headgate holds a stream back, cuts it, or lets none through."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from proxy.doctor.findings.diagnosis import Grade
from proxy.doctor.one_request import buffering
from proxy.doctor.one_request.buffering import HELD_BACK_S, Arrivals, judged
from proxy.doctor.one_request.real_request import RealRequest
from tests.doctor.deployments import settings_of
from tests.doctor.nginx import nginx
from tests.servers.authority import certificates
from tests.servers.client import signed
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream, ok
from tests.servers.serving import flag_document
from tests.servers.streaming import house, route

USER = list(signed(accept=None).items())
NATIVE = {
    "source": "native",
    "native": {
        "format": "sse",
        "events": [{"event": "token", "at": "$.text"}, {"event": "end", "means": "done"}],
        "answer": {"answer": "{{ text $.answer }}"},
    },
    "sections": [{"stage": "answer", "at": "$.answer"}],
    "commit_after": 0.1,
}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


async def slowly(asked: Asked) -> None:
    """Words at the beginning and at the end of a while in which an address that buffers has nothing."""
    await asked.read_body()
    await asked.send(HEAD)
    for words in ("first words ", "last words "):
        await asked.send(f"event: token\ndata: {json.dumps({'text': words})}\n\n".encode())
        await asyncio.sleep(HELD_BACK_S * 1.5)
    await asked.send(b"event: end\ndata: {}\n\n")
    asked.writer.close()


async def at_once(asked: Asked) -> None:
    await asked.read_body()
    await asked.send(HEAD + b'event: token\ndata: {"text": "words "}\n\nevent: end\ndata: {}\n\n')
    asked.writer.close()


def request_to(directory: Path) -> RealRequest:
    [of_route] = settings_of(directory, "http://127.0.0.1:9", routes=[route()]).routes
    return RealRequest(of_route, "POST", "/api/cases/7/start", USER, b"{}")


async def test_every_way_to_a_stream(tmp_path: Path) -> None:
    """One real request; a viewer of its run through each address."""

    async def of_1_0(asked: Asked) -> None:
        headers = {"authorization": (asked.header(b"authorization") or b"").decode()}
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            got = await client.get(serving.url + asked.target.decode(), headers=headers)
        await asked.send(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + got.content)
        asked.writer.close()

    async with (
        house(slowly, tmp_path, routes=[route(**NATIVE)]) as (upstream, serving, _),
        nginx(tmp_path, serving.url) as ways,
        ScriptedUpstream(of_1_0).running() as old,
    ):
        addresses = [*ways.values(), old.url, f"http://127.0.0.1:{free_port()}"]
        found = await buffering.look(
            serving.url.removeprefix("http://"), addresses, request_to(tmp_path), strict=True, wait_s=20
        )

    direct, *through = found
    by_way = dict(zip([*ways, "HTTP/1.0", "away"], through, strict=True))
    assert direct.status is Grade.OK
    assert {way: each.status for way, each in by_way.items()} == {
        "as it comes": Grade.OK,
        "buffering": Grade.WARN,
        "compressing": Grade.WARN,
        "cutting": Grade.FAIL,
        "closed": Grade.FAIL,
        "HTTP/1.0": Grade.WARN,
        "away": Grade.FAIL,
    }
    assert f"held back between {ways['as it comes']} and here (server: nginx" in by_way["buffering"].seen
    assert "gzip" in by_way["compressing"].seen
    assert "did not come" in by_way["cutting"].seen
    assert "answers 403" in by_way["closed"].seen
    assert "HTTP/1.0" in by_way["HTTP/1.0"].seen
    assert len(upstream.asked) == 1
    assert not any(value in repr(found) for name, value in USER)


async def test_a_user_without_the_flag_shows_nothing(tmp_path: Path) -> None:
    """The request gets batch, and the decision says why."""
    async with house(ok, tmp_path, flags=flag_document(0)) as (_, serving, _):
        [direct, through] = await buffering.look(
            serving.url.removeprefix("http://"), [serving.url], request_to(tmp_path), strict=True, wait_s=20
        )

    assert (direct.status, through.status) == (Grade.SKIPPED, Grade.SKIPPED)
    assert "a batch answer, with the status 200" in direct.seen


async def test_a_headgate_that_speaks_https(tmp_path: Path) -> None:
    """Its certificate is for the name that clients know, not for the address that it listens on."""
    certificates(tmp_path, host="192.0.2.1")
    files = {"cert": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.pem")}
    async with house(at_once, tmp_path, routes=[route(**NATIVE)], tls=files) as (_, serving, _):
        listen = serving.url.removeprefix("http://")
        [found] = await buffering.look(
            listen, [], request_to(tmp_path), strict=True, wait_s=20, speaks_tls=True
        )
        [plain] = await buffering.look(listen, [], request_to(tmp_path), strict=True, wait_s=20)

    assert (found.status, plain.status) == (Grade.OK, Grade.FAIL)


async def test_a_headgate_that_is_away(tmp_path: Path) -> None:
    found = await buffering.look(f"127.0.0.1:{free_port()}", [], request_to(tmp_path), strict=True, wait_s=20)

    assert [each.status for each in found] == [Grade.FAIL]


STREAM = {"content-type": "text/event-stream"}


def arrivals(*at: float, **headers: str) -> Arrivals:
    return Arrivals(200, "HTTP/1.1", STREAM | headers, {str(n): each for n, each in enumerate(at)})


@pytest.mark.parametrize(
    ("through", "grade"),
    [
        (arrivals(0.1, 1.1, 9.1), Grade.OK),
        (arrivals(9.1, 9.1, 9.1), Grade.WARN),
        (arrivals(0.1, 3.0, 9.1), Grade.WARN),
        (arrivals(0.1, 1.1), Grade.FAIL),
        (Arrivals(200, "HTTP/1.1", {"content-type": "text/html"}), Grade.FAIL),
    ],
    ids=["in time", "all at the end", "one late", "cut", "a page"],
)
def test_arrivals_are_compared_event_by_event(through: Arrivals, grade: Grade) -> None:
    """Each with its own emission."""
    assert judged(arrivals(0.0, 1.0, 9.0), {"http://a": through})[1].status is grade


def test_a_stream_that_is_too_short_tells_nothing() -> None:
    """It fits into every buffer's patience."""
    assert judged(arrivals(0.0, 0.1), {"http://a": arrivals(0.2, 0.2)})[1].status is Grade.SKIPPED
