"""Who a request comes from, where proxies in front say so: one rule for `X-Forwarded-…`, `Forwarded`. Pure.

What a proxy says is believed as far as the chain of trusted proxies reaches, seen from here: each of them has
written whom it was asked by. What stands before is what a stranger says of itself, and goes no further.

`proxy/serving.py` chooses the rule in force. Source: RFC 7239 (`Forwarded`); `X-Forwarded-…` has none.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Final, TypeVar

from proxy.http.headers import Headers, head_bytes
from proxy.http.request_rules import is_host

UNIX: Final = "unix"
"""The peer of a Unix socket, which has no address."""

MAX_HOPS: Final = 32
"""Proxies in front that are looked at, the nearest first."""

MAX_COMMAS: Final = 8
"""Commas within one element of `Forwarded`."""

Named = Callable[[Headers, str], tuple[Headers, str]]
"""Takes a request's headers, names in lower case, and its peer, an address or `UNIX`. Returns the headers
that may be believed, and the client that the request counts for."""

MAX_KNOWN: Final = 1024
"""Peers, and what they say of clients, that are kept so as not to be read anew."""

MAX_KNOWN_BYTES: Final = 512
"""The longest that is kept."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Said = Sequence[tuple[bytes, bytes]]

_SAID: Final = re.compile(rb"x-forwarded-.*|forwarded|x-real-ip")
_SAID_BEGINS: Final = (b"x-forwarded-", b"forwarded", b"x-real-ip")
_FOR: Final = b"x-forwarded-for"
_PROTO: Final = b"x-forwarded-proto"
_HOST: Final = b"x-forwarded-host"
_PORT: Final = b"x-forwarded-port"
_FORWARDED: Final = b"forwarded"
_READ: Final = frozenset({_FOR, _PROTO, _HOST, _PORT, _FORWARDED, b"x-real-ip"})

_PAIR = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:[^\s\",;=\\]+|\"(?:[^\"\\]|\\.)*\")"
_ELEMENT: Final = re.compile(rb"\s*(?:%b)(?:\s*;\s*%b)*\s*;?\s*" % (_PAIR, _PAIR))
_EACH: Final = re.compile(_PAIR)

_NODE: Final = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)(?:%[\w.~-]+)?\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[\w.-]+))?"
    rb"|([0-9A-Fa-f:.]+)(?:%[\w.~-]+)?"
)
"""A node of RFC 7239 6, also without brackets, as `X-Forwarded-For` has it; and with a zone (RFC 6874)."""

MAPPED_BITS: Final = 96
"""Bits of IPv6 before an address of IPv4 (RFC 4291 2.5.5.2)."""

_PORT_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,4}")

_Address = IPv4Address | IPv6Address


class TrustedProxies:
    """The peers that are believed.

    Args:
        listed: networks and addresses; and `unix`, for whoever connects by a Unix socket.
    """

    def __init__(self, listed: Sequence[str]) -> None:
        networks = [_plain_network(ip_network(each)) for each in listed if each != UNIX]
        self._masked = [(each.version, int(each.network_address), int(each.netmask)) for each in networks]
        self._has_unix = UNIX in listed

    def has(self, peer: str) -> bool:
        """True if a peer, an address or `UNIX`, is one of them."""
        if peer == UNIX:
            return self._has_unix
        address = _plain(peer)
        if address is None:
            return False
        value = int(address)
        return any(
            address.version == version and value & mask == network for version, network, mask in self._masked
        )


def peer_alone(headers: Headers, peer: str) -> tuple[Headers, str]:
    """Nobody names clients: each request counts for its peer."""
    return headers, peer


def last_named(headers: Headers, peer: str) -> tuple[Headers, str]:
    """Every peer is believed. A request counts for the last address in `X-Forwarded-For`: the peer has added
    it."""
    client = peer
    for name, value in headers:
        if name == _FOR:
            client = value.rpartition(b",")[2].strip().decode("latin-1") or peer
    return headers, client


@dataclass(frozen=True, slots=True)
class Chain:
    """The part of what proxies in front say that is believed."""

    hops: tuple[str, ...] = ()
    """Addresses, the client's first; without the peer's own."""
    proto: bytes | None = None
    """How the client reached the first trusted proxy, in lower case."""
    host: bytes | None = None
    port: bytes | None = None


class ByTrust:
    """Believes trusted proxies alone.

    Args:
        trusted: the peers that are believed.
        appends: whether the upstream is told in `X-Forwarded-…`, also by whom `Forwarded` alone is written.
        announces: whether it is told in `Forwarded`, also by whom that is not written.
    """

    def __init__(self, trusted: TrustedProxies, *, appends: bool, announces: bool) -> None:
        self._trusted = trusted
        self._appends = appends
        self._announces = announces
        self._peers: dict[str, bool] = {}
        self._known: dict[tuple[tuple[bytes, bytes], ...], tuple[Headers, str | None]] = {}

    def __call__(self, headers: Headers, peer: str) -> tuple[Headers, str]:
        said = [pair for pair in headers if pair[0].startswith(_SAID_BEGINS) and _SAID.fullmatch(pair[0])]
        if not said:
            return headers, peer
        is_trusted = self._peers.get(peer)
        if is_trusted is None:
            is_trusted = _remember(self._peers, peer, self._trusted.has(peer))
        if not is_trusted:
            return [pair for pair in headers if pair not in said], peer
        key = tuple(said)
        fields, client = self._known.get(key) or self._heard(key)
        kept = [pair for pair in headers if pair[0] not in _READ]
        if client is None and peer != UNIX and any(name == b"x-real-ip" for name, _ in said):
            return [*kept, *fields, (b"x-real-ip", peer.encode())], peer
        return kept + fields, peer if client is None else client

    def _heard(self, said: tuple[tuple[bytes, bytes], ...]) -> tuple[Headers, str | None]:
        """What is told of what a trusted peer says, and the client, if it names one."""
        chain = believed(said, self._trusted)
        client = chain.hops[0] if chain.hops else None
        found = self._retold(said, chain, client), client
        # The same of every request of a client, and not found out anew for each.
        return _remember(self._known, said, found) if head_bytes(said) <= MAX_KNOWN_BYTES else found

    def _retold(self, said: _Said, chain: Chain, client: str | None) -> Headers:
        """What was believed, for the upstream, to which the peer is still to be added."""
        names = {name for name, _ in said}
        fields: Headers = []
        if self._appends or names & {_FOR, _PROTO, _HOST, _PORT}:
            if chain.hops:
                fields.append((_FOR, ", ".join(chain.hops).encode()))
            more = ((_PROTO, chain.proto), (_HOST, chain.host), (_PORT, chain.port))
            fields += [(name, value) for name, value in more if value is not None]
        if chain.hops and (self._announces or _FORWARDED in names):
            fields.append((_FORWARDED, _written(chain)))
        if b"x-real-ip" in names and client is not None:
            fields.append((b"x-real-ip", client.encode()))
        return fields


def _remember(known: dict[_Key, _Value], key: _Key, value: _Value) -> _Value:
    """Keep a value, of at most `MAX_KNOWN`."""
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[key] = value
    return value


def believed(said: _Said, trusted: TrustedProxies) -> Chain:
    """What a trusted peer says. `X-Forwarded-For` counts if it came, else `Forwarded`.

    The walk begins at the nearest hop. It ends with the first one that is no trusted proxy, which is the
    client, and before one that cannot be read.
    """
    values = {name: [value for each, value in said if each == name] for name in _READ}
    by_element = bool(values[_FORWARDED]) and not values[_FOR]
    hops: list[str] = []
    last: dict[bytes, bytes] = {}
    for element in islice(_elements(values[_FORWARDED]) if by_element else _nodes(values[_FOR]), MAX_HOPS):
        address = _address(element.get(b"for", b""))
        last = element if address is not None or not last else last
        if address is None:
            break
        hops.append(str(address))
        if not trusted.has(hops[-1]):
            break
    if by_element:
        proto, host, port = last.get(b"proto"), last.get(b"host"), None
    else:
        proto, host, port = [_last(values[name]) for name in (_PROTO, _HOST, _PORT)]
    proto = proto.lower() if proto is not None and proto.lower() in (b"http", b"https") else None
    host = host if host is not None and is_host(host) else None
    port = port if port is not None and _PORT_NUMBER.fullmatch(port) and int(port) < 65536 else None
    return Chain(tuple(reversed(hops)), proto, host, port)


def _last(values: list[bytes]) -> bytes | None:
    """The last of a list, which the nearest proxy has written or passed on."""
    return values[-1].rpartition(b",")[2].strip() if values else None


def _nodes(values: list[bytes]) -> Iterator[dict[bytes, bytes]]:
    """The nodes of `X-Forwarded-For`, the last one first."""
    for value in reversed(values):
        for node in reversed(value.split(b",")):
            yield {b"for": node.strip()}


def _elements(values: list[bytes]) -> Iterator[dict[bytes, bytes]]:
    """The elements of `Forwarded`, the last one first, as far as they can be read.

    From the right, since a stranger's open quote would swallow what a proxy appends on the same line.
    """
    for value in reversed(values):
        rest = value
        while rest := rest.rstrip(b", \t"):
            at = _last_element(rest)
            if at is None:
                return
            yield _parameters(rest[at:])
            rest = rest[:at]


def _last_element(value: bytes) -> int | None:
    """Where the last element begins. It may have commas of its own, in quotes: the shortest one that can be
    read counts. None: it cannot be read.
    """
    at = len(value)
    for _ in range(MAX_COMMAS + 1):
        at = value.rfind(b",", 0, at)
        if _ELEMENT.fullmatch(value, at + 1):
            return at + 1
        if at < 0:
            break
    return None


def _parameters(element: bytes) -> dict[bytes, bytes]:
    """The parameters of an element, names in lower case, values without their quotes."""
    found: dict[bytes, bytes] = {}
    for pair in _EACH.findall(element):
        name, _, value = pair.partition(b"=")
        if value.startswith(b'"'):
            value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
        found.setdefault(name.lower(), value)
    return found


def _written(chain: Chain) -> bytes:
    """`Forwarded` with an element for each hop; the first one says how the client came."""
    parts = [b"for=" + (f'"[{hop}]"' if ":" in hop else hop).encode() for hop in chain.hops]
    if chain.host is not None:
        parts[0] += b';host="' + chain.host + b'"'  # a host has no quote
    if chain.proto is not None:
        parts[0] += b";proto=" + chain.proto
    return b", ".join(parts)


def _address(node: bytes) -> _Address | None:
    """The address of a node, which may have a port, and brackets. None: it is none, or hidden."""
    found = _NODE.fullmatch(node)
    return _plain((found[1] or found[2] or found[3]).decode()) if found else None


def _plain(text: str) -> _Address | None:
    """An address; one of IPv4 that is written as IPv6 becomes what it is. A zone says nothing elsewhere, and
    may have any characters: it is left out."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if address.version == 4:
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _plain_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """A network; one of IPv4 that is written as IPv6 becomes what it is, as its addresses do."""
    if network.version == 4 or network.prefixlen < MAPPED_BITS:
        return network
    address = network.network_address.ipv4_mapped
    return network if address is None else IPv4Network((int(address), network.prefixlen - MAPPED_BITS))
