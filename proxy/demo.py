"""`headgate demo`: the sample upstream, its model, and a Headgate in front, each a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import httpx

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "clinic"
ROLLOUT = ROOT / "examples" / "rollout"

START_S = 30.0
STOP_S = 10.0
POLL_S = 0.1


def run(port: int) -> None:
    """Run the demo until Ctrl-C. Raises `FileNotFoundError` where there is no checkout."""
    if not EXAMPLE.is_dir():
        raise FileNotFoundError("the demo runs from a checkout: its sample upstream is not installed")
    with ExitStack() as stack:
        stack.enter_context(terminable())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-demo-")))
        url = f"http://127.0.0.1:{port}"
        model, clinic, admin, model_port = (port + offset for offset in (1, 2, 3, 4))
        flag_file = directory / "flags.json"
        flag_file.write_text((EXAMPLE / "flags.json").read_text())
        config = directory / "headgate.yaml"
        environment = {
            **os.environ,
            # The clinic's language model is Headgate's model port, and it does not know.
            "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/openai/v1",
            "CLINIC_FLAGS_FILE": str(flag_file),
            "CLINIC_DEMO": "1",
            # The page has two requests under way at once; workers that block would answer them in turn.
            "CLINIC_BLOCKING": "0",
            "HEADGATE_LISTEN": f"127.0.0.1:{port}",
            "HEADGATE_ADMIN": f"127.0.0.1:{admin}",
            "HEADGATE_UPSTREAM": f"http://127.0.0.1:{clinic}",
            "HEADGATE_LLM": f"127.0.0.1:{model_port}",
            "HEADGATE_MODEL": f"http://127.0.0.1:{model}",
        }
        config.write_text((EXAMPLE / "headgate.yaml").read_text())
        for command, ready in (
            (["examples.clinic.model", "--port", str(model)], f"http://127.0.0.1:{model}/v1/models"),
            (
                [
                    *("examples.clinic", "--otel", "--port", str(clinic)),
                    *("--workers", "2", "--data", str(directory)),
                ],
                f"http://127.0.0.1:{clinic}/health",
            ),
            (["proxy", "serve", "--config", str(config)], f"http://127.0.0.1:{admin}/readyz"),
        ):
            serving = stack.enter_context(process(command, environment))
            await_ready(ready, serving)
        click.echo(f"\n  Open      {url}/app/live.html   streamed and batch, side by side")
        click.echo(f"  or        {url}/app/            the batch-only frontend, unchanged")
        click.echo(f"  metrics   http://127.0.0.1:{admin}/metrics")
        click.echo("  Ctrl-C ends it.\n")
        signal.pause()


def show_rollout(port: int) -> None:
    """Whole rollouts in a terminal, by the example that is a program of its own. Raises as `run` does."""
    if not ROLLOUT.is_dir():
        raise FileNotFoundError("the demo runs from a checkout: its example is not installed")
    with terminable():
        ended = subprocess.run(
            [sys.executable, "-m", "examples.rollout", "--port", str(port)], cwd=ROOT, check=False
        )
    raise SystemExit(ended.returncode)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGINT end the demo quietly."""

    def stop(*_: object) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    yield


@contextmanager
def process(
    command: list[str], environment: dict[str, str], *, quiet: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A module of this checkout, run until the block ends; `quiet` takes its words away."""
    # Its own session: Ctrl-C reaches this process alone, which then ends them in order.
    running = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stderr=subprocess.DEVNULL if quiet else None,
        stdout=subprocess.DEVNULL if quiet else None,
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(STOP_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until it answers with 200. Raises ClickException if it does not in START_S, or has ended."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(POLL_S)
    raise click.ClickException(f"{url} does not answer; see the messages above")
