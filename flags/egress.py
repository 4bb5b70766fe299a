"""The way out: straight to a server, or through a proxy that the settings or the environment name.

The environment counts as curl and requests read it: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`,
in small letters first. Loopback is never asked through a proxy: there it would be the proxy's own machine.
"""

import ipaddress
import re
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import httpx

PORTS = {"http": 80, "https": 443}

MAX_SHOWN_CHARS = 3
"""Of a proxy's refusal only the status is told: the rest is somebody else's text."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """A forward proxy, and how it is asked."""

    host: str
    port: int
    credential: str = field(default="", repr=False)
    """The value of `Proxy-Authorization`; "" for none."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """The TLS of a proxy that is itself reached by `https`."""

    def __str__(self) -> str:
        return _authority(self.host, self.port)

    def for_httpx(self) -> "httpx.Proxy":
        """The same for httpx."""
        import httpx  # whoever asks has loaded it

        headers = {"proxy-authorization": self.credential} if self.credential else None
        scheme = "http" if self.tls is None else "https"
        return httpx.Proxy(f"{scheme}://{self}", headers=headers, ssl_context=self.tls)


@dataclass(frozen=True, slots=True)
class Spared:
    """One entry of `NO_PROXY`: the servers that are reached straight."""

    name: str = ""
    """A host and all below it; "" for every host."""
    network: _Network | None = None
    """Instead of a name. Hosts that are named are not looked up for it."""
    port: int | None = None
    """None: every port."""

    @classmethod
    def parse(cls, entry: str) -> "Spared":
        """`*`, a name (with or without a dot before it), an address or a network; all but the last with a
        port or without. Raises ValueError for what can be none of these."""
        text = entry.strip().lower()
        if text == "*":
            return cls()
        if "/" in text:
            return cls(network=ipaddress.ip_network(text, strict=False))
        host, port = _split_port(text)
        try:
            return cls(network=ipaddress.ip_network(host), port=port)
        except ValueError:
            name = host.removeprefix("*").removeprefix(".").removesuffix(".")
        if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
            raise ValueError("must be *, a name, an address or a network, for example .example.org")
        return cls(name, port=port)

    def has(self, host: str, port: int) -> bool:
        """True if the entry means this host, which is in small letters, without brackets and last dot."""
        if self.port not in {None, port}:
            return False
        if self.network is None:
            return not self.name or host == self.name or host.endswith(f".{self.name}")
        address = _address(host)
        return address is not None and address in self.network


@dataclass(frozen=True, slots=True)
class Egress:
    """The way to each server: straight, or through a proxy."""

    http: ProxyServer | None = None
    """The proxy for servers of `http`; None: straight."""
    https: ProxyServer | None = None
    spared: tuple[Spared, ...] = ()

    def proxy_for(self, url: str) -> ProxyServer | None:
        """The proxy on the way to a server; None: straight."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        host = (parts.hostname or "").removesuffix(".")
        if proxy is None or _is_loopback(host):
            return None
        port = parts.port or PORTS.get(parts.scheme, 0)
        return None if any(each.has(host, port) for each in self.spared) else proxy

    def for_httpx(self, url: str) -> "httpx.Proxy | None":
        """The same for httpx. Give its client `trust_env=False`, too: it reads `NO_PROXY` otherwise."""
        proxy = self.proxy_for(url)
        return None if proxy is None else proxy.for_httpx()

    def through(self, url: str) -> str:
        """The proxy on that way, for a message that ends in it; "" without one."""
        proxy = self.proxy_for(url)
        return "" if proxy is None else f" through the proxy {proxy}"


STRAIGHT = Egress()
"""No proxy on any way."""

TlsOfProxy = Callable[[], ssl.SSLContext]


def named(
    url: str, tls: TlsOfProxy, *, username: str = "", password: str = "", no_proxy: Iterable[str] = ()
) -> Egress:
    """One proxy for all servers but the spared ones. Raises ValueError."""
    proxy = parse_proxy(url, tls, username=username, password=password)
    return Egress(proxy, proxy, tuple(map(Spared.parse, no_proxy)))


def from_environment(
    environment: Mapping[str, str], tls: TlsOfProxy, *, no_proxy: Iterable[str] = ()
) -> Egress:
    """The proxies that the environment names, and those that it spares, with `no_proxy` besides.

    Raises ValueError, with the variable's name and without its value.
    """
    every = _read(environment, "ALL_PROXY")
    found: dict[str, ProxyServer | None] = {}
    for scheme in ("http", "https"):
        name, value = _read(environment, f"{scheme.upper()}_PROXY")
        if not value:
            name, value = every
        try:
            found[scheme] = parse_proxy(value, tls) if value else None
        except ValueError as exc:
            raise ValueError(f"{name} of the environment {exc}") from None
    spared = [*map(Spared.parse, no_proxy), *_spared(_read(environment, "NO_PROXY")[1])]
    return Egress(found["http"], found["https"], tuple(spared))


def parse_proxy(url: str, tls: TlsOfProxy, *, username: str = "", password: str = "") -> ProxyServer:
    """A proxy by its address; without a scheme it is one of `http`. Raises ValueError without the address."""
    wrong = "must be http://HOST:PORT or https://HOST:PORT, the address of an HTTP proxy"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may hold the password
        raise ValueError(wrong) from None
    if parts.scheme not in PORTS or not host or port == 0 or parts.path.strip("/") or parts.query:
        raise ValueError(wrong)
    username = username or unquote(parts.username or "")
    password = password or unquote(parts.password or "")
    credential = "Basic " + b64encode(f"{username}:{password}".encode()).decode() if username else ""
    return ProxyServer(
        host, port or PORTS[parts.scheme], credential, tls() if parts.scheme == "https" else None
    )


def proxy_address(url: str) -> str:
    """The address of a proxy as settings have it. Raises ValueError."""
    parse_proxy(url, ssl.create_default_context)
    if "@" in url:
        raise ValueError("must not carry credentials: they have settings of their own")
    return url


def is_refusal(exc: BaseException) -> bool:
    """True for httpx's error of a proxy that refuses. There is none where httpx was never loaded."""
    httpx = sys.modules.get("httpx")
    return httpx is not None and isinstance(exc, httpx.ProxyError)


def refusal(exc: BaseException) -> str:
    """Return the words for a proxy's refusal: its status, if it has one."""
    status = str(exc)[:MAX_SHOWN_CHARS]
    return f"the proxy answers {status}" if status.isdecimal() else "the proxy refuses"


def _spared(value: str) -> Iterable[Spared]:
    """The entries that can be read. Nobody can be asked about the others, and no server is meant by them."""
    for entry in re.split(r"[,\s]+", value):
        try:
            yield Spared.parse(entry)
        except ValueError:
            continue


def _read(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """A variable's name and value, in small letters if it is set so."""
    for each in (name.lower(), name):
        if each in environment:
            return each, environment[each].strip()
    return name, ""


def _split_port(text: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"\[([0-9a-f:.]+)\](?::([0-9]{1,5}))?|([^:]+):([0-9]{1,5})", text)
    if found is None:
        return text, None
    host, port = found[1] or found[3], found[2] or found[4]
    return host, int(port) if port else None


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)
