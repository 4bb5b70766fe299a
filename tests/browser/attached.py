"""The unchanged frontend with `attach.js` beside it: the house it is in, and what can be seen live."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from tests.browser.frontend import CASE, Visit, bundle
from tests.journeys.test_journey import TAPPED
from tests.servers.clinic_server import RunningClinic, running_clinic, running_model
from tests.servers.ports import free_port
from tests.servers.serving import flag_document
from tests.servers.streaming import Served, served

ATTACH: dict[str, Any] = {
    "panels": {"reasoning": {"text": "Analysis Results", "up": 2}, "chat": {"css": ".scroll"}},
    "waiting": {"placeholder": "Please wait while the assistant is responding…"},
}
SCRIPT = '<script type="module" src="/_headgate/attach.js"></script>'
LIVE = "[data-headgate-live]"

SEE = """
  window.seen = {clicked: null, first: null, last: null, silence: 0, texts: [], places: new Set()};
  document.addEventListener('click', () => { window.seen.clicked ??= performance.now(); }, {capture: true});
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
"""In the page: what a person has seen live, frame by frame, since the first click."""

PARTS = """() => {
  const entries = performance.getEntriesByType('resource');
  const last = (end) => entries.findLast(({name}) => name.split('?')[0].endsWith(end));
  const [call, events] = [last('/workflow/start'), last('/events')];
  const moments = [seen.clicked, call.startTime, events.startTime, events.responseStart, seen.first];
  return moments.slice(1).map((moment, at) => moment - moments[at]);
}"""
"""In the page, when its first answer is there: milliseconds from the click to its call, from there to the
request for the run's events, to the first of them, and to the first text on the screen."""


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
def house(*, first_token_s: float = 0.05, tokens: int = 120, tokens_per_s: float = 60) -> Iterator[House]:
    """A clinic that is asked through Headgate. Each of its answers takes some seconds."""
    port = free_port()
    with (
        running_model(first_token_s=first_token_s, tokens_per_s=tokens_per_s, tokens=tokens) as model,
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


@dataclass(frozen=True)
class FirstText:
    """When a person had something to read, in milliseconds from the click that asked for it: the sum of the
    page's own part, the script's before and after, and the API's with its model between them."""

    page_ms: float
    asks_ms: float
    api_ms: float
    shows_ms: float
    silence_ms: float
    """The longest without new text after it."""
    wait_ms: float
    """For the page's own answer."""

    @property
    def after_ms(self) -> float:
        return self.page_ms + self.asks_ms + self.api_ms + self.shows_ms

    def __str__(self) -> str:
        parts = {
            "until the page's call": self.page_ms,
            "until its events are asked for": self.asks_ms,
            "until there is one": self.api_ms,
            "until it is on the screen": self.shows_ms,
        }
        return (
            f"first text {self.after_ms:.0f} ms after the click, {self.after_ms / self.wait_ms:.1%} of the"
            f" {self.wait_ms:.0f} ms for the page's own answer: "
            + ", ".join(f"{ms:.0f} {words}" for words, ms in parts.items())
            + f"; then none for at most {self.silence_ms:.0f} ms\n"
        )


async def first_text(visit: Visit) -> FirstText:
    """Sends a case in a page that has evaluated `SEE`, and waits for its answer."""
    await visit.send(CASE)
    await visit.answers(1)
    page = visit.page
    wait_ms, silence_ms = await page.evaluate("[performance.now() - seen.clicked, seen.silence]")
    # The browser says of a request how it went when that is over.
    await page.wait_for_function(
        "performance.getEntriesByType('resource').some(({name}) => name.includes('/events'))"
    )
    return FirstText(*await page.evaluate(PARTS), silence_ms, wait_ms)


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
