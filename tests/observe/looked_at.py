"""A replica that is looked at, with something to see on its page.

After a change that is meant, renew the pictures of the docs:  python -m tests.observe.looked_at
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright
from prometheus_client import CollectorRegistry

from flags.arms import bucket_of
from flags.rollout.reporting.metrics import RolloutMetrics
from tests.browser.frontend import CHROMIUM
from tests.dashboards.observed import rollout_page
from tests.rollout.rolling import Now, Rolling, flag_file, policy, told_to_begin
from tests.servers.client import EITHER, browser, opened, read, signed
from tests.servers.scripted import Asked
from tests.servers.serving import ADMIN_TOKEN, STREAMING, Serving, flag_document
from tests.servers.streaming import route
from tests.servers.tapping import EVENT_STREAM, Provider, tapped, tapped_route

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
PATIENCE_MS = 120_000
"""How long a page may take for anything, on a busy machine."""

SHARE = 40
STREAMED = next(f"user-{n}" for n in range(99) if bucket_of(STREAMING, f"user-{n}") <= SHARE)
"""A user in the stream arm."""

ROUTES = [
    tapped_route(name="workflow", flag=STREAMING),
    route(name="summary", match="POST /api/summaries", flag="summary.streaming", stream_path=None),
]


@asynccontextmanager
async def looked_at(directory: Path, *, users: int = 30) -> AsyncIterator[Serving]:
    """Requests of some users have been answered, a rollout is under way, and a warning was logged."""
    flags = flag_document(SHARE)
    flags["features"].append({"name": "summary.streaming", "enabled": False, "strategies": []})
    async with AsyncExitStack() as stack:
        controller = stack.enter_context(rollout_page(await _rolled(directory)))
        settings = {"controller": f"http://{controller.address}", "routes": ROUTES, "flags": flags}
        provider = Held()
        serving, _, client = await stack.enter_async_context(tapped(directory, provider.model, **settings))
        for number in range(users):
            who = signed(f"user-{number}", EITHER) if number % 7 else {"accept": EITHER}
            await read(client, f"/api/cases/{number}/start", who)
        await client.post("/api/summaries", headers=signed("ann", EITHER))
        logging.getLogger("headgate.llm").warning(
            "a model is asked for no streams", extra={"why": "no_stream"}
        )
        provider.holds = True
        async with opened(client, "/api/cases/99/start", signed(STREAMED)) as stream:
            await stream.until(lambda event: bool(event["type"] == "content_chunk"))
            yield serving
            provider.goes_on.set()


class Held:
    """A model that, once it `holds`, says half of its text until it `goes_on`."""

    def __init__(self) -> None:
        self.holds = False
        self.goes_on = asyncio.Event()
        self.model = Provider(stream=self._stream)

    async def _stream(self, asked: Asked, events: list[bytes]) -> None:
        await asked.send(EVENT_STREAM)
        for at, event in enumerate(events):
            if self.holds and at > len(events) // 2:
                await self.goes_on.wait()
            await asked.send(event)
        asked.writer.close()


async def _rolled(directory: Path) -> CollectorRegistry:
    """The metrics of a controller whose rollout is under way."""
    registry = CollectorRegistry()
    place = directory / "rollout"
    place.mkdir()
    flag_file(place / "flags.json")
    rolling = Rolling(place, policy(place), now=Now())
    async with told_to_begin(rolling) as running:
        await running.ticks(8)
        RolloutMetrics(registry).show(running.controller.state, rolling.policy)
    return registry


@asynccontextmanager
async def opened_page(
    chromium: Browser, serving: Serving, **context: object
) -> AsyncIterator[tuple[Page, list[str]]]:
    """The page, with its first figures; and what its console says of problems."""
    async with await chromium.new_context(**context) as opened:  # type: ignore[arg-type]
        opened.set_default_timeout(PATIENCE_MS)
        page = await opened.new_page()
        problems: list[str] = []
        page.on(
            "console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(f"{serving.admin_url}/")
        await page.get_by_role("heading", name="workflow").wait_for()
        yield page, problems


async def unlock(page: Page) -> None:
    """Give the page the admin token, and wait for what it shows then."""
    await page.get_by_label("Admin token").fill(ADMIN_TOKEN)
    await page.get_by_role("button", name="Unlock").click()
    await page.get_by_label("Only names with").wait_for()


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
            looked_at(Path(directory), users=60) as serving,
        ):
            wide = {"viewport": {"width": 1180, "height": 900}}
            async with opened_page(chromium, serving, **wide) as (page, _):
                await page.screenshot(path=PICTURES / "operators-page.png", full_page=True)
            narrow = {"viewport": {"width": 320, "height": 700}, "color_scheme": "dark"}
            async with (
                opened_page(chromium, serving, **narrow) as (page, _),
                browser(serving.admin_url) as client,
            ):
                token = {"authorization": f"Bearer {ADMIN_TOKEN}"}
                await client.post("/kill?by=anna", headers=token, content="too many complaints")
                await unlock(page)
                await page.get_by_text("Everybody gets batch").first.wait_for()
                await page.screenshot(path=PICTURES / "operators-page-narrow.png", full_page=True)


if __name__ == "__main__":
    asyncio.run(main())
