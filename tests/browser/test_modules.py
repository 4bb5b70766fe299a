"""The modules of `browser/`: what they do, their types, their size, and the package that they are."""

import gzip
import json
from pathlib import Path

import pytest

from tests.browser.npm import HERE, MODULES, ROOT, node, npm, tsc

MAX_BYTES = 10 * 1024
"""Of the client, its state, the smoother and all types, compressed together."""

CLIENT = ("client", "sse", "state", "smoother")


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_a_module_does_what_its_tests_say(name: str) -> None:
    """Written in its own language: see the file."""
    printed = node("--test", "--test-reporter=tap", "--test-timeout=30000", name)

    assert "\n# fail 0\n" in printed
    assert "\n# pass 0\n" not in printed


def test_the_types_are_right_and_the_declarations_those_of_the_code(tmp_path: Path) -> None:
    """The checker is as strict as it can be.

    After a change: `tsc -p tests/browser --outDir build/types`, then copy what it has made.
    """
    tsc("--outDir", str(tmp_path))
    made = declarations(tmp_path)

    assert made.keys() == {
        str(path.relative_to(MODULES).with_suffix(".d.ts")) for path in MODULES.rglob("*.js")
    }
    assert made == declarations(MODULES)


def declarations(folder: Path) -> dict[str, str]:
    """Texts by path."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.d.ts")}


def test_the_client_is_small() -> None:
    """It is loaded before the first text can be shown."""
    together = b"".join(
        (MODULES / f"{name}.{kind}").read_bytes() for name in CLIENT for kind in ("js", "d.ts")
    )

    assert len(gzip.compress(together, 9)) <= MAX_BYTES


def test_the_package_installs_and_is_imported_by_its_name(tmp_path: Path) -> None:
    """The package is `headgate-client` in the release's version, with its types and nothing else."""
    packed = json.loads(npm("pack", "--json", f"--pack-destination={tmp_path}", cwd=MODULES))[0]
    app = tmp_path / "app"
    app.mkdir()
    (app / "package.json").write_text('{"name": "app", "private": true, "type": "module"}')
    npm("install", str(tmp_path / packed["filename"]), cwd=app)
    imports = "import('headgate-client').then((m) => console.log(Object.keys(m).includes('StreamClient')))"

    assert node("-e", imports, cwd=app) == "true\n"
    assert f'version = "{packed["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert {Path(file["path"]).suffix for file in packed["files"]} == {".js", ".ts", ".json"}


def test_the_lock_names_no_registry() -> None:
    """The packages come from wherever npm is told to look, and are known by their digests alone."""
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    locked = [package for name, package in packages.items() if name]

    assert locked
    assert all("integrity" in package and "resolved" not in package for package in locked)
