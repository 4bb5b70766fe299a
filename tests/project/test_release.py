"""A release is one thing: its version stands in four places, and its wheel says of which commit it is."""

import json
import re
import subprocess
import sys
import tomllib
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from proxy.version import of_commit, release
from tests.servers.ports import free_port
from tests.servers.serving import flag_document

ROOT = Path(__file__).parents[2]
CHECKLIST = (ROOT / "docs/release.md").read_text(encoding="utf-8")
STEP_S = 120.0


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def test_the_version_is_one() -> None:
    """In the project, the chart, what the chart deploys, and the image."""
    chart = yaml.safe_load((ROOT / "helm/Chart.yaml").read_text(encoding="utf-8"))
    image = re.search(r'image\.version="(.+?)"', (ROOT / "Dockerfile").read_text(encoding="utf-8"))

    assert image is not None
    assert {chart["version"], chart["appVersion"], image[1]} == {version()}


def test_every_command_and_file_of_the_checklist_is_there() -> None:
    """Each `make` of the list is a target, and each file a file."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"`make (\w+)`", CHECKLIST)
    files = re.findall(r"`((?!build/)[\w./]+\.(?:py|toml|yaml|md)|Dockerfile)`", CHECKLIST)

    assert targets and [target for target in targets if not re.search(rf"(?m)^{target}:", makefile)] == []
    assert files and [name for name in files if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("written", "said", "local"),
    [
        ("1a2b3c4", " (commit 1a2b3c4)", "+1a2b3c4"),
        ("$Format:%h$", "", ""),
        ("", "", ""),
        ("xyz", "", ""),
    ],
)
def test_a_commit_is_said_where_it_is_known(written: str, said: str, local: str) -> None:
    """A checkout has the placeholder, and says no commit."""
    assert of_commit(written) == said
    assert release(written) == version() + local


def test_a_wheel_of_a_commit_serves_from_a_venv_of_its_own(tmp_path: Path) -> None:
    """`make wheel` and the runtime's lock are all: `--version` has the commit, `check` and `serve` work."""
    checkout, venv = tmp_path / "checkout", tmp_path / "venv"
    git(tmp_path, "clone", "--quiet", "--no-local", "--depth", "1", str(ROOT), str(checkout))
    run(["make", "wheel", f"VENV={sys.prefix}", "--assume-old", f"{sys.prefix}/.demo"], cwd=checkout)
    (wheel,) = (checkout / "dist").glob("*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(venv / "bin/python")]
    locked = ["--quiet", "--no-compile", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    run([*pip, "install", *locked, "-r", str(ROOT / "requirements/runtime.lock")])
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)])
    (tmp_path / "flags.json").write_text(json.dumps(flag_document(100)))
    settings = {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
        "upstream": {"url": "http://127.0.0.1:9"},
        "flags": {"file": "flags.json"},
        "routes": [],
    }
    (tmp_path / "headgate.yaml").write_text(yaml.safe_dump(settings))

    said = run([str(venv / "bin/headgate"), "--version"], cwd=tmp_path)
    run([str(venv / "bin/headgate"), "check"], cwd=tmp_path)
    with subprocess.Popen(
        [str(venv / "bin/headgate"), "serve"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stderr is not None
        said_first = list(takewhile(lambda line: '"message":"ready"' not in line, serving.stderr))
        serving.terminate()
        rest = serving.stderr.read()

    commit = git(checkout, "rev-parse", "--short", "HEAD").strip()
    assert said == f"headgate, version {version()} (commit {commit})\n"
    assert serving.returncode == 0, "".join([*said_first, rest])


def run(command: list[str], cwd: Path | None = None) -> str:
    """Return what a command that succeeds has written."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=STEP_S, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def git(cwd: Path, *arguments: str) -> str:
    return run(["git", *arguments], cwd=cwd)
