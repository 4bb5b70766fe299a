"""Live text over what happens to a tab: a reload, a second tab, a token that ends, a network that goes."""

import time
from pathlib import Path
from typing import Literal

import jwt
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.attached import live_texts, until_empty, until_live
from tests.browser.frontend import IN_CHROMIUM
from tests.browser.gallery import findings
from tests.browser.opened import BODY, SEND, Upstream, opened_page, signed_in
from tests.servers.client import eventually
from tests.servers.scripted import Asked
from tests.servers.serving import token

pytestmark = IN_CHROMIUM

DOCK = "[data-headgate-live] .dock"


async def until_shown(page: Page, *texts: str) -> None:
    """Each live card on the screen says all of its text."""

    async def are_shown() -> bool:
        return await live_texts(page) == list(texts)

    await eventually(are_shown, within_s=30)


async def test_after_a_reload_the_run_is_found_again_and_says_what_it_is(
    chromium: Browser, tmp_path: Path
) -> None:
    """In a small window; it goes when the page opens something else, and no text is kept in the browser."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, own):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        kept = await page.evaluate(
            "JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])"
        )
        await page.reload()
        await signed_in(page)
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


async def test_a_run_that_ended_meanwhile_or_is_another_users_is_not_shown(
    chromium: Browser, tmp_path: Path
) -> None:
    """Nothing is on the screen, and nothing is asked twice."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, own):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        await page.reload()
        await signed_in(page, token("bob"))
        await eventually(lambda: own.count("/_headgate/runs") == 1)
        await page.wait_for_timeout(500)
        of_bob = await page.evaluate("document.body.innerHTML")
        upstream.release.set()
        await until_empty(page, "/_headgate/runs", "runs", token())
        await page.reload()
        await signed_in(page)
        await eventually(lambda: own.count("/_headgate/runs") == 2)
        await page.wait_for_timeout(500)
        ended = await page.evaluate("document.body.innerHTML")

    assert of_bob == ended == BODY
    assert problems == []


async def test_two_tabs_show_each_its_own(chromium: Browser, tmp_path: Path) -> None:
    """Also when one of them is loaded again."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
        other = await page.context.new_page()
        await other.goto(page.url)
        await signed_in(other)
        await page.evaluate(SEND["XMLHttpRequest"])
        await other.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/8/"))
        await until_live(page)
        await until_live(other)
        shown = [await live_texts(page), await live_texts(other)]
        await other.reload()
        await signed_in(other)
        await until_live(other)
        again = [await live_texts(page), await live_texts(other)]

    assert shown == again == [["Text of 7."], ["Text of 8."]]
    assert problems == []


async def test_the_pages_own_calls_keep_their_connections(chromium: Browser, tmp_path: Path) -> None:
    """By HTTP/1.1 all tabs together show two texts at once: a browser opens six connections to a host."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
        tabs = [page]
        for _ in range(2):
            tabs.append(await page.context.new_page())
            await tabs[-1].goto(page.url)
            await signed_in(tabs[-1])
        for tab, case in zip(tabs, "789", strict=True):
            await tab.evaluate(SEND["XMLHttpRequest"].replace("/7/", f"/{case}/"))
            if tab is not tabs[-1]:
                await until_live(tab)
        await tabs[-1].wait_for_timeout(1000)
        shown = [await live_texts(tab) for tab in tabs]
        upstream.release.set()
        for tab in tabs:
            await tab.wait_for_function("request.readyState === 4 && request.status === 200")

    assert shown == [["Text of 7."], ["Text of 8."], []]
    assert problems == []


async def test_a_call_that_follows_another_at_once_has_its_place(chromium: Browser, tmp_path: Path) -> None:
    """Also where another tab has the other one."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
        other = await page.context.new_page()
        await other.goto(page.url)
        await signed_in(other)
        await other.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/6/"))
        await until_live(other)
        for case in "789":
            await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", f"/{case}/"))
            await until_live(page)
        shown = await live_texts(page)

    assert shown == ["Text of 9."]
    assert problems == []


async def test_a_network_that_goes_and_comes_back_costs_no_text(chromium: Browser, tmp_path: Path) -> None:
    """The page's call is lost with it, and its text goes; the next call is shown as ever."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, _, _):
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


async def test_a_page_with_a_service_worker_that_answers_for_it_is_shown(
    chromium: Browser, tmp_path: Path
) -> None:
    """The worker passes each request on, as such workers do."""
    upstream = Upstream()
    worker = """self.addEventListener('install', () => self.skipWaiting());
      self.addEventListener('activate', (event) => event.waitUntil(clients.claim()));
      self.addEventListener('fetch', (event) => event.respondWith(fetch(event.request)));"""
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
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


async def test_a_hidden_tab_has_the_text_when_it_comes_back(chromium: Browser, tmp_path: Path) -> None:
    """Frames stop there; the text is there all the same."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
        await page.evaluate(
            """() => { Object.defineProperty(document, 'hidden', {get: () => true});
              window.requestAnimationFrame = () => 0; }"""
        )
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_shown(page, "Text of 7.")

    assert problems == []


async def test_where_no_panel_is_found_the_window_can_be_folded_moved_and_closed(
    chromium: Browser, tmp_path: Path
) -> None:
    """By its buttons and its head; closed, it stays so for that call."""
    upstream = Upstream()
    nowhere = {"panels": {"reasoning": {"css": "#nowhere"}}}
    async with opened_page(chromium, tmp_path, upstream, attach=nowhere) as (page, problems, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_shown(page, "Text of 7.")
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


SECRET = "a secret that is long enough for HS256"


def bearer(lasts_s: float) -> str:
    return jwt.encode({"sub": "ann", "exp": time.time() + lasts_s}, SECRET, algorithm="HS256")


async def test_a_token_that_is_refreshed_meanwhile_reads_on(chromium: Browser, tmp_path: Path) -> None:
    """The stream ends with the token that it was opened with; the page's newer one opens it again."""
    upstream = Upstream()
    identity = {"jwt": {"key": SECRET, "leeway_s": 0}}
    async with opened_page(chromium, tmp_path, upstream, bearer=bearer(600), identity=identity) as (
        page,
        problems,
        own,
    ):
        await page.evaluate(f"window.auth = {{authorization: 'Bearer {bearer(8)}'}}")
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        await signed_in(page, bearer(601))
        await eventually(lambda: len([url for url in own if "/events" in url]) == 2, within_s=30)
        upstream.goes_on.set()
        await until_shown(page, "Text of 7.", "Summary of 7.")

    # The browser itself reports a stream that Headgate cuts on purpose.
    assert [said for said in problems if "ERR_INCOMPLETE_CHUNKED_ENCODING" not in said] == []


async def test_a_call_that_the_page_repeats_after_a_401_is_shown(chromium: Browser, tmp_path: Path) -> None:
    """The refused one shows nothing, and its run is forgotten."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, _, _):
        await page.evaluate(
            """async () => {
              const init = {method: 'POST', headers: auth};
              const first = await fetch('/api/cases/7/start?401', init);
              if (first.status === 401) window.request = fetch('/api/cases/8/start?slow', init);
            }"""
        )
        await until_live(page)
        shown = await live_texts(page)

    assert shown == ["Text of 8."]


async def test_all_text_without_a_panel_is_in_one_window(chromium: Browser, tmp_path: Path) -> None:
    """Stage after stage."""
    upstream = Upstream()
    upstream.goes_on.set()
    async with opened_page(chromium, tmp_path, upstream, attach={}) as (page, problems, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_shown(page, "Text of 7.\nSummary of 7.")
        upstream.release.set()
        await page.wait_for_function("!document.querySelector('[data-headgate-live]')")

    assert problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_an_accessibility_check_finds_nothing_in_the_live_text(
    chromium: Browser, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    """Neither in a card nor in the window; what it finds in the page itself stays."""
    upstream = Upstream()
    upstream.more = "\n\n| Sign | Value |\n| --- | --- |\n| Fever | **38.9** |\n\n" + "- one more line\n" * 40
    upstream.goes_on.set()
    panels = {"panels": {"reasoning": {"css": "#reasoning"}, "chat": {"css": "#nowhere"}}}
    async with opened_page(chromium, tmp_path, upstream, attach=panels) as (page, _, _):
        await page.emulate_media(color_scheme=scheme)
        await page.evaluate("document.documentElement.style.colorScheme = 'light dark'")
        before = await findings(page)
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page, 2)
        await page.wait_for_timeout(500)
        live = await findings(page)

    assert [found for found in live if found not in before] == []


LAYOUT = """(room) => {
  document.body.style.margin = '0';
  document.body.innerHTML = '<div id="chat"></div><div id="reasoning"><div></div></div><textarea></textarea>';
  document.querySelector('#reasoning > div').style.height = `${innerHeight - 40 - room}px`;
  document.querySelector('textarea').style.cssText = 'display: block; box-sizing: border-box; height: 40px';
}"""


@pytest.mark.parametrize(("room", "place"), [(150, "reasoning"), (20, "BODY")])
async def test_what_a_person_types_into_stays_on_the_screen(
    chromium: Browser, tmp_path: Path, room: int, place: str
) -> None:
    """The card is as high as there is room, and scrolls in itself; without room the text has a window."""
    upstream = Upstream()
    upstream.more = " and another line.\n\n" * 50
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
        await page.evaluate(LAYOUT, room)
        await page.evaluate(SEND["XMLHttpRequest"])
        await page.wait_for_function(
            """() => [...document.querySelectorAll('[data-headgate-live]')]
                .some((host) => host.shadowRoot.querySelectorAll('.body p').length === 50)"""
        )
        left_px, where, hidden_px = await page.evaluate(
            """() => {
              const [host, ...more] = document.querySelectorAll('[data-headgate-live]');
              const text = host.shadowRoot.querySelector('.text');
              return [innerHeight - document.querySelector('textarea').getBoundingClientRect().bottom,
                more.length ? 'several' : host.parentElement.id || host.parentElement.tagName,
                text.scrollHeight - text.clientHeight];
            }"""
        )

    assert left_px >= 0
    assert where == place
    assert hidden_px > 0
    assert problems == []


async def test_a_page_that_the_relay_adds_the_script_to_is_live(chromium: Browser, tmp_path: Path) -> None:
    """Under the page's own policy, with its nonce."""

    class Pages(Upstream):
        async def __call__(self, asked: Asked) -> None:
            if asked.target != b"/app":
                await super().__call__(asked)
                return
            html = f"<!doctype html><html><head><title>x</title></head><body>{BODY}</body></html>".encode()
            policy = b"content-security-policy: default-src 'self'; script-src 'nonce-r4nd0m'\r\n"
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\n%bcontent-length: %d\r\n\r\n"
            )
            await asked.send(head % (policy, len(html)) + html)

    upstream = Pages()
    pages = {"inject": True, "pages": ["/app"]}
    async with opened_page(chromium, tmp_path, upstream, attach_pages=pages) as (page, problems, own):
        own.clear()
        await page.goto(page.url.replace("/page", "/app"))
        await signed_in(page)
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        shown = await live_texts(page)

    assert shown == ["Text of 7."]
    assert [said for said in problems if "favicon" not in said] == []
