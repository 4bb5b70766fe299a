"""The sample upstream and its model as fast processes on free ports, and a model that remembers."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

from examples.clinic.settings import DEMO_SECRET, PROVIDERS
from examples.clinic.tokens import demo_token

ROOT = Path(__file__).parents[2]
START_S = 180.0
STOP_S = 10.0

CASE_TEXT = "A 58-year-old woman with fever of 38.9 °C and productive cough for 4 days — SpO₂ 91 %."


def provider_environ(provider: str, model_url: str) -> dict[str, str]:
    """Return the variables that make the clinic ask a model by that provider's package; `model_url` is
    without `/v1`."""
    url = f"{model_url}/v1" if PROVIDERS[provider].url.endswith("/v1") else model_url
    return {"LLM_PROVIDER": provider, PROVIDERS[provider].url_name: url}


@dataclass(frozen=True)
class Asked:
    """One call of a model."""

    path: str
    headers: dict[str, str]
    """By names in lower case."""
    body: dict[str, Any]


@dataclass
class RecordingModel:
    """Answers every call in the shape it is asked in, with `status` and one text, and remembers the call."""

    status: int = 200
    text: str = "# Text"
    answer: object = None
    """In place of the text's own."""
    before: Callable[[Asked], object] | None = None
    """Called with each call before it is answered, in a thread of its own; it may take its time."""
    calls: list[Asked] = field(default_factory=list)

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [call.body for call in self.calls]

    @property
    def prompts(self) -> list[str]:
        return [one["messages"][-1]["content"] for one in self.asked]

    @property
    def tasks(self) -> list[str]:
        return [prompt.splitlines()[0].removeprefix("Task: ") for prompt in self.prompts]

    def reply(self, path: str) -> object:
        if self.answer is not None:
            return self.answer
        if self.status != 200:
            return {"error": {"code": self.status, "message": "as told", "status": "AS_TOLD"}}
        if "generateContent" in path:
            return {"candidates": [{"content": {"role": "model", "parts": [{"text": self.text}]}}]}
        return {"choices": [{"message": {"role": "assistant", "content": self.text}}]}

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on a free port; yields the URL, without `/v1`."""
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                content = self.rfile.read(int(headers["content-length"]))
                asked = Asked(self.path, headers, json.loads(content))
                model.calls.append(asked)
                if model.before:
                    model.before(asked)
                body = json.dumps(model.reply(self.path)).encode()
                self.send_response(model.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


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
        """Return what the clinic wrote to its standard error."""
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
    provider: str = "openai",
    openai_base_url: str | None = None,
    model_url: str | None = None,
    model_switches: Sequence[str] = (),
    otel: bool = False,
    environ: Mapping[str, str] | None = None,
    launcher: Sequence[str] = (),
) -> Iterator[RunningClinic]:
    """A clinic that listens, and a model behind it unless `openai_base_url` or `model_url` names another.

    Args:
        workers: processes of the clinic.
        blocking: one running stage freezes its whole process, as in the reference. Off for concurrency.
        first_token_s: seconds before each of the model's answers starts.
        provider: whose package the clinic asks the model with; see `provider_environ`.
        openai_base_url: of a model elsewhere, as OpenAI's package wants it, with `/v1`.
        model_url: of a model elsewhere, without `/v1`, for any provider.
        model_switches: of the model behind it, such as `--blank-end`.
        otel: the clinic starts itself under `opentelemetry-instrument`.
        environ: on top of the environment, such as `OPENAI_MODEL=fault-503:diagnosis`.
        launcher: a command to put before the clinic's, such as `opentelemetry-instrument`.
    """
    with tempfile.TemporaryDirectory(prefix="clinic-") as directory:
        data_dir = Path(directory)
        pace = {"first_token_s": first_token_s, "tokens_per_s": tokens_per_s, "tokens": tokens, "seed": seed}
        elsewhere = model_url or openai_base_url
        with _model_unless(elsewhere, data_dir / "model.log", pace, model_switches) as own_url:
            settings = {
                "CLINIC_BLOCKING": "1" if blocking else "0",
                "CLINIC_RETRY_SCALE": "0",
                "CLINIC_DEMO": "1",
                **provider_environ(provider, model_url or own_url),
                **({"OPENAI_BASE_URL": openai_base_url} if openai_base_url else {}),
            }
            options = ["--port", str(port), "--workers", str(workers), "--data", directory]
            options += ["--otel"] if otel else []
            command = [*launcher, sys.executable, "-m", "examples.clinic", *options]
            with _process(command, data_dir / "clinic.log", settings | dict(environ or {})) as (pid, url):
                yield RunningClinic(url, own_url, data_dir, pid)


@contextmanager
def running_model(
    *,
    first_token_s: float = 0.01,
    tokens_per_s: float = 5000,
    tokens: int = 60,
    seed: int = 7,
    log: Path = Path(os.devnull),
    switches: Sequence[str] = (),
) -> Iterator[str]:
    """The model server alone; yields its URL without `/v1`. `switches`: such as `--blank-end`."""
    values = {"first-token-s": first_token_s, "tokens-per-s": tokens_per_s, "tokens": tokens, "seed": seed}
    options = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "examples.clinic.model", "--port", "0", *options, *switches]
    with _process(command, log, {}) as (_, url):
        yield url


@contextmanager
def _model_unless(
    elsewhere: str | None, log: Path, pace: Mapping[str, float], switches: Sequence[str]
) -> Iterator[str]:
    if elsewhere is not None:
        yield ""
        return
    with running_model(**pace, log=log, switches=switches) as url:  # type: ignore[arg-type]
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
