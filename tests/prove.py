"""The steps of `make test` and `make quick`: format, lint, types, tests; they say what was proved."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import click

from tests.quick import is_served

ROOT = Path(__file__).parent.parent

CHECKS = {
    "format": ["ruff", "format", "--check", "--quiet", "."],
    "lint": ["ruff", "check", "--quiet", "."],
    "types": ["mypy"],
}

COMPILED = ROOT / "build/compiled"
"""Where `make compiled` puts the hot path as machine code."""

HOT = [
    "relay",
    "upstream",
    "downstream",
    "http",
    "routed",
    "timers",
    "observe/test_deliveries.py",
    "observe/test_unmatched.py",
    "settings/test_routes.py",
    "workers/test_fair_share.py",
    "workers/test_unix_sockets.py",
    "text/test_events.py",
    "text/test_sse.py",
    "text/test_event_log.py",
    "text/test_chunking.py",
    "text/test_live_text.py",
    "viewers/test_viewer.py",
    "viewers/test_catch_up.py",
    "viewers/test_crowd.py",
    "sources/test_source_native.py",
    "sources/test_native_rules.py",
    "llm/test_taps.py",
    "llm/test_model_port.py",
    "llm/test_whole_bodies.py",
    "llm/test_repeated_events.py",
    "runs/test_runs.py",
    "runs/test_forgotten.py",
    "replicas/test_shared_runs.py",
    "replicas/test_takeover.py",
]
"""The tests of what is compiled, and of those who use it most: they run against it once more."""

BY_FILE = ["--dist", "loadfile", "--no-loadscope-reorder"]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


@dataclass(frozen=True)
class Suite:
    """One session of pytest."""

    name: str
    options: list[str]
    environment: dict[str, str] | None = None
    """None: this process's own."""


def all_suites() -> list[Suite]:
    # By file, since pytest would else import all.
    alone = [str(path) for path in TESTS if "mark.alone" in path.read_text(encoding="utf-8")]
    hot = [f"tests/{folder}" for folder in HOT] + ["tests/project/test_compiled.py"]
    # The checkout, which would stand first, has the rest.
    path = os.pathsep.join([str(COMPILED), str(ROOT)])
    compiled = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    # Five at a time on two cores, since most tests wait for servers more than they compute.
    crowd = ["-m", "not alone", "-n", "5", *BY_FILE]
    return [
        Suite("tests", crowd),
        Suite("tests of what is compiled", [*crowd, "--import-mode=append", *hot], compiled),
        Suite("tests that need the machine to themselves", ["-m", "alone", *alone]),
    ]


def quick_suites() -> list[Suite]:
    """Those of `make quick`. They compute: one process for each core."""
    # By file: each process that runs tests would else import all of them, for a quarter of the time in all.
    files = [str(path) for path in TESTS if not is_served(path)]
    return [Suite("tests that start no server", ["-m", "not served", "-n", "auto", *BY_FILE, *files])]


@dataclass(frozen=True)
class Count:
    """Tests of one or more sessions of pytest."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


def main() -> int:
    """Run the checks up to the first that fails, and then all tests. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the tests that start a server")
    is_quick = parser.parse_args().quick
    began = time.monotonic()
    for name, command in CHECKS.items():
        if not _step(name, [str(Path(sys.executable).with_name(command[0])), *command[1:]]):
            return 1
    count, all_pass = Count(), True
    for suite in quick_suites() if is_quick else all_suites():
        with tempfile.NamedTemporaryFile(suffix=".xml") as report:
            command = [sys.executable, "-m", "pytest", *suite.options, f"--junitxml={report.name}"]
            if _step(suite.name, command, suite.environment):
                count += counted(Path(report.name).read_bytes())
            else:
                all_pass = False
    if not all_pass:
        return 1
    click.echo(closing_line(count, time.monotonic() - began, is_quick=is_quick))
    return 0


def _step(name: str, command: list[str], environment: dict[str, str] | None = None) -> bool:
    click.echo(f"\n== {name}")
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def counted(report: bytes) -> Count:
    """Of a report in JUnit's XML, as pytest writes it."""
    suites = ElementTree.fromstring(report).iter("testsuite")
    count = Count()
    for suite in suites:
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        count += Count(int(suite.get("tests", 0)) - failed - skipped, failed, skipped)
    return count


def closing_line(count: Count, seconds: float, *, is_quick: bool = False) -> str:
    """The last line: what was proved, and how long it took."""
    minutes, rest = divmod(round(seconds), 60)
    scope = "all tests that start no server" if is_quick else "all tests"
    skipped = f"{count.skipped} were skipped, see above" if count.skipped else "none was skipped"
    return (
        f"\nProved in {minutes} min {rest} s: format, lint and types are clean, and "
        f"{scope} pass: {count.passed:,}; {skipped}."
    )


if __name__ == "__main__":
    sys.exit(main())
