"""One request to a server of the deployment, bounded in time and size; when each byte of the answer came.

It goes the way of Headgate's own requests: through the proxy, if there is one on that way, and with the
authorities of the settings.
"""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import anyio
import httpx

import flags.tls
from flags.egress import ProxyServer
from flags.tls import why
from proxy.errors import HeadgateError

PATIENCE_S = 10.0
"""The most seconds for one request that should be answered at once."""

MAX_BYTES = 32 * 1024 * 1024
"""Of one answer. What comes after that is not read."""


class NoAnswer(HeadgateError):
    """No answer came. The message says why, without the address, and nothing of the request."""


@dataclass(slots=True)
class Reply:
    """An answer; its body as it came over the wire."""

    status: int
    version: str
    """`HTTP/1.1` or `HTTP/1.0`."""
    headers: Mapping[str, str]
    head_s: float
    """Seconds from the request until its head was there."""
    took_s: float = 0.0
    """Seconds until the whole of it was."""
    whole_at: datetime = datetime.min
    """The time at which the answer was whole, by this machine's clock."""
    body: bytes = b""
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    """Each piece of the body, with the time at which it came: `perf_counter()`."""


Headers = Sequence[tuple[str, str]]


def trusting(ca_file: Path | None, *, strict: bool, verify: bool = True) -> ssl.SSLContext:
    """TLS as Headgate has it for a server with these settings."""
    context = flags.tls.trusting(ca_file, strict=strict)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def client(
    tls: ssl.SSLContext | None = None, proxy: ProxyServer | None = None, path: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that follows nothing and keeps no connection. No `tls`: for plain HTTP; with a `path` all goes
    to that Unix socket."""
    async with httpx.AsyncClient(
        transport=None if path is None else httpx.AsyncHTTPTransport(uds=path),
        verify=False if tls is None else tls,
        timeout=None,  # the whole request has one
        trust_env=False,
        proxy=None if proxy is None else proxy.for_httpx(),
        follow_redirects=False,
        limits=httpx.Limits(max_keepalive_connections=0),
    ) as opened:
        yield opened


async def ask(
    asking: httpx.AsyncClient,
    url: str,
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes | None = None,
    within_s: float = PATIENCE_S,
) -> Reply:
    """The whole answer.

    Raises:
        NoAnswer: it did not come within `within_s`, or broke off.
    """
    began = perf_counter()
    try:
        with anyio.fail_after(within_s):
            sent = [("accept-encoding", "identity"), *headers]  # what comes is read as it came
            async with asking.stream(method, url, headers=sent, content=body) as response:
                reply = Reply(
                    response.status_code,
                    response.http_version,
                    response.headers,
                    perf_counter() - began,
                )
                size = 0
                async for piece in response.aiter_raw():
                    reply.pieces.append((perf_counter(), piece))
                    size += len(piece)
                    if size > MAX_BYTES:
                        break
    except TimeoutError:
        raise NoAnswer(f"no whole answer within {within_s:g} s") from None
    except (httpx.HTTPError, OSError) as exc:
        raise NoAnswer(_reason(exc)) from None
    reply.body = b"".join(piece for _, piece in reply.pieces)
    reply.took_s, reply.whole_at = perf_counter() - began, datetime.now(UTC)
    return reply


_REASONS = {
    "ConnectError": "the connection was refused, or the name is not known",
    "ConnectTimeout": "no connection",
    "ReadError": "the connection broke",
    "RemoteProtocolError": "the connection was closed without a whole answer in HTTP/1.1",
}


def _reason(exc: Exception) -> str:
    name = why(exc)
    return _REASONS.get(name, name)
