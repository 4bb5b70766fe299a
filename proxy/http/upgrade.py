"""The upgrades (RFC 9110 7.8) that are passed on, and the answer that accepts one. No I/O."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from proxy.http.headers import Headers

UPGRADE = "headgate.upgrade"
"""Scope key: the `UpgradeOffer` of a request that has one."""

SWITCHING_PROTOCOLS: Final = 101

EARLY_BYTES = 64 * 1024
"""Bytes that a client may send before it has its answer; then its socket is not read."""

NOT_PASSED_ON = {
    b"h2c": "its requests would pass undecided; Java's HttpClient offers it with every first request",
    b"h2": "the same",
    b"http": "the same",
    b"tls": "the same, and unreadable",
}
"""Protocols, without their version, that carry further requests."""


def offered(version: str, headers: Headers) -> bytes:
    """The protocols of a request's `Upgrade` that are passed on; empty: it is a request like any other.

    A request with a body offers none: its end could not be seen. Nor does one of HTTP/1.0 (RFC 9110 7.8).
    """
    if version != "1.1" or any(_announces_body(name, value) for name, value in headers):
        return b""
    tokens = listed(headers, b"upgrade")
    return b", ".join(token for token in tokens if token.partition(b"/")[0].lower() not in NOT_PASSED_ON)


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The head of a request that asks for an upgrade, as one that does not."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    for name, value in headers:
        tokens = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
        lines.append(name + b": " + (b",".join(tokens) if name == b"connection" else value))
    return b"\r\n".join([*lines, b"", b""])


def _announces_body(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")


def listed(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    """The elements of a header that is a list."""
    values = (value for name, value in headers if name == wanted)
    return [token.strip() for value in values for token in value.split(b",") if token.strip()]


def is_accepted(protocols: bytes, answer: Headers) -> bool:
    """True if a 101 accepts what was offered. Any other 101 is malformed."""
    asked = {token.strip().lower() for token in protocols.split(b",")}
    chosen = {token.lower() for token in listed(answer, b"upgrade")}
    says_so = b"upgrade" in {token.lower() for token in listed(answer, b"connection")}
    return bool(chosen) and chosen <= asked and says_so and not any(_announces_body(*pair) for pair in answer)


Lost = Callable[[Exception | None], None]
"""The old protocol's `connection_lost`."""


@dataclass(slots=True)
class UpgradeOffer:
    """An upgrade that a client offers, until it is answered, and what the client has sent meanwhile."""

    protocols: bytes
    switch: Callable[[asyncio.Protocol], tuple[asyncio.Transport, Lost]]
    """Gives the client's connection to another protocol, which must call `Lost` when it is lost."""
    left: Callable[[], bool]
    """True if the client has left."""
    early: bytearray = field(default_factory=bytearray)
