"""The operators' page: what it shows to whom, and what it never shows."""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson

from proxy.observe.page.board import Board, routes_of, warnings_of
from proxy.observe.page.recent_counts import LOOK_S, WINDOW_S, RecentCounts
from proxy.observe.page.rollout import ControllerPage
from proxy.observe.page.served import MOST_WATCHERS
from proxy.observe.recent_warnings import MOST_LINES, RecentWarnings
from proxy.settings.settings import Settings
from tests.servers.client import SSE, Stream, browser, eventually, opened, read, signed
from tests.servers.scripted import ScriptedUpstream, talking
from tests.servers.serving import ADMIN_TOKEN, headgate
from tests.servers.streaming import EXTRACTION, START, answer, answering, house, route

TOKEN = {"authorization": f"Bearer {ADMIN_TOKEN}"}
PAGE = ("/", "/now")


async def test_warnings_and_settings_need_the_token(tmp_path: Path) -> None:
    """All else is open to all, as the port's counts are; no secret is told with the token either."""
    async with headgate("http://127.0.0.1:1", tmp_path) as serving, browser(serving.admin_url) as client:
        refused = [(await client.get(path)).status_code for path in ("/warnings", "/settings")]
        open_to_all = [(await client.get(path)).status_code for path in PAGE]
        settings = await client.get("/settings", headers=TOKEN)

    assert refused == [401, 401]
    assert open_to_all == [200, 200]
    assert {"name": "admin_token", "value": "********", "default": False} in settings.json()["settings"]
    assert ADMIN_TOKEN not in settings.text


async def test_nothing_of_a_user_is_on_the_page(tmp_path: Path) -> None:
    """Neither who asked, nor what, nor the text of the answer."""
    async with house(answering(answer()), tmp_path) as (_, serving, client):
        await read(client, START, signed("mrs-miller"))
        async with browser(serving.admin_url) as admin:
            shown = [(await admin.get(path)).text for path in PAGE]
            shown += [(await admin.get(path, headers=TOKEN)).text for path in ("/warnings", "/settings")]

    assert '"complete":1' in shown[1]
    assert '"rollout":null' in shown[1]  # as long as the settings name no controller
    for text in shown:
        assert "miller" not in text
        assert START not in text
        assert EXTRACTION[:12] not in text


async def test_the_page_runs_nothing_but_its_own(tmp_path: Path) -> None:
    """Its policy names its one style and its one script by their digests, and nobody may frame it."""
    async with headgate("http://127.0.0.1:1", tmp_path) as serving, browser(serving.admin_url) as client:
        page = await client.get("/")

    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 2
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "://" not in page.text.replace("http://www.w3.org", "")


async def test_pages_are_bounded_and_end_with_the_process(tmp_path: Path) -> None:
    """So many may be open; a process that stops does not wait for them."""
    async with browser() as client, AsyncExitStack() as pages:
        async with headgate("http://127.0.0.1:1", tmp_path) as serving:
            url = f"{serving.admin_url}/now"
            streams = []
            for _ in range(MOST_WATCHERS):
                page = opened(client, url, {"accept": SSE}, method="GET")
                streams.append(await pages.enter_async_context(page))
                await streams[-1].until(lambda event: "routes" in event)
            one_more = await client.get(url, headers={"accept": SSE})
        await asyncio.gather(*(ended(stream) for stream in streams))

    assert one_more.status_code == 503
    assert serving.app.admin.page.watchers == 0


async def test_pages_that_come_at_once_are_bounded_too(tmp_path: Path) -> None:
    """Each counts from the moment that it is let in, and no more when it is gone."""
    async with headgate("http://127.0.0.1:1", tmp_path) as serving, AsyncExitStack() as stack:
        pages = [
            await stack.enter_async_context(talking(serving.admin_url)) for _ in range(3 * MOST_WATCHERS)
        ]
        for page in pages:  # all in one turn of the loop
            page.writer.write(b"GET /now HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")
        found = [(await page.head()).status for page in pages]
        await stack.aclose()
        await eventually(lambda: serving.app.admin.page.watchers == 0)

    assert found.count(200) == MOST_WATCHERS
    assert found.count(503) == 2 * MOST_WATCHERS


async def ended(stream: Stream) -> None:
    """Well, or cut: a busy machine has a second for it."""
    with suppress(httpx.RemoteProtocolError):
        await stream.rest()


async def test_a_controller_that_does_not_answer_is_said(tmp_path: Path) -> None:
    """The rest of the page is as ever; and so for something else that listens there."""
    async with ScriptedUpstream(answering(b"<html>")).running() as other:
        assert await ControllerPage("http://127.0.0.1:1").shown() == {
            "problem": "the controller does not answer: ConnectError"
        }
        assert await ControllerPage(other.url).shown() == {
            "problem": "the controller does not answer: ValueError"
        }


def test_recent_counts_are_of_the_last_minutes() -> None:
    """Earlier counts are left out, and no more readings are kept than the window needs."""
    totals: dict[str, float] = {}
    counts = RecentCounts(lambda: dict(totals), 0.0)
    totals["before"] = 5
    counts.look(LOOK_S)
    assert counts.counts() == {"before": 5}

    for at in range(2, 100):
        if at == 90:
            totals["now"] = 2
        counts.look(at * LOOK_S)

    assert counts.counts() == {"now": 2}
    assert len(counts._read) <= WINDOW_S / LOOK_S + 2


def test_the_last_warnings_are_kept_without_what_an_exception_says() -> None:
    """So many of them; of an exception its type, since its message may name a patient."""
    log = logging.getLogger("headgate.page-test")
    with RecentWarnings() as kept:
        for number in range(MOST_LINES + 5):
            log.warning("line %d", number, extra={"route": "x" * 5000})
        try:
            raise KeyError("Miller")
        except KeyError:
            log.exception("failed")
        log.info("not a warning")
    log.warning("after that")

    lines = kept.lines()
    assert (len(lines), kept.seen) == (MOST_LINES, MOST_LINES + 6)
    assert lines[-1]["fields"] == {"exception": "KeyError"}
    assert lines[0]["message"] == "line 6"
    assert len(orjson.dumps(lines[0])) < 1000
    assert b"Miller" not in orjson.dumps(lines)


def test_the_processes_of_a_replica_are_added_up(tmp_path: Path) -> None:
    """While somebody looks, each leaves its figures for the others; one that is gone no longer counts."""
    settings = Settings.model_validate(
        {"upstream": {"url": "http://127.0.0.1:1"}, "flags": {"file": "f"}, "routes": [route()]}
    )
    board = _board(settings, tmp_path, ["start"])
    other = _board(settings, tmp_path, ["start", "start"])
    other.keep()
    assert list(tmp_path.glob("*.json")) == []
    board.all()
    other.keep()
    (left,) = tmp_path.glob("*.json")
    said = orjson.loads(left.read_bytes())
    left.rename(tmp_path / "1.json")  # as if another process had left it

    found = board.all()
    (shown,) = routes_of(settings.routes, found)
    assert (shown["live"], shown["viewers"]) == (3, 2)
    assert shown["decisions"] == {"batch": {"flag_off": 2}}
    assert [line["message"] for line in warnings_of(found)] == ["late", "late"]
    assert said["live"] == {"start": 2}

    other.keep()
    other.close()
    (tmp_path / "1.json").write_text("{")
    assert len(board.all()) == 1


def _board(settings: Settings, directory: Path, live: list[str]) -> Board:
    line = {"at": 2.0, "level": "warning", "logger": "x", "message": "late", "fields": {}}
    warnings: Any = SimpleNamespace(seen=1, lines=lambda: [line])
    runs: Any = SimpleNamespace(draining=False, live_routes=lambda: live)
    counts = RecentCounts(lambda: {("decision", "start", "batch", "flag_off"): 1.0}, 0.0)
    breaker: Any = SimpleNamespace(state="closed")
    return Board(settings.routes, runs, breaker, warnings, counts, lambda: {"start": 1.0}, directory)
