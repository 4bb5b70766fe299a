"""The denylist of models: shared by all processes, for so long, and no longer than the defect lasts."""

from pathlib import Path
from typing import Any

import pytest

from proxy.llm import denylist as module
from proxy.llm.denylist import DenylistEntry, StreamDefect, StreamDenylist
from proxy.llm.denylist_file import FileDenylistStore

DAY_S = 86400.0
MODEL = ("openai", "gpt")


Two = tuple[StreamDenylist, StreamDenylist]
"""The denylists of two workers."""


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(tmp_path: Path, clock: Clock) -> Two:
    """Two workers of one host."""
    stores = (FileDenylistStore(tmp_path / "learned"), FileDenylistStore(tmp_path / "learned"))
    first, second = (StreamDenylist(DAY_S, store, clock) for store in stores)
    return first, second


async def test_what_one_worker_has_learned_the_other_knows_at_once(two: Two) -> None:
    """Of this provider's model, and of no other."""
    here, there = two
    assert await there.defect(*MODEL) is None
    await here.note_defect(*MODEL, StreamDefect.UNFAITHFUL)

    assert await there.defect(*MODEL) is await here.defect(*MODEL) is StreamDefect.UNFAITHFUL
    assert await there.defect("openai", "o3") is None
    assert await there.defect("azure", "gpt") is None


@pytest.mark.parametrize("why", [StreamDefect.UNFAITHFUL, StreamDefect.NO_STREAM, StreamDefect.REFUSED])
async def test_it_holds_for_as_long_as_the_setting_says(two: Two, clock: Clock, why: StreamDefect) -> None:
    here, there = two
    await here.note_defect(*MODEL, why)
    clock.now += DAY_S - 1
    assert await there.defect(*MODEL) is why
    clock.now += 1
    assert await there.defect(*MODEL) is await here.defect(*MODEL) is None


@pytest.mark.parametrize(("why", "first_s"), [(StreamDefect.FAILS, 600), (StreamDefect.BREAKS, 0)])
async def test_a_failure_holds_for_a_while_and_the_second_in_a_row_for_as_long_as_any(
    two: Two, clock: Clock, why: StreamDefect, first_s: int
) -> None:
    """The hour may be bad, and not the streams. The second one may be another worker's."""
    here, there = two
    await here.note_defect(*MODEL, why)
    assert (await there.defect(*MODEL) is why) == (first_s > 0)
    clock.now += first_s
    assert await there.defect(*MODEL) is None
    await there.note_defect(*MODEL, why)
    clock.now += DAY_S - 1

    assert await here.defect(*MODEL) is why


async def test_failures_at_the_same_time_are_one(two: Two, clock: Clock) -> None:
    here, _ = two
    for _ in range(5):
        await here.note_defect(*MODEL, StreamDefect.FAILS)
    clock.now += 600

    assert await here.defect(*MODEL) is None


async def test_a_good_stream_between_two_failures_makes_each_the_first(two: Two, clock: Clock) -> None:
    here, there = two
    for _ in range(2):
        await here.note_defect(*MODEL, StreamDefect.FAILS)
        clock.now += 600
        assert await there.defect(*MODEL) is None
        await there.note_success(*MODEL)
        assert await here.defect(*MODEL) is None
        await here.note_success(*MODEL)


async def test_a_stream_that_ends_well_takes_back_nothing_that_holds(two: Two) -> None:
    """It began before another one was found to be unfaithful."""
    here, _ = two
    await here.note_defect(*MODEL, StreamDefect.UNFAITHFUL)
    await here.note_success(*MODEL)

    assert await here.defect(*MODEL) is StreamDefect.UNFAITHFUL


async def test_all_that_holds_is_shown_by_any_worker(two: Two, clock: Clock) -> None:
    here, there = two
    await here.note_defect("openai", "a\ud800" + "x" * 1000, StreamDefect.REFUSED)
    await there.note_defect("azure", "b", StreamDefect.FAILS)
    await there.note_defect("openai", "c", StreamDefect.BREAKS)
    shown = [entry.shown(clock()) for entry in await here.active()]

    assert shown == [
        {"provider": "azure", "model": "b", "why": "fails", "for_s": 600},
        {"provider": "openai", "model": "a?" + "x" * 198, "why": "refused", "for_s": 86400},
    ]
    assert await there.active() == await here.active()


async def test_what_is_over_is_taken_down(two: Two, clock: Clock, tmp_path: Path) -> None:
    here, there = two
    for number in range(5):
        await here.note_defect("openai", str(number), StreamDefect.UNFAITHFUL)
    clock.now += 2 * DAY_S
    assert await there.active() == []

    assert list((tmp_path / "learned").iterdir()) == []


async def test_models_are_remembered_up_to_a_bound(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may call any number of them."""
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    here, _ = two
    for number in range(10):
        await here.note_defect("openai", str(number), StreamDefect.UNFAITHFUL)

    assert len(list((tmp_path / "learned").iterdir())) == 3
    assert len(here._entries) == 3
    assert await here.defect("openai", "9") is StreamDefect.UNFAITHFUL


async def test_a_directory_that_cannot_be_written_costs_the_others_only(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "learned").write_text("no directory")
    here = StreamDenylist(DAY_S, FileDenylistStore(tmp_path / "learned"), clock)
    await here.note_defect(*MODEL, StreamDefect.UNFAITHFUL)

    assert await here.defect(*MODEL) is StreamDefect.UNFAITHFUL
    assert [entry.model for entry in await here.active()] == ["gpt"]
    assert "what was learned cannot be kept" in caplog.messages


async def test_what_another_release_has_learned_in_its_own_words_disturbs_nobody(
    two: Two, tmp_path: Path
) -> None:
    here, there = two
    await here.note_defect(*MODEL, StreamDefect.UNFAITHFUL)
    [kept] = (tmp_path / "learned").iterdir()
    for said in (b"{", b"[]", b'{"provider": "openai", "model": "gpt", "why": "new", "until": 9e99}'):
        kept.write_bytes(said)

        assert await there.defect(*MODEL) is None
        assert await there.active() == []


def test_an_entry_is_unpacked_as_it_was_packed() -> None:
    entry: Any = DenylistEntry("p", "m", StreamDefect.NO_STREAM, 1.5)
    assert DenylistEntry.unpacked(entry.packed()) == entry
