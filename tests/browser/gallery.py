"""Both elements on a page of their own, in Chromium, with the modules as they are served."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, async_playwright

from tests.browser.frontend import CHROMIUM
from tests.browser.npm import HERE, MODULES

ORIGIN = "http://127.0.0.1:9"
"""Nobody listens there: each request is answered here."""

AXE = HERE / "node_modules" / "axe-core" / "axe.min.js"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

SHADOW = "document.querySelector('headgate-panel').shadowRoot"
CHAT_SHADOW = "document.querySelector('headgate-chat').shadowRoot"

Answer = Callable[[Route], Any]


def wire(run: str, *events: dict[str, Any]) -> str:
    """Events as Headgate writes them."""
    blocks = [f"id: {run}:{seq}\ndata: {json.dumps(event)}\n\n" for seq, event in enumerate(events, 1)]
    return ": hb\n" + "".join(blocks)


def event(kind: str, panel: str = "", stage: str = "", content: str = "", **metadata: Any) -> dict[str, Any]:
    return {"type": kind, "panel": panel, "stage": stage, "content": content, "metadata": metadata}


@asynccontextmanager
async def gallery(
    *, width: int = 1280, height: int = 900, answer: Answer | None = None, **context: Any
) -> AsyncIterator[Page]:
    """The page; `answer` for what it asks beside its files."""
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-precise-memory-info"]
        ) as chromium,
    ):
        page = await chromium.new_page(viewport={"width": width, "height": height}, **context)

        async def serve(route: Route) -> None:
            path = route.request.url.removeprefix(ORIGIN).partition("?")[0]
            own = path.removeprefix("/_headgate/")
            file = MODULES / own if own != path else HERE / "components" / Path(path).name
            if answer is not None and not file.is_file():
                await answer(route)
            else:
                await route.fulfill(path=file)

        await page.route("**/*", serve)
        await page.goto(f"{ORIGIN}/gallery.html")
        await page.wait_for_function("window.gallery")
        yield page


async def findings(page: Page) -> list[str]:
    """What axe-core finds, rule by rule; skips where it is not installed."""
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm ci --prefix tests/browser")
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate("rules => axe.run(document, rules)", RULES)
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
