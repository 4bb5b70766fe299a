"""The two elements on a page of their own, in Chromium, with the modules as they are served."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, Route

from tests.browser import axe
from tests.browser.npm import HERE, MODULES
from tests.browser.tabs import borrowed_tab

ORIGIN = "http://127.0.0.1:9"
"""An address where nobody listens: each request is answered here."""

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
async def _tab(chromium: Browser, context: dict[str, Any]) -> AsyncIterator[Page]:
    """The tab that tests take turns with, which can be told of media; one of its own for all else."""
    if context.keys() <= {"color_scheme", "reduced_motion"}:
        async with borrowed_tab(chromium) as page:
            await page.emulate_media(**context)
            yield page
    else:
        async with await chromium.new_context(**context) as visitor:
            yield await visitor.new_page()


@asynccontextmanager
async def gallery(
    chromium: Browser, *, width: int = 1280, height: int = 900, answer: Answer | None = None, **context: Any
) -> AsyncIterator[Page]:
    """The page; `answer` for what it asks beside its files."""
    async with _tab(chromium, context) as page:
        await page.set_viewport_size({"width": width, "height": height})

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
    """Return what axe-core finds, rule by rule; skips where it is not installed."""
    script = axe.script()
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(script)
    return axe.findings(await page.evaluate(axe.RUN, axe.RULES))
