"""A frontend that nobody changes, in Chromium: through Headgate it does and shows what it does without."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.frontend import CASE, IN_CHROMIUM, bundle, visiting
from tests.journeys.test_journey import POLLED
from tests.servers.clinic_server import RunningClinic, running_clinic
from tests.servers.serving import flag_document, headgate

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def clinic() -> Iterator[RunningClinic]:
    with running_clinic(workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("page"))


async def journey(
    chromium: Browser, base: str, files: Path, clinic: RunningClinic, user: str
) -> dict[str, Any]:
    """A case, two approvals and a question: what was asked, what is shown, what is stored."""
    async with visiting(chromium, base, files, user) as visit:
        await visit.send(CASE)
        await visit.answers(1)
        await visit.approve()
        await visit.answers(2)
        await visit.approve()
        await visit.answers(3)
        await visit.send("And if she is allergic?")
        await visit.answers(4)
        shown, calls, problems = await visit.shown(), sorted(visit.calls), visit.problems
    with clinic.client(user) as client:
        (case,) = client.get("/api/cases").json()["cases"]
        messages = client.get(f"/api/cases/{case['id']}/messages").json()["messages"]
    stored = [(message["role"], message["content"]) for message in messages]
    return {
        "shown": shown,
        "calls": calls,
        "stored": stored,
        "problems": problems,
        "stage": case["current_stage"],
    }


@pytest.mark.parametrize("rollout", [0, 100])
async def test_the_page_is_the_same_through_headgate(
    chromium: Browser, clinic: RunningClinic, files: Path, tmp_path: Path, rollout: int
) -> None:
    """Its own calls, what is on the screen at the end, and what is stored; for a user of each arm."""
    direct = await journey(chromium, clinic.url, files, clinic, f"direct-{rollout}")
    async with headgate(clinic.url, tmp_path, routes=POLLED, flags=flag_document(rollout)) as serving:
        through = await journey(chromium, serving.url, files, clinic, f"through-{rollout}")

    assert direct["problems"] == []
    assert len(direct["stored"]) == 8
    assert through == direct
