"""The sample upstream and its model as processes of their own, on free ports, fast."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from examples.clinic.settings import DEMO_SECRET
from examples.clinic.tokens import demo_token

ROOT = Path(__file__).parent.parent
START_S = 20.0
STOP_S = 10.0

CASE_TEXT = "A 58-year-old woman with fever of 38.9 °C and productive cough for 4 days — SpO₂ 91 %."


@dataclass(frozen=True)
class RunningClinic:
    url: str
    model_url: str
    """Base URL of the model server, without `/v1`; empty when the clinic asks another one."""
    data_dir: Path
    pid: int

    def token(self, user: str = "ada", **claims: object) -> str:
        return demo_token(user, DEMO_SECRET, **claims)

    def headers(self, user: str = "ada") -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(user)}"}

    def client(self, user: str | None = "ada") -> httpx.Client:
        """A client, signed in unless `user` is None; the caller closes it."""
        headers = self.headers(user) if user else {}
        # No TLS here, and loading the certificates for it takes longer than most tests.
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=False)

    def log(self) -> str:
        """What the clinic wrote to its standard error."""
        return (self.data_dir / "clinic.log").read_text()


@contextmanager
def running_clinic(
    *,
    workers: int = 1,
    blocking: bool = False,
    first_token_s: float = 0.01,
    tokens_per_s: float = 5000,
    tokens: int = 60,
    seed: int = 7,
    port: int = 0,
    openai_base_url: str | None = None,
    environ: Mapping[str, str] | None = None,
    launcher: Sequence[str] = (),
) -> Iterator[RunningClinic]:
    """A clinic that listens, and a model behind it unless `openai_base_url` names another.

    Args:
        workers: processes of the clinic.
        blocking: one running stage freezes its whole process, as in the reference. Off for concurrency.
        first_token_s: seconds before each of the model's answers starts.
        environ: on top of the environment, such as `OPENAI_MODEL=fault-503:diagnosis`.
        launcher: a command to put before the clinic's, such as `opentelemetry-instrument`.
    """
    with tempfile.TemporaryDirectory(prefix="clinic-") as directory:
        data_dir = Path(directory)
        pace = {"first_token_s": first_token_s, "tokens_per_s": tokens_per_s, "tokens": tokens, "seed": seed}
        with _model_unless(openai_base_url, data_dir / "model.log", pace) as model_url:
            settings = {
                "CLINIC_BLOCKING": "1" if blocking else "0",
                "CLINIC_RETRY_SCALE": "0",
                "CLINIC_DEMO": "1",
                "OPENAI_BASE_URL": openai_base_url or f"{model_url}/v1",
            }
            options = ["--port", str(port), "--workers", str(workers), "--data", directory]
            command = [*launcher, sys.executable, "-m", "examples.clinic", *options]
            with _process(command, data_dir / "clinic.log", settings | dict(environ or {})) as (pid, url):
                yield RunningClinic(url, model_url, data_dir, pid)


@contextmanager
def running_model(
    *,
    first_token_s: float = 0.01,
    tokens_per_s: float = 5000,
    tokens: int = 60,
    seed: int = 7,
    log: Path = Path(os.devnull),
) -> Iterator[str]:
    """The model server alone; yields its URL without `/v1`."""
    values = {"first-token-s": first_token_s, "tokens-per-s": tokens_per_s, "tokens": tokens, "seed": seed}
    options = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "examples.clinic.model", "--port", "0", *options]
    with _process(command, log, {}) as (_, url):
        yield url


@contextmanager
def _model_unless(openai_base_url: str | None, log: Path, pace: Mapping[str, float]) -> Iterator[str]:
    if openai_base_url is not None:
        yield ""
        return
    with running_model(**pace, log=log) as url:  # type: ignore[arg-type]
        yield url


@contextmanager
def _process(command: Sequence[str], log: Path, environ: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Wait for the line with the URL; on the way out, stop the process and every child it made."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        yield process.pid, _url(process)
    finally:
        _stop(process)


def _url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if ready else ""
    assert " listens on " in line, f"{process.args!r} did not start: {line!r}"
    return line.split()[-1]


def _stop(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        # Its own session, so the group is the process and its workers and nobody else.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_S)
    process.stdout.close()
