"""The page's own calls under `attach.js`: each behaves as without it, down to its events and errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from tests.browser.attached import SCRIPT, live_texts, until_empty, until_live, until_ready
from tests.browser.frontend import CHROMIUM, IN_CHROMIUM
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import flag_document, headgate, token
from tests.servers.streaming import answer, eventually
from tests.sources.test_source_poll import polling, row

pytestmark = IN_CHROMIUM

START = "/api/cases/7/start"
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


@asynccontextmanager
async def opened_page(
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
    bearer: str | None = None,
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
        ScriptedUpstream(upstream).running() as scripted,
        headgate(scripted.url, tmp_path, routes=routes, flags=flag_document(rollout), **settings) as serving,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        context = await chromium.new_context()
        page = await context.new_page()
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                own.append(request.url.removeprefix(serving.url)) if "/_headgate/" in request.url else None
            ),
        )
        await context.route(
            f"{serving.url}/page",
            lambda route: route.fulfill(body=html, content_type="text/html", headers=headers),
        )
        await page.goto(f"{serving.url}/page")
        await page.evaluate(f"window.auth = {{authorization: 'Bearer {bearer or token()}'}}")
        await page.evaluate("fetch('/api/hello', {headers: auth}).then((response) => response.text())")
        if ready:
            await until_ready(page)
        yield page, problems, own
        upstream.release.set()


XHR = """async ({how, method, sync, abortAfter, timeout, again}) => {
  const said = [];
  const request = new XMLHttpRequest();
  const names = ['readystatechange', 'loadstart', 'progress', 'abort', 'error', 'timeout', 'load', 'loadend'];
  for (const name of names) request.addEventListener(name, (event) =>
    said.push([name, request.readyState, request.status, event.loaded ?? null, event.total ?? null]));
  const once = () => new Promise((resolve) => {
    request.open(method, '/api/cases/7/start' + how, !sync);
    request.setRequestHeader('authorization', auth.authorization);
    request.setRequestHeader('X-Two', 'a');
    request.setRequestHeader('X-Two', 'b');
    if (timeout) request.timeout = timeout;
    request.addEventListener('loadend', () => setTimeout(resolve), {once: true});
    request.send('{"a": 1}');
    if (abortAfter !== null) setTimeout(() => request.abort(), abortAfter);
  });
  await once();
  if (again) await once();
  const headers = request.getAllResponseHeaders().split('\\r\\n')
    .filter((line) => !/^(headgate-|date)/.test(line));
  return {said, text: request.responseText, headers, keys: Object.keys(request)};
}"""

XHR_CALLS: dict[str, dict[str, Any]] = {
    "whole": {},
    "not of a route": {"how": "/nothing"},
    "by GET": {"method": "GET"},
    "synchronous": {"sync": True},
    "aborted": {"how": "?slow", "abortAfter": 50},
    "aborted at once": {"how": "?slow", "abortAfter": 0},
    "timed out": {"how": "?slow", "timeout": 100},
    "failed": {"how": "?500"},
    "refused": {"how": "?401"},
    "used twice": {"again": True},
}
DEFAULTS = {"how": "", "method": "POST", "sync": False, "abortAfter": None, "timeout": 0, "again": False}


async def test_an_xml_http_request_is_the_same(tmp_path: Path) -> None:
    """Its events in their order, with their numbers; its answer, headers and errors."""

    async def all_of(script: str) -> tuple[dict[str, Any], list[list[tuple[bytes, bytes]]], list[str]]:
        upstream = Upstream()
        async with opened_page(tmp_path, upstream, script=script, ready=bool(script)) as (page, problems, _):
            found = {name: await page.evaluate(XHR, DEFAULTS | call) for name, call in XHR_CALLS.items()}
            thrown = await page.evaluate(
                """() => [
                    () => new XMLHttpRequest().open('BAD METHOD', '/'),
                    () => new XMLHttpRequest().send(),
                    () => new XMLHttpRequest().setRequestHeader('a', 'b'),
                    () => new XMLHttpRequest().open('GET'),
                    () => XMLHttpRequest.prototype.open.call({}, 'GET', '/')]
                  .map((act) => { try { act(); return null; } catch (error) { return String(error); } })
                  .concat(['open', 'send', 'setRequestHeader'].flatMap((name) =>
                    [XMLHttpRequest.prototype[name].name, XMLHttpRequest.prototype[name].length]),
                    Object.keys(XMLHttpRequest.prototype).sort())"""
            )
            return {**found, "thrown": thrown}, [asked.headers() for asked in upstream.asked], problems

    without, _, said_without = await all_of("")
    attached, asked, said = await all_of(SCRIPT)

    assert attached == without
    assert sorted(said) == sorted(said_without)
    assert not any(name == b"headgate-run" for headers in asked for name, _ in headers)


FETCHES = {
    "whole": "fetch(url, init)",
    "with a URL": "fetch(new URL(url, location), init)",
    "with headers as pairs": "fetch(url, {...init, headers: Object.entries(auth)})",
    "with headers read once": "fetch(url, {...init, headers: Object.entries(auth)[Symbol.iterator]()})",
    "with headers read once, not of a route": "fetch('/api/other', "
    "{...init, headers: Object.entries(auth)[Symbol.iterator]()})",
    "with Headers": "(headers => fetch(url, {...init, headers}).then(r => (r.seen = [...headers.keys()], r)))"
    "(new Headers(auth))",
    "as a Request": "(r => fetch(r).then(a => (a.seen = [r.bodyUsed, [...r.headers.keys()]], a)))"
    "(new Request(url, init))",
    "as a Request, cloned": "(r => (r.clone(), fetch(r)))(new Request(url, init))",
    "as a Request, changed": "fetch(new Request(url, init), {headers: {...auth, 'x-more': '1'}})",
    "a Request, twice": "(r => fetch(r).then(() => fetch(r)))(new Request(url, init))",
    "with an init of its own kind": "fetch(url, new (class { method = 'POST'; headers = auth })())",
    "aborted": "(c => (setTimeout(() => c.abort(), 50), fetch(url + '?slow', {...init, signal: c.signal})))"
    "(new AbortController())",
    "aborted before": "fetch(url, {...init, signal: AbortSignal.abort('why')})",
    "failed": "fetch(url + '?500', init)",
    "wrong": "fetch(url, {...init, method: 'BAD METHOD'})",
    "nowhere": "fetch('http://[', init)",
    "without anything": "fetch()",
    "by no-cors": "fetch(url, {...init, mode: 'no-cors'})",
    "not of a route": "fetch('/api/other', init)",
}
FETCH = """async (source) => {
  const url = '/api/cases/7/start';
  const init = {method: 'POST', headers: auth, body: '{"a": 1}'};
  try {
    const answer = await new Function('url', 'init', `return ${source}`)(url, init);
    const headers = [...answer.headers].filter(([name]) => !/^(headgate-|date)/.test(name));
    const url_ = answer.url.replace(location.origin, '');
    return {status: answer.status, url: url_, type: answer.type, headers, used: answer.bodyUsed,
      seen: answer.seen ?? null, text: await answer.text()};
  } catch (error) { return {thrown: String(error).replace(location.origin, '')}; }
}"""


async def test_a_fetch_is_the_same(tmp_path: Path) -> None:
    """Its answer, and what became of what it was given; also an error that the page leaves to the window."""

    async def all_of(script: str) -> tuple[dict[str, Any], list[str]]:
        upstream = Upstream()
        async with opened_page(tmp_path, upstream, script=script, ready=bool(script)) as (page, problems, _):
            found = {name: await page.evaluate(FETCH, source) for name, source in FETCHES.items()}
            found["unhandled"] = await page.evaluate(
                """() => new Promise((resolve) => {
                  addEventListener('unhandledrejection', (event) => {
                    event.preventDefault();
                    resolve(String(event.reason));
                  });
                  const signal = AbortSignal.timeout(0);
                  fetch('/api/cases/7/start', {method: 'POST', headers: auth, signal});
                })"""
            )
            found["shape"] = await page.evaluate("[fetch.name, fetch.length, fetch() instanceof Promise]")
            found["signed"] = [asked.header(b"authorization") is not None for asked in upstream.asked]
            await page.wait_for_timeout(1000)  # what the browser says of a failure comes later
            return found, problems

    without, said_without = await all_of("")
    attached, said = await all_of(SCRIPT)

    assert attached == without
    assert attached["unhandled"].startswith(("TimeoutError", "AbortError"))
    assert sorted(said) == sorted(said_without)


SEND = {
    "XMLHttpRequest": """() => { const request = new XMLHttpRequest();
      request.open('POST', '/api/cases/7/start?slow');
      request.setRequestHeader('authorization', auth.authorization);
      request.send(); window.request = request; }""",
    "fetch": """() => { window.cut = new AbortController();
      const init = {method: 'POST', headers: auth, signal: cut.signal};
      window.request = fetch('/api/cases/7/start?slow', init); }""",
}


@pytest.mark.parametrize("kind", SEND)
async def test_the_text_is_shown_until_the_page_has_its_answer(tmp_path: Path, kind: str) -> None:
    """For either way of calling; the first paint after the page's own render has none of it."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, problems, _):
        await page.evaluate(SEND[kind])
        await until_live(page)
        shown = await live_texts(page)
        upstream.release.set()
        await page.wait_for_function("!document.querySelector('[data-headgate-live]')")
        left = await page.evaluate("document.body.innerHTML")
        remembered = await page.wait_for_function("sessionStorage.length === 0")

    assert shown == ["Text of 7."]
    assert left == BODY
    assert remembered
    assert problems == []


@pytest.mark.parametrize("end", ["request.abort()", "cut.abort()"])
async def test_an_aborted_call_is_shown_no_longer(tmp_path: Path, end: str) -> None:
    """At once, and its run goes on as ever."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, _, _):
        await page.evaluate(SEND["XMLHttpRequest" if end.startswith("request") else "fetch"])
        await page.evaluate("void window.request.catch?.(() => {})")
        await until_live(page)
        left = await page.evaluate(f"({end}, document.querySelectorAll('[data-headgate-live]').length)")

    assert left == 0


async def test_of_several_calls_the_last_is_shown_with_its_own_text(tmp_path: Path) -> None:
    """One's text goes when the next is sent, and so does its connection: each is shown, however many."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, _, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        left = await page.evaluate(
            f"(({SEND['XMLHttpRequest'].replace('/7/', '/8/')})(), "
            "document.querySelectorAll('[data-headgate-live]').length)"
        )
        await until_live(page)
        shown = await live_texts(page)
        await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/9/"))
        await until_live(page)
        shown += await live_texts(page)

    assert left == 0
    assert shown == ["Text of 8.", "Text of 9."]


async def test_of_two_calls_in_one_breath_the_last_is_shown_alone(tmp_path: Path) -> None:
    """Before anything of the first could be shown."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, problems, own):
        first = SEND["XMLHttpRequest"]
        await page.evaluate(f"() => {{ ({first})(); ({first.replace('/7/', '/8/')})(); }}")
        await until_live(page)
        await page.wait_for_timeout(1000)
        shown = await live_texts(page)

    assert shown == ["Text of 8."]
    assert len([url for url in own if url.endswith("/events")]) == 1
    assert problems == []


async def test_a_user_of_another_arm_pays_one_request(tmp_path: Path) -> None:
    """The script, its rules and the document, which is kept; no header, no stream, nothing on the screen."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream, ready=False, rollout=0) as (page, problems, own):
        await page.evaluate(SEND["XMLHttpRequest"])
        await eventually(lambda: len(upstream.asked) == 2)
        await page.wait_for_timeout(1500)
        shown = await page.evaluate("document.body.innerHTML")

    assert own == ["/_headgate/attach.js", "/_headgate/attach/routes.js", "/_headgate/attach.json"]
    assert shown == BODY
    assert upstream.asked[1].header(b"headgate-run") is None
    assert problems == []


FROZEN = """<script>Object.freeze(XMLHttpRequest.prototype);
  Object.defineProperty(window, 'fetch', {value: fetch, writable: false, configurable: false});</script>"""
WRAPPED = """window.counted = 0;
  for (const [target, name] of [[window, 'fetch'], [XMLHttpRequest.prototype, 'send']]) {
    const own = target[name];
    target[name] = function (...given) { counted += 1; return own.apply(this, given); };
  }"""
BROKEN = """<script>window.thrown = 0;
  Element.prototype.attachShadow = () => { thrown += 1; throw new Error('no'); };</script>"""


async def test_frozen_prototypes_are_left_alone(tmp_path: Path) -> None:
    """The calls go through, and nothing is said."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream, before=FROZEN, ready=False) as (page, problems, _):
        found = await page.evaluate(XHR, DEFAULTS)

    assert json.loads(found["text"])["next_stage"] == "diagnosis"
    assert problems == []


@pytest.mark.parametrize(
    ("script", "late", "expected"),
    [
        (f"<script>{WRAPPED}</script>{SCRIPT}", "", 6),  # three are the script's own, as the page would ask
        (SCRIPT, WRAPPED, 2),
        (SCRIPT + SCRIPT.replace("attach.js", "attach.js?again"), "window.counted = 0", 0),
    ],
)
async def test_other_wrappers_and_a_second_element_do_no_harm(
    tmp_path: Path, script: str, late: str, expected: int
) -> None:
    """Each call goes out once, and is shown once."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream, script=script) as (page, problems, own):
        await page.evaluate(f"() => {{ {late} }}")
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        await page.evaluate(SEND["fetch"].replace("/7/", "/8/"))
        await until_live(page)
        shown = await live_texts(page)
        counted = await page.evaluate("window.counted")

    assert shown == ["Text of 8."]
    assert [asked.target for asked in upstream.asked[1:]] == [
        b"/api/cases/7/start?slow",
        b"/api/cases/8/start?slow",
    ]
    assert len([url for url in own if url.endswith("/events")]) == 2
    assert counted == expected
    assert own.count("/_headgate/attach.json") == 1
    assert problems == []


async def test_it_takes_itself_off_after_three_failures(tmp_path: Path) -> None:
    """The functions are the page's again, and its calls have gone through meanwhile."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream, before=BROKEN) as (page, problems, _):
        was_patched = await page.evaluate("!/native code/.test(XMLHttpRequest.prototype.send)")
        for count, case in enumerate("789", 1):
            await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", f"/{case}/"))
            await page.wait_for_function("(count) => window.thrown >= count", arg=count)
        await page.wait_for_function(
            "[XMLHttpRequest.prototype.open, XMLHttpRequest.prototype.send, fetch]"
            ".every((own) => /native code/.test(own))"
        )
        upstream.release.set()
        await page.wait_for_function("request.readyState === 4 && request.status === 200")

    assert was_patched
    assert problems == []


@pytest.mark.parametrize(
    "policy",
    [
        "default-src 'self'",
        "default-src 'none'; script-src 'nonce-r4nd0m' 'strict-dynamic'; connect-src 'self'",
        "default-src 'self'; style-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ],
)
async def test_a_strict_policy_of_the_page_is_kept(tmp_path: Path, policy: str) -> None:
    """The text is shown, with its styles, and no violation is reported."""
    upstream = Upstream()
    script = SCRIPT.replace("<script", '<script nonce="r4nd0m"')
    async with opened_page(tmp_path, upstream, script=script, policy=policy) as (page, problems, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        border = await page.evaluate(
            "getComputedStyle(document.querySelector('[data-headgate-live]')"
            ".shadowRoot.querySelector('.card')).borderStyle"
        )

    assert border == "dashed"
    assert problems == []


@pytest.mark.parametrize(
    ("press", "waiting", "left"),
    [
        ("#act", None, 0),
        ("#act", {"role": "status"}, 1),
        ("p", None, 1),
        ("[data-headgate-live]", None, 1),
    ],
)
async def test_a_page_that_does_not_show_that_it_waits_leaves_by_a_click(
    tmp_path: Path, press: str, waiting: dict[str, str] | None, left: int
) -> None:
    """On a button or a link of its own; a page that shows it says itself when it has left."""
    upstream = Upstream()
    attach = ATTACH if waiting is None else {**ATTACH, "waiting": waiting}
    async with opened_page(tmp_path, upstream, attach=attach) as (page, _, _):
        await page.evaluate(
            "() => { const act = document.createElement('button'); act.id = 'act';"
            " document.body.prepend(act); }"
        )
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        await page.click(press)
        cards = await page.evaluate("document.querySelectorAll('[data-headgate-live]').length")

    assert cards == left


async def test_a_call_that_turns_out_to_be_no_run_ends_the_asking(tmp_path: Path) -> None:
    """After a switch to batch, one call names a run in vain; the next asks again what is shown."""
    upstream = Upstream()
    async with opened_page(tmp_path, upstream) as (page, _, own):
        (tmp_path / "flags.json").write_text(json.dumps(flag_document(0)))
        await until_empty(page, "/_headgate/attach.json", "routes", token())
        async with page.expect_response("**/events"):
            await page.evaluate(SEND["XMLHttpRequest"])
        await page.wait_for_timeout(500)
        own.clear()
        await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/8/"))
        await page.wait_for_timeout(500)
        shown = await page.evaluate("document.body.innerHTML")

    assert [url for url in own if url.endswith("/events")] == []
    assert upstream.asked[-1].header(b"headgate-run") is None
    assert shown == BODY
