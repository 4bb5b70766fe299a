"""`attach.js` beside a frontend that nobody changes, in Chromium: live text, and else nothing."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.attached import SEE, FirstText, House, first_text, house, page_files, until_ready
from tests.browser.frontend import CASE, IN_CHROMIUM, bundle, visiting

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def clinic() -> Iterator[House]:
    with house() as made:
        yield made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_files(tmp_path_factory.mktemp("attached"))


async def journey(
    chromium: Browser, base: str, files: Path, made: House, user: str, *, is_live: bool
) -> dict[str, Any]:
    """A case, an approval and a question: what was asked, is shown, is stored, and was seen live."""
    async with visiting(chromium, base, files, user) as visit:
        if is_live:
            await until_ready(visit.page)
        await visit.page.evaluate(SEE)
        if is_live:
            first = await first_text(visit)
        else:
            await visit.send(CASE)
            await visit.answers(1)
            first = None
        seen = await visit.page.evaluate("({...window.seen, places: [...window.seen.places]})")
        await visit.approve()
        await visit.answers(2)
        await visit.send("And if she is allergic?")
        await visit.answers(3)
        same = {"shown": await visit.shown(), "calls": sorted(visit.calls), "problems": visit.problems}
    with made.clinic.client(user) as client:
        (case,) = client.get("/api/cases").json()["cases"]
        messages = client.get(f"/api/cases/{case['id']}/messages").json()["messages"]
    same["stored"] = [(message["role"], message["content"]) for message in messages]
    return {"same": same, "seen": seen, "first": first}


async def test_with_the_script_the_page_does_and_shows_the_same_and_its_user_reads_along(
    chromium: Browser, clinic: House, plain: Path, attached: Path, tmp_path: Path
) -> None:
    """Its calls, the screen at the end and what is stored are equal; text stood in both panels meanwhile.

    What the script takes of the time to the first text is a small part of the wait for the page's own answer;
    the rest is the page's, the API's and the model's. `make waits` has all of it, with a model at real speed.
    """
    async with clinic.headgate(tmp_path) as serving:
        without, live = await asyncio.gather(
            journey(chromium, serving.url, plain, clinic, "without", is_live=False),
            journey(chromium, serving.url, attached, clinic, "with", is_live=True),
        )

    first: FirstText = live["first"]
    sys.stdout.write(str(first))
    assert without["seen"]["texts"] == []
    assert live["same"] == without["same"]
    assert live["same"]["problems"] == []
    assert live["seen"]["places"] == ["column", "scroll"]
    assert first.asks_ms + first.shows_ms < 0.05 * first.wait_ms
    assert first.after_ms < first.wait_ms / 2
