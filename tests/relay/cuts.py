"""Exchanges that are made up, with each side's bytes cut and joined anywhere: what comes out is what went in.

Both ends are transports without sockets, so that a read is exactly the piece that was chosen. The parts
between are the real ones. `make cuts` is the long form.
"""

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import click
import httptools
import uvicorn
from uvicorn.server import ServerState

from proxy.app import running
from proxy.downstream.admission import Connections
from proxy.downstream.admitting import admitting
from proxy.http.forwarded import last_named
from proxy.settings.settings import Settings
from tests.relay.made_up import Answer, Exchange, Fields, made_up
from tests.servers.serving import flag_document
from tests.servers.streaming import route

OF_A_ROUTE: dict[str, Any] = {
    "routes": [route(match="POST /{id}", stream_path=None)],
    "identity": {"jwt": None, "header": "x-n"},
}
"""Settings with which each POST is of a route, and decided batch in one of three arms."""

STUCK_S = 30.0


class Wire(asyncio.Transport):
    """One end of a connection: what the proxy writes is given to a function."""

    def __init__(self, wrote: Callable[[bytes], None]) -> None:
        super().__init__()
        self._wrote = wrote
        self.is_closed = False
        self.reads = True
        self.protocol = asyncio.BaseProtocol()

    def write(self, data: Any) -> None:
        assert isinstance(data, bytes)
        if not self.is_closed:
            self._wrote(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise AssertionError("nothing is upgraded here")

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 80), "peername": ("10.0.0.7", 999)}.get(name, default)


class Reader:
    """Reads messages with a parser, strictly; its own for each connection."""

    def __init__(self, parser: type, done: Callable[["Reader"], None] | None = None) -> None:
        self.parser = parser(self)
        self.url = self.body = b""
        self.headers: Fields = []
        self.trailers: Fields = []
        self._fields = self.headers
        self._done = done

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._fields = self.trailers

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self._done is not None:
            self._done(self)
        self.url = self.body = b""
        self.headers, self.trailers = [], []
        self._fields = self.headers


class UpstreamEnd:
    """A connection to the upstream, which plays the exchanges that are asked for."""

    def __init__(self, game: "Game", protocol: asyncio.Protocol) -> None:
        self.game = game
        self.protocol = protocol
        self.wire = Wire(self._take)
        self.reader = Reader(httptools.HttpRequestParser, self._whole)
        self.unsent = b""
        self.answered = False
        self.closes = False
        self.method = b""
        protocol.connection_made(self.wire)

    def _take(self, data: bytes) -> None:
        if not self.method:  # a request begins: the parser would refuse a method that it does not know
            self.method, _, rest = data.partition(b" ")
            data = b"PUT " + rest
        try:
            self.reader.parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.game.flaws.append(f"the upstream cannot read it: {exc}")
        if self.reader.url and self.reader.headers:
            self._answer_early()

    def _exchange(self) -> Exchange:
        return self.game.exchanges[int(self.reader.url[1:])]

    def _answer_early(self) -> None:
        exchange = self._exchange()
        has_head = (b"x-n", self.reader.url[1:]) in self.reader.headers
        if has_head and not self.answered and exchange.after < len(exchange.body):
            if not exchange.body.startswith(self.reader.body):
                self.game.flaws.append("the upstream got another body")
            if len(self.reader.body) >= exchange.after:
                self._answer(exchange)

    def _whole(self, reader: Reader) -> None:
        exchange = self._exchange()
        if self.method != exchange.method:
            self.game.flaws.append(f"{reader.url!r}: the upstream got another method")
        self.method = b""
        if reader.body != exchange.body or (b"x-n", reader.url[1:]) not in reader.headers:
            self.game.flaws.append(f"{reader.url!r}: the upstream got another request")
        if reader.trailers != exchange.trailers:
            self.game.flaws.append(f"{reader.url!r}: the upstream got other trailers")
        if not self.answered:
            self._answer(exchange)
        self.answered = False

    def _answer(self, exchange: Exchange) -> None:
        self.answered = True
        self.unsent += exchange.answer
        self.closes = self.closes or exchange.breaks

    def move(self, size: int) -> bool:
        """Let the proxy read a piece. False: there is nothing to read."""
        if self.wire.is_closed or not self.wire.reads:
            return False
        if self.unsent:
            piece, self.unsent = self.unsent[:size], self.unsent[size:]
            self.protocol.data_received(piece)
            return True
        if self.closes:
            self.closes = False
            self.wire.is_closed = True
            self.protocol.eof_received()
            self.protocol.connection_lost(None)
            return True
        return False


@dataclass
class Game:
    """One client connection, what it asks, and the connections to the upstream that it leads to."""

    rng: random.Random
    exchanges: list[Exchange]
    leaves_at: int | None = None
    """Bytes after which the client leaves."""
    unsent: bytes = b""
    """Of the client."""
    got: bytes = b""
    flaws: list[str] = field(default_factory=list)
    ends: list[UpstreamEnd] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unsent = b"".join(exchange.request for exchange in self.exchanges)[: self.leaves_at]

    def size(self) -> int:
        return self.rng.choice([1, 1, 2, 3, 17, 200, 5_000, 1 << 20])

    async def play(self, protocol: asyncio.Protocol, wire: Wire) -> None:
        """Move either side, in any order, until the client has all that it asked for, or has left."""
        loop = asyncio.get_running_loop()
        moved_at = loop.time()
        while not wire.is_closed:
            if self._move(protocol, wire):
                moved_at = loop.time()
                if self.rng.random() < 0.2:
                    await asyncio.sleep(0)
            elif not self.unsent and self.has_all():
                break
            else:
                await asyncio.sleep(0.001 if loop.time() - moved_at > 0.01 else 0)
            if not self.unsent and self.leaves_at is not None:
                break
            if loop.time() - moved_at > STUCK_S:
                self.flaws.append("nothing moves")
                break
        wire.is_closed = True
        protocol.connection_lost(None)

    def _move(self, protocol: asyncio.Protocol, wire: Wire) -> bool:
        """Let the proxy read a piece from some of the connections. Returns whether there was any."""
        moved = False
        if self.unsent and wire.reads and self.rng.random() < 0.7:
            size = self.size()
            piece, self.unsent = self.unsent[:size], self.unsent[size:]
            protocol.data_received(piece)
            moved = True
        for end in self.ends:
            if self.rng.random() < 0.7:
                moved = end.move(self.size()) or moved
        return moved

    def has_all(self) -> bool:
        """True if the client has a whole answer to each request."""
        rest = self.got
        read: list[Answer] = []
        for exchange in self.exchanges:
            rest = _read_one(rest, exchange.method == b"HEAD", read)
        return len(read) == len(self.exchanges)


def judge(game: Game) -> list[str]:
    """Return what is wrong with the client's bytes, beside those that the upstream has sent."""
    flaws, rest = list(game.flaws), game.got
    for number, exchange in enumerate(game.exchanges):
        read: list[Answer] = []
        rest = _read_one(rest, exchange.method == b"HEAD", read)
        if not read:
            if game.leaves_at is None and exchange.is_whole:
                flaws.append(f"/{number}: no whole answer")
            break
        status, headers, body, trailers = read[0]
        is_ours = any(value == b"application/problem+json" for _, value in headers)
        if is_ours and not exchange.is_whole and status == 502:
            continue
        if exchange.is_whole and trailers != exchange.answer_trailers:
            flaws.append(f"/{number}: other trailers")
        if not exchange.is_whole:
            flaws.append(f"/{number}: a broken answer looks whole")
        if (status, body) != (exchange.status, exchange.answer_body) or (
            b"x-n",
            b"%d" % number,
        ) not in headers:
            flaws.append(f"/{number}: another answer, {status} with {len(body)} bytes")
        if exchange.breaks and exchange.after < len(exchange.body) and (b"connection", b"close") in headers:
            break  # an early answer, behind which the upstream closes: so does the proxy
    return flaws


def _read_one(data: bytes, to_head: bool, read: list[Answer]) -> bytes:
    """Read one final answer. Returns what follows it."""
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return data
        line, *lines = head.split(b"\r\n")
        status = int(line.split(b" ")[1])
        if status >= 200:
            break
        data = rest
    pairs = (line.partition(b": ") for line in lines)
    headers = [(name, value) for name, _, value in pairs]
    length = next((value for name, value in headers if name == b"content-length"), None)
    body, trailers = b"", Fields()
    if to_head or status in {204, 304}:
        pass
    elif length is not None:
        body, rest = rest[: int(length)], rest[int(length) :]
        if len(body) < int(length):
            return data
    else:
        found = _read_chunks(rest)
        if found is None:
            return data
        body, trailers, rest = found
    read.append((status, headers, body, trailers))
    return rest


def _read_chunks(rest: bytes) -> tuple[bytes, Fields, bytes] | None:
    """A body in chunks, its trailers, and what follows. None: it has no end yet."""
    body, trailers = b"", Fields()
    while True:
        size, end, rest = rest.partition(b"\r\n")
        count = int(size, 16) if end else -1
        if not end or len(rest) < count + 2:
            return None
        if not count:
            break
        body, rest = body + rest[:count], rest[count + 2 :]
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if not line:
            return body, trailers, rest
        name, _, value = line.partition(b": ")
        trailers.append((name, value))


class Table:
    """A Headgate whose connections are wires; `play` one game after another."""

    def __init__(self, config: uvicorn.Config, connections: Connections, pool: Any) -> None:
        loop = asyncio.get_running_loop()
        self._port = admitting(connections, last_named)(config, ServerState(), {}, loop)
        self._pool = pool
        self._game: Game | None = None

    async def connect(self, make: Callable[[], asyncio.Protocol], *_: Any, **__: Any) -> Any:
        """In the place of the loop's own."""
        assert self._game is not None
        protocol = make()
        await asyncio.sleep(0)
        end = UpstreamEnd(self._game, protocol)
        self._game.ends.append(end)
        return end.wire, protocol

    async def play(self, seed: int) -> list[str]:
        rng = random.Random(seed)
        exchanges = [made_up(number, rng) for number in range(rng.randint(1, 4))]
        leaves_at = None
        if rng.random() < 0.15:
            leaves_at = rng.randrange(sum(len(exchange.request) for exchange in exchanges))
        game = Game(rng, exchanges, leaves_at)
        self._game = game
        protocol = self._port()

        def take(data: bytes) -> None:
            game.got += data

        wire = Wire(take)
        wire.protocol = protocol
        protocol.connection_made(cast(asyncio.Transport, wire))
        await game.play(protocol, wire)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        flaws = judge(game)
        if self._pool.in_use:
            flaws.append(f"{self._pool.in_use} connections stay in use")
        await self._pool.aclose()
        return flaws


@asynccontextmanager
async def table(directory: Path, **more: Any) -> AsyncIterator[Table]:
    """`more` are settings."""
    flags = directory / "flags.json"
    flags.write_text(json.dumps(flag_document(30)))
    settings = Settings.model_validate(
        {"upstream": {"url": "http://127.0.0.1:9"}, "flags": {"file": str(flags)}, "routes": [], **more}
    )
    async with running(settings, directory) as app:
        config = uvicorn.Config(
            app.gateway,  # type: ignore[arg-type]
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            proxy_headers=False,
            date_header=False,
            server_header=False,
            ws="none",
        )
        config.load()
        found = Table(config, app.connections, app.gateway.relay._upstream)
        loop: Any = asyncio.get_running_loop()
        own, loop.create_connection = loop.create_connection, found.connect
        try:
            yield found
        finally:
            loop.create_connection = own


async def _main(seed: int, rounds: int) -> int:
    with tempfile.TemporaryDirectory() as directory:
        for first, more in ((seed, {}), (seed + rounds // 2, OF_A_ROUTE)):
            async with table(Path(directory), **more) as playing:
                for number in range(first, first + rounds // 2):
                    if flaws := await playing.play(number):
                        click.echo(f"seed {number}: {'; '.join(flaws)}")
                        return 1
    click.echo(f"{rounds} connections, cut and joined anywhere: each answer is the upstream's own")
    return 0


@click.command()
@click.option("--seed", default=1)
@click.option("--rounds", default=20_000)
def main(seed: int, rounds: int) -> None:
    """Play so many connections, each with the next seed."""
    raise SystemExit(asyncio.run(_main(seed, rounds)))


if __name__ == "__main__":
    main()
