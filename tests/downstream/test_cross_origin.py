"""Pages of other origins: what a browser asks, in front of an API that does not know Headgate."""

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import async_playwright
from pydantic import ValidationError

from proxy.settings.settings import CorsSettings
from tests.servers import streaming
from tests.servers.client import SSE
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import flag_document, token
from tests.servers.streaming import EXTRACTION, START, answer

PAGE = "https://app.example.org"
KNOWN = {"authorization", "content-type", "accept"}
RUN = "0b9d5a3c-1c53-4a0e-9f0e-1f4d0b3a2c11"
CHROMIUM = shutil.which("chromium")


async def as_starlette(asked: Asked) -> None:
    """Answer as Starlette's CORSMiddleware does: 400 to a preflight that names a header it was not told
    of."""
    await asked.read_body()
    lines = [line.partition(b":") for line in asked.head.split(b"\r\n")[1:]]
    headers = {name.lower().decode(): value.strip().decode() for name, _, value in lines}
    origin = headers.get("origin")
    shared = (
        f"access-control-allow-origin: {origin}\r\naccess-control-allow-credentials: true\r\nvary: Origin\r\n"
    )
    if not asked.head.startswith(b"OPTIONS"):
        await asked.answer(answer(), extra=(shared if origin else "").encode())
        return
    wanted = {name.strip().lower() for name in headers.get("access-control-request-headers", "").split(",")}
    if wanted - KNOWN - {""}:
        await asked.answer(b"Disallowed CORS headers", b"400 Bad Request", extra=shared.encode())
    else:
        allowed = "access-control-allow-methods: GET, POST\r\naccess-control-allow-headers: "
        allowed += ", ".join(sorted(KNOWN)) + "\r\n"
        await asked.answer(b"OK", extra=(shared + allowed).encode())


@asynccontextmanager
async def house(
    directory: Path, origins: list[str], **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, httpx.AsyncClient]]:
    cors = {"origins": origins}
    async with streaming.house(as_starlette, directory, cors=cors, **more) as (upstream, _, client):
        yield upstream, client


def preflight(*names: str, origin: str = PAGE, method: str = "POST") -> dict[str, str]:
    headers = {"origin": origin, "access-control-request-method": method}
    return headers | ({"access-control-request-headers": ",".join(names)} if names else {})


def listed(headers: Mapping[str, str], name: str) -> set[str]:
    return {item.strip().lower() for item in headers.get(name, "").split(",")} - {""}


async def test_the_upstream_is_not_asked_for_headers_of_ours(tmp_path: Path) -> None:
    """It would refuse the whole preflight; what it allows, and our names, come to the page."""
    async with house(tmp_path, [PAGE]) as (upstream, client):
        allowed = await client.options(
            START, headers=preflight("authorization", "headgate-run", "last-event-id")
        )

    assert allowed.status_code == 200
    assert listed(allowed.headers, "access-control-allow-headers") >= {
        "authorization",
        "headgate-run",
        "last-event-id",
    }
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert b"headgate-run" not in upstream.asked[0].head


async def test_what_the_upstream_refuses_stays_refused(tmp_path: Path) -> None:
    """A header that neither of them knows."""
    async with house(tmp_path, [PAGE]) as (_, client):
        refused = await client.options(START, headers=preflight("headgate-run", "x-else"))

    assert refused.status_code == 400
    assert refused.text == "Disallowed CORS headers"


async def test_other_origins_and_other_preflights_pass_as_they_are(tmp_path: Path) -> None:
    """Byte for byte what they were without the setting."""
    asked = [
        preflight("authorization", "headgate-run", origin="https://other.example.org"),
        preflight("authorization"),
        preflight(),
    ]
    answers = []
    for origins in ([], [PAGE]):
        async with house(tmp_path, origins) as (upstream, client):
            got = [await client.options(START, headers=headers) for headers in asked]
            heads = [one.head.replace(client.base_url.netloc, b"") for one in upstream.asked]
        answers.append([(one.status_code, one.headers.multi_items()[1:], one.content) for one in got])
        answers.append([head.split(b"\r\nx-forwarded-port")[0].split(b"host:")[0] for head in heads])

    assert answers[0] == answers[2]
    assert answers[1] == answers[3]


@pytest.mark.parametrize("rollout", [100, 0])
async def test_a_page_may_read_what_was_decided_and_by_which_run(tmp_path: Path, rollout: int) -> None:
    """Of a stream, which the upstream could not share, as well as of its own answer."""
    headers = {"origin": PAGE, "accept": f"{SSE}, application/json", "authorization": f"Bearer {token()}"}
    async with house(tmp_path, [PAGE], flags=flag_document(rollout)) as (_, client):
        got = await client.post(START, headers=headers)

    assert got.headers.get_list("access-control-allow-origin") == [PAGE]
    assert got.headers["access-control-allow-credentials"] == "true"
    assert listed(got.headers, "access-control-expose-headers") == {"headgate-run", "headgate-decision"}
    assert ("text/event-stream" in got.headers["content-type"]) == (rollout == 100)


async def test_runs_are_read_by_the_pages_of_the_settings_alone(tmp_path: Path) -> None:
    """Preflights under `/_headgate/` are answered here, and the upstream hears nothing of them."""
    events = f"/_headgate/runs/{RUN}/events"
    async with house(tmp_path, [PAGE]) as (upstream, client):
        allowed = await client.options(
            events, headers=preflight("authorization", "last-event-id", method="GET")
        )
        refused = await client.options(
            events, headers=preflight("authorization", origin="https://app.example.org.evil")
        )
        missing = await client.get(events, headers={"origin": PAGE, "authorization": f"Bearer {token()}"})

    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert listed(allowed.headers, "access-control-allow-headers") == {"authorization", "last-event-id"}
    assert listed(allowed.headers, "access-control-allow-methods") >= {"get", "post", "delete"}
    assert "access-control-allow-origin" not in refused.headers
    assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, PAGE)
    assert upstream.asked == []


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example.org",
        "https://app.example.org/",
        "https://App.example.org",
        "https://a.org:443",
        "ftp://a.org",
    ],
)
def test_an_origin_that_no_browser_says_is_refused(origin: str) -> None:
    """It would never match, or match everybody."""
    with pytest.raises(ValidationError, match=r"origins\.0"):
        CorsSettings.model_validate({"origins": [origin]})


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_page_of_another_origin_streams(tmp_path: Path) -> None:
    """Chromium, and the client of `browser/`: it is imported, sends, reads, and reads once more."""
    script = """async ([base, path, bearer]) => {
        const { StreamClient } = await import(`${base}/_headgate/client.js`);
        const client = new StreamClient({ base, headers: () => ({ authorization: `Bearer ${bearer}` }) });
        const stream = client.stream({ url: path, method: "POST" });
        let text = "";
        for await (const event of stream) if (event.stage === "extraction") text += event.content;
        const again = client.attach(stream.run);
        const events = [];
        for await (const event of again) events.push(event.type);
        return { text, decision: stream.decision, again: events.at(-1) };
    }"""

    async def page(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(b"<!doctype html><title>page</title>", extra=b"content-type: text/html\r\n")

    async with (
        ScriptedUpstream(page).running() as pages,
        house(tmp_path, [pages.url]) as (_, client),
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        tab = await chromium.new_page()
        await tab.goto(pages.url)
        went = await tab.evaluate(script, [str(client.base_url).rstrip("/"), START, token()])

    assert went["text"] == EXTRACTION
    assert went["decision"].startswith("stream;")
    assert went["again"] == "stream_done"
