"""Journals of earlier releases: this one reads them, and comes to every decision that they hold."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from flags.rollout.journal import JournalReader
from flags.rollout.ledger import EntryKind, JournalLine, fold
from flags.rollout.replay import differences
from tests.rollout.test_controller import Forged

JOURNALS = sorted((Path(__file__).parent / "journals").glob("*.sqlite.gz"))
"""Each is named for the day of the code that wrote it: rollouts with a dark step, harm, and a kill."""


@pytest.mark.parametrize("kept", JOURNALS, ids=lambda path: path.name)
def test_a_journal_of_an_earlier_release_is_explained(kept: Path, tmp_path: Path) -> None:
    """Its chain is whole, its state is known, and no decision differs, though sentences have changed."""
    path = tmp_path / "rollout.sqlite"
    path.write_bytes(gzip.decompress(kept.read_bytes()))
    with JournalReader.open(path) as journal:
        entries = list(journal.entries())
        assert journal.verify() == entries[-1]
    decisions, found = differences(entries)

    assert decisions == sum(entry.kind == EntryKind.TICK for entry in entries) > 10
    assert found == []
    assert fold(entries).seq == entries[-1].seq


OTHER = {"finding": "harm"}, {"log10_e": 1.000001}
"""What a verdict of a forged entry says; of a number, how many times as much."""


@pytest.mark.parametrize("change", OTHER, ids=str)
@pytest.mark.parametrize("kept", JOURNALS, ids=lambda path: path.name)
def test_a_changed_number_is_found_in_it(kept: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Words may differ from release to release; what was counted and found may not."""
    entries, at = forged(kept, tmp_path, change)

    assert differences(entries)[1] == [
        f"entry {entries[at].seq}: the verdicts of its evidence are others than it says"
    ]


@pytest.mark.parametrize("kept", JOURNALS, ids=lambda path: path.name)
def test_the_last_digits_may_differ(kept: Path, tmp_path: Path) -> None:
    """Of evidence that another release, or another machine, has summed."""
    entries, _ = forged(kept, tmp_path, {"log10_e": 1 + 1e-14})

    assert differences(entries)[1] == []


def forged(kept: Path, tmp_path: Path, change: dict[str, Any]) -> tuple[list[JournalLine], int]:
    """A journal in which the first verdict with evidence is changed, and the index of its entry."""
    path = tmp_path / "rollout.sqlite"
    path.write_bytes(gzip.decompress(kept.read_bytes()))
    with JournalReader.open(path) as journal:
        entries: list[JournalLine] = list(journal.entries())
    at = next(i for i, entry in enumerate(entries) if entry.kind == EntryKind.TICK and _evidence(entry))
    verdicts = [dict(verdict) for verdict in entries[at].body["verdicts"]]
    changed = next(verdict for verdict in verdicts if verdict["log10_e"])
    for name, value in change.items():
        changed[name] = value if isinstance(value, str) else changed[name] * value
    return [*entries[:at], Forged(entries[at], {"verdicts": verdicts}), *entries[at + 1 :]], at


def _evidence(entry: JournalLine) -> bool:
    return any(verdict["log10_e"] for verdict in entry.body["verdicts"])
