"""`browser/markdown.js` in Chromium: what a model writes is shown, and never acts."""

from playwright.async_api import Browser

from tests.browser.frontend import IN_CHROMIUM
from tests.browser.gallery import gallery

pytestmark = IN_CHROMIUM

HOSTILE = (
    "<script>owned=1</script>",
    "<img src=x onerror=owned=1>",
    "<svg/onload=owned=1>",
    "<iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    "<a href='javascript:owned=1'>x</a>",
    "[x](javascript:owned=1)",
    "[x](JaVaScRiPt:owned=1)",
    "[x](java\tscript:owned=1)",
    "[x](java&#x09;script:owned=1)",
    "[x](&#106;avascript:owned=1)",
    "[x](\x01javascript:owned=1)",
    "[x]( javascript:owned=1)",
    "[x](<javascript:owned=1>)",
    "[x](javascript&colon;owned=1)",
    "[x](data:text/html,<script>parent.owned=1</script>)",
    "[x](data:text/html;base64,PHNjcmlwdD5vd25lZD0xPC9zY3JpcHQ+)",
    "[x](vbscript:owned=1)",
    "[x](blob:https://a/b)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example/)",
    "[x](/api/logout)",
    '[x](https://a" onmouseover="owned=1)',
    '[x](https://a/ "t\\" onmouseover=\\"owned=1")',
    "![x](https://evil.example/pixel.png?text)",
    "![x](javascript:owned=1)",
    '![x](x" onerror="owned=1)',
    "<javascript:owned=1>",
    '<https://a.example/"onmouseover=owned=1>',
    "[x]: javascript:owned=1\n\n[x]",
    "`<img src=x onerror=owned=1>`",
    "```html\n<img src=x onerror=owned=1>\n```",
    '``` "onload=owned=1\nx\n```',
    "| <img src=x onerror=owned=1> |\n| --- |\n| <script>owned=1</script> |",
    "# <img src=x onerror=owned=1>",
    "- <img src=x onerror=owned=1>",
    "> <img src=x onerror=owned=1>",
    "**<img src=x onerror=owned=1>**",
    "<style>*{background:url(https://evil.example/)}</style>",
    "<base href=https://evil.example/>",
    "<form action=https://evil.example/><button>x</button></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "{{constructor.constructor('owned=1')()}}",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=owned=1>",
    "<!--><img src=x onerror=owned=1>-->",
    "\u202e[x](https://a.example/\u202egpj.exe)",
)

DOCUMENTS = (
    "# Title\n\npara *one* **two**\nline\n\n## Sub ##\n\n- a\n- b\n  - c\n\n    d\n\nafter",
    "| a | b |\n| --- | --- |\n| **x** | y |\n| 1 | 2 | 3 |\n\ntext\n| not | a table\nend",
    "text\n```py\nx = `1` | 2\n\n# no heading\n```\nmore `code` and ``a`b``",
    "1. one\n2. two\n\n   more\n3. three\n\n> quote\n> - in it\n>\n> end\n\n---\n***\nx",
    "***both*** a_b_c _em_ ~~no~~ **open *and\n\nnext [l](https://a.b/c_(d) 't') [1] <https://x.y> ![i](https://q/r.png)",
    "line\r\nwith\r\n\r\n- crlf\r\n- list\r\n\r\n| a |\r\n|---|\r\n| b |\r\n",
    "- \n\n-\n- x\n\n\n\n1) a\n1) b\n# h\n#### deep\n# back",
    "| only a row\n\nand | pipes\n\n| a |\n\n| b |\n|",
)

STREAM = """(texts) => texts.map(text => {
    const box = document.createElement("div");
    const view = new gallery.MarkdownView(box);
    for (let at = 1; at <= text.length; at++) view.set(text.slice(0, at));
    view.set(text, { isFinal: true });
    const whole = document.createElement("div");
    whole.append(gallery.renderMarkdown(text));
    return [box.innerHTML, whole.innerHTML];
})"""


async def test_nothing_that_a_model_writes_acts(chromium: Browser) -> None:
    """Shown letter by letter: no element but those of Markdown, no attribute but ours, nothing fetched."""
    asked: list[str] = []
    async with gallery(chromium) as page:
        page.on("request", lambda request: asked.append(request.url))
        found = await page.evaluate(
            """(texts) => {
                const elements = new Set(), attributes = new Set(), links = new Set();
                const look = box => box.querySelectorAll("*").forEach(node => {
                    elements.add(node.localName);
                    for (const { name } of node.attributes) attributes.add(name);
                    if (node.localName === "a") links.add(node.protocol + "//" + node.host);
                });
                for (const text of texts) {
                    const box = document.body.appendChild(document.createElement("div"));
                    const view = new gallery.MarkdownView(box);
                    for (let at = 1; at <= text.length; at++) { view.set(text.slice(0, at)); look(box); }
                    view.set(text, { isFinal: true });
                    look(box);
                    const over = new MouseEvent("mouseover");
                    box.querySelectorAll("a").forEach(link => link.dispatchEvent(over));
                }
                return [[...elements], [...attributes], [...links]].map(one => one.sort());
            }""",
            HOSTILE,
        )
        await page.wait_for_timeout(200)
        owned = await page.evaluate("'owned' in window")

    elements, attributes, links = found
    assert set(elements) <= {
        *("a", "blockquote", "code", "div", "em", "h3", "li", "p", "pre", "strong", "ul"),
        *("table", "tbody", "td", "th", "thead", "tr"),
    }
    assert set(attributes) <= {
        *("aria-label", "class", "data-language", "dir", "href"),
        *("rel", "role", "scope", "tabindex", "target"),
    }
    assert {link.partition(":")[0] for link in links} == {"https"}
    assert (owned, asked) == (False, [])


async def test_however_a_text_came_it_ends_as_the_same_nodes(chromium: Browser) -> None:
    """Letter by letter or at once."""
    async with gallery(chromium) as page:
        pairs = await page.evaluate(STREAM, [*DOCUMENTS, *HOSTILE])

    assert [streamed for streamed, _ in pairs] == [whole for _, whole in pairs]


async def test_a_table_and_code_grow_without_being_made_again(chromium: Browser) -> None:
    """Every element of them stays the one that it was, and no text is shown first that becomes a table."""
    async with gallery(chromium) as page:
        seen = await page.evaluate(
            """() => {
                const table = "| a | b |\\n| --- | --- |\\n| 1 | 2 |\\n| 3 | 4 |\\n\\n";
                const text = table + "```\\none\\ntwo\\n```\\n";
                const box = document.createElement("div");
                const view = new gallery.MarkdownView(box);
                const made = [], gone = [];
                const observer = new MutationObserver(() => {});
                observer.observe(box, { childList: true, subtree: true });
                for (let at = 1; at <= text.length; at++) view.set(text.slice(0, at));
                for (const record of observer.takeRecords()) {
                    made.push(...[...record.addedNodes].map(node => node.localName ?? "text"));
                    gone.push(...[...record.removedNodes].map(node => node.localName ?? "text"));
                }
                return { gone, tables: made.filter(name => name === "div").length, text: box.textContent };
            }"""
        )

    assert seen == {"gone": [], "tables": 1, "text": "ab1234one\ntwo"}


async def test_a_selection_survives_growth(chromium: Browser) -> None:
    """Within the paragraph that is being written, too."""
    async with gallery(chromium) as page:
        selected = await page.evaluate(
            """() => {
                const box = document.body.appendChild(document.createElement("div"));
                const view = new gallery.MarkdownView(box);
                view.set("The **fever** is high");
                const [from, to] = [box.querySelector("strong").firstChild, box.querySelector("p").lastChild];
                getSelection().setBaseAndExtent(from, 0, to, 3);
                for (const more of [" today", ", and", " *will* rise.\\n\\n- a", "\\n- b\\n\\n| t |\\n"])
                    view.set(view.text + more);
                return getSelection().toString();
            }"""
        )

    assert selected == "fever is"


async def test_headings_leave_no_level_out(chromium: Browser) -> None:
    """Under the heading that they stand under, whatever the model begins with."""
    async with gallery(chromium) as page:
        levels = await page.evaluate(
            "[...gallery.renderMarkdown('#### a\\n# b\\n### c\\n###### d', { level: 3 }).children]"
            ".map(heading => heading.localName)"
        )

    assert levels == ["h4", "h4", "h5", "h6"]
