"""The source `poll`: finished stages are shown while the call runs, and never an earlier run's text."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.settings.blocks.route import SectionSettings
from proxy.settings.blocks.sources import PollSettings
from proxy.sources import poll as poll_source
from proxy.sources.poll import JITTER, STRIKES, Rows, RowsBefore
from tests.servers import streaming
from tests.servers.client import browser, eventually, opened, read, scrape, signed
from tests.servers.scripted import Asked, silent
from tests.servers.serving import Serving, gated
from tests.servers.streaming import EXTRACTION, START, SUMMARY, WHOLE, Lines, answer, logged, route

DETAILS = b"/api/cases/7/details"
SECTIONS = [
    {"stage": "extraction", "at": "$.result.extraction", "poll_at": "$.result.text"},
    {"stage": "summary", "panel": "chat", "at": "$.result.summary", "poll_at": "$.result.text"},
]
SOURCE_LOST = "headgate_faults_total"


def row(stage: str, text: Any, created: str = "t1", updated: str | None = None) -> dict[str, Any]:
    return {"stage": stage, "result": {"text": text}, "created_at": created, "updated_at": updated}


@dataclass
class Clinic:
    """An upstream that stores rows while its POST runs. The POST is answered when `done` is set."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    body: bytes = field(default_factory=answer)
    answer_look: Callable[[Asked], Any] | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    looks: list[Asked] = field(default_factory=list)
    looked_at: list[float] = field(default_factory=list)
    open_looks: int = 0
    most_looks: int = 0
    posts: int = 0

    async def __call__(self, asked: Asked) -> None:
        if asked.target != DETAILS:
            await asked.read_body()
            self.posts += 1
            await self.done.wait()
            await asked.answer(self.body)
            return
        self.looked_at.append(asyncio.get_running_loop().time())
        self.looks.append(asked)
        self.open_looks += 1
        self.most_looks = max(self.most_looks, self.open_looks)
        try:
            if self.answer_look is not None and self.posts:
                await self.answer_look(asked)
            else:
                await asked.answer(json.dumps({"rows": self.rows}).encode())
        finally:
            self.open_looks -= 1

    async def seen(self) -> None:
        """Wait until the rows as they are now have been looked at."""
        looks = len(self.looks)
        await eventually(lambda: len(self.looks) >= looks + 2)


def polling(**more: Any) -> dict[str, Any]:
    block = {
        "path": "/api/cases/{case_id}/details",
        "every_ms": 50,
        "row": "$.rows[?@.stage == '{stage}']",
        "updated_at": ["$.updated_at", "$.created_at"],
    }
    return route(**{"source": "poll", "poll": block, "sections": SECTIONS, "commit_after": 0, **more})


@asynccontextmanager
async def house(
    clinic: Clinic, directory: Path, **more: Any
) -> AsyncIterator[tuple[Serving, httpx.AsyncClient, Lines]]:
    with logged() as lines:
        async with (
            gated(clinic, directory, routes=[polling(**more)]) as (_, serving),
            browser(serving.url) as client,
        ):
            yield serving, client, lines


async def faults(client: httpx.AsyncClient, serving: Serving) -> float:
    samples = await scrape(client, serving.admin_url)
    return sum(
        value for name, value in samples.items() if 'fault="source_lost",' in name and "faults_t" in name
    )


async def test_sections_are_shown_as_their_rows_appear(tmp_path: Path) -> None:
    """A stage is begun when it is at work and shown when it is stored; the batch answer changes nothing."""
    clinic = Clinic()
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        assert stream.types == ["stage_start"]
        clinic.rows.append(row("extraction", EXTRACTION))
        await stream.until(lambda event: event["stage"] == "summary")
        assert stream.texts() == {"extraction": EXTRACTION, "summary": ""}
        clinic.rows.append(row("summary", SUMMARY))
        await stream.until(lambda event: event["type"] == "stage_complete" and event["stage"] == "summary")
        clinic.done.set()
        await stream.rest()

    assert stream.texts() == WHOLE
    assert "content_replace" not in stream.types
    assert stream.last["metadata"]["source"] == "poll"
    assert stream.last["metadata"]["recovered"] is False
    assert clinic.posts == 1


@pytest.mark.parametrize("updated", [None, "t5"])
async def test_an_earlier_runs_text_is_never_shown_as_new(tmp_path: Path, updated: str | None) -> None:
    """A row that was there before the call, with its old time, stays unseen however often it is looked at."""
    clinic = Clinic([row("extraction", "the text of yesterday", "t1", updated)])
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        await clinic.seen()
        await clinic.seen()
        assert stream.types == ["stage_start"]
        clinic.done.set()
        await stream.rest()

    assert stream.texts() == WHOLE
    assert b"yesterday" not in stream.raw


async def test_a_row_whose_time_changes_before_its_text_is_not_shown_as_new(tmp_path: Path) -> None:
    """A row is touched first and written later: the earlier run's text stays unseen, the new one is shown."""
    clinic = Clinic([row("extraction", "the text of yesterday", "t1")])
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        clinic.rows[0]["updated_at"] = "t2"
        await clinic.seen()
        await clinic.seen()
        assert stream.types == ["stage_start"]
        clinic.rows[0] = row("extraction", EXTRACTION, updated="t2")
        await stream.until(lambda event: event["type"] == "stage_complete")
        assert stream.texts()["extraction"] == EXTRACTION
        clinic.done.set()
        await stream.rest()

    assert b"yesterday" not in stream.raw
    assert stream.texts() == WHOLE


async def test_the_same_text_written_anew_comes_with_the_answer(tmp_path: Path) -> None:
    """A re-run that stores an equal text cannot be told from one that has only touched the row."""
    clinic = Clinic([row("extraction", EXTRACTION, "t1")])
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        clinic.rows[0]["updated_at"] = "t2"
        await clinic.seen()
        await clinic.seen()
        assert stream.types == ["stage_start"]
        clinic.done.set()
        await stream.rest()

    assert stream.texts() == WHOLE


async def test_a_row_that_changes_later_is_replaced(tmp_path: Path) -> None:
    """The batch answer is the authority: what was shown and differs is replaced by it, once."""
    clinic = Clinic()
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        clinic.rows.append(row("extraction", "a first draft"))
        await stream.until(lambda event: event["type"] == "stage_complete")
        clinic.rows[0] = row("extraction", EXTRACTION, updated="t2")
        clinic.done.set()
        await stream.rest()

    assert stream.types.count("content_replace") == 1
    assert stream.texts() == WHOLE


async def test_an_error_sentence_in_a_row_is_not_shown(tmp_path: Path) -> None:
    """Neither from the row nor from the answer."""
    sentence = "Error generating response after 3 attempts"
    clinic = Clinic(body=answer(sentence))
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        clinic.rows.append(row("extraction", sentence))
        await clinic.seen()
        clinic.done.set()
        await stream.rest()

    assert sentence.encode() not in stream.raw
    assert stream.last["metadata"]["error_code"] == "failure_text"
    assert stream.texts()["summary"] == SUMMARY


async def test_a_row_without_its_text_is_waited_for(tmp_path: Path) -> None:
    """A row may be there before its text is: empty, null or no string is not shown."""
    clinic = Clinic()
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await stream.until(lambda event: event["stage"] == "extraction")
        for nothing in ("", None, 5):
            clinic.rows[:] = [row("extraction", nothing)]
            await clinic.seen()
        assert stream.types == ["stage_start"]
        clinic.rows[:] = [row("extraction", EXTRACTION)]
        await stream.until(lambda event: event["type"] == "stage_complete")
        clinic.done.set()
        await stream.rest()

    assert stream.texts() == WHOLE
    assert "content_replace" not in stream.types


def looks_that(name: str) -> Callable[[Asked], Any]:
    async def answer_look(asked: Asked) -> None:
        match name:
            case "are not found":
                await asked.answer(b"{}", b"404 Not Found")
            case "fail":
                await asked.answer(b"oh", b"500 Oh")
            case "are malformed":
                await asked.answer(b'{"rows":')
            case "are cut":
                asked.writer.close()

    return answer_look


@pytest.mark.parametrize("name", ["are not found", "fail", "are malformed", "are cut"])
async def test_looks_that_fail_lose_the_source_and_nothing_else(tmp_path: Path, name: str) -> None:
    """Said once in log and metrics; polling ends; the answer is complete from the batch."""
    clinic = Clinic(answer_look=looks_that(name))
    async with house(clinic, tmp_path) as (serving, client, lines):
        async with opened(client, START, signed()) as stream:
            await eventually(lambda: bool(lines("source lost")))
            looks = len(clinic.looks)
            clinic.done.set()
            await stream.rest()
        lost = await faults(client, serving)

    assert looks == len(clinic.looks) == STRIKES + 1
    assert len(lines("source lost")) == 1
    assert lost == 1
    assert stream.texts() == WHOLE
    assert stream.last["metadata"]["recovered"] is True


async def test_without_a_look_before_the_call_nothing_is_polled(tmp_path: Path) -> None:
    """The text from before is not known, so nothing could be told from an earlier run's text."""
    documents = [b"[]", b'"a string"', b'"{\\"rows\\": []}"', b"5", b"null", b"nonsense"]

    async def script(asked: Asked) -> None:
        await asked.read_body()
        number = int(asked.target.split(b"/")[3])
        await asked.answer(answer() if asked.head.startswith(b"POST") else documents[number])

    async with streaming.house(script, tmp_path, routes=[polling()]) as (_, _, client):
        for number, document in enumerate(documents):
            stream = await read(client, f"/api/cases/{number}/start", signed())

            assert stream.texts() == WHOLE, document
            assert stream.last["metadata"]["recovered"] is (document == b"nonsense")


async def test_an_upstream_that_blocks_while_it_is_busy_is_left_alone(tmp_path: Path) -> None:
    """One look that hangs is one too many: no second one is sent, and the answer is awaited."""
    hanging = asyncio.Event()

    async def hang(asked: Asked) -> None:
        hanging.set()
        await asked.reader.read()

    clinic = Clinic(answer_look=hang)
    async with house(clinic, tmp_path) as (_, client, lines), opened(client, START, signed()) as stream:
        async with asyncio.timeout(20):
            await hanging.wait()
        await eventually(lambda: bool(lines("source lost")), within_s=poll_source.BLOCKED_MIN_S + 2)
        clinic.done.set()
        await stream.rest()

    assert clinic.most_looks == 1
    assert len(clinic.looks) == 2
    assert len(lines("source lost")) == 1
    assert stream.texts() == WHOLE


async def test_a_look_that_hangs_does_not_hold_up_the_answer(tmp_path: Path) -> None:
    """The run ends when the batch answer is here, and the look with it."""
    clinic = Clinic(answer_look=silent)
    async with house(clinic, tmp_path) as (serving, client, _), opened(client, START, signed()) as stream:
        await eventually(lambda: len(clinic.looks) == 2)
        clinic.done.set()
        async with asyncio.timeout(2):
            await stream.rest()
        await eventually(lambda: clinic.open_looks == 0)
        in_use = serving.app.gateway.relay._upstream.in_use

    assert stream.texts() == WHOLE
    assert in_use == 0


async def test_looks_follow_one_another_at_their_interval_and_stop_with_the_run(tmp_path: Path) -> None:
    """Never two at once, each 80 to 120 % of the interval after the one before, none after the end."""
    clinic = Clinic()
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await eventually(lambda: len(clinic.looks) >= 24)
        clinic.done.set()
        await stream.rest()
        looks = len(clinic.looks)
        await asyncio.sleep(0.15)  # three intervals in which nobody may look
        gaps = [late - early for early, late in pairwise(clinic.looked_at[1:])]

    assert len(clinic.looks) == looks
    assert clinic.most_looks == 1
    assert min(gaps) >= 0.05 * (1 - JITTER) - 0.002
    assert min(gaps) < 0.0495  # sooner than the interval, which no sleep of the whole interval can be
    assert sorted(gaps)[len(gaps) // 2] <= 0.05 * (1 + JITTER) + 0.03


async def test_a_slow_resource_is_asked_half_of_the_time_at_most(tmp_path: Path) -> None:
    """The interval grows with the time a look takes."""

    async def slowly(asked: Asked) -> None:
        await asyncio.sleep(0.2)  # a resource that takes four intervals
        await asked.answer(b'{"rows": []}')

    clinic = Clinic(answer_look=slowly)
    async with house(clinic, tmp_path) as (_, client, _), opened(client, START, signed()) as stream:
        await eventually(lambda: len(clinic.looks) >= 5)
        clinic.done.set()
        await stream.rest()
        gaps = [late - early for early, late in pairwise(clinic.looked_at[2:])]

    assert min(gaps) >= 0.2 + 0.2 * (1 - JITTER) - 0.01


async def test_looks_carry_the_clients_credentials_and_nothing_of_its_body(tmp_path: Path) -> None:
    """The resource is read as the user who asked, not as Headgate."""
    clinic = Clinic()
    headers = signed("ann", **{"cookie": "s=1", "content-type": "application/json", "if-none-match": "x"})
    async with (
        house(clinic, tmp_path) as (_, client, _),
        opened(client, f"{START}?q=1", headers, content=b'{"a": 1}') as stream,
    ):
        await eventually(lambda: len(clinic.looks) >= 3)
        clinic.done.set()
        await stream.rest()

    for look in clinic.looks:
        assert look.head.startswith(b"GET /api/cases/7/details HTTP/1.1\r\n")
        assert look.header(b"authorization") == headers["authorization"].encode()
        assert look.header(b"cookie") == b"s=1"
        assert look.header(b"content-type") is None
        assert look.header(b"content-length") is None
        assert look.header(b"if-none-match") is None


NOTHING = RowsBefore(frozenset(), frozenset())


def compiled(updated_at: Any = ("$.updated_at", "$.created_at")) -> Rows:
    settings = PollSettings.model_validate(
        {"path": "/x", "row": "$.rows[?@.stage == '{stage}']", "updated_at": list(updated_at)}
    )
    return Rows.compile(settings, SectionSettings.model_validate(SECTIONS[0]))


def test_the_last_new_row_counts() -> None:
    """Of several rows of a stage, the last that was not there before."""
    rows = compiled()
    before = {"rows": [row("extraction", "a", "t1"), row("summary", "b", "t9")]}
    after = {
        "rows": [row("extraction", t, c) for t, c in (("a", "t1"), ("c", "t2"), ("d", "t3"), ("a", "t1"))]
    }

    earlier = rows.earlier(before)
    assert earlier == RowsBefore(frozenset({"t1"}), frozenset({"a"}))
    assert rows.new_text(before, earlier) is None
    assert rows.new_text(after, earlier) == "d"


@pytest.mark.parametrize(
    "document",
    [None, 5, "x", '{"rows": [{"stage": "extraction"}]}', [], {}, {"rows": 5}, {"rows": ["x", [], 1]}],
)
def test_any_document_can_be_looked_at(document: Any) -> None:
    """A document of another shape has no rows."""
    rows = compiled()
    assert rows.earlier(document) == NOTHING
    assert rows.new_text(document, NOTHING) is None


def test_a_row_without_a_time_is_never_new() -> None:
    """It could be anybody's."""
    rows = compiled()
    for time in (None, {}, []):
        assert rows.new_text({"rows": [row("extraction", "x", time)]}, NOTHING) is None
