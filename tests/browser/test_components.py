"""`<headgate-panel>` and `<headgate-chat>`, in Chromium."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route

from tests.browser.frontend import IN_CHROMIUM
from tests.browser.gallery import CHAT_SHADOW, SHADOW, event, findings, gallery, wire
from tests.servers.client import eventually

pytestmark = IN_CHROMIUM

STATES = (
    *("waiting", "progress", "unknown", "live", "replaced"),
    *("done", "error", "refused", "unavailable", "stopped", "arabic"),
)
RUN = "3f0c2a52-4a0e-4a53-9a35-6f6f0a5d3c11"


async def offered(page: Page) -> list[str]:
    buttons = f"[...{SHADOW}.querySelectorAll('.bar button')]"
    return list(await page.evaluate(f"{buttons}.filter(b => !b.hidden).map(b => b.dataset.action)"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_state_has_an_accessibility_finding(chromium: Browser, scheme: Any) -> None:
    """By axe-core's rules of WCAG 2.2 AA and its own advice."""
    async with gallery(chromium, color_scheme=scheme) as page:
        found = {}
        assert await page.evaluate("gallery.STATES") == list(STATES)
        for name in STATES:
            await page.evaluate("name => gallery.show(name)", name)
            found[name] = await findings(page)

    assert found == {name: [] for name in STATES}


@pytest.mark.parametrize("font_pct", [100, 200])
async def test_nothing_is_wider_than_a_small_screen(chromium: Browser, font_pct: int) -> None:
    """At 320 pixels, and there with text twice as large, which is what 200 % of zoom is on 640."""
    async with gallery(chromium, width=320, height=640) as page:
        await page.evaluate("pct => (document.documentElement.style.fontSize = `${pct * 0.15}px`)", font_pct)
        wide = {}
        for name in STATES:
            await page.evaluate("name => gallery.show(name)", name)
            wide[name] = await page.evaluate(
                "[document.documentElement.scrollWidth - 320, ...gallery.elements.map(one =>"
                " one.area.scrollWidth - one.area.clientWidth)]"
            )

    assert wide == {name: [0, 0, 0] for name in STATES}


async def test_a_time_to_go_is_told_only_where_it_is_known(chromium: Browser) -> None:
    """And the time so far goes on by the page's own clock."""
    async with gallery(chromium) as page:
        told = f"(gallery.show(name), {SHADOW}.querySelector('.status').textContent)"
        known, unknown = await page.evaluate(f"['progress', 'unknown'].map((name) => {told})")
        await page.wait_for_function(f"!{SHADOW}.querySelector('.status').textContent.includes('12 s')")

    assert "12 s so far" in known and "about 30 s to go" in known
    assert "12 s so far" in unknown and "to go" not in unknown


async def test_each_end_is_told_in_words_and_offers_what_makes_sense(chromium: Browser) -> None:
    """The text that came is kept; only a failure that may pass can be tried again."""
    said = {}
    async with gallery(chromium) as page:
        for name in ("live", "done", "error", "refused", "unavailable", "stopped"):
            await page.evaluate("name => gallery.show(name)", name)
            words = await page.evaluate(f"{SHADOW}.querySelector('.failure').textContent")
            is_kept = await page.evaluate(f"{SHADOW}.querySelector('.stages').textContent.includes('Fever')")
            said[name] = await offered(page), words, is_kept

    kept = "What came before is kept above; it is not complete."
    assert said == {
        "live": (["copy", "stop"], "", True),
        "done": (["copy", "replay"], "", True),
        "error": (["copy", "retry"], f"The answer broke off.{kept}", True),
        "refused": ([], "The request was refused.", False),
        "unavailable": ([], "The answer could not be completed.", False),
        "stopped": (["copy"], "", True),
    }


async def test_whoever_reads_is_left_there_and_comes_back_by_a_button(chromium: Browser) -> None:
    """New text moves nothing for a reader who has scrolled up; focus stays where it was all the time."""
    async with gallery(chromium) as page:
        await page.focus("#field")
        await page.evaluate("void (window.more = gallery.live())")
        await page.evaluate("window.more('A line of text.\\n\\n'.repeat(60))")
        await page.wait_for_function(f"{SHADOW}.querySelector('.text').childElementCount === 60")
        area = f"{SHADOW}.querySelector('.area')"
        gap = f"{area}.scrollHeight - {area}.clientHeight - {area}.scrollTop"
        await page.wait_for_function(f"{gap} < 2")
        await page.evaluate(f"{area}.scrollTop = 100")
        button = page.get_by_role("button", name="Newest text")
        await button.wait_for()
        await page.evaluate("window.more('More of it.\\n\\n'.repeat(60))")
        await page.wait_for_function(f"{SHADOW}.querySelector('.text').childElementCount === 120")
        stayed = await page.evaluate(f"{area}.scrollTop")
        focused = await page.evaluate("document.activeElement.id")
        await button.focus()
        await page.keyboard.press("Enter")
        await page.wait_for_function(f"{gap} < 2")
        after = await page.evaluate(f"{SHADOW}.activeElement.className")
        hidden = await button.is_hidden()

    assert (stayed, focused) == (100, "field")
    assert (after, hidden) == ("area", True)


async def test_sentences_and_stages_are_announced_and_never_words(chromium: Browser) -> None:
    """Half a sentence is said when it is whole."""
    async with gallery(chromium) as page:
        await page.evaluate(
            "() => { window.heard = []; const region = " + SHADOW + ".querySelector('[role=status]');"
            " new MutationObserver(all => all.forEach(one => one.addedNodes.forEach(node =>"
            " heard.push(node.textContent)))).observe(region, { childList: true }); }"
        )
        await page.evaluate("void (window.more = gallery.live())")
        for word in ("The", "**fever**", "is", "38.9", "°C", "today.", "It", "may"):
            await page.evaluate("word => window.more(word + ' ')", word)
        await page.wait_for_function("heard.join(' ').includes('today.')")
        before = await page.evaluate("heard.join(' | ')")
        await page.evaluate("window.more('rise. ')")
        await page.wait_for_function("heard.join(' ').includes('rise.')")
        heard = await page.evaluate("heard")

    assert before.startswith("Extraction begins.")
    assert "may" not in before and "*" not in before
    assert heard[-1] == "It may rise."


BROKEN = event(
    "error",
    content="It broke off.",
    error_code="upstream_broke",
    retry_available=True,
    partial=True,
    status=502,
)
TEXT = event("content_chunk", "reasoning", "extraction", "Fever.", chunk_index=0)
STARTS = event("stage_start", "reasoning", "extraction", index=0, total_expected=1)
ENDS = event("stage_complete", "reasoning", "extraction", sha256="", chars=6)
DONE = event("stream_done", status=200, source="batch", recovered=False)


class Answers:
    """Answers to the page's requests in turn, and remembers them."""

    def __init__(self, *bodies: str) -> None:
        self.bodies = list(bodies)
        self.asked: list[str] = []
        self.held = asyncio.Event()
        self.held.set()

    async def has(self, asked: str) -> None:
        """Waits until the page has asked this."""
        await eventually(lambda: asked in self.asked)

    async def __call__(self, route: Route) -> None:
        path = route.request.url.partition("127.0.0.1:9")[2]
        self.asked.append(f"{route.request.method} {path}")
        if route.request.method == "DELETE":
            await route.fulfill(status=202, body="{}")
        elif path == f"/_headgate/runs/{RUN}":
            await route.fulfill(status=200, content_type="application/json", body="{}")
        elif not self.bodies:
            await asyncio.Event().wait()  # a connection without an answer, until the page is closed
        else:
            body = self.bodies.pop(0)
            await self.held.wait()
            headers = {
                "content-type": "text/event-stream",
                "headgate-run": RUN,
                "headgate-decision": "stream;reason=flag",
            }
            await route.fulfill(status=200, headers=headers, body=body)


async def settled(page: Page, phase: str) -> None:
    await page.wait_for_function(f"{SHADOW}.querySelector('.answer')?.dataset.phase === '{phase}'")


async def test_trying_again_submits_once_however_often_it_is_pressed(chromium: Browser) -> None:
    """In both elements, and while the second request has no answer."""
    answers = Answers(wire(RUN, STARTS, TEXT, BROKEN), wire(RUN, STARTS, TEXT, ENDS, DONE))
    async with gallery(chromium, answer=answers) as page:
        await page.evaluate("void gallery.present().start()")
        await settled(page, "failed")
        await page.wait_for_function("!presentation.isBusy")
        answers.held.clear()
        press = "root => root.querySelector('[data-action=retry]').click()"
        await page.evaluate(f"for (const root of [{SHADOW}, {SHADOW}, {CHAT_SHADOW}]) ({press})(root)")
        await page.evaluate("presentation.act('retry')")
        answers.held.set()
        await settled(page, "done")

    assert answers.asked == ["POST /ask", "POST /ask"]


async def test_a_lost_run_is_read_on_and_not_submitted_again(chromium: Browser) -> None:
    """It may still be at work: only a run that is known no more is asked for anew."""
    answers = Answers(wire(RUN, STARTS, TEXT, ENDS, DONE), wire(RUN, STARTS, TEXT, ENDS, DONE))
    async with gallery(chromium, answer=answers) as page:
        await page.evaluate("gallery.present().start().then(() => {})")
        await page.evaluate(
            "() => { presentation.state = { ...presentation.state, phase: 'failed', error:"
            " { code: 'lost', message: '', status: 0, retryAvailable: true } }; presentation.show(); }"
        )
        await settled(page, "failed")
        await page.evaluate(f"{SHADOW}.querySelector('[data-action=retry]').click()")
        await settled(page, "done")

    assert answers.asked == ["POST /ask", f"GET /_headgate/runs/{RUN}", f"GET /_headgate/runs/{RUN}/events"]


async def test_an_answer_can_be_shown_again_and_a_live_one_stopped(chromium: Browser) -> None:
    """Replay reads the run's events, stop ends the run; both by the keyboard, too."""
    answers = Answers(
        wire(RUN, STARTS, TEXT, ENDS, DONE), wire(RUN, STARTS, TEXT, ENDS, DONE), wire(RUN, STARTS, TEXT)
    )
    async with gallery(chromium, answer=answers) as page:
        await page.evaluate("gallery.present().start().then(() => {})")
        await page.locator("headgate-panel [data-action=replay]").press("Enter")
        await answers.has(f"GET /_headgate/runs/{RUN}/events")
        await page.wait_for_function("presentation.isBusy === false && presentation.state.phase === 'done'")
        shown = await page.inner_text("headgate-panel .text")
        articles = await page.evaluate(f"{CHAT_SHADOW}.querySelectorAll('.answer').length")
        await page.evaluate("void gallery.present().start()")
        await settled(page, "live")
        await page.locator("headgate-panel [data-action=stop]").press("Enter")
        await answers.has(f"DELETE /_headgate/runs/{RUN}")
        await page.evaluate("presentation.close()")

    assert (shown, articles) == ("Fever.", 1)
    assert answers.asked[:3] == [
        "POST /ask",
        f"GET /_headgate/runs/{RUN}",
        f"GET /_headgate/runs/{RUN}/events",
    ]


async def test_a_conversation_keeps_what_was_said(chromium: Browser) -> None:
    """An answer that failed stands above the next one; the oldest turns go first, at a bound."""
    async with gallery(chromium) as page:
        for name in ("error", "done"):
            await page.evaluate("name => gallery.show(name)", name)
        phases = await page.evaluate(
            f"[...{CHAT_SHADOW}.querySelectorAll('.answer')].map(a => a.dataset.phase)"
        )
        await page.evaluate("for (let i = 0; i < 300; i++) gallery.elements[1].say(`message ${i}`)")
        turns = await page.evaluate("gallery.elements[1].inner.childElementCount")

    assert phases == ["failed", "done"]
    assert turns == 200


async def test_copying_gives_the_text_as_it_was_sent(chromium: Browser) -> None:
    """Markdown, not what was made of it."""
    async with gallery(chromium, permissions=["clipboard-read", "clipboard-write"]) as page:
        await page.evaluate("gallery.show('done')")
        await page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
        said = await page.evaluate(
            f"""() => new Promise((resolve) => {{
              const button = {SHADOW}.querySelector('[data-action=copy]');
              new MutationObserver(() => resolve(button.textContent)).observe(button, {{childList: true}});
              button.click();
            }})"""
        )
        same = await page.evaluate("window.copied === gallery.TEXT")

    assert same
    assert said == "Copied"


async def test_who_wants_less_motion_gets_none(chromium: Browser) -> None:
    """Text is there at once, and nothing pulses."""
    async with gallery(chromium, reduced_motion="reduce") as page:
        await page.evaluate("void (window.more = gallery.live())")
        await page.evaluate("window.more('word '.repeat(500))")
        length = await page.evaluate(f"{SHADOW}.querySelector('.text').textContent.length")
        animation = await page.evaluate(f"getComputedStyle({SHADOW}.querySelector('.dots i')).animationName")

    assert length == len(("word " * 500).strip())
    assert animation == "none"


LONG_ANSWER = """() => {
  window.more = gallery.live();
  const paragraph = gallery.TEXT.replace(/[#>|`-]/g, "").repeat(3) + "\\n\\n" + gallery.TEXT;
  window.words = Array.from({ length: 100 }, () => paragraph).join("\\n").split(/(?<= )/).slice(0, 10000);
}"""
PACED = """async ([from, to]) => {
  const begun = performance.now();
  for (let at = from; at < to; at++) {
    more(words[at]);
    const early = begun + (at - from) * 10 - performance.now();
    if (early > 0) await new Promise(resolve => setTimeout(resolve, early));
  }
  await new Promise(resolve => setTimeout(resolve, 600));
}"""
"""Words at 100 a second, until all of them are drawn."""


async def tasks_ms(page: Page, first: int, last: int) -> list[float]:
    """Return the milliseconds of each task of the page's thread while these words came.

    In the thread's own time, which others on the machine do not change.
    """
    session = await page.context.new_cdp_session(page)
    events: list[dict[str, Any]] = []
    is_whole = asyncio.Event()
    session.on("Tracing.dataCollected", lambda told: events.extend(told["value"]))
    session.on("Tracing.tracingComplete", lambda _: is_whole.set())
    traced = {"includedCategories": ["disabled-by-default-devtools.timeline"]}
    await session.send("Tracing.start", {"traceConfig": traced, "transferMode": "ReportEvents"})
    await page.evaluate(PACED, [first, last])
    await session.send("Tracing.end")
    await is_whole.wait()
    await session.detach()
    named = [event for event in events if event["name"] == "thread_name"]
    threads = {(event["pid"], event["tid"]) for event in named if event["args"]["name"] == "CrRendererMain"}
    return [
        event.get("tdur", 0) / 1000  # the one that the trace began in has none
        for event in events
        if event["name"] == "RunTask" and (event["pid"], event["tid"]) in threads
    ]


async def test_a_long_answer_holds_the_page_up_for_no_more_than_a_moment(chromium: Browser) -> None:
    """Of 10,000 words the last 300 cost the page two to three times what the first 300 cost.

    None of their tasks is long, which is what Chromium calls one from 50 ms on; on a slow machine, none is
    many times as long as the longest of the first.
    """
    async with gallery(chromium) as page:
        await page.evaluate(LONG_ANSWER)
        begins = await tasks_ms(page, 0, 300)
        await page.evaluate("more(words.slice(300, 9700).join(''))")
        await page.wait_for_function("() => gallery.elements[0].area.textContent.length > 35000")
        await page.wait_for_timeout(500)  # until all of it is drawn
        ends = await tasks_ms(page, 9700, 10_000)
        count = await page.evaluate("words.length")

    assert count == 10_000
    assert sum(begins) > 0
    assert sum(ends) < 8 * sum(begins)
    assert max(ends) < max(50, 8 * max(begins))


async def test_the_heap_is_flat_over_fifty_answers(chromium: Browser) -> None:
    """An answer that was shown before leaves nothing behind."""
    async with gallery(chromium) as page:
        session = await page.context.new_cdp_session(page)

        async def used() -> float:
            await session.send("HeapProfiler.collectGarbage")
            metrics = await session.send("Runtime.getHeapUsage")
            return float(metrics["usedSize"])

        one = """async count => { for (let i = 0; i < count; i++) {
            const more = gallery.live(); for (let j = 0; j < 40; j++) more(gallery.TEXT);
            await new Promise(resolve => requestAnimationFrame(resolve)); } gallery.show("done"); }"""
        await page.evaluate(one, 10)
        first = await used()
        await page.evaluate(one, 50)
        last = await used()

    assert last < first * 1.2 + 300_000
