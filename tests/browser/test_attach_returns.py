"""Live text over what happens to a tab: a reload, a second tab, a token that ends, a network that goes."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.attached import live_texts, until_live
from tests.browser.frontend import CHROMIUM
from tests.browser.test_attach_calls import BODY, SEND, Upstream, opened_page
from tests.servers.serving import token
from tests.servers.streaming import eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

SIGNED = f"window.auth = {{authorization: 'Bearer {token()}'}}"
ASK = "fetch('/api/hello', {headers: auth}).then((response) => response.text())"
DOCK = "[data-headgate-live] .dock"


async def test_after_a_reload_the_run_is_found_again_and_says_what_it_is(tmp_path: Path) -> None:
    """In a small window; it goes when the page opens something else, and no text is kept in the browser."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, problems, own):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        kept = await page.evaluate(
            "JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])"
        )
        await page.reload()
        await page.evaluate(SIGNED)
        await page.evaluate(ASK)
        await until_live(page)
        shown = await live_texts(page)
        words = await page.inner_text(f"{DOCK} .words span")
        await page.evaluate("fetch('/api/cases/7/messages', {headers: auth})")
        still = await live_texts(page)
        left = await page.evaluate(
            "(void fetch('/api/cases/8/messages', {headers: auth}), "
            "document.querySelectorAll('[data-headgate-live]').length)"
        )

    assert shown == still == ["Text of 7."]
    assert "before this page was loaded" in words
    assert "Not final" in words
    assert "Text of" not in kept
    assert own.count("/_headgate/runs") == 1
    assert left == 0
    assert problems == []


async def test_a_run_that_ended_meanwhile_or_is_another_users_is_not_shown(tmp_path: Path) -> None:
    """Nothing is on the screen, and nothing is asked twice."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, problems, own):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        await page.reload()
        await page.evaluate(f"window.auth = {{authorization: 'Bearer {token('bob')}'}}")
        await page.evaluate(ASK)
        await eventually(lambda: own.count("/_headgate/runs") == 1)
        await page.wait_for_timeout(500)
        of_bob = await page.evaluate("document.body.innerHTML")
        upstream.release.set()
        await page.wait_for_timeout(200)
        await page.reload()
        await page.evaluate(SIGNED)
        await page.evaluate(ASK)
        await eventually(lambda: own.count("/_headgate/runs") == 2)
        await page.wait_for_timeout(500)
        ended = await page.evaluate("document.body.innerHTML")

    assert of_bob == ended == BODY
    assert problems == []


async def test_two_tabs_show_each_its_own(tmp_path: Path) -> None:
    """Also when one of them is loaded again."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, problems, _):
        other = await page.context.new_page()
        await other.goto(page.url)
        await other.evaluate(SIGNED)
        await other.evaluate(ASK)
        await other.wait_for_timeout(700)
        await page.evaluate(SEND["XMLHttpRequest"])
        await other.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/8/"))
        await until_live(page)
        await until_live(other)
        shown = [await live_texts(page), await live_texts(other)]
        await other.reload()
        await other.evaluate(SIGNED)
        await other.evaluate(ASK)
        await until_live(other)
        again = [await live_texts(page), await live_texts(other)]

    assert shown == again == [["Text of 7."], ["Text of 8."]]
    assert problems == []


async def test_a_network_that_goes_and_comes_back_costs_no_text(tmp_path: Path) -> None:
    """The page's call is lost with it, and its text goes; the next call is shown as ever."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, _, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        await page.context.set_offline(True)
        await page.evaluate("request.abort()")
        gone = await live_texts(page)
        await page.context.set_offline(False)
        await page.evaluate(SEND["fetch"].replace("/7/", "/8/"))
        await until_live(page)
        shown = await live_texts(page)

    assert gone == []
    assert shown == ["Text of 8."]


async def test_a_page_with_a_service_worker_that_answers_for_it_is_shown(tmp_path: Path) -> None:
    """The worker passes each request on, as such workers do."""
    upstream = Upstream()
    worker = """self.addEventListener('install', () => self.skipWaiting());
      self.addEventListener('activate', (event) => event.waitUntil(clients.claim()));
      self.addEventListener('fetch', (event) => event.respondWith(fetch(event.request)));"""
    async with opened_page(tmp_path, upstream) as (page, problems, _):
        await page.context.route(
            "**/worker.js", lambda route: route.fulfill(body=worker, content_type="text/javascript")
        )
        await page.evaluate(
            """() => navigator.serviceWorker.register('/worker.js').then(() => new Promise((resolve) =>
              navigator.serviceWorker.controller ? resolve()
                : navigator.serviceWorker.addEventListener('controllerchange', resolve)))"""
        )
        for kind, case in (("XMLHttpRequest", "7"), ("fetch", "8")):
            await page.evaluate(SEND[kind].replace("/7/", f"/{case}/"))
            await page.wait_for_function(
                "(text) => [...document.querySelectorAll('[data-headgate-live]')]"
                ".some((host) => host.shadowRoot.textContent.includes(text))",
                arg=f"Text of {case}.",
            )
        upstream.release.set()
        await page.wait_for_function("!document.querySelector('[data-headgate-live]')")

    assert problems == []


async def test_a_hidden_tab_has_the_text_when_it_comes_back(tmp_path: Path) -> None:
    """Frames stop there; the text is there all the same."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, problems, _):
        await page.evaluate(
            """() => { Object.defineProperty(document, 'hidden', {get: () => true});
              window.requestAnimationFrame = () => 0; }"""
        )
        await page.evaluate(SEND["XMLHttpRequest"])
        async with asyncio.timeout(10):
            while await live_texts(page) != ["Text of 7."]:
                await page.wait_for_timeout(100)

    assert problems == []


async def test_where_no_panel_is_found_the_window_can_be_folded_moved_and_closed(tmp_path: Path) -> None:
    """By its buttons and its head; closed, it stays so for that call."""
    upstream = Upstream()
    nowhere = {"panels": {"reasoning": {"css": "#nowhere"}}}
    async with opened_page(tmp_path, upstream, attach=nowhere) as (page, problems, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        dock = page.locator(DOCK)
        before = await dock.bounding_box()
        assert before is not None
        await page.mouse.move(before["x"] + 20, before["y"] + 12)
        await page.mouse.down()
        await page.mouse.move(before["x"] - 180, before["y"] - 88)
        await page.mouse.up()
        after = await dock.bounding_box()
        await dock.get_by_role("button", name="Fold up").click()
        await expect(dock.locator(".text")).to_be_hidden()
        await dock.get_by_role("button", name="Close").click()
        await page.wait_for_timeout(500)
        left = await page.evaluate("document.body.innerHTML")

    assert after is not None
    assert (after["x"] - before["x"], after["y"] - before["y"]) == (-200, -100)
    assert left == BODY
    assert problems == []
