"""`attach.js` in Firefox: the page's own calls stay as they are, and their text is shown."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.attached import SCRIPT
from tests.browser.firefox import IN_FIREFOX, Tab, firefox
from tests.browser.opened import ATTACH, BODY, SEND, Upstream
from tests.browser.test_attach_calls import DEFAULTS, FETCH, FETCHES, XHR, XHR_CALLS
from tests.servers.scripted import Asked
from tests.servers.serving import gated, token
from tests.sources.test_source_poll import polling

pytestmark = IN_FIREFOX


class Pages(Upstream):
    """The same upstream, which has the page as well, with the script and without it."""

    async def __call__(self, asked: Asked) -> None:
        script = {b"/with": SCRIPT, b"/without": ""}.get(asked.target)
        if script is None:
            await super().__call__(asked)
            return
        html = f"<!doctype html><html><head>{script}</head><body>{BODY}</body></html>"
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\r\n"
        await asked.send((head.format(len(html)) + html).encode())


@pytest.fixture(scope="module")
async def tab(anyio_backend: Any) -> AsyncIterator[Tab]:
    async with firefox() as opened:
        yield opened


@asynccontextmanager
async def serving(upstream: Upstream, directory: Path) -> AsyncIterator[str]:
    routes = [polling(attach=ATTACH, join=False)]
    async with gated(upstream, directory, routes=routes) as (_, served):
        yield served.url
        upstream.release.set()


async def signed_in(tab: Tab) -> None:
    """The page has a token and asks something; what the script shows is known then, if there is one."""
    await tab.evaluate(f"void (window.auth = {{authorization: 'Bearer {token()}'}})")
    await tab.evaluate("fetch('/api/hello', {headers: auth}).then((response) => response.text())")


LIVE = """[...document.querySelectorAll('[data-headgate-live]')]
  .flatMap((host) => [...host.shadowRoot.querySelectorAll('.body')].map((body) => body.textContent)).join()"""
IS_READY = """performance.getEntriesByType('resource').some(({name}) => name.endsWith('/attach/live.js'))"""


async def test_the_pages_own_calls_are_the_same(tab: Tab, tmp_path: Path) -> None:
    """Each request by XMLHttpRequest and by fetch, down to its events and errors."""

    async def all_of(page: str) -> tuple[dict[str, Any], list[str]]:
        async with serving(Pages(), tmp_path) as url:
            tab.problems.clear()
            await tab.goto(f"{url}/{page}")
            await signed_in(tab)
            if page == "with":
                await tab.until(IS_READY)
            found = {
                name: await tab.evaluate(f"({XHR})({json.dumps(DEFAULTS | call)})")
                for name, call in XHR_CALLS.items()
            }
            for name, source in FETCHES.items():
                found[f"fetch {name}"] = await tab.evaluate(f"({FETCH})({json.dumps(source)})")
            return found, sorted(tab.problems)

    without, said_without = await all_of("without")
    attached, said = await all_of("with")

    assert attached == without
    assert said == said_without


async def test_the_text_is_shown_until_the_page_has_its_answer_and_found_again_after_a_reload(
    tab: Tab, tmp_path: Path
) -> None:
    """For either way of calling."""
    upstream = Pages()
    left = {}
    async with serving(upstream, tmp_path) as url:
        tab.problems.clear()
        for case, (kind, send) in enumerate(SEND.items(), 7):
            await tab.goto(f"{url}/with")
            await signed_in(tab)
            await tab.until(IS_READY)
            await tab.evaluate(f"({send.replace('/7/', f'/{case}/')})()")
            await tab.until(f"{LIVE} === 'Text of {case}.'")
            if kind == "fetch":
                await tab.evaluate("void window.request.catch(() => {})")  # the reload ends it
                await tab.reload()
                await signed_in(tab)
                await tab.until(f"{LIVE} === 'Text of {case}.'")
                words = await tab.evaluate(
                    "document.querySelector('[data-headgate-live]').shadowRoot"
                    ".querySelector('.words').textContent"
                )
            else:
                upstream.release.set()
                await tab.until("document.querySelector('[data-headgate-live]') === null")
                left[kind] = await tab.evaluate("document.body.innerHTML")
                upstream.release.clear()

    assert left == {"XMLHttpRequest": BODY}
    assert "before this page was loaded" in words
    assert tab.problems == []
