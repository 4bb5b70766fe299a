"""A frontend like the reference one, in Chromium, and what of a visit can be compared with another."""

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Request

from tests.browser.npm import HERE, node
from tests.servers.client import eventually

FRONTEND = HERE / "frontend"
CHROMIUM = shutil.which("chromium")
IN_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
"""Marks of tests that need a real browser."""
CASE = "Fever of 38.9 °C and a cough for 4 days — SpO₂ 91 %."
ANSWER_MS = 120_000

VOLATILE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""The parts that differ between two cases that were treated alike."""


def bundled(entry: str, file: Path) -> Path:
    """One file of a module and all that it imports; skips without the bundler."""
    if not (HERE / "node_modules" / "esbuild").is_dir():
        pytest.skip("the bundler is not here: npm ci --prefix tests/browser")
    node("bundle.mjs", entry, str(file))
    return file


def bundle(directory: Path) -> Path:
    """The page's files in a directory, as a production build has them."""
    bundled("frontend/app.jsx", directory / "bundle.js")
    (directory / "index.html").write_bytes((FRONTEND / "index.html").read_bytes())
    return directory


@dataclass
class Visit:
    """One tab, and what went over the network for the page itself."""

    page: Page
    calls: list[str] = field(default_factory=list)
    """Method, path, what was sent, and the status of the page's own, in the order in which they ended."""
    problems: list[str] = field(default_factory=list)
    """The errors in the console, and exceptions that nobody caught."""
    open_calls: int = 0
    """Of its own calls, those that are not in `calls` yet."""

    async def send(self, text: str) -> None:
        await self.page.fill("textarea", text)
        await self.page.get_by_role("button", name="Send").click()

    async def approve(self) -> None:
        await self.page.get_by_role("button", name="Approve").click()

    async def answers(self, count: int) -> None:
        """Wait until so many answers of the assistant are there, the page waits for nothing, and its calls
        are known."""
        await self.page.wait_for_function(
            "count => document.querySelectorAll('.bubble.assistant').length === count"
            " && !document.querySelector('.bubble.dots')",
            arg=count,
            timeout=ANSWER_MS,
        )
        await eventually(lambda: self.open_calls == 0)

    async def shown(self) -> str:
        return VOLATILE.sub("~", await self.page.inner_html("main"))


@asynccontextmanager
async def visiting(chromium: Browser, base: str, files: Path, user: str) -> AsyncIterator[Visit]:
    """The page as `base` would serve it, in the only tab of a browser that has seen nothing before."""
    async with (
        await chromium.new_context() as context,
        visit_in(await context.new_page(), base, files, user) as visit,
    ):
        yield visit


@asynccontextmanager
async def visit_in(page: Page, base: str, files: Path, user: str) -> AsyncIterator[Visit]:
    """The same in a tab that has been used, and keeps nothing of it."""
    visit = Visit(page)

    def begun(request: Request) -> None:
        if request.url.startswith(f"{base}/api/"):
            visit.open_calls += 1

    async def finished(request: Request) -> None:
        response = await request.response()
        path = VOLATILE.sub("~", request.url.removeprefix(base))
        if path.startswith("/api/"):
            status = "none" if response is None else response.status
            visit.calls.append(f"{request.method} {path} {request.post_data} {status}")
            visit.open_calls -= 1

    page.on("request", begun)
    page.on("requestfinished", finished)
    page.on("requestfailed", finished)
    page.on("console", lambda said: visit.problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: visit.problems.append(str(error)))
    await page.route(
        f"{base}/page/*",
        lambda route: route.fulfill(path=files / Path(route.request.url).name.partition("?")[0]),
    )
    await page.goto(f"{base}/page/index.html?user={user}")
    await page.wait_for_selector("textarea")
    yield visit
    await page.evaluate("(localStorage.clear(), sessionStorage.clear())")
