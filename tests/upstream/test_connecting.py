"""The upstream client through a proxy: tunnels, whole addresses, and proxies that let nobody through."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flags.egress import ProxyServer, parse_proxy
from proxy.errors import UpstreamError, UpstreamUnreachable
from proxy.upstream.client import Request, Upstream
from proxy.upstream.connecting import absolute
from proxy.upstream.pool import Origin
from proxy.upstream.timeouts import Timeouts
from tests.servers.authority import certificates
from tests.servers.corporate_proxy import CorporateProxy
from tests.servers.ports import free_port
from tests.servers.scripted import ScriptedUpstream, ok, until

GET = Request("GET", b"/a?b=c", [(b"host", b"a")])
POST = Request("POST", b"/", [(b"host", b"a")], b"{}")
PATIENT = Timeouts(connect_s=30)


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def pooled(
    directory: Path,
    proxy: CorporateProxy,
    *,
    origin_tls: bool = True,
    proxy_tls: bool = False,
    user: str = "",
    timeouts: Timeouts = PATIENT,
) -> AsyncIterator[tuple[Upstream, ScriptedUpstream]]:
    """A pool to `origin.test`, which this proxy alone finds."""
    ca_file, served = certificates(directory, names=["origin.test"])
    trusted = ssl.create_default_context(cafile=ca_file)
    proxy.tls = served if proxy_tls else None
    port = 443 if origin_tls else 80
    async with ScriptedUpstream(ok, tls=served if origin_tls else None).running() as origin, proxy.running():
        proxy.places = {f"origin.test:{port}": origin.port}
        via = parse_proxy(proxy.url, lambda: trusted, username=user, password="word")
        pool = Upstream(
            Origin("origin.test", port, trusted if origin_tls else None, timeouts=timeouts, via=via)
        )
        try:
            yield pool, origin
        finally:
            await pool.aclose()


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
async def test_a_tunnel_carries_tls_from_end_to_end(tmp_path: Path, proxy_tls: bool) -> None:
    """The proxy sees an address, and the origin neither the proxy's credentials nor a changed request."""
    proxy = CorporateProxy(credential="house:word")
    async with pooled(tmp_path, proxy, proxy_tls=proxy_tls, user="house") as (pool, origin):
        answers = [await pool.fetch(each, max_bytes=1000) for each in (GET, POST, GET)]
        repr_of_pool = repr(pool)

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert proxy.asked == ["CONNECT origin.test:443"]  # and it was kept
    assert [asked.target for asked in origin.asked] == [b"/a?b=c", b"/", b"/a?b=c"]
    assert not any(asked.header(b"proxy-authorization") for asked in origin.asked)
    assert repr_of_pool == "<Upstream 0 in use, 1 idle>"


async def test_plain_http_is_asked_for_by_its_whole_address(tmp_path: Path) -> None:
    """Most proxies make tunnels to port 443 alone."""
    proxy = CorporateProxy(credential="house:word")
    async with pooled(tmp_path, proxy, origin_tls=False, user="house") as (pool, origin):
        answers = [await pool.fetch(each, max_bytes=1000) for each in (GET, POST, POST)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert proxy.asked == [
        "GET http://origin.test/a?b=c",
        "POST http://origin.test/",
        "POST http://origin.test/",
    ]
    assert [asked.target for asked in origin.asked] == [b"/a?b=c", b"/", b"/"]
    assert [asked.body for asked in origin.asked] == [b"", b"{}", b"{}"]


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        (b"GET /a?b HTTP/1.1", b"GET http://o:81/a?b HTTP/1.1"),
        (b"OPTIONS * HTTP/1.1", b"OPTIONS http://o:81 HTTP/1.1"),
        (b"GET http://other/ HTTP/1.1", b"GET http://other/ HTTP/1.1"),
    ],
)
def test_the_whole_address_of_each_kind_of_target(line: bytes, whole: bytes) -> None:
    """RFC 9112 3.2: the rest of the request stays as it is, body and all."""
    rest = b"\r\nhost: a\r\n\r\nGET /not-a-head HTTP/1.1\r\n"

    assert absolute(line + rest, b"o:81", ProxyServer("p", 1)) == whole + rest
    with_credential = absolute(line + rest, b"o:81", ProxyServer("p", 1, "Basic eA=="))
    assert with_credential == whole + b"\r\nProxy-Authorization: Basic eA==" + rest


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        (CorporateProxy(credential="house:word"), "CONNECT is answered with 407"),
        (CorporateProxy(status=b"403 Forbidden, secret"), "CONNECT is answered with 403"),
        (CorporateProxy(status=b"302 Found\r\nlocation: http://login.test"), "CONNECT is answered with 302"),
        (CorporateProxy(mood="dead"), "no HTTP answer to CONNECT"),
        (CorporateProxy(mood="babbling"), "no HTTP answer to CONNECT"),
        (CorporateProxy(mood="silent"), "TimeoutError"),
        (CorporateProxy(mood="slow-spoken"), "TimeoutError"),
    ],
    ids=["credentials", "forbidden", "login", "dead", "babbling", "silent", "slow"],
)
async def test_a_proxy_that_makes_no_tunnel_is_named(
    tmp_path: Path, proxy: CorporateProxy, said: str
) -> None:
    """Within `connect_s`, before a byte of the request has been sent; nothing stays open."""
    timeouts = Timeouts(connect_s=0.3) if said == "TimeoutError" else PATIENT
    proxy.asked.clear()
    async with pooled(tmp_path, proxy, timeouts=timeouts) as (pool, origin):
        with pytest.raises(UpstreamUnreachable) as caught:
            await pool.fetch(POST, max_bytes=1000)
        await until(lambda: not proxy.open, within_s=30)

        assert str(caught.value) == f"{said}, through the proxy 127.0.0.1:{proxy.port}"
        assert (origin.connections, pool.in_use) == (0, 0)


async def test_a_proxy_that_is_away_is_named(tmp_path: Path) -> None:
    """Not the origin, which may be there."""
    via = ProxyServer("127.0.0.1", free_port())
    for tls in (None, ssl.create_default_context()):
        pool = Upstream(Origin("origin.test", 80, tls, via=via))
        with pytest.raises(UpstreamUnreachable, match=f"RefusedError, through the proxy {via}"):
            await pool.fetch(GET, max_bytes=1000)


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["of the origin", "of the proxy"])
async def test_a_certificate_is_verified_behind_a_proxy_too(tmp_path: Path, proxy_tls: bool) -> None:
    """The origin's, by its own name; and that of a proxy with TLS."""
    proxy = CorporateProxy()
    async with pooled(tmp_path, proxy, proxy_tls=proxy_tls) as (pool, origin):
        strangers = ssl.create_default_context()
        via = ProxyServer("127.0.0.1", proxy.port, tls=strangers if proxy_tls else None)
        tls = pool.origin.tls if proxy_tls else strangers
        with pytest.raises(UpstreamUnreachable, match="certificate"):
            await Upstream(Origin("origin.test", 443, tls, timeouts=PATIENT, via=via)).fetch(
                GET, max_bytes=1000
            )

        assert origin.asked == []


async def test_a_proxy_that_refuses_plain_http_answers_nobody(tmp_path: Path) -> None:
    """Its 407 is for this house. A browser that got it would ask its user for the proxy's password."""
    proxy = CorporateProxy(credential="house:word")
    async with pooled(tmp_path, proxy, origin_tls=False) as (pool, _):
        with pytest.raises(UpstreamUnreachable, match=f"the proxy 127.0.0.1:{proxy.port} answers 407"):
            await pool.fetch(POST, max_bytes=1000)


async def test_who_gives_up_leaves_no_tunnel(tmp_path: Path) -> None:
    """A request that is cancelled while the proxy thinks, as when its client has left."""
    proxy = CorporateProxy(mood="silent")
    async with pooled(tmp_path, proxy) as (pool, _):
        asking = asyncio.create_task(pool.fetch(POST, max_bytes=1000))
        await until(lambda: bool(proxy.asked), within_s=30)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not proxy.open, within_s=30)

        assert pool.in_use == 0


@pytest.mark.skipif(shutil.which("tinyproxy") is None, reason="tinyproxy is not installed")
async def test_a_real_proxy_with_credentials(tmp_path: Path) -> None:
    """Tinyproxy, which asks a second proxy: by CONNECT, and for plain HTTP; and without the password not at
    all."""
    port = free_port()
    parent = CorporateProxy()
    for origin_tls in (True, False):
        async with pooled(tmp_path, parent, origin_tls=origin_tls) as (behind, origin):
            config = tmp_path / "tinyproxy.conf"
            config.write_text(
                f"Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth house word\nConnectPort 443\n"
                f'Upstream http 127.0.0.1:{parent.port}\nLogFile "{tmp_path}/tinyproxy.log"\n'
            )
            with subprocess.Popen(["tinyproxy", "-d", "-c", config]) as tinyproxy:  # noqa: ASYNC220
                try:
                    statuses = []
                    for user in ("house:word@", ""):
                        via = parse_proxy(f"http://{user}127.0.0.1:{port}", ssl.create_default_context)
                        to = Origin(
                            "origin.test", behind.origin.port, behind.origin.tls, timeouts=PATIENT, via=via
                        )
                        statuses.append(await _asked_when_up(Upstream(to)))
                finally:
                    tinyproxy.terminate()

            assert statuses == ["200", "407"]
            assert len(origin.asked) == 1


async def _asked_when_up(pool: Upstream) -> str:
    """The status, or the proxy's, once it listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                answer = await pool.fetch(GET, max_bytes=1000)
            except UpstreamError as exc:
                if "Refused" not in str(exc):
                    return str(exc).partition(",")[0][-3:]
                await asyncio.sleep(0.02)
            else:
                return str(answer.status)
            finally:
                await pool.aclose()
