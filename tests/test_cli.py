"""The command line, as its user meets it."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from proxy.cli import main
from tests.servers.client import eventually, opened, signed
from tests.servers.ports import free_port
from tests.servers.serving import flag_document
from tests.servers.streaming import EXTRACTION, START, SUMMARY, Held, answer, answering, route, served_before


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    return written(tmp_path / "headgate.yaml")


def written(path: Path, **more: Any) -> Path:
    path.write_text(
        yaml.safe_dump({"upstream": {"url": "http://127.0.0.1:8000"}, "routes": [route()], **more})
    )
    return path


def headgate(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})


def test_check_says_which_providers_were_tried_with_recorded_streams(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text(json.dumps(flag_document()))
    providers = [
        {"name": "groq", "url": "https://api.groq.com"},
        {"name": "mine", "url": "http://127.0.0.1:11434", "api": "ollama"},
    ]
    checked = headgate("check", "--config", str(written(tmp_path / "h.yaml", llm={"providers": providers})))

    rows = {line.split("│")[1].strip(): line for line in checked.stdout.splitlines() if "│" in line}
    assert "chat completions" in rows["groq (openai)"]
    assert "none of this host: read as documented" in rows["mine (ollama)"]


def test_check_prints_the_route_table(config: Path) -> None:
    """Exit code 0, and what will happen to which request."""
    result = headgate("check", "--config", str(config))

    assert result.exit_code == 0
    assert result.stderr.startswith("event_log.valkey is not set: each process knows its own runs alone.")
    assert "127.0.0.1:8080 → http://127.0.0.1:8000" in result.stdout
    for word in ("start", "POST /api/cases/{case_id}/start", "headgate.streaming", "batch", "summary → chat"):
        assert word in result.stdout
    assert "(everything else)" in result.stdout
    assert "relayed untouched" in result.stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_bad_settings_end_it_with_every_problem(config: Path, command: str) -> None:
    """Exit code 1; one line a problem, on standard error, with the file and the place."""
    written(config, listen="nowhere", log={"levl": "info"})

    result = headgate(command, "--config", str(config))

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "headgate.yaml: listen: must be HOST:PORT, for example 127.0.0.1:8080",
        "headgate.yaml: log.levl: unknown setting; did you mean 'level'?",
    ]


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_missing_settings_file_is_said(tmp_path: Path, command: str) -> None:
    """Exit code 1, and no traceback."""
    result = headgate(command, "--config", str(tmp_path / "headgate.yaml"))

    assert result.exit_code == 1
    assert result.stderr == "headgate.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("command", ["check", "serve"])
def test_flags_that_cannot_be_used_are_said(config: Path, command: str) -> None:
    """A missing or broken flag file is a problem at the start, not a silent batch for everybody."""
    flags = config.parent / "flags.json"
    for content in (None, "{", "[]"):
        flags.unlink(missing_ok=True)
        if content is not None:
            flags.write_text(content)
        result = headgate(command, "--config", str(config))

        assert result.exit_code == 1, content
        assert result.stderr.startswith("flags.file: ")
        assert "Traceback" not in result.output


def test_a_busy_port_is_said(config: Path) -> None:
    """Exit code 1, with the address; the other one is not left bound."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        for more in ({"listen": address}, {"listen": f"127.0.0.1:{free_port()}", "admin": address}):
            result = headgate("serve", "--config", str(written(config, **more)))
            assert result.exit_code == 1
            assert result.stderr == f"{address}: cannot listen there: Address already in use\n"


def test_an_address_that_is_nobodys_is_said(config: Path) -> None:
    """Not an address of this machine."""
    written(config, listen="192.0.2.1:80")
    result = headgate("serve", "--config", str(config))
    assert result.exit_code == 1
    assert result.stderr == "192.0.2.1:80: cannot listen there: Cannot assign requested address\n"


def test_settings_by_which_a_client_can_pass_for_another_are_in_the_log(config: Path) -> None:
    """Once, when the process starts, with the setting and what to do."""
    written(config, listen="192.0.2.1:80", identity={"header": "x-user"})
    warned, *rest = headgate("serve", "--config", str(config)).stderr.splitlines()
    assert "settings can do harm" in warned
    assert "identity.header" in warned
    assert "trusted_proxies" in warned
    assert len(rest) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands(shell: str) -> None:
    """The script that the shell reads is there for each."""
    result = CliRunner().invoke(main, env={"_HEADGATE_COMPLETE": f"{shell}_source"}, prog_name="headgate")
    assert "_HEADGATE_COMPLETE" in result.output


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--workers", "x"], ["--port", "1"]])
def test_options_that_make_no_sense_are_refused(config: Path, arguments: list[str]) -> None:
    """With click's exit code 2."""
    assert headgate("serve", "--config", str(config), *arguments).exit_code == 2


def test_the_version_waits_for_no_server_to_be_imported() -> None:
    """A shell that completes a word, and a script that asks for the version, ask often."""
    program = (
        "import sys, proxy.cli\n"
        "proxy.cli.main(['--version'], standalone_mode=False)\n"
        "print(sorted({'httpx', 'uvicorn', 'pydantic', 'flags.engine', 'proxy.app'} & sys.modules.keys()))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert said.stdout.splitlines()[1:] == ["[]"]


def test_help_and_version() -> None:
    """All commands are named, and the version is the distribution's."""
    assert {"serve", "check", "demo"} <= set(headgate("--help").output.split())
    assert headgate("--version").output.startswith("headgate, version ")
    # A process of its own: click keeps the first help option that anybody asked a command for.
    short = subprocess.run([sys.executable, "-m", "proxy", "-h"], capture_output=True, text=True, check=True)
    assert "Usage: " in short.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_open_streams_finish(tmp_path: Path, number: signal.Signals) -> None:
    """No new connections, the open stream goes on to its end, then exit code 0; the log says so in JSON.

    It also says that a checkout is not compiled.
    """
    held = Held(answering(answer()))
    async with served_before(held, tmp_path, routes=[route(commit_after=0)]) as (_, serving, client):
        async with opened(client, START, signed()) as stream:
            await stream.piece()
            serving.process.send_signal(number)
            await eventually(lambda: unreachable(serving.url))
            held.release.set()
            await stream.rest()
        async with asyncio.timeout(10):
            code = await serving.process.wait()

    assert code == 0
    assert stream.texts() == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert stream.last["type"] == "stream_done"
    lines = [json.loads(line) for line in serving.log.read_text().splitlines()]
    messages = [line["message"] for line in lines]
    for message in ("ready", "draining", "run ended", "request", "stopped"):
        assert message in messages
    assert {line["level"] for line in lines} == {"info"}
    assert [line["compiled"] for line in lines if line["message"] == "ready"] == [False]


async def unreachable(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    return False
