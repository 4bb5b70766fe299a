"""The log of one run in memory, and how its readers wait."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from proxy.text.crowds import FEW
from proxy.text.event_log import AT_A_TURN, EventLog, LogReader
from proxy.text.events import Transcript


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


async def test_a_chunk_that_is_added_without_its_event_has_the_same_bytes() -> None:
    """Whatever is in the text, and in the names of its stage; also if it is the first of its log."""
    texts = ["a word ", 'a "quote" \\', "\r\n\0\t", "é\u2028\u2029\u0085", "\U0001f600", "%d %b"]
    places = [("chat", "summary"), ("p\u2028", "%s ü"), ("chat", "other"), ("elsewhere", "summary 2")]
    for orders in (places[:1], places[1:2], places):
        one, other, transcript = EventLog("run", 1500), EventLog("run", 1500), Transcript()
        for panel, stage in orders:
            transcript.stage_start(panel, stage, index=0, total_expected=1)
        for index, text in enumerate(texts):
            for panel, stage in orders:
                one.append(transcript.chunk(stage, text), float(index))
                other.append_chunk(panel, stage, text, index, float(index))

        assert other.after(0) == one.after(0)
        assert other.size_bytes == one.size_bytes
        assert other.has_content and not other.ended


async def test_readers_are_woken_in_the_order_in_which_they_came() -> None:
    """However many there were in between."""
    log, woken = EventLog("run", 1500), list[int]()
    wakes = [partial(woken.append, number) for number in range(20)]
    log.append(Transcript().stage_start("chat", "s", index=0, total_expected=1), 0.0)

    for wake in (*wakes, wakes[0]):
        log.subscribe(wake)
    for wake in (*wakes[2:18], wakes[2]):
        log.unsubscribe(wake)
    log.wake()
    log.unsubscribe(wakes[0])
    log.subscribe(wakes[0])
    log.wake()

    assert woken == [0, 1, 18, 19, 1, 18, 19, 0]


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
    """Any number of readers wake at the next entry; what came since the last wait counts."""
    loop = asyncio.get_running_loop()
    log = filled(1)
    readers = [LogReader(log) for _ in range(5)]
    waits = [asyncio.create_task(reader.wait(loop.time() + 10)) for reader in readers]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)

    transcript = Transcript()
    log.append(transcript.stage_start("chat", "t", index=0, total_expected=1), 0.0)
    async with asyncio.timeout(20):
        await asyncio.gather(*waits)

        log.append(transcript.chunk("t", "word"), 0.0)
        await readers[0].wait(loop.time() + 10)
    for reader in readers:
        reader.close()


async def test_waiting_has_an_end() -> None:
    """At the time that was given, or sooner: a reader looks again."""
    loop = asyncio.get_running_loop()
    reader = LogReader(filled(1))
    due = loop.time() + 0.02

    async with asyncio.timeout(20):
        while loop.time() < due:
            await reader.wait(due)

        later = asyncio.create_task(reader.wait(loop.time() + 10))
        await asyncio.sleep(0)
        reader.wake()
        await later
    reader.close()


async def test_a_pause_ends_at_its_time_or_by_a_word_and_not_by_more_of_the_log() -> None:
    """Events of the pause are seen after it."""
    loop = asyncio.get_running_loop()
    log = filled(1)
    reader = LogReader(log)
    pausing = asyncio.create_task(reader.pause(loop.time() + 10))
    await asyncio.sleep(0)
    log.append(Transcript().stage_start("chat", "t", index=0, total_expected=1), 0.0)
    await asyncio.sleep(0)
    assert not pausing.done()
    reader.wake()
    async with asyncio.timeout(20):
        await pausing
        due = loop.time() + 0.02
        while loop.time() < due:
            await reader.pause(due)
    reader.close()


async def test_a_reader_that_is_closed_is_not_called() -> None:
    """A log does not hold on to those that have left."""
    log = filled(1)
    reader = LogReader(log)
    reader.close()
    log.wake()
    waiting = asyncio.create_task(reader.wait(asyncio.get_running_loop().time() + 0.02))
    log.wake()
    await asyncio.sleep(0)

    assert not waiting.done()
    await waiting


async def test_many_readers_are_woken_some_in_each_turn() -> None:
    """The loop has others to serve. What comes meanwhile reaches all of them, and who left is not called."""
    log = filled(1)
    readers = AT_A_TURN * 3 + 1
    seen = dict.fromkeys(range(readers), 0)

    def reader(number: int) -> Callable[[], None]:
        def wake() -> None:
            seen[number] = len(log)

        log.subscribe(wake)
        return wake

    wakes = [reader(number) for number in range(readers)]
    log.take(filled(2).entry(3))
    at_once = [number for number, length in seen.items() if length == 3]
    left = next(number for number, length in seen.items() if length == 0)
    log.unsubscribe(wakes[left])
    log.take(filled(3).entry(4))
    turns = 0
    while {length for number, length in seen.items() if number != left} != {4}:
        before = list(seen.values())
        await asyncio.sleep(0)
        turns += 1
        assert sum(one != other for one, other in zip(before, seen.values(), strict=True)) <= AT_A_TURN
        assert turns < 20

    assert len(at_once) == AT_A_TURN
    assert seen[left] == 0


async def test_what_a_reader_adds_as_it_is_woken_reaches_all() -> None:
    """Also in the last of many turns, when no other reader is still to be woken."""
    log = filled(1)
    seen = dict.fromkeys(range(AT_A_TURN * 2 + 1), 0)

    def wake(number: int) -> None:
        if number == 0 and len(log) == 3:  # who came first is woken last
            log.take(filled(3).entry(4))
        seen[number] = len(log)

    for number in seen:
        log.subscribe(partial(wake, number))
    log.take(filled(2).entry(3))
    for _ in range(10):
        await asyncio.sleep(0)

    assert set(seen.values()) == {4}


async def test_who_is_first_is_told_of_the_end_although_others_leave() -> None:
    """Many have joined a run. It ends while they are woken, and whoever has its answer goes."""
    log = filled(1)
    seen = dict.fromkeys(range(AT_A_TURN * 4), 0)
    wakes: dict[int, Callable[[], None]] = {}

    def wake(number: int) -> None:
        seen[number] = len(log)
        if len(log) == 4:
            log.unsubscribe(wakes[number])

    for number in seen:
        wakes[number] = partial(wake, number)
        log.subscribe(wakes[number], first=True)
    log.take(filled(2).entry(3))
    log.take(filled(3).entry(4))
    for _ in range(10):
        await asyncio.sleep(0)

    assert set(seen.values()) == {4}
    assert not log.is_read


async def test_a_reader_that_fails_leaves_no_other_asleep(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a reader raises or changes as it is woken, each of the others is woken, in a crowd too."""
    for readers in (3, AT_A_TURN + 2):
        log = filled(1)
        seen: list[int] = []

        def fail(log: EventLog = log) -> None:
            log.subscribe(lambda: None)
            raise RuntimeError("a mistake of ours")

        log.subscribe(fail)
        for number in range(readers):
            log.subscribe(partial(seen.append, number))
        log.subscribe(fail, first=True)
        log.take(filled(2).entry(3))
        await asyncio.sleep(0)

        assert sorted(seen) == list(range(readers))
        assert [record.message for record in caplog.records] == ["reader not woken"] * 2
        caplog.clear()


async def test_what_a_reader_raises_is_raised_where_it_waits() -> None:
    """It is that reader's own, and the others go on."""
    loop = asyncio.get_running_loop()
    log = filled(1)
    failing, other = LogReader(log), LogReader(log)

    def fail() -> bool:
        raise RuntimeError("a mistake of ours")

    waiting = asyncio.create_task(failing.wait(loop.time() + 60, fail))
    going_on = asyncio.create_task(other.wait(loop.time() + 60))
    await asyncio.sleep(0)
    log.take(filled(2).entry(3))
    async with asyncio.timeout(30):
        await going_on
        with pytest.raises(RuntimeError):
            await waiting
    failing.close()
    other.close()


async def test_who_is_first_does_not_wait_behind_a_crowd() -> None:
    """The copy to the store, or a join, is woken with each entry, while the viewers have their turns."""
    log = filled(1)
    told: list[str] = []
    for _ in range(AT_A_TURN * 3):
        log.subscribe(partial(told.append, "viewer"))
    first = partial(told.append, "first")
    log.subscribe(first, first=True)

    log.take(filled(2).entry(3))
    assert (told[0], told.count("first")) == ("first", 1)
    log.take(filled(3).entry(4))
    assert told.count("first") == 2
    log.unsubscribe(first)
    log.take(filled(4).entry(5))
    assert told.count("first") == 2
    assert told.count("viewer") == AT_A_TURN


async def test_many_who_are_first_have_their_turns_too() -> None:
    """A user may join its own run as often as it likes. The first of them, the store's copy, waits for none;
    and none pays for the others as it leaves."""
    log = filled(1)
    seen: list[int] = []
    compared: list[object] = []

    class Wake:
        def __init__(self, number: int) -> None:
            self.number = number

        def __call__(self) -> None:
            seen.append(self.number)

        def __hash__(self) -> int:
            return self.number

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return self is other

    wakes = [Wake(number) for number in range(AT_A_TURN * 3)]
    for wake in wakes:
        log.subscribe(wake, first=True)
    log.subscribe(partial(seen.append, -1))
    log.take(filled(2).entry(3))
    at_once = len(seen)
    for _ in range(5):
        await asyncio.sleep(0)

    assert at_once <= 2 * AT_A_TURN
    assert seen[0] == 0
    assert sorted(seen) == list(range(-1, AT_A_TURN * 3))
    assert seen.index(-1) >= AT_A_TURN * 2
    for wake in wakes:
        log.unsubscribe(wake)
    assert len(compared) <= FEW * AT_A_TURN * 3
    log.take(filled(3).entry(4))
    assert seen.pop() == -1
    assert len(seen) == AT_A_TURN * 3 + 1


async def test_an_entry_of_another_replica_is_taken_as_it_is() -> None:
    """Copied entry by entry, a log is the same."""
    log, copy = filled(3), EventLog("run", 1500)
    for entry in log.after(0):
        copy.take(entry)

    assert copy.after(0) == log.after(0)
    assert copy.size_bytes == log.size_bytes
    assert copy.has_content is log.has_content is True
