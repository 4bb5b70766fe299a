"""A tab that the tests of a file take turns with: to open one takes a browser longer than most of them take.

A page of another port is of another origin, so that it finds nothing of the page before it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page


@asynccontextmanager
async def borrowed_tab(chromium: Browser) -> AsyncIterator[Page]:
    """The tab, empty. A test that fails takes it along; of another one it comes back without its pages, its
    other tabs, its answers in the network's place, and the media that it has set."""
    context = chromium.contexts[0] if chromium.contexts else await chromium.new_context()
    page = context.pages[0] if context.pages else await context.new_page()
    try:
        yield page
        for other in context.pages[1:]:
            await other.close()
        await page.goto("about:blank")
        await context.unroute_all(behavior="ignoreErrors")
        await page.unroute_all(behavior="ignoreErrors")
        await page.emulate_media(color_scheme="null", reduced_motion="null")
    except BaseException:
        await context.close()
        raise
