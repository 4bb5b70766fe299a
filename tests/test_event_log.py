"""The log of one run in memory, and how its readers wait."""

import asyncio

import pytest

from proxy.event_log import EventLog
from proxy.events import Transcript

pytestmark = pytest.mark.anyio


def filled(chunks: int) -> EventLog:
    log, transcript = EventLog("run", 1500), Transcript()
    log.append(transcript.stage_start("chat", "summary", index=0, total_expected=1), 1.0)
    for number in range(chunks):
        log.append(transcript.chunk("summary", f"word {number} "), 2.0 + number)
    return log


async def test_entries_are_numbered_from_one_without_gaps() -> None:
    """The number is the id on the wire, behind the run's."""
    log = filled(5)

    assert [entry.seq for entry in log.after(0)] == [1, 2, 3, 4, 5, 6]
    assert [entry.wire.split(b"\n")[0] for entry in log.after(0)] == [b"id: run:%d" % n for n in range(1, 7)]
    assert [entry.seq for entry in log.after(4)] == [5, 6]
    assert list(log.after(6)) == []


async def test_the_retry_is_said_once() -> None:
    """Only the first block tells clients how long to wait before they come back."""
    assert [b"retry: 1500" in entry.wire for entry in filled(3).after(0)] == [True, False, False, False]


async def test_the_size_is_that_of_the_bytes() -> None:
    """The bound of kept runs counts what goes over the wire."""
    log = filled(10)
    assert log.size_bytes == sum(len(entry.wire) for entry in log.after(0))


async def test_the_log_knows_its_end_and_what_is_text() -> None:
    """A terminal event ends it; only text counts as content."""
    log, transcript = EventLog("run", 1000), Transcript()
    assert not log.ended
    log.append(transcript.stage_start("chat", "s", index=0, total_expected=1), 0.0)
    log.append(transcript.chunk("s", "text"), 0.0)
    log.append(transcript.stage_complete("s"), 0.0)
    assert not log.ended
    log.append(transcript.done(status=200, source="batch", recovered=False, sha256="0"), 0.0)

    assert log.ended
    assert [entry.is_content for entry in log.after(0)] == [False, True, False, False]
    assert [entry.is_terminal for entry in log.after(0)] == [False, False, False, True]


async def test_readers_wait_until_there_is_more() -> None:
    """Any number of readers wake at the next entry; one that is behind does not wait at all."""
    log = filled(1)
    assert await log.wait_beyond(1, 0.001) is True
    readers = [asyncio.create_task(log.wait_beyond(2, 10)) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)

    transcript = Transcript()
    log.append(transcript.stage_start("chat", "t", index=0, total_expected=1), 0.0)

    assert await asyncio.gather(*readers) == [True] * 5


async def test_waiting_has_an_end() -> None:
    """False when nothing came; a wake without an entry lets a reader look again."""
    log = filled(1)
    assert await log.wait_beyond(2, 0.001) is False

    reader = asyncio.create_task(log.wait_beyond(2, 10))
    await asyncio.sleep(0)
    log.wake()

    assert await reader is True
    assert len(log) == 2
