"""`headgate demo`: the sample upstream, its model, and a Headgate in front, each a process of its own."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import click
import httpx

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "clinic"
ROLLOUT = ROOT / "examples" / "rollout"
HOST = "127.0.0.1"

ON_LOOPBACK = {**os.environ, "no_proxy": HOST}
"""The environment, for requests that pass no proxy on their way to this host."""

START_S = 180.0
"""Seconds for each process to answer. On a slow and busy machine the first start takes most of a minute."""

STOP_S = 4.0
"""Seconds in which a process may end by itself before it is killed."""

POLL_S = 0.1
LOOK_S = 0.5
"""Between two looks whether the demo's parent process is still there."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TETHER = """
read -r group || exit
read -r _
kill -TERM "-$group"
for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; kill -0 "-$group" || exit; done
kill -KILL "-$group"
"""
"""A script for a shell: it reads the id of a process group, and ends the group once this process is gone."""


def run(port: int) -> None:
    """Run the demo until a signal comes. Raises `FileNotFoundError` outside a checkout."""
    if not EXAMPLE.is_dir():
        raise FileNotFoundError("the demo runs from a checkout: its sample upstream is not installed")
    with ExitStack() as stack:
        stack.enter_context(terminable())
        claim(port)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-demo-")))
        url = f"http://{HOST}:{port}"
        # Free ports, so that several demos can run side by side.
        ports = DemoPorts(port, *stack.enter_context(free_ports(4)))
        for name in ("flags.json", "headgate.yaml"):
            (directory / name).write_text((EXAMPLE / name).read_text())
        environment = ports.environment(directory)
        serving: list[subprocess.Popen[bytes]] = []
        # The proxy last: who finds its port open finds all behind it.
        *behind, proxy = ports.commands(directory)
        for together in (behind, [proxy]):
            begun = [
                (ready, stack.enter_context(process(command, environment))) for command, ready in together
            ]
            for ready, each in begun:
                await_ready(ready, each)
            serving += [each for _, each in begun]
        for each in serving:
            stack.callback(each.terminate)  # all are terminated before any is waited for
        click.echo(f"\n  Open      {url}/app/live.html   streamed and batch, side by side")
        click.echo(
            f"  or        {url}/app/attached.html   the batch-only frontend, unchanged, with live text"
        )
        click.echo(f"  or        {url}/app/   the same without")
        click.echo(f"  metrics   http://{HOST}:{ports.admin}/metrics")
        click.echo("  Ctrl-C ends it.\n")
        await_the_end()


class DemoPorts(NamedTuple):
    """The ports of the demo's processes."""

    public: int
    model: int
    clinic: int
    admin: int
    model_port: int

    def environment(self, directory: Path) -> dict[str, str]:
        return {
            **ON_LOOPBACK,
            # The clinic's language model is Headgate's model port, without knowing it.
            "OPENAI_BASE_URL": f"http://{HOST}:{self.model_port}/openai/v1",
            "CLINIC_FLAGS_FILE": str(directory / "flags.json"),
            "CLINIC_DEMO": "1",
            # The page sends two requests at once; blocking workers would answer them in turn.
            "CLINIC_BLOCKING": "0",
            "HEADGATE_LISTEN": f"{HOST}:{self.public}",
            "HEADGATE_ADMIN": f"{HOST}:{self.admin}",
            "HEADGATE_UPSTREAM": f"http://{HOST}:{self.clinic}",
            "HEADGATE_LLM": f"{HOST}:{self.model_port}",
            "HEADGATE_MODEL": f"http://{HOST}:{self.model}",
        }

    def commands(self, directory: Path) -> list[tuple[list[str], str]]:
        """The processes, the proxy last, each with an address that answers when it is ready."""
        clinic = ["examples.clinic", "--otel", "--workers", "2", "--data", str(directory)]
        headgate = ["proxy", "serve", "--config", str(directory / "headgate.yaml")]
        return [
            (["examples.clinic.model", "--port", str(self.model)], f"http://{HOST}:{self.model}/v1/models"),
            ([*clinic, "--port", str(self.clinic)], f"http://{HOST}:{self.clinic}/health"),
            (headgate, f"http://{HOST}:{self.admin}/readyz"),
        ]


def show_rollout(port: int) -> None:
    """Show rollouts in a terminal, by `examples.rollout`. Raises as `run` does."""
    if not ROLLOUT.is_dir():
        raise FileNotFoundError("the demo runs from a checkout: its example is not installed")
    with terminable():
        claim(port)
        with process(["examples.rollout", "--port", str(port)], ON_LOOPBACK) as showing:
            code = showing.wait()
    raise SystemExit(code)


def claim(port: int) -> None:
    """Raises ClickException, which says what to do, if the port cannot be listened on."""
    try:
        _bound(port).close()
    except OSError as exc:
        why = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be had ({exc.strerror})"
        advice = "--port moves the demo to another (make run PORT=…)"
        raise click.ClickException(f"port {port} of {HOST} {why}: {advice}") from None


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Free ports, all different.

    On Linux they stay this demo's until the block is left: no connection of others gets one for its own side.
    """
    with ExitStack() as stack:
        bound = [stack.enter_context(_bound(0)) for _ in range(count)]
        ports = [one.getsockname()[1] for one in bound]
        if sys.platform != "linux":
            stack.close()  # there nobody could listen on a port that another socket is bound to
        yield ports


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        raise
    return bound


@contextmanager
def terminable() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the demo quietly; a second signal does not interrupt that."""

    def stop(*_: object) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)

    for number in STOP_SIGNALS:
        # Under `nohup` the demo is to outlive the terminal.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    yield


def await_the_end() -> None:
    """Wait for a signal, or, in a terminal or under make, until the parent process is gone."""
    parent = os.getppid()
    is_watched = sys.stdout.isatty() or "MAKELEVEL" in os.environ
    while not is_watched or os.getppid() == parent:
        time.sleep(LOOK_S)


@contextmanager
def process(
    command: list[str], environment: Mapping[str, str], *, quiet: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of this checkout, with all that it starts, until the block ends. `quiet` drops its
    output."""
    nowhere = subprocess.DEVNULL
    with ExitStack() as stack:
        # Sessions of their own: Ctrl-C reaches this process alone, which then ends them in order.
        tether = subprocess.Popen(
            ["/bin/sh", "-c", TETHER],
            stdin=subprocess.PIPE,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,
        )
        stack.callback(_untie, tether)
        running = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stderr=nowhere if quiet else None,
            stdout=nowhere if quiet else None,
        )
        stack.callback(_end, running)
        assert tether.stdin is not None
        tether.stdin.write(b"%d\n" % running.pid)
        tether.stdin.flush()
        yield running


def _end(running: subprocess.Popen[bytes]) -> None:
    running.terminate()
    with suppress(subprocess.TimeoutExpired):
        running.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)  # and whatever it has left behind
    running.wait()


def _untie(tether: subprocess.Popen[bytes]) -> None:
    tether.kill()
    tether.communicate()


def await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a URL answers with 200.

    Raises ClickException, which says why: the process has ended, or it has not answered after START_S.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise click.ClickException(f"what was to serve {url} has ended; see the messages above")
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=1, trust_env=False).status_code == 200:
                return
        time.sleep(POLL_S)
    raise click.ClickException(f"{url} does not answer after {START_S:g} s; see the messages above")
