"""The looks of the components, compared with kept pictures of few pixels: colours and places, not letters.

After a change that is meant, renew the pictures:  python -m tests.browser.test_component_looks
"""

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.async_api import Browser, async_playwright

from tests.browser.frontend import CHROMIUM, IN_CHROMIUM
from tests.browser.gallery import gallery

pytestmark = IN_CHROMIUM

KEPT = Path(__file__).parent / "looks"
WIDTH, HEIGHT, BLOCK = 800, 880, 40
"""Of the screen in CSS pixels, and of the square that becomes one pixel."""

MOST_OF_A_BLOCK, MOST_ON_AVERAGE = 20, 2
"""Differences of one colour channel, of 255. Another font differs by 7 and by 0.5."""

SHOW = {name: f"gallery.show('{name}')" for name in ("done", "error", "waiting", "arabic")}
LONG = """gallery.show('waiting'); gallery.live()('A line of text.\\n\\n'.repeat(60));
  gallery.elements[0].view.shown.forEach(({smoother}) => smoother.flush());"""
LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "light": (SHOW["done"], {}),
    "dark": (SHOW["done"], {"color_scheme": "dark"}),
    "error": (SHOW["error"], {}),
    "empty": (SHOW["waiting"], {}),
    "long": (LONG, {}),
    "right-to-left": (f"document.documentElement.dir = 'rtl'; {SHOW['arabic']}", {}),
}


async def look(chromium: Browser, name: str) -> Image.Image:
    """The page in a state, seen from afar."""
    act, context = LOOKS[name]
    async with gallery(chromium, width=WIDTH, height=HEIGHT, reduced_motion="reduce", **context) as page:
        await page.evaluate(f"() => {{ {act} }}")
        # Each element has come to rest at the end of its text.
        await page.evaluate(
            "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
        )
        seen = await page.screenshot(animations="disabled", caret="hide")
    with Image.open(BytesIO(seen)) as screen:
        return screen.convert("RGB").resize((WIDTH // BLOCK, HEIGHT // BLOCK), Image.Resampling.BOX)


@pytest.mark.parametrize("name", LOOKS)
async def test_the_components_look_as_they_did(chromium: Browser, name: str) -> None:
    """In both colour schemes, with an error, with nothing, with much text, and from right to left."""
    now = await look(chromium, name)
    with Image.open(KEPT / f"{name}.png") as kept:
        difference = ImageChops.difference(now, kept.convert("RGB"))
    most = max(high for _, high in difference.getextrema())
    average = max(ImageStat.Stat(difference).mean)

    assert (most <= MOST_OF_A_BLOCK, average <= MOST_ON_AVERAGE) == (True, True), (most, average)


async def main() -> None:
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        for name in LOOKS:
            (await look(chromium, name)).save(KEPT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    asyncio.run(main())
