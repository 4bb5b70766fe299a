"""The upstream: is it there, what is its clock, and how long does it keep a connection?

Asks `GET /` alone; any answer will do.
"""

import asyncio
import ssl
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urlsplit

import anyio

from proxy.doctor.findings.asking import PATIENCE_S, NoAnswer, Reply, ask, client
from proxy.doctor.findings.clock import clock
from proxy.doctor.findings.diagnosis import Diagnosis, fail, ok, skipped, warn
from proxy.upstream.pool import Origin

CHECK = "upstream"
KEEP_ALIVE = "upstream keep-alive"
CLOCK = "upstream clock"

WATCHED = 1.5
"""The time for which an idle connection is watched, in multiples of `keep_alive_s`."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The fate of a connection after its answer."""

    is_announced: bool
    """True if the answer said that the connection ends."""
    closed_after_s: float | None
    """Seconds without a byte until the upstream closed it. None: it was still open at the end."""


async def look(url: str, to: Origin, within_s: float = PATIENCE_S) -> tuple[list[Diagnosis], float]:
    """The findings, and how long its answer took in seconds.

    Args:
        url: its origin.
        to: how Headgate reaches it.
        within_s: for its answer.
    """
    try:
        async with client(to.tls, to.via, to.path) as asking:
            reply = await ask(asking, f"{url}/", within_s=within_s)
    except NoAnswer as exc:
        advice = "Start the upstream, mend upstream.url, or open the way there from here."
        skips = [skipped(each, "the upstream does not answer") for each in (CLOCK, KEEP_ALIVE)]
        through = "" if to.via is None else f" through the proxy {to.via}"
        return [fail(CHECK, f"does not answer{through}: {exc}", advice), *skips], 0.0
    if to.via is None:
        kept = await keeps(url, to.tls, to.keep_alive_s * WATCHED, to.path)
        kept_open = keep_alive(kept, to.keep_alive_s)
    else:
        kept_open = skipped(KEEP_ALIVE, f"its connections go through the proxy {to.via}")
    return [reached(reply), clock(CLOCK, reply), kept_open], reply.took_s


def reached(reply: Reply) -> Diagnosis:
    if reply.status in {502, 503, 504}:
        return warn(
            CHECK,
            f"answers {reply.status} to GET /",
            "A proxy before it may have no upstream: see what it says of a request that you know.",
        )
    return ok(CHECK, f"answers {reply.status} to GET / after {reply.took_s * 1000:.0f} ms")


async def keeps(url: str, tls: ssl.SSLContext | None, wait_s: float, path: str | None = None) -> Kept | None:
    """Ask once, and watch the connection for `wait_s` seconds. None: it broke."""
    parts = urlsplit(url)
    port = parts.port or (443 if tls else 80)
    request = f"GET / HTTP/1.1\r\nhost: {parts.netloc}\r\naccept: */*\r\n\r\n".encode()
    try:
        with anyio.fail_after(wait_s):
            if path is not None:
                reader, writer = await asyncio.open_unix_connection(path)
            else:
                reader, writer = await asyncio.open_connection(
                    parts.hostname, port, ssl=tls, server_hostname=parts.hostname if tls else None
                )
    except (OSError, TimeoutError):
        return None
    try:
        writer.write(request)
        return await _watched(reader, wait_s)
    except (OSError, TimeoutError):
        return None
    finally:
        writer.close()


async def _watched(reader: asyncio.StreamReader, wait_s: float) -> Kept | None:
    head = b""
    last = perf_counter()
    closed_after_s: float | None = None
    while True:
        try:
            with anyio.fail_after(wait_s):
                piece = await reader.read(65536)
        except TimeoutError:
            break
        if not piece:
            closed_after_s = perf_counter() - last
            break
        last = perf_counter()
        if len(head) < 65536:
            head += piece
    if not head:
        return None
    lines = head.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    closes = any(line.startswith(b"connection:") and b"close" in line for line in lines)
    is_old = lines[0].startswith(b"http/1.0") and not any(b"keep-alive" in line for line in lines[1:])
    return Kept(closes or is_old, closed_after_s)


def keep_alive(kept: Kept | None, keep_alive_s: float) -> Diagnosis:
    """Diagnose whether Headgate lets go of an idle connection before the upstream does."""
    if kept is None:
        return warn(
            KEEP_ALIVE,
            "the connection broke as it was watched",
            "See whether something before the upstream cuts connections.",
        )
    if kept.is_announced:
        return warn(
            KEEP_ALIVE,
            "it closes each connection after one answer",
            "Turn keep-alive on at the upstream, or each request pays for a new connection.",
        )
    if kept.closed_after_s is None or kept.closed_after_s > keep_alive_s:
        return ok(KEEP_ALIVE, f"an idle connection outlives upstream.pool.keep_alive_s ({keep_alive_s:g} s)")
    return warn(
        KEEP_ALIVE,
        f"it closes a connection that was idle for {kept.closed_after_s:.1f} s, and Headgate keeps one for "
        f"{keep_alive_s:g} s: a request may come just then, and is answered with 502 unless it is safe",
        f"Set upstream.pool.keep_alive_s below {kept.closed_after_s:.1f}, or raise the upstream's own limit.",
    )
