"""Trusted proxies over the wire: what the upstream is told, and whom a request counts for, on every way."""

import asyncio
from pathlib import Path

from tests.servers.client import eventually
from tests.servers.scripted import Asked, ScriptedUpstream, talking
from tests.servers.serving import Serving, gated, headgate, token
from tests.servers.streaming import Held, answer, answering, route

PROXY, STRANGER = "127.0.0.1", "127.0.0.2"
SAID = (
    b"x-forwarded-for: 6.6.6.6, 1.1.1.1\r\nx-forwarded-proto: https\r\nx-forwarded-host: a.example\r\n"
    b"x-forwarded-port: 443\r\nforwarded: for=9.9.9.9\r\nx-real-ip: 8.8.8.8\r\n"
)
BELIEVED = {
    b"x-forwarded-for": b"1.1.1.1, 127.0.0.1",
    b"x-forwarded-proto": b"https",
    b"x-forwarded-host": b"a.example",
    b"x-forwarded-port": b"443",
    b"forwarded": b'for=1.1.1.1;host="a.example";proto=https',
    b"x-real-ip": b"1.1.1.1",
}
OWN = {
    b"x-forwarded-for": b"127.0.0.2",
    b"x-forwarded-proto": b"http",
    b"x-forwarded-host": b"headgate.example",
    b"x-forwarded-port": None,
    b"forwarded": None,
    b"x-real-ip": None,
}


def request(method: bytes, target: bytes, more: bytes = b"") -> bytes:
    body = b"{}" if method == b"POST" else b""
    head = b"%b %b HTTP/1.1\r\nhost: headgate.example\r\ncontent-length: %d\r\n%b%b\r\n%b"
    return head % (method, target, len(body), SAID, more, body)


AUTHORIZED = b"authorization: Bearer " + token().encode() + b"\r\n"
WAYS = {
    "relayed": request(b"GET", b"/x"),
    "by ASGI": request(b"POST", b"/api/cases/7/start"),
    "a run": request(b"POST", b"/api/cases/7/start", b"accept: text/event-stream\r\n" + AUTHORIZED),
    "an upgrade": request(b"GET", b"/x", b"connection: upgrade\r\nupgrade: websocket\r\n"),
    "listed in Connection": request(b"GET", b"/x", b"connection: close, x-forwarded-for, forwarded\r\n"),
}


async def told(gate: Serving, upstream: ScriptedUpstream, sent: bytes, peer: str) -> Asked:
    """What the upstream is asked."""
    upstream.asked.clear()
    async with talking(gate.url, from_host=peer, within_s=30) as client:
        answered = await client.ask(sent)
    assert answered.status == 200
    (asked,) = upstream.asked
    return asked


async def test_a_trusted_proxy_is_believed_and_a_stranger_is_not_on_every_way(tmp_path: Path) -> None:
    """The relay, the relay by ASGI, a run's call and an upgrade tell the upstream the same."""
    async with gated(answering(answer()), tmp_path, routes=[route()], trusted_proxies=[PROXY]) as (
        upstream,
        gate,
    ):
        for way, sent in WAYS.items():
            for peer, expected in ((PROXY, BELIEVED), (STRANGER, OWN)):
                asked = await told(gate, upstream, sent, peer)
                assert {name: asked.header(name) for name in expected} == expected, (way, peer)


async def test_a_stranger_cannot_be_many_and_fills_no_others_share(tmp_path: Path) -> None:
    """Of whom a trusted proxy names, the share is kept; a stranger that names others has its own."""
    held = Held(answering(answer()))
    limits = {"connections": 100, "connections_of_client": 2}
    named = b"GET /x HTTP/1.1\r\nhost: x\r\nx-forwarded-for: %b\r\n\r\n"
    async with (
        gated(held, tmp_path, limits=limits, trusted_proxies=[PROXY]) as (_, gate),
        talking(gate.url, from_host=STRANGER) as first,
        talking(gate.url, from_host=STRANGER) as second,
        talking(gate.url, from_host=PROXY) as by_proxy,
        asyncio.timeout(30),
    ):
        await first.send(named % b"1.1.1.1")
        await second.send(named % b"2.2.2.2")
        await by_proxy.send(named % b"127.0.0.2, 3.3.3.3")
        counted = gate.app.connections._of_client
        await eventually(lambda: counted == {STRANGER: 2, "3.3.3.3": 1})
        async with talking(gate.url, from_host=STRANGER) as third:
            assert (await third.answer()).status == 503
        held.release.set()
        assert [(await client.answer()).status for client in (first, second, by_proxy)] == [200] * 3


ASKING = b"accept: text/event-stream\r\nx-user-id: ann\r\nx-tenant: north\r\n"
BY_PROXY = {"jwt": None, "header": "X-User-Id", "tenant": {"header": "X-Tenant"}}


async def test_who_the_user_is_is_believed_from_a_trusted_proxy_alone(tmp_path: Path) -> None:
    """A stranger gets batch by its own word, sees no run of the user that it names, and gets no ticket. The
    upstream gets its headers as they came; so does everybody's, where no proxy is named."""
    upstream = ScriptedUpstream(answering(answer()))
    async with (
        upstream.running(),
        headgate(
            upstream.url, tmp_path, routes=[route()], identity=BY_PROXY, trusted_proxies=[PROXY]
        ) as gate,
        headgate(upstream.url, tmp_path, routes=[route()], identity=BY_PROXY) as believing,
    ):
        start = request(b"POST", b"/api/cases/7/start", ASKING)
        ways = {"proxy": (gate, PROXY), "stranger": (gate, STRANGER), "anybody": (believing, STRANGER)}
        decided, seen = {}, {}
        for way, (to, peer) in ways.items():
            async with talking(to.url, from_host=peer, within_s=30) as client:
                answered = await client.ask(start)
            decided[way] = answered.header(b"headgate-decision")
            assert upstream.asked[-1].header(b"x-user-id") == b"ann"
            assert upstream.asked[-1].header(b"x-tenant") == b"north"
            run = answered.header(b"headgate-run") or b""
            for target in (b"GET /_headgate/runs/%b" % run, b"POST /_headgate/tickets"):
                method, _, path = target.partition(b" ")
                async with talking(to.url, from_host=peer, within_s=30) as client:
                    seen[way, method] = (await client.ask(request(method, path, ASKING))).status

    assert {way: bool(value and value.startswith(b"stream")) for way, value in decided.items()} == {
        "proxy": True,
        "stranger": False,
        "anybody": True,
    }
    assert decided["stranger"] is not None and b"no_identity" in decided["stranger"]
    assert seen["proxy", b"GET"] == seen["anybody", b"GET"] == 200
    assert seen["stranger", b"POST"] == 401
    assert seen["proxy", b"POST"] == 400  # known, and its body names no run
