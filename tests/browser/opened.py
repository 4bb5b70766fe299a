"""A page of its own with `attach.js`, before an upstream that answers as the page's calls say."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request

from tests.browser.attached import SCRIPT, until_ready
from tests.browser.tabs import borrowed_tab
from tests.servers.scripted import Asked
from tests.servers.serving import flag_document, gated, token
from tests.servers.streaming import answer
from tests.sources.test_source_poll import polling, row

BODY = """<p role="status">Thinking</p><div id="reasoning"></div><div id="chat"></div>"""
ATTACH = {"panels": {"reasoning": {"css": "#reasoning"}, "chat": {"css": "#chat"}}}


class Upstream:
    """Answers as the query says; a `slow` one when `release` is set. The first stage of a case can be polled
    as soon as its call has come."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.asked: list[Asked] = []
        self.begun: set[str] = set()
        self.more = ""
        self.goes_on = asyncio.Event()
        """The second stage can be polled, too."""

    async def __call__(self, asked: Asked) -> None:
        case = asked.target.removeprefix(b"/api/cases/").partition(b"/")[0].decode()
        if asked.target.endswith(b"/details"):
            rows = [row("extraction", f"Text of {case}.{self.more}")] if case in self.begun else []
            rows += [row("summary", f"Summary of {case}.")] if rows and self.goes_on.is_set() else []
            await asked.answer(json.dumps({"rows": rows}).encode())
            return
        self.begun.add(case)
        self.asked.append(asked)
        await asked.read_body()
        how = asked.target.partition(b"?")[2].decode()
        if how.startswith("slow"):
            await self.release.wait()
        match how:
            case "cut":
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"
                await asked.send(head)
                asked.writer.close()
            case "500":
                await asked.answer(b'{"detail": "no"}', b"500 Internal Server Error")
            case "401":
                await asked.answer(b'{"detail": "no"}', b"401 Unauthorized")
            case _:
                await asked.answer(answer())


async def signed_in(page: Page, bearer: str = "", *, ready: bool = True) -> None:
    """The page has a token and asks something; if `ready`, it knows then what is shown, and can show it."""
    await page.evaluate(f"window.auth = {{authorization: 'Bearer {bearer or token()}'}}")
    await page.evaluate("fetch('/api/hello', {headers: auth}).then((response) => response.text())")
    if ready:
        await until_ready(page)


@asynccontextmanager
async def opened_page(
    chromium: Browser,
    tmp_path: Path,
    upstream: Upstream,
    *,
    script: str = SCRIPT,
    before: str = "",
    ready: bool = True,
    policy: str | None = None,
    rollout: int = 100,
    attach: dict[str, Any] | None = None,
    attach_pages: dict[str, Any] | None = None,
    bearer: str = "",
    **settings: Any,
) -> AsyncIterator[tuple[Page, list[str], list[str]]]:
    """A page that has asked something before; the console's errors; and what Headgate's own was asked."""
    routes = [polling(attach=ATTACH if attach is None else attach, join=False)]
    settings["attach"] = attach_pages or {}
    problems: list[str] = []
    own: list[str] = []
    html = f"<!doctype html><html><head>{before}{script}</head><body>{BODY}</body></html>"
    headers = {} if policy is None else {"content-security-policy": policy}
    async with (
        gated(upstream, tmp_path, routes=routes, flags=flag_document(rollout), **settings) as (_, serving),
        borrowed_tab(chromium) as page,
    ):

        def heard(said: ConsoleMessage) -> None:
            if said.type == "error":
                problems.append(said.text)

        def thrown(error: Error) -> None:
            problems.append(str(error))

        def requested(request: Request) -> None:
            if "/_headgate/" in request.url:
                own.append(request.url.removeprefix(serving.url))

        listeners = {"console": heard, "pageerror": thrown, "request": requested}
        for name, listener in listeners.items():
            page.on(name, listener)  # type: ignore[call-overload]  # each name has its own kind
        await page.context.route(
            f"{serving.url}/page",
            lambda route: route.fulfill(body=html, content_type="text/html", headers=headers),
        )
        await page.goto(f"{serving.url}/page")
        await signed_in(page, bearer, ready=ready)
        yield page, problems, own
        upstream.release.set()
        for name, listener in listeners.items():
            page.remove_listener(name, listener)


SEND = {
    "XMLHttpRequest": """() => { const request = new XMLHttpRequest();
      request.open('POST', '/api/cases/7/start?slow');
      request.setRequestHeader('authorization', auth.authorization);
      request.send(); window.request = request; }""",
    "fetch": """() => { window.cut = new AbortController();
      const init = {method: 'POST', headers: auth, signal: cut.signal};
      window.request = fetch('/api/cases/7/start?slow', init); }""",
}
"""Each calls and leaves the answer open."""
