"""One Chromium for the tests of a file: each opens a context of its own, which shares nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, async_playwright

from tests.browser.frontend import CHROMIUM


@pytest.fixture(scope="module")
async def chromium(anyio_backend: Any) -> AsyncIterator[Browser]:
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        yield browser
