"""`attach.js` in pages and on machines that are not as usual: patched, prerendered, slow, or cut off."""

import signal
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.browser.attached import SCRIPT, live_texts, until_live, until_ready
from tests.browser.frontend import IN_CHROMIUM
from tests.browser.npm import HERE
from tests.browser.opened import ATTACH, BODY, SEND, Upstream, opened_page, signed_in
from tests.browser.test_markdown import HOSTILE
from tests.servers.ports import free_port
from tests.servers.scripted import ScriptedUpstream
from tests.servers.streaming import served
from tests.sources.test_source_poll import polling

pytestmark = IN_CHROMIUM

ZONE = HERE / "node_modules" / "zone.js" / "bundles" / "zone.umd.js"
NO_TEXT = "!document.querySelector('[data-headgate-live]')"
COUNTED = """() => { window.loads = [];
  request.addEventListener('load', () => loads.push('listener'));
  request.onload = () => loads.push('handler'); }"""


@pytest.mark.skipif(not ZONE.is_file(), reason="zone.js is not here: npm ci --prefix tests/browser")
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_page_of_zone_js_is_shown(chromium: Browser, tmp_path: Path, is_first: bool) -> None:
    """It patches the same functions, before the script or after it; each call is sent and answered once."""
    upstream = Upstream()
    zone = f"<script>{ZONE.read_text()}</script>"
    before, script = (zone, SCRIPT) if is_first else ("", SCRIPT)
    async with opened_page(chromium, tmp_path, upstream, before=before, script=script) as (page, problems, _):
        if not is_first:
            await page.add_script_tag(content=ZONE.read_text())
        assert await page.evaluate("typeof Zone") == "function"
        await page.evaluate(SEND["fetch"])
        await until_live(page)
        shown = await live_texts(page)
        await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/8/"))
        await page.evaluate(COUNTED)
        await until_live(page)
        shown += await live_texts(page)
        upstream.release.set()
        await page.wait_for_function(NO_TEXT)
        loads = await page.evaluate("loads")

    assert shown == ["Text of 7.", "Text of 8."]
    assert sorted(loads) == ["handler", "listener"]
    assert [asked.target for asked in upstream.asked[1:]] == [
        b"/api/cases/7/start?slow",
        b"/api/cases/8/start?slow",
    ]
    assert problems == []


PRERENDERED = """<script>
  let isPrerendering = true;
  Object.defineProperty(document, 'prerendering', {get: () => isPrerendering});
  window.activate = () => {
    isPrerendering = false;
    document.dispatchEvent(new Event('prerenderingchange'));
  };</script>"""


async def test_a_prerendered_page_asks_for_nothing_until_it_is_looked_at(
    chromium: Browser, tmp_path: Path
) -> None:
    """Prerendering is what the page itself sees; once looked at, the page is like any other."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream, before=PRERENDERED, ready=False) as (
        page,
        problems,
        own,
    ):
        await page.evaluate(SEND["XMLHttpRequest"].replace("?slow", ""))
        await page.wait_for_function("request.readyState === 4")
        early = list(own)
        await page.evaluate("activate()")
        await until_ready(page)
        await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/8/"))
        await until_live(page)
        shown = await live_texts(page)

    assert "/_headgate/attach.json" not in early
    assert shown == ["Text of 8."]
    assert problems == []


async def test_on_a_machine_of_a_quarter_of_the_speed_the_text_is_whole(
    chromium: Browser, tmp_path: Path
) -> None:
    """Nothing doubled, and gone with the answer."""
    upstream = Upstream()
    upstream.more = " and a line more.\n\n" * 200
    upstream.goes_on.set()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
        developer = await page.context.new_cdp_session(page)
        await developer.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page, 2)
        await page.wait_for_function(
            """() => [...document.querySelectorAll('[data-headgate-live]')]
              .map((host) => host.shadowRoot.textContent.split('a line more').length - 1)
              .reduce((sum, count) => sum + count) === 200"""
        )
        texts = await live_texts(page)
        upstream.release.set()
        await page.wait_for_function(NO_TEXT)
        left = await page.evaluate("document.body.innerHTML")
        await developer.detach()

    assert texts[0].count("Text of 7.") == 1
    assert texts[1] == "Summary of 7."
    assert left == BODY
    assert problems == []


@pytest.mark.parametrize("place", ["reasoning", "BODY"])
async def test_hostile_text_is_text_in_a_card_and_in_the_window(
    chromium: Browser, tmp_path: Path, place: str
) -> None:
    """Nothing of it is run, fetched or submitted."""
    upstream = Upstream()
    upstream.more = "\n\n" + "\n\n".join([*HOSTILE, "The end."])
    attach = ATTACH if place == "reasoning" else {"panels": {}}
    async with opened_page(chromium, tmp_path, upstream, attach=attach) as (page, problems, _):
        asked: list[str] = []
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        page.on("request", lambda request: asked.append(request.url))
        await page.wait_for_function(
            "document.querySelector('[data-headgate-live]').shadowRoot.textContent.includes('The end.')"
        )
        where, made, links, owned = await page.evaluate(
            """() => {
              const host = document.querySelector('[data-headgate-live]');
              const all = [...host.shadowRoot.querySelectorAll('.body *')];
              const parent = host.parentElement;
              const links = all.filter(({localName}) => localName === 'a');
              return [parent.id || parent.tagName, [...new Set(all.map(({localName}) => localName))],
                links.map(({protocol}) => protocol), window.owned ?? null];
            }"""
        )

    assert where == place
    assert not {"img", "script", "iframe", "svg", "math", "form", "style", "object", "input"} & set(made)
    assert set(links) <= {"http:", "https:", "mailto:"}
    assert (owned, asked, problems) == (None, [], [])


async def test_a_proxy_that_is_killed_and_comes_back(chromium: Browser, tmp_path: Path) -> None:
    """The page has its own error, and no text beside it; its next call is shown as ever."""
    upstream = Upstream()
    problems: list[str] = []
    listen = f"127.0.0.1:{free_port()}"
    settings = {"routes": [polling(attach=ATTACH, join=False)], "listen": listen}
    html = f"<!doctype html><html><head>{SCRIPT}</head><body>{BODY}</body></html>"
    async with ScriptedUpstream(upstream).running() as scripted, await chromium.new_context() as context:
        page = await context.new_page()
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        async with served(scripted.url, tmp_path, **settings) as first:
            await context.route(
                f"http://{listen}/page", lambda route: route.fulfill(body=html, content_type="text/html")
            )
            await page.goto(f"http://{listen}/page")
            await signed_in(page)
            await page.evaluate(SEND["XMLHttpRequest"])
            await until_live(page)
            first.send_all(signal.SIGKILL)
            await page.wait_for_function(f"request.readyState === 4 && {NO_TEXT}")
            status = await page.evaluate("request.status")
            await first.process.wait()
        async with served(scripted.url, tmp_path, **settings):
            await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/8/"))
            await until_live(page)
            shown = await live_texts(page)
            upstream.release.set()
            await page.wait_for_function(NO_TEXT)

    assert status == 0
    assert shown == ["Text of 8."]
    # The browser itself reports what it could not load.
    assert [said for said in problems if "net::ERR_" not in said] == []
