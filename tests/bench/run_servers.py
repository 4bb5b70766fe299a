"""The servers of the bench's runs: a model that streams tokens, and Headgate.

The model's process is `python -m tests.bench.run_servers`. It streams in the shape that most models have.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import uvloop

from tests.bench import servers, upstream
from tests.bench.cores import LOAD_CORE
from tests.bench.servers import Server
from tests.bench.upstream import END_OF_CHUNKS, SSE_HEAD
from tests.servers.ports import free_port

MODULE = "tests.bench.run_servers"
ROUTE = "runs"
HZ = 10
"""Events a second of each run, except in the ramp: about a person's reading speed."""
FAST_HZ = 100
"""In the ramp, as fast as a quick model; at 30 flushes a second, one carries three or four."""
WHOLE_EVENTS = 20
"""Of a run that comes at once and ends."""
KINDS = {"paced": HZ, "fast": FAST_HZ, "idle": 0, "whole": 0}
"""Of runs, as the request's path names them, with events a second."""
TAPPED = "tapped"
"""A run whose upstream asks its model by the model port; the model is as one that is `paced`."""
COMPLETIONS = b"/v1/chat/completions"

GO = b"/go"
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"

STAMP_DIGITS = 9
STAMP_WRAP: int = 10**STAMP_DIGITS  # in µs: a quarter of an hour
GOLDEN_RATIO = 0.618034

NATIVE = {
    "format": "sse",
    "events": [{"data": "[DONE]", "means": "done"}, {"at": "$.choices[0].delta.content"}],
    "answer": {"text": "{{ text $.text }}"},
}
END = b"data: [DONE]\n\n"

GRACE_S = 0.05
"""A run whose viewer has left is cancelled so soon, so that none goes on into the next measurement."""
MAX_RUNS = 10_000
KEPT_BYTES = 4 * 1024**3
BACKLOG = 2048


def clock_us() -> int:
    return time.monotonic_ns() // 1000 % STAMP_WRAP


def token() -> bytes:
    """One event with the time it was made, as one HTTP chunk.

    The stamp is a word of its own with the beginning of the next one behind it: a chunk of the run is
    complete with each token, and none waits for the next to see where its word ends.
    """
    event = b'data: {"id":"c-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":%b}]}\n\n'
    event %= b'{"content":" %0*d ab"}' % (STAMP_DIGITS, clock_us())
    return chunk(event)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_waiting: list["Model"] = []


class Model(upstream.Connection):
    """One connection to the model. Its stream goes on after the first token when all are told to.

    Else those that are open would keep a proxy too busy to open the others.
    """

    _head = b""
    _asking: asyncio.Task[None] | None = None

    def _answer(self, path: bytes) -> None:
        if path == GO:
            self._transport.write(DONE)
            for number, model in enumerate(_waiting):
                model.go_on(number)
            _waiting.clear()
            return
        if path.startswith(b"/" + TAPPED.encode()):
            self._asking = self._loop.create_task(self._ask(int(path.split(b"/")[2])))
            return
        if path == b"/2k":
            self._transport.write(upstream.ANSWERS[path])
            return
        kind = "paced" if path == COMPLETIONS else path.split(b"/")[2].decode()
        if kind == "whole":
            tokens = b"".join([token() for _ in range(WHOLE_EVENTS)])
            self._transport.write(SSE_HEAD + tokens + chunk(END) + END_OF_CHUNKS)
            return
        self._transport.write(SSE_HEAD + token())
        if KINDS[kind]:
            self._every_s = 1 / KINDS[kind]
            _waiting.append(self)

    def data_received(self, data: bytes) -> None:
        self._head = data  # it comes in one read, or the trace context is missed and the run has no text
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self, model_port: int) -> None:
        """Call the model in batch as a backend does, with the trace context that it was given."""
        context = [line for line in self._head.split(b"\r\n") if line.startswith(b"trace")]
        body = b'{"model":"m","messages":[]}'
        head = b"POST /models%b HTTP/1.1\r\nhost: model\r\ncontent-length: %d\r\n" % (COMPLETIONS, len(body))
        reader, writer = await asyncio.open_connection("127.0.0.1", model_port)
        try:
            writer.write(head + b"".join(line + b"\r\n" for line in context) + b"\r\n" + body)
            await reader.read()  # the model goes on for ever: until the run is ended
        finally:
            writer.close()

    def go_on(self, number: int) -> None:
        """Speak from now on, out of step with the others: steps of the golden ratio spread any number."""
        if not self._transport.is_closing():
            self._due = self._loop.time() + self._every_s * (number * GOLDEN_RATIO % 1)
            self._timer = self._loop.call_at(self._due, self._speak)

    def _speak(self) -> None:
        now = self._loop.time()
        while self._due <= now:  # timers have steps of a millisecond
            self._transport.write(token())
            self._due += self._every_s
        self._timer = self._loop.call_at(self._due, self._speak)


async def _serve_model(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Model, "127.0.0.1", port, backlog=BACKLOG)
    gc.freeze()
    await server.serve_forever()


@contextmanager
def model(directory: Path) -> Iterator[Server]:
    port = free_port()
    argv = [sys.executable, "-m", MODULE, "--port", str(port)]
    ready = partial(servers._accepts, port)
    with servers._process("model", argv, directory, core=LOAD_CORE, ready=ready) as pid:
        yield Server(port, pid)


@contextmanager
def headgate(directory: Path, model_port: int, kept: int, *, pure: bool) -> Iterator[Server]:
    port, admin, models = (free_port() for _ in range(3))
    name = f"headgate-{port}"
    config = directory / f"{name}.yaml"
    config.write_text(
        json.dumps(_settings(directory, (port, admin, models, model_port), kept))
    )  # JSON is YAML
    argv = [sys.executable, "-m", "proxy", "serve", "--config", str(config)]
    with servers.headgate_process(name, argv, directory, admin_port=admin, pure=pure) as pid:
        yield Server(port, pid, models)


def _settings(directory: Path, ports: tuple[int, int, int, int], kept: int) -> dict[str, object]:
    flags = directory / "flags-runs.json"
    everybody = {"name": "headgate.streaming", "enabled": True, "strategies": [{"name": "default"}]}
    flags.write_text(json.dumps({"version": 2, "features": [everybody]}))
    port, admin, models, model = ports
    by_user = {"max_runs": MAX_RUNS, "unwatched": "cancel", "grace_s": GRACE_S}
    sections = [{"stage": "text", "at": "$.text"}]
    return {
        "listen": f"127.0.0.1:{port}",
        "admin": f"127.0.0.1:{admin}",
        "upstream": {"url": f"http://127.0.0.1:{model}"},
        "flags": {"file": str(flags)},
        "identity": {"jwt": None, "header": "x-user"},
        "event_log": {"memory": {"runs": kept, "bytes": KEPT_BYTES}},
        "drain_s": 0,
        "llm": {
            "listen": f"127.0.0.1:{models}",
            "providers": [{"name": "models", "url": f"http://127.0.0.1:{model}"}],
        },
        "routes": [
            {
                "name": ROUTE,
                "match": "POST /runs/{kind}/{id}",
                "source": "native",
                "native": NATIVE,
                "sections": sections,
                **by_user,
            },
            {
                "name": TAPPED,
                "match": f"POST /{TAPPED}/{{port}}/{{id}}",
                "source": "tap",
                "tap": {"calls": [{"stage": "text"}]},
                "sections": sections,
                **by_user,
            },
        ],
    }


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """The model."""
    uvloop.run(_serve_model(port))


if __name__ == "__main__":
    main()
