"""The page acts while the script is between two steps, or out and back: no text is wrong."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, async_playwright

from tests.browser.attached import SCRIPT, live_texts, until_live
from tests.browser.frontend import CHROMIUM, IN_CHROMIUM
from tests.browser.opened import ATTACH, BODY, SEND, Upstream, opened_page, signed_in
from tests.servers.client import eventually
from tests.servers.serving import token

pytestmark = IN_CHROMIUM

XHR = SEND["XMLHttpRequest"]
EVENTS = "/events"


def reads(own: list[str]) -> int:
    """Return the number of runs whose events the page has asked for."""
    return len([url for url in own if EVENTS in url])


AT_ONCE = {
    "XMLHttpRequest": f"() => {{ ({XHR})(); request.abort(); }}",
    "fetch": f"() => {{ ({SEND['fetch']})(); request.catch(() => {{}}); cut.abort(); }}",
    "fetch, aborted before": """() => { const signal = AbortSignal.abort();
      fetch('/api/cases/7/start?slow', {method: 'POST', headers: auth, signal}).catch(() => {}); }""",
}


@pytest.mark.parametrize("how", AT_ONCE)
async def test_a_call_that_is_aborted_in_the_same_breath_has_no_run(
    chromium: Browser, tmp_path: Path, how: str
) -> None:
    """Nothing is asked for it, and the next call is shown."""
    async with opened_page(chromium, tmp_path, Upstream()) as (page, problems, own):
        await page.evaluate(AT_ONCE[how])
        await page.evaluate(XHR.replace("/7/", "/8/"))
        await until_live(page)
        shown = await live_texts(page)

    assert shown == ["Text of 8."]
    assert reads(own) == 1
    assert problems == []


async def test_a_request_that_is_sent_twice_or_opened_again_is_the_browsers_affair(
    chromium: Browser, tmp_path: Path
) -> None:
    """To send it again is refused, and its text stays; to open it again ends it without an event, and its
    text goes."""
    async with opened_page(chromium, tmp_path, Upstream()) as (page, problems, own):
        await page.evaluate(XHR)
        await until_live(page)
        refused = await page.evaluate(
            """() => [1, 2, 3, 4].map(() => {
              try { request.send(); return null; } catch (error) { return error.name; } })"""
        )
        still = await live_texts(page)
        left = await page.evaluate(
            "(request.open('GET', '/api/hello'), document.querySelectorAll('[data-headgate-live]').length)"
        )
        await page.evaluate(
            """() => new Promise((resolve) => { request.onload = resolve;
              request.setRequestHeader('authorization', auth.authorization); request.send(); })"""
        )
        await page.evaluate(XHR.replace("/7/", "/8/"))
        await until_live(page)
        shown = await live_texts(page)

    assert refused == ["InvalidStateError"] * 4
    assert still == ["Text of 7."]
    assert left == 0
    assert shown == ["Text of 8."]
    assert reads(own) == 2
    assert problems == []


FORBIDDEN = """<script>Object.defineProperty(window, 'sessionStorage', {
  get: () => { throw new DOMException('no', 'SecurityError'); }});</script>"""
FULL = """<script>Storage.prototype.setItem = () => {
  throw new DOMException('no', 'QuotaExceededError'); };</script>"""


@pytest.mark.parametrize("before", [FORBIDDEN, FULL])
async def test_a_browser_that_keeps_nothing_shows_every_call(
    chromium: Browser, tmp_path: Path, before: str
) -> None:
    """Only a reload finds nothing again."""
    async with opened_page(chromium, tmp_path, Upstream(), before=before) as (page, problems, _):
        shown = []
        for case in "6789":
            await page.evaluate(XHR.replace("/7/", f"/{case}/"))
            await until_live(page)
            shown += await live_texts(page)

    assert shown == [f"Text of {case}." for case in "6789"]
    assert problems == []


class HeldBack:
    """Answers of Headgate that the page gets when told."""

    def __init__(self) -> None:
        self.asked = 0
        self.release = asyncio.Event()

    async def __call__(self, route: Route) -> None:
        self.asked += 1
        await self.release.wait()
        await route.continue_()


MEANWHILE = {
    "asks as somebody else": f"fetch('/api/hello', {{headers: {{authorization: 'Bearer {token('bob')}'}}}})",
    "signs out": "fetch('/api/auth/logout', {method: 'POST'})",
    "opens another case": "fetch('/api/cases/8/messages', {headers: auth})",
}


@pytest.mark.parametrize("turn", MEANWHILE)
async def test_a_run_of_before_a_reload_is_not_shown_to_a_page_that_meanwhile(
    chromium: Browser, tmp_path: Path, turn: str
) -> None:
    """While the runs in flight were asked for."""
    upstream = Upstream()
    held = HeldBack()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, own):
        await page.evaluate(XHR)
        await until_live(page)
        await page.context.route("**/_headgate/runs", held)
        await page.reload()
        await signed_in(page)
        await eventually(lambda: held.asked == 1)
        await page.evaluate(f"({MEANWHILE[turn]}).then((response) => response.text())")
        async with page.expect_response("**/_headgate/runs"):
            held.release.set()
        # What it shows next comes later than what it could have shown.
        await page.evaluate(f"window.auth = {{authorization: 'Bearer {token()}'}}")
        shown = await page.evaluate(
            "new Promise((resolve) => setTimeout(() => resolve(document.body.innerHTML), 500))"
        )

    assert shown == BODY
    assert reads(own) == 1
    assert problems == []


async def test_what_one_user_may_see_is_not_said_of_the_next(chromium: Browser, tmp_path: Path) -> None:
    """The document that came late was asked for as somebody else."""
    held = HeldBack()
    async with opened_page(chromium, tmp_path, Upstream(), ready=False) as (page, problems, own):
        await page.context.route("**/_headgate/attach.json", held)
        await page.reload()
        await signed_in(page, ready=False)
        await eventually(lambda: held.asked == 1)
        await page.context.unroute("**/_headgate/attach.json")
        # Nobody in particular, to whom nothing is shown.
        await page.evaluate("window.auth = {authorization: 'Bearer nonsense'}")
        async with page.expect_response("**/_headgate/attach.json"):
            await page.evaluate("fetch('/api/hello', {headers: auth})")
        async with page.expect_response("**/_headgate/attach.json"):
            held.release.set()
        own.clear()
        await page.evaluate(XHR)
        await page.wait_for_timeout(500)

    assert own == []
    assert problems == []


async def test_a_headgate_that_is_away_for_a_moment_is_asked_again(chromium: Browser, tmp_path: Path) -> None:
    """With the page's next call; it is no failure of the script's."""
    async with opened_page(chromium, tmp_path, Upstream(), ready=False) as (page, _, own):
        for answer in ("abort", "503", "page"):

            async def away(route: Route, answer: str = answer) -> None:
                match answer:
                    case "abort":
                        await route.abort()
                    case "503":
                        await route.fulfill(status=503, body="{}")
                    case _:
                        await route.fulfill(status=200, body="<html>", content_type="text/html")

            await page.context.route("**/_headgate/attach.json", away)
            await page.evaluate("performance.clearResourceTimings()")
            if answer == "abort":
                await page.reload()
            await signed_in(page, ready=False)
            await eventually(lambda: "/_headgate/attach.json" in own)
            own.clear()
            await page.context.unroute("**/_headgate/attach.json")
        await signed_in(page)
        await page.evaluate(XHR)
        await until_live(page)
        shown = await live_texts(page)

    assert shown == ["Text of 7."]


KEEPS = {**ATTACH, "keep_text": "sessionStorage"}


async def stored(page: Page) -> str:
    """All that the tab keeps, as one text."""
    return json.dumps(await page.evaluate("({...sessionStorage})"))


async def test_where_it_is_allowed_a_text_is_there_at_once_after_a_reload(
    chromium: Browser, tmp_path: Path
) -> None:
    """From the tab, before a byte of its events has come; then it grows.

    It is kept only while no page is there.
    """
    upstream = Upstream()
    held = HeldBack()
    async with opened_page(chromium, tmp_path, upstream, attach=KEEPS) as (page, problems, _):
        await page.evaluate(XHR)
        await until_live(page)
        while_shown = await stored(page)
        await page.context.route("**/events*", held)
        await page.reload()
        on_the_way = await stored(page)
        await signed_in(page)
        await until_live(page)
        at_once = await live_texts(page), held.asked
        after = await stored(page)
        upstream.goes_on.set()
        held.release.set()
        await page.wait_for_function(
            "document.querySelector('[data-headgate-live]').shadowRoot.textContent.includes('Summary of 7.')"
        )
        grown = await live_texts(page)

    assert "Text of" not in while_shown
    assert "Text of 7." in on_the_way
    assert at_once == (["Text of 7."], 1)
    assert "Text of" not in after
    assert grown == ["Text of 7.\nSummary of 7."]
    assert problems == []


async def test_a_text_that_was_kept_is_shown_to_nobody_else(chromium: Browser, tmp_path: Path) -> None:
    """It is away as soon as the script knows who is there."""
    async with opened_page(chromium, tmp_path, Upstream(), attach=KEEPS) as (page, problems, own):
        await page.evaluate(XHR)
        await until_live(page)
        await page.reload()
        kept = await stored(page)
        await signed_in(page, token("bob"))
        await page.wait_for_function("!JSON.stringify({...sessionStorage}).includes('Text of')")
        shown = await page.evaluate("document.body.innerHTML")

    assert "Text of 7." in kept
    assert shown == BODY
    assert reads(own) == 1
    assert problems == []


async def test_a_page_that_is_loaded_twice_in_a_row_shows_its_run_once(
    chromium: Browser, tmp_path: Path
) -> None:
    """In one window."""
    async with opened_page(chromium, tmp_path, Upstream()) as (page, problems, _):
        await page.evaluate(XHR)
        await until_live(page)
        await page.reload()
        await page.reload()
        await signed_in(page)
        await until_live(page)
        shown = await live_texts(page)

    assert shown == ["Text of 7."]
    assert problems == []


@pytest.fixture
async def with_history(anyio_backend: Any) -> AsyncIterator[Browser]:
    """Chromium as people have it: a page that is left stays alive for a while, and comes back as it was."""
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox"],
            ignore_default_args=["--disable-back-forward-cache"],
        ) as browser,
    ):
        yield browser


@pytest.mark.parametrize("keep_text", ["nowhere", "sessionStorage"])
async def test_a_page_that_comes_back_from_the_history_has_no_live_text_of_before(
    with_history: Browser, tmp_path: Path, keep_text: str
) -> None:
    """Nor is one kept any longer. Its next call is shown."""
    attach = {**ATTACH, "keep_text": keep_text}
    script = (
        SCRIPT
        + "<script>addEventListener('pageshow', ({persisted}) => { window.came = persisted; });</script>"
    )
    async with opened_page(with_history, tmp_path, Upstream(), attach=attach, script=script) as (page, _, _):
        await page.evaluate("window.born = true")
        await page.evaluate(XHR)
        await until_live(page)
        await page.goto("about:blank")
        await page.go_back(wait_until="commit")
        await page.wait_for_function("'came' in window")
        is_same = await page.evaluate("window.born === true && came")
        left = await live_texts(page)
        kept = await stored(page)
        await page.evaluate(XHR.replace("/7/", "/8/"))
        await until_live(page)
        shown = await live_texts(page)

    assert is_same
    assert left == []
    assert "Text of" not in kept
    assert shown == ["Text of 8."]
