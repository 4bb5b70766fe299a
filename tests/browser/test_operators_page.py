"""The page of the admin port, in Chromium."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.browser import axe
from tests.browser.frontend import IN_CHROMIUM
from tests.observe.looked_at import SHARE, looked_at, opened_page, unlock
from tests.servers.client import browser, eventually
from tests.servers.serving import Serving, flag_document

pytestmark = IN_CHROMIUM

NARROW = {"viewport": {"width": 320, "height": 640}, "reduced_motion": "reduce"}


@pytest.fixture(scope="module")
async def replica(anyio_backend: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with looked_at(tmp_path_factory.mktemp("replica"), users=12) as serving:
        yield serving


async def test_the_page_says_what_is_streamed_to_whom(chromium: Browser, replica: Serving) -> None:
    """Routes with their flags and shares, what was decided, sources, models and the rollout. Nothing is
    fetched from elsewhere, and the page's own policy stops nothing of it."""
    async with opened_page(chromium, replica) as (page, problems):
        text = " ".join((await page.locator("main").inner_text()).replace("\u00a0", " ").split())
        fetched = await page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")

    for said in (
        "40 % of users are shown live text on 1 of 2 routes.",
        "workflow flag headgate.streaming · source tap 1 run under way · 1 viewer",
        "40 % stream 20 % as before 40 % control",
        "2 no identity",
        "The flag is off: nobody streams.",
        "Model provider Answered Failed Caller left models 26 0 0",
        "running · hold · approval",
        "Warnings 1",
    ):
        assert said in text, text
    assert [address for address in fetched if not address.startswith(replica.admin_url)] == []
    assert problems == []


async def test_the_page_is_for_everybody(chromium: Browser, replica: Serving) -> None:
    """axe finds nothing in light and in dark, locked and unlocked, and 320 pixels are wide enough."""
    script = axe.script()
    async with opened_page(chromium, replica, **NARROW, bypass_csp=True) as (page, _):
        await page.evaluate(script)
        locked = axe.findings(await page.evaluate(axe.RUN, axe.RULES))
        await unlock(page)
        await page.emulate_media(color_scheme="dark")
        unlocked = axe.findings(await page.evaluate(axe.RUN, axe.RULES))
        width = await page.evaluate("document.documentElement.scrollWidth")

    assert locked == []
    assert unlocked == []
    assert width == 320


async def test_the_page_is_live_and_has_the_kill_switch(chromium: Browser, replica: Serving) -> None:
    """With the token somebody stops all streaming, by name and with a reason; every open page says so by
    itself; and it lets streaming go on."""
    async with (
        opened_page(chromium, replica) as (page, _),
        opened_page(chromium, replica) as (another, _),
        browser(replica.admin_url) as client,
    ):
        await page.get_by_label("Admin token").fill("not the token, surely")
        await page.get_by_role("button", name="Unlock").click()
        refused = await page.get_by_role("alert").filter(has_text="needs the admin token").inner_text()
        await unlock(page)
        warned = await page.get_by_text("a model is asked for no streams").count()
        await page.get_by_label("Only names with").fill("admin_token")
        masked = await page.locator("#settings tbody").inner_text()
        await page.get_by_label("Your name").fill("anna")
        await page.get_by_label("Reason").fill("too many <b>complaints</b>")
        await page.get_by_role("button", name="Stop all streaming").click()
        for each in (page, another):
            await each.get_by_text("Everybody gets batch: the kill switch is on.").wait_for()
            await each.get_by_text("anna: too many <b>complaints</b>").wait_for()
        order = (await client.get("/readyz")).json()["kill_switch"]
        await page.get_by_role("button", name="Let streaming be decided again").click()
        await page.get_by_role("button", name="Stop all streaming").wait_for()
        await eventually(lambda: _is_released(client))

    assert refused == "The list of warnings needs the admin token as a bearer token."
    assert warned == 1
    assert "********" in masked
    assert (order["by"], order["reason"]) == ("anna", "too many <b>complaints</b>")


async def test_in_the_dark_nobody_is_said_to_be_shown_anything(chromium: Browser, replica: Serving) -> None:
    """Nor is a share of those whom a constraint lets through said to be one of all users."""
    [strategy] = flag_document(SHARE)["features"][0]["strategies"]
    dark = {**strategy, "variants": [{"name": "dark", "weight": 1000, "stickiness": "default"}]}
    some = {"contextName": "route", "operator": "IN", "values": ["workflow"]}
    async with opened_page(chromium, replica) as (page, _):
        replica.flag_file.write_text(json.dumps(flag_document(strategies=[dark])))
        await page.get_by_text("Nobody is shown live text: texts are only compared, in the dark.").wait_for()
        await page.get_by_text("40 % in the dark: as before, and compared").wait_for()
        replica.flag_file.write_text(
            json.dumps(flag_document(strategies=[{**strategy, "constraints": [some]}]))
        )
        await page.get_by_text("Some users are shown live text on 1 of 2 routes.").wait_for()
        await page.get_by_text("Of those whom the flag's constraints").wait_for()


@pytest.mark.parametrize(("ago_s", "is_silent"), [(1, False), (5, True)])
async def test_a_controller_looks_or_not_by_what_it_said_when_it_was_asked(
    chromium: Browser, replica: Serving, ago_s: int, is_silent: bool
) -> None:
    """Its page is asked every few seconds: one that looks each second is not called silent in between."""
    async with browser(replica.admin_url) as client:
        now = (await client.get("/now")).json()
    asked_at = now["rollout"]["asked_at"]
    now["rollout"] |= {"look_every_s": 1.0, "last_look_at": asked_at - ago_s}
    now["at"] = asked_at + 60
    async with opened_page(chromium, replica) as (page, _):
        await _shows(page, now)
        await page.get_by_text("running · hold · approval").wait_for()
        said = await page.get_by_text(f"{ago_s} s ago: no controller looks").count()

    assert said == is_silent


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ({"share": 0.4}, "The upstream fails: new requests get batch until it answers."),
        ({"share": 0}, "Nobody is shown live text: every flag is off or at 0 %."),
        ({"dark": 1}, "Nobody is shown live text: texts are only compared, in the dark."),
    ],
)
async def test_a_breaker_that_nobody_tries_to_close_is_not_what_is_wrong(
    chromium: Browser, replica: Serving, flag: dict[str, float], said: str
) -> None:
    """After a way back it stays open, since no run is begun; batch is asked, and may answer well."""
    async with browser(replica.admin_url) as client:
        now = (await client.get("/now")).json()
    now["processes"] = [process | {"breaker": "open"} for process in now["processes"]]
    for route in now["routes"]:
        route["flag"] |= flag
    async with opened_page(chromium, replica) as (page, _):
        await _shows(page, now)
        await page.get_by_text(said).wait_for()
        await page.get_by_text("The circuit breaker is open.").wait_for()


async def _shows(page: Page, now: dict[str, Any]) -> None:
    """Let the page have this as what the replica says."""
    event = f"data: {json.dumps(now)}\n\n"
    await page.route("**/now", lambda route: route.fulfill(body=event, content_type="text/event-stream"))
    await page.reload()


async def _is_released(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).json()["kill_switch"] is None
