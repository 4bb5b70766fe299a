"""The address of the store: one server's, or of those who know which server it is. Pure.

`redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB?…`: Sentinels; user, password, database and
what stands behind `?` are the server's, without `sentinel_username` and `sentinel_password`.
`redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT?…`: nodes of a cluster. `rediss+…` is TLS, to all of them.
"""

from binascii import crc_hqx
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import unquote, urlsplit

PORTS = {"sentinel": 26379, "cluster": 6379}
MAX_SEEDS = 16
LOGIN = {"sentinel_username": "username", "sentinel_password": "password"}
"""Parameters of the URL that are the Sentinels' own, and the login's parts."""
SLOTS = 16384


@dataclass(frozen=True, slots=True)
class StoreShard:
    """A part of the store, which has all that is stored of its users."""

    name: str
    """Empty: it is the whole store."""
    url: str = field(repr=False)
    """May hold a password."""
    prefix: str
    """Start of every key's name."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """Whom to ask for the server, and how to reach it then."""

    addresses: tuple[tuple[str, int], ...]
    service: str | None
    """The name under which Sentinels watch the primary; None: these are nodes of a cluster."""
    server: str
    """URL of the server, which may hold a password; its host is that of the first one to ask."""
    login: Mapping[str, str] | None = None
    """The Sentinels' `username` and `password`, as far as they have one; None: the login is the server's."""


def is_store_address(value: str) -> bool:
    """True if it can be the store's."""
    try:
        if seeds_of(value) is not None:
            return True
        parts = urlsplit(value)
        found = parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0
    except ValueError:  # its text may hold the password
        return False
    return bool(found) and parts.scheme in {"redis", "rediss", "unix"}


def seeds_of(url: str) -> Seeds | None:
    """None: it names the server itself. Raises ValueError, which may hold the password."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in {"redis", "rediss"} or kind not in PORTS:
        return None
    login, _, hosts = parts.netloc.rpartition("@")
    addresses = tuple(_address(host, PORTS[kind]) for host in hosts.split(","))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if (kind == "sentinel") != bool(service) or (database and not database.isdecimal()):
        raise ValueError("Sentinels have a service, and a number for the database; a cluster has neither")
    if len(addresses) > MAX_SEEDS:
        raise ValueError("too many to ask")
    host, port = addresses[0]
    at = f"{login}@" if login else ""
    name = f"[{host}]" if ":" in host else host
    given = [each.partition("=") for each in parts.query.split("&") if each]
    own = {LOGIN[name]: unquote(value) for name, _, value in given if name in LOGIN}
    if own and kind != "sentinel":
        raise ValueError("a cluster has no Sentinels")
    query = "&".join("".join(each) for each in given if each[0] not in LOGIN)
    server = f"{scheme}://{at}{name}:{port}/{database}{'?' if query else ''}{query}"
    return Seeds(
        addresses, unquote(service) if service else None, server, own if kind == "sentinel" else None
    )


def is_cluster(url: str) -> bool:
    seeds = seeds_of(url)
    return seeds is not None and seeds.service is None


def key_prefix(url: str, prefix: str) -> str:
    """Start of every key's name. In a cluster it has a hash tag, so that all keys are on one node: scripts
    change several at once, of runs and of their users."""
    return f"{{{prefix}}}" if is_cluster(url) else prefix


def key_prefixes(prefix: str, nodes: int) -> list[str]:
    """Starts of keys' names, each with a hash tag, that are on different nodes of a cluster: one in each of
    `nodes` equal ranges of slots, as clusters are made, and away from the ends. The first is `key_prefix`."""
    found = {_slot(prefix) * nodes // SLOTS: f"{{{prefix}}}"}
    for number in count(1):
        if len(found) == nodes:
            break
        tag = f"{prefix}.{number}"
        of_range, within = divmod(_slot(tag) * nodes, SLOTS)
        if SLOTS // 4 <= within < SLOTS * 3 // 4:
            found.setdefault(of_range, f"{{{tag}}}")
    return list(found.values())


def _slot(tag: str) -> int:
    return crc_hqx(tag.encode(), 0) % SLOTS


def _address(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port == 0 or parts.username is not None:
        raise ValueError("one without a host, or at port 0")
    return parts.hostname, parts.port or default
