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

import click
import httpx

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "clinic"
ROLLOUT = ROOT / "examples" / "rollout"
HOST = "127.0.0.1"

ON_LOOPBACK = {**os.environ, "no_proxy": HOST}
"""Whatever else this machine asks through a proxy."""

START_S = 30.0
STOP_S = 4.0
"""To end by itself. What a demo has under way is worth no more."""

POLL_S = 0.1
LOOK_S = 0.5
"""Between two looks whether whoever began the demo is still there."""

ENDS_IT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TETHER = """
read -r group || exit
read -r _
kill -TERM "-$group"
for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; kill -0 "-$group" || exit; done
kill -KILL "-$group"
"""
"""For a shell: it is told of a process group, and ends it when this process is gone, however it went."""


def run(port: int) -> None:
    """Run the demo until it is told to end. Raises `FileNotFoundError` where there is no checkout."""
    if not EXAMPLE.is_dir():
        raise FileNotFoundError("the demo runs from a checkout: its sample upstream is not installed")
    with ExitStack() as stack:
        stack.enter_context(terminable())
        claim(port)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-demo-")))
        url = f"http://{HOST}:{port}"
        # Whichever are free, so that another demo can stand beside this one, on the next port too.
        model, clinic, admin, model_port = free_ports(4)
        flag_file = directory / "flags.json"
        flag_file.write_text((EXAMPLE / "flags.json").read_text())
        config = directory / "headgate.yaml"
        environment = {
            **ON_LOOPBACK,
            # The clinic's language model is Headgate's model port, and it does not know.
            "OPENAI_BASE_URL": f"http://{HOST}:{model_port}/openai/v1",
            "CLINIC_FLAGS_FILE": str(flag_file),
            "CLINIC_DEMO": "1",
            # The page has two requests under way at once; workers that block would answer them in turn.
            "CLINIC_BLOCKING": "0",
            "HEADGATE_LISTEN": f"{HOST}:{port}",
            "HEADGATE_ADMIN": f"{HOST}:{admin}",
            "HEADGATE_UPSTREAM": f"http://{HOST}:{clinic}",
            "HEADGATE_LLM": f"{HOST}:{model_port}",
            "HEADGATE_MODEL": f"http://{HOST}:{model}",
        }
        config.write_text((EXAMPLE / "headgate.yaml").read_text())
        serving: list[subprocess.Popen[bytes]] = []
        for command, ready in (
            (["examples.clinic.model", "--port", str(model)], f"http://{HOST}:{model}/v1/models"),
            (
                [
                    *("examples.clinic", "--otel", "--port", str(clinic)),
                    *("--workers", "2", "--data", str(directory)),
                ],
                f"http://{HOST}:{clinic}/health",
            ),
            (["proxy", "serve", "--config", str(config)], f"http://{HOST}:{admin}/readyz"),
        ):
            serving.append(stack.enter_context(process(command, environment)))
            await_ready(ready, serving[-1])
        for each in serving:
            stack.callback(each.terminate)  # all are told to end before any is waited for
        click.echo(f"\n  Open      {url}/app/live.html   streamed and batch, side by side")
        click.echo(f"  or        {url}/app/            the batch-only frontend, unchanged")
        click.echo(f"  metrics   http://{HOST}:{admin}/metrics")
        click.echo("  Ctrl-C ends it.\n")
        await_the_end()


def show_rollout(port: int) -> None:
    """Whole rollouts in a terminal, by the example that is a program of its own. Raises as `run` does."""
    if not ROLLOUT.is_dir():
        raise FileNotFoundError("the demo runs from a checkout: its example is not installed")
    with terminable():
        claim(port)
        with process(["examples.rollout", "--port", str(port)], ON_LOOPBACK) as showing:
            code = showing.wait()
    raise SystemExit(code)


def claim(port: int) -> None:
    """Raises ClickException if nobody can listen there, and says what to do."""
    try:
        _bound(port).close()
    except OSError as exc:
        taken = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be had ({exc.strerror})"
        mend = "--port moves the demo to another (make run PORT=…)"
        raise click.ClickException(f"port {port} of {HOST} {taken}: {mend}") from None


def free_ports(count: int) -> list[int]:
    """Different ones that nobody listens on now."""
    with ExitStack() as stack:
        bound = [stack.enter_context(_bound(0)) for _ in range(count)]
        return [one.getsockname()[1] for one in bound]


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
    """Ctrl-C, SIGTERM and a closed terminal end it quietly; once more, and they do not cut that short."""

    def stop(*_: object) -> None:
        for number in ENDS_IT:
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)

    for number in ENDS_IT:
        # Whoever begins it by `nohup` wants it to outlive the terminal.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    yield


def await_the_end() -> None:
    """Until a signal comes, or whoever shows the demo to a person is gone: a terminal's shell, or make."""
    parent = os.getppid()
    is_watched = sys.stdout.isatty() or "MAKELEVEL" in os.environ
    while not is_watched or os.getppid() == parent:
        time.sleep(LOOK_S)


@contextmanager
def process(
    command: list[str], environment: Mapping[str, str], *, quiet: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A module of this checkout with all that it starts, until the block ends; `quiet` takes its words."""
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
    """Until it answers with 200. Raises ClickException if it does not in START_S, or has ended."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=1, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(POLL_S)
    raise click.ClickException(f"{url} does not answer; see the messages above")
