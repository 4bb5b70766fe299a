"""What is learned of a model's streams: once for all processes, for so long, and no longer than it is so."""

from pathlib import Path
from typing import Any

import pytest

from proxy.llm import learned as module
from proxy.llm.learned import Learned, Lesson, Why
from proxy.llm.lesson_file import FileLessonStore

pytestmark = pytest.mark.anyio

DAY_S = 86400.0
MODEL = ("openai", "gpt")


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(tmp_path: Path, clock: Clock) -> tuple[Learned, Learned]:
    """Two workers of one host."""
    shelves = (FileLessonStore(tmp_path / "learned"), FileLessonStore(tmp_path / "learned"))
    first, second = (Learned(DAY_S, shelf, clock) for shelf in shelves)
    return first, second


async def test_what_one_worker_has_learned_the_other_knows_at_once(two: tuple[Learned, Learned]) -> None:
    """Of this provider's model, and of no other."""
    here, there = two
    assert await there.why_not(*MODEL) is None
    await here.learn(*MODEL, Why.UNFAITHFUL)

    assert await there.why_not(*MODEL) is await here.why_not(*MODEL) is Why.UNFAITHFUL
    assert await there.why_not("openai", "o3") is None
    assert await there.why_not("azure", "gpt") is None


@pytest.mark.parametrize("why", [Why.UNFAITHFUL, Why.NO_STREAM, Why.REFUSED])
async def test_it_holds_for_as_long_as_the_setting_says(
    two: tuple[Learned, Learned], clock: Clock, why: Why
) -> None:
    here, there = two
    await here.learn(*MODEL, why)
    clock.now += DAY_S - 1
    assert await there.why_not(*MODEL) is why
    clock.now += 1
    assert await there.why_not(*MODEL) is await here.why_not(*MODEL) is None


@pytest.mark.parametrize(("why", "first_s"), [(Why.FAILS, 600), (Why.BREAKS, 0)])
async def test_a_failure_holds_for_a_while_and_the_second_in_a_row_for_as_long_as_any(
    two: tuple[Learned, Learned], clock: Clock, why: Why, first_s: int
) -> None:
    """The hour may be bad, and not the streams. The second one may be another worker's."""
    here, there = two
    await here.learn(*MODEL, why)
    assert (await there.why_not(*MODEL) is why) == (first_s > 0)
    clock.now += first_s
    assert await there.why_not(*MODEL) is None
    await there.learn(*MODEL, why)
    clock.now += DAY_S - 1

    assert await here.why_not(*MODEL) is why


async def test_failures_at_the_same_time_are_one(two: tuple[Learned, Learned], clock: Clock) -> None:
    here, _ = two
    for _ in range(5):
        await here.learn(*MODEL, Why.FAILS)
    clock.now += 600

    assert await here.why_not(*MODEL) is None


async def test_a_good_stream_between_two_failures_makes_each_the_first(
    two: tuple[Learned, Learned], clock: Clock
) -> None:
    here, there = two
    for _ in range(2):
        await here.learn(*MODEL, Why.FAILS)
        clock.now += 600
        assert await there.why_not(*MODEL) is None
        await there.forget(*MODEL)
        assert await here.why_not(*MODEL) is None
        await here.forget(*MODEL)


async def test_a_stream_that_ends_well_takes_back_nothing_that_holds(two: tuple[Learned, Learned]) -> None:
    """It began before another one was found to be unfaithful."""
    here, _ = two
    await here.learn(*MODEL, Why.UNFAITHFUL)
    await here.forget(*MODEL)

    assert await here.why_not(*MODEL) is Why.UNFAITHFUL


async def test_all_that_holds_is_shown_by_any_worker(two: tuple[Learned, Learned], clock: Clock) -> None:
    here, there = two
    await here.learn("openai", "a\ud800" + "x" * 1000, Why.REFUSED)
    await there.learn("azure", "b", Why.FAILS)
    await there.learn("openai", "c", Why.BREAKS)
    shown = [lesson.shown(clock()) for lesson in await here.in_force()]

    assert shown == [
        {"provider": "azure", "model": "b", "why": "fails", "for_s": 600},
        {"provider": "openai", "model": "a?" + "x" * 198, "why": "refused", "for_s": 86400},
    ]
    assert await there.in_force() == await here.in_force()


async def test_what_is_over_is_taken_down(two: tuple[Learned, Learned], clock: Clock, tmp_path: Path) -> None:
    here, there = two
    for number in range(5):
        await here.learn("openai", str(number), Why.UNFAITHFUL)
    clock.now += 2 * DAY_S
    assert await there.in_force() == []

    assert list((tmp_path / "learned").iterdir()) == []


async def test_models_are_remembered_up_to_a_bound(
    two: tuple[Learned, Learned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may call any number of them."""
    monkeypatch.setattr(module, "MAX_LESSONS", 3)
    here, _ = two
    for number in range(10):
        await here.learn("openai", str(number), Why.UNFAITHFUL)

    assert len(list((tmp_path / "learned").iterdir())) == 3
    assert len(here._lessons) == 3
    assert await here.why_not("openai", "9") is Why.UNFAITHFUL


async def test_a_directory_that_cannot_be_written_costs_the_others_only(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "learned").write_text("no directory")
    here = Learned(DAY_S, FileLessonStore(tmp_path / "learned"), clock)
    await here.learn(*MODEL, Why.UNFAITHFUL)

    assert await here.why_not(*MODEL) is Why.UNFAITHFUL
    assert [lesson.model for lesson in await here.in_force()] == ["gpt"]
    assert "what was learned cannot be kept" in caplog.messages


async def test_what_another_release_has_learned_in_its_own_words_disturbs_nobody(
    two: tuple[Learned, Learned], tmp_path: Path
) -> None:
    here, there = two
    await here.learn(*MODEL, Why.UNFAITHFUL)
    [kept] = (tmp_path / "learned").iterdir()
    for said in (b"{", b"[]", b'{"provider": "openai", "model": "gpt", "why": "new", "until": 9e99}'):
        kept.write_bytes(said)

        assert await there.why_not(*MODEL) is None
        assert await there.in_force() == []


def test_a_lesson_is_unpacked_as_it_was_packed() -> None:
    lesson: Any = Lesson("p", "m", Why.NO_STREAM, 1.5)
    assert Lesson.unpacked(lesson.packed()) == lesson
