"""The unchanged frontend with `attach.js` beside it: the house it is in, and what can be seen live."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from tests.browser.frontend import bundle
from tests.journeys.test_journey import TAPPED
from tests.servers.clinic_server import RunningClinic, running_clinic, running_model
from tests.servers.serving import flag_document
from tests.servers.streaming import Served, free_port, served

ATTACH: dict[str, Any] = {
    "panels": {"reasoning": {"text": "Analysis Results", "up": 2}, "chat": {"css": ".scroll"}},
    "waiting": {"placeholder": "Please wait while the assistant is responding…"},
}
SCRIPT = '<script type="module" src="/_headgate/attach.js"></script>'
LIVE = "[data-headgate-live]"

SEE = """
  window.seen = {first: null, last: null, silence: 0, texts: [], places: new Set()};
  const look = () => {
    for (const host of document.querySelectorAll('[data-headgate-live]')) {
      const bodies = [...host.shadowRoot.querySelectorAll('.body')];
      const text = bodies.map((body) => body.textContent).join('\\n');
      if (text === '') continue;
      window.seen.first ??= performance.now();
      window.seen.places.add(host.parentElement.className || host.parentElement.tagName);
      if (host.said !== text) {
        const now = performance.now();
        window.seen.silence = Math.max(window.seen.silence, now - (window.seen.last ?? now));
        window.seen.last = now;
        window.seen.texts.push(text);
        host.said = text;
      }
      if (window.seen.texts.length > 500) window.seen.texts.shift();
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
"""
"""In the page: what a person has seen live, frame by frame."""


def attaching(route: dict[str, Any]) -> dict[str, Any]:
    """A route of the sample with its panels' places in the page."""
    names = {section.get("panel", "reasoning") for section in route["sections"]}
    panels = {name: place for name, place in ATTACH["panels"].items() if name in names}
    return {**route, "attach": {**ATTACH, "panels": panels}}


@dataclass(frozen=True)
class House:
    """A clinic whose model is asked through Headgate's model port: its words are shown as it makes them."""

    clinic: RunningClinic
    model: str
    port: int

    @asynccontextmanager
    async def headgate(self, directory: Path, rollout: int = 100, **more: Any) -> AsyncIterator[Served]:
        """Headgate before it, with live text for the page."""
        flags = directory / "attach-flags.json"
        flags.write_text(json.dumps(flag_document(rollout)))
        settings = {
            "routes": [attaching(route) for route in TAPPED],
            "llm": {
                "listen": f"127.0.0.1:{self.port}",
                "providers": [{"name": "openai", "url": self.model}],
            },
            "flags": {"file": str(flags)},
            "drain_s": 0.5,
            **more,
        }
        async with served(self.clinic.url, directory, **settings) as serving:
            yield serving


@contextmanager
def house(*, tokens: int = 120, tokens_per_s: float = 60) -> Iterator[House]:
    """A clinic that is asked through Headgate. Each of its answers takes some seconds."""
    port = free_port()
    with (
        running_model(first_token_s=0.05, tokens_per_s=tokens_per_s, tokens=tokens) as model,
        running_clinic(workers=2, otel=True, openai_base_url=f"http://127.0.0.1:{port}/openai/v1") as clinic,
    ):
        yield House(clinic, model, port)


def page_files(directory: Path, script: str = SCRIPT, policy: str = "") -> Path:
    """The frontend's files, with a script element before its own."""
    bundle(directory)
    index = directory / "index.html"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    index.write_text(index.read_text().replace("<head>", f"<head>{meta}{script}"))
    return directory


async def until_ready(page: Page) -> None:
    """The script knows what it shows, and has begun to load the parts that do."""
    await page.wait_for_function(  # a function: a policy may forbid to look for a string anew
        "() => performance.getEntriesByType('resource').some(({name}) => name.endsWith('/attach/live.js'))"
    )


async def until_empty(page: Page, path: str, key: str, bearer: str) -> None:
    """Wait until what Headgate tells the bearer at a path has nothing under a key any more. The page sees
    none of it."""
    url = page.url.partition("/page")[0] + path
    async with asyncio.timeout(20):
        headers = {"authorization": f"Bearer {bearer}"}
        while (await (await page.request.get(url, headers=headers)).json())[key]:
            await page.wait_for_timeout(50)


async def live_texts(page: Page) -> list[str]:
    """Return the text of each live card on the screen."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll('[data-headgate-live]')]
            .map((host) => [...host.shadowRoot.querySelectorAll('.body')])
            .map((bodies) => bodies.map((body) => body.textContent).join('\\n'))
            .filter((text) => text !== '')"""
    )
    return found


async def until_live(page: Page, cards: int = 1) -> None:
    """Wait until so many cards show text."""
    await page.wait_for_function(
        """(cards) => [...document.querySelectorAll('[data-headgate-live]')]
            .filter((host) => [...host.shadowRoot.querySelectorAll('.body')].some((body) => body.textContent))
            .length >= cards""",
        arg=cards,
        timeout=20_000,
    )
