"""What an operator sees: the page of a proxy's admin port, in Chromium, when there is something to see."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Error, Page, async_playwright

from tests.browser.frontend import CHROMIUM

PATIENCE_MS = 120_000
"""The longest wait for anything on a page; against hanging alone."""

SAYS = """said => {
    const text = document.body.innerText.replace(/\\s+/g, " ");
    return said.every((each) => text.includes(each));
}"""


class OperatorsPages:
    """Opens pages, and keeps a picture of each.

    Args:
        pictures: the folder for them, made if it is not there.
    """

    def __init__(self, chromium: Browser, pictures: Path) -> None:
        self._chromium = chromium
        self._pictures = pictures
        self.problems: list[str] = []
        """What the browser's console said of errors."""

    async def look(self, url: str, moment: str, *said: str, token: str = "") -> str:
        """Open the page, unlock it if there is a token, and wait until it says all of this at once.

        Returns its whole text, with single spaces. The picture is `MOMENT.png`. Raises AssertionError, with
        what the page says instead.
        """
        async with await self._chromium.new_context(viewport={"width": 1180, "height": 900}) as visitor:
            visitor.set_default_timeout(PATIENCE_MS)
            page = await visitor.new_page()
            page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
            page.on("pageerror", lambda error: self.problems.append(str(error)))
            await page.goto(f"{url}/")
            if token:
                await page.get_by_label("Admin token").fill(token)
                await page.get_by_role("button", name="Unlock").click()
                await page.get_by_label("Only names with").wait_for()
            try:
                await page.wait_for_function(SAYS, arg=said)
            except Error as exc:
                raise AssertionError(f"{moment}: not {said}, but {await _text(page)}") from exc
            await page.screenshot(path=self._pictures / f"{moment}.png", full_page=True)
            return await _text(page)


async def _text(page: Page) -> str:
    return re.sub(r"\s+", " ", await page.inner_text("body"))


@asynccontextmanager
async def operators_pages(pictures: Path) -> AsyncIterator[OperatorsPages]:
    """One Chromium for the day."""
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        yield OperatorsPages(chromium, pictures)
