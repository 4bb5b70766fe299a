"""Live text belongs to the call that made it: it never stands beside something else."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser.attached import House, house, live_texts, page_files, until_live
from tests.browser.frontend import CASE, IN_CHROMIUM, Visit, visit_in
from tests.browser.tabs import borrowed_tab
from tests.servers.streaming import Served

pytestmark = IN_CHROMIUM

OTHER_CASE = "A sprained ankle after football; no other complaint."

GONE = """(act) => new Promise((resolve) => {
  // How many cards each of the next frames could paint.
  const cards = () => document.querySelectorAll('[data-headgate-live]').length;
  const before = cards();
  new Function(act)();
  const after = [];
  const look = (left) => {
    if (left === 0) return resolve([before, after]);
    requestAnimationFrame(() => { after.push(cards()); look(left - 1); });
  };
  look(30);
})"""

TURNS = {
    "begins something new": """[...document.querySelectorAll('button')]
        .find((b) => b.textContent === 'Start New Case').click()""",
    "opens another case": "document.querySelector('button[data-case]:not([data-now])').click()",
    "is unmounted as the tab comes back": "document.dispatchEvent(new Event('visibilitychange'))",
    "goes to another address": "history.pushState(null, '', '/page/elsewhere')",
    "goes to another fragment": "location.hash = 'elsewhere'",
    "signs out": "void fetch('/api/auth/logout', {method: 'POST'}).catch(() => {})",
    "asks as somebody else": """void fetch('/api/cases', {headers: {authorization:
        `Bearer x.${btoa(JSON.stringify({sub: 'somebody else'}))}.x`}})""",
    "asks about another id": "void fetch('/api/cases/00000000-0000-4000-8000-000000000000/details')",
    "makes another one": "void fetch('/api/cases', {method: 'POST', body: '{}'})",
}


@pytest.fixture(scope="module")
def clinic() -> Iterator[House]:
    with house(tokens=160, tokens_per_s=40) as made:
        yield made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_files(tmp_path_factory.mktemp("attached"))


@pytest.fixture(scope="module")
async def serving(
    clinic: House, tmp_path_factory: pytest.TempPathFactory, anyio_backend: Any
) -> AsyncIterator[Served]:
    async with clinic.headgate(tmp_path_factory.mktemp("headgate")) as served:
        yield served


@asynccontextmanager
async def reading_along(
    chromium: Browser, serving: Served, clinic: House, files: Path, user: str
) -> AsyncIterator[Visit]:
    """A user who has another case, and has just begun this one: its first words are there."""
    with clinic.clinic.client(user) as client:
        client.post("/api/cases", json={"case_text": OTHER_CASE}).raise_for_status()
    async with borrowed_tab(chromium) as page, visit_in(page, serving.url, files, user) as visit:
        await visit.send(CASE)
        await until_live(visit.page)
        await visit.page.evaluate(
            "(text) => [...document.querySelectorAll('[data-case]')]"
            ".forEach((b) => text.startsWith(b.textContent) && b.setAttribute('data-now', ''))",
            CASE,
        )
        yield visit


async def stays_empty(page: Page, ms: int = 1500) -> bool:
    """True if no live text comes back, for longer than the page's renders take."""
    await page.wait_for_timeout(ms)
    return await live_texts(page) == []


@pytest.mark.parametrize("turn", TURNS)
async def test_the_text_goes_at_once_when_the_page(
    chromium: Browser, serving: Served, clinic: House, files: Path, turn: str
) -> None:
    """Before the next frame that a person could see, and for good."""
    user = f"turns-{list(TURNS).index(turn)}"
    async with reading_along(chromium, serving, clinic, files, user) as visit:
        before, after = await visit.page.evaluate(GONE, TURNS[turn])
        is_empty = await stays_empty(visit.page)

    assert before >= 1  # in the second panel, too, when the first stage has ended meanwhile
    # React renders some of these a task or two later; until then the panel is still there.
    assert sum(after[5:]) == 0
    assert is_empty
