"""The page's own calls under `attach.js`: each behaves as without it, down to its events and errors."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.attached import SCRIPT, live_texts, until_empty, until_live
from tests.browser.frontend import IN_CHROMIUM
from tests.browser.opened import ATTACH, BODY, SEND, Upstream, opened_page
from tests.servers.client import eventually
from tests.servers.serving import flag_document, token

pytestmark = IN_CHROMIUM

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


async def test_an_xml_http_request_is_the_same(chromium: Browser, tmp_path: Path) -> None:
    """Its events in their order, with their numbers; its answer, headers and errors."""

    async def all_of(script: str) -> tuple[dict[str, Any], list[list[tuple[bytes, bytes]]], list[str]]:
        upstream = Upstream()
        async with opened_page(chromium, tmp_path, upstream, script=script, ready=bool(script)) as (
            page,
            problems,
            _,
        ):
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


async def test_a_fetch_is_the_same(chromium: Browser, tmp_path: Path) -> None:
    """Its answer, and what became of what it was given; also an error that the page leaves to the window."""

    async def all_of(script: str) -> tuple[dict[str, Any], list[str]]:
        upstream = Upstream()
        async with opened_page(chromium, tmp_path, upstream, script=script, ready=bool(script)) as (
            page,
            problems,
            _,
        ):
            found = {name: await page.evaluate(FETCH, source) for name, source in FETCHES.items()}
            found["unhandled"] = await page.evaluate(
                """() => new Promise((resolve) => {
                  addEventListener('unhandledrejection', (event) => {
                    event.preventDefault();
                    resolve(String(event.reason));
                  });
                  const signal = AbortSignal.timeout(0);
                  fetch('/api/cases/7/start?slow', {method: 'POST', headers: auth, signal});
                })"""
            )
            found["shape"] = await page.evaluate(
                """() => { const none = fetch(); none.catch(() => {});
                  return [fetch.name, fetch.length, none instanceof Promise]; }"""
            )
            # Whether a call that the page aborts has come by then depends on the machine.
            whole = [asked for asked in upstream.asked if not asked.target.endswith(b"?slow")]
            found["signed"] = [asked.header(b"authorization") is not None for asked in whole]
            await page.evaluate("console.error('the end')")
            await eventually(lambda: "the end" in problems)
            return found, problems

    without, said_without = await all_of("")
    attached, said = await all_of(SCRIPT)

    assert attached == without
    assert attached["unhandled"].startswith(("TimeoutError", "AbortError"))
    assert sorted(said) == sorted(said_without)


@pytest.mark.parametrize("kind", SEND)
async def test_the_text_is_shown_until_the_page_has_its_answer(
    chromium: Browser, tmp_path: Path, kind: str
) -> None:
    """For either way of calling; the first paint after the page's own render has none of it."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
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


RENDERS = """(event) => new Promise((resolve) => {
  const request = window.request;
  const panel = document.getElementById('reasoning');
  request[event] = () => {
    panel.textContent = 'The answer.';
    // After what the script does at this change, and before anything is painted.
    const cards = () => document.querySelectorAll('[data-headgate-live]').length;
    queueMicrotask(() => resolve([panel.innerHTML, cards()]));
  };
  window.isListening = true;
})"""


@pytest.mark.parametrize("event", ["onload", "onloadend"])
async def test_the_text_is_gone_before_the_pages_own_answer_is_painted(
    chromium: Browser, tmp_path: Path, event: str
) -> None:
    """In the panel that shows it; the other one may be about to."""
    upstream = Upstream()
    upstream.goes_on.set()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page, 2)
        rendering = asyncio.ensure_future(page.evaluate(RENDERS, event))
        await page.wait_for_function("window.isListening")
        upstream.release.set()
        panel, cards = await rendering
        await page.wait_for_function("!document.querySelector('[data-headgate-live]')")

    assert panel == "The answer."
    assert cards == 1
    assert problems == []


async def test_the_text_goes_from_everywhere_when_one_panel_is_made_anew(
    chromium: Browser, tmp_path: Path
) -> None:
    """Though the page still waits, and the new panel looks the same: it may be another patient's."""
    upstream = Upstream()
    upstream.goes_on.set()
    attach = {**ATTACH, "waiting": {"role": "status"}}
    async with opened_page(chromium, tmp_path, upstream, attach=attach) as (page, _, _):
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page, 2)
        left = await page.evaluate(
            """async () => {
              const panel = document.getElementById('reasoning');
              panel.replaceWith(panel.cloneNode());
              await null; // the script sees it in the same breath
              return document.querySelectorAll('[data-headgate-live]').length;
            }"""
        )
        shown = await page.evaluate("document.body.innerHTML")

    assert left == 0
    assert shown == BODY


@pytest.mark.parametrize("end", ["request.abort()", "cut.abort()"])
async def test_an_aborted_call_is_shown_no_longer(chromium: Browser, tmp_path: Path, end: str) -> None:
    """At once, and its run goes on as ever."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, _, _):
        await page.evaluate(SEND["XMLHttpRequest" if end.startswith("request") else "fetch"])
        await page.evaluate("void window.request.catch?.(() => {})")
        await until_live(page)
        left = await page.evaluate(f"({end}, document.querySelectorAll('[data-headgate-live]').length)")

    assert left == 0


async def test_of_several_calls_the_last_is_shown_with_its_own_text(
    chromium: Browser, tmp_path: Path
) -> None:
    """One's text goes when the next is sent, and so does its connection: each is shown, however many."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, _, _):
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


async def test_of_two_calls_in_one_breath_the_last_is_shown_alone(chromium: Browser, tmp_path: Path) -> None:
    """Before anything of the first could be shown."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, problems, own):
        first = SEND["XMLHttpRequest"]
        await page.evaluate(f"() => {{ ({first})(); ({first.replace('/7/', '/8/')})(); }}")
        await until_live(page)
        await page.wait_for_timeout(1000)
        shown = await live_texts(page)

    assert shown == ["Text of 8."]
    assert len([url for url in own if "/events" in url]) == 1
    assert problems == []


async def test_a_user_of_another_arm_pays_one_request(chromium: Browser, tmp_path: Path) -> None:
    """The script, its rules and the document, which is kept; no header, no stream, nothing on the screen."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream, ready=False, rollout=0) as (page, problems, own):
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
BROKEN = """<script>window.broken = 0;
  Element.prototype.attachShadow = () => { broken += 1; throw new Error('no'); };</script>"""


async def test_frozen_prototypes_are_left_alone(chromium: Browser, tmp_path: Path) -> None:
    """The calls go through, and nothing is said."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream, before=FROZEN, ready=False) as (page, problems, _):
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
    chromium: Browser, tmp_path: Path, script: str, late: str, expected: int
) -> None:
    """Each call goes out once, and is shown once."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream, script=script) as (page, problems, own):
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
    assert len([url for url in own if "/events" in url]) == 2
    assert counted == expected
    assert own.count("/_headgate/attach.json") == 1
    assert problems == []


async def test_it_takes_itself_off_after_three_failures(chromium: Browser, tmp_path: Path) -> None:
    """The functions are the page's again, and its calls have gone through meanwhile."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream, before=BROKEN) as (page, problems, _):
        was_patched = await page.evaluate("!/native code/.test(XMLHttpRequest.prototype.send)")
        for case in "789":
            before = await page.evaluate("broken")
            await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", f"/{case}/"))
            # An answer that comes in two pieces fails twice.
            await page.wait_for_function("(before) => broken > before || broken === 3", arg=before)
        broken = await page.evaluate("broken")
        patched = await page.evaluate(
            "[XMLHttpRequest.prototype.open, XMLHttpRequest.prototype.send, fetch]"
            ".map((own) => !/native code/.test(own))"
        )
        upstream.release.set()
        await page.wait_for_function("request.readyState === 4 && request.status === 200")

    assert was_patched
    assert broken == 3
    assert patched == [False, False, False]
    assert problems == []


@pytest.mark.parametrize(
    "policy",
    [
        "default-src 'self'",
        "default-src 'none'; script-src 'nonce-r4nd0m' 'strict-dynamic'; connect-src 'self'",
        "default-src 'self'; style-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ],
)
async def test_a_strict_policy_of_the_page_is_kept(chromium: Browser, tmp_path: Path, policy: str) -> None:
    """The text is shown, with its styles, and no violation is reported."""
    upstream = Upstream()
    script = SCRIPT.replace("<script", '<script nonce="r4nd0m"')
    async with opened_page(chromium, tmp_path, upstream, script=script, policy=policy) as (page, problems, _):
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
    chromium: Browser, tmp_path: Path, press: str, waiting: dict[str, str] | None, left: int
) -> None:
    """On a button or a link of its own; a page that shows it says itself when it has left."""
    upstream = Upstream()
    attach = ATTACH if waiting is None else {**ATTACH, "waiting": waiting}
    async with opened_page(chromium, tmp_path, upstream, attach=attach) as (page, _, _):
        await page.evaluate(
            "() => { const act = document.createElement('button'); act.id = 'act';"
            " document.body.prepend(act); }"
        )
        await page.evaluate(SEND["XMLHttpRequest"])
        await until_live(page)
        await page.click(press)
        cards = await page.evaluate("document.querySelectorAll('[data-headgate-live]').length")

    assert cards == left


async def test_a_call_that_turns_out_to_be_no_run_ends_the_asking(chromium: Browser, tmp_path: Path) -> None:
    """After a switch to batch, one call names a run in vain; the next asks again what is shown."""
    upstream = Upstream()
    async with opened_page(chromium, tmp_path, upstream) as (page, _, own):
        (tmp_path / "flags.json").write_text(json.dumps(flag_document(0)))

        async def asks_again() -> bool:
            await page.evaluate("fetch('/api/hello', {headers: auth}).then((response) => response.text())")
            return "/_headgate/attach.json" in own

        await until_empty(page, "/_headgate/attach.json", "routes", token())
        own.clear()
        await page.evaluate(SEND["XMLHttpRequest"])
        await eventually(lambda: any("/events" in url for url in own))
        await eventually(asks_again)
        own.clear()
        await page.evaluate(SEND["XMLHttpRequest"].replace("/7/", "/8/"))
        await eventually(lambda: upstream.asked[-1].target == b"/api/cases/8/start?slow")
        await page.wait_for_timeout(500)
        shown = await page.evaluate("document.body.innerHTML")

    assert own == []
    assert shown == BODY
