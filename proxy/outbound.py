"""The servers that Headgate sends requests to, as the settings describe them."""

import os
import ssl
from dataclasses import replace
from urllib.parse import urlsplit

from flags.egress import STRAIGHT, Egress
from flags.tls import trusting
from proxy.http.headers import Forwarding
from proxy.settings.blocks.identity import IdentitySettings
from proxy.settings.blocks.upstream import ProviderSettings, UpstreamSettings
from proxy.settings.blocks.values import unix_path
from proxy.settings.settings import Settings
from proxy.upstream.pool import Origin
from proxy.upstream.timeouts import Timeouts


def egress(settings: Settings) -> Egress:
    """The ways to others' servers, as the settings and this process's environment have them."""
    return settings.proxy.way(os.environ, strict=settings.tls.strict)


def origin(
    settings: UpstreamSettings | ProviderSettings, *, strict_tls: bool, ways: Egress = STRAIGHT
) -> Origin:
    """The upstream's or a provider's address, TLS, timeouts and pool, and the proxy on the way there."""
    bounds = settings.timeouts.model_dump()
    bounds["first_byte_s"] = bounds["first_byte_s"] or bounds["total_s"]  # waiting in its queue is no failure
    pool = settings.pool.model_dump()
    path = unix_path(settings.url)
    if path is not None:
        return Origin("localhost", 80, None, Timeouts(**bounds), **pool, path=path)
    url = urlsplit(settings.url)
    tls: ssl.SSLContext | None = None
    if url.scheme == "https":
        tls = trusting(settings.tls.ca_file, strict=strict_tls)
        tls.set_alpn_protocols(["http/1.1"])
        if not settings.tls.verify:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        if settings.tls.cert is not None:
            tls.load_cert_chain(settings.tls.cert, settings.tls.key, password="")
    assert url.hostname is not None
    return Origin(
        url.hostname,
        url.port or (443 if tls else 80),
        tls,
        Timeouts(**bounds),
        **pool,
        via=ways.proxy_for(settings.url),
    )


def upstream_origin(settings: Settings) -> Origin:
    """The upstream's, which is behind the proxy only if the settings say so."""
    ways = egress(settings) if settings.proxy.upstream else STRAIGHT
    return origin(settings.upstream, strict_tls=settings.tls.strict, ways=ways)


def behind(settings: Settings) -> dict[str, list[str]]:
    """The settings of the servers behind each proxy, by its `HOST:PORT`."""
    ways, found = egress(settings), dict[str, list[str]]()
    servers = {"upstream": settings.upstream.url} if settings.proxy.upstream else {}
    if settings.flags.unleash is not None:
        servers["flags.unleash"] = settings.flags.unleash.url
    if settings.identity.jwt is not None and settings.identity.jwt.jwks_url is not None:
        servers["identity.jwt.jwks_url"] = settings.identity.jwt.jwks_url
    if settings.traces is not None:
        servers["traces"] = settings.traces.endpoint
    for index, provider in enumerate(settings.llm.providers if settings.llm else ()):
        servers[f"llm.providers[{index}]"] = provider.url
    for name, url in servers.items():
        if (proxy := ways.proxy_for(url)) is not None:
            found.setdefault(str(proxy), []).append(name)
    return found


def within(to: Origin, most: int) -> Origin:
    """A pool of the same origin with at most `most` connections, idle ones included."""
    idle = min(to.max_idle, most // 4)
    return replace(to, max_connections=min(to.max_connections, max(1, most - idle)), max_idle=idle)


def forwarding(settings: UpstreamSettings, identity: IdentitySettings, to: Origin) -> Forwarding:
    """Return the changes to a request's headers on the way to the upstream."""
    chosen = settings.forwarding
    upstream_host = to.authority if chosen.host == "upstream" else None
    return Forwarding(
        chosen.x_forwarded, chosen.forwarded, chosen.via, upstream_host, identity.set_by_proxies
    )
