"""An earlier state of Headgate, for tests of upgrades: its packages out of git's history, on this venv."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

COMMIT = "69a2a9cd1be844cc7619358e41d91cf81ed2fc84"
"""Before traces, and before the store's key could be changed. It has the operators' page.

It runs on today's locked packages, with the example's settings of today. Name a later one when it cannot.
"""

PACKAGES = ("proxy", "flags", "browser")


def is_known() -> bool:
    """True if the history is here: a shallow clone does not have it, nor an archive."""
    if shutil.which("git") is None:
        return False
    known = subprocess.run(["git", "cat-file", "-e", f"{COMMIT}^{{tree}}"], cwd=ROOT, capture_output=True)
    return known.returncode == 0


def release_before(directory: Path) -> Path:
    """A folder with it, in which `python -m proxy` is that release."""
    folder = directory / "before"
    folder.mkdir()
    archive = subprocess.run(["git", "archive", COMMIT, *PACKAGES], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def this_release(directory: Path) -> Path:
    """A folder with today's packages. As in an image they know their commit, where the history is here."""
    folder = directory / "now"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    if is_known():
        named = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, check=True
        )
        (folder / "proxy" / "commit.txt").write_bytes(named.stdout)
    return folder
