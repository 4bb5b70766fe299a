"""`attach.js` beside a frontend that nobody changes, in Chromium: live text, and else nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.attached import SEE, House, house, page_files
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


async def journey(chromium: Browser, base: str, files: Path, made: House, user: str) -> dict[str, Any]:
    """A case, an approval and a question: what was asked, is shown, is stored, and was seen live."""
    async with visiting(chromium, base, files, user) as visit:
        await visit.page.evaluate(SEE)
        began = await visit.page.evaluate("performance.now()")
        await visit.send(CASE)
        await visit.answers(1)
        took_ms = await visit.page.evaluate("performance.now()") - began
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
    return {"same": same, "seen": seen, "first_ms": (seen["first"] or 0) - began, "took_ms": took_ms}


async def test_with_the_script_the_page_does_and_shows_the_same_and_its_user_reads_along(
    chromium: Browser, clinic: House, plain: Path, attached: Path, tmp_path: Path
) -> None:
    """Its calls, the screen at the end and what is stored are equal; text stood in both panels meanwhile."""
    async with clinic.headgate(tmp_path) as serving:
        without = await journey(chromium, serving.url, plain, clinic, "without")
        live = await journey(chromium, serving.url, attached, clinic, "with")

    first_ms, took_ms, wait_ms = live["first_ms"], live["took_ms"], without["took_ms"]
    silence_ms = live["seen"]["silence"]
    sys.stdout.write(
        f"first text after {first_ms:.0f} ms, then none for at most {silence_ms:.0f} ms; without the script"
        f" nothing until the answer, after {wait_ms:.0f} ms\n"
    )
    assert without["seen"]["texts"] == []
    assert live["same"] == without["same"]
    assert live["same"]["problems"] == []
    assert live["seen"]["places"] == ["column", "scroll"]
    assert first_ms < took_ms / 2
