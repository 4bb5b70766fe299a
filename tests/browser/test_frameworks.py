"""A run's state in React, Vue and Svelte, by the lines that the docs have for each."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.browser.frontend import CHROMIUM, bundled
from tests.browser.gallery import event
from tests.browser.npm import HERE, ROOT
from tests.browser.tabs import borrowed_tab

FILES = {"React": "react.jsx", "Vue": "vue.js", "Svelte": "Answer.svelte"}

SHOW = """async (events) => {
  const seen = {};
  async function* stream(name, element) {
    seen[name] = [];
    let text = "";
    for (const event of events) {
      yield event;
      text += event.content;
      for (let looks = 0; element.textContent !== text && looks < 3000; looks++)
        await new Promise((resolve) => setTimeout(resolve, 10));
      seen[name].push(element.textContent);
    }
  }
  for (const [name, show] of Object.entries(frameworks)) {
    const element = document.body.appendChild(document.createElement("div"));
    show(element, stream(name, element));
  }
  window.seen = seen;
}"""
"""The next event comes when the text so far is on the screen, or after half a minute."""


@pytest.mark.parametrize("framework", FILES)
def test_the_docs_have_the_lines_that_are_tried(framework: str) -> None:
    """Word for word."""
    row = re.search(rf"^\| {framework} \| (.*) \|$", (ROOT / "docs" / "browser.md").read_text(), re.MULTILINE)
    source = (HERE / "frameworks" / FILES[framework]).read_text()

    assert row is not None
    lines = re.findall(r"`([^`]+)`", row[1])
    assert len(lines) == 3
    assert [line for line in lines if line not in source] == []


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_each_framework_shows_the_text_as_it_grows(chromium: Browser, tmp_path: Path) -> None:
    """From event to event."""
    events = [event("content_chunk", "chat", "summary", piece, chunk_index=0) for piece in ("Fe", "ver", ".")]
    bundle = bundled("frameworks/all.js", tmp_path / "all.js")
    problems: list[str] = []
    async with borrowed_tab(chromium) as page:
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.add_script_tag(path=bundle, type="module")
        await page.wait_for_function("'frameworks' in window")
        await page.evaluate(SHOW, events)
        await page.wait_for_function(
            "count => Object.values(seen).every((texts) => texts.length === count)",
            arg=len(events),
            timeout=120_000,
        )
        seen = await page.evaluate("seen")

    assert seen == {name: ["Fe", "Fever", "Fever."] for name in ("react", "vue", "svelte")}
    assert problems == []
