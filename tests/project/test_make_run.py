"""The first of the two commands, as whoever has just cloned the project types it, with an empty home."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.journeys.test_browser import CHROMIUM, QUIET
from tests.project.terminal import CTRL_C, shown
from tests.servers.ports import free_port

ROOT = Path(__file__).parents[2]
BOUND_S = 600.0
"""Seconds for everything, on a slow machine with much other work: it installs all of the demo."""

# The left side shows text while the right one has none yet.
AHEAD = """() => {
    const said = side => document.querySelector(`#${side} headgate-panel`).shadowRoot
        .querySelector(".text")?.innerText.length > 20;
    return said("streamed") && !said("whole");
}"""
TEXTS = """() => ["streamed", "whole"].map(side =>
    document.querySelector(`#${side} headgate-panel`).shadowRoot.querySelector(".stages").innerText)"""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


def clone(directory: Path) -> Path:
    """Make a clone of this work tree, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():  # else it is deleted, and that is not committed
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    return directory


def stranger(home: Path) -> dict[str, str]:
    """The environment of somebody who has nothing of this yet. pip's cache and settings are the machine's."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG"}}
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    settings = Path.home() / ".config" / "pip" / "pip.conf"
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    )
    return {
        **kept,
        **({"PIP_CONFIG_FILE": str(settings)} if settings.exists() else {}),
        **pip,
        "PIP_CACHE_DIR": cache.stdout.strip(),
        "HOME": str(home),
    }


class Deadline:
    """The one that everything shares."""

    def __init__(self) -> None:
        self._at = time.monotonic() + BOUND_S

    @property
    def left_s(self) -> float:
        """At least a moment, since none at all is without bound for a browser."""
        return max(0.1, self._at - time.monotonic())


def submit(page: Page, deadline: Deadline) -> str:
    """Submit the case; what was decided, as soon as it begins."""
    page.get_by_role("button", name="Submit").click()
    decided = page.locator("#streamed .decision")
    expect(decided).not_to_be_empty(timeout=deadline.left_s * 1000)
    return decided.inner_text()


def verdict(page: Page, deadline: Deadline) -> str:
    """Return what the page says when both sides are done."""
    said = page.locator("#verdict.said")
    expect(said).to_be_visible(timeout=deadline.left_s * 1000)
    return said.inner_text()


def test_make_run_shows_a_clone_streaming_and_batch_and_leaves_nothing(tmp_path: Path) -> None:
    """It says what it installs and where the page is; the switch brings batch back; Ctrl-C ends all."""
    deadline, home, port = Deadline(), tmp_path / "home", free_port()
    home.mkdir()
    python = Path(sys.base_prefix, "bin", "python3")
    command = ["make", "run", f"PORT={port}", f"PYTHON={python}"]
    with (
        shown(command, cwd=clone(tmp_path / "headgate"), environment=stranger(home)) as terminal,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET) as browser,
    ):
        said = terminal.read_until("Ctrl-C ends it.", deadline.left_s)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/app/live.html")
        decided = submit(page, deadline)
        page.wait_for_function(AHEAD, timeout=deadline.left_s * 1000)
        streamed, texts = verdict(page, deadline), page.evaluate(TEXTS)

        applied = terminal.said.count(": applied")
        page.get_by_role("switch", name="Kill switch").click()
        terminal.read_until(": applied", deadline.left_s, times=applied + 1)
        decided_then = submit(page, deadline)
        whole = verdict(page, deadline)

        terminal.type(CTRL_C)
        terminal.await_none_left()

    assert "packages of requirements/demo.lock" in said
    assert f"http://127.0.0.1:{port}/app/live.html" in said
    assert decided == "stream;reason=flag_on;source=tap"
    assert "Both texts are identical." in streamed
    assert texts[0] == texts[1] != ""
    assert decided_then == "batch: as without Headgate"
    assert "Both texts are identical." in whole
