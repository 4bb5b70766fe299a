"""Each server is reached through the proxy that is set for it; and an Unleash behind one."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flags.egress import Egress, Spared, from_environment, named, parse_proxy, proxy_address
from flags.errors import FlagServerError
from flags.sources.unleash import UnleashFlags, UnleashServer
from tests.servers.authority import certificates
from tests.servers.corporate_proxy import CorporateProxy
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import STREAMING, flag_document


def tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def ways(**variables: str) -> Egress:
    return from_environment(variables, tls)


def through(egress: Egress, url: str) -> str:
    return str(egress.proxy_for(url) or "straight")


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "https://api.test", "straight"),
        ({"HTTPS_PROXY": "http://corp:3128"}, "https://api.test", "corp:3128"),
        ({"HTTPS_PROXY": "http://corp:3128"}, "http://api.test", "straight"),
        ({"HTTP_PROXY": "http://corp:3128"}, "http://api.test", "corp:3128"),
        ({"HTTP_PROXY": "http://corp:3128"}, "https://api.test", "straight"),
        ({"ALL_PROXY": "corp:3128"}, "https://api.test", "corp:3128"),
        ({"ALL_PROXY": "corp:3128", "HTTPS_PROXY": "other:1"}, "https://api.test", "other:1"),
        ({"https_proxy": "small:1", "HTTPS_PROXY": "capital:2"}, "https://api.test", "small:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "capital:2"}, "https://api.test", "straight"),
        ({"HTTPS_PROXY": "http://corp"}, "https://api.test", "corp:80"),
        ({"HTTPS_PROXY": "https://corp"}, "https://api.test", "corp:443"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, "https://api.test", "[fd00::1]:3128"),
        ({"HTTPS_PROXY": "http://corp:3128"}, "https://localhost:8443", "straight"),
        ({"HTTPS_PROXY": "http://corp:3128"}, "https://unleash.localhost", "straight"),
        ({"HTTPS_PROXY": "http://corp:3128"}, "https://127.8.9.1", "straight"),
        ({"HTTPS_PROXY": "http://corp:3128"}, "https://[::1]:1", "straight"),
        ({"HTTPS_PROXY": "http://corp:3128"}, "https://[::ffff:127.0.0.1]", "straight"),
        ({"HTTPS_PROXY": "http://corp:3128", "NO_PROXY": "*"}, "https://api.test", "straight"),
    ],
)
def test_the_environment_names_the_proxy(variables: dict[str, str], url: str, proxy: str) -> None:
    """The environment is read as curl and requests read it; loopback is always reached straight."""
    assert through(ways(**variables), url) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "spared", "not_spared"),
    [
        (
            "example.org",
            ["example.org", "a.b.example.org", "EXAMPLE.org.", "example.org:8443"],
            ["badexample.org"],
        ),
        (".example.org", ["example.org", "a.example.org"], ["badexample.org"]),
        ("*.example.org", ["a.example.org"], ["badexample.org"]),
        ("example.org:8443", ["example.org:8443", "a.example.org:8443"], ["example.org", "example.org:84"]),
        ("10.0.0.0/8", ["10.1.2.3", "10.1.2.3:99"], ["11.1.2.3", "10.example.org"]),
        ("10.1.2.3", ["10.1.2.3"], ["10.1.2.30", "1.10.1.2.3"]),
        ("10.1.2.3:99", ["10.1.2.3:99"], ["10.1.2.3"]),
        ("fd00::/8", ["[fd12::1]"], ["[fe80::1]"]),
        ("[fd12::1]:99", ["[fd12::1]:99"], ["[fd12::1]"]),
        ("fd12::1", ["[fd12::1]", "[fd12:0::1]:99"], ["[fd12::2]"]),
        ("10.0.0.0/8", ["[::ffff:10.1.2.3]"], []),
        ("svc, .cluster.local  .test", ["a.svc", "b.cluster.local", "c.test"], ["a.svc.org"]),
        ("10.0.0.0/99,:,http://a.test,b.test", ["b.test"], ["a.test"]),
        ("", [], ["example.org"]),
    ],
)
def test_no_proxy_names_servers_that_are_reached_straight(
    no_proxy: str, spared: list[str], not_spared: list[str]
) -> None:
    """By name with all below it, address, network and port. Other entries mean no server."""
    egress = ways(HTTPS_PROXY="http://corp:3128", NO_PROXY=no_proxy)

    assert {through(egress, f"https://{host}/path") for host in spared} <= {"straight"}
    assert {through(egress, f"https://{host}/path") for host in not_spared} <= {"corp:3128"}


@pytest.mark.parametrize("entry", ["", "10.0.0.0/99", "a b", "http://a.test", "a..b", "*x*"])
def test_settings_refuse_what_names_no_server(entry: str) -> None:
    with pytest.raises(ValueError, match=r"must be|does not|Expected"):
        Spared.parse(entry)


def test_credentials_stand_in_no_word() -> None:
    """Neither in what a proxy looks like, nor in an error; they may have any character."""
    secret = "p%20w%3A%40x"
    proxy = parse_proxy(f"http://ann:{secret}@corp:3128", tls)
    by_settings = named("http://corp:3128", tls, username="ann", password="p w:@x")

    assert by_settings.proxy_for("https://api.test") == proxy
    assert "ann" not in f"{proxy} {proxy!r} {by_settings!r} {proxy.for_httpx()!r}"
    for wrong in ("socks5://ann:hidden@corp", "http://ann:hidden@corp:x", "http://ann:hidden@", "http://"):
        with pytest.raises(ValueError, match="HTTP proxy") as caught:
            from_environment({"https_proxy": wrong}, tls)
        assert "https_proxy" in str(caught.value)
        assert "hidden" not in str(caught.value)
    with pytest.raises(ValueError, match="credentials"):
        proxy_address("http://ann:hidden@corp:3128")


# Unleash.


async def serves_flags(asked: Asked) -> None:
    await asked.read_body()
    await asked.answer(json.dumps(flag_document()).encode(), b"200 OK")


@asynccontextmanager
async def unleash_behind(
    directory: Path, proxy: CorporateProxy, *, is_secure: bool = False, credential: str = ""
) -> AsyncIterator[UnleashServer]:
    """An Unleash that only this proxy finds, with a certificate of a private authority, as the proxy."""
    ca_file, context = certificates(directory, names=["unleash.test"])
    proxy.tls = context if is_secure else None
    async with ScriptedUpstream(serves_flags, tls=context).running() as server, proxy.running():
        proxy.places = {"unleash.test:443": server.port}
        address = proxy.url.replace("://", f"://{credential}@") if credential else proxy.url
        way = from_environment({"HTTPS_PROXY": address}, lambda: ssl.create_default_context(cafile=ca_file))
        yield UnleashServer("https://unleash.test", "a token", ca_file=ca_file, ways=way, timeout_s=30)


@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
async def test_flags_come_through_a_proxy(tmp_path: Path, is_secure: bool) -> None:
    """By CONNECT, with the credentials of the proxy's address; the proxy may have a certificate, too."""
    proxy = CorporateProxy(credential="ann:p w")
    async with (
        unleash_behind(tmp_path, proxy, is_secure=is_secure, credential="ann:p%20w") as server,
        UnleashFlags(server, frozenset({STREAMING})) as flags,
    ):
        assert flags.problem is None
        assert flags.evaluate(STREAMING, {"userId": "ann"}).enabled
        assert set(proxy.asked) == {"CONNECT unleash.test:443"}


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        (CorporateProxy(credential="ann:right"), "the proxy answers 407"),
        (CorporateProxy(status=b"403 secret words"), "the proxy answers 403"),
        (CorporateProxy(mood="silent"), "did not answer within 0.3 s through the proxy"),
        (CorporateProxy(mood="slow-spoken"), "did not answer within 0.3 s through the proxy"),
        (CorporateProxy(mood="dead"), "broke off"),
    ],
    ids=["credentials", "forbidden", "silent", "slow", "dead"],
)
async def test_a_proxy_that_lets_nobody_through_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, proxy: CorporateProxy, said: str
) -> None:
    """Within `timeout_s`, without its words and without the credentials."""
    async with unleash_behind(tmp_path, proxy, credential="house:wrong") as server:
        server = replace(server, timeout_s=0.3 if "0.3" in said else 30)
        with pytest.raises(FlagServerError) as caught:
            await UnleashFlags(server, frozenset({STREAMING})).verify()

    assert said in caught.value.problem
    for secret in ("wrong", "house", "secret words", "a token"):
        assert secret not in f"{caught.value} {caplog.text}"


async def test_a_proxy_that_is_away_is_named(tmp_path: Path) -> None:
    """It, and not Unleash, is what cannot be reached."""
    proxy = CorporateProxy()
    async with unleash_behind(tmp_path, proxy) as server:
        pass
    with pytest.raises(FlagServerError, match=f"through the proxy 127.0.0.1:{proxy.port}"):
        await UnleashFlags(server, frozenset({STREAMING})).verify()
