"""The demo's pages and the two endpoints they have for themselves."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from tests.browser import axe
from tests.servers.clinic_server import RunningClinic, running_clinic

CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
MODULES = Path(__file__).parents[2] / "browser"
PAGES = (
    *("index.html", "live.html", "attached.html"),
    *("api.js", "batch.js", "live.js", "attached.js", "style.css"),
)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def flags_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flags") / "flags.json"


@pytest.fixture(scope="module")
def clinic(flags_file: Path) -> Iterator[RunningClinic]:
    with running_clinic(environ={"CLINIC_FLAGS_FILE": str(flags_file)}) as running:
        yield running


@pytest.fixture
def api(clinic: RunningClinic) -> Iterator[httpx.Client]:
    with clinic.client("ada") as client:
        yield client


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        # Headgate's modules are beside the clinic wherever it is reached through Headgate.
        page.route(
            "**/_headgate/**",
            lambda route: route.fulfill(path=MODULES / route.request.url.partition("/_headgate/")[2]),
        )
        yield page
        browser.close()


def test_the_pages_load_nothing_from_elsewhere(api: httpx.Client):
    """No address of another host in any of them: they work without a network."""
    texts = {name: api.get(f"/app/{name}") for name in PAGES}

    assert {answer.status_code for answer in texts.values()} == {200}
    assert not [name for name, answer in texts.items() if 'src="http' in answer.text or "url(" in answer.text]
    assert api.get("/app/").text == texts["index.html"].text


def test_the_flag_is_written_as_unleash_features(api: httpx.Client, flags_file: Path):
    """A flag client reads what the page has set, from a file that is never half written."""
    flag = "/demo/flag"
    before = api.get(flag).json()
    changed = api.put(flag, json={"rollout": 35, "kill": True}).json()
    refused = api.put(flag, json={"rollout": 101, "kill": False})

    streaming, kill = json.loads(flags_file.read_text())["features"]
    parameters = streaming["strategies"][0]["parameters"]
    assert before == {"rollout": 100, "kill": False}
    assert changed == api.get(flag).json() == {"rollout": 35, "kill": True}
    assert refused.status_code == 422
    assert parameters == {"rollout": "35", "stickiness": "userId", "groupId": "headgate.streaming"}
    assert (kill["name"], kill["enabled"]) == ("headgate.kill", True)
    assert [one.name for one in flags_file.parent.iterdir()] == ["flags.json"]


def test_a_demo_token_is_accepted(api: httpx.Client):
    """One name is always one user."""
    token = api.get("/demo/token", params={"user": "ada"}).json()["token"]

    user = api.get("/api/auth/me", headers={"authorization": f"Bearer {token}"}).json()

    # The client's own token is of the same user.
    assert api.get("/api/auth/me").json()["id"] == user["id"]


@needs_chromium
def test_the_batch_app_calls_in_the_known_order(clinic: RunningClinic, page: Page):
    """Case, message, start, message; approve, process, message: the browser stores the chat."""
    calls: list[str] = []
    page.on("request", lambda one: calls.append(_call(one.method, one.url)) if "/cases" in one.url else None)
    page.goto(f"{clinic.url}/app/")
    page.wait_for_function("document.querySelector('#words').value !== ''")

    for button in ("#say button", "#approve"):
        page.click(button)
        page.wait_for_selector(".dots", state="attached")
        page.wait_for_selector("#approve:enabled")

    assert [call for call in calls if call.startswith("POST")] == [
        "POST cases",
        "POST messages",
        "POST start",
        "POST messages",
        "POST messages",
        "POST approve",
        "POST process",
        "POST messages",
    ]
    assert page.locator("#reasoning section[data-group]").count() == 2


@needs_chromium
def test_the_live_page_shows_a_batch_answer_too(clinic: RunningClinic, page: Page):
    """Not behind a proxy, both sides get JSON, and markup in the case stays text."""
    page.goto(f"{clinic.url}/app/live.html")
    page.fill("#case", "cough <img src=x onerror=\"document.title='owned'\"> **bold**")
    page.click("#submit")
    page.wait_for_selector(".verdict.said")

    assert "identical" in page.inner_text("#verdict")
    assert page.locator("#streamed .stages [data-how=done]").count() == 4
    assert page.title() != "owned" and page.locator("main img").count() == 0


@needs_chromium
def test_text_never_becomes_markup(clinic: RunningClinic, page: Page):
    """Headings, tables and bold are made; a tag in the text is shown as it is written."""
    page.goto(f"{clinic.url}/app/live.html")
    text = "# Title\n\n| a | b |\n| --- | --- |\n| **x** | <b>y</b> |\n\n- one\n<script>alert(1)</script>"

    html = page.evaluate(
        "async (text) => { const { renderMarkdown } = await import('/app/markdown.js');"
        " const box = document.createElement('div'); box.append(renderMarkdown(text));"
        " return box.innerHTML; }",
        text,
    )

    assert html == (
        "<h4>Title</h4><table><tr><th>a</th><th>b</th></tr>"
        "<tr><td><strong>x</strong></td><td>&lt;b&gt;y&lt;/b&gt;</td></tr></table>"
        "<ul><li>one</li></ul><p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"
    )


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["", "live.html"])
def test_the_pages_have_no_accessibility_finding_and_fit_a_small_screen(
    clinic: RunningClinic, page: Page, name: str, scheme: Any
) -> None:
    """Before a case and after it, in both colour schemes, and at 320 pixels."""
    script = axe.script()
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{clinic.url}/app/{name}")
    page.evaluate(script)
    page.wait_for_selector("textarea")
    found = {"before": _findings(page)}
    page.click("#submit" if name else "#say button")
    page.wait_for_selector(".verdict.said" if name else "#approve:enabled")
    found["after"] = _findings(page)
    page.set_viewport_size({"width": 320, "height": 640})
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme="light")

    assert found == {"before": [], "after": []}
    assert wide == 320


def _findings(page: Page) -> list[str]:
    return axe.findings(page.evaluate(axe.RUN, axe.RULES))


def _call(method: str, url: str) -> str:
    return f"{method} {url.rsplit('/', 1)[1]}"
