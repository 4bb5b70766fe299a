"""Node and npm of the locked dependencies, and what `npm ci` has installed for the tests of `browser/`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODULES = ROOT / "browser"
NODE = Path(sys.executable).with_name("node")
DEADLINE_S = 120


def node(*arguments: str, cwd: Path = HERE) -> str:
    """Return what a command of Node prints; its failure is the test's."""
    return _printed(str(NODE), *arguments, cwd=cwd)


def npm(*arguments: str, cwd: Path) -> str:
    """The same of npm, which asks no server for anything."""
    return _printed(str(NODE.with_name("npm")), *arguments, "--offline", "--no-audit", "--no-fund", cwd=cwd)


def tsc(*arguments: str) -> str:
    """The same of the types' checker."""
    checker = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    if not checker.is_file():
        pytest.skip("the types' checker is not here: npm ci --prefix tests/browser")
    return node(str(checker), "-p", ".", *arguments)


def _printed(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
