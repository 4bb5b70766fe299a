"""Every shell block of the documentation is typed by a test: by one of these, or by the one named here."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import jwt
import yaml

from proxy.text.sse import Decoder
from tests.project.shell_blocks import blocks
from tests.project.test_docs import PROSE, ROOT
from tests.servers.client import eventually, texts
from tests.servers.llama_server import llama_server
from tests.servers.ports import free_port, is_listened_on
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import headgate, token

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
OPERATE = ROOT / "docs" / "operate.md"
DASHBOARDS = ROOT / "docs" / "dashboards.md"
ROLLOUT = ROOT / "docs" / "rollout.md"
SOURCES = ROOT / "docs" / "sources.md"
ADOPT = ROOT / "docs" / "adopt.md"
WHY = ROOT / "docs" / "why-batch.md"

TYPED_HERE = {
    README: 3,
    CONTRIBUTING: 1,
    OPERATE: 3,
    DASHBOARDS: 1,
    ROLLOUT: 2,
    SOURCES: 1,
    WHY: 10,
    ADOPT: 1,
}
"""Pages, and how many blocks they have."""

TYPED_ELSEWHERE = {
    ROOT / "docs" / "first-monday.md": "test_monday.py",
    ROOT / "docs" / "install.md": "test_image.py",
    **{page: "test_dashboards.py" for page in (ROOT / "docs" / "runbooks").glob("*.md")},
}

WHY_KILLED = (
    "headgate-decision: batch;reason=killed",
    "answer",
    '"killed":true',
    "headgate_flag_age_seconds",
    "headgate_flag_context_missing_total 0",
    "stream, arm stream (flag_on)",
    "batch, arm stream (accept)",
    'reason="breaker_open"',
    "ok      upstream: answers",
    'headgate_tap_calls_total{result="tapped"} 0',
)
"""What the ten questions' commands say where the kill switch is on, in their order."""

ANSWER = "http://127.0.0.1:8080/api/questions/7/answer"
START_S = 180.0
ROLLOUT_S = 600.0
TOKEN = "a-token-of-the-tests"


def test_every_shell_block_is_typed_by_a_test() -> None:
    """A page with a new one fails here until a test types it."""
    found = {page: len(blocks(page)) for page in PROSE if blocks(page)}

    assert {page: n for page, n in found.items() if page not in TYPED_ELSEWHERE} == TYPED_HERE
    assert TYPED_ELSEWHERE.keys() <= found.keys()
    assert blocks(ROOT / "docs" / "install.md") == ["make sbom\n"]


@asynccontextmanager
async def typed(block: str, directory: Path, more: Mapping[str, str] = {}) -> AsyncIterator[None]:
    """A block that goes on until it is ended, as by Ctrl-C."""
    running = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block),
        cwd=directory,
        env={**os.environ, **more},
        stdout=DEVNULL,
        start_new_session=True,
    )
    try:
        yield
        assert running.returncode is None, "it ended by itself"
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        await running.wait()


async def said(block: str, directory: Path, more: Mapping[str, str] = {}) -> str:
    """Return the output of a block that ends by itself, and well."""
    code, output = await ended(block, directory, more)
    assert code == 0, output
    return output


async def ended(block: str, directory: Path, more: Mapping[str, str]) -> tuple[int | None, str]:
    """The exit code and the output of a block that ends by itself."""
    running = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block),
        cwd=directory,
        env={**os.environ, **more},
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await running.communicate()
    return running.returncode, output.decode()


def checkout(directory: Path) -> Path:
    """A folder in which `.venv/bin/…` is what the tests run on."""
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


async def answer(asked: Asked) -> None:
    await asked.read_body()
    await asked.answer(json.dumps({"answer": {"text": "Rest, and drink a lot."}}).encode())


async def test_the_readmes_five_minutes_and_the_kill_switch(tmp_path: Path) -> None:
    """Its files, its commands, its ports but for the numbers; the same request is batch once it is killed."""
    page = README.read_text(encoding="utf-8")
    public, admin = free_port(), free_port()
    [settings] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    [flags] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    _, serve, ask = blocks(README)
    explain, stalls, switch = blocks(OPERATE)
    kill, unkill = switch.splitlines()
    directory = checkout(tmp_path)
    (directory / "flags.json").write_text(flags)
    token = jwt.encode({"sub": "somebody"}, "a key that nobody here verifies it with", "HS256")
    path = f"{sys.prefix}/bin:{os.environ['PATH']}"
    environment = {"TOKEN": token, "HEADGATE_ADMIN_TOKEN": TOKEN, "PATH": path}

    def here(text: str) -> str:
        return text.replace(":8080", f":{public}").replace(":9464", f":{admin}")

    async with ScriptedUpstream(answer).running() as upstream:
        moved = here(re.sub(r"(?m)^   ", "", settings)).replace("http://127.0.0.1:8000", upstream.url)
        (directory / "headgate.yaml").write_text(f"admin: 127.0.0.1:{admin}\n{moved}")
        own_token = serve.replace("$(openssl rand -hex 32)", TOKEN)
        async with typed(own_token, directory), httpx.AsyncClient(trust_env=False) as client:

            async def is_ready() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{admin}/readyz")).is_success
                except httpx.TransportError:
                    return False

            await eventually(is_ready, START_S)
            streamed = await said(here(ask), directory, environment)
            await said(here(kill), directory, environment)
            killed = (await client.get(f"http://127.0.0.1:{admin}/readyz")).json()["kill_switch"]
            explained = await said(explain, directory, environment)
            longest = await said(here(stalls), directory, environment)
            asked = {**environment, "ADMIN": here("http://127.0.0.1:9464"), "URL": here(ANSWER)}
            why = await asyncio.gather(*(ended(block, directory, asked) for block in blocks(WHY)))
            in_one_piece = await said(here(ask), directory, environment)
            await said(here(unkill), directory, environment)

    head, _, body = streamed.partition("\r\n\r\n")
    assert "headgate-decision: stream;reason=flag_on;source=batch" in head
    events = [json.loads(event.data) for event in Decoder(max_event_bytes=1 << 16).feed(body.encode())]
    assert texts(events) == {"answer": "Rest, and drink a lot."}
    assert (killed["reason"], killed["by"]) == ("why", "anna")
    assert "anna on answer: stream, arm stream (flag_on)" in explained
    assert "headgate-decision: batch;reason=killed" in in_one_piece
    assert json.loads(longest)["stalls"] is not None
    # The examination warns of what this test leaves out, and says so by its exit code.
    assert [code for code, _ in why] == [0] * 8 + [1, 0]
    for (_, output), expected in zip(why, WHY_KILLED, strict=True):
        assert expected in output


async def test_the_commands_that_come_first_are_make_targets() -> None:
    """They are shown, not carried out: these tests are one, and another runs the demo as a person would."""
    shown = {
        line: await said(line.replace("make", "make --dry-run"), ROOT)
        for page in (README, CONTRIBUTING)
        for line in blocks(page)[0].splitlines()
    }
    commands = {line.split()[1]: output for line, output in shown.items()}

    assert commands.keys() == {"run", "test", "quick"}
    assert "headgate demo" in commands["run"]
    assert "tests.prove" in commands["test"]
    assert "tests.prove --quick" in commands["quick"]


async def test_the_rules_lead_to_runbooks_where_one_serves_them(tmp_path: Path) -> None:
    """In a copy of the checkout, since the command writes there."""
    directory = checkout(tmp_path)
    for package in ("dashboards", "flags", "proxy"):
        shutil.copytree(ROOT / package, directory / package)
    [block] = blocks(DASHBOARDS)

    await said(block, directory)

    rules = (directory / "dashboards" / "rules.yaml").read_text(encoding="utf-8")
    assert "https://wiki.example.org/headgate/runbooks/HeadgateAnswersFail.md" in rules
    assert rules != (ROOT / "dashboards" / "rules.yaml").read_text(encoding="utf-8")


async def test_the_demo_shows_a_rollout_and_one_that_goes_back(tmp_path: Path) -> None:
    """On ports of its own here, and with no terminal; the journal is made to tell it all again at the end."""
    block, _ = blocks(ROLLOUT)  # test_journal.py types the other one

    async with asyncio.timeout(ROLLOUT_S):
        shown = await said(f"{block.strip()} --port {free_port()}", checkout(tmp_path))

    for words in (
        "a person: headgate rollout approve",
        "complete: 70 % of the users stream",
        "rolled back to 0 %",
    ):
        assert words in shown
    assert re.search(r"\d+ decisions, 0 differ", shown)


async def test_the_guides_backend_streams_the_words_of_an_openai_compatible_server(tmp_path: Path) -> None:
    """Its settings, its code with the openai package, under OpenTelemetry's own command, and its commands.

    The packages are there already, so nothing is fetched. The server is llama.cpp's.
    """
    page = ADOPT.read_text(encoding="utf-8")
    [settings] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [start], [asked] = blocks(SOURCES), blocks(ADOPT)
    guided = yaml.safe_load(settings)
    (tmp_path / "main.py").write_text(code)
    (tmp_path / "model").mkdir()
    with llama_server(tmp_path / "model") as model:
        guided["llm"]["providers"][0]["url"] = model
        port = free_port()
        async with headgate(
            f"http://127.0.0.1:{port}", tmp_path, routes=guided["routes"], llm=guided["llm"]
        ) as serving:
            places = {":8090": serving.model_url, ":8080": serving.url, ":9464": serving.admin_url}
            for documented, place in places.items():
                asked = asked.replace(f"http://127.0.0.1{documented}", place)
            environment = {
                "OPENAI_API_KEY": "a key",
                "OPENAI_BASE_URL": f"{serving.model_url}/models/v1",
                "UVICORN_PORT": str(port),
                "TOKEN": token(),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            async with typed(start, tmp_path, environment):
                await eventually(lambda: is_listened_on(port), START_S)
                models, streamed, tapped = [
                    await said(line, tmp_path, environment) for line in asked.splitlines()
                ]

    assert json.loads(models)["data"][0]["id"]
    events = [json.loads(event.data) for event in Decoder(max_event_bytes=1 << 16).feed(streamed.encode())]
    assert events[-1]["type"] == "stream_done"
    assert texts(events)["answer"]
    assert tapped.split()[-1] == "1.0"
