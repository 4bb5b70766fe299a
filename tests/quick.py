"""The tests that start no server and no process: those of `make quick`."""

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

STARTERS = {"subprocess", "multiprocessing", "socket", "uvicorn", "asyncio.start_server"}
"""The modules by which a test starts a server or a process, itself or by others of the tests and examples."""

OURS = {"tests", "examples"}


@cache
def is_served(path: Path) -> bool:
    """True if the tests of a module may start a server or a process."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        names = _used(here)
        if names & STARTERS:
            return True
        waiting += [file for name in names if name.split(".")[0] in OURS and (file := _file(name))]
    return False


def refuse_to_serve() -> None:
    """From now on this process listens on no port and starts no other; for as long as it lives."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.bind", "subprocess.Popen"):
        raise RuntimeError(f"{event}: a test that starts a server must use one of {sorted(STARTERS)} by name")


@cache
def _used(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
    return frozenset(names)


def _file(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)
