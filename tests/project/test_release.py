"""A release is one thing: its version stands in four places, and its wheel says of which commit it is."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from proxy.version import of_commit, release
from tests.project.test_compiled import compiled as hot_path
from tests.servers.ports import free_port
from tests.servers.serving import flag_document

ROOT = Path(__file__).parents[2]
CHECKLIST = (ROOT / "docs/release.md").read_text(encoding="utf-8")
STEP_S = 900.0
"""The longest step compiles: half a minute, on a machine with nothing else to do."""


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


@dataclass(frozen=True)
class Made:
    """What `make wheel` has made, of a checkout."""

    checkout: Path
    pure: Path
    compiled: Path

    @property
    def commit(self) -> str:
        return git(self.checkout, "rev-parse", "--short", "HEAD").strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Both wheels. What an earlier build has left in the checkout is not in them."""
    directory = tmp_path_factory.mktemp("wheels")
    checkout = directory / "checkout"
    git(directory, "clone", "--quiet", "--no-local", "--depth", "1", str(ROOT), str(checkout))
    for left in ("build/wheel/pure/build/lib/proxy/left.py", "dist/headgate-0.0.1-py3-none-any.whl"):
        (checkout / left).parent.mkdir(parents=True)
        (checkout / left).touch()
    make(checkout)
    compiled, pure = sorted((checkout / "dist").iterdir())
    return Made(checkout, pure, compiled)


def make(checkout: Path, **environment: str) -> str:
    """`make wheel`, with what these tests are set up with; the compiler is not asked to take its time."""
    as_it_is = [f"--assume-old={sys.prefix}/{each}" for each in (".demo", ".test")]
    return run(
        ["make", "wheel", f"VENV={sys.prefix}", f"PYTHON={sys.executable}", *as_it_is],
        checkout,
        CFLAGS="-O0",
        **environment,
    )


def test_the_compiled_wheel_is_the_pure_one_and_machine_code(made: Made) -> None:
    """It has the same files, a library for each compiled module, and one that has their code; no C."""
    pure, compiled = (
        {name for name in ZipFile(path).namelist() if ".dist-info/" not in name}
        for path in (made.pure, made.compiled)
    )
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    stubs = {f"{name.replace('.', '/')}{suffix}" for name in hot_path()}

    assert made.pure.name == f"headgate-{version()}-py3-none-any.whl"
    assert made.compiled.name == f"headgate-{version()}-{python}-{python}-{platform}.whl"
    assert compiled - pure == {f"headgate__mypyc{suffix}", *stubs}
    assert pure < compiled
    assert {Path(name).suffix for name in pure} & {".so", ".c", ".h", ".o"} == set()
    assert "proxy/left.py" not in pure


def test_without_a_compiler_only_the_pure_wheel_is_made(made: Made, tmp_path: Path) -> None:
    """One line says so, and the compiled one of before is gone: pip would take that."""
    checkout, tools = tmp_path / "checkout", tmp_path / "bin"
    git(tmp_path, "clone", "--quiet", str(made.checkout), str(checkout))
    (checkout / "dist").mkdir()
    (checkout / "dist" / made.compiled.name).touch()
    tools.mkdir()
    for name in ("make", "sh", "git", "tar", "mkdir", "rm", "ls", "grep"):
        (tools / name).symlink_to(str(shutil.which(name)))

    said = make(checkout, PATH=str(tools))

    assert said.splitlines() == [
        "There is no C compiler (cc): only the pure wheel was made.",
        f"dist/{made.pure.name}",
    ]


def test_a_wheel_of_a_commit_serves_from_a_venv_of_its_own(made: Made, tmp_path: Path) -> None:
    """`make wheel` and the runtime's lock are all: `--version` has the commit, `check` and `serve` work.

    pip takes the compiled one; the pure one works in its place. The log says which.
    """
    venv = tmp_path / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(venv / "bin/python")]
    locked = ["--quiet", "--no-compile", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    run([*pip, "install", *locked, "-r", str(ROOT / "requirements/runtime.lock")])
    (tmp_path / "flags.json").write_text(json.dumps(flag_document(100)))
    settings = {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
        "upstream": {"url": "http://127.0.0.1:9"},
        "flags": {"file": "flags.json"},
        "routes": [],
    }
    (tmp_path / "headgate.yaml").write_text(yaml.safe_dump(settings))
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index"]

    run([*install, "--find-links", str(made.checkout / "dist"), "headgate"])
    was_compiled = [serves(venv, tmp_path, made.commit)]
    run([*install, "--force-reinstall", str(made.pure)])
    was_compiled.append(serves(venv, tmp_path, made.commit))

    assert was_compiled == [True, False]


def serves(venv: Path, directory: Path, commit: str) -> bool:
    """It says its commit, checks its settings, serves and ends. True if it is compiled, as its log has it."""
    said = run([str(venv / "bin/headgate"), "--version"], directory)
    run([str(venv / "bin/headgate"), "check"], directory)
    with subprocess.Popen(
        [str(venv / "bin/headgate"), "serve"], cwd=directory, stderr=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stderr is not None
        log = []
        for line in serving.stderr:
            log.append(line)
            if '"message":"ready"' in line:
                break
        serving.terminate()
        rest = serving.stderr.read()

    assert said == f"headgate, version {version()} (commit {commit})\n"
    assert serving.returncode == 0, "".join([*log, rest])
    return bool(json.loads(log[-1])["compiled"])


def run(command: list[str], cwd: Path | None = None, **environment: str) -> str:
    """Return what a command that succeeds has written."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=STEP_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def git(cwd: Path, *arguments: str) -> str:
    return run(["git", *arguments], cwd=cwd)
