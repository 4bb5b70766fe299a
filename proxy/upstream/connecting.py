"""A connection to an origin: straight, or through a proxy. Without a bound of time: the pool has it.

To an origin of `https` a proxy makes a tunnel (CONNECT, RFC 9110 9.3.6). One of `http` is asked for by its
whole address (RFC 9112 3.2.2), since proxies make tunnels to port 443 alone.

Of several addresses the next one is tried once one has failed, or has been silent for a while (RFC 8305).
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, cast

from flags.egress import ProxyServer
from flags.tls import why
from proxy.errors import UpstreamUnreachable
from proxy.upstream.addresses import Addresses

MAX_HEAD_BYTES = 16 * 1024
"""Of a proxy's answer to CONNECT."""

QUEUE_S = 0.02
"""Seconds until a Unix socket is tried again whose queue of new connections is full; the pool bounds them."""

NEXT_S = 0.25
"""Seconds of silence after which the next address is tried beside the others (RFC 8305 section 5)."""

PROXY_AUTHENTICATION_REQUIRED: Final = 407

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]")


async def connect(
    protocol: asyncio.Protocol,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    via: ProxyServer | None,
    at: Addresses,
) -> None:
    """Connect the protocol, which the caller aborts if that fails.

    Args:
        protocol: not connected yet.
        host: the origin's name or address.
        port: of the origin.
        tls: None for plain HTTP.
        via: the proxy; None: straight.
        at: the addresses of the proxy, or straight those of the origin.

    Raises:
        UpstreamUnreachable: no byte of a request has been sent.
    """
    if via is None:
        await _open(protocol, host, port, tls, at)
        return
    tunnel = None if tls is None else _Tunnel()
    try:
        await _open(tunnel or protocol, via.host, via.port, via.tls, at)
        if tls is None or tunnel is None:
            return
        await tunnel.ask(_asking(host, port, via.credential))
        await _secure(tunnel.transport, protocol, tls, host)
    except BaseException as exc:
        if tunnel is not None:
            tunnel.abort()
        if isinstance(exc, UpstreamUnreachable):
            raise UpstreamUnreachable(f"{exc}, through the proxy {via}") from exc
        raise


async def connect_to_path(protocol: asyncio.Protocol, path: str) -> None:
    """Connect the protocol to a Unix socket. Raises UpstreamUnreachable."""
    while True:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: protocol, path)
        except BlockingIOError:  # its queue is full, for which one of TCP waits by itself
            await asyncio.sleep(QUEUE_S)
        except OSError as exc:
            raise UpstreamUnreachable(why(exc)) from exc
        else:
            return


def absolute(request: bytes, authority: bytes, via: ProxyServer) -> bytes:
    """A request, or its head, as a proxy wants it for an origin of `http`."""
    method, _, rest = request.partition(b" ")
    line, _, fields = rest.partition(b"\r\n")
    if line.startswith(b"/"):
        line = b"http://%b%b" % (authority, line)
    elif line.startswith(b"*"):  # OPTIONS for the whole server
        line = b"http://%b%b" % (authority, line[1:])
    credential = f"Proxy-Authorization: {via.credential}\r\n".encode() if via.credential else b""
    return b"%b %b\r\n%b%b" % (method, line, credential, fields)


async def _open(
    protocol: asyncio.Protocol, host: str, port: int, tls: ssl.SSLContext | None, at: Addresses
) -> None:
    loop, name = asyncio.get_running_loop(), host if tls else None

    async def to(address: str) -> asyncio.Transport:
        transport, _ = await loop.create_connection(_Unasked, address, port, ssl=tls, server_hostname=name)
        return transport

    try:
        hosts = await at.look_up()
        if len(hosts) == 1:
            await loop.create_connection(lambda: protocol, hosts[0], port, ssl=tls, server_hostname=name)
            return
        transport = await _first_connected(hosts, to)
        early = transport.get_protocol()
        if transport.is_closing() or (isinstance(early, _Unasked) and early.is_over):
            transport.abort()
            raise ConnectionResetError
    except (OSError, ssl.SSLError) as exc:
        at.forget()
        raise UpstreamUnreachable(why(exc)) from exc
    transport.set_protocol(protocol)
    protocol.connection_made(transport)


async def _first_connected(
    hosts: Sequence[str], connect: Callable[[str], Coroutine[Any, Any, asyncio.Transport]]
) -> asyncio.Transport:
    """A connection to the first address that accepts. All others are aborted.

    Raises:
        OSError: of the last address that failed.
    """
    waiting = list(hosts)
    tasks: list[asyncio.Task[asyncio.Transport]] = []
    chosen: asyncio.Transport | None = None
    failure: BaseException = OSError("the name has no address")
    try:
        trying: set[asyncio.Task[asyncio.Transport]] = set()
        while chosen is None and (waiting or trying):
            if waiting:
                tasks.append(asyncio.create_task(connect(waiting.pop(0))))
                trying.add(tasks[-1])
            done, trying = await asyncio.wait(
                trying, timeout=NEXT_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                failure = task.exception() or failure
                if task.exception() is None and chosen is None:
                    chosen = task.result()
        if chosen is None:
            raise failure
        return chosen
    finally:
        for task in tasks:
            task.cancel()
        for made in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(made, asyncio.Transport) and made is not chosen:
                made.abort()


async def _secure(
    plain: asyncio.Transport, protocol: asyncio.Protocol, tls: ssl.SSLContext, host: str
) -> None:
    loop = asyncio.get_running_loop()
    try:
        transport = await loop.start_tls(plain, protocol, tls, server_hostname=host)
    except (OSError, ssl.SSLError) as exc:
        raise UpstreamUnreachable(why(exc)) from exc
    if transport is None or transport.is_closing():
        raise UpstreamUnreachable("closed after the handshake")
    protocol.connection_made(transport)  # `start_tls` leaves that to its caller


def _asking(host: str, port: int, credential: str) -> bytes:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if credential:
        lines.append(f"Proxy-Authorization: {credential}")
    return "\r\n".join([*lines, "", ""]).encode()


class _Unasked(asyncio.Protocol):
    """Of a connection that may not be the first one. Nobody answers before anything was asked."""

    is_over = False

    def data_received(self, _: bytes) -> None:
        self.is_over = True

    def connection_lost(self, _: Exception | None) -> None:
        self.is_over = True


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel, and reads the head of its answer."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._received = bytearray()
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def ask(self, request: bytes) -> None:
        """Raises UpstreamUnreachable if there is no tunnel; waits for an answer without a bound."""
        self.transport.write(request)
        status = await self._status
        if not status:
            raise UpstreamUnreachable("no HTTP answer to CONNECT")
        if status >= 300:
            raise UpstreamUnreachable(f"CONNECT is answered with {status}")

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._status.done() and b"\r\n\r\n" in self._received:
            head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
            found = _STATUS.match(head + b"\r")
            status = int(found[1]) if found else 0
            self._received = bytearray(rest)
            if status == 0 or status >= 200:
                # The origin waits for our handshake: what comes before it is not its.
                self._status.set_result(0 if status < 300 and rest else status)
        if len(self._received) > MAX_HEAD_BYTES and not self._status.done():
            self._status.set_result(0)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._status.done():
            self._status.set_result(0)
