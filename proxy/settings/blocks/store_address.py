"""The address of the store: one server's, or that of Sentinels who know which server it is. Pure.

`redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB?…`; user, password, database and what stands
behind `?` are the server's. `rediss+sentinel://` is TLS, to Sentinels and server.
"""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

SENTINEL_PORT = 26379
SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
MAX_SENTINELS = 16


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Whom to ask for the primary, and how to reach it then."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    """The name under which the Sentinels watch the primary."""
    server: str
    """URL of the server, which may hold a password; its host is that of the first Sentinel."""


def is_store_address(value: str) -> bool:
    """True if it can be the store's."""
    try:
        if sentinels_of(value) is not None:
            return True
        parts = urlsplit(value)
        found = parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0
    except ValueError:  # its text may hold the password
        return False
    return bool(found) and parts.scheme in {"redis", "rediss", "unix"}


def sentinels_of(url: str) -> SentinelAddress | None:
    """None: it names the server itself. Raises ValueError, which may hold the password."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return None
    login, _, hosts = parts.netloc.rpartition("@")
    addresses = tuple(_address(host) for host in hosts.split(","))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service or (database and not database.isdecimal()) or len(addresses) > MAX_SENTINELS:
        raise ValueError("no service, a database that is no number, or too many Sentinels")
    host, port = addresses[0]
    at = f"{login}@" if login else ""
    name = f"[{host}]" if ":" in host else host
    query = f"?{parts.query}" if parts.query else ""
    server = f"{SCHEMES[parts.scheme]}://{at}{name}:{port}/{database}{query}"
    return SentinelAddress(addresses, unquote(service), server)


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port == 0 or parts.username is not None:
        raise ValueError("a Sentinel without a host, or at port 0")
    return parts.hostname, parts.port or SENTINEL_PORT
