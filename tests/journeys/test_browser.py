"""A real browser: its own EventSource on a `stream_path`, and the demo as a stranger sees it."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.async_api import async_playwright
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.flags.documents import APPLIED_S
from tests.servers.ports import free_port
from tests.servers.scripted import Asked
from tests.servers.serving import gated
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, route

CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
START_S = 180.0
ANSWER_MS = 60_000
AXE = Path(__file__).parents[1] / "browser" / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

# Resolves when EventSource has given up: with what it delivered, and what it read after the end.
LISTEN = """path => new Promise(resolve => {
    const events = [];
    const source = new EventSource(path);
    source.onmessage = ({data}) => events.push(JSON.parse(data));
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(events); };
})"""


# Text has been coming for a while; and what the page says at one moment about how far it is.
LATE_IN_THE_TEXT = """() => {
    const clock = name => parseFloat(document.querySelector(`#streamed .${name}`).innerText);
    const [first, done] = ["first", "done"].map(clock);
    return first && done > first + 2;
}"""

MEASURED = """name => { const shown = document.getElementById(name);
    return shown.classList.contains("settled") ? parseFloat(shown.textContent) : null; }"""
"""The stopwatch's time of this name, in seconds, once it has been taken."""

PROGRESS = """() => ["state", "done"].map(name => document.querySelector(`#streamed .${name}`).textContent)"""


async def test_an_eventsource_reads_the_run_once_and_stays_away(tmp_path: Path) -> None:
    """It comes back after the end, as EventSource does, gets a 204, and the upstream has worked once."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        if asked.head.startswith(b"POST"):
            await asked.answer(answer())
        else:
            page = b"<!doctype html><title>page</title>"
            await asked.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n" % len(page)
            )
            await asked.send(b"set-cookie: session=s3cret; Path=/\r\n\r\n" + page)

    async with (
        gated(script, tmp_path, routes=[route()], identity={"cookie": "session"}) as (upstream, serving),
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET) as browser,
    ):
        page = await browser.new_page()
        await page.goto(f"{serving.url}/page")
        events = await page.evaluate(LISTEN, "/api/cases/7/start/stream")

    text = {stage: "" for stage in ("extraction", "summary")}
    for event in events:
        if event["type"] == "content_chunk":
            text[event["stage"]] += event["content"]
    assert text == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert [event["type"] for event in events].count("stream_done") == 1
    assert [asked.head.split(b" ")[0] for asked in upstream.asked].count(b"POST") == 1


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[str]:
    """`headgate demo` as a process of its own, logging to `demo.log`; its address."""
    port = free_port()
    log = (tmp_path / "demo.log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "demo", "--port", str(port)], stdout=log, stderr=subprocess.STDOUT
    )
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=40)) as client:
            assert client.get(f"http://127.0.0.1:{port}/health", timeout=START_S).status_code == 200
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(START_S)
        log.close()
    assert code == 0
    assert not _listens(port), "something was left behind"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def await_applied(log: Path, *, times: int) -> None:
    """Wait until the flag file has been applied so many times."""
    deadline = time.monotonic() + APPLIED_S
    while log.read_text().count(": applied") < times:
        assert time.monotonic() < deadline, "the change of the flag was not applied"


def submit(page: Page) -> tuple[str, str]:
    """Submit the case; what comes of it."""
    page.get_by_role("button", name="Submit").click()
    return settled(page)


def settled(page: Page) -> tuple[str, str]:
    """Wait until both sides are done; return the verdict and what was decided."""
    verdict = page.locator("#verdict.said")
    expect(verdict).to_contain_text("First text after", timeout=ANSWER_MS)
    return verdict.inner_text(), page.locator("#streamed .decision").inner_text()


def begin_batch(browser: Browser, demo: str) -> Page:
    """Send a case in the batch page that has a stopwatch beside it, on a small dark screen.

    On a laptop's screen the button is there without scrolling, in the page and in its frame.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme="dark")
    page.goto(f"{demo}/app/attached.html")
    batch = page.frame_locator("#page")
    expect(batch.get_by_role("button", name="Send")).to_be_in_viewport(ratio=1)
    page.set_viewport_size({"width": 320, "height": 640})
    expect(batch.locator("#words")).not_to_have_value("")
    # The script has asked what it may show: this module comes next.
    page.frames[1].wait_for_function(
        "performance.getEntriesByType('resource').some(({name}) => name.endsWith('attach/live.js'))"
    )
    batch.get_by_role("button", name="Send").click()
    return page


def findings(page: Page) -> list[str]:
    """Return what axe-core finds in the page and in its frame, in both colour schemes."""
    found: list[str] = []
    schemes: list[Literal["light", "dark"]] = ["light", "dark"]
    for frame in page.frames:
        frame.evaluate(AXE.read_text())
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        violations = page.evaluate("axe.run()")["violations"]
        found += [f"{scheme} {rule['id']}: {node['html']}" for rule in violations for node in rule["nodes"]]
    return found


def test_the_demo_streams_and_a_flag_brings_the_batch_answer_back(demo: str, tmp_path: Path) -> None:
    """Submit: text arrives long before the batch answer, and is the same. Flag to 0: no stream any more.

    Meanwhile the batch page, which nobody changed, has live text. It fits a small screen, and an
    accessibility check finds nothing.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        batch = begin_batch(browser, demo)
        live_s = batch.wait_for_function(MEASURED, arg="live", timeout=ANSWER_MS).json_value()
        found = findings(batch)
        wide = [frame.evaluate("document.documentElement.scrollWidth - innerWidth") for frame in batch.frames]

        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{demo}/app/live.html")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_function(LATE_IN_THE_TEXT, timeout=ANSWER_MS)
        progress, clock = page.evaluate(PROGRESS)
        streamed, decided = settled(page)
        answer_s = batch.wait_for_function(MEASURED, arg="answer", timeout=ANSWER_MS).json_value()
        said = batch.locator("#verdict").inner_text()

        page.locator("#rollout").fill("0")
        page.locator("#rollout").dispatch_event("change")
        await_applied(tmp_path / "demo.log", times=2)
        whole, decided_then = submit(page)

        page.route("**/workflow/start", lambda route: route.fulfill(status=502, body="{}"))
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("Not both were answered").wait_for(timeout=ANSWER_MS)
        waits = page.get_by_text("Waiting for the answer").count()
        browser.close()

    assert found == []
    assert max(wide) <= 0
    assert live_s < answer_s / 2
    assert said == f"Something to read after {live_s:.1f} s instead of {answer_s:.1f} s."
    assert progress.startswith(f"{int(float(clock.removesuffix(' s')))} s so far"), (
        "it stands beside that clock"
    )
    saved = re.search(r"(\d+) % less waiting", streamed)
    assert saved is not None and int(saved[1]) >= 80
    assert "Both texts are identical" in streamed
    assert decided == "stream;reason=flag_on;source=tap"
    assert decided_then == "batch: as without Headgate"
    assert waits == 0, "what has failed is not waited for"
    assert "Both texts are identical" in whole
