"""Commands to Valkey, bounded in time, and whether the store is up. Knows nothing of runs.

A store that fails costs one request one `CALL_S`. From then on no command is sent but the probe, which the
owner of the links repeats in the background, until a probe succeeds. The log has no password, and no host but
one whose certificate is refused.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from flags.tls import strictly, why
from proxy.errors import StoreDown
from proxy.replicas.store.discovery import ByCluster, BySentinel, Discovery
from proxy.settings.blocks.store_address import seeds_of

logger = logging.getLogger("headgate.event_log")

CALL_S = 0.5
"""The most that anything on a request's path waits for the store."""

STALL_S = 0.2
"""A timeout that fires so late says that this process was held up; the reply may have come."""

CLOSE_S = 0.5

LARGE_BYTES = 8192

Argument = bytes | str | int
Command = tuple[Argument, ...]


class StoreBusy(StoreDown):
    """This process had no time to ask, or to read the reply. The store may be well."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, which the store executes as one step."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # The store names scripts by their SHA-1, which protects nothing here.
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def __call__(self, keys: Sequence[str], *arguments: Argument) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


class Health:
    """The store's health, for all links that share it: it answers, or it does not."""

    def __init__(self, of: str = "log store", shard: str = "") -> None:
        self._of = of
        self._shard = {"shard": shard} if shard else {}
        self.up = asyncio.Event()
        self._since: float | None = None

    def failed(self, why: str) -> None:
        self.up.clear()
        if self._since is None:
            self._since = asyncio.get_running_loop().time()
            logger.warning(f"{self._of} down", extra={"why": why, **self._shard})

    def wrote(self) -> None:
        """The store took a write, so it is up. A full store can still be read."""
        self.up.set()
        if self._since is not None:
            took_s = asyncio.get_running_loop().time() - self._since
            self._since = None
            logger.info(f"{self._of} back", extra={"after_s": round(took_s, 1), **self._shard})


class Link:
    """One connection, for one call at a time; opened when it is needed. The link's owner closes it.

    Args:
        url: of the server, or of those who know it (`store_address.py`); may hold a password.
        scripts: those that may be called.
        timeout_s: for a call, and as much again for the wait for those before it.
        strict_tls: whether its certificate must follow RFC 5280 strictly.
        ca_file: authorities to trust beside the system's.
        prefix: of all keys, whose node is the server in a cluster.
    """

    def __init__(
        self,
        url: str,
        health: Health,
        scripts: Sequence[Script],
        timeout_s: float = CALL_S,
        *,
        strict_tls: bool = True,
        ca_file: Path | None = None,
        prefix: str = "",
    ) -> None:
        self._strict_tls = strict_tls
        seeds = seeds_of(url)
        server: dict[str, Any] = {**parse_url(url if seeds is None else seeds.server)}
        shared: dict[str, Any] = {
            "socket_timeout": None,  # the whole call has one
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        connection_class = server.pop("connection_class", Connection)
        if ca_file is not None and issubclass(connection_class, SSLConnection):
            server.setdefault("ssl_ca_certs", str(ca_file))
        self._connection: Connection = connection_class(**{**shared, **server})
        self._discovery: Discovery | None = None
        if seeds is not None:
            by = ByCluster(prefix) if seeds.service is None else BySentinel(seeds.service)
            own = {name: value for name, value in server.items() if name.startswith("ssl_")}
            login = server if seeds.login is None else seeds.login
            own |= {name: login[name] for name in ("username", "password") if name in login}

            def connection(host: str, port: int) -> Connection:
                made: Connection = connection_class(**{**shared, **own, "host": host, "port": port})
                _hold_to_rules(made, strict_tls)
                return made

            self._discovery = Discovery(seeds.addresses, by, connection)
        self.health = health
        self._scripts = scripts
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def aclose(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connection.disconnect()
        except (RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=True)

    async def call(self, *commands: Command, probe: bool = False) -> list[Any]:
        """The replies, in order. A reply is a `ResponseError` if a command's key has a value of another type.

        Commands may be executed twice, when the first connection breaks.

        Args:
            probe: send them even if the store is down.

        Raises:
            StoreDown: no complete reply. Whether the commands were executed is not known.
        """
        if not probe and not self.health.up.is_set():
            raise StoreDown("not asked")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._lock.acquire()
        except TimeoutError:
            raise StoreBusy("others were asking") from None
        began = self._loop.time()
        try:
            if not probe and not self.health.up.is_set():
                raise StoreDown("not asked")  # it has failed meanwhile
            async with asyncio.timeout(self._timeout_s):
                return await self._call(commands)
        except (RedisError, OSError, TimeoutError) as exc:
            _without_frames(exc)
            if self._loop.time() - began > self._timeout_s + STALL_S:
                raise StoreBusy("this process was busy") from None
            why = _loggable(exc)
            self.health.failed(why)
            raise StoreDown(why) from None
        finally:
            self._lock.release()

    async def _call(self, commands: Sequence[Command]) -> list[Any]:
        try:
            replies = await self._exchange(commands)
        except StoreConnectionError:
            replies = await self._exchange(commands)  # the store may close connections that are idle
        if any(isinstance(reply, (ReadOnlyError, MovedError)) for reply in replies):
            await self._connection.disconnect(nowait=True)
            replies = await self._exchange(commands)  # it was the server to write to: another one is now
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self._exchange([("SCRIPT", "LOAD", script.text) for script in self._scripts])
            replies = await self._exchange(commands)
        for reply in replies:
            if isinstance(reply, ResponseError) and not is_wrong_type(reply):
                raise reply
        return replies

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        replies: list[Any] = []
        try:
            if not connection.is_connected:
                _hold_to_rules(connection, self._strict_tls)
                if self._discovery is not None:
                    connection.host, connection.port = await self._discovery.primary()
            await connection.send_packed_command(_packed(commands))
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disconnect_on_error=False))
                except ResponseError as error:
                    replies.append(_without_frames(error))
        except BaseException:
            # A reply that nobody has read would be taken for the next command's.
            await connection.disconnect(nowait=True)
            raise
        return replies


def _hold_to_rules(connection: Connection, strict: bool) -> None:
    """Before it connects: its TLS, if it has any, is strict or not."""
    if isinstance(connection, SSLConnection):
        strictly(connection.ssl_context.get(), strict)


def _without_frames(error: Exception) -> Exception:
    """Free an error of its frames. The library's frame holds the error as a local: a cycle, which keeps every
    frame up to whoever asked, with the user's text, until the collector comes."""
    return error.with_traceback(None)


def _packed(commands: Sequence[Command]) -> list[bytes]:
    """Commands in RESP, in about a quarter of the library's time; large values are not copied."""
    packed: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        small.append(b"*%d\r\n" % len(command))
        for argument in command:
            value = argument if isinstance(argument, bytes) else str(argument).encode()
            if len(value) < LARGE_BYTES:
                small.append(b"$%d\r\n%b\r\n" % (len(value), value))
            else:
                packed += (b"".join(small), b"$%d\r\n" % len(value), value)
                small = [b"\r\n"]
    packed.append(b"".join(small))
    return packed


def is_wrong_type(reply: object) -> bool:
    """True if a command's key has a value of a type that Headgate does not store there."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def _loggable(exc: BaseException) -> str:
    """The part of a store's error that may be logged: the whole may name hosts, users and values."""
    word = str(exc).partition(" ")[0] if isinstance(exc, ResponseError) else ""
    return word if word.isupper() and word.isalpha() else why(exc)
