"""The servers of the bench, each a context manager: started on a free loopback port, pinned to
its core, and stopped by its own process id when the block is left. Their files are in a directory of the run.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cores import LOAD_CORE, PROXY_CORE
from tests.bench.results import Target
from tests.servers.ports import free_port

READY_S = 60.0
STOP_S = 5.0
LOOK_S = 0.01
HEADGATE = Path(sys.executable).with_name("headgate")
COMPILED = Path(__file__).parents[2] / "build/compiled"
"""Where `make compiled` puts a Headgate with its hot path as machine code, as a compiled wheel has it."""
KEEP_ALIVE = "keepalive_requests 100000000;"  # by itself nginx closes a connection after 1,000

NGINX_CONF = """\
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    {keep_alive}
    upstream app {{ server 127.0.0.1:{upstream}; keepalive 512; {keep_alive} }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_read_timeout 300s;
    server {{
        listen 127.0.0.1:{unbuffered};
        location / {{ proxy_pass http://app; proxy_buffering off; }}
    }}
    server {{
        listen 127.0.0.1:{buffered};
        location / {{ proxy_pass http://app; }}
    }}
}}
"""


class NotStarted(Exception):
    """A server did not become ready; the text says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. `pid` is None where there is no proxy."""

    port: int
    pid: int | None
    model_port: int = 0
    """Of a Headgate, where the upstream's model calls come."""


@contextmanager
def upstream(directory: Path) -> Iterator[Server]:
    """The bench's own upstream, on the core of the load."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.bench.upstream", "--port", str(port)]
    with _process("upstream", argv, directory, core=LOAD_CORE, ready=lambda: _accepts(port)) as pid:
        yield Server(port, pid)


@contextmanager
def nginx(directory: Path, upstream_port: int) -> Iterator[dict[Target, Server]]:
    """nginx with one worker: a port with `proxy_buffering off`, and one with its own defaults."""
    unbuffered, buffered = free_port(), free_port()
    conf = directory / "nginx.conf"
    conf.write_text(
        NGINX_CONF.format(
            user="user root;" if os.geteuid() == 0 else "",  # the run's directory is its starter's alone
            dir=directory,
            upstream=upstream_port,
            unbuffered=unbuffered,
            buffered=buffered,
            keep_alive=KEEP_ALIVE,
        )
    )
    argv = ["nginx", "-e", "stderr", "-c", str(conf), "-p", str(directory)]
    with _process("nginx", argv, directory, core=PROXY_CORE, ready=lambda: _accepts(buffered)) as pid:
        yield {Target.NGINX: Server(unbuffered, pid), Target.NGINX_BUFFERED: Server(buffered, pid)}


@contextmanager
def naive(directory: Path, upstream_port: int, *, connections: int = 100) -> Iterator[Server]:
    """The proxy that everyone writes."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.bench.naive", "--port", str(port)]
    argv += ["--upstream", f"http://127.0.0.1:{upstream_port}", "--connections", str(connections)]
    with _process("naive", argv, directory, core=PROXY_CORE, ready=lambda: _accepts(port)) as pid:
        yield Server(port, pid)


def environment(*, pure: bool) -> dict[str, str]:
    """Of a Headgate that is compiled, or is not: of its process alone, for all else is as it is without."""
    if pure:
        return dict(os.environ)
    # Not the working directory, which would stand before it.
    return {**os.environ, "PYTHONPATH": str(COMPILED), "PYTHONSAFEPATH": "1"}


@contextmanager
def headgate_process(
    name: str, argv: list[str], directory: Path, *, admin_port: int, pure: bool
) -> Iterator[int]:
    """A Headgate that says that it is compiled, or if `pure` that it is not; another is not measured."""
    log = directory / f"{name}.log"

    def ready() -> bool:
        return _answers(admin_port) and bool(_ready_lines(log))

    its_own = environment(pure=pure)
    with _process(name, argv, directory, core=PROXY_CORE, ready=ready, environment=its_own) as pid:
        if any(line["compiled"] is pure for line in _ready_lines(log)):
            raise NotStarted(f"{name} is {'compiled' if pure else 'not compiled; `make compiled` does that'}")
        yield pid


@contextmanager
def headgate(directory: Path, upstream_port: int, *, pure: bool) -> Iterator[Server]:
    """Headgate with no routes: everything is relayed."""
    port, admin = free_port(), free_port()
    (directory / "flags.json").write_text(json.dumps({"version": 1, "features": []}))
    settings = directory / "headgate.yaml"
    settings.write_text(  # JSON is YAML
        json.dumps(
            {
                "listen": f"127.0.0.1:{port}",
                "admin": f"127.0.0.1:{admin}",
                "upstream": {"url": f"http://127.0.0.1:{upstream_port}"},
                "flags": {"file": "flags.json"},
                "routes": [],
            },
            indent=2,
        )
    )
    argv = [str(HEADGATE), "serve", "--config", str(settings)]
    with headgate_process("headgate", argv, directory, admin_port=admin, pure=pure) as pid:
        yield Server(port, pid)


@contextmanager
def everything(directory: Path, *, pure: bool) -> Iterator[tuple[dict[Target, Server], dict[Target, str]]]:
    """All servers side by side, and the reason for each one that is not there."""
    running: dict[Target, Server] = {}
    absent: dict[Target, str] = {}
    with ExitStack() as stack:
        origin = stack.enter_context(upstream(directory))
        try:
            running[Target.HEADGATE] = stack.enter_context(headgate(directory, origin.port, pure=pure))
        except NotStarted as exc:
            absent[Target.HEADGATE] = str(exc)
        running |= stack.enter_context(nginx(directory, origin.port))
        running[Target.NAIVE] = stack.enter_context(naive(directory, origin.port))
        running[Target.DIRECT] = Server(origin.port, None)
        yield running, absent


@contextmanager
def _process(
    name: str,
    argv: list[str],
    directory: Path,
    *,
    core: int,
    ready: Callable[[], bool],
    environment: dict[str, str] | None = None,
) -> Iterator[int]:
    log = directory / f"{name}.log"
    with log.open("wb") as out:
        # taskset becomes the program: the process id is its own, and all its threads inherit the core.
        pinned = ["taskset", "-c", str(core), *argv]
        child = subprocess.Popen(
            pinned, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    try:
        _wait(name, child, log, ready)
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(name: str, child: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + READY_S
    while not ready():
        if child.poll() is not None or time.monotonic() > give_up:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise NotStarted(f"{name} is not ready: {' '.join(last) or 'it says nothing'}")
        time.sleep(LOOK_S)


def _ready_lines(log: Path) -> list[dict[str, object]]:
    """What each worker has said when it began to serve."""
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in lines if line["message"] == "ready"]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, or an answer that is not 200
        return False
